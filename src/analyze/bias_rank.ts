/**
 * Figure: are the inputs that are not large worth a few bias vectors? (The paper's section 3.2, known here second hand.)
 *
 * A multi-phase ReLU puts one constant in place of all inputs of a phase, so the channels in it add a constant times the sum of their columns of W, a vector that
 * depends on the token by its mask alone. With two phases 2,000 tokens gave the paper 4,000 such vectors, of stable rank about 400 out of 4,096. Here the two
 * phases are the inactive channels with x < 0 and with x > 0, the constants their means over all tokens: [choice], since the paper's own phases are not known.
 *
 * A small stable rank alone says little: masks drawn at random, each channel with the chance p, give vectors of stable rank near 1 / p, because all of them have
 * the mean in common; and constants by sign account for 3/4 of the squares of inputs that are uniform below the threshold, whatever W is. So the rank is also
 * given without the mean.
 */
import { type ProjectionName, PROJECTIONS, projectionShape } from "../model/config.ts";
import { drawPlot, type Plot } from "../plot/draw.ts";
import { csv } from "../plot/csv.ts";
import type { Figure } from "../plot/figure.ts";
import { sampleNote, shortName } from "./layers.ts";
import { type ChannelTest, maskOf } from "./masks.ts";
import { ranksOf } from "./spectra.ts";
import type { WeightReader } from "./weights.ts";

/** Tokens whose inputs are kept. */
export const BIAS_TOKENS = 512;

/** What became of one projection. */
export interface BiasRank {
  readonly layer: number;
  readonly projection: string;
  /** Tokens, and vectors: two of each. */
  readonly tokens: number;
  readonly full: number;
  /** Of the bias vectors. */
  readonly bias: { readonly entropy: number; readonly stable: number };
  /** Of the same, each phase's mean over tokens taken away: what is left changes from token to token. */
  readonly centred: { readonly entropy: number; readonly stable: number };
  /** Of what is really dropped, W (x − x_A). */
  readonly dropped: { readonly entropy: number; readonly stable: number };
  /** Of W. */
  readonly weights: { readonly entropy: number; readonly stable: number };
  /** Share of the dropped outputs' squares that the token's two bias vectors account for; below 0 they make it worse. */
  readonly byPhases: number;
  /** The share that one vector accounts for, the same for all tokens: their mean. */
  readonly byMean: number;
}

/** The inputs of one site, f32[tokens, nIn], and the test of its channels. */
export interface KeptInputs {
  readonly x: Float32Array;
  readonly tokens: number;
  readonly test: ChannelTest;
}

/** W by channels, f32[nIn, nOut], of f32[nOut, nIn]. */
function byChannel(w: Float32Array, nOut: number, nIn: number): Float32Array {
  const columns = new Float32Array(w.length);
  for (let o = 0; o < nOut; o++) for (let c = 0; c < nIn; c++) columns[c * nOut + o] = w[o * nIn + c]!;
  return columns;
}

/**
 * The bias vectors, two a token, and what is dropped.
 *
 * @param w f32[nOut, nIn]
 */
export function biasVectors(
  { x, tokens, test }: KeptInputs,
  w: Float32Array,
  nOut: number,
): { readonly biases: Float32Array; readonly dropped: Float32Array } {
  const nIn = w.length / nOut, columns = byChannel(w, nOut, nIn), mask = new Uint8Array(nIn);
  const sums = [0, 0], counts = [0, 0];
  const biases = new Float32Array(2 * tokens * nOut), dropped = new Float32Array(tokens * nOut);
  const rows = [new Float64Array(nOut), new Float64Array(nOut)], whole = new Float64Array(nOut);
  for (let t = 0; t < tokens; t++) {
    maskOf(mask, x, t * nIn, test);
    rows[0]!.fill(0);
    rows[1]!.fill(0);
    whole.fill(0);
    for (let c = 0; c < nIn; c++) {
      const value = x[t * nIn + c]!;
      if (mask[c] || value === 0) continue;
      const phase = value < 0 ? 0 : 1, row = rows[phase]!, at = c * nOut;
      sums[phase]! += value;
      counts[phase]!++;
      for (let o = 0; o < nOut; o++) {
        const weight = columns[at + o]!;
        row[o] = row[o]! + weight;
        whole[o] = whole[o]! + weight * value;
      }
    }
    biases.set(rows[0]!, 2 * t * nOut);
    biases.set(rows[1]!, (2 * t + 1) * nOut);
    dropped.set(whole, t * nOut);
  }
  // the phases' constants are known only now
  const levels = sums.map((sum, phase) => counts[phase] === 0 ? 0 : sum / counts[phase]!);
  for (let t = 0; t < 2 * tokens; t++) {
    for (let i = t * nOut; i < (t + 1) * nOut; i++) biases[i] = biases[i]! * levels[t % 2]!;
  }
  return { biases, dropped };
}

/** Shares of the squares of `dropped` that biases and the mean account for. */
export function accountedFor(biases: Float32Array, dropped: Float32Array, nOut: number): {
  readonly byPhases: number;
  readonly byMean: number;
} {
  const tokens = dropped.length / nOut, mean = new Float64Array(nOut);
  dropped.forEach((value, i) => mean[i % nOut] = mean[i % nOut]! + value / tokens);
  let all = 0, left = 0, leftOfMean = 0;
  for (let t = 0; t < tokens; t++) {
    for (let o = 0; o < nOut; o++) {
      const value = dropped[t * nOut + o]!;
      all += value * value;
      left += (value - biases[2 * t * nOut + o]! - biases[(2 * t + 1) * nOut + o]!) ** 2;
      leftOfMean += (value - mean[o]!) ** 2;
    }
  }
  return all === 0 ? { byPhases: 0, byMean: 0 } : { byPhases: 1 - left / all, byMean: 1 - leftOfMean / all };
}

