/** Pieces of a report in Markdown. */
import type { Stat } from "../../src/cli/bench/rows.ts";

/** A speed-up below this is called a loss, above its inverse a gain: less is noise. */
export const NOISE: number = 0.97;

/** A table, or nothing if it has no rows. */
export function table(header: readonly string[], rows: readonly (readonly string[])[]): string {
  if (rows.length === 0) return "";
  return [header, header.map(() => "---"), ...rows].map((cells) => `| ${cells.join(" | ")} |`).join("\n");
}

/** Three digits, never in powers of ten. */
export function number(value: number): string {
  const digits = value >= 100 ? 0 : value >= 10 ? 1 : value >= 1 ? 2 : value >= 0.1 ? 3 : 4;
  return value.toFixed(digits);
}

/** A median with its range, if there is one. */
export function spread({ median, min, max, n }: Stat): string {
  return n === 1 ? `${number(median)} (one run)` : `${number(median)} (${number(min)}–${number(max)})`;
}

/** A speed-up; those that are losses stand out. */
export function times(speedup: number | undefined): string {
  if (speedup === undefined) return "";
  const shown = `${speedup.toFixed(2)}x`;
  return speedup < NOISE ? `**${shown}**` : shown;
}
