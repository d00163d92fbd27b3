/** `deno task bench` but for measuring: options and requests, the file of results, plots, the report. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Row } from "../../src/cli/bench/rows.ts";
import { LEAST_BYTES } from "../../src/cli/bench/variants.ts";
import { chartsOf, oldPlots, readSpeeds, roofLine, roofPoints } from "../../tools/bench/charts.ts";
import { number, spread, table, times } from "../../tools/bench/markdown.ts";
import {
  argumentsOf,
  fewestLayers,
  kernelRequests,
  missingEverywhere,
  readOptions,
  runOf,
  tokenRequests,
  UsageError,
} from "../../tools/bench/plan.ts";
import { report } from "../../tools/bench/report.ts";
import {
  ENGINES,
  FORMAT,
  kernelsVersion,
  merge,
  parse,
  type Results,
  type Run,
  stringify,
  SUITES,
} from "../../tools/bench/schema.ts";
import { assertWellFormed } from "../support/svg.ts";

const GIVEN = { model: "m", quick: false, peers: false };

test("readOptions: all engines and all suites but other programs, unless some are named", () => {
  assert.deepEqual(readOptions(GIVEN).suites, SUITES.filter((suite) => suite !== "peers"));
  assert.deepEqual(readOptions(GIVEN).engines, ENGINES);
  assert.deepEqual(readOptions({ ...GIVEN, peers: true }).suites, SUITES);
  assert.deepEqual(readOptions({ ...GIVEN, only: "kernels,decode" }).suites, ["decode", "kernels"]);
  assert.deepEqual(readOptions({ ...GIVEN, only: "micro", peers: true }).suites, ["micro", "peers"]);
  assert.deepEqual(readOptions({ ...GIVEN, only: "peers", runtime: "bun, deno" }).engines, ["deno", "bun"]);
  assert.equal(readOptions({ ...GIVEN, reps: "3" }).reps, 3);
});

test("readOptions: what it does not know is wrong usage", () => {
  for (
    const wrong of [
      { only: "speed" },
      { only: "" },
      { runtime: "deno,java" },
      { reps: "0" },
      { reps: "2.5" },
      { reps: "x" },
    ]
  ) {
    assert.throws(() => readOptions({ ...GIVEN, ...wrong }), UsageError, JSON.stringify(wrong));
  }
});

test("tokenRequests, kernelRequests: everything, or a reduced sweep", () => {
  const whole = { quick: false, reps: null, suites: SUITES }, quick = { ...whole, quick: true };
  const requests = tokenRequests(whole, "baseline", "model", "recipe");
  assert.deepEqual(requests.map(({ what, threads, tokens }) => [what, threads, tokens]), [
    ["decode", 1, 64],
    ["decode", 2, 64],
    ["prefill", 1, 128],
    ["prefill", 2, 128],
    ["load", 1, undefined],
    ["prefill", 1, 512],
  ]);
  assert.deepEqual(tokenRequests({ ...whole, suites: ["load"] }, "auto", "m", "r").map(({ what }) => what), [
    "load",
  ]);
  assert.deepEqual(tokenRequests(quick, "baseline", "m", "r"), []);
  const kernels = kernelRequests(whole, "auto", "node-24");
  assert.equal(kernels.length, 3 * 4);
  assert.ok(kernels.every(({ sparsity, reps }) => sparsity!.join() === "0,0.3,0.5,0.7" && reps === 21));
  const few = (engine: (typeof ENGINES)[number]): string[] =>
    kernelRequests(quick, "auto", engine).map(({ shape, dtype }) => `${shape} ${dtype}`);
  assert.equal(few("node-20").length, 4);
  assert.ok(few("bun").includes("llama2-7b int4"));
  assert.equal(kernelRequests({ ...quick, reps: 2 }, "auto", "deno")[0]!.reps, 2);
});

test("fewestLayers: no cache holds them, and no model has fewer", () => {
  assert.equal(fewestLayers("llama2-7b", "f32"), 1);
  assert.equal(fewestLayers("smollm2-135m", "int4"), 30);
  // 3.54 million weights of two bytes a block
  assert.equal(fewestLayers("smollm2-135m", "bf16"), Math.ceil(LEAST_BYTES / 7_077_888));
});

test("argumentsOf: a request as a command line", () => {
  const request = {
    what: "kernels",
    kernels: "auto",
    threads: 1,
    reps: 3,
    shape: "llama2-7b",
    dtype: "int4",
    sparsity: [0, 0.5],
  } as const;
  assert.equal(
    argumentsOf(request).join(" "),
    "bench kernels --kernels auto --threads 1 --reps 3 --shape llama2-7b --dtype int4 --sparsity 0,0.5",
  );
});

test("runOf: tokens of the request, and a reason for fewer threads only where there are fewer", () => {
  const request = { what: "prefill", kernels: "auto", threads: 2, reps: 3, tokens: 512 } as const;
  const answer = { engine: { kernels: "relaxed", threads: 1, threadsReason: "one core" }, rows: [] };
  const { at: _, ...run } = runOf("bun", request, answer, 2);
  assert.deepEqual(run, {
    engine: "bun",
    what: "prefill",
    kernels: "relaxed",
    threads: 1,
    threadsReason: "one core",
    tokens: 512,
    seconds: 2,
    rows: [],
  });
  const { tokens: __, ...load } = { ...request, what: "load", threads: 1 } as const;
  assert.ok(!("tokens" in runOf("bun", load, answer, 2)), "of loading there are none");
  assert.equal(runOf("bun", load, answer, 2).threadsReason, null);
});

const stat = (median: number): { median: number; min: number; max: number; n: number } => ({
  median,
  min: median * 0.9,
  max: median * 1.2,
  n: 3,
});
const kernelRow = (sparsity: number, more: Partial<Row>): Row => ({
  name: "projections",
  shape: "smollm2-135m",
  dtype: "int4",
  sparsity,
  variant: sparsity === 0 ? "dense" : "r-sparse",
  ms: stat(4),
  gflops: stat(40),
  gbPerSecond: stat(10),
  ...more,
});

/** A run of Deno that gains at 70 % and loses at 30 %, and a page. */
function sample(): Results {
  const run = (engine: Run["engine"], what: Run["what"], rows: readonly Row[]): Run => ({
    engine,
    what,
    kernels: "relaxed",
    threads: 1,
    threadsReason: null,
    at: "2026-01-02T03:04Z",
    seconds: 1.23456,
    rows,
  });
  const about = { shape: "SmolLM2", dtype: "int4" };
  return {
    format: FORMAT,
    date: "2026-01-02",
    seconds: 60,
    settings: {
      quick: true,
      model: "smollm2",
      suites: ["decode", "kernels", "micro"],
      engines: ["deno", "chromium"],
      sparsity: 0.5,
    },
    machine: { cpu: "A & B", cores: 2, memoryBytes: 2 ** 33, platform: "linux x64", load: [3, 4] },
    versions: { rsparse: "rsparse 0.1.0", kernels: "kernels 0123456789ab", deno: "deno 2.0.0" },
    runs: [
      run("deno", "decode", [
        { ...about, name: "decode", sparsity: 0, variant: "dense", tokensPerSecond: stat(200) },
        {
          ...about,
          name: "decode",
          sparsity: 0.5,
          variant: "r-sparse",
          tokensPerSecond: stat(180),
          speedup: 0.9,
          measuredSparsity: 0.52,
        },
      ]),
      run("deno", "kernels", [
        kernelRow(0, {}),
        kernelRow(0.3, { speedup: 0.8, measuredSparsity: 0.35 }),
        kernelRow(0.5, { speedup: 1, measuredSparsity: 0.5, gbPerSecond: stat(5) }),
        kernelRow(0.7, { speedup: 1.5, measuredSparsity: 0.7 }),
        kernelRow(0.5, {
          name: "down",
          variant: "group-i4",
          method: "stream",
          speedup: 1,
          nIn: 1536,
          nOut: 576,
        }),
        { ...kernelRow(0, { name: "read" }), gbPerSecond: stat(20) },
      ]),
      run("chromium", "kernels", [kernelRow(0, {}), kernelRow(0.5, { speedup: 2, measuredSparsity: 0.5 })]),
    ],
    micro: [{
      engine: "deno",
      kernels: "relaxed",
      at: "2026-01-02T03:05Z",
      harness: "benny 1",
      cases: [{
        group: "g",
        name: "add_f32, 4096",
        kernel: "add_f32",
        ms: stat(0.001),
        gbPerSecond: 12.34567,
      }],
    }],
    peers: [{
      name: "other",
      version: "1",
      engine: "node-20",
      threads: 2,
      at: "2026-01-02T03:06Z",
      reason: "it does not start",
      rows: [],
    }],
    missing: [{ suite: "kernels", engine: "bun", what: "everything", reason: "not to be had here" }],
  };
}

