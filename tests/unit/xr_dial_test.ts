/** The dial against fixed levels: mixtures, intervals, courses of recorded tokens, and replies that really run. */
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  builtinLevels,
  compareDial,
  compareWithDense,
  createPolicy,
  type DialCell,
  type DialOutcome,
  dialScenario,
  drawCourse,
  estimate,
  LatencyTable,
  type LevelsFile,
  liveExecutor,
  type LiveToken,
  type LmModel,
  measureTokens,
  partsOf,
  profileOf,
  ReplyRunner,
  runDial,
  runOn,
  sweepDial,
} from "../../src/xr/mod.ts";
import { dialFigure } from "../../src/xr/plots.ts";
import { assertWellFormed } from "../support/svg.ts";

const LOAD = { rate: 1, probability: 0.25, beside: 0 };

function cell(policy: string, runs: readonly Partial<DialOutcome>[]): DialCell {
  const none = { hitRate: 0, fidelity: 0, score: 0, allHitRate: 0, overall: 0 };
  return { load: LOAD, policy, runs: runs.map((run) => ({ ...none, ...run })) };
}

test("estimate: the mean, and an interval that holds it and shrinks with runs", () => {
  assert.deepEqual(estimate([0.25, 0.25, 0.25]), { mean: 0.25, low: 0.25, high: 0.25 });
  const few = estimate([0, 1, 0, 1]), many = estimate(Array.from({ length: 400 }, (_, i) => i % 2));
  assert.ok(few.low < 0.5 && few.high > 0.5 && few.mean === 0.5);
  // 1.96 standard errors of 400 coins are 0.049
  assert.ok(Math.abs(many.high - 0.549) < 0.01 && Math.abs(many.low - 0.451) < 0.01, JSON.stringify(many));
});

test("compareDial: the line between two fixed levels is theirs; each run against the same runs", () => {
  const fixed = [
    cell("fixed:0", [{ hitRate: 0.2, fidelity: 1, score: 0.2 }, { hitRate: 0.4, fidelity: 1, score: 0.4 }]),
    cell("fixed:0.5", [{ hitRate: 0.7, fidelity: 0.8, score: 0.56 }, {
      hitRate: 0.9,
      fidelity: 0.8,
      score: 0.72,
    }]),
  ];
  // halfway: 0.55 at fidelity 0.9
  const found = compareDial(
    cell("plan", [{ hitRate: 0.6, fidelity: 0.9, score: 0.54 }, {
      hitRate: 0.8,
      fidelity: 0.9,
      score: 0.72,
    }]),
    fixed,
  );
  assert.ok(Math.abs(found.hitRate.mean - 0.15) < 1e-9, JSON.stringify(found.hitRate));
  assert.ok(Math.abs(found.hitRate.low - found.hitRate.high) < 1e-9, "both runs gain the same");
  assert.deepEqual(found.hitRateAgainst.policies, ["fixed:0", "fixed:0.5"]);
  assert.ok(Math.abs(found.hitRateAgainst.share - 0.5) < 1e-9);
  // as often in time as 0.7 on the mean is fixed:0.5 alone, which scores most, too
  assert.deepEqual([found.scoreAgainst!.policies, found.bestScoreAgainst], [
    ["fixed:0.5", "fixed:0.5"],
    "fixed:0.5",
  ]);
  assert.ok(Math.abs(found.score!.mean - (0.63 - 0.64)) < 1e-9);
  assert.equal(found.bestScore.mean, found.score!.mean);
  // what no fixed level reaches is compared with none
  const above = compareDial(
    cell("plan", [{ hitRate: 0.95, fidelity: 0.7 }, { hitRate: 0.95, fidelity: 0.7 }]),
    fixed,
  );
  assert.deepEqual([above.score, above.scoreAgainst], [null, null]);
  assert.deepEqual(above.hitRateAgainst.policies, ["fixed:0.5", "fixed:0.5"]);
  // a level against itself gains nothing
  const same = compareDial({ ...fixed[1]!, policy: "same" }, fixed);
  assert.deepEqual(
    [same.hitRate.mean, same.score!.mean, same.bestScore.mean].map((x) => Math.abs(x) < 1e-9),
    [true, true, true],
  );
});

