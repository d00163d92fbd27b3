/** Clocks: how fine they are, and what those of two threads say at one moment. */
import type { ClockGaps } from "../recorded.ts";
import { DEFAULT_K } from "../scores.ts";

/** A clock in ms. */
export type Clock = () => number;

/** At XRBench's steepness a coarser clock would move scores: half a step is a real-time score between 0.46 and 0.54. */
export const MAX_STEP_MS = 0.02;

/** Changes of the clock that are looked at. */
const CHANGES = 50;
/** Looks after which a clock that does not change is given up. */
const LOOKS = 20_000_000;

/**
 * The step of a clock: the least difference between two readings that differ.
 *
 * @throws {Error} If it stands still.
 */
export function stepOf(now: Clock): number {
  let least = Infinity, last = now();
  for (let changes = 0, looks = 0; changes < CHANGES; looks++) {
    if (looks > LOOKS) throw new Error("Cannot measure times: the clock stands still");
    const time = now();
    if (time === last) continue;
    // a thread that was put aside sees a long step, never a short one
    least = Math.min(least, time - last);
    last = time;
    changes++;
  }
  return least;
}

/** How long a thread reads the clock to find gaps, and what counts as one: a reading takes some tenths of a microsecond. */
const GAPS_MS = 200;
const GAP_MS = 0.1;

/** Gaps of a thread that does nothing but read the clock: a schedule can't be kept better than the machine lets threads run. */
export function gapsOf(now: Clock, stepMs: number): ClockGaps {
  const began = now();
  let count = 0, sumMs = 0, longestMs = 0, last = began;
  while (last - began < GAPS_MS) {
    const time = now(), gap = time - last;
    last = time;
    if (gap <= GAP_MS + stepMs) continue;
    count++;
    sumMs += gap;
    longestMs = Math.max(longestMs, gap);
  }
  return { perSecond: count / (last - began) * 1000, share: sumMs / (last - began), longestMs };
}

/** The steepest real-time score that a clock can tell: its steps are to weigh no more than 0.02 ms at 15 per ms do. */
export function steepest(stepMs: number): number {
  return DEFAULT_K * MAX_STEP_MS / stepMs;
}

/**
 * Refuses to score by a clock that is too coarse.
 *
 * @throws {RangeError} If its step is above 0.02 ms and k is not lowered as much.
 */
export function checkStep(stepMs: number, k: number): void {
  const most = steepest(stepMs);
  // steps are differences of doubles, and k is told with four digits
  if (k <= most * (1 + 1e-3)) return;
  throw new RangeError(
    `Cannot score: the clock here steps by ${
      stepMs.toPrecision(2)
    } ms, which moves scores at k = ${k}: a step of at most ${
      (MAX_STEP_MS * DEFAULT_K / k).toPrecision(2)
    } ms wanted: serve the page with COOP and COEP headers, or lower k to ${
      Number(most.toPrecision(4))
    } (--k), which softens the score`,
  );
}

/** Rounds of question and answer. */
export const ROUNDS = 200;

/** One question and its answer: own times before and after, the other clock's between. */
export interface Comparison {
  readonly askedMs: number;
  readonly otherMs: number;
  readonly answeredMs: number;
}

/** What to add to another clock's times to have one's own: by the quickest answer, whose error is at most half of what it took. */
export function offsetOf(comparisons: readonly Comparison[]): {
  readonly offsetMs: number;
  readonly errorMs: number;
} {
  let best: Comparison | null = null;
  for (const comparison of comparisons) {
    const took = comparison.answeredMs - comparison.askedMs;
    if (best === null || took < best.answeredMs - best.askedMs) best = comparison;
  }
  if (best === null) throw new RangeError("comparisons: none found, at least one wanted");
  const { askedMs, otherMs, answeredMs } = best;
  return { offsetMs: (askedMs + answeredMs) / 2 - otherMs, errorMs: (answeredMs - askedMs) / 2 };
}
