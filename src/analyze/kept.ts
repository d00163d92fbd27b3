/** Figures: how many channels are kept, by module and by token; how alike neighbouring tokens' are. */
import { type ProjectionName, PROJECTIONS, projectionShape } from "../model/config.ts";
import type { LlamaConfig } from "../model/config.ts";
import { drawPlot, type Plot } from "../plot/draw.ts";
import { type Cell, csv } from "../plot/csv.ts";
import type { Figure } from "../plot/figure.ts";
import { shortName } from "./layers.ts";
import { type ChannelTest, MaskStatistics, type Overlap } from "./masks.ts";
import { layerAxis } from "./spectra.ts";
import { SITE_NAMES, type SiteInput } from "./watch.ts";

/** Positions that share a point of the plot. */
const STEP = 16;

/** Counts the active channels of a whole model while it reads. */
export class KeptChannels {
  readonly #config: LlamaConfig;
  readonly #keepDense: number;
  /** [layer][site][test]. */
  readonly #statistics: readonly (readonly (readonly MaskStatistics[])[])[];
  /** By piece and position: multiply-adds kept, and all. */
  readonly #tokens: { kept: number; all: number }[][] = [];

  /** @param keepDense positions of each piece that are left out: they run dense */
  constructor(
    config: LlamaConfig,
    tests: readonly (readonly (readonly ChannelTest[])[])[],
    keepDense: number,
  ) {
    this.#config = config;
    this.#keepDense = keepDense;
    this.#statistics = tests.map((sites) =>
      sites.map((some) =>
        some.map((test) => new MaskStatistics(test, projectionShape(config, test.names[0]!).nIn))
      )
    );
  }

  /** Takes some tokens of a site. */
  look({ layer, site, x, stride, nIn, nTokens, position, piece }: SiteInput): void {
    const tokens = this.#tokens[piece] ??= [];
    for (const statistics of this.#statistics[layer]![site]!) {
      if (position === 0) statistics.begin();
      const outputs = statistics.test.names.reduce(
        (sum, name) => sum + projectionShape(this.#config, name).nOut,
        0,
      );
      for (let t = 0; t < nTokens; t++) {
        if (position + t < this.#keepDense) continue;
        const token = tokens[position + t] ??= { kept: 0, all: 0 };
        token.kept += statistics.add(x, t * stride) * outputs;
        token.all += nIn * outputs;
      }
    }
  }

  /** Kept share by layer and projection. */
  modules(): { readonly layer: number; readonly name: ProjectionName; readonly kept: number }[] {
    return this.#statistics.flatMap((sites, layer) =>
      sites.flat().flatMap((statistics) =>
        statistics.test.names.map((name) => ({ layer, name, kept: statistics.kept }))
      )
    );
  }

  /** Kept share of each token that was counted, weighed by the projections' sizes. */
  tokens(): { readonly piece: number; readonly position: number; readonly kept: number }[] {
    return this.#tokens.flatMap((tokens, piece) =>
      tokens.flatMap((token, position) =>
        token === undefined ? [] : [{ piece, position, kept: token.kept / token.all }]
      )
    );
  }

  /** Overlap by layer, site and test. */
  overlaps(): {
    readonly layer: number;
    readonly site: number;
    readonly names: string;
    readonly overlap: Overlap;
  }[] {
    return this.#statistics.flatMap((sites, layer) =>
      sites.flatMap((some, site) =>
        some.flatMap((statistics) => {
          const { overlap, test } = statistics, names = test.names.map(shortName).join(" ");
          return overlap === null ? [] : [{ layer, site, names, overlap }];
        })
      )
    );
  }
}

