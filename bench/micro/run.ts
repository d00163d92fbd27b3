/**
 * `run.ts BUILD SECONDS OUT FOLDER`: micro-benchmarks by benny on the runtime that runs this. Writes the cases to OUT as JSON, and benny's own JSON and chart of
 * each group to FOLDER.
 */
import { writeFileSync } from "node:fs";
import process from "node:process";
import benny from "benny";
import { hasRelaxedSimd, loadKernelModule } from "../../src/kernels/probe.ts";
import type { MicroCase } from "../../tools/bench/schema.ts";
import { type Case, type Exports, microCases, microMemory } from "./cases.ts";
import { resultOf } from "./own.ts";

const [build, seconds, out, folder] = process.argv.slice(2) as [
  "baseline" | "relaxed",
  string,
  string,
  string,
];
if (build === "relaxed" && !hasRelaxedSimd()) writeFileSync(out, "[]");
else {
  const memory = microMemory();
  const { exports } = await WebAssembly.instantiate(await loadKernelModule(build), { env: { memory } });
  const cases = microCases(exports as unknown as Exports, memory), results: MicroCase[] = [];
  for (const group of new Set(cases.map((one) => one.group))) {
    results.push(...await timeGroup(group, cases.filter((one) => one.group === group)));
  }
  writeFileSync(out, JSON.stringify(results));
}

async function timeGroup(group: string, cases: readonly Case[]): Promise<MicroCase[]> {
  // benny divides a call's overhead out by calling often: the shortest kernels take tens of nanoseconds
  const options = { minSamples: 5, maxTime: Number(seconds), minTime: Number(seconds) / 10, delay: 0 };
  const file = group.replace(/[^a-z0-9]+/g, "-");
  const { results } = await benny.suite(
    group,
    ...cases.map(({ name, run }) => benny.add(name, () => run())),
    benny.configure({ cases: options, minDisplayPrecision: 0 }),
    benny.save({ file, folder, version: null }),
    benny.save({ file, folder, format: "chart.html" }),
  );
  return results.map(({ name, samples, margin, details: { median, min, max } }) => {
    const one = cases.find((one) => one.name === name)!;
    return resultOf(one, { median: 1000 * median, min: 1000 * min, max: 1000 * max, n: samples }, margin);
  });
}
