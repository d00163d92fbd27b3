/**
 * Which level of sparsity a token runs at, so that it is done by its deadline and as exact as time allows.
 *
 *     s* = argmax over levels s of  Rt(now + L(s) - deadline) * En(s) * A(s)
 *
 * with XRBench's real-time score Rt = 1 / (1 + exp(k * delay)). Logarithms are compared, because Rt underflows; of equals the lower sparsity wins.
 */
import { exp, log } from "../runtime/exp.ts";
import type { Level } from "./levels.ts";

/** XRBench's steepness, per ms. */
export const DEFAULT_K = 15;

/**
 * log(1 / (1 + exp(k * delay))), exact where the score itself is 0 or 1.
 *
 * @example
 * ```ts
 * import assert from "node:assert/strict";
 * assert.equal(logRealTime(100), -1500);
 * assert.ok(Math.abs(logRealTime(0) - Math.log(0.5)) < 1e-15);
 * ```
 */
export function logRealTime(delayMs: number, k: number = DEFAULT_K): number {
  const z = k * delayMs;
  return z > 0 ? -(z + log1p(exp(-z))) : -log1p(exp(z));
}

/** log(1 + x) for x in [0, 1], as exact for small x; the same bits in every engine. */
function log1p(x: number): number {
  const sum = 1 + x;
  return sum === 1 ? x : log(sum) * x / (sum - 1);
}

/** log of the score that a level is expected to give with so much time left. */
export function logGain(level: Level, leftMs: number, k: number = DEFAULT_K): number {
  return logRealTime(level.latencyMs - leftMs, k) + log(level.energy ?? 1) + log(level.fidelity);
}

/**
 * `slack`: the level with the best expected score: the densest whose predicted finish leaves about 0.3 ms; if none, the sparsest.
 *
 * @param levels by ascending sparsity, at least one
 * @param leftMs from now to the deadline; negative where it has passed
 * @returns the level's number
 */
export function slackLevel(levels: readonly Level[], leftMs: number, k: number = DEFAULT_K): number {
  return best(levels.length, (i) => logGain(levels[i]!, leftMs, k));
}

/** Another request that waits. */
export interface Waiting {
  /** From now to its deadline. */
  readonly leftMs: number;
  /** What it is expected to take when it has its turn. */
  readonly latencyMs: number;
  /** Whether it is a token that comes later in the same reply: `plan` has it run at the level that it chooses. */
  readonly isSameReply?: boolean;
  /** Of a reply that waits as a whole, and is dropped if it has not begun by its deadline: how many tokens, and from one's deadline to the next's. `plan` counts them all. */
  readonly reply?: { readonly tokens: number; readonly periodMs: number };
}

/**
 * `queue`: the level that loses least over this request and all that wait, which run after it one by one. What a request loses is 1 - Rt * En * A; where levels lose the
 * same, as when all are late, the sum of logarithms decides.
 *
 * @param waiting in the order in which they will run
 */
export function queueLevel(
  levels: readonly Level[],
  leftMs: number,
  waiting: readonly Waiting[],
  k: number = DEFAULT_K,
): number {
  const sums = levels.map((level) => {
    const own = logGain(level, leftMs, k);
    let logs = own, lost = 1 - exp(own), endMs = level.latencyMs;
    for (const other of waiting) {
      endMs += other.latencyMs;
      const gain = logRealTime(endMs - other.leftMs, k);
      logs += gain;
      lost += 1 - exp(gain);
    }
    return { lost, logs };
  });
  return leastLoss(sums);
}

/** Of equal losses the one with the largest sum of logarithms. */
function leastLoss(sums: readonly { readonly lost: number; readonly logs: number }[]): number {
  const least = sums.reduce((a, { lost }) => Math.min(a, lost), Infinity);
  return best(sums.length, (i) => sums[i]!.lost <= least + EQUAL_LOSS ? sums[i]!.logs : -Infinity);
}

/**
 * `layer`: the level for the rest of a token, chosen again between its blocks: as `slack`, of what is left.
 *
 * @param restMs by level, what the rest is expected to take
 * @param share of the token's blocks that are left, in (0, 1]: fidelity is lost block by block
 */
export function layerLevel(
  levels: readonly Level[],
  leftMs: number,
  restMs: readonly number[],
  share: number,
  k: number = DEFAULT_K,
): number {
  return best(
    levels.length,
    (i) =>
      logRealTime(restMs[i]! - leftMs, k) + share * (log(levels[i]!.energy ?? 1) + log(levels[i]!.fidelity)),
  );
}

