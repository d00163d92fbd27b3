/** XRBench against the published harness, character for character, and the corrected mode against an independent implementation of its rules. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import {
  builtinModels,
  builtinScenarios,
  countLayers,
  LibcRandom,
  readMScenario,
  readSwitches,
  scheduleCsv,
  type Scores,
  summaryCsv,
} from "../../src/xr/mod.ts";
import { requireShared, skipWithout } from "../support/shared.ts";
import {
  type GoldenCase,
  goldenRow,
  type GoldenRun,
  readGolden,
  readGoldenLines,
  runCase,
  runGolden,
} from "../support/xr.ts";

const skip = skipWithout("golden/xrbench");
const COMPAT = readSwitches("compat", []), CORRECTED = readSwitches("corrected", []);

/** Fields of a model's score that golden files may have, by our names. */
const FIELDS = ["rt", "energy", "qoe", "score", "nExecuted", "nDropped", "nLate"] as const;

function assertNear(found: number, wanted: number, bound: number, what: string): void {
  if (!(Math.abs(found - wanted) <= bound)) assert.fail(`${what}: ${found} found, ${wanted} wanted`);
}

function assertScores(scores: Scores, wanted: GoldenCase["scores"], what: string): void {
  assert.deepEqual([...scores.models.keys()].sort(), Object.keys(wanted).sort(), what);
  for (const [name, model] of Object.entries(wanted)) {
    const found = scores.models.get(name)!;
    for (const field of FIELDS) {
      if (field in model) assertNear(found[field], model[field]!, 1e-9, `${what}: ${name}: ${field}`);
    }
    if ("n_logged" in model) {
      assert.equal(found.nExecuted + found.nDropped, model["n_logged"], what);
      assert.equal(found.nDropped, model["n_dropped"], what);
    }
  }
}

test("LibcRandom: glibc's rand() after srand", { skip }, () => {
  const { note: _, ...seeds } = readGolden<Record<string, number[]>>("rand.json");
  for (const [name, outputs] of Object.entries(seeds)) {
    const random = new LibcRandom(Number(/\d+/.exec(name)![0]));
    assert.deepEqual(outputs.map(() => random.next()), outputs, name);
  }
  const [zero, one] = [new LibcRandom(0), new LibcRandom(1)];
  for (let i = 0; i < 100; ++i) assert.equal(zero.next(), one.next());
});

for (const name of ["microcases", "fuzz_cases"]) {
  test(`compat: ${name}: every line of the log and every score`, { skip }, () => {
    const { cases } = readGolden<{ readonly cases: readonly GoldenCase[] }>(`${name}.json`);
    assert.ok(cases.length >= 9);
    for (const golden of cases) {
      const { log, scores } = runCase(golden, "compat");
      assert.deepEqual(log.map((entry) => goldenRow(entry, 0)), golden.log, golden.name);
      assertScores(scores, golden.scores, golden.name);
      assertNear(scores.overall, golden.overall, 1e-6 * Math.abs(golden.overall), golden.name);
    }
  });
}

test("compat: full logs of two runs, dropped frames included", { skip }, async () => {
  const { logs } = readGolden<{ readonly logs: Readonly<Record<string, unknown[][]>> }>("full_logs.json");
  for (const [name, wanted] of Object.entries(logs)) {
    const [scenario, ...setting] = name.split("__");
    const run = { scenario: scenario!, setting: setting.join("__"), seed: 1 };
    const { log } = await runGolden(run, COMPAT);
    assert.deepEqual(log.map((entry) => goldenRow(entry, 0)), wanted, name);
  }
});

test(
  "compat: summaries and schedules of the harness, character for character; other seeds and the trigger sweep among them",
  {
    skip,
  },
  async () => {
    const runs = await readGoldenLines<GoldenRun>("compat_runs.jsonl.gz");
    assert.equal(runs.length, 129);
    for (const golden of runs) {
      const { log, scores } = await runGolden(golden, COMPAT);
      const what = `${golden.scenario} ${golden.setting} ${golden.seed} ${golden.probability}`;
      assert.equal(summaryCsv(scores), golden.summary, what);
      assert.equal(scheduleCsv(log, { float32: true, reasons: false }), golden.schedule, what);
    }
  },
);

test("compat: means of the trigger sweep over seeds 1 to 100", { skip }, async () => {
  const { means } = readGolden<{ readonly means: Readonly<Record<string, readonly number[]>> }>(
    "trigger_sweep_means.json",
  );
  for (const [name, wanted] of Object.entries(means)) {
    const [, style, percent] = /^Acc(.)(\d+)p$/.exec(name)!;
    const setting = style === "B" ? "Single_4K__OS" : "Dual_4K__WS_OS", found = [0, 0, 0, 0];
    for (let seed = 1; seed <= 100; ++seed) {
      const run = { scenario: "VR_gaming", setting, seed, probability: Number(percent) / 100 };
      const { scores: { models, overall } } = await runGolden(run, COMPAT);
      for (const { rt, energy, qoe } of models.values()) {
        [rt, energy, qoe].forEach((value, i) => found[i]! += value / models.size / 100);
      }
      found[3]! += overall / 100 / 100;
    }
    wanted.forEach((value, i) => assertNear(found[i]!, value, 1e-6, `${name} ${i}`));
  }
});

