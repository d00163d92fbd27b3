/** The policy `plan`, with what it has to remember: how fast the machine is now, and what others take between tokens. */
import type { LatencyTable } from "./levels.ts";
import { planLevel } from "./policies.ts";
import type { Policy } from "./policy.ts";

/** Share of a new gap in the mean. */
const WEIGHT = 0.1;

/** Plans by the pace of all levels together, and by the gaps between tokens. */
export function createPlan(table: LatencyTable, k: number): Policy {
  let gapMs = 0, gapVariance = 0;
  return {
    choose({ leftMs, waiting, gapMs: waited }) {
      if (waited !== undefined) {
        const error = waited - gapMs;
        gapVariance += WEIGHT * (error * error - gapVariance);
        gapMs += WEIGHT * error;
      }
      const levels = table.paced, tokenMs = levels[0]!.latencyMs * table.deviation;
      const deviationMs = Math.sqrt(tokenMs * tokenMs + gapVariance);
      return planLevel(levels, leftMs, waiting, { k, gapMs, deviationMs });
    },
    observe: (level, latencyMs) => table.note(level, latencyMs),
  };
}
