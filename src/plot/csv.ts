/** Numbers of a figure as text. */

/** A cell. */
export type Cell = string | number | null;

/** Comma-separated values, RFC 4180 with plain newlines: numbers to seven digits, null as nothing. */
export function csv(header: readonly string[], rows: Iterable<readonly Cell[]>): string {
  const lines = [header.map(quoted).join(",")];
  for (const row of rows) lines.push(row.map(cell).join(","));
  return `${lines.join("\n")}\n`;
}

function cell(value: Cell): string {
  if (typeof value === "number") {
    return Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(7)));
  }
  return value === null ? "" : quoted(value);
}

function quoted(text: string): string {
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
