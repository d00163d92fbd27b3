/** `rsparse xr` as a person uses it. */
import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { after, test } from "node:test";
import { failure, json, rsparse, stories } from "../support/cli.ts";
import { skipWithout } from "../support/shared.ts";
import { assertWellFormed } from "../support/svg.ts";
import { type GoldenRun, readGoldenLines } from "../support/xr.ts";

const folder = mkdtempSync(join(tmpdir(), "rsparse-xr-"));
after(() => rmSync(folder, { recursive: true, force: true }));
const RUN = ["xr", "run", "--scenario", "social_interactionA", "--setting", "Single_4K__WS"];

interface Document {
  readonly mode: string;
  readonly switches: readonly string[];
  readonly overall: number;
  readonly seed: number | null;
  readonly setting: string | null;
  readonly log: readonly unknown[];
  readonly machine: { readonly processors: number };
  readonly runtime: { readonly name: string; readonly rsparse: string };
  readonly summary: string;
  readonly schedule: string;
}

function path(name: string): string {
  return join(folder, name);
}

function keep(name: string, value: unknown): string {
  writeFileSync(path(name), typeof value === "string" ? value : JSON.stringify(value));
  return path(name);
}

test("xr list: what there is, for people and for programs", async () => {
  const { stdout } = await rsparse(["xr", "list"]);
  for (const text of ["AR_Assistant", "M 8K", "SS_HRViT_b1", "countDependency"]) {
    assert.ok(stdout.includes(text), text);
  }
  const found = await json<Record<"scenarios" | "settings" | "models" | "switches", unknown[]>>([
    "xr",
    "list",
  ]);
  assert.deepEqual(
    [found.scenarios, found.settings, found.models, found.switches].map(({ length }) => length),
    [7, 26, 11, 14],
  );
});

