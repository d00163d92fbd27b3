/** What a dial gains over fixed levels, paired run by run, with confidence intervals. */
import type { DialCell, DialOutcome } from "./dial_sweep.ts";
import { LibcRandom } from "./random.ts";

/** A mean with its 95 % confidence interval. */
export interface Estimate {
  /** Over runs. */
  readonly mean: number;
  /** Where the interval begins. */
  readonly low: number;
  /** Where it ends. */
  readonly high: number;
}

/** Fixed levels in turns, so that on the mean over runs something is kept: `share` of the runs by the first, the rest by the second. */
export interface Mixture {
  /** As `createPolicy` has them; twice the same where one does. */
  readonly policies: readonly [string, string];
  /** In [0, 1]. */
  readonly share: number;
}

/** A policy beside the fixed levels of the same load. */
export interface DialComparison {
  /** As `createPolicy` has it. */
  readonly policy: string;
  /** Hit rate minus that of the fixed levels with the best hit rate of all that are at least as exact. */
  readonly hitRate: Estimate;
  /** Whose that was. */
  readonly hitRateAgainst: Mixture;
  /** Score minus that of the fixed levels with the best score of all that hit as often; null where no fixed level does. */
  readonly score: Estimate | null;
  /** Whose that was. */
  readonly scoreAgainst: Mixture | null;
  /** Score minus that of the fixed level with the best score, whatever it hits. */
  readonly bestScore: Estimate;
  /** Whose that was. */
  readonly bestScoreAgainst: string;
}

/** Resamples of runs, for an interval. */
const RESAMPLES = 2000;

/** A mean over runs and its interval, by the bootstrap over runs; the same for the same values. */
export function estimate(values: readonly number[]): Estimate {
  const random = new LibcRandom(1), n = values.length;
  const mean = (of: (i: number) => number): number => {
    let sum = 0;
    for (let i = 0; i < n; i++) sum += of(i);
    return sum / n;
  };
  const means = Float64Array.from(
    { length: RESAMPLES },
    () => mean(() => values[Math.floor(random.unit() * n)]!),
  ).sort();
  return {
    mean: mean((i) => values[i]!),
    low: means[Math.floor(0.025 * RESAMPLES)]!,
    high: means[Math.ceil(0.975 * RESAMPLES) - 1]!,
  };
}

/**
 * Compares a policy with the fixed levels of its load. Fixed levels may be mixed, so that the line between two of them counts as theirs.
 *
 * @param fixed cells of the same load and seeds
 */
export function compareDial(cell: DialCell, fixed: readonly DialCell[]): DialComparison {
  const hits = best(fixed, "hitRate", "fidelity", meanOf(cell, "fidelity"))!;
  const scores = best(fixed, "score", "hitRate", meanOf(cell, "hitRate"));
  const top = fixed.reduce((a, b) => meanOf(b, "score") > meanOf(a, "score") ? b : a);
  return {
    policy: cell.policy,
    hitRate: difference(cell, hits, "hitRate"),
    hitRateAgainst: nameOf(hits),
    score: scores && difference(cell, scores, "score"),
    scoreAgainst: scores && nameOf(scores),
    bestScore: difference(cell, { cells: [top, top], share: 1 }, "score"),
    bestScoreAgainst: top.policy,
  };
}

/** What an outcome has a number of. */
export type Measure = keyof DialOutcome;

interface MixedCells {
  readonly cells: readonly [DialCell, DialCell];
  readonly share: number;
}

/** The mean over a cell's runs. */
export function meanOf({ runs }: DialCell, measure: keyof DialOutcome): number {
  return runs.reduce((sum, run) => sum + run[measure], 0) / runs.length;
}

function nameOf({ cells: [first, second], share }: MixedCells): Mixture {
  return { policies: [first.policy, second.policy], share };
}

function difference(
  cell: DialCell,
  { cells: [first, second], share }: MixedCells,
  measure: Measure,
): Estimate {
  return estimate(
    cell.runs.map((run, i) =>
      run[measure] - share * first.runs[i]![measure] - (1 - share) * second.runs[i]![measure]
    ),
  );
}

/** Of all mixtures of two fixed levels with at least `least` of one measure the one with most of another; null where there is none. */
function best(fixed: readonly DialCell[], wanted: Measure, kept: Measure, least: number): MixedCells | null {
  let choice: MixedCells | null = null, most = -Infinity;
  // means are sums in some order: what is equal may differ in its last digits
  const bound = least - 1e-12;
  const offer = (cells: readonly [DialCell, DialCell], share: number): void => {
    const value = share * meanOf(cells[0], wanted) + (1 - share) * meanOf(cells[1], wanted);
    if (value > most) [choice, most] = [{ cells, share }, value];
  };
  for (const first of fixed) {
    const a = meanOf(first, kept);
    if (a >= bound) offer([first, first], 1);
    for (const second of fixed) {
      const b = meanOf(second, kept);
      // just as much is kept: one has more, the other less
      if (a > bound && b < bound) offer([first, second], (bound - b) / (a - b));
    }
  }
  return choice;
}
