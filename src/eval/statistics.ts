/** Errors of averages, and whether two runs on the same rows differ. */
import { exp, log } from "../runtime/exp.ts";
import { Random } from "../runtime/random.ts";

/** The mean; NaN of nothing. */
export function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

/**
 * The standard error of a mean, from the sample's own variance: of a share p of n rows it is sqrt(p (1 - p) / (n - 1)), as lm-evaluation-harness has
 * it. null for fewer than two values, of which nothing can be told.
 */
export function standardError(values: readonly number[]): number | null {
  return ratioError(values, values.map(() => 1));
}

/**
 * The standard error of `sum(values) / sum(weights)` by the delta method, the pairs being what was drawn at random: pieces of a text, whose tokens
 * are not independent of one another.
 *
 *     sqrt(n / (n - 1) * sum((value - ratio * weight)^2)) / sum(weights)
 *
 * @returns null for fewer than two pairs
 * @example
 * ```ts
 * import assert from "node:assert/strict";
 * assert.equal(ratioError([1, 3], [1, 1]), 1);
 * ```
 */
export function ratioError(values: readonly number[], weights: readonly number[]): number | null {
  const n = values.length;
  if (n < 2) return null;
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  const ratio = values.reduce((sum, value) => sum + value, 0) / total;
  const squares = values.reduce((sum, value, i) => sum + (value - ratio * weights[i]!) ** 2, 0);
  return Math.sqrt(n / (n - 1) * squares) / total;
}

/**
 * McNemar's exact test of two runs on the same questions: the chance, were both equally good, that of the questions which only one of them answers
 * rightly at least so many fall to one side (two-sided; binomial with 1/2).
 *
 * @param better questions that only the second run answers rightly
 * @param worse those that only the first does
 * @example
 * ```ts
 * import assert from "node:assert/strict";
 * assert.equal(Math.abs(mcNemar(0, 3) - 0.25) < 1e-12, true); // 2 * (1/2)^3
 * ```
 */
export function mcNemar(better: number, worse: number): number {
  const n = better + worse, few = Math.min(better, worse);
  if (2 * few === n) return 1;
  const logHalves = n * log(2);
  let logChoose = 0, tail = 0;
  for (let k = 0; k <= few; k++) {
    tail += exp(logChoose - logHalves);
    logChoose += log(n - k) - log(k + 1);
  }
  return Math.min(1, 2 * tail);
}

/** All 2^n ways to flip signs are tried up to this n. */
const EXACT_FLIPS = 14;
/** Ways that are drawn at random for more. */
const DRAWN_FLIPS = 10_000;

/**
 * The sign-flip test of paired differences: the chance, were each as likely to fall on either side, that their sum is at least as far from 0 as it
 * is (two-sided). Exact up to 14 differences, else from 10,000 draws, the sum itself counted as one of them.
 *
 * @param seed of the draws
 * @returns 1 where there are no differences
 * @example
 * ```ts
 * import assert from "node:assert/strict";
 * assert.equal(signFlip([1, 2, 3], 0), 0.25); // of the 8 sums 6 and -6
 * ```
 */
export function signFlip(differences: readonly number[], seed: number): number {
  const values = differences.filter((difference) => difference !== 0), n = values.length;
  const size = values.reduce((sum, value) => sum + Math.abs(value), 0);
  // sums that are equal on paper differ by rounding
  const least = Math.abs(values.reduce((sum, value) => sum + value, 0)) - 1e-12 * size;
  if (n === 0) return 1;
  let far = 0;
  if (n <= EXACT_FLIPS) {
    for (let mask = 0; mask < 1 << n; mask++) {
      if (Math.abs(values.reduce((sum, value, i) => sum + (mask >> i & 1 ? value : -value), 0)) >= least) {
        far++;
      }
    }
    return far / (1 << n);
  }
  const random = new Random(seed);
  for (let draw = 0; draw < DRAWN_FLIPS; draw++) {
    let sum = 0, bits = 0;
    for (let i = 0; i < n; i++) {
      if (i % 32 === 0) bits = random.bits();
      sum += bits >>> (i % 32) & 1 ? values[i]! : -values[i]!;
    }
    if (Math.abs(sum) >= least) far++;
  }
  return (far + 1) / (DRAWN_FLIPS + 1);
}