/** Bias vectors without the mean of their phase. */
export function centre(biases: Float32Array, nOut: number): Float32Array {
  const pairs = biases.length / (2 * nOut), mean = new Float64Array(2 * nOut);
  biases.forEach((value, i) => mean[i % (2 * nOut)] = mean[i % (2 * nOut)]! + value / pairs);
  return biases.map((value, i) => value - mean[i % (2 * nOut)]!);
}

/** Everything of one projection. */
export async function measureBiasRank(
  weights: WeightReader,
  layer: number,
  name: ProjectionName,
  inputs: KeptInputs,
): Promise<BiasRank> {
  const { nIn, nOut } = projectionShape(weights.config, name), w = await weights.read(layer, name);
  const { biases, dropped } = biasVectors(inputs, w, nOut), { tokens } = inputs;
  return {
    layer,
    projection: shortName(name),
    tokens,
    full: Math.min(nOut, nIn),
    bias: ranksOf(weights.svd.singularValues(biases, 2 * tokens, nOut)),
    centred: ranksOf(weights.svd.singularValues(centre(biases, nOut), 2 * tokens, nOut)),
    dropped: ranksOf(weights.svd.singularValues(dropped, tokens, nOut)),
    weights: ranksOf(weights.svd.singularValues(w, nOut, nIn)),
    ...accountedFor(biases, dropped, nOut),
  };
}

/** Draws them. */
export async function biasRankFigure(
  ranks: readonly BiasRank[],
  layers: number,
  about: readonly string[],
): Promise<Figure> {
  const shown = [...new Set(ranks.map(({ layer }) => layer))], tokens = ranks[0]!.tokens;
  const title = "Inactive inputs as bias vectors", notes = sampleNote(shown, layers);
  const kinds = {
    bias: "bias vectors, two a token",
    centred: "the same without the mean of each phase",
    dropped: "what is dropped, W (x − x_A)",
    weights: "W",
  } as const;
  const order = PROJECTIONS.map(shortName),
    at = (layer: number, projection: string): string => `${layer} ${projection}`;
  const rows = shown.flatMap((layer) => order.map((projection) => at(layer, projection)));
  const values = ranks.flatMap((rank) =>
    (["bias", "centred", "dropped", "weights"] as const).map((kind) => ({
      row: at(rank.layer, rank.projection),
      kind: kinds[kind],
      stable: rank[kind].stable,
    }))
  ).filter(({ stable }) => stable > 0);
  const shares = ranks.flatMap((rank) => [
    { row: at(rank.layer, rank.projection), kind: "a token's two bias vectors", share: rank.byPhases },
    { row: at(rank.layer, rank.projection), kind: "one vector for all tokens, the mean", share: rank.byMean },
  ]);
  const y = { field: "row", type: "nominal", title: "layer, projection", sort: rows } as const;
  const plot: Plot = {
    title: {
      text: title,
      subtitle: [
        `phases: inactive channels with x < 0 and with x > 0; ${tokens} tokens, ${2 * tokens} vectors`,
        ...about,
        ...notes,
      ],
    },
    resolve: { scale: { color: "independent", shape: "independent" } },
    hconcat: [
      {
        title: { text: "stable rank, ‖M‖² / σ₁²", fontSize: 12 },
        width: 280,
        height: { step: 15 },
        data: { values },
        mark: { type: "point", filled: true, opacity: 1 },
        encoding: {
          y,
          x: {
            field: "stable",
            type: "quantitative",
            title: "stable rank",
            scale: { type: "log" },
            axis: { format: "~g", tickCount: 5 },
          },
          color: {
            field: "kind",
            type: "nominal",
            title: null,
            scale: { domain: Object.values(kinds) },
            legend: { orient: "bottom", direction: "vertical", labelLimit: 300 },
          },
        },
      },
      {
        title: { text: "share of the dropped outputs' squares accounted for", fontSize: 12 },
        width: 280,
        height: { step: 15 },
        data: { values: shares },
        mark: { type: "point", filled: true, opacity: 1 },
        encoding: {
          y: { ...y, axis: { labels: false, title: null } },
          x: { field: "share", type: "quantitative", title: "share", axis: { format: ".0%" } },
          shape: {
            field: "kind",
            type: "nominal",
            title: null,
            legend: { orient: "bottom", direction: "vertical", labelLimit: 300 },
          },
        },
      },
    ],
  };
  return {
    name: "bias-rank",
    title,
    svg: await drawPlot(plot, title),
    csv: csv(
      [
        "layer",
        "projection",
        "tokens",
        "vectors",
        "full_rank",
        "bias_stable_rank",
        "bias_entropy_rank",
        "centred_stable_rank",
        "centred_entropy_rank",
        "dropped_stable_rank",
        "dropped_entropy_rank",
        "weights_stable_rank",
        "weights_entropy_rank",
        "share_by_phases",
        "share_by_mean",
      ],
      ranks.map((rank) => [
        rank.layer,
        rank.projection,
        rank.tokens,
        2 * rank.tokens,
        rank.full,
        rank.bias.stable,
        rank.bias.entropy,
        rank.centred.stable,
        rank.centred.entropy,
        rank.dropped.stable,
        rank.dropped.entropy,
        rank.weights.stable,
        rank.weights.entropy,
        rank.byPhases,
        rank.byMean,
      ]),
    ),
    notes,
  };
}
