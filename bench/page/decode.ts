/**
 * Decode in the page of `examples/browser` against Deno's command line, on the same model, prompt and text: processes that take turns, so that what slows the
 * machine slows both. Dense, on one thread (a page that is not isolated) and on as many as help.
 *
 *     npx -y deno run -A bench/page/decode.ts [--rounds 5] [--model smollm2] [--browser chromium|firefox]
 */
import { spawnSync } from "node:child_process";
import process from "node:process";
import { parseArgs } from "node:util";
import { stop } from "esbuild";
import { REPEAT_PENALTY } from "../../examples/browser/worker/conversation.ts";
import { type Stat, statOf } from "../../src/cli/bench/rows.ts";
import { locateModel } from "../../src/hub/locate.ts";
import { detectPlatform } from "../../src/platform/detect.ts";
import { answerOf, openFiles, send, settings, withPage } from "../../tests/support/page.ts";
import { cliCommand, thisRuntime } from "../../tests/support/runtimes.ts";
import { bundlePage } from "../../tools/build_page.ts";
import { installChromium } from "../../tools/chromium.ts";
import { installFirefox } from "../../tools/firefox.ts";
import { prepare } from "../../tools/prepare.ts";
import { installRuntimes } from "../../tools/runtimes.ts";

const QUESTION = "Write a long story about a lighthouse.", TOKENS = 128;

/** Tokens a second, and how many there were. */
interface Speed {
  readonly tokensPerSecond: number;
  readonly tokens: number;
}

async function inPage(model: string, isolated: boolean): Promise<Speed> {
  let found: Speed | null = null;
  await withPage({ isolated }, async ({ page }) => {
    await openFiles(page, [model]);
    await settings(page, { temperature: 0, maxTokens: TOKENS });
    await send(page, QUESTION);
    const { meta } = await answerOf(page);
    const [, tokens, speed] = /^(\d+) tokens · ([\d.]+) tokens\/s/.exec(meta) ?? [];
    found = { tokens: Number(tokens), tokensPerSecond: Number(speed) };
  });
  return found!;
}

function inDeno(model: string, isolated: boolean): Speed {
  const [program, ...args] = [
    ...cliCommand(thisRuntime()),
    ...[
      "chat",
      "-m",
      model,
      "-p",
      QUESTION,
      "-n",
      String(TOKENS),
      "--repeat-penalty",
      String(REPEAT_PENALTY),
      "--threads",
      isolated ? "auto" : "1",
      "--json",
    ],
  ];
  const { stdout, stderr, status } = spawnSync(program!, args, { encoding: "utf8" });
  if (status !== 0) throw new Error(`Deno's run failed: ${stderr}`);
  const { output, timings } = JSON.parse(stdout);
  return { tokens: output.count, tokensPerSecond: timings.decodeTokensPerSecond };
}

const { values } = parseArgs({
  options: {
    rounds: { type: "string", default: "5" },
    model: { type: "string", default: "smollm2" },
    browser: { type: "string", default: "chromium" },
  },
});
const rounds = Number(values.rounds);
if (!(Number.isInteger(rounds) && rounds > 0)) {
  throw new Error(`--rounds ${values.rounds} found, a count wanted`);
}
if (process.env["RSPARSE_PAGE_BROWSER"] !== values.browser) {
  // which browser it is is read when modules are
  const again = spawnSync(process.execPath, ["run", "-A", "--no-check", ...process.argv.slice(1)], {
    stdio: "inherit",
    env: { ...process.env, RSPARSE_PAGE_BROWSER: values.browser },
  });
  process.exit(again.status ?? 1);
}

await prepare();
installRuntimes();
const browser = values.browser === "firefox" ? installFirefox() : await installChromium();
if (typeof browser === "string") throw new Error(`Cannot measure in ${values.browser}: ${browser}`);
await bundlePage();
await stop();
const { cachedPath: model } = await locateModel(values.model, await detectPlatform());
if (model === undefined) throw new Error(`${values.model} has no file here`);

const show = ({ median, min, max, n }: Stat): string =>
  `${median.toFixed(1)} (${min.toFixed(1)} to ${max.toFixed(1)}, n ${n})`;
for (const isolated of [false, true]) {
  const pages: number[] = [], denos: number[] = [], ratios: number[] = [];
  for (let round = 0; round < rounds; round++) {
    // who goes first changes
    let page: Speed, deno: Speed;
    if (round % 2 === 0) {
      deno = inDeno(model, isolated);
      page = await inPage(model, isolated);
    } else {
      page = await inPage(model, isolated);
      deno = inDeno(model, isolated);
    }
    if (page.tokens !== deno.tokens) {
      console.error(`${page.tokens} and ${deno.tokens} tokens: not the same text`);
    }
    pages.push(page.tokensPerSecond);
    denos.push(deno.tokensPerSecond);
    ratios.push(page.tokensPerSecond / deno.tokensPerSecond);
  }
  console.log(
    `${isolated ? "threads" : "1 thread"}: page ${show(statOf(pages))}, Deno ${
      show(statOf(denos))
    } tokens/s; page over Deno ${show(statOf(ratios.map((ratio) => 100 * ratio)))} %`,
  );
}
