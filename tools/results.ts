/** `deno task results`: writes `docs/results.md` and its plots from `bench/results/latest.json`. Measures nothing. */
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { chartsOf } from "./bench/charts.ts";
import { report } from "./bench/report.ts";
import { parse, type Results } from "./bench/schema.ts";
import { ROOT } from "./prepare.ts";

const SOURCE = join(ROOT, "bench", "results", "latest.json"), DOCS = join(ROOT, "docs");

function read(): Results {
  try {
    return parse(readFileSync(SOURCE, "utf8"));
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    console.error(
      `error: Cannot write results: bench/results/latest.json: ${reason}: deno task bench makes it`,
    );
    process.exit(1);
  }
}

const results = read(), charts = await chartsOf(results);
// plots of an earlier run may be of what was not measured this time
rmSync(join(DOCS, "results"), { recursive: true, force: true });
mkdirSync(join(DOCS, "results"), { recursive: true });
for (const { file, svg } of charts) writeFileSync(join(DOCS, "results", file), svg);
const options = { title: "Results", charts, folder: "results/", full: false };
writeFileSync(join(DOCS, "results.md"), report(results, options));
console.log(`docs/results.md and ${charts.length} plots`);
