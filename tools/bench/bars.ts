/** Bar charts as SVG text. */
import {
  type Axis,
  document,
  legend,
  LOOKS,
  MARGIN,
  place,
  round,
  text,
  ticks,
  TITLE,
  widthOf,
} from "./svg.ts";

/** Bars side by side; what is missing leaves a gap. */
export interface BarGroup {
  readonly label: string;
  readonly bars: readonly {
    readonly name: string;
    readonly look: number;
    readonly value: number;
    readonly low: number;
    readonly high: number;
  }[];
}

/** Horizontal bars in groups, with their range as a thin line and the value at their end. */
export function barChart(
  { title, subtitle, unit, groups }: {
    readonly title: string;
    readonly subtitle: string;
    readonly unit: string;
    readonly groups: readonly BarGroup[];
  },
): string {
  const width = 792, thick = 14, gap = 14;
  const names = new Map(groups.flatMap(({ bars }) => bars).map(({ name, look }) => [name, look]));
  const key = legend(
    [...names].map(([name, look]) => ({ name, look, line: false })),
    MARGIN,
    TITLE + 12,
    width - 2 * MARGIN,
  );
  const left = MARGIN + 16 + Math.max(...groups.map(({ label }) => widthOf(label))), right = width - 70;
  const marks = ticks(Math.max(...groups.flatMap(({ bars }) => bars.map(({ high }) => high))), 6);
  const axis: Axis = { label: unit, min: 0, max: marks.at(-1)!, ticks: marks };
  const px = (value: number): number => place(axis, value, left, right), top = TITLE + key.height + 8;
  const bottom = top + groups.reduce((sum, { bars }) => sum + bars.length * thick + gap, 0);
  const parts = [
    text(MARGIN, 28, title, `class="title"`),
    text(MARGIN, 48, subtitle, `class="small"`),
    ...key.parts,
  ];
  for (const tick of marks) {
    parts.push(
      `<line class="grid" x1="${round(px(tick))}" x2="${round(px(tick))}" y1="${top}" y2="${bottom}"/>`,
      text(px(tick), bottom + 16, String(tick), `text-anchor="middle" class="small"`),
    );
  }
  let y = top + gap / 2;
  for (const { label, bars } of groups) {
    parts.push(text(left - 8, y + bars.length * thick / 2 + 4, label, `text-anchor="end"`));
    for (const { look, value, low, high } of bars) {
      const middle = y + thick / 2;
      parts.push(
        `<rect class="s${look % LOOKS}" x="${left}" y="${round(y + 1)}" width="${
          round(px(value) - left)
        }" height="${thick - 2}"/>`,
        `<line class="error" x1="${round(px(low))}" x2="${round(px(high))}" y1="${middle}" y2="${middle}"/>`,
        text(
          px(Math.max(value, high)) + 6,
          middle + 4,
          value < 10 ? value.toFixed(1) : value.toFixed(0),
          `class="small"`,
        ),
      );
      y += thick;
    }
    y += gap;
  }
  parts.push(text((left + right) / 2, bottom + 36, unit, `text-anchor="middle"`));
  return document(width, bottom + 48, title, subtitle, parts);
}
