/** How long tokens take at settings of the dial, and which setting meets a deadline. */
import { dialRange } from "../recipe/dial.ts";
import type { LoadedRecipe } from "../recipe/recipe.ts";

/** Sparsities that a deadline chooses from: below 0.3 nothing is gained on any model that was measured. */
const STEPS = [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9];
/** Share of a new measurement in the mean. */
const WEIGHT = 0.1;
/** Tokens at other levels after which a level that was too slow is tried once more. */
const RETRY_AFTER = 64;

/** The levels that a recipe has thresholds for, ascending, 0 (dense) first; 0 alone where there is no recipe. */
export function dialLevels(loaded: Pick<LoadedRecipe, "recipe"> | null): number[] {
  if (loaded === null) return [0];
  const [least, most] = dialRange(loaded.recipe);
  const steps = STEPS.filter((step) => step >= least && step <= most);
  return [0, ...new Set([...steps, loaded.recipe.sparsity].sort((a, b) => a - b))];
}

/**
 * A table of latencies by level of the dial, kept up to date by an exponential mean, so that it follows what else the machine does.
 *
 * @example
 * ```ts
 * import assert from "node:assert/strict";
 * const latencies = new DialLatencies([0, 0.5]);
 * latencies.note(0, 40);
 * latencies.note(0.5, 25);
 * assert.equal(latencies.leastWithin(50), 0);
 * assert.equal(latencies.leastWithin(30), 0.5);
 * ```
 */
export class DialLatencies {
  /** Sparsities, ascending. */
  readonly levels: readonly number[];
  readonly #means: Map<number, { ms: number; at: number }> = new Map();
  /** How many measurements there were. */
  #noted = 0;

  /** @throws {RangeError} If there are no levels, or they don't ascend. */
  constructor(levels: readonly number[]) {
    if (levels.length === 0 || levels.some((level, i) => i > 0 && !(level > levels[i - 1]!))) {
      throw new RangeError(`levels: ${levels.join(", ")} found, at least one and ascending wanted`);
    }
    this.levels = levels;
  }

  /** The mean of a level in milliseconds; null where it was not measured. */
  estimate(level: number): number | null {
    return this.#means.get(level)?.ms ?? null;
  }

  /** Notes what a token took; nothing at a sparsity that is no level. */
  note(level: number, ms: number): void {
    if (!this.levels.includes(level)) return;
    const mean = this.#means.get(level);
    // what was found long ago says little: the machine has something else to do now
    const next = mean === undefined || this.#isOld(level) ? ms : mean.ms + WEIGHT * (ms - mean.ms);
    this.#means.set(level, { ms: next, at: ++this.#noted });
  }

  /**
   * The least sparsity whose tokens are expected within a deadline; where none is, the fastest. A level that was not measured counts as fast
   * enough, which has it measured; one that was too slow for long is tried again, so that the choice goes back when the machine has time.
   */
  leastWithin(deadlineMs: number): number {
    const { levels } = this;
    let choice = levels.findIndex((level) => (this.estimate(level) ?? 0) <= deadlineMs);
    if (choice < 0) {
      choice = 0;
      for (const [i, level] of levels.entries()) {
        if (this.estimate(level)! < this.estimate(levels[choice]!)!) choice = i;
      }
    }
    return choice > 0 && this.#isOld(levels[choice - 1]!) ? levels[choice - 1]! : levels[choice]!;
  }

  #isOld(level: number): boolean {
    return this.#noted - this.#means.get(level)!.at >= RETRY_AFTER;
  }
}
