/** Figure: how large the inputs of each site are, and where the thresholds lie. */
import { drawPlot, type Plot } from "../plot/draw.ts";
import { log } from "../runtime/exp.ts";
import { type Cell, csv } from "../plot/csv.ts";
import type { Figure } from "../plot/figure.ts";
import { sampleNote, shortName } from "./layers.ts";
import type { Magnitudes } from "./magnitudes.ts";
import type { ChannelTest } from "./masks.ts";
import { layerColour } from "./spectra.ts";
import { SITE_NAMES } from "./watch.ts";

/** A threshold on |x|, and what it is. */
interface Mark {
  readonly layer: number;
  readonly site: string;
  readonly kind: string;
  readonly at: number;
}

/** A bin of a site's histogram. */
interface Bin {
  readonly layer: number;
  readonly site: string;
  /** Its lower edge. */
  readonly low: number;
  /** In a logarithmic axis. */
  readonly middle: number;
  readonly count: number;
  readonly share: number;
  /** Share an octave: bins of a quarter of one are not equally wide in a logarithmic axis. */
  readonly density: number;
}

/** Bins with fewer values an octave are not drawn: some inputs are below 1e-9. */
const LEAST_SHOWN = 1e-4;
const LN2 = 0.6931471805599453;

/** Without a recipe: thresholds that would skip these shares. */
export const QUANTILES: readonly number[] = [0.4, 0.5, 0.6];

/**
 * Draws it.
 *
 * @param all [layer][site]
 * @param tests [layer][site], the recipe's; null without a recipe, or where it chooses by other means
 */
export async function activationsFigure(
  all: readonly (readonly Magnitudes[])[],
  layers: readonly number[],
  tests: readonly (readonly (readonly ChannelTest[])[])[] | null,
  about: readonly string[],
): Promise<Figure> {
  const title = "Activations and thresholds", notes = sampleNote(layers, all.length);
  const bins: Bin[] = [];
  const marks: Mark[] = [], zeros: Cell[][] = [];
  for (const [layer, sites] of all.entries()) {
    for (const [i, magnitudes] of sites.entries()) {
      const site = SITE_NAMES[i]!, { low, counts, zeros: none } = magnitudes.quarters();
      zeros.push(["zeros", layer, site, null, none, none / magnitudes.count]);
      low.forEach((edge, bin) => {
        const count = counts[bin]!, share = count / magnitudes.count, high = edge + quarterOf(edge);
        const density = share * LN2 / log(high / edge);
        bins.push({ layer, site, low: edge, middle: Math.sqrt(edge * high), count, share, density });
      });
      marks.push(
        ...marksOf(magnitudes, tests?.[layer]?.[i] ?? null).map((mark) => ({ ...mark, layer, site })),
      );
    }
  }
  const heights = marks.map((mark) => {
    const own = bins.filter(({ layer, site }) => layer === mark.layer && site === mark.site);
    return { ...mark, density: own.findLast(({ low }) => low <= mark.at)?.density ?? 0 };
  });
  const isShown = ({ layer }: { readonly layer: number }): boolean => layers.includes(layer);
  const encoding = {
    x: {
      type: "quantitative",
      title: "|x|",
      scale: { type: "log", base: 10 },
      axis: { format: "~e", tickCount: 6, grid: false },
    },
    y: { field: "density", type: "quantitative", title: "share of values an octave" },
  } as const;
  const shown = bins.filter(isShown).filter(({ density }) => density > LEAST_SHOWN);
  const plot: Plot = {
    title: { text: title, subtitle: [...about, ...notes] },
    data: { values: [...shown, ...heights.filter(isShown).filter(({ at }) => at > 0 && at < Infinity)] },
    facet: { field: "site", type: "nominal", sort: [...SITE_NAMES], title: null },
    columns: 2,
    spec: {
      width: 320,
      height: 180,
      layer: [
        {
          transform: [{ filter: "isValid(datum.middle)" }],
          mark: { type: "line", strokeWidth: 1 },
          encoding: {
            ...encoding,
            x: { field: "middle", ...encoding.x },
            detail: { field: "layer" },
            color: layerColour(layers),
          },
        },
        {
          transform: [{ filter: "isValid(datum.at)" }],
          mark: { type: "point", filled: true, opacity: 1 },
          encoding: {
            ...encoding,
            x: { field: "at", ...encoding.x },
            color: layerColour(layers),
            shape: {
              field: "kind",
              type: "nominal",
              title: "threshold",
              sort: null,
              scale: { range: ["circle", "diamond", "triangle-up", "square"] },
            },
          },
        },
      ],
    },
  };
  return {
    name: "activations",
    title,
    svg: await drawPlot(plot, title),
    csv: csv(["part", "layer", "site", "abs_x", "count", "share"], [
      ...zeros,
      ...bins.map((
        { layer, site, low, count, share },
      ): Cell[] => ["bin from", layer, site, low, count, share]),
      ...marks.map(({ layer, site, kind, at }): Cell[] => [
        `threshold: ${kind}`,
        layer,
        site,
        Number.isFinite(at) ? at : null,
        null,
        null,
      ]),
    ]),
    notes,
  };
}

/** A quarter of the power of two at or below a bin's edge: how wide it is. */
function quarterOf(edge: number): number {
  let power = 1;
  while (power > edge) power /= 2;
  while (2 * power <= edge) power *= 2;
  return power / 4;
}

function marksOf(
  magnitudes: Magnitudes,
  tests: readonly ChannelTest[] | null,
): { readonly kind: string; readonly at: number }[] {
  if (tests === null) {
    return QUANTILES.map((share) => ({ kind: `${100 * share} % below`, at: magnitudes.quantile(share) }));
  }
  return tests.map(({ names, scale, threshold }) => {
    const who = tests.length === 1 ? "" : `, ${names.map(shortName).join(" ")}`;
    if (scale === null) return { kind: `of the recipe${who}`, at: threshold };
    // where channels are weighed, each has its own threshold on |x|
    const own = Float32Array.from(scale, (weight) => weight === 0 ? Infinity : threshold / weight).sort();
    return { kind: `of the recipe, median channel${who}`, at: own[own.length >> 1]! };
  });
}
