/** Which sparsity meets a deadline: the specification's worked table, and what holds for all levels and times. */
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  assumedFidelity,
  createPolicy,
  dialLevels,
  feedbackStep,
  LatencyTable,
  layerLevel,
  type Level,
  logGain,
  logRealTime,
  perplexityFidelity,
  planLevel,
  queueLevel,
  replayTokens,
  slackLevel,
} from "../../src/deadline/mod.ts";
import {
  dialExecutor,
  type Frame,
  parseScenario,
  readSwitches,
  scoreLog,
  simulate,
  tableExecutor,
} from "../../src/xr/mod.ts";
import { Random } from "../support/kernels.ts";

/** TinyLlama in int4 on Node, 23.6, 29.7 and 38.2 tokens a second; fidelities are made up. */
const WORKED: readonly Level[] = [
  { sparsity: 0, latencyMs: 1000 / 23.6, fidelity: 1 },
  { sparsity: 0.5, latencyMs: 1000 / 29.7, fidelity: 0.94 },
  { sparsity: 0.7, latencyMs: 1000 / 38.2, fidelity: 0.8 },
];

function tableOf(levels: readonly Level[] = WORKED): LatencyTable {
  return new LatencyTable(levels);
}

test("slackLevel: the specification's worked table", () => {
  const rows: [number, number[], number][] = [
    [43, [-0.000, -0.062, -0.223], 0],
    [34.5, [-118.09, -0.062, -0.223], 1],
    [30, [-185.59, -55.11, -0.223], 2],
    [25, [-260.59, -130.11, -17.89], 2],
  ];
  for (const [left, gains, choice] of rows) {
    WORKED.forEach((level, i) => {
      const gain = logGain(level, left);
      assert.ok(Math.abs(gain - gains[i]!) <= 0.006, `${left} ${i}: ${gain}`);
    });
    assert.equal(slackLevel(WORKED, left), choice, `${left}`);
  }
});

test("logRealTime: as the score where that can be computed, a line where it is 0, exact near 1", () => {
  for (let delay = -2; delay <= 2; delay += 0.01) {
    const wanted = -Math.log1p(Math.exp(15 * delay));
    assert.ok(Math.abs(logRealTime(delay) - wanted) <= 1e-14 * Math.max(1, Math.abs(wanted)), `${delay}`);
  }
  assert.equal(logRealTime(1e6), -1.5e7);
  assert.ok(logRealTime(-20) < 0 && logRealTime(-20) > -1e-130, "not rounded to 0");
  assert.equal(logRealTime(-1e6), -0);
  assert.ok(Math.abs(logRealTime(0.5, 2) + Math.log(1 + Math.E)) < 1e-15);
});

test("slackLevel: more time is never answered by more sparsity; of equals the lower sparsity", () => {
  const random = new Random(4);
  for (let i = 0; i < 10_000; ++i) {
    let latencyMs = 50 * random.uniform() + 20, fidelity = 1;
    const levels = Array.from({ length: 1 + random.below(6) }, (_, j) => {
      const level = { sparsity: j / 10, latencyMs, fidelity, energy: 1 };
      latencyMs *= 0.5 + 0.5 * random.uniform();
      fidelity *= 0.5 + 0.499 * random.uniform();
      return level;
    });
    const left = 80 * random.uniform() - 5, choice = slackLevel(levels, left);
    assert.ok(slackLevel(levels, left + 10 * random.uniform()) <= choice, `case ${i}`);
    for (const level of levels) {
      assert.ok(logGain(level, left) <= logGain(levels[choice]!, left), `case ${i}`);
    }
  }
  const same = [0, 0.3, 0.5].map((sparsity) => ({ sparsity, latencyMs: 10, fidelity: 0.9 }));
  for (const left of [-1e9, 0, 10, 1e9]) assert.equal(slackLevel(same, left), 0);
  // energy and k have a say
  assert.equal(slackLevel([{ ...WORKED[0]!, energy: 0.5 }, WORKED[1]!], 43), 1);
  assert.equal(slackLevel(WORKED, 42.5), 1, "0.13 ms left are too few");
  assert.equal(slackLevel(WORKED, 42.6), 0);
  // where Rt is no step, to be early is worth something; where it is flat, nothing is
  assert.equal(slackLevel(WORKED, 43, 0.1), 1);
  assert.equal(slackLevel(WORKED, 25, 0.001), 0);
});

