/** Replies: deadlines of tokens, late ones, those that wait, and dials, against cases worked out by hand. */
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  builtinHardware,
  builtinLevels,
  builtinScenario,
  dialOf,
  type LevelsFile,
  parseLevels,
  parseScenario,
  parseTrace,
  replayTokens,
  type Run,
  runOn,
  type RunOptions,
  runScenario,
  type Scenario,
  tableExecutor,
  tokenDeadlineMs,
  traceOf,
} from "../../src/xr/mod.ts";
import { Random } from "../support/kernels.ts";

const hardware = await builtinHardware(), voice = await builtinScenario("voice_assistant");
const SETTING = "Dual_4K__WS_OS";
/** 20 ms a token, the first within 50. */
const SHORT = { prompt: 1, tokens: 4, ttftMs: 50, tokenRate: 50 };
/** No jitter, so that times are round. */
const PLAIN: RunOptions = { mode: "corrected", maxJitterMs: 0 };

function talker(reply: object, fps: number, durationMs: number, latencyMs: number): Scenario {
  return parseScenario({
    id: "talker",
    durationMs,
    models: [{ name: "LM", fps, reply, cost: { latencyMs, energyMJ: 0 } }],
  });
}

/** On accelerators where models take what the scenario says. */
function run(scenario: Scenario, options: RunOptions = {}, accelerators = 1): Run {
  const costs = scenario.models.map(({ cost }) => ({
    cycles: 1e6 * (cost?.latencyMs ?? 0),
    energyNJ: 1e6 * (cost?.energyMJ ?? 0),
  }));
  const executor = tableExecutor(Array.from({ length: accelerators }, () => costs), "latency", false);
  return runOn(scenario, executor, { ...PLAIN, setting: null, ...options });
}

/** Frame, injection, dispatch, deadline, completion, reason. */
function linesOf({ log }: Run, model = "LM"): (number | string)[][] {
  return log.filter((entry) => entry.model === model).map((entry) => [
    entry.frame,
    entry.injectionMs,
    entry.dispatchMs,
    entry.deadlineMs,
    entry.completionMs,
    entry.dropped ? entry.reason : "",
  ]);
}

test("tokenDeadlineMs: a + ttftMs + j * 1000 / tokenRate", () => {
  const { reply } = voice.models[2]!;
  assert.deepEqual([0, 3, 31].map((token) => tokenDeadlineMs(reply!, 1000, token)), [
    1200,
    1300,
    1200 + 31000 / 30,
  ]);
});

test("a reply that is too slow: its late tokens score near 0, and none is dropped", () => {
  const made = run(talker(SHORT, 1, 1000, 40));
  assert.deepEqual(linesOf(made), [
    [0, 0, 0, 50, 40, ""],
    [1, 0, 40, 70, 80, ""],
    [2, 0, 80, 90, 120, ""],
    [3, 0, 120, 110, 160, ""],
  ]);
  const { LM } = made.result.models;
  assert.deepEqual([LM!.nRequired, LM!.nExecuted, LM!.nDropped, LM!.nLate, LM!.hitRate], [4, 4, 0, 3, 0.25]);
  assert.ok(Math.abs(LM!.score - 0.25) < 1e-6, `${LM!.score}`);
  assert.deepEqual(LM!.replies, {
    replies: 1,
    finished: 1,
    timeToFirstTokenMs: { p50: 40, p95: 40 },
    tokensPerSecond: 25,
    onTime: 0.25,
    replyMs: { p50: 160, p95: 160 },
  });
});

test("late abort: the rest is dropped when a token is more than a token's period late, not before", () => {
  const reply = { ...SHORT, late: "abort" };
  // token 2 is 30 ms late
  const made = run(talker(reply, 1, 1000, 40));
  assert.deepEqual(linesOf(made).slice(2), [[2, 0, 80, 90, 120, ""], [3, 0, 120, 110, 120, "late"]]);
  const { LM } = made.result.models;
  assert.deepEqual([LM!.nRequired, LM!.nExecuted, LM!.nDropped, LM!.replies!.finished], [4, 3, 1, 0]);
  assert.equal(LM!.replies!.replyMs, null);
  // tokens of 30 ms: token 3 is 10 late, within the period; of 45: token 1 is 20 late, exactly, and token 2 more
  assert.equal(run(talker(reply, 1, 1000, 30)).result.models["LM"]!.nDropped, 0);
  assert.equal(run(talker(reply, 1, 1000, 45)).result.models["LM"]!.nDropped, 1);
});