/** What `plan` expects besides latencies. */
export interface Outlook {
  /** Default 15 per ms. */
  readonly k?: number;
  /** What others take between two tokens of the reply. */
  readonly gapMs?: number;
  /** Standard deviation of what a token and the gap before it take. */
  readonly deviationMs?: number;
}

/** The logistic function is as steep as the normal distribution's at this times its deviation. */
const LOGISTIC = 1.7;

/**
 * `plan`: the level that loses least if the rest of the reply runs at it, too. Where a reply has to be faster than dense it is a little sparser throughout, and not
 * dense until its time is up: fidelity falls faster the sparser a token is, so that costs less. The farther a token is ahead the less is known of when it ends: its
 * chance to be in time takes the place of Rt's step.
 *
 * @param waiting as {@linkcode queueLevel}; tokens of the same reply, which come first, take what the level takes, and the gap
 */
export function planLevel(
  levels: readonly Level[],
  leftMs: number,
  waiting: readonly Waiting[],
  { k = DEFAULT_K, gapMs = 0, deviationMs = 0 }: Outlook = {},
): number {
  const steepness = (ahead: number): number =>
    deviationMs === 0 ? k : 1 / Math.sqrt(1 / (k * k) + ahead * (deviationMs / LOGISTIC) ** 2);
  return leastLoss(levels.map((level) => {
    const own = logGain(level, leftMs, steepness(1));
    let logs = own, lost = 1 - exp(own), endMs = level.latencyMs, ahead = 1;
    for (const { leftMs, latencyMs, isSameReply = false, reply } of waiting) {
      if (reply !== undefined) {
        const start = logRealTime(endMs - leftMs, steepness(ahead));
        endMs += latencyMs;
        const stepMs = level.latencyMs + gapMs - reply.periodMs, last = reply.tokens - 1;
        // first, middle and last token, if it begins at all
        const share = [0, last / 2, last].reduce(
          (sum, token) =>
            sum +
            exp(
                start +
                  logGain(level, leftMs - endMs - token * stepMs + level.latencyMs, steepness(ahead + token)),
              ) / 3,
          0,
        );
        logs += reply.tokens * start;
        lost += reply.tokens * (1 - share);
        continue;
      }
      endMs += isSameReply ? level.latencyMs + gapMs : latencyMs;
      const gain = isSameReply
        ? logGain(level, leftMs - endMs + level.latencyMs, steepness(++ahead))
        : logRealTime(endMs - leftMs, steepness(ahead));
      logs += gain;
      lost += 1 - exp(gain);
    }
    return { lost, logs };
  }));
}

/** Losses that differ by less are equal: sums of some numbers up to 1. */
const EQUAL_LOSS = 1e-12;

/** The number with the largest value; of equals the lowest. */
function best(count: number, valueOf: (i: number) => number): number {
  let choice = 0, most = -Infinity;
  for (let i = 0; i < count; ++i) {
    const value = valueOf(i);
    if (value > most) [choice, most] = [i, value];
  }
  return choice;
}

/** When `feedback` changes its level. */
export interface FeedbackRule {
  /** Share of requests in time that is wanted, in (0, 1]. */
  readonly target: number;
  /** So much above the target a denser level is tried. */
  readonly hysteresis: number;
  /** Requests that a share is taken over. */
  readonly window: number;
}

/** What `feedback` knows. */
export interface FeedbackState {
  /** The level's number. */
  readonly level: number;
  /** Requests at this level, and how many of them were in time. */
  readonly seen: number;
  /** Of them in time. */
  readonly hits: number;
}

/** A rule that holds 95 % of requests, and looks at 20. */
export const DEFAULT_FEEDBACK: FeedbackRule = { target: 0.95, hysteresis: 0.05, window: 20 };

/**
 * `feedback`: a level sparser as soon as the target can't be met in this window, a level denser after a window that was above the target and the hysteresis, else as it was.
 *
 * @param count how many levels there are
 * @param isHit whether the last request was in time
 */
export function feedbackStep(
  { level, seen, hits }: FeedbackState,
  isHit: boolean,
  count: number,
  { target, hysteresis, window }: FeedbackRule = DEFAULT_FEEDBACK,
): FeedbackState {
  const next = { level, seen: seen + 1, hits: hits + Number(isHit) }, missed = next.seen - next.hits;
  // rounding must not ask for more than all
  const wanted = Math.min(1, target + hysteresis) - 1e-9;
  if (missed > (1 - target) * window + 1e-9) {
    return { level: Math.min(count - 1, level + 1), seen: 0, hits: 0 };
  }
  if (next.seen < window) return next;
  return { level: next.hits / window >= wanted ? Math.max(0, level - 1) : level, seen: 0, hits: 0 };
}
