/** The dial: one recipe at any sparsity, by a table of thresholds for each projection. */
import type { LoadedRecipe, Recipe } from "./recipe.ts";

/** Steps of the dial that calibration makes: every hundredth up to {@linkcode LAST_STEP}. */
const STEPS = 100, LAST_STEP = 90;

/** Where calibration notes thresholds: 0, 0.01 … 0.9, and the sparsity that was asked for. */
export function dialPoints(sparsity: number): number[] {
  const points = Array.from({ length: LAST_STEP + 1 }, (_, i) => i / STEPS);
  return points.includes(sparsity) ? points : [...points, sparsity].sort((a, b) => a - b);
}

/**
 * The threshold for a sparsity, as a float32: exact at the table's points, on a straight line between them. -1, below
 * every score, counts as 0 there.
 *
 * @param points Ascending.
 * @param row f32[points], never descending.
 * @param sparsity Not outside the points.
 * @example
 * ```ts
 * import assert from "node:assert/strict";
 * assert.equal(thresholdAt([0, 0.5, 1], Float32Array.of(-1, 2, 4), 0.75), 3);
 * ```
 */
export function thresholdAt(points: readonly number[], row: Float32Array, sparsity: number): number {
  let low = 0, high = points.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (points[middle]! < sparsity) low = middle + 1;
    else high = middle;
  }
  if (points[low] === sparsity || low === 0) return row[low]!;
  const below = points[low - 1]!, share = (sparsity - below) / (points[low]! - below);
  const from = Math.max(row[low - 1]!, 0), to = Math.max(row[low]!, 0);
  return Math.fround(from + share * (to - from));
}

/** The least and the largest sparsity that a recipe can run at, besides 0: dense. */
export function dialRange(
  { points, sparsity }: Pick<Recipe, "points" | "sparsity">,
): readonly [number, number] {
  return points.length === 0 ? [sparsity, sparsity] : [points[0]!, points[points.length - 1]!];
}

/**
 * Whether a recipe can run at a sparsity; 0, dense, is one that every model can.
 *
 * @param loaded null where there is no recipe
 * @throws {RangeError} If it can't, with the range that it can.
 */
export function checkSparsity(loaded: Pick<LoadedRecipe, "recipe"> | null, sparsity: number): void {
  if (!(sparsity >= 0 && sparsity < 1)) {
    throw new RangeError(`sparsity: ${sparsity} found, at least 0 and below 1 wanted`);
  }
  if (sparsity === 0) return;
  if (loaded === null) {
    throw new RangeError(
      `sparsity ${sparsity} needs a recipe: make one with \`rsparse calibrate -o FILE\` and give it as recipe`,
    );
  }
  const [least, most] = dialRange(loaded.recipe);
  if (sparsity >= least && sparsity <= most) return;
  throw new RangeError(
    least === most
      ? `sparsity ${sparsity}: the recipe in use has thresholds for ${most} alone: ask for 0 or ${most}, or calibrate another`
      : `sparsity ${sparsity}: the recipe in use goes from ${least} to ${most}: ask for one of these, or 0`,
  );
}