test("a reply that waits is dropped with all its tokens once its first one's deadline has passed", () => {
  // the first runs until 160; the second came at 100
  const late = run(talker(SHORT, 10, 200, 40));
  assert.deepEqual(linesOf(late).slice(4), [
    [4, 100, 160, 150, 160, "late"],
    [5, 100, 160, 170, 160, "late"],
    [6, 100, 160, 190, 160, "late"],
    [7, 100, 160, 210, 160, "late"],
  ]);
  assert.deepEqual([late.result.dropRate, late.result.models["LM"]!.nRequired], [0.5, 8]);
  // 160 is not after 160
  const just = run(talker({ ...SHORT, ttftMs: 60 }, 10, 200, 40));
  assert.deepEqual(linesOf(just)[4], [4, 100, 160, 160, 200, ""]);
  // two accelerators don't help: one reply of a model runs at a time
  assert.deepEqual(linesOf(run(talker(SHORT, 10, 200, 40), {}, 2)), linesOf(late));
});

test("a reply is ready when its upstream frame is done, and gone with it", () => {
  const scenario = (latencyMs: number, ttftMs: number): Scenario =>
    parseScenario({
      durationMs: 200,
      models: [
        { name: "SR", fps: 10, cost: { latencyMs, energyMJ: 0 } },
        {
          name: "LM",
          fps: 10,
          dependencies: ["SR"],
          reply: { ...SHORT, ttftMs },
          cost: { latencyMs: 10, energyMJ: 0 },
        },
      ],
    });
  const made = run(scenario(60, 50), {}, 2);
  assert.deepEqual(linesOf(made), [
    ...[0, 1, 2, 3].map((j) => [j, 60, 60 + 10 * j, 110 + 20 * j, 70 + 10 * j, ""]),
    ...[0, 1, 2, 3].map((j) => [4 + j, 160, 160 + 10 * j, 210 + 20 * j, 170 + 10 * j, ""]),
  ]);
  // not dropped before it is ready, however short its time is then
  assert.equal(run(scenario(90, 1), {}, 2).result.models["LM"]!.nDropped, 0);
  // SR takes 210: frame 1 waits until 210, after its deadline of 200, and its reply goes with it
  const gone = run(scenario(210, 50), {}, 1);
  assert.deepEqual(
    linesOf(gone).filter(([, , , , , reason]) => reason === "upstream").map(([frame]) => frame),
    [4, 5, 6, 7],
  );
});

test("tokens share an accelerator with other models' frames", () => {
  const scenario = parseScenario({
    durationMs: 100,
    models: [
      { name: "A", fps: 40, cost: { latencyMs: 5, energyMJ: 0 } },
      { name: "LM", fps: 10, reply: SHORT, cost: { latencyMs: 10, energyMJ: 0 } },
    ],
  });
  // A at 0, 25, 50, 75; it goes first, and a token is not cut short for it
  assert.deepEqual(linesOf(run(scenario)).map(([, , dispatch, , end]) => [dispatch, end]), [
    [5, 15],
    [15, 25],
    [30, 40],
    [40, 50],
  ]);
});

test("replies are for the corrected rules: a switch that changes queues or times is refused, by name", () => {
  assert.throws(() => run(talker(SHORT, 1, 1000, 1), { mode: "compat" }), {
    name: "RangeError",
    message: /^models\[0\]\.reply: LM .* --mode corrected wanted/,
  });
  assert.throws(
    () => runScenario(voice, SETTING, hardware, PLAIN),
    /models\[2\]\.name: "LM" has no cost .* give it a dial/,
  );
  for (
    const [reply, place] of [
      [{ tokens: 0 }, /models\[0\]\.reply\.tokens: 0 found/],
      [{ tokenRate: 0 }, /models\[0\]\.reply\.tokenRate: 0 found/],
      [{ ttftMs: -1 }, /models\[0\]\.reply\.ttftMs: -1 found/],
      [{ late: "never" }, /models\[0\]\.reply\.late: "never" found, continue or abort wanted/],
      [{ tokns: 3 }, /models\[0\]\.reply\.tokns: no such field/],
    ] as const
  ) {
    assert.throws(() => parseScenario({ models: [{ name: "LM", fps: 1, reply }] }), {
      name: "XrError",
      message: place,
    });
  }
});

/** Levels without noise: a token takes 40, 30 or 20 ms, half of it in each of two parts. */
const LEVELS: LevelsFile = parseLevels({
  format: 1,
  levels: [[0, 40, 1], [0.5, 30, 0.9], [0.7, 20, 0.5]].map(([sparsity, ms, fidelity]) => ({
    sparsity,
    fidelity,
    latencyMs: { p50: ms, p95: ms },
  })),
});

function withDial(scenario: Scenario, policy: string, levels = LEVELS, options: RunOptions = {}): Run {
  const dial = { ...dialOf(levels, policy), model: "LM", name: policy };
  return runScenario(scenario, SETTING, hardware, { ...PLAIN, ...options, dials: [dial] });
}