test("queueLevel: alone as slack; hurries for others that can still be in time, not for those that can't", () => {
  const random = new Random(9);
  for (let i = 0; i < 1000; ++i) {
    const left = 60 * random.uniform() - 10;
    assert.equal(queueLevel(WORKED, left, []), slackLevel(WORKED, left), `${left}`);
  }
  const left = 43;
  assert.equal(queueLevel(WORKED, left, [{ leftMs: 100, latencyMs: 10 }]), 0, "all have time");
  assert.equal(queueLevel(WORKED, left, [{ leftMs: 44.5, latencyMs: 10 }]), 1, "0.06 lost for one in time");
  assert.equal(queueLevel(WORKED, left, [{ leftMs: 37, latencyMs: 10 }]), 2);
  assert.equal(queueLevel(WORKED, left, [{ leftMs: 5, latencyMs: 10 }]), 0, "it is lost anyway");
  assert.equal(queueLevel(WORKED, left, [{ leftMs: 5, latencyMs: 10 }, { leftMs: 54.5, latencyMs: 10 }]), 1);
  // everything is late by any choice: as early as can be
  assert.equal(queueLevel(WORKED, -100, [{ leftMs: -100, latencyMs: 10 }]), 2);
});

test("planLevel: alone as slack; a little sparser throughout where dense would be late at the end", () => {
  const random = new Random(10);
  for (let i = 0; i < 1000; ++i) {
    const left = 60 * random.uniform() - 10;
    assert.equal(planLevel(WORKED, left, []), slackLevel(WORKED, left), `${left}`);
  }
  // nine more tokens, one in 36 ms: the first has time enough for dense, and all are in time at 0.5
  const rest = Array.from(
    { length: 9 },
    (_, i) => ({ leftMs: 50 + 36 * (i + 1), latencyMs: 26, isSameReply: true }),
  );
  assert.deepEqual([slackLevel(WORKED, 50), queueLevel(WORKED, 50, rest), planLevel(WORKED, 50, rest)], [
    0,
    0,
    1,
  ]);
  // with 44 ms each dense is in time, with 27 even 0.7 is needed
  const every = (ms: number): typeof rest =>
    rest.map((token, i) => ({ ...token, leftMs: 50 + ms * (i + 1) }));
  assert.deepEqual([44, 27].map((ms) => planLevel(WORKED, 50, every(ms))), [0, 2]);
  // others take what they take
  assert.equal(planLevel(WORKED, 50, rest.map((token) => ({ ...token, isSameReply: false }))), 0);
});

test("layerLevel: as slack for a whole token; the less is left to run, the less is lost by hurrying", () => {
  const whole = WORKED.map(({ latencyMs }) => latencyMs);
  for (let left = -10; left < 60; left += 0.37) {
    assert.equal(layerLevel(WORKED, left, whole, 1), slackLevel(WORKED, left), `${left}`);
  }
  const half = whole.map((ms) => ms / 2);
  assert.deepEqual([25, 17.5, 14, 10].map((left) => layerLevel(WORKED, left, half, 0.5)), [0, 1, 2, 2]);
  // where a tenth is left, 0.03 ms of slack are worth more than what is lost
  const [left, tenth] = [1, [0.9, 0.9 * 0.8, 0.5]];
  assert.deepEqual([1, 0.01].map((share) => layerLevel(WORKED, left, tenth, share)), [1, 2]);
});