test("stringify, parse: the same results, four digits a number, one line a row", () => {
  const results = sample(), text = stringify(results), back = parse(text);
  assert.equal(back.runs[0]!.seconds, 1.235);
  assert.equal(back.micro[0]!.cases[0]!.gbPerSecond, 12.35);
  assert.equal(back.machine.memoryBytes, 2 ** 33, "integers stay whole");
  assert.deepEqual(back.runs.map(({ rows }) => rows.length), results.runs.map(({ rows }) => rows.length));
  assert.equal(
    text.match(/"name":"projections"/g)!.length,
    text.match(/^ {3}\{"name":"projections".*\},?$/gm)!.length,
  );
  assert.equal(stringify(back), text);
  assert.throws(
    () => parse(text.replace(`"format": ${FORMAT}`, `"format": 99`)),
    /format 99 found, 1 wanted/,
  );
});

/** The results of measuring only these again, later. */
function part(
  results: Results,
  suites: Results["settings"]["suites"],
  engines: Results["settings"]["engines"],
): Results {
  const has = (suite: (typeof SUITES)[number], engine: Run["engine"]): boolean =>
    suites.includes(suite) && engines.includes(engine);
  return {
    ...results,
    settings: { ...results.settings, quick: false, suites, engines },
    runs: results.runs.filter(({ what, engine }) => has(what, engine)).map((run) => ({
      ...run,
      at: "later",
    })),
    micro: results.micro.filter(({ engine }) => has("micro", engine)),
    peers: [],
    missing: [],
  };
}

