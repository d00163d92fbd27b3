import assert from "node:assert/strict";
import { test } from "node:test";
import { benchActivations, benchThreshold } from "../../src/cli/bench/activations.ts";
import { inverseOf, type Row, rowTable, statOf, withSpeedups } from "../../src/cli/bench/rows.ts";

const about = { shape: "s", dtype: "int4", variant: "dense" };

test("statOf: median and extremes of odd and even counts", () => {
  assert.deepEqual(statOf([3, 1, 2]), { median: 2, min: 1, max: 3, n: 3 });
  assert.deepEqual(statOf([4, 1, 10, 2]), { median: 3, min: 1, max: 10, n: 4 });
  assert.deepEqual(statOf([7]), { median: 7, min: 7, max: 7, n: 1 });
});

test("inverseOf: the slowest becomes the least", () => {
  assert.deepEqual(inverseOf({ median: 2, min: 1, max: 4, n: 3 }, 8), { median: 4, min: 2, max: 8, n: 3 });
});

test("withSpeedups: over the dense row of the same name, of speeds and of times", () => {
  const rows: Row[] = [
    { ...about, name: "decode", sparsity: 0, tokensPerSecond: statOf([10]) },
    { ...about, name: "down", sparsity: 0, ms: statOf([8]) },
    { ...about, name: "decode", sparsity: 0.5, tokensPerSecond: statOf([15]) },
    { ...about, name: "down", sparsity: 0.5, ms: statOf([4]) },
    { ...about, name: "alone", sparsity: 0.5, ms: statOf([4]) },
  ];
  assert.deepEqual(withSpeedups(rows).map(({ speedup }) => speedup), [
    undefined,
    undefined,
    1.5,
    2,
    undefined,
  ]);
});

test("rowTable: a line a row, with the columns of kernels only where there are some", () => {
  const decode: Row = {
    ...about,
    name: "decode",
    sparsity: 0,
    tokensPerSecond: statOf([200, 190, 210]),
    layersHeld: 8,
    layers: 32,
  };
  assert.deepEqual(rowTable([decode]).split("\n").map((line) => line.split(/ {2,}/)), [
    [
      "what",
      "model",
      "dtype",
      "variant",
      "sparsity",
      "measured",
      "median",
      "min",
      "max",
      "n",
      "unit",
      "speedup",
    ],
    ["decode (8 of 32 blocks)", "s", "int4", "dense", "0", "200.0", "190.0", "210.0", "3", "tok/s"],
  ]);
  const skipped: Row = { ...about, name: "down", sparsity: 0.5, ms: statOf([1]), method: "skip" };
  assert.match(rowTable([skipped]), /variant +way +sparsity[^]*dense +skip +0\.5/);
  const down: Row = { ...about, name: "down", sparsity: 0.5, ms: statOf([0.0123]), gflops: statOf([60.04]) };
  assert.deepEqual(rowTable([down]).split("\n").map((line) => line.split(/ {2,}/).slice(-3)), [
    ["speedup", "GFLOP/s", "GB/s"],
    ["1", "ms", "60.0"],
  ]);
});

test("benchThreshold: leaves its share of the activations active", () => {
  for (const nIn of [576, 4096]) {
    for (const sparsity of [0, 0.3, 0.5, 0.9]) {
      const threshold = benchThreshold(nIn, sparsity), values = benchActivations(nIn);
      const active = values.filter((value) => Math.abs(value) > threshold).length / values.length;
      assert.ok(Math.abs(active - (1 - sparsity)) < 1e-3, `${nIn}, ${sparsity}: ${active}`);
    }
  }
});
