/** Figures: singular spectra of the weights, and how many singular values count. */
import { PROJECTIONS, projectionShape } from "../model/config.ts";
import { drawPlot, type Plot } from "../plot/draw.ts";
import { exp, log } from "../runtime/exp.ts";
import { csv } from "../plot/csv.ts";
import type { Figure } from "../plot/figure.ts";
import { sampleLayers, sampleNote, shortName } from "./layers.ts";
import type { WeightReader } from "./weights.ts";

/** A projection's singular values, largest first. */
export interface Spectrum {
  readonly layer: number;
  readonly projection: string;
  readonly sigma: Float64Array;
}

/** Multiply-adds of the Gram matrices that may be made: SmolLM2's 58e9 take half a minute on one core. */
const MOST_WORK = 8e10;
/** Points of a line. */
const POINTS = 48;

/**
 * exp of the entropy of sigma_i / Σ sigma (Roy and Vetterli 2007), and the stable rank ‖W‖_F² / sigma_1².
 *
 * @example
 * ```ts
 * import assert from "node:assert/strict";
 * assert.deepEqual(ranksOf([2, 2, 0]), { entropy: 2, stable: 2 });
 * ```
 */
export function ranksOf(sigma: ArrayLike<number>): { readonly entropy: number; readonly stable: number } {
  const values = Array.from(sigma), sum = values.reduce((a, b) => a + b, 0);
  if (sum === 0) return { entropy: 0, stable: 0 };
  const squares = values.reduce((a, b) => a + b * b, 0), largest = values.reduce((a, b) => Math.max(a, b), 0);
  const entropy = values.reduce((a, b) => b === 0 ? a : a - b / sum * log(b / sum), 0);
  return { entropy: Number(exp(entropy).toPrecision(12)), stable: squares / (largest * largest) };
}

/** Singular values of all projections, of as many layers as the work allows. */
export async function measureSpectra(
  weights: WeightReader,
  onProgress: (done: number, total: number) => void,
): Promise<Spectrum[]> {
  const { config } = weights, count = config.numHiddenLayers;
  const work = PROJECTIONS.reduce((sum, name) => {
    const { nIn, nOut } = projectionShape(config, name);
    return sum + Math.min(nIn, nOut) * nIn * nOut;
  }, 0);
  const layers = sampleLayers(count, Math.max(2, Math.floor(MOST_WORK / work)));
  const spectra: Spectrum[] = [];
  for (const layer of layers) {
    for (const name of PROJECTIONS) {
      const { nIn, nOut } = projectionShape(config, name), w = await weights.read(layer, name);
      spectra.push({ layer, projection: shortName(name), sigma: weights.svd.singularValues(w, nOut, nIn) });
      onProgress(spectra.length, layers.length * PROJECTIONS.length);
    }
  }
  return spectra;
}

/** sigma_i over sigma_1 of every projection, a line a layer. */
export async function spectraFigure(spectra: readonly Spectrum[], layers: number): Promise<Figure> {
  const title = "Singular spectra", notes = sampleNote(layersOf(spectra), layers);
  const values = spectra.flatMap(({ layer, projection, sigma }) => {
    const n = sigma.length, first = sigma[0]! || 1;
    const at = new Set(
      Array.from(
        { length: Math.min(POINTS, n) },
        (_, i, most = Math.min(POINTS, n)) => most === 1 ? 0 : Math.round(i * (n - 1) / (most - 1)),
      ),
    );
    return [...at].filter((i) => sigma[i]! > 0).map((i) => ({
      layer,
      projection,
      share: (i + 1) / n,
      sigma: sigma[i]! / first,
    }));
  });
  const plot: Plot = {
    title: {
      text: title,
      subtitle: [
        "of each projection's weights, largest first",
        ...notes,
      ],
    },
    data: { values },
    facet: { field: "projection", type: "nominal", sort: PROJECTIONS.map(shortName), title: null },
    columns: 4,
    spec: {
      width: 190,
      height: 150,
      mark: { type: "line", strokeWidth: 1 },
      encoding: {
        x: { field: "share", type: "quantitative", title: "i / n", axis: { grid: false, tickCount: 5 } },
        y: {
          field: "sigma",
          type: "quantitative",
          title: "σᵢ / σ₁",
          scale: { type: "log" },
          axis: { format: "~g", tickCount: 4 },
        },
        detail: { field: "layer" },
        color: layerColour(layersOf(spectra)),
      },
    },
  };
  return {
    name: "spectra",
    title,
    svg: await drawPlot(plot, title),
    csv: csv(
      ["layer", "projection", "i", "sigma"],
      spectra.flatMap(({ layer, projection, sigma }) =>
        Array.from(sigma, (value, i) => [layer, projection, i + 1, value])
      ),
    ),
    notes,
  };
}

/** Both ranks of every projection over the layers, as shares of the full rank. */
export async function effectiveRankFigure(spectra: readonly Spectrum[], layers: number): Promise<Figure> {
  const title = "Effective rank", notes = sampleNote(layersOf(spectra), layers);
  const ranks = spectra.map(({ layer, projection, sigma }) => ({
    layer,
    projection,
    full: sigma.length,
    ...ranksOf(sigma),
  }));
  const definitions = {
    entropy: "exp of the entropy of σᵢ / Σσ",
    stable: "stable rank, ‖W‖² / σ₁²",
  } as const;
  const values = (["entropy", "stable"] as const).flatMap((kind) =>
    ranks.map((rank) => ({
      definition: definitions[kind],
      layer: rank.layer,
      projection: rank.projection,
      share: rank[kind] / rank.full,
    }))
  );
  const plot: Plot = {
    title: { text: title, subtitle: ["as a share of the full rank, by two definitions", ...notes] },
    data: { values },
    facet: { field: "definition", type: "nominal", sort: Object.values(definitions), title: null },
    columns: 2,
    resolve: { scale: { y: "independent" } },
    spec: {
      width: 320,
      height: 220,
      mark: { type: "line", point: { size: 20 }, strokeWidth: 1.5 },
      encoding: {
        x: layerAxis,
        y: { field: "share", type: "quantitative", title: "rank / full rank", scale: { domainMin: 0 } },
        color: { field: "projection", type: "nominal", title: null, sort: PROJECTIONS.map(shortName) },
      },
    },
  };
  return {
    name: "effective-rank",
    title,
    svg: await drawPlot(plot, title),
    csv: csv(
      ["layer", "projection", "full_rank", "entropy_rank", "stable_rank"],
      ranks.map(({ layer, projection, full, entropy, stable }) => [layer, projection, full, entropy, stable]),
    ),
    notes,
  };
}

/** Layers along a line. */
export const layerAxis = {
  field: "layer",
  type: "quantitative",
  axis: { grid: false, tickMinStep: 1, format: "d" },
  scale: { nice: false },
} as const;

/** Layers from blue to yellow, a few of them named. */
export function layerColour(layers: readonly number[]): {
  field: "layer";
  type: "quantitative";
  scale: { scheme: "viridis" };
  legend: { values: number[]; format: "d" };
} {
  const named = sampleLayers(layers.length, 6).map((i) => layers[i]!);
  return {
    field: "layer",
    type: "quantitative",
    scale: { scheme: "viridis" },
    legend: { values: named, format: "d" },
  };
}

function layersOf(spectra: readonly Spectrum[]): number[] {
  return [...new Set(spectra.map(({ layer }) => layer))];
}