test("merge: what was measured again replaces what was, and the rest stays", () => {
  const before = sample(), now = part(before, ["kernels"], ["chromium"]);
  const both = merge(before, now);
  assert.deepEqual(both.runs.map(({ engine, what, at }) => [engine, what, at === "later"]), [
    ["deno", "decode", false],
    ["deno", "kernels", false],
    ["chromium", "kernels", true],
  ]);
  assert.deepEqual([both.micro.length, both.peers.length, both.missing.length], [1, 1, 1]);
  assert.deepEqual(both.settings.suites, ["decode", "kernels", "micro"]);
  assert.equal(both.settings.quick, true, "a part of it was");
  assert.equal(merge(null, now), now);
});

test("merge: nothing is kept of another machine, version or build of the kernels, and what was is named", () => {
  const before = sample(), now = part(before, ["kernels"], ["chromium"]), { versions } = before;
  const { kernels: _, ...unnoted } = versions;
  for (
    const [other, was] of [
      [{ machine: { ...before.machine, cpu: "C" } }, "C, now A & B"],
      [{ versions: { ...versions, rsparse: "rsparse 0.0.9" } }, "rsparse 0.0.9, now rsparse 0.1.0"],
      [{ versions: { ...versions, kernels: "kernels f" } }, "kernels f, now kernels 0123456789ab"],
      [{ versions: unnoted }, "kernels not noted, now kernels 0123456789ab"],
    ] as const
  ) {
    const alone = merge({ ...before, ...other }, now),
      reason = `dropped: measured with ${was}: run them again`;
    const gone = [["decode", "deno"], ["kernels", "deno"], ["micro", "deno"], ["peers", null]];
    assert.deepEqual(alone, {
      ...now,
      missing: gone.map(([suite, engine]) => ({ suite, engine, what: "earlier runs", reason })),
    });
    const text = report(alone, { title: "T", charts: [], folder: "", full: false });
    assert.ok(text.includes(`- decode, kernels, micro, deno, earlier runs: ${reason}\n`), text);
  }
});

test("merge: the load is that of the busier run while rows of it are there", () => {
  const before = sample(), again = part(before, ["kernels"], ["chromium"]);
  const load = (was: Results["machine"]["load"], is: typeof was, now = again): typeof was =>
    merge({ ...before, machine: { ...before.machine, load: was } }, {
      ...now,
      machine: { ...now.machine, load: is },
    }).machine.load;
  assert.deepEqual(load([3, 4], [0.1, 1.1]), [3, 4]);
  assert.deepEqual(load([0.1, 1.1], [3, 4]), [3, 4]);
  // the benchmark itself is one of those at the end
  assert.deepEqual(load([0.2, 1.3], [0.4, 1]), [0.4, 1]);
  assert.deepEqual(load([3, 4], null), [3, 4]);
  assert.deepEqual(load(null, [3, 4]), [3, 4]);
  const whole = part(before, SUITES, ENGINES);
  assert.deepEqual(load([3, 4], [0.1, 1.1], whole), [0.1, 1.1], "nothing is left of the busy run");
  assert.equal(merge(before, whole).settings.quick, false, "nor of the quick one");
});