test("feedbackStep: sparser when the target is lost, denser after a clean window, else as it was", () => {
  const rule = { target: 0.9, hysteresis: 0.1, window: 10 };
  const run = (level: number, hits: string): number[] => {
    let state = { level, seen: 0, hits: 0 };
    return [...hits].map((hit) => (state = feedbackStep(state, hit === "1", 3, rule)).level);
  };
  assert.deepEqual(run(1, "1111111111"), [1, 1, 1, 1, 1, 1, 1, 1, 1, 0]);
  assert.deepEqual(run(1, "0111111111"), Array(10).fill(1), "9 of 10 is the target: within the hysteresis");
  assert.deepEqual(run(1, "0110"), [1, 1, 1, 2]);
  assert.deepEqual(run(2, "00"), [2, 2]);
  assert.deepEqual(run(0, "1".repeat(20)), Array(20).fill(0));
  // a new level has a new window
  assert.deepEqual(run(0, "00" + "1111111111" + "01"), [0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0]);
  assert.deepEqual(feedbackStep({ level: 1, seen: 18, hits: 18 }, false, 3), {
    level: 1,
    seen: 19,
    hits: 18,
  });
  assert.deepEqual(feedbackStep({ level: 1, seen: 18, hits: 17 }, false, 3), { level: 2, seen: 0, hits: 0 });
});

test("LatencyTable: an exponential mean; what was never measured, or long ago, starts anew", () => {
  const table = new LatencyTable([{ sparsity: 0, fidelity: 1 }, {
    sparsity: 0.5,
    fidelity: 0.9,
    latencyMs: 20,
  }]);
  assert.deepEqual(table.levels.map(({ latencyMs }) => latencyMs), [0, 20]);
  table.note(0, 40);
  table.note(0, 50);
  table.note(1, 30);
  assert.deepEqual(table.levels.map(({ latencyMs }) => latencyMs), [41, 21]);
  assert.ok(!table.isOld(0));
  for (let i = 0; i < 63; ++i) table.note(1, 21);
  assert.ok(table.isOld(0) && !table.isOld(1));
  table.note(0, 90);
  assert.equal(table.levels[0]!.latencyMs, 90);
  assert.deepEqual([table.indexOf(0.5), table.indexOf(0.4)], [1, -1]);
  const bad = [
    [],
    [{ sparsity: 0.5, fidelity: 1 }, { sparsity: 0, fidelity: 1 }],
    [{ sparsity: 1, fidelity: 1 }],
    [{ sparsity: 0, fidelity: 0 }],
    [
      { sparsity: 0, fidelity: 1, latencyMs: NaN },
    ],
    [{ sparsity: 0, fidelity: 1, energy: 2 }],
  ];
  for (const levels of bad) assert.throws(() => new LatencyTable(levels), RangeError, JSON.stringify(levels));
});

test("fidelity: assumed, or from perplexities", () => {
  assert.deepEqual([assumedFidelity(0), assumedFidelity(0.5)], [1, 0.95]);
  assert.deepEqual([perplexityFidelity(20, 25), perplexityFidelity(20, 19)], [0.8, 1]);
  const levels = [0, 0.5, 0.7].map((sparsity, i) => ({ ...WORKED[i]!, fidelity: assumedFidelity(sparsity) }));
  for (const [left, choice] of [[43, 0], [34.5, 1], [30, 2], [25, 2]] as const) {
    assert.equal(slackLevel(levels, left), choice);
  }
});

test("dialLevels: dense, steps within a recipe's range, and its own sparsity", () => {
  const recipe = { points: Array.from({ length: 91 }, (_, i) => i / 100), sparsity: 0.45 };
  assert.deepEqual(dialLevels(null), [0]);
  assert.deepEqual(dialLevels({ recipe } as never), [0, 0.3, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 0.9]);
  assert.deepEqual(dialLevels({ recipe: { points: [], sparsity: 0.5 } } as never), [0, 0.5]);
});

test("createPolicy: by name; what there is not is refused", () => {
  for (const name of ["fixed", "fixed:0.6", "fixed:", "fixed:x", "slack:1", "layers", ""]) {
    assert.throws(() => createPolicy(name, tableOf()), { name: "RangeError", message: /^policy: / }, name);
  }
  assert.equal(createPolicy("fixed:0.5", tableOf()).choose({ leftMs: 0, waiting: [] }), 1);
  assert.equal(createPolicy("slack", tableOf(), { k: 0.01 }).choose({ leftMs: 25, waiting: [] }), 0);
});

