/** Goes through tokens again with latencies that were recorded, by any policy: what it would have chosen, and when tokens would have been done. */
import type { LatencyTable } from "./levels.ts";
import type { Policy } from "./policy.ts";

/** A token that is wanted. */
export interface WantedToken {
  /** Before this it can't begin. */
  readonly readyMs: number;
  /** When it should be done. */
  readonly deadlineMs: number;
}

/** What became of it. */
export interface ReplayedToken extends WantedToken {
  /** The number of its level. */
  readonly level: number;
  /** When it begins. */
  readonly startMs: number;
  /** When it is done. */
  readonly endMs: number;
}

/**
 * Replays tokens one after the other.
 *
 * @param tokens in the order in which they run: a token begins when it is ready and the one before it has ended
 * @param latencies by level, what tokens took, at least one each; token i takes the i-th, and those after the last from the first on
 * @param policy over `table`
 * @throws {RangeError} If a level has no latencies.
 */
export function replayTokens(
  tokens: readonly WantedToken[],
  latencies: readonly (readonly number[])[],
  table: LatencyTable,
  policy: Policy,
): ReplayedToken[] {
  const { levels } = table, missing = levels.findIndex((_, i) => (latencies[i]?.length ?? 0) === 0);
  if (missing >= 0) throw new RangeError(`latencies: none of level ${missing} found, at least one wanted`);
  let nowMs = -Infinity;
  return tokens.map(({ readyMs, deadlineMs }, i) => {
    const startMs = Math.max(nowMs, readyMs);
    // what waits may run as fast as it can
    const expectedMs = levels.reduce((least, level) => Math.min(least, level.latencyMs), Infinity);
    const waiting = tokens.slice(i + 1).filter((token) => token.readyMs <= startMs)
      .map((token) => ({ leftMs: token.deadlineMs - startMs, latencyMs: expectedMs }));
    const level = policy.choose({ leftMs: deadlineMs - startMs, waiting });
    const own = latencies[level]!, latencyMs = own[i % own.length]!;
    nowMs = startMs + latencyMs;
    policy.observe(level, latencyMs, nowMs <= deadlineMs);
    return { readyMs, deadlineMs, level, startMs, endMs: nowMs };
  });
}