test("merge: tokens of another model are not kept, kernels are", () => {
  const [decode, ...kernels] = sample().runs as [Run, ...Run[]];
  const before = { ...sample(), runs: [decode, { ...decode, engine: "bun" as const }, ...kernels] };
  const again = part(before, ["decode"], ["deno"]);
  const now = { ...again, settings: { ...again.settings, model: "other" } }, both = merge(before, now);
  assert.deepEqual(both.runs.map(({ engine, what, at }) => [engine, what, at === "later"]), [
    ["deno", "kernels", false],
    ["deno", "decode", true],
    ["chromium", "kernels", false],
  ]);
  assert.deepEqual([both.micro.length, both.peers.length, both.settings.model], [1, 0, "other"]);
  const reason = "dropped: measured with smollm2, now other: run them again";
  assert.deepEqual(both.missing, [
    ...before.missing,
    { suite: "decode", engine: "bun", what: "earlier runs", reason },
    { suite: "peers", engine: null, what: "earlier runs", reason },
  ]);
  // without tokens a run has no model, and the tokens that are there keep the name of theirs
  const micro = part(before, ["micro"], ["deno"]);
  const after = merge(before, { ...micro, settings: { ...micro.settings, model: "other" } });
  assert.deepEqual([after.runs.length, after.settings.model], [4, "smollm2"]);
});

test("merge: an engine that is not there is missing once, however often it was asked for", () => {
  const before = sample(), [bun] = before.missing as [Results["missing"][0]];
  const again = { ...part(before, ["kernels"], ["chromium"]), missing: [{ ...bun, reason: "gone" }] };
  assert.deepEqual(merge(merge(before, again), again).missing, [{ ...bun, reason: "gone" }]);
  const others = [{ ...bun, suite: "micro" }, { ...bun, engine: "deno" }, {
    ...bun,
    what: "relaxed",
  }] as const;
  assert.equal(merge(before, { ...again, missing: others }).missing.length, 4, "others are none of it");
});

test("missingEverywhere: in every suite that was asked for, but not for other programs", () => {
  const gone = { engine: "bun", what: "everything", reason: "not to be had here" } as const;
  const missing = missingEverywhere([gone], ["decode", "micro", "peers"]);
  assert.deepEqual(missing, [{ suite: "decode", ...gone }, { suite: "micro", ...gone }]);
  const text = report({ ...sample(), missing }, { title: "T", charts: [], folder: "", full: false });
  assert.ok(text.includes("- decode, micro, bun, everything: not to be had here\n"), text);
});

test("kernelsVersion: twelve digits of the SHA-256 of both builds, in their order", async () => {
  const [a, bc] = [[97], [98, 99]].map((bytes) => Uint8Array.from(bytes)) as [Uint8Array, Uint8Array];
  // of "abc", from FIPS 180-2, appendix B.1
  assert.equal(await kernelsVersion(a, bc), "kernels ba7816bf8f01");
  assert.notEqual(await kernelsVersion(bc, a), "kernels ba7816bf8f01");
});

test("roofPoints: what was skipped is not counted; readSpeeds: the range over runs", () => {
  const [, deno] = sample().runs as [Run, Run];
  const half = roofPoints([deno]).find(({ row }) => row.sparsity === 0.5)!;
  assert.deepEqual([half.gmacs, half.gbPerSecond], [10, 5]);
  assert.equal(roofPoints([deno])[0]!.gmacs, 20);
  const slower = { ...deno, rows: [{ ...kernelRow(0, { name: "read" }), gbPerSecond: stat(15) }] };
  assert.deepEqual(readSpeeds([deno]), [20, 20]);
  assert.deepEqual(readSpeeds([deno, slower]), [15, 20]);
  assert.equal(readSpeeds([]), null);
  // 10 GB/s: from (0.5, 5) to (4, 40), cut at 20
  assert.deepEqual(roofLine(10, 0.5, 4, 1, 20), [[0.5, 5], [2, 20]]);
  assert.deepEqual(roofLine(10, 0.01, 4, 1, 20), [[0.1, 1], [2, 20]]);
  assert.deepEqual(roofLine(10, 4, 8, 1, 20), []);
});

test("chartsOf: a plot for everything that there are numbers for", async () => {
  const charts = await chartsOf(sample());
  assert.deepEqual(charts.map(({ file }) => file), [
    "decode.svg",
    "speedup-smollm2-135m.svg",
    "roofline.svg",
  ]);
  for (const { svg } of charts) assertWellFormed(svg);
  assert.ok(charts[0]!.svg.includes("Decode speed, smollm2"));
  assert.ok(charts[2]!.svg.includes("deno: memory gives 20.0 GB/s"));
  assert.deepEqual(await chartsOf({ ...sample(), runs: [], peers: [] }), []);
});

