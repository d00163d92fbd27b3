/** What a search varies: for every projection, the share of kept compute that channels get, and the share of all that is skipped. */
import type { LlamaConfig } from "../model/config.ts";
import { siteShares } from "../recipe/budget.ts";
import { projectionShapes, type ShapedProjection } from "../recipe/recipe.ts";

/** A point of the search, by projection in the model's order (block 0's q, k, v, o, gate, up, down, then block 1, and so on). */
export interface Shares {
  /** Share of the kept compute for channels, [0, 1]; the rest buys rank. */
  readonly rho: readonly number[];
  /** Share of the multiply-adds to skip, [0, 1). */
  readonly sparsity: readonly number[];
}

/** Projections of a block. */
export const KINDS = 7;
/** A projection keeps at least a hundredth. */
export const MOST_SPARSITY = 0.99;

/** Everything alike. */
export function uniformShares(projections: number, rho: number, sparsity: number): Shares {
  return { rho: Array(projections).fill(rho), sparsity: Array(projections).fill(sparsity) };
}

/** All for channels, more of down and o skipped than of the others, as `calibrate --method by-site` has it. */
export function bySiteShares(config: LlamaConfig, sparsity: number): Shares {
  const shapes = projectionShapes(config), weights = shapes.map(weightOf);
  const [q, k, v, o, gate, up, down] = weights as [number, number, number, number, number, number, number];
  const shares = siteShares({ down, o, others: q + k + v + gate + up }, sparsity);
  const of = (kind: number): number => kind === 6 ? shares.down : kind === 3 ? shares.o : shares.others;
  return { rho: shapes.map(() => 1), sparsity: shapes.map((_, i) => of(i % KINDS)) };
}

/** What a projection costs dense: its multiply-adds a token, or the bytes of its weights. */
export function weightOf({ nIn, nOut }: Pick<ShapedProjection, "nIn" | "nOut">): number {
  return nIn * nOut;
}

/** The share of a budget that is skipped: sum(weight * sparsity) / sum(weight). */
export function meanSparsity(sparsity: readonly number[], weights: readonly number[]): number {
  let skipped = 0, all = 0;
  for (const [i, weight] of weights.entries()) {
    skipped += weight * sparsity[i]!;
    all += weight;
  }
  return skipped / all;
}

/** Halvings of an interval: as many as a double has digits. */
const HALVINGS = 60;

/**
 * Moves sparsities by one number, each no further than its bounds, so that together they skip `target`: a search that varies them then compares points of equal
 * bytes.
 *
 * @param weights What each counts.
 * @param target The share to skip, between `least` and `most`.
 * @throws {RangeError} If the target is outside the bounds.
 * @example
 * ```ts
 * import assert from "node:assert/strict";
 * const shares = toBudget([0.25, 0.5], [1, 1], 0.5, 0, 0.75);
 * assert.deepEqual(shares.map((share) => Number(share.toFixed(9))), [0.375, 0.625]);
 * ```
 */
export function toBudget(
  sparsity: readonly number[],
  weights: readonly number[],
  target: number,
  least: number,
  most: number,
): number[] {
  if (!(target >= least && target <= most)) {
    throw new RangeError(`sparsity ${target} is not between ${least} and ${most}`);
  }
  const moved = (by: number): number[] => sparsity.map((s) => Math.min(Math.max(s + by, least), most));
  let low = least - Math.max(...sparsity), high = most - Math.min(...sparsity);
  for (let i = 0; i < HALVINGS; i++) {
    const middle = (low + high) / 2;
    if (meanSparsity(moved(middle), weights) < target) low = middle;
    else high = middle;
  }
  return moved((low + high) / 2);
}

/**
 * A projection's sparsity when the dial stands elsewhere than where it was searched: proportional below, what it keeps proportional above. So the whole skips what
 * the dial says.
 *
 * @param own The projection's, where the dial stands at `at`.
 * @param point Where the dial is turned to.
 */
export function sparsityAt(own: number, at: number, point: number): number {
  if (point === at) return own;
  return point < at ? own * point / at : own + (1 - own) * (point - at) / (1 - at);
}