test("createPolicy: slack goes through levels that were not measured, and with explore back to what is denser", () => {
  const levels = [0, 0.5, 0.7].map((sparsity) => ({ sparsity, fidelity: assumedFidelity(sparsity) }));
  const table = new LatencyTable(levels), policy = createPolicy("slack", table, { explore: true });
  const within = (leftMs: number): number => policy.choose({ leftMs, waiting: [] });
  assert.equal(within(10), 0, "what was not measured is tried");
  policy.observe(0, 40, false);
  assert.equal(within(30), 1);
  policy.observe(1, 31, false);
  assert.equal(within(30), 2);
  policy.observe(2, 35, false);
  assert.equal(within(30), 1, "all are late, and 0.7 is slower still");
  assert.equal(within(41), 0);
  assert.equal(within(39), 1);
  const found: number[] = [];
  const back = new LatencyTable(levels), again = createPolicy("slack", back, { explore: true });
  const choose = (): number => again.choose({ leftMs: 30, waiting: [] });
  again.observe(0, 40, false);
  again.observe(1, 40, false);
  for (let i = 0; i < 64; ++i) {
    found.push(choose());
    again.observe(2, 20, true);
  }
  assert.deepEqual(found, Array(64).fill(2));
  assert.equal(choose(), 1, "one token in 64 tries the level below");
  assert.equal(createPolicy("slack", back).choose({ leftMs: 30, waiting: [] }), 2, "not without explore");
  again.observe(1, 25, true);
  assert.equal(back.levels[1]!.latencyMs, 25, "an old mean is replaced, not mended");
  assert.equal(choose(), 0, "and the next below, which is as old");
  again.observe(0, 39, false);
  assert.equal(choose(), 1);
});

test("replayTokens: the level follows what is measured, and its own choices change what comes", () => {
  // a token each 34.5 ms; from the 10th on the machine is slower
  const tokens = Array.from({ length: 40 }, (_, i) => ({ readyMs: 34.5 * i, deadlineMs: 34.5 * (i + 1) }));
  const latencies = [42, 33, 26].map((ms) => Array.from({ length: 40 }, (_, i) => i < 10 ? ms : 1.2 * ms));
  const run = (name: string): { levels: number[]; hits: number } => {
    const table = tableOf(), found = replayTokens(tokens, latencies, table, createPolicy(name, table));
    return {
      levels: found.map(({ level }) => level),
      hits: found.filter(({ endMs, deadlineMs }) => endMs <= deadlineMs).length,
    };
  };
  const slack = run("slack");
  assert.deepEqual(slack.levels.slice(0, 10), Array(10).fill(1));
  assert.deepEqual(slack.levels.slice(-10), Array(10).fill(2));
  assert.ok(slack.hits >= 36, `${slack.hits}`);
  const fixed = ["fixed:0", "fixed:0.5", "fixed:0.7"].map((name) => run(name).hits);
  assert.deepEqual(fixed, [0, 10, 40]);
  const feedback = run("feedback");
  assert.equal(feedback.levels[0], 0);
  assert.ok(feedback.hits > fixed[0]!);
  // tokens begin one after the other
  const table = tableOf(), found = replayTokens(tokens, latencies, table, createPolicy("fixed:0", table));
  found.slice(1).forEach(({ startMs }, i) =>
    assert.ok(startMs >= found[i]!.endMs && startMs >= tokens[i + 1]!.readyMs)
  );
  assert.throws(
    () => replayTokens(tokens, [[1], [1]], table, createPolicy("slack", table)),
    /none of level 2 found/,
  );
});

test("replayTokens: queue lets others have their time", () => {
  const tokens = [{ readyMs: 0, deadlineMs: 43 }, { readyMs: 0, deadlineMs: 61 }];
  const latencies = WORKED.map(({ latencyMs }) => [latencyMs]);
  const levels = (name: string): number[] => {
    const table = tableOf();
    return replayTokens(tokens, latencies, table, createPolicy(name, table)).map(({ level }) => level);
  };
  // dense leaves 18.6 ms for the second, half leaves 27.3
  assert.deepEqual(levels("slack"), [0, 2]);
  assert.deepEqual(levels("queue"), [1, 2]);
});

