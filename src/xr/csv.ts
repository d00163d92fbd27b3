/** The two files that the harness writes, byte for byte. */
import type { LogEntry } from "./log.ts";
import { compareNames } from "./names.ts";
import type { Scores } from "./scores.ts";

/**
 * C's `%.6f`: exact ties go to the even digit, where `toFixed` rounds them away from zero. Only odd multiples of 1/128 have a seventh decimal that is 5 and the
 * last.
 *
 * @example
 * ```ts
 * import assert from "node:assert/strict";
 * assert.equal(sixDecimals(604.7265625), "604.726562");
 * assert.equal((604.7265625).toFixed(6), "604.726563");
 * ```
 */
export function sixDecimals(x: number): string {
  if (x < 0 || Object.is(x, -0)) return `-${sixDecimals(-x)}`;
  if ((x * 128) % 2 !== 1) return x.toFixed(6);
  const seven = x.toFixed(7), kept = seven.slice(0, -1);
  return Number(kept.at(-1)) % 2 === 0 ? kept : x.toFixed(6);
}

/** `summary.csv`: a line for each model that was logged, by name, and the overall score. */
export function summaryCsv({ models, overall }: Scores): string {
  const lines = [...models].sort(([a], [b]) => compareNames(a, b)).map(([name, { rt, energy, qoe }]) =>
    [name, ...[rt, energy, qoe].map(sixDecimals)].join(",")
  );
  return [
    "Model Name,Real-time Score,Energy Score,User-Experience Score",
    ...lines,
    `Overall Score,${sixDecimals(overall)}\n`,
  ].join("\n");
}

const COLUMNS = [
  "AcceleratorID",
  "Model Name",
  "Frame ID",
  "Injection Time (ms)",
  "Dispatch Time (ms)",
  "Deadline Time (ms)",
  "Completion Time (ms)",
  "Violated Deadline Amount (ms)",
  "Energy (mJ)",
];

/**
 * `schedule.csv`: executed frames, accelerator after accelerator. The harness's has no others; with `reasons` there is a column more, and frames that were
 * dropped come last.
 */
export function scheduleCsv(
  log: readonly LogEntry[],
  { float32, reasons }: { readonly float32: boolean; readonly reasons: boolean },
): string {
  const round = float32 ? Math.fround : (x: number): number => x;
  const executed = log.filter(({ dropped }) => !dropped).sort((a, b) => a.accelerator - b.accelerator);
  const lines = [...executed, ...reasons ? log.filter(({ dropped }) => dropped) : []].map((entry) => {
    const { injectionMs, dispatchMs, deadlineMs, completionMs, energyMJ } = entry;
    const numbers = [
      injectionMs,
      dispatchMs,
      deadlineMs,
      completionMs,
      round(completionMs - deadlineMs),
      energyMJ,
    ].map(sixDecimals);
    return [entry.accelerator, entry.model, entry.frame, ...numbers, ...reasons ? [entry.reason] : []].join(
      ",",
    );
  });
  return `${[[...COLUMNS, ...reasons ? ["Reason"] : []].join(","), ...lines].join("\n")}\n`;
}