/** Kept share per module and per token. */
export async function keptFigure(kept: KeptChannels, about: readonly string[]): Promise<Figure> {
  const title = "Kept share of channels", modules = kept.modules(), tokens = kept.tokens();
  const groups = new Map<number, number[]>();
  for (const token of tokens) {
    const first = Math.floor(token.position / STEP) * STEP;
    groups.set(first, [...groups.get(first) ?? [], token.kept]);
  }
  const positions = [...groups].sort(([a], [b]) => a - b).map(([position, shares]) => {
    const sorted = shares.sort((a, b) => a - b),
      at = (share: number): number => sorted[Math.round(share * (sorted.length - 1))]!;
    return { position, low: at(0.1), middle: at(0.5), high: at(0.9) };
  });
  const plot = {
    title: { text: title, subtitle: [...about] },
    resolve: { scale: { color: "independent" as const } },
    vconcat: [
      {
        title: { text: "by module, mean over tokens", fontSize: 12 },
        width: { step: 20 },
        height: { step: 24 },
        data: {
          values: modules.map(({ layer, name, kept }) => ({ layer, projection: shortName(name), kept })),
        },
        mark: "rect",
        encoding: {
          x: { field: "layer", type: "ordinal", axis: { labelAngle: 0, labelOverlap: true } },
          y: { field: "projection", type: "nominal", title: null, sort: PROJECTIONS.map(shortName) },
          color: {
            field: "kept",
            type: "quantitative",
            title: "kept",
            scale: { scheme: "viridis", zero: false },
            legend: { format: ".0%" },
          },
        },
      },
      {
        title: {
          text:
            `by token: median and middle 80 % of ${STEP} positions of all pieces, projections weighed by size`,
          fontSize: 12,
        },
        width: 640,
        height: 170,
        data: { values: positions },
        layer: [
          {
            mark: { type: "area", opacity: 0.25 },
            encoding: {
              x: {
                field: "position",
                type: "quantitative",
                title: "position in its piece",
                axis: { grid: false },
              },
              y: {
                field: "low",
                type: "quantitative",
                title: "kept",
                axis: { format: ".0%" },
                scale: { zero: false },
              },
              y2: { field: "high" },
            },
          },
          {
            mark: { type: "line" },
            encoding: {
              x: { field: "position", type: "quantitative" },
              y: { field: "middle", type: "quantitative", title: "kept" },
            },
          },
        ],
      },
    ],
  } as Plot;
  return {
    name: "kept",
    title,
    svg: await drawPlot(plot, title),
    csv: csv(["part", "layer", "projection", "piece", "position", "kept"], [
      ...modules.map(({ layer, name, kept }): Cell[] => ["module", layer, shortName(name), null, null, kept]),
      ...tokens.map(({ piece, position, kept }): Cell[] => ["token", null, null, piece, position, kept]),
    ]),
    notes: [],
  };
}

/** Jaccard index of neighbouring tokens' active channels, beside two kinds of chance. Null where no neighbours had any. */
export async function overlapFigure(kept: KeptChannels, about: readonly string[]): Promise<Figure | null> {
  const title = "Overlap of neighbouring tokens' active channels", found = kept.overlaps();
  if (found.length === 0) return null;
  const kinds = {
    jaccard: "measured",
    byChannel: "independent, each channel as often as it is active",
    independent: "independent masks of the same sizes",
  } as const;
  const values = found.flatMap(({ layer, site, names, overlap }) =>
    (["jaccard", "byChannel", "independent"] as const).map((kind) => ({
      layer,
      site: SITE_NAMES[site]!,
      names,
      kind: kinds[kind],
      value: overlap[kind],
    }))
  );
  const plot: Plot = {
    title: { text: title, subtitle: ["active in both over active in either, mean over pairs", ...about] },
    data: { values },
    facet: { field: "site", type: "nominal", sort: [...SITE_NAMES], title: null },
    columns: 2,
    spec: {
      width: 320,
      height: 170,
      mark: { type: "line", point: { size: 16 }, strokeWidth: 1.5 },
      encoding: {
        x: layerAxis,
        y: { field: "value", type: "quantitative", title: "Jaccard index", scale: { domain: [0, 1] } },
        detail: { field: "names" },
        color: {
          field: "kind",
          type: "nominal",
          title: null,
          scale: { domain: Object.values(kinds) },
          legend: { orient: "bottom", labelLimit: 400 },
        },
      },
    },
  };
  return {
    name: "overlap",
    title,
    svg: await drawPlot(plot, title),
    csv: csv(
      [
        "layer",
        "site",
        "projections",
        "jaccard",
        "share_kept_in_next",
        "jaccard_independent",
        "jaccard_by_channel",
        "pairs",
      ],
      found.map(({ layer, site, names, overlap }) => [
        layer,
        SITE_NAMES[site]!,
        names,
        overlap.jaccard,
        overlap.stays,
        overlap.independent,
        overlap.byChannel,
        overlap.pairs,
      ]),
    ),
    notes: [],
  };
}
