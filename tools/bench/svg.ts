/**
 * Charts as SVG text, without a DOM, readable on light and dark pages.
 *
 * Why no library: a checkout installs every development dependency before its first run. ECharts 6.1, which can draw SVG on a server, takes 67 MB there, Vega with
 * Vega-Lite 25 MB (npm install, du); Plot wants a DOM beside its 1 MB. Each writes colours into the elements, where a dark page cannot change them; here they are
 * classes of one style sheet with both. d3-scale (1.3 MB) would save the 20 lines of `place` and `ticks`.
 */

/** One axis of a panel. */
export interface Axis {
  readonly label: string;
  readonly min: number;
  readonly max: number;
  readonly ticks: readonly number[];
  readonly log?: boolean;
}

/** Points, joined by a line or not. */
export interface Series {
  readonly name: string;
  /** Colour and marker, 0 to 5. */
  readonly look: number;
  readonly dashed?: boolean;
  readonly hollow?: boolean;
  readonly line: boolean;
  readonly points: readonly (readonly [x: number, y: number])[];
}

/** A plot of its own, beside others. */
export interface Panel {
  readonly title: string;
  readonly x: Axis;
  readonly y: Axis;
  readonly series: readonly Series[];
  /** Lines without markers: y = 1, a roof. */
  readonly guides?: readonly {
    readonly points: readonly (readonly [number, number])[];
    readonly label?: string;
  }[];
}

/** Blue, vermilion, green, purple, ochre, sky: told apart by most eyes, in shades for white and for black. */
const LIGHT = ["#0b62b0", "#c2410c", "#0f7b55", "#8e3a94", "#8a6500", "#3a7f9d"];
const DARK = ["#6cb0f5", "#ff9a66", "#4fcf9b", "#d993de", "#e2b84d", "#8fd0ea"];
/** How many looks there are. */
export const LOOKS: number = LIGHT.length;

function style(): string {
  const looks = (colours: readonly string[]): string =>
    colours.map((colour, i) => `.s${i}{stroke:${colour};fill:${colour}}`).join("");
  const page = (text: string, faint: string, back: string): string =>
    `text{fill:${text}}.grid{stroke:${faint}}.axis,.guide,.error{stroke:${text}}.hollow{fill:${back}}.back{fill:${back}}`;
  return "text{font:12px system-ui,sans-serif}.title{font-size:16px;font-weight:600}.panel{font-size:13px;font-weight:600}" +
    ".small{font-size:11px}.line{fill:none;stroke-width:2}.dashed{stroke-dasharray:5 4}.mark{stroke-width:1.5}" +
    ".guide{fill:none;stroke-dasharray:2 3}.grid,.axis,.guide,.error{stroke-width:1}" +
    page("#24292f", "#d8dee4", "#ffffff") + looks(LIGHT) +
    `@media(prefers-color-scheme:dark){${page("#e6edf3", "#30363d", "#0d1117")}${looks(DARK)}}` +
    // after the looks: a hollow mark has the page's colour inside
    ".mark.hollow{fill:#ffffff}@media(prefers-color-scheme:dark){.mark.hollow{fill:#0d1117}}.line{fill:none!important}";
}

function escape(text: string): string {
  return text.replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);
}

/** To a tenth of a pixel. */
export const round = (value: number): number => Math.round(value * 10) / 10;

/** A line of text. */
export function text(x: number, y: number, content: string, more: string = ""): string {
  return `<text x="${round(x)}" y="${round(y)}"${more && ` ${more}`}>${escape(content)}</text>`;
}

/** The whole picture. */
export function document(
  width: number,
  height: number,
  title: string,
  description: string,
  parts: readonly string[],
): string {
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" role="img" ` +
    `aria-label="${escape(title)}"><title>${escape(title)}</title><desc>${
      escape(description)
    }</desc><style>${style()}</style>` +
    `<rect class="back" width="${width}" height="${height}"/>\n${parts.join("\n")}\n</svg>\n`;
}

/** Where a value of an axis lies between two ends. */
export function place(
  axis: Pick<Axis, "min" | "max" | "log">,
  value: number,
  from: number,
  to: number,
): number {
  const of = axis.log ? Math.log : (x: number): number => x;
  return from + (of(value) - of(axis.min)) / (of(axis.max) - of(axis.min)) * (to - from);
}

/** Round numbers over a range from 0, at most `most` steps: 1, 2 or 5 times a power of ten apart. The last one is at or past `max`. */
export function ticks(max: number, most: number = 5): number[] {
  if (!(max > 0)) return [0, 1];
  const power = 10 ** Math.floor(Math.log10(max / most));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((step) =>
    Math.ceil(max / step - 1e-9) <= most
  )!;
  return Array.from(
    { length: Math.ceil(max / step - 1e-9) + 1 },
    (_, i) => Number((i * step).toPrecision(12)),
  );
}

/** Powers of two from the one at or below `min` to the one at or above `max`. */
export function powers(min: number, max: number): number[] {
  const from = Math.floor(Math.log2(min)), to = Math.max(from + 1, Math.ceil(Math.log2(max)));
  return Array.from({ length: to - from + 1 }, (_, i) => 2 ** (from + i));
}

