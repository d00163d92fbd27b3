import assert from "node:assert/strict";
import { test } from "node:test";
import { exp, log } from "../../src/runtime/exp.ts";

/** Doubles between a and b: 0 for equal ones. */
function ulps(a: number, b: number): number {
  if (Object.is(a, b)) return 0;
  const [x, y] = new BigInt64Array(Float64Array.of(a, b).buffer);
  return Math.abs(Number(x! - y!));
}

/** Values over the whole range, from a fixed linear congruential sequence. */
function* sweep(low: number, high: number, count: number): Generator<number> {
  let state = 12345;
  for (let i = 0; i < count; ++i) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    yield low + (high - low) * (state / 4294967296);
  }
}

function largestError(
  mine: (x: number) => number,
  theirs: (x: number) => number,
  xs: Iterable<number>,
): number {
  let worst = 0;
  for (const x of xs) worst = Math.max(worst, ulps(mine(x), theirs(x)));
  return worst;
}

test("exp: within 2 ulp of Math.exp over the normal range, and near 0", () => {
  assert.ok(largestError(exp, Math.exp, sweep(-708, 709.7, 200_000)) <= 2);
  assert.ok(largestError(exp, Math.exp, sweep(-2, 2, 200_000)) <= 2);
  assert.ok(largestError(exp, Math.exp, sweep(-1e-8, 1e-8, 10_000)) <= 2);
});

test("exp: subnormal results are within 2 of their steps", () => {
  assert.ok(largestError(exp, Math.exp, sweep(-745.1, -708, 100_000)) <= 2);
});

test("exp: ends of the range and special values", () => {
  assert.equal(exp(0), 1);
  assert.equal(exp(-0), 1);
  assert.equal(exp(-Infinity), 0);
  assert.equal(exp(Infinity), Infinity);
  assert.equal(exp(-746), 0);
  assert.equal(exp(710), Infinity);
  assert.ok(exp(709.782712893384) > 1.79e308 && exp(709.782712893384) <= Number.MAX_VALUE);
  assert.equal(exp(-745.1332191019411), Number.MIN_VALUE);
  assert.ok(Number.isNaN(exp(NaN)));
});

test("exp, log: within 1 ulp of correctly rounded results, and the same bits in every engine", () => {
  // Correctly rounded values of exp(0.1), exp(-3.7), exp(88.3), log(0.1) and log(3.7e40), from Python.
  const right = [
    1.1051709180756477,
    0.024723526470339388,
    2.2294757457154923e+38,
    -2.3025850929940455,
    93.411736539412,
  ];
  const found = [exp(0.1), exp(-3.7), exp(88.3), log(0.1), log(3.7e40)];
  found.forEach((x, i) => assert.ok(ulps(x, right[i]!) <= 1));
  let hash = 0;
  for (const x of sweep(-700, 700, 50_000)) {
    const bits = new Int32Array(Float64Array.of(exp(x) + log(x * x)).buffer);
    hash = (Math.imul(hash, 31) + bits[0]!) | 0;
    hash = (Math.imul(hash, 31) + bits[1]!) | 0;
  }
  assert.equal(hash, 2119728996);
});

test("log: within 2 ulp of Math.log over all magnitudes, and near 1", () => {
  assert.ok(largestError(log, Math.log, sweep(0.5, 2, 200_000)) <= 2);
  assert.ok(largestError(log, Math.log, [...sweep(-700, 700, 200_000)].map((x) => Math.exp(x))) <= 2);
  assert.ok(largestError(log, Math.log, [...sweep(-744, -709, 50_000)].map((x) => Math.exp(x))) <= 2);
});

test("log: special values", () => {
  assert.ok(Object.is(log(1), 0));
  assert.equal(log(0), -Infinity);
  assert.equal(log(Infinity), Infinity);
  assert.ok(Number.isNaN(log(-1)) && Number.isNaN(log(NaN)));
});