test("drawCourse: rows in runs of neighbours, from the seed alone", async () => {
  const levels = await builtinLevels(), rows = levels.tokenMs!.length;
  const { tokens, prompts } = drawCourse(levels, 30, 7);
  assert.deepEqual([tokens.length, prompts.length], [960, 30]);
  let jumps = 0;
  for (let i = 1; i < tokens.length; i++) jumps += Number(tokens[i] !== (tokens[i - 1]! + 1) % rows);
  assert.ok(jumps > 40 && jumps <= 60, `${jumps}`);
  assert.ok(
    Math.min(...tokens) >= 0 && Math.max(...tokens) < rows && Math.max(...prompts) < levels.promptMs!.length,
  );
  assert.deepEqual(drawCourse(levels, 30, 7), { tokens, prompts });
  assert.notDeepEqual(drawCourse(levels, 30, 8).tokens, tokens);
});

test("sweepDial: every level and policy on the same requests; with time for all, dense is in time", async () => {
  const levels = await builtinLevels();
  const load = { rate: 0.2, probability: 0.1, beside: 0 };
  const cells = [
    ...sweepDial({
      levels,
      loads: [load, LOAD],
      policies: ["slack", "plan"],
      seeds: [1, 2],
      durationMs: 4000,
    }),
  ];
  assert.equal(cells.length, 2 * (levels.levels.length + 2));
  assert.deepEqual(cells.map(({ policy }) => policy).slice(-2), ["slack", "plan"]);
  for (const { runs } of cells) {
    for (const run of runs) Object.values(run).forEach((value) => assert.ok(Number.isFinite(value)));
  }
  assert.deepEqual(runDial(levels, LOAD, "plan", 2, 4000), cells.at(-1)!.runs[1]);
  const { svg, csv } = await dialFigure(cells, "a note");
  assertWellFormed(svg);
  assert.equal(csv.trim().split("\n").length, cells.length + 1);
  // 30 fps of 20 % are 6.67 ms each
  const beside = dialScenario(levels, { ...LOAD, beside: 0.2 }).models[3]!;
  assert.ok(Math.abs(beside.cost!.latencyMs - 20 / 3) < 1e-12);
});

/** A model whose logits say how it was asked: the likeliest token is the last plus one; sparse, it doubts. */
function fakeModel(
  blocks: number,
  asked: (number | undefined)[][] = [],
): LmModel & { closed: number; longest: number; ran: number[] } {
  const logits = (id: number, doubt: number): Float32Array =>
    Float32Array.from({ length: 8 }, (_, i) => i === (id + 1) % 8 ? 4 - 2 * doubt : 0);
  const model = {
    closed: 0,
    longest: 0,
    ran: [] as number[],
    session: () => {
      let length = 0;
      return {
        sparsity: 0,
        get length() {
          return length;
        },
        prefill(ids: readonly number[]) {
          length += ids.length;
          return logits(ids.at(-1)!, 0);
        },
        decode(id: number, options: { beforeBlock?: (block: number) => number | undefined } = {}) {
          model.ran.push(this.sparsity);
          model.longest = Math.max(model.longest, ++length);
          let sum = 0, at = this.sparsity;
          const turns: (number | undefined)[] = [];
          for (let block = 0; block < blocks; block++) {
            const turned = options.beforeBlock?.(block);
            turns.push(turned);
            at = turned ?? at;
            sum += at;
          }
          options.beforeBlock?.(blocks);
          asked.push(turns);
          return logits(id, sum / blocks);
        },
        truncate(n: number) {
          length = n;
        },
        close() {
          model.closed++;
        },
      };
    },
  };
  return model;
}

