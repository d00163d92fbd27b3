/**
 * Every picture of the project: a Vega-Lite specification to SVG text, without a DOM, the same bytes in every runtime.
 *
 * Both libraries are read when the first plot is drawn. Engines differ in the last digits of what logarithms and powers place, so coordinates are rounded to a
 * hundredth of a pixel; text is measured by an estimate, which needs no font.
 */
import type { TopLevelSpec } from "vega-lite";

/** A plot, as Vega-Lite has it: data in it, no addresses. */
export type Plot = TopLevelSpec;

/** Blue, vermilion, green, purple, ochre, sky: told apart by most eyes, readable on white; then four for plots with many lines. */
export const COLOURS: readonly string[] = [
  "#0b62b0",
  "#c2410c",
  "#0f7b55",
  "#8e3a94",
  "#8a6500",
  "#3a7f9d",
  "#57606a",
  "#bf3989",
  "#4d7c0f",
  "#7c2d12",
];
const TEXT = "#24292f", GRID = "#d8dee4";

/** What all plots have in common; white behind them, so that a dark page cannot hide their text. */
const LOOK = {
  background: "#ffffff",
  padding: 16,
  config: {
    aria: false,
    font: "system-ui, sans-serif",
    title: {
      anchor: "start",
      frame: "group",
      color: TEXT,
      fontSize: 16,
      subtitleColor: TEXT,
      subtitleFontSize: 11,
      offset: 12,
    },
    axis: {
      labelColor: TEXT,
      titleColor: TEXT,
      gridColor: GRID,
      domainColor: TEXT,
      tickColor: TEXT,
      titleFontWeight: "normal",
    },
    header: {
      labelColor: TEXT,
      titleColor: TEXT,
      labelFontSize: 12,
      labelFontWeight: "bold",
      labelAnchor: "start",
    },
    legend: { labelColor: TEXT, titleColor: TEXT, titleFontWeight: "normal" },
    view: { stroke: GRID },
    range: { category: [...COLOURS] },
    line: { strokeWidth: 2 },
    point: { size: 45, strokeWidth: 1.5 },
    text: { color: TEXT, fontSize: 11 },
    rule: { color: TEXT },
  },
} as const;

/** Vega-Lite has a way to say that a specification makes no sense, and goes on: here that is an error. */
const STRICT = {
  level: () => STRICT,
  error: refuse,
  warn: refuse,
  info: () => STRICT,
  debug: () => STRICT,
};

function refuse(...messages: readonly unknown[]): never {
  throw new Error(`Cannot draw: ${messages.join(" ")}`);
}

/**
 * Draws a plot.
 *
 * @param title Of the whole picture, for those who can't see it.
 * @throws {Error} If Vega-Lite finds fault with the specification.
 */
export async function drawPlot(plot: Plot, title: string): Promise<string> {
  const [vega, { compile }] = await Promise.all([import("vega"), import("vega-lite")]);
  const { parse, View } = vega;
  // its types leave it out; a canvas, where there is one, would measure with the fonts of the machine
  const { textMetrics } = vega as unknown as { textMetrics: { width: typeof widthOf } };
  textMetrics.width = widthOf;
  const { spec } = compile({ ...LOOK, ...plot } as TopLevelSpec, { logger: STRICT });
  const view = new View(parse(spec), { renderer: "none" });
  try {
    return finish(await view.toSVG(), title);
  } finally {
    view.finalize();
  }
}

/** Pixels of a text, about: Vega's own estimate, 0.8 of the size a character, leaves a third of each picture empty. */
function widthOf({ fontSize = 11 }: { readonly fontSize?: number }, text: unknown): number {
  return 0.62 * fontSize * String(text).length;
}

/** Coordinates rounded, ids counted from 0 (Vega goes on where its last picture ended), a name for screen readers. */
function finish(svg: string, title: string): string {
  const rounded = svg.replace(
    /<[^>]*>/g,
    (tag) =>
      tag.replace(/-?\d+\.\d{3,}(e-\d+)?/g, (digits) => String(Math.round(100 * Number(digits)) / 100 + 0)),
  );
  const ids = new Map<string, string>();
  const renamed = rounded.replace(
    /(id="|url\(#)(clip|gradient)_?(\d+)/g,
    (_, before: string, kind: string, n: string) => {
      const id = ids.get(kind + n) ?? kind + ids.size;
      ids.set(kind + n, id);
      return before + id;
    },
  );
  const name = title.replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);
  // a line an element: what a run changes can be read
  return `${renamed.replace("<svg ", `<svg role="img" aria-label="${name}" `).replaceAll("><", ">\n<")}\n`;
}
