import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { planBudget, planOfficialBudget } from "../../src/recipe/budget.ts";
import { requireShared, skipWithout } from "../support/shared.ts";

/** Rows of `spec/rsparse.md`, section 3: sparsity, rho, then channels and rank of q, k, gate and down. */
const SMOLLM2: [number, number, ...[number, number][]][] = [
  [0.4, 0.95, [328, 8], [328, 4], [328, 12], [875, 12]],
  [0.5, 1, [288, 0], [288, 0], [288, 0], [768, 0]],
  [0.5, 0.95, [273, 7], [273, 3], [273, 10], [729, 10]],
  [0.5, 0.9, [259, 14], [259, 7], [259, 21], [691, 21]],
  [0.5, 0.8, [230, 29], [230, 14], [230, 42], [614, 42]],
  [0.6, 0.95, [218, 6], [218, 3], [218, 9], [583, 8]],
  [0.7, 0.95, [164, 4], [164, 2], [164, 6], [437, 6]],
];
const SHAPES = [[576, 576], [576, 192], [576, 1536], [1536, 576]] as const;

function read(relative: string): unknown {
  return JSON.parse(readFileSync(requireShared(relative), "utf8"));
}

test("planBudget: the specification's table for SmolLM2-135M", () => {
  for (const [sparsity, rho, ...wanted] of SMOLLM2) {
    wanted.forEach(([activeChannels, rank], i) => {
      const [nIn, nOut] = SHAPES[i]!;
      assert.deepEqual(
        planBudget({ nIn, nOut }, sparsity, rho),
        { activeChannels, rank },
        `${sparsity} ${rho} ${i}`,
      );
    });
  }
});

test("planBudget: never exceeds the kept share, and has less than one rank's worth left", () => {
  for (const [nIn, nOut] of [[1, 1], [1, 9], [9, 1], [7, 5], [576, 192], [1000, 333]] as const) {
    for (let s = 0; s < 100; s += 3) {
      for (let r = 0; r <= 100; r += 4) {
        const sparsity = s / 100, rho = r / 100;
        const { activeChannels, rank } = planBudget({ nIn, nOut }, sparsity, rho);
        const left = nIn * nOut * (1 - sparsity) - activeChannels * nOut - rank * (nIn + nOut);
        const what = `${nIn} ${nOut} ${sparsity} ${rho}`;
        assert.ok(
          activeChannels >= 0 && activeChannels <= nIn && rank >= 0 && rank <= Math.min(nIn, nOut),
          what,
        );
        assert.ok(left > -1e-9 * nIn * nOut && left < nIn + nOut, what);
        if (rho === 1) assert.equal(rank, 0, what);
      }
    }
  }
});

test("planBudget: refuses shares outside their range and sizes that are none", () => {
  const shape = { nIn: 8, nOut: 8 };
  for (const sparsity of [-0.1, 1, 1.5, NaN, Infinity]) {
    assert.throws(() => planBudget(shape, sparsity, 1), RangeError);
  }
  for (const rho of [-0.1, 1.01, NaN]) {
    assert.throws(() => planBudget(shape, 0.5, rho), RangeError);
    assert.throws(() => planOfficialBudget(shape, 0.5, rho, true), RangeError);
  }
  for (const nIn of [0, -1, 1.5, NaN]) assert.throws(() => planBudget({ nIn, nOut: 8 }, 0.5, 1), RangeError);
});

test("planOfficialBudget: at least one of each where rho comes from a file", () => {
  assert.deepEqual(planOfficialBudget({ nIn: 96, nOut: 160 }, 0, 0, true), {
    targetSparsity: 1,
    activeChannels: 1,
    rank: 59,
  });
  assert.deepEqual(planOfficialBudget({ nIn: 96, nOut: 160 }, 0, 0, false), {
    targetSparsity: 1,
    activeChannels: 0,
    rank: 60,
  });
  assert.equal(planOfficialBudget({ nIn: 96, nOut: 160 }, 0.5, 1, true).rank, 1);
});

test(
  "planBudget, planOfficialBudget: the 640 golden budgets",
  { skip: skipWithout("golden/rsparse") },
  () => {
    const { rows } = read("golden/rsparse/budget.json") as { rows: number[][] };
    assert.equal(rows.length, 640);
    for (const row of rows) {
      const [nIn, nOut, sparsity, rho, targetSparsity, channels, rank, channelsFromFile, rankFromFile] = row;
      const shape = { nIn: nIn!, nOut: nOut! };
      assert.deepEqual(planBudget(shape, sparsity!, rho!), { activeChannels: channels, rank }, String(row));
      assert.deepEqual(
        planOfficialBudget(shape, sparsity!, rho!, false),
        { targetSparsity, activeChannels: channels, rank },
        String(row),
      );
      assert.deepEqual(
        planOfficialBudget(shape, sparsity!, rho!, true),
        { targetSparsity, activeChannels: channelsFromFile, rank: rankFromFile },
        String(row),
      );
    }
  },
);

test("planBudget, planOfficialBudget: the specification's cases and the released recipe", {
  skip: skipWithout("spec/rsparse_budgets.json"),
}, () => {
  const { plan, releasedRecipe } = read("spec/rsparse_budgets.json") as {
    plan: [string, string, number, number, number, number, number, number][];
    releasedRecipe: { sparsity: number; rows: [number, string, number, number, number, number, number][] };
  };
  assert.ok(plan.length > 700);
  for (const [model, name, nIn, nOut, sparsity, rho, activeChannels, rank] of plan) {
    const what = `${model} ${name} ${sparsity} ${rho}`;
    assert.deepEqual(planBudget({ nIn, nOut }, sparsity, rho), { activeChannels, rank }, what);
  }
  const hidden = 4096, mlp = 14336, kv = 1024;
  const shapes: { [name: string]: [number, number] } = {
    q: [hidden, hidden],
    k: [hidden, kv],
    v: [hidden, kv],
    o: [hidden, hidden],
    gate: [hidden, mlp],
    up: [hidden, mlp],
    down: [mlp, hidden],
  };
  for (
    const [layer, name, rho, officialChannels, officialRank, activeChannels, rank] of releasedRecipe.rows
  ) {
    const [nIn, nOut] = shapes[name]!, what = `${layer} ${name}`, attention = name.length === 1;
    const square = attention ? { nIn: hidden, nOut: hidden } : { nIn, nOut };
    const official = planOfficialBudget(square, releasedRecipe.sparsity, rho, true);
    assert.deepEqual([official.activeChannels, official.rank], [officialChannels, officialRank], what);
    assert.deepEqual(planBudget({ nIn, nOut }, releasedRecipe.sparsity, rho), { activeChannels, rank }, what);
  }
});