/** A marker of its own for each look: circle, square, diamond, triangle, cross, triangle upside down. */
function mark(x: number, y: number, { look, hollow }: Pick<Series, "look" | "hollow">): string {
  const shapes = [
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
    "M-3.5-3.5h7v7h-7z",
    "M0-5L5 0L0 5L-5 0z",
    "M0-4.5L4.5 3.5H-4.5z",
    "M-4-1.4h2.6v-2.6h2.8v2.6h2.6v2.8h-2.6v2.6h-2.8v-2.6h-2.6z",
    "M0 4.5L4.5-3.5H-4.5z",
  ];
  const i = look % LOOKS;
  return `<path class="mark s${i}${hollow ? " hollow" : ""}" transform="translate(${round(x)} ${
    round(y)
  })" d="${shapes[i]}"/>`;
}

function line(points: readonly (readonly [number, number])[], kind: string): string {
  return `<polyline class="${kind}" points="${
    points.map(([x, y]) => `${round(x)},${round(y)}`).join(" ")
  }"/>`;
}

/** Width of a text of 12 pixels, about: no font can be measured here. */
export const widthOf = (content: string): number => 6.6 * content.length;

/** Keys in rows, and how high they are. */
export function legend(
  entries: readonly Pick<Series, "name" | "look" | "dashed" | "hollow" | "line">[],
  left: number,
  top: number,
  width: number,
): { parts: string[]; height: number } {
  const parts: string[] = [];
  let x = left, y = top;
  for (const entry of entries) {
    const wide = 44 + widthOf(entry.name);
    if (x > left && x + wide > left + width) {
      x = left;
      y += 20;
    }
    if (entry.line) {
      parts.push(
        line([[x, y - 4], [x + 24, y - 4]], `line s${entry.look % LOOKS}${entry.dashed ? " dashed" : ""}`),
      );
    }
    parts.push(mark(x + 12, y - 4, entry), text(x + 30, y, entry.name));
    x += wide;
  }
  return { parts, height: y - top + 20 };
}

/** Pixels around everything, and from the top to what is under the title. */
export const MARGIN = 16, TITLE = 62;

/** Panels in rows, one legend over all. */
export function panelChart(
  { title, subtitle, panels, columns, keys }: {
    readonly title: string;
    readonly subtitle: string;
    readonly panels: readonly Panel[];
    readonly columns: number;
    /** What the legend says, where it is not the series of the panels. */
    readonly keys?: readonly Pick<Series, "name" | "look" | "dashed" | "hollow" | "line">[];
  },
): string {
  const wide = 380, high = 270, across = Math.min(columns, Math.max(1, panels.length));
  const width = Math.max(across * wide, Math.ceil(6.2 * subtitle.length)) + 2 * MARGIN;
  const all = new Map(panels.flatMap(({ series }) => series).map((each) => [each.name, each]));
  const key = legend(keys ?? [...all.values()], MARGIN, TITLE + 12, width - 2 * MARGIN),
    top = TITLE + key.height + 8;
  const parts = [
    text(MARGIN, 28, title, `class="title"`),
    text(MARGIN, 48, subtitle, `class="small"`),
    ...key.parts,
  ];
  panels.forEach((panel, i) => {
    const x = MARGIN + (i % across) * wide, y = top + Math.floor(i / across) * high;
    parts.push(...drawPanel(panel, x + 48, y + 24, wide - 68, high - 78));
  });
  return document(width, top + Math.ceil(panels.length / across) * high, title, subtitle, parts);
}

function drawPanel(
  { title, x, y, series, guides = [] }: Panel,
  left: number,
  top: number,
  width: number,
  height: number,
): string[] {
  const right = left + width, bottom = top + height;
  const px = (value: number): number => place(x, value, left, right),
    py = (value: number): number => place(y, value, bottom, top);
  const parts = [text(left, top - 8, title, `class="panel"`)];
  for (const tick of y.ticks) {
    parts.push(
      `<line class="grid" x1="${left}" x2="${right}" y1="${round(py(tick))}" y2="${round(py(tick))}"/>`,
      text(left - 6, py(tick) + 4, String(tick), `text-anchor="end" class="small"`),
    );
  }
  for (const tick of x.ticks) {
    parts.push(
      `<line class="axis" x1="${round(px(tick))}" x2="${round(px(tick))}" y1="${bottom}" y2="${
        bottom + 4
      }"/>`,
      text(px(tick), bottom + 17, String(tick), `text-anchor="middle" class="small"`),
    );
  }
  parts.push(
    `<line class="axis" x1="${left}" x2="${right}" y1="${bottom}" y2="${bottom}"/>`,
    text((left + right) / 2, bottom + 36, x.label, `text-anchor="middle"`),
    text(
      0,
      0,
      y.label,
      `text-anchor="middle" transform="translate(${round(left - 36)} ${
        round((top + bottom) / 2)
      }) rotate(-90)"`,
    ),
  );
  for (const { points, label } of guides) {
    const at = points.map(([a, b]): [number, number] => [px(a), py(b)]), [first] = at as [[number, number]];
    parts.push(line(at, "guide"));
    if (label !== undefined) parts.push(text(first[0] + 4, first[1] - 6, label, `class="small"`));
  }
  for (const each of series) {
    const at = each.points.map(([a, b]): [number, number] => [px(a), py(b)]);
    if (each.line) parts.push(line(at, `line s${each.look % LOOKS}${each.dashed ? " dashed" : ""}`));
    parts.push(...at.map(([a, b]) => mark(a, b, each)));
  }
  return parts;
}