test("dialExecutor: a model with a dial beside a load that has none, scored with its fidelity", () => {
  const scenario = parseScenario({ models: [{ name: "LM", fps: 25 }, { name: "load", fps: 25 }] });
  const costs = [[{ cycles: 0, energyNJ: 0 }, { cycles: 5e6, energyNJ: 0 }]];
  const switches = readSwitches("corrected", []);
  const run = (name: string): { score: number; levels: (number | undefined)[]; late: number } => {
    const table = tableOf();
    const dial = {
      table,
      policy: createPolicy(name, table),
      latencies: WORKED.map(({ latencyMs }) => [latencyMs]),
    };
    const executor = dialExecutor(tableExecutor(costs, "latency", false), new Map([[0, dial]]));
    const { log } = simulate(scenario, executor, {
      seed: 1,
      durationMs: 400,
      maxJitterMs: 0,
      switches,
      order: "name",
    });
    const own = log.filter(({ model }) => model === "LM");
    return {
      score: scoreLog(log, { switches }).overall,
      levels: own.map(({ accuracy }) => accuracy),
      late:
        log.filter(({ dropped, completionMs, deadlineMs }) => dropped || completionMs > deadlineMs).length,
    };
  };
  const slack = run("slack"), queue = run("queue");
  const fixed = ["fixed:0", "fixed:0.5", "fixed:0.7"].map(run);
  assert.deepEqual(queue.late, 0);
  assert.ok(queue.score >= slack.score && slack.score >= Math.max(...fixed.map(({ score }) => score)) - 1e-9);
  assert.deepEqual([...new Set(queue.levels)], [0.94]);
  assert.ok(fixed[0]!.late > 5);
  assert.throws(
    () =>
      dialExecutor(
        tableExecutor(costs, "latency", false),
        new Map([[0, { table: tableOf(), policy: createPolicy("slack", tableOf()), latencies: [[1]] }]]),
      ),
    /none of level 1 of model 0/,
  );
});

test("dialExecutor: a policy hears when a frame ended, and whether that was in time", () => {
  const scenario = parseScenario({ models: [{ name: "LM", fps: 25 }] });
  const heard: unknown[] = [], table = tableOf();
  const policy = {
    choose: () => heard.length % 3,
    observe: (...outcome: unknown[]) => void heard.push(outcome),
  };
  const dial = { table, policy, latencies: [[42, 38], [33], [26]], energyMJ: [3, 2, 1] };
  const costs = [[{ cycles: 0, energyNJ: 0 }]];
  const executor = dialExecutor(tableExecutor(costs, "latency", false), new Map([[0, dial]]));
  const switches = readSwitches("corrected", []);
  const { log } = simulate(scenario, executor, {
    seed: 1,
    durationMs: 160,
    maxJitterMs: 0,
    switches,
    order: "name",
  });
  // 0 to 42, where the deadline was 40; 42 to 75; 80 to 106; dense again, frame 3 the second of two
  assert.deepEqual(heard, [[0, 42, false], [1, 33, true], [2, 26, true], [0, 38, true]]);
  assert.deepEqual(log.map(({ energyMJ }) => energyMJ), [3, 2, 1, 3]);
});

test("simulate: a job sees who else waits, and hears of its end", () => {
  const scenario = parseScenario({ models: [{ name: "b", fps: 10 }, { name: "a", fps: 10 }] });
  const seen: unknown[] = [];
  const frames: Frame[] = [0, 0, 1, 1].map((model, i) => ({
    model,
    frame: i % 2,
    injectionMs: 0,
    deadlineMs: 100,
  }));
  const switches = readSwitches("corrected", []);
  simulate(scenario, {
    accelerators: 1,
    expectedMs: () => 1,
    preference: () => 0,
    run({ model, frame, waiting }) {
      seen.push([model, frame, waiting().map((head) => [head.model, head.frame, head.deadlineMs])]);
      return { latencyMs: 3, energyMJ: 0 };
    },
    ended: ({ model, frame, nowMs }, endMs) => void seen.push([model, frame, nowMs, endMs]),
  }, { seed: 1, durationMs: 100, maxJitterMs: 0, switches, order: "name", frames });
  assert.deepEqual(seen, [
    [1, 0, [[1, 1, 100], [0, 0, 100]]],
    [1, 0, 0, 3],
    [1, 1, [[0, 0, 100]]],
    [1, 1, 3, 6],
    [0, 0, [[0, 1, 100]]],
    [0, 0, 6, 9],
    [0, 1, []],
    [0, 1, 9, 12],
  ]);
});