test("dial: fixed levels, and slack by hand: dense while there is time, then as sparse as need be", () => {
  // deadlines 50, 70, 90, 110
  const scenario = talker(SHORT, 1, 1000, 0);
  const choices = (policy: string): unknown[] =>
    withDial(scenario, policy).log.map(({ sparsity, completionMs }) => [sparsity, completionMs]);
  assert.deepEqual(choices("fixed:0.5"), [[0.5, 30], [0.5, 60], [0.5, 90], [0.5, 120]]);
  // 40 is in time; 30 from 40 is 70, without the tenths that are needed, so 20: 60; 30 more would be 90, again too late
  assert.deepEqual(choices("slack"), [[0, 40], [0.7, 60], [0.7, 80], [0.7, 100]]);
  // all at 0.5 end at 30, 60, 90, 120 and gain 0.9 + 0.9 + 0.45, at 0.7 four times 0.5; from 30 on 0.9 + 0.45 and 1.5, from 50 1.35 and 1, then 0.45 and 0.5
  assert.deepEqual(choices("plan").map((choice) => (choice as number[])[0]), [0.5, 0.7, 0.5, 0.7]);
  const { result } = withDial(scenario, "slack");
  assert.deepEqual(result.dials![0]!.levels.map(({ frames }) => frames), [1, 0, 3]);
  assert.equal(result.models["LM"]!.accuracy, (1 + 3 * 0.5) / 4);
  assert.equal(result.models["LM"]!.hitRate, 1);
});

test("dial: token 0 takes the prompt, dense, and no policy is asked", () => {
  const levels = { ...LEVELS, promptMs: [45, 100] };
  const { log } = withDial(talker(SHORT, 1, 2000, 0), "fixed:0.7", levels);
  assert.deepEqual(
    log.map(({ frame, completionMs, sparsity, accuracy }) => [frame, completionMs, sparsity, accuracy]),
    [[0, 45, 0, 1], [1, 65, 0.7, 0.5], [2, 85, 0.7, 0.5], [3, 105, 0.7, 0.5]].concat(
      [[4, 1100, 0, 1], [5, 1120, 0.7, 0.5], [6, 1140, 0.7, 0.5], [7, 1160, 0.7, 0.5]],
    ),
  );
});

test("dial layer: a token that finds itself late hurries from its next part on, and is worth what its blocks are", () => {
  // at the first token of level 0 the first part takes 30 instead of 20
  const slow = [[30, 20], [15, 15], [10, 10]], plain = [[20, 20], [15, 15], [10, 10]];
  const levels = parseLevels({ ...LEVELS, blocks: [3, 3], tokenMs: [slow, plain, plain, plain] });
  const scenario = talker({ ...SHORT, tokens: 1, ttftMs: 45 }, 1, 1000, 0);
  const of = (policy: string): unknown[] =>
    withDial(scenario, policy, levels).log.map(({ sparsity, completionMs }) => [sparsity, completionMs]);
  assert.deepEqual(of("slack"), [[0, 50]]);
  // after 30 ms 15 are left: 20 and 15 would be late, 10 are not
  assert.deepEqual(of("layer"), [[0.35, 40]]);
  const { accuracy } = withDial(scenario, "layer", levels).log[0]!;
  assert.ok(Math.abs(accuracy! - Math.sqrt(0.5)) < 1e-15, "half of what 0.7 loses, in logarithms");
});

test("voice_assistant: N counts tokens, seeds decide all, and the same seed gives the same bytes", async () => {
  const levels = await builtinLevels();
  for (const policy of ["fixed:0", "slack", "queue", "feedback", "layer", "plan"]) {
    const of = (seed: number): string => JSON.stringify(withDial(voice, policy, levels, { seed }).result);
    assert.equal(of(3), of(3), policy);
    assert.notEqual(of(3), of(4), policy);
  }
  const { result, requests } = withDial(voice, "slack", levels, { seed: 3, maxJitterMs: 0.01 });
  const replies = requests.filter(({ model }) => model === "LM").length;
  assert.equal(result.models["LM"]!.nRequired, 32 * replies);
  assert.equal(result.models["LM"]!.nExecuted + result.models["LM"]!.nDropped, 32 * replies);
  assert.equal(replies, requests.filter(({ model }) => model === "ASR_EM_24L").length);
  assert.equal(result.durationMs, 10_000);
});

test("a policy chooses the same online and when its tokens are gone through again", async () => {
  const levels = await builtinLevels();
  for (const policy of ["fixed:0.5", "slack", "feedback"]) {
    const scenario = talker({ prompt: 1, tokens: 40, ttftMs: 100, tokenRate: 55 }, 1, 4000, 0);
    const tables = { ...levels, promptMs: undefined };
    const { log } = withDial(scenario, policy, tables);
    assert.equal(log.length, 160);
    const dial = dialOf(tables, policy);
    const again = replayTokens(
      log.map(({ injectionMs, deadlineMs }) => ({ readyMs: injectionMs, deadlineMs })),
      dial.latencies,
      dial.table,
      dial.policy,
    );
    assert.deepEqual(
      again.map(({ level, endMs }) => [levels.levels[level]!.sparsity, endMs]),
      log.map(({ sparsity, completionMs }) => [sparsity, completionMs]),
      policy,
    );
  }
});

