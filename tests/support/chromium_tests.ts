/** Runs test files in Chromium, all in one worker: `chromium_tests.ts FILE…`. Prints what failed and a summary such as Node's. */
import process from "node:process";
import type { Outcome } from "./browser/test.ts";
import { runInChromium } from "./chromium.ts";
import { rootPath } from "./shared.ts";

const files = process.argv.slice(2);
const source = `
import { runTests } from "./support/browser/test.ts";
const FILES = [${
  files.map((file) => `[${JSON.stringify(file)}, () => import(${JSON.stringify(rootPath(file))})]`)
}];
export async function main(_, report) {
  for (const [file, load] of FILES) {
    const outcome = (found) => report({ file, ...found });
    try {
      await load();
      await runTests(outcome);
    } catch (error) {
      outcome({ name: "the file loads", skipped: false, error: String(error?.stack ?? error) });
    }
  }
}
`;
const counts = { pass: 0, fail: 0, skipped: 0 };
await runInChromium({ source }, {
  paths: true,
  timeoutMs: 10 * 60_000,
  onReport(message) {
    const { file, name, skipped, error } = message as Outcome & { readonly file: string };
    if (skipped) counts.skipped++;
    else if (error === null) counts.pass++;
    else {
      counts.fail++;
      console.log(`✖ ${file}: ${name}\n${error}\n`);
    }
  },
});
for (const [name, count] of Object.entries(counts)) console.log(`ℹ ${name} ${count}`);
process.exit(counts.fail > 0 ? 1 : 0);