test("oldPlots: plots that were not made this time, and nothing else", async () => {
  const charts = await chartsOf(sample()), old = ["speedup-llama2-7b.svg", "speedup-tinyllama-1.1b.svg"];
  const others = ["latest.json", "latest.md", "micro", "own.svg", "decode.svg.txt"];
  assert.deepEqual(oldPlots([...charts.map(({ file }) => file), ...old, ...others], charts), old);
  const none = await chartsOf({ ...sample(), runs: [], peers: [] });
  assert.deepEqual(oldPlots(charts.map(({ file }) => file), none), charts.map(({ file }) => file));
});

test("number, spread, times, table: short, and losses in bold", () => {
  assert.deepEqual([1234.5, 99.94, 3.14159, 0.2345, 0.01234].map(number), [
    "1235",
    "99.9",
    "3.14",
    "0.234",
    "0.0123",
  ]);
  assert.equal(spread({ median: 20, min: 15, max: 25, n: 3 }), "20.0 (15.0–25.0)");
  assert.equal(spread({ median: 20, min: 20, max: 20, n: 1 }), "20.0 (one run)");
  assert.deepEqual([undefined, 0.96, 0.98, 1.5].map(times), ["", "**0.96x**", "0.98x", "1.50x"]);
  assert.equal(table(["a", "b"], [["1", "2"]]), "| a | b |\n| --- | --- |\n| 1 | 2 |");
  assert.equal(table(["a"], []), "");
});

test("report: machine, spread, losses, what could not be measured", async () => {
  const results = sample(),
    charts = await chartsOf(results),
    options = { title: "Title", charts, folder: "plots/", full: true };
  const text = report(results, options);
  for (
    const part of [
      "# Title",
      "A & B, 2 cores, 8 GiB, linux x64; rsparse 0.1.0, kernels 0123456789ab, deno 2.0.0",
      "**The machine was busy with other work**",
      "| deno relaxed | 1 | 200 (180–240) | 180 (162–216), 52 % skipped | **0.90x** |",
      "![Speed-up over sparsity, smollm2-135m](plots/speedup-smollm2-135m.svg)",
      "| smollm2-135m | int4 | deno relaxed | 4.00 (3.60–4.80) | **0.80x** | 1.00x | 1.50x | stream 1 | all |",
      "30 %: 0 of 1 faster than dense, 1 slower, 0 alike; 50 %: 1 of 2 faster than dense, 0 slower, 1 alike",
      "| smollm2-135m | int4 | deno relaxed | 50 % | 20.0 | 5.00 | 25 % | 10.0 | 20.0 |",
      "- other 1, 2 threads: no numbers: it does not start",
      "| g | add_f32, 4096 | 1.00 (12.3) |",
      "- kernels, bun, everything: not to be had here",
    ]
  ) {
    assert.ok(text.includes(part), `${part}\nin\n${text}`);
  }
  const short = report({ ...results, machine: { ...results.machine, load: [0.1, 1.1] }, missing: [] }, {
    ...options,
    full: false,
  });
  assert.ok(short.includes("The machine was quiet."));
  for (const gone of ["## Kernels alone", "## Matrices", "## Not measured"]) {
    assert.ok(!short.includes(gone), gone);
  }
});

test("report: a prompt's speed stands under its own length, though the shorter was not measured", () => {
  const results = sample(), [decode] = results.runs as [Run];
  const prefill = (tokens: number, speed: number): Run => ({
    ...decode,
    what: "prefill",
    tokens,
    rows: [{ ...decode.rows[0]!, name: "prefill", tokensPerSecond: stat(speed) }],
  });
  const options = { title: "T", charts: [], folder: "", full: false };
  const lines = (runs: readonly Run[]): string[] =>
    report({ ...results, runs }, options).split("\n").filter((line) =>
      line.startsWith("| deno relaxed | 1 |") || line.startsWith("| rsparse, dense |")
    );
  const short = "100 (90.0–120)", long = "50.0 (45.0–60.0)", dense = "200 (180–240)";
  const [whole, own] = lines([decode, prefill(512, 50)]) as [string, string];
  assert.ok(whole.endsWith(`|  | ${long} |  |`), whole);
  assert.equal(own, `| rsparse, dense | deno relaxed | 1 |  | ${long} | ${dense} |`);
  const both = lines([decode, prefill(512, 50), prefill(128, 100)]);
  assert.ok(both[0]!.endsWith(`| ${short} | ${long} |  |`), both[0]);
  assert.equal(both[1], `| rsparse, dense | deno relaxed | 1 | ${short} | ${long} | ${dense} |`);
  assert.ok(lines([decode, prefill(128, 100)])[0]!.endsWith(`| ${short} |  |  |`));
});
