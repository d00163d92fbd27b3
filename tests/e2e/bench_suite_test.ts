/** What `deno task bench` does on one engine: requests by the command line and in a page, failures that stop nothing, a report of it all. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { findEngines, measure, measureBuilds } from "../../tools/bench/engines.ts";
import { report } from "../../tools/bench/report.ts";
import { FORMAT, parse, type Request, type Results, stringify } from "../../tools/bench/schema.ts";
import { findChromium, skipWithoutChromium } from "../support/chromium.ts";
import { babbler, stories } from "../support/cli.ts";
import { thisRuntime } from "../support/runtimes.ts";
import { skipWithout } from "../support/shared.ts";

const skip = skipWithout("data/models/stories260K") || skipWithout("golden/tiny");
const COMMON = { threads: 1, reps: 2 } as const;

test("measureBuilds: every request on each build, and one that fails is noted", { skip }, async () => {
  const { engines, missing } = await findEngines([thisRuntime().name, "chromium"], "there is none");
  assert.deepEqual(missing, [{ engine: "chromium", what: "everything", reason: "there is none" }]);
  const [engine] = engines;
  assert.match(engine!.version, /^(deno|node|bun) \d+\.\d+\.\d+$/);
  const notes: string[] = [], model = stories();
  const { runs, failed } = await measureBuilds(engine!, (kernels): Request[] => [
    { ...COMMON, kernels, what: "decode", model: "/no/such/model" },
    { ...COMMON, kernels, what: "decode", model, sparsity: [0, 0.5], tokens: 4 },
  ], (line) => notes.push(line));
  const builds = new Set(runs.map(({ kernels }) => kernels));
  assert.equal(builds.size, runs.length, "no build runs twice");
  assert.ok(builds.has("baseline"));
  assert.equal(failed.length, runs.length);
  assert.equal(notes.length, 2 * runs.length);
  for (const { suite, what, reason } of failed) {
    assert.deepEqual([suite, what.split(" ")[0]], ["decode", "decode"]);
    assert.match(reason, /exit status 1: error: .*no\/such\/model/);
  }
  for (const { what, threads, rows } of runs) {
    assert.deepEqual([what, threads], ["decode", 1]);
    assert.deepEqual(rows.map(({ sparsity, tokensPerSecond }) => [sparsity, tokensPerSecond!.n]), [[0, 2], [
      0.5,
      2,
    ]]);
  }
  const results: Results = {
    format: FORMAT,
    date: "2026-01-02",
    seconds: 1,
    settings: { quick: true, model: "stories", suites: ["decode"], engines: [engine!.name], sparsity: 0.5 },
    machine: { cpu: "c", cores: 1, memoryBytes: 2 ** 30, platform: "p", load: null },
    versions: { [engine!.name]: engine!.version },
    runs,
    micro: [],
    peers: [],
    missing: failed.map((each) => ({ ...each, engine: engine!.name })),
  };
  const text = report(parse(stringify(results)), { title: "T", charts: [], folder: "", full: true });
  assert.ok(text.includes(engine!.version));
  assert.match(text, /\| \S+ baseline \| 1 \| [\d.]+ \(/);
  assert.match(text, /## Not measured\n\n- decode, .*exit status 1/);
});

const inPage = skip || skipWithoutChromium() ||
  (thisRuntime().name === "deno" ? false : "Deno's run drives the page");

test("measure: a page has the rows of the command line", { skip: inPage }, async () => {
  const { engines } = await findEngines(["chromium"], findChromium());
  const page = engines[0]!;
  for (const model of [stories(), babbler()]) {
    const load = await measure(page, { ...COMMON, kernels: "baseline", what: "load", model });
    assert.deepEqual([load.rows[0]!.name, load.rows[0]!.ms!.n, load.kernels], ["load", 2, "baseline"]);
  }
  const shape = { shape: "smollm2-135m", dtype: "int8", layers: 1, vocab: 300, tokens: 4 } as const;
  const kernels = await measure(page, {
    ...COMMON,
    ...shape,
    kernels: "baseline",
    what: "kernels",
    sparsity: [0, 0.5],
  });
  const names = kernels.rows.filter(({ sparsity }) => sparsity === 0.5).map(({ name }) => name);
  for (const name of ["o", "gate_up", "down", "projections"]) {
    assert.ok(names.includes(name), `${name}: ${names}`);
  }
  await assert.rejects(
    measure(page, { ...COMMON, kernels: "auto", what: "decode", model: "/no" }),
    /chromium/,
  );
});