test("xr run: the voice assistant, its dial, and what it tells of replies", async () => {
  const VOICE = ["xr", "run", "--scenario", "voice_assistant", "--mode", "corrected"];
  const listed = await json<{ readonly extensions: { readonly id: string }[] }>(["xr", "list"]);
  assert.deepEqual(listed.extensions.map(({ id }) => id), ["voice_assistant"]);
  type Voice = Document & {
    readonly durationMs: number;
    readonly models: Record<string, { nRequired: number; replies?: { replies: number; onTime: number } }>;
    readonly dials: {
      model: string;
      policy: string;
      levels: { sparsity: number; fidelity: number; frames: number }[];
    }[];
  };
  const slack = await json<Voice>([...VOICE, "--dial", "slack", "--seed", "3"]);
  const { LM } = slack.models;
  assert.deepEqual([slack.mode, slack.setting, slack.durationMs], ["corrected", "Dual_4K__WS_OS", 10_000]);
  assert.equal(LM!.nRequired, 32 * LM!.replies!.replies);
  assert.deepEqual([slack.dials[0]!.model, slack.dials[0]!.policy], ["LM", "slack"]);
  assert.equal(slack.dials[0]!.levels[0]!.fidelity, 1);
  assert.deepEqual((await json<Voice>([...VOICE, "--dial", "slack", "--seed", "3"])).log, slack.log);
  const ran = await rsparse([...VOICE, "--seed", "3", "--order", "edf"]);
  assert.equal(ran.code, 0, ran.stderr);
  assert.match(
    ran.stdout,
    /LM: \d+ of \d+ replies to their end, [\d.]+ % of tokens on time; first token p50/,
  );
  assert.match(ran.stdout, /LM's dial, fixed:0: \d+ at 0, 0 at/);
  assert.match(ran.stderr, /xr measure/);
  // a table of one's own
  const levels = keep("levels.json", {
    format: 1,
    levels: [{ sparsity: 0, fidelity: 1, latencyMs: { p50: 1, p95: 1 } }, {
      sparsity: 0.5,
      fidelity: 0.9,
      latencyMs: { p50: 0.5, p95: 0.5 },
    }],
  });
  const trace = path("voice.json");
  const own = await json<Voice>([...VOICE, "--levels", levels, "--dial", "fixed:0.5", "--trace", trace]);
  assert.equal(own.models["LM"]!.replies!.onTime, 1);
  const again = await json<Voice>(["xr", "run", "--replay", trace]);
  assert.ok(Math.abs(again.overall - own.overall) < 1e-9);
  await failure(2, /--dial fixed:0\.4: policy: .*S one of 0, 0\.5/, [
    ...VOICE,
    "--levels",
    levels,
    "--dial",
    "fixed:0.4",
  ]);
  await failure(2, /Cannot take --dial: no model of social_interactionA answers token by token/, [
    ...RUN,
    "--dial",
    "slack",
  ]);
  await failure(1, /models\[2\]\.reply: LM .*--mode corrected wanted/, [
    "xr",
    "run",
    "--scenario",
    "voice_assistant",
  ]);
  await failure(1, /Cannot read levels .*levels: nothing found/, [
    ...VOICE,
    "--levels",
    keep("bad.json", { format: 1 }),
  ]);
});

test("xr measure, xr dial: a table of one's own, and what policies make of it", {
  skip: skipWithout("data/models/stories260K"),
}, async () => {
  const text = keep("text.txt", "Once upon a time there was a lighthouse that could not sleep. ".repeat(40));
  const MEASURE = ["xr", "measure", "-m", stories(), "--threads", "1"], out = path("own-levels.json");
  const made = await json<
    { levels: { sparsity: number; fidelity: number }[]; tokenMs: number[][][]; promptMs: number[] }
  >(
    [...MEASURE, "--text", text, "--replies", "2", "--pieces", "2", "-o", out],
  );
  assert.deepEqual(made.levels.map(({ sparsity, fidelity }) => [sparsity, fidelity]), [[0, 1]]);
  assert.deepEqual([made.tokenMs.length, made.promptMs.length], [62, 2]);
  assert.deepEqual(JSON.parse(readFileSync(out, "utf8")), made);
  const again = [...MEASURE, "--text", text, "--replies", "1", "-o", path("again.json"), "--fidelity"];
  assert.deepEqual((await json<typeof made>([...again, out])).levels[0]!.fidelity, 1);
  const folder = path("dial");
  const { stdout, code } = await rsparse([
    "xr",
    "dial",
    "--levels",
    out,
    "--seeds",
    "2",
    "--duration",
    "1500",
    "--out",
    folder,
  ]);
  assert.equal(code, 0);
  assert.match(stdout, /0\.6 of dense speed, replies 0\.25, 40 % beside +plan/);
  assert.deepEqual(readdirSync(folder).sort(), ["dial.csv", "dial.json", "dial.svg"]);
  assertWellFormed(readFileSync(join(folder, "dial.svg"), "utf8"));
  await failure(2, /without a text: give --text/, [...MEASURE, "-o", out]);
  await failure(2, /--sparsities must have 0/, [
    ...MEASURE,
    "--text",
    text,
    "--sparsities",
    "0.5",
    "-o",
    out,
  ]);
  await failure(2, /at sparsity 0\.5 without a recipe/, [
    ...MEASURE,
    "--text",
    text,
    "--sparsities",
    "0,0.5",
    "-o",
    out,
  ]);
  await failure(1, /fidelity from .*its text is another/, [
    ...MEASURE,
    "--text",
    keep("other.txt", "Another text, of other words, again and again. ".repeat(40)),
    "-o",
    path("again.json"),
    "--fidelity",
    out,
  ]);
  await failure(2, /--real x: a load such as/, [
    "xr",
    "dial",
    "--levels",
    out,
    "--real",
    "x",
    "--out",
    folder,
  ]);
});

test(
  "xr run: the harness's two files, character for character",
  { skip: skipWithout("golden/xrbench") },
  async () => {
    const golden = (await readGoldenLines<GoldenRun>("compat_runs.jsonl.gz"))[0]!;
    const { code, stdout } = await rsparse([...RUN, "--csv", path("csv/below")]);
    assert.equal(code, 0);
    assert.match(stdout, /score 61\.0295; hit rate/);
    assert.deepEqual(readdirSync(path("csv/below")).sort(), ["schedule.csv", "summary.csv"]);
    assert.equal(readFileSync(path("csv/below/summary.csv"), "utf8"), golden.summary);
    assert.equal(readFileSync(path("csv/below/schedule.csv"), "utf8"), golden.schedule);
  },
);

test("xr run --batch: golden runs, a file among the scenarios, both forms of switches", {
  skip: skipWithout("golden/xrbench"),
}, async () => {
  const golden = (await readGoldenLines<GoldenRun>("compat_runs.jsonl.gz")).slice(0, 12);
  const own = keep("own.json", { models: [{ name: "ES_RITNet", fps: 60 }] });
  const entries = [
    ...golden.map(({ scenario, setting, seed, probability }) => ({ scenario, setting, seed, probability })),
    { scenario: own, setting: "Single_8K__OS", seed: 2, mode: "corrected", switches: ["float32"] },
    { scenario: "social_interactionA", setting: "Single_4K__WS", seed: 1, switches: { qoeSquared: false } },
  ];
  const found = await json<Document[]>(["xr", "run", "--batch"], { input: JSON.stringify(entries) });
  assert.equal(found.length, entries.length);
  golden.forEach(({ summary, schedule }, i) => {
    assert.equal(found[i]!.summary, summary);
    assert.equal(found[i]!.schedule, schedule);
  });
  assert.deepEqual([found.at(-2)!.mode, found.at(-2)!.switches], ["corrected", ["float32"]]);
  assert.ok(Math.abs(found.at(-1)!.overall - 66.9361) < 1e-4);
});

test("xr run: modes, switches, seeds, order, probability", async () => {
  const score = async (...args: string[]): Promise<number> =>
    (await json<Document>([...RUN, ...args])).overall;
  const near = async (wanted: number, ...args: string[]): Promise<void> =>
    assert.ok(Math.abs(await score(...args) - wanted) < 5e-3, args.join(" "));
  await near(61.03);
  await near(66.94, "--switch", "qoeSquared=off");
  await near(62.15, "--mode", "corrected");
  await near(67.19, "--mode", "corrected", "--order", "edf");
  const some = await json<Document>([...RUN, "--switch", "headOnly", "--switch", "float32", "--seed", "4"]);
  assert.deepEqual([some.switches, some.seed], [["headOnly", "float32"], 4]);
  assert.equal(typeof some.runtime.name, "string");
  const never = await json<Document & { readonly notRequired: string[] }>([
    ...RUN,
    "--mode",
    "corrected",
    "--probability",
    "0",
  ]);
  assert.deepEqual(never.notRequired, ["GE_FBNet_C"]);
});

test("xr run --trace, --replay: the same score again, on the same and on other hardware", async () => {
  const trace = path("trace.json"),
    run = await json<Document>([...RUN, "--mode", "corrected", "--seed", "5", "--trace", trace]);
  const again = await json<Document>(["xr", "run", "--replay", trace]);
  assert.deepEqual([again.mode, again.seed, again.setting], ["corrected", 5, null]);
  assert.ok(Math.abs(again.overall - run.overall) < 1e-6);
  const table = await json<Document>(["xr", "run", "--replay", trace, "--setting", "Single_4K__WS"]);
  assert.deepEqual(table.log, run.log);
  const other = await json<Document>(["xr", "run", "--replay", trace, "--setting", "Quad_8K__WS_OS_WS_OS"]);
  assert.ok(other.overall > run.overall);
  const { jobs: _, ...alone } = JSON.parse(readFileSync(trace, "utf8"));
  await failure(2, /it has no latencies: give --setting/, [
    "xr",
    "run",
    "--replay",
    keep("alone.json", alone),
  ]);
  await failure(2, /a trace with .*give --mode corrected/, [
    "xr",
    "run",
    "--replay",
    trace,
    "--mode",
    "compat",
  ]);
  await failure(2, /--seed: a trace has what was asked for/, ["xr", "run", "--replay", trace, "--seed", "2"]);
});

test("xr run: an own scenario in either form, on own hardware", async () => {
  const hardware = keep("hardware.json", {
    accelerators: { cpu: { models: { eye: { cycles: 4e6, energyNJ: 1e6 } } } },
    settings: { one: { accelerators: ["cpu"] } },
  });
  const eye = { name: "eye", fps: 100 };
  const json1 = keep("eye.json", { models: [eye] }), m = keep("eye.m", "Network eye { FPS: 100 }\n");
  const options = ["--hardware", hardware, "--setting", "one", "--mode", "corrected"];
  const [a, b] = [
    await json<Document>(["xr", "run", "--scenario", json1, ...options]),
    await json<Document>(["xr", "run", "--scenario", m, ...options]),
  ];
  assert.deepEqual(a, b);
  assert.ok(a.overall > 99);
});

test("xr run --suite: a mean of each scenario and of all", async () => {
  const { settings, seeds } = await json<{
    readonly seeds: number;
    readonly settings: readonly {
      readonly suite: number;
      readonly scenarios: Readonly<Record<string, { readonly mean: number }>>;
    }[];
  }>(["xr", "run", "--suite", "--setting", "Single_4K__WS", "--seeds", "2", "--mode", "corrected"]);
  assert.deepEqual([seeds, settings.length], [2, 1]);
  const means = Object.values(settings[0]!.scenarios).map(({ mean }) => mean);
  assert.equal(means.length, 7);
  assert.ok(Math.abs(settings[0]!.suite - means.reduce((a, b) => a + b) / 7) < 1e-9);
});

test("xr compare: results side by side; what each defect does", async () => {
  const files = ["compat", "corrected"].map((mode) => path(`${mode}.json`));
  for (const file of files) {
    const mode = file.includes("compat") ? "compat" : "corrected";
    writeFileSync(file, (await rsparse([...RUN, "--mode", mode, "--json"])).stdout);
  }
  const { stdout } = await rsparse(["xr", "compare", ...files]);
  assert.match(stdout, /compat +corrected\n +score +61\.0295 +62\.1548\n/);
  const { runs, rows } = await json<
    { readonly runs: { readonly name: string }[]; readonly rows: { readonly values: number[] }[] }
  >(
    ["xr", "compare", ...files, files[0]!],
  );
  assert.deepEqual(runs.map(({ name }) => name), ["compat", "corrected", "compat (2)"]);
  assert.equal(rows[0]!.values.length, 3);
  const { effects } = await json<
    { readonly effects: { readonly name: string; readonly repaired: { readonly mean: number } }[] }
  >(
    [
      "xr",
      "compare",
      "--fixes",
      "--scenario",
      "social_interactionA",
      "--setting",
      "Single_4K__WS",
      "--seeds",
      "1",
    ],
  );
  assert.equal(effects.length, 14);
  assert.ok(Math.abs(effects.find(({ name }) => name === "qoeSquared")!.repaired.mean - 5.9066) < 1e-3);
});

test("xr plot: scores, a timeline for each result, figure 5", async () => {
  const result = keep("result.json", (await rsparse([...RUN, "--json"])).stdout), out = path("figures/below");
  const { figures } = await json<
    { readonly figures: { readonly name: string; readonly path: string; readonly csv: string }[] }
  >(
    ["xr", "plot", result, "--out", `${out}/`],
  );
  assert.deepEqual(figures.map(({ name }) => name), ["scores", "timeline-result"]);
  for (const { path, csv } of figures) {
    assertWellFormed(readFileSync(path, "utf8"));
    assert.ok(readFileSync(csv, "utf8").split("\n").length > 10);
  }
  await json(["xr", "plot", "--figure5", "--setting", "Single_4K__WS", "--seeds", "1", "--out", out]);
  assertWellFormed(readFileSync(join(out, "figure5.svg"), "utf8"));
  assert.deepEqual(readdirSync(out).sort(), [
    "figure5.csv",
    "figure5.svg",
    "scores.csv",
    "scores.svg",
    "timeline-result.csv",
    "timeline-result.svg",
  ]);
});

test("xr: bad scenarios and bad usage are told in two lines, with the place", async () => {
  const run = (
    scenario: string,
  ): string[] => ["xr", "run", "--setting", "Single_4K__WS", "--scenario", scenario];
  const A = { name: "A", fps: 30 };
  const circle = keep("circle.json", {
    models: [{ ...A, dependencies: ["B"] }, { name: "B", fps: 30, dependencies: ["A"] }],
  });
  await failure(
    1,
    /Cannot read scenario .*circle\.json: models\[0\]\.dependencies: a circle found: A needs B needs A/,
    run(circle),
  );
  await failure(1, /models\[0\]\.fps: 0 found/, run(keep("zero.json", { models: [{ ...A, fps: 0 }] })));
  await failure(
    1,
    /no model "Q" here/,
    run(keep("unknown.json", { models: [{ ...A, dependencies: ["Q"] }] })),
  );
  const layer = { type: "CONV", K: -8, C: 1, Y: 1, X: 1, R: 1, S: 1 };
  await failure(
    1,
    /models\[0\]\.layers\[0\]\.K: -8 found/,
    run(keep("size.json", { models: [{ ...A, layers: [layer] }] })),
  );
  await failure(1, /line 1: FPS: "0" found/, run(keep("zero.m", "Network A { FPS: 0 }")));
  await failure(1, /"A" has no cost on Single_4K:WS/, run(keep("cost.json", { models: [A] })));
  await failure(1, /no such scenario: one of social_interactionA/, run("nope"));
  await failure(1, /there is no such file/, run(path("nope.json")));
  await failure(1, /JSON that cannot be parsed/, run(keep("cut.json", '{"models":[')));
  await failure(1, /no such setting: one of Single_4K__WS/, [
    "xr",
    "run",
    "--scenario",
    "AR_gaming",
    "--setting",
    "nope",
  ]);
  await failure(1, /Cannot run .*models\[1\]\.fps: B runs at 60/, [
    ...run(keep("rates.json", {
      models: [
        { ...A, cost: { latencyMs: 1, energyMJ: 1 } },
        { name: "B", fps: 60, dependencies: ["A"], cost: { latencyMs: 1, energyMJ: 1 } },
      ],
    })),
    "--mode",
    "corrected",
  ]);
  await failure(2, /--setting is missing/, ["xr", "run", "--scenario", "AR_gaming"]);
  await failure(2, /--switch: switch: "nope" found/, [...RUN, "--switch", "nope"]);
  await failure(2, /none can have =on or =off/, [...RUN, "--switch", "headOnly", "--switch", "float32=off"]);
  await failure(2, /--batch, --suite and --replay/, [...RUN, "--batch", "--suite"]);
  await failure(2, /--seed: each entry of a batch/, ["xr", "run", "--batch", "--seed", "2"], { input: "[]" });
  await failure(2, /Cannot read batch stdin: \[0\]\.setting: nothing found/, ["xr", "run", "--batch"], {
    input: '[{"scenario":"AR_gaming","seed":1}]',
  });
  await failure(2, /Cannot read stdin/, ["xr", "run", "--batch"], { input: "{" });
  await failure(1, /entry 0 of the batch: .*no such scenario/, ["xr", "run", "--batch"], {
    input: '[{"scenario":"nope","setting":"Single_4K__WS","seed":1}]',
  });
  await failure(2, /name files of/, ["xr", "compare"]);
  await failure(2, /both files and --fixes/, ["xr", "compare", "x.json", "--fixes"]);
  await failure(2, /belongs to --figure5/, ["xr", "plot", "x.json", "--seeds", "2", "--out", path("o")]);
  await failure(1, /Cannot read result .*eye|there is no such file/, ["xr", "compare", path("nope.json")]);
  await failure(1, /format: nothing found/, ["xr", "compare", keep("no-result.json", {})]);
  mkdirSync(path("taken"), { recursive: true });
  await failure(1, /it is a folder/, [...RUN, "--trace", path("taken")]);
  await failure(1, /it is a file/, [...RUN, "--csv", keep("a-file", "x")]);
});

test("xr: Ctrl-C ends a long comparison", { skip: process.platform === "win32" && "no SIGINT" }, async () => {
  const { code, stdout } = await rsparse(["xr", "compare", "--fixes", "--seeds", "1000"], {
    onStart: (interrupt) => void setTimeout(interrupt, 4000),
  });
  assert.equal(code, 130);
  assert.equal(stdout, "");
});