test("switches: the harness with one defect repaired, and with four", { skip }, async () => {
  const { scores } = readGolden<
    { readonly scores: Readonly<Record<string, Readonly<Record<string, readonly number[]>>>> }
  >("switches.json");
  const one = ["qoeSquared=off"], four = [...one, "countDependency=off", "noCascade=off", "stopEarly=off"];
  for (const [setting, scenarios] of Object.entries(scores)) {
    for (const [scenario, wanted] of Object.entries(scenarios)) {
      for (const [i, changes] of [[], one, four].entries()) {
        const switches = readSwitches("compat", changes);
        const { scores: { overall } } = await runGolden({ scenario, setting, seed: 1 }, switches);
        assertNear(overall, wanted[i]!, 1e-4, `${scenario} ${setting} ${changes}`);
      }
    }
  }
});

test("corrected: small cases, by name with jitter and by deadline without", { skip }, () => {
  const { cases } = readGolden<{ readonly cases: readonly GoldenCase[] }>("corrected_microcases.json");
  assert.equal(cases.length, 18);
  for (const golden of cases) {
    const { log, scores } = runCase(golden, "corrected"), what = `${golden.name} ${golden.order}`;
    const rows = log.map((entry) => [...goldenRow(entry, -1), entry.reason]);
    assert.equal(rows.length, golden.log.length, what);
    golden.log.forEach((wanted, i) =>
      wanted.forEach((value, j) => {
        const found = rows[i]![j]!;
        if (typeof value === "number") assertNear(found as number, value, 1e-9, `${what} line ${i}`);
        else assert.equal(found, value, `${what} line ${i}`);
      })
    );
    assertScores(scores, golden.scores, what);
    assertNear(scores.overall, golden.overall, 1e-9, what);
  }
});

test("corrected: 109 pairs of scenario and setting, two seeds and two orders", { skip }, async () => {
  const runs = await readGoldenLines<GoldenRun>("corrected_runs.jsonl.gz");
  assert.equal(runs.length, 327);
  for (const golden of runs) {
    const { log, scores } = await runGolden(golden, CORRECTED);
    const what = `${golden.scenario} ${golden.setting} ${golden.seed} ${golden.order}`;
    assert.equal(log.length, golden.required, what);
    assertScores(scores, golden.models, what);
    assertNear(scores.overall, golden.overall, 1e-9, what);
  }
});

test("compat: bars of the published figure", { skip }, async () => {
  const { bars } = readGolden<
    { readonly bars: Readonly<Record<string, Readonly<Record<string, Readonly<Record<string, number>>>>>> }
  >("fig5_bars.json");
  for (const [scenario, settings] of Object.entries(bars)) {
    for (const [setting, wanted] of Object.entries(settings)) {
      const { scores: { models, overall } } = await runGolden({ scenario, setting, seed: 1 }, COMPAT);
      const list = [...models.values()], what = `${scenario} ${setting}`;
      const mean = (of: (model: typeof list[number]) => number): number =>
        list.reduce((sum, model) => sum + of(model), 0) / list.length;
      assertNear(mean(({ rt }) => rt), wanted["rt"]!, 1e-6, `${what} rt`);
      assertNear(mean(({ energy }) => energy), wanted["en"]!, 1e-6, `${what} en`);
      assertNear(mean(({ qoe }) => qoe), wanted["qoe"]!, 1e-6, `${what} qoe`);
      assertNear(overall / 100, wanted["overall"]!, 1e-6, `${what} overall`);
    }
  }
});

test("readMScenario: the example and what it says", { skip }, () => {
  const text = readFileSync(requireShared("golden/xrbench/scenario_example.m"), "utf8");
  assert.deepEqual(readMScenario(text, "example.m"), readGolden("scenario_example.json"));
});

test("what ships is what was taken from the harness: scenarios, layers and their counts", {
  skip: skipWithout("spec/xrbench_scenarios.json"),
}, async () => {
  interface Facts {
    readonly scenarios: readonly {
      readonly id: string;
      readonly name: string;
      readonly models: readonly {
        readonly nameInFile: string;
        readonly fps: number;
        readonly triggerProbability: number;
        readonly dependsOn: readonly { readonly on: string }[];
      }[];
    }[];
    readonly models: Readonly<
      Record<
        string,
        { readonly layers: readonly unknown[]; readonly macsValid: number; readonly macsRealistic: number }
      >
    >;
  }
  const facts: Facts = JSON.parse(readFileSync(requireShared("spec/xrbench_scenarios.json"), "utf8"));
  assert.deepEqual(
    (await builtinScenarios()).map(({ id, name, models }) => ({
      id,
      name,
      models: models.map((
        { name, fps, probability, dependencies },
      ) => [name, fps, probability, dependencies]),
    })),
    facts.scenarios.map(({ id, name, models }) => ({
      id,
      name,
      models: models.map(({ nameInFile, fps, triggerProbability, dependsOn }) => [
        nameInFile,
        fps,
        triggerProbability,
        dependsOn.map(({ on }) => on),
      ]),
    })),
  );
  const models = await builtinModels();
  assert.deepEqual(models.map(({ name }) => name), Object.keys(facts.models));
  for (const { name, layers } of models) {
    const { macsValid, macsRealistic } = countLayers(layers), wanted = facts.models[name]!;
    assert.deepEqual(
      [layers.length, macsValid, macsRealistic],
      [wanted.layers.length, wanted.macsValid, wanted.macsRealistic],
      name,
    );
  }
});