test("a trace of replies runs again to the same log", async () => {
  const made = withDial(voice, "layer", await builtinLevels(), { seed: 5 });
  const { seed, durationMs } = made.result;
  const text = JSON.stringify(traceOf(voice, { ...made, seed, durationMs, accelerators: 2 }));
  const trace = parseTrace(JSON.parse(text));
  const again = runOn(trace.scenario, trace.executor!, {
    mode: "corrected",
    frames: trace.frames,
    setting: null,
  });
  const near = ({ log }: Run): unknown[] =>
    log.map(({ model, frame, dropped, completionMs, accuracy, sparsity }) => [
      model,
      frame,
      dropped,
      completionMs.toFixed(6),
      accuracy,
      sparsity,
    ]);
  assert.deepEqual(near(again), near(made));
});

test("properties: tokens come one after the other, one reply at a time, none is lost", () => {
  const random = new Random(11);
  for (let i = 0; i < 1000; ++i) {
    const tokens = 1 + random.below(6);
    const reply = {
      prompt: 1,
      tokens,
      ttftMs: 100 * random.uniform(),
      tokenRate: 10 + 200 * random.uniform(),
      late: random.below(2) === 0 ? "continue" : "abort",
    };
    const scenario = parseScenario({
      durationMs: 400,
      models: [
        {
          name: "SR",
          fps: 20,
          probability: random.uniform(),
          cost: { latencyMs: 60 * random.uniform(), energyMJ: 0 },
        },
        {
          name: "LM",
          fps: 20,
          dependencies: ["SR"],
          reply,
          cost: { latencyMs: 30 * random.uniform(), energyMJ: 0 },
        },
        { name: "load", fps: 30, cost: { latencyMs: 30 * random.uniform(), energyMJ: 0 } },
      ],
    });
    const order = (["name", "edf", "slack"] as const)[random.below(3)]!;
    const { log, requests } = run(scenario, { seed: i, order, maxJitterMs: 1 }, 1 + random.below(2));
    const lines = log.filter(({ model }) => model === "LM");
    const asked = requests.filter(({ model }) => model === "LM").map(({ frame }) => frame);
    assert.deepEqual(
      lines.map(({ frame }) => frame).sort((a, b) => a - b),
      asked.sort((a, b) => a - b).flatMap((frame) =>
        Array.from({ length: tokens }, (_, j) => frame * tokens + j)
      ),
      `case ${i}`,
    );
    const executed = lines.filter(({ dropped }) => !dropped);
    executed.forEach(({ dispatchMs, frame, injectionMs }, j) => {
      const before = executed[j - 1];
      assert.ok(dispatchMs >= injectionMs);
      if (before === undefined) return;
      assert.ok(dispatchMs >= before.completionMs, `case ${i}: tokens overlap`);
      assert.ok(
        frame === before.frame + 1 || frame % tokens === 0,
        `case ${i}: a reply begins within another`,
      );
    });
  }
});

test("parseLevels: what does not fit is refused, with its place", () => {
  const level = { sparsity: 0, fidelity: 1, latencyMs: { p50: 1, p95: 2 } };
  const bad: [object, RegExp][] = [
    [{ levels: [level] }, /format: nothing found/],
    [{ format: 1, levels: [] }, /levels: a list of 0 found/],
    [{ format: 1, levels: [level, level] }, /levels\[1\]\.sparsity: 0 found after 0: ascending wanted/],
    [{ format: 1, levels: [{ ...level, fidelity: 0 }] }, /levels\[0\]\.fidelity: 0 found/],
    [
      { format: 1, levels: [{ ...level, latencyMs: { p50: 1 } }] },
      /levels\[0\]\.latencyMs\.p95: nothing found/,
    ],
    [{ format: 1, levels: [level], tokenMs: [[[1], [2]]] }, /tokenMs\[0\]: 2 levels found, 1 wanted/],
    [{ format: 1, levels: [level], tokenMs: [[[1, 2]]] }, /tokenMs\[0\]\[0\]: 2 parts found, 1 wanted/],
    [{ format: 1, levels: [level], tokenMs: [[[-1]]] }, /tokenMs\[0\]\[0\]\[0\]: -1 found/],
    [{ format: 1, levels: [level], blocks: [0], tokenMs: [[[1]]] }, /blocks: no block found/],
  ];
  for (const [value, message] of bad) {
    assert.throws(() => parseLevels(value, "mine"), { name: "XrError", message });
  }
});