test("ReplyRunner, compareWithDense: tokens follow one another; what ran dense is no different from dense", () => {
  const model = fakeModel(4), runner = new ReplyRunner(model, [[1, 2], [5]]);
  assert.throws(() => runner.next(0), /call begin first/);
  assert.equal(runner.begin(0).id, 3);
  assert.deepEqual([runner.next(0).id, runner.next(0.5).id], [4, 5]);
  assert.deepEqual([runner.begin(3).id, runner.promptOf(3)], [6, [5]], "prompts come round");
  runner.end();
  runner.end();
  assert.equal(model.closed, 2);
  const worth = compareWithDense(model, [1, 2], [
    { id: 3, sparsity: 0 },
    { id: 4, sparsity: 0 },
    { id: 5, sparsity: 0.5 },
    { id: 6, sparsity: [0, 0, 0.5, 0.5] },
  ]);
  assert.equal(worth.length, 3);
  assert.ok(Math.abs(worth[0]!.kl) < 1e-12);
  assert.ok(worth[1]!.kl > worth[2]!.kl && worth[2]!.kl > 0);
  assert.ok(Math.abs(worth[0]!.denseNll - Math.log(1 + 7 * Math.exp(-4))) < 1e-6);
  assert.equal(model.closed, 4);
});

test("measureTokens: all levels at each token, in turns, part by part, on the text's own tokens", () => {
  assert.deepEqual([partsOf(30), partsOf(4), partsOf(7)], [[5, 5, 5, 5, 5, 5, 0], [1, 1, 1, 1, 0], [
    1,
    1,
    1,
    1,
    1,
    2,
    0,
  ]]);
  const ids = Array.from({ length: 20 }, (_, i) => i % 8), model = fakeModel(4);
  let yields = 0, last;
  for (const times of measureTokens(model, { ids, blocks: 4 }, { prompt: 2, tokens: 4 }, [0, 0.5])) {
    last = times;
    yields++;
  }
  // three replies of 6 tokens fit in 20, with 3 tokens each after the first
  assert.deepEqual([yields, last!.promptMs.length, last!.tokenMs.length, model.closed], [9, 3, 9, 3]);
  assert.deepEqual(model.ran.slice(0, 6), [0, 0.5, 0.5, 0, 0, 0.5]);
  assert.equal(model.longest, 5, "a token is there once, however many levels it ran at");
  for (const row of last!.tokenMs) {
    assert.deepEqual(row.map(({ length }) => length), [5, 5]);
    assert.ok(row.flat().every((ms) => ms >= 0 && Number.isFinite(ms)));
  }
});

test("liveExecutor: a run by the clock is scored as any other, and says how each block ran", () => {
  const levels: LevelsFile = {
    format: 1,
    blocks: [2, 2, 0],
    levels: [0, 0.5].map((sparsity) => ({
      sparsity,
      fidelity: 1 - sparsity / 5,
      latencyMs: { p50: 0.2, p95: 0.3 },
    })),
  };
  const scenario = dialScenario(levels, { rate: 0.01, probability: 1, beside: 0.1 }, 700);
  const table = new LatencyTable(
    levels.levels.map(({ sparsity, fidelity, latencyMs }) => ({
      sparsity,
      fidelity,
      latencyMs: latencyMs.p95,
    })),
  );
  const tokens: LiveToken[] = [];
  const executor = liveExecutor(scenario.models.map(({ cost }) => cost?.latencyMs ?? 0), {
    model: 2,
    runner: new ReplyRunner(fakeModel(4), [[1, 2]]),
    table,
    policy: createPolicy("layer", table),
    profile: profileOf(levels),
    blocks: 4,
    partOf: new Map([[0, 0], [2, 1], [4, 2]]),
    promptMs: 1,
  }, (token) => tokens.push(token));
  const { result, log } = runOn(scenario, executor, { mode: "corrected", order: "edf", setting: null });
  assert.equal(result.models["LM"]!.nRequired, 64);
  assert.equal(tokens.length, result.models["LM"]!.nExecuted);
  tokens.forEach(({ id, sparsities, reply }, i) => {
    assert.equal(id, (3 + i % 32) % 8);
    assert.equal(reply, Math.floor(i / 32));
    assert.equal(sparsities.length, i % 32 === 0 ? 0 : 4);
  });
  let before = 0;
  for (const { dropped, dispatchMs, completionMs, model } of log) {
    if (dropped) continue;
    assert.ok(dispatchMs >= before, "one thing at a time");
    assert.ok(completionMs - dispatchMs >= (model === "SR" ? 40 : 0), model);
    before = completionMs;
  }
});
