/** Recipes of methods that skip neurons of the MLP: CATS, GRIFFIN, ReLUfication. */
import { projectionPath, PROJECTIONS, projectionShape } from "../model/config.ts";
import { planBudget } from "../recipe/budget.ts";
import { dialPoints } from "../recipe/dial.ts";
import { type MlpKind, mostSparsity, neuronShare } from "../recipe/mlp.ts";
import {
  joinRecipe,
  type LoadedRecipe,
  modeOf,
  type ProjectionRecipe,
  type Recipe,
} from "../recipe/recipe.ts";
import { gateDense, type MlpRule, Relufication, siluOfGate } from "../runtime/mlp_rule.ts";
import type { Model } from "../runtime/model.ts";
import { nextTurn } from "../runtime/turn.ts";
import { ThresholdObserver } from "./threshold.ts";

/** What {@linkcode calibrateNeurons} needs of the options of a calibration. */
export interface NeuronOptions {
  readonly method: MlpKind;
  /** The text's tokens; `griffin` looks at none. */
  readonly ids: readonly number[];
  /** Share of a block's weights to skip; `relufication` has its own. */
  readonly sparsity: number;
  readonly keepDense: number;
  readonly signal?: AbortSignal;
  readonly onTokens?: (done: number, total: number) => void;
}

/** The numbers of a recipe that differ from method to method. */
type Made = Pick<Recipe, "sparsity" | "points" | "rho" | "projections" | "keepDense" | "mlp"> & {
  readonly tokens: number;
};

/** Tokens a piece, each of which begins a new sequence, and in one pass. */
const PIECE = 512, STEP = 128;
/** Tokens by which the share that ReLU skips is measured: it differs by a hundredth between texts. */
const RELU_TOKENS = 1024;

/**
 * Makes a recipe in which gate, up and all of attention are dense and down skips the neurons that the method leaves at 0.
 *
 * `cats`: per layer, the threshold is the k-th smallest |silu(gate)| of all tokens and neurons of the dense model, k = trunc(count * share of neurons), for
 * every point of the dial that the method can reach. `griffin`: nothing is observed. `relufication`: no threshold; its sparsity is what it skips of the text's
 * first 1,024 tokens.
 *
 * @param describe The recipe's other fields.
 * @throws {RangeError} If all neurons have not as many weights as are to be skipped.
 */
export async function calibrateNeurons(
  model: Model,
  options: NeuronOptions,
  describe: (made: Made) => Promise<Recipe>,
): Promise<LoadedRecipe> {
  const { method, keepDense } = options, { config } = model, most = mostSparsity(method, config);
  const sparsity = method === "relufication" ? await measureRelu(model, options) : options.sparsity;
  const share = neuronShare(method, config, sparsity);
  const points = method === "relufication" ? [] : dialPoints(sparsity).filter((point) => point <= most);
  const mlpThresholds = method === "cats" ? await thresholdsOfSilu(model, points, options) : null;
  const projections: ProjectionRecipe[] = [], table: number[] = [];
  for (let l = 0; l < config.numHiddenLayers; l++) {
    for (const name of PROJECTIONS) {
      const skips = name === "downProj",
        shape = projectionShape(config, name),
        own = skips ? Math.min(share, 0.99) : 0;
      projections.push({
        path: projectionPath(l, name),
        score: "abs",
        threshold: skips ? 0 : -1,
        rho: 1,
        sparsity: own,
        channels: planBudget(shape, own, 1).activeChannels,
        rank: 0,
        mode: skips ? modeOf(1) : "dense",
      });
      for (const _ of points) table.push(skips ? 0 : -1);
    }
  }
  const tokens = method === "griffin"
    ? 0
    : method === "cats"
    ? options.ids.length
    : textOfRelu(options.ids).length;
  const recipe = await describe({
    sparsity,
    points,
    rho: 1,
    projections,
    keepDense,
    mlp: { kind: method },
    tokens,
  });
  return joinRecipe(recipe, new Map(), points.length === 0 ? null : Float32Array.from(table), {
    mlpThresholds,
  });
}

/** f32[layers, points], from the model run dense. */
async function thresholdsOfSilu(
  model: Model,
  points: readonly number[],
  { ids, signal, onTokens }: NeuronOptions,
): Promise<Float32Array> {
  const { config } = model, { intermediateSize: nNeurons } = config;
  const observers = Array.from(
    { length: config.numHiddenLayers },
    () => new ThresholdObserver({ expected: ids.length * nNeurons }),
  );
  const watch: MlpRule = {
    rowsSpared: 0,
    gate({ team, s, layer, nTokens }) {
      const { widest } = s.strides, seen = new Float32Array(nTokens * nNeurons);
      siluOfGate(team, s, 0, nTokens);
      const silu = new Float32Array(team.kernels.memory.buffer, s.active, nTokens * widest);
      for (let t = 0; t < nTokens; t++) {
        seen.set(silu.subarray(widest * t, widest * t + nNeurons), nNeurons * t);
      }
      observers[layer]!.observe(seen);
      gateDense(team, s, 0, nTokens);
      return 0;
    },
    turn() {},
    newScores: () => null,
  };
  await withRule(model, watch, () => readDense(model, ids, signal, onTokens));
  const shares = points.map((point) => neuronShare("cats", config, point));
  return Float32Array.from(observers.flatMap((observer) => [...observer.quantiles(shares)]));
}

/** The tokens that ReLU is measured on. */
function textOfRelu(ids: readonly number[]): readonly number[] {
  return ids.slice(0, RELU_TOKENS);
}

/** The share of a block's weights that ReLU for SiLU skips, while every position runs by it. */
async function measureRelu(model: Model, { ids, signal, onTokens }: NeuronOptions): Promise<number> {
  const { config } = model, relu = new Relufication(config), text = textOfRelu(ids);
  let skipped = 0;
  const count: MlpRule = {
    rowsSpared: 0,
    gate(pass) {
      skipped += relu.gate({ ...pass, firstSparse: 0 });
      return 0;
    },
    turn() {},
    newScores: () => null,
  };
  await withRule(model, count, () => readDense(model, text, signal, onTokens));
  const all = text.length * config.numHiddenLayers * config.intermediateSize;
  return skipped / all * mostSparsity("relufication", config);
}

/** Runs the text through the model in pieces, as a model without a recipe would. */
async function readDense(
  model: Model,
  ids: readonly number[],
  signal: AbortSignal | undefined,
  onTokens: NeuronOptions["onTokens"],
): Promise<void> {
  const length = Math.min(PIECE, model.engine.contextLength);
  using session = model.session({ sparsity: 0 });
  for (let first = 0; first < ids.length; first += length) {
    session.truncate(0);
    const end = Math.min(ids.length, first + length);
    for (let at = first; at < end; at += STEP) {
      const next = Math.min(end, at + STEP);
      session.advance(ids.slice(at, next));
      onTokens?.(next, ids.length);
      await nextTurn();
      signal?.throwIfAborted();
    }
  }
}

/** The model with a rule of its MLPs in the place of its own; no other session runs meanwhile. */
async function withRule(model: Model, rule: MlpRule, work: () => Promise<void>): Promise<void> {
  const { weights } = model.engine, before = weights.mlp;
  weights.mlp = rule;
  try {
    await work();
  } finally {
    weights.mlp = before;
  }
}
