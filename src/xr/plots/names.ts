/** What runs are called in pictures. */
import type { RunResult } from "../run.ts";

/** Scenario, setting and mode. */
export function titleOf({ scenario, setting, mode, seed }: RunResult): string {
  const on = typeof setting === "string" ? ` on ${setting}` : "";
  return `${scenario}${on}, ${mode}${seed === null ? "" : `, seed ${seed}`}`;
}
