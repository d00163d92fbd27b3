/**
 * `deno task results`: writes `docs/results.md` and its plots from `bench/results/latest.json`, `bench/results/quality/`, `bench/results/decode/` and `bench/reference/`. Measures
 * nothing.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { qualityFigure } from "../src/analyze/quality.ts";
import { mergeQuality, parseQuality, type QualityRun } from "../src/analyze/quality_results.ts";
import { chartsOf } from "./bench/charts.ts";
import { type DecodeSpeed, parseDecode } from "./bench/decode_results.ts";
import { groupOf, qualityReport } from "./bench/quality_report.ts";
import type { PaperReference, QualityReference } from "./bench/references.ts";
import { report } from "./bench/report.ts";
import { parse } from "./bench/schema.ts";
import { ROOT } from "./prepare.ts";

const BENCH = join(ROOT, "bench"), DOCS = join(ROOT, "docs");

/** Reads a file under `bench/`, or says what is wrong with it and ends. */
function read<T>(path: string, parse: (text: string) => T, hint: string): T {
  try {
    return parse(readFileSync(join(BENCH, path), "utf8"));
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    console.error(`error: Cannot write results: bench/${path}: ${reason}: ${hint}`);
    process.exit(1);
  }
}

function filesIn(folder: string): string[] {
  const path = join(BENCH, "results", folder);
  return existsSync(path) ? readdirSync(path).sort() : [];
}

function readSpeeds(): DecodeSpeed[] {
  return filesIn("decode").flatMap((name) =>
    read(join("results", "decode", name), parseDecode, "rsparse bench decode --recipe FILE --json makes it")
  );
}

function readQuality(): QualityRun[] {
  const runs = filesIn("quality").map((name) =>
    read(join("results", "quality", name), (text) => parseQuality(text, name), "rsparse eval --json makes it")
  );
  try {
    return mergeQuality(runs);
  } catch (error) {
    console.error(`error: Cannot write results: ${(error as Error).message}`);
    process.exit(1);
  }
}

const bench = read("results/latest.json", parse, "deno task bench makes it"), runs = readQuality();
const charts = await chartsOf(bench), plots = new Map<string, string>();
// plots of an earlier run may be of what was not measured this time
rmSync(join(DOCS, "results"), { recursive: true, force: true });
mkdirSync(join(DOCS, "results"), { recursive: true });
for (const { file, svg } of charts) writeFileSync(join(DOCS, "results", file), svg);
for (const group of new Set(runs.map(groupOf))) {
  const figure = await qualityFigure(runs.filter((run) => groupOf(run) === group));
  if (figure === null) continue;
  const file = `quality${plots.size === 0 ? "" : `-${plots.size + 1}`}.svg`;
  writeFileSync(join(DOCS, "results", file), figure.svg);
  plots.set(group, `results/${file}`);
}
const lead = qualityReport({
  runs,
  speeds: readSpeeds(),
  plots,
  reference: read("reference/quality.json", JSON.parse, "it belongs to the checkout") as QualityReference,
  paper: read("reference/paper.json", JSON.parse, "it belongs to the checkout") as PaperReference,
});
const options = { title: "Results", charts, folder: "results/", full: false, lead };
writeFileSync(join(DOCS, "results.md"), report(bench, options));
console.log(`docs/results.md and ${charts.length + plots.size} plots`);
