/** Levels of sparsity that a deadline chooses from, and how long each takes, kept up to date. */
import { dialRange } from "../recipe/dial.ts";
import type { LoadedRecipe } from "../recipe/recipe.ts";

/** A setting of the dial and what it is expected to give. */
export interface Level {
  /** In [0, 1); 0 is dense. */
  readonly sparsity: number;
  /** What a token, or a job, is expected to take. */
  readonly latencyMs: number;
  /** Accuracy or fidelity, in (0, 1]. */
  readonly fidelity: number;
  /** The energy score, in (0, 1]; 1 where it is absent. */
  readonly energy?: number;
}

/** Sparsities that a deadline chooses from: below 0.3 nothing is gained on any model that was measured. */
const STEPS = [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9];
/** Share of a new measurement in the mean. */
const WEIGHT = 0.1;
/** Measurements at other levels after which one says little: the machine has something else to do now. */
const OLD_AFTER = 64;

/** The levels that a recipe has thresholds for, ascending, 0 (dense) first; 0 alone where there is no recipe. */
export function dialLevels(loaded: Pick<LoadedRecipe, "recipe"> | null): number[] {
  if (loaded === null) return [0];
  const [least, most] = dialRange(loaded.recipe);
  const steps = STEPS.filter((step) => step >= least && step <= most);
  return [0, ...new Set([...steps, loaded.recipe.sparsity].sort((a, b) => a - b))];
}

/**
 * Fidelity where nothing was measured: 1 for dense, 0.1 less for all. Any falling curve gives nearly the same choices, because the real-time score is almost a
 * step; a flat one would always choose the sparsest.
 */
export function assumedFidelity(sparsity: number): number {
  return 1 - sparsity / 10;
}

/** Fidelity by perplexities of one text: 1 where sparse is no worse than dense. */
export function perplexityFidelity(dense: number, sparse: number): number {
  return Math.min(1, dense / sparse);
}

/**
 * A table of latencies by level, kept up to date by an exponential mean, so that it follows what else the machine does.
 *
 * @example
 * ```ts
 * import assert from "node:assert/strict";
 * const table = new LatencyTable([{ sparsity: 0, fidelity: 1 }, { sparsity: 0.5, fidelity: 0.9 }]);
 * table.note(0, 40);
 * table.note(0, 50);
 * assert.equal(table.levels[0]!.latencyMs, 41);
 * ```
 */
export class LatencyTable {
  readonly #levels: {
    sparsity: number;
    fidelity: number;
    energy?: number;
    latencyMs: number;
    at: number | null;
  }[];
  /** How many measurements there were. */
  #noted = 0;
  /** What levels were expected to take at first. */
  readonly #first: readonly number[];
  #pace = 1;
  #variance = 0;

  /**
   * Takes the levels.
   *
   * @param levels by ascending sparsity; one without `latencyMs` was not measured, and counts as fast enough until it is
   * @throws {RangeError} If there are none, they don't ascend, or a number is out of its range.
   */
  constructor(levels: readonly (Omit<Level, "latencyMs"> & Partial<Pick<Level, "latencyMs">>)[]) {
    if (
      levels.length === 0 || levels.some(({ sparsity }, i) => i > 0 && !(sparsity > levels[i - 1]!.sparsity))
    ) {
      const found = levels.map(({ sparsity }) => sparsity).join(", ");
      throw new RangeError(`levels: ${found || "none"} found, at least one and ascending wanted`);
    }
    for (const { sparsity, fidelity, energy = 1, latencyMs = 0 } of levels) {
      if (
        !(sparsity >= 0 && sparsity < 1 && fidelity > 0 && fidelity <= 1 && energy > 0 && energy <= 1 &&
          latencyMs >= 0)
      ) {
        throw new RangeError(
          `levels: sparsity ${sparsity}, fidelity ${fidelity}, energy ${energy}, ${latencyMs} ms found: ` +
            "[0, 1), (0, 1], (0, 1] and at least 0 wanted",
        );
      }
    }
    this.#levels = levels.map((level) => ({
      ...level,
      latencyMs: level.latencyMs ?? 0,
      at: level.latencyMs === undefined ? null : 0,
    }));
    this.#first = this.#levels.map(({ latencyMs }) => latencyMs);
  }

  /** The levels as they stand, by ascending sparsity. */
  get levels(): readonly Level[] {
    return this.#levels;
  }

  /** Where a sparsity is among the levels; -1 where it is none. */
  indexOf(sparsity: number): number {
    return this.#levels.findIndex((level) => level.sparsity === sparsity);
  }

  /** Notes what a token took at a level. */
  note(index: number, latencyMs: number): void {
    const level = this.#levels[index]!, first = this.#first[index]!;
    if (first > 0) {
      const error = latencyMs / first - this.#pace;
      this.#variance += WEIGHT * (error * error - this.#variance);
      this.#pace += WEIGHT * error;
    }
    const fresh = level.at === null || this.isOld(index);
    level.latencyMs = fresh ? latencyMs : level.latencyMs + WEIGHT * (latencyMs - level.latencyMs);
    level.at = ++this.#noted;
  }

  /**
   * The levels as they were first, all of them slower or faster as those are that were measured since: a busy machine is slow at every level, so what one level takes says what
   * others would. Each level's own mean does not: one that has not run for a while has that of another time.
   */
  get paced(): readonly Level[] {
    return this.#levels.map((level, i) => ({ ...level, latencyMs: this.#first[i]! * this.#pace }));
  }

  /** Standard deviation of a token from what `paced` expects, as a share of it. */
  get deviation(): number {
    return this.#pace > 0 ? Math.sqrt(this.#variance) / this.#pace : 0;
  }

  /** Whether a level was measured, but so long ago that it may have changed. */
  isOld(index: number): boolean {
    const { at } = this.#levels[index]!;
    return at !== null && this.#noted - at >= OLD_AFTER;
  }
}
