/** Figures of evaluations, by values worked out by hand. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { divergence, normalise } from "../../src/eval/divergence.ts";
import { choose, largest, shareOf } from "../../src/eval/multiple_choice.ts";
import { mcNemar, mean, ratioError, signFlip, standardError } from "../../src/eval/statistics.ts";

function assertNear(actual: number | null, expected: number, bound = 1e-12): void {
  assert.ok(actual !== null && Math.abs(actual - expected) <= bound, `${actual} found, ${expected} wanted`);
}

test("standardError: of a share it is sqrt(p (1 - p) / (n - 1))", () => {
  const rows = [1, 0, 0, 1, 1, 1, 0, 1, 1, 1];
  assertNear(mean(rows), 0.7);
  assertNear(standardError(rows), Math.sqrt(0.7 * 0.3 / 9));
  assertNear(standardError([1, 2, 3]), Math.sqrt(1 / 3));
  assert.equal(standardError([1, 1, 1]), 0);
  for (const few of [[], [1]]) assert.equal(standardError(few), null);
  assert.deepEqual(shareOf([true, false, false, false]), { value: 0.25, stderr: 0.25 });
});

test("ratioError: pieces of unequal length", () => {
  // ratio 10 / 5 = 2, residuals 2 - 2, 2 - 4, 6 - 4
  assertNear(ratioError([2, 2, 6], [1, 2, 2]), Math.sqrt(3 / 2 * 8) / 5);
  assert.equal(ratioError([2, 4], [1, 2]), 0);
  assert.equal(ratioError([2], [1]), null);
});

test("mcNemar: binomial tails", () => {
  assert.equal(mcNemar(0, 0), 1);
  assert.equal(mcNemar(4, 4), 1);
  assertNear(mcNemar(1, 0), 1);
  assertNear(mcNemar(0, 5), 2 / 32);
  // 2 (1 + 10 + 45) / 1024
  assertNear(mcNemar(8, 2), 112 / 1024);
  assertNear(mcNemar(2, 8), 112 / 1024);
  const [few, many] = [mcNemar(1000, 1100), mcNemar(0, 3000)];
  assert.ok(few > 0.02 && few < 0.04, `${few}`);
  assert.ok(many >= 0 && many < 1e-300, `${many}`);
});

test("signFlip: exact for few, by seeded draws for many", () => {
  assert.equal(signFlip([], 0), 1);
  assert.equal(signFlip([0, 0], 0), 1);
  assert.equal(signFlip([1, 2, 4], 0), 0.25);
  // of 8 sums only +-1 and +-3 are below 5: 4, and 5, 7 on either side
  assert.equal(signFlip([4, 2, -1], 0), 0.5);
  // no sum is nearer to 0 than 0.1, but 0.1 + 0.2 - 0.2 is a little more than 0.1
  assert.equal(signFlip([0.1, 0.2, -0.2], 0), 1);
  const same = Array.from({ length: 40 }, () => 1);
  assert.equal(signFlip(same, 1), 1 / 10_001);
  const noise = Array.from({ length: 40 }, (_, i) => i % 2 ? 1.5 : -1);
  assert.equal(signFlip(noise, 7), signFlip(noise, 7));
  const p = signFlip(noise, 7);
  // the sum is 10, its standard deviation sqrt(20 (1.5^2 + 1)) = 8.06: 1.24 of them, p 0.2
  assert.ok(p > 0.17 && p < 0.26, `${p}`);
});

test("normalise: log-softmax, the first best among equals", () => {
  const logits = Float32Array.of(0, 2, 2, -3), { best, logSum } = normalise(logits);
  assert.equal(best, 1);
  assertNear(logSum, Math.log(1 + 2 * Math.exp(2) + Math.exp(-3)));
  // far beyond what e^x can hold
  assertNear(normalise(Float32Array.of(2000, 2000)).logSum, 2000 + Math.log(2));
  assert.equal(normalise(Float32Array.of(-Infinity, 1)).logSum, 1);
  assert.throws(() => normalise(Float32Array.of(0, NaN)), /Cannot evaluate: the logit of token 1 is NaN/);
  assert.throws(() => normalise(Float32Array.of(0, Infinity)), /token 1 is Infinity/);
  assert.throws(() => normalise(new Float32Array(0)), /Cannot evaluate/);
});

test("divergence: of a coin from a bent coin", () => {
  const coin = Float32Array.of(5, 5), bent = Float32Array.from([1 / 4, 3 / 4], Math.log);
  const kl = (p: Float32Array, q: Float32Array): number => divergence(p, normalise(p), q, normalise(q));
  assertNear(kl(coin, bent), 0.5 * Math.log(4 / 3), 1e-7);
  assertNear(kl(bent, coin), 0.25 * Math.log(1 / 2) + 0.75 * Math.log(3 / 2), 1e-7);
  assertNear(kl(coin, coin), 0);
  // the same probabilities by other logits
  assertNear(kl(coin, Float32Array.of(-7, -7)), 0);
});

test("choose: the first of equals, and the likeliest for its length", () => {
  assert.equal(largest([-3, -1, -1]), 1);
  assert.deepEqual(choose([-2, -3], [1, 2]), { acc: 0, accNorm: 1 });
  assert.deepEqual(choose([-2, -1], [4, 4]), { acc: 1, accNorm: 1 });
});
