/** From a model and a text to a recipe: thresholds from what the model sees, scales and factors from its weights. */
import { createSvd, type Svd } from "./svd.ts";
import { ColumnNorms } from "./column_norms.ts";
import { TensorReader } from "./tensor_reader.ts";
import { ThresholdObserver } from "./threshold.ts";
import { loadKernelModule } from "../kernels/probe.ts";
import { type ProjectionName, projectionPath, PROJECTIONS, projectionShape } from "../model/config.ts";
import { calibrateNeurons } from "./neurons.ts";
import { streamThresholds } from "./stream.ts";
import { planBudget, siteShares } from "../recipe/budget.ts";
import { dialPoints } from "../recipe/dial.ts";
import { isJsonObject } from "../format/json.ts";
import { importThresholdRecipe, parseThresholds } from "../recipe/import.ts";
import {
  checkRecipe,
  type Factors,
  joinRecipe,
  type LoadedRecipe,
  modeOf,
  type ProjectionRecipe,
  type ProjectionTensors,
  type Recipe,
  RECIPE_VERSION,
} from "../recipe/recipe.ts";
import { SITES } from "../runtime/forward.ts";
import type { Model } from "../runtime/model.ts";
import { nextTurn } from "../runtime/turn.ts";

/**
 * How {@linkcode calibrateModel} chooses what to skip: `r-sparse`, |x| or, with rank, |x| times the column's norm; `teal`, |x|, the same share everywhere;
 * `by-site`, |x|, more of down and o; `wina`, |x| times the column's norm and no rank; `low-rank`, rank alone; `cats`, `griffin`
 * and `relufication` skip neurons of the MLP (`neurons.ts`). The thresholds of `teal` and `by-site` are set
 * while the model runs sparse, the others' while it runs dense.
 */
export const CALIBRATION_METHODS = [
  "r-sparse",
  "teal",
  "by-site",
  "wina",
  "low-rank",
  "cats",
  "griffin",
  "relufication",
] as const;
/** One of {@linkcode CALIBRATION_METHODS}. */
export type CalibrationMethod = typeof CALIBRATION_METHODS[number];

/** Settings of {@linkcode calibrateModel}. */
export interface CalibrateOptions {
  /** The text to read. */
  readonly text: string;
  /** What to call it in the recipe. */
  readonly source: string;
  /** Default `r-sparse`. */
  readonly method?: CalibrationMethod;
  /** Tokens to read from its beginning, in pieces of 512 (`teal`, `by-site`: 1,024); default 8,192 (official: 512), or all if the text has fewer. */
  readonly tokens?: number;
  /** Share of the multiply-adds to skip, [0, 1). */
  readonly sparsity: number;
  /** Share of the kept compute that goes to channels, [0, 1]; the rest buys rank. Default 1; `low-rank` has 0, other methods than `r-sparse` 1. */
  readonly rho?: number;
  /** `official`: one piece of 512 tokens, every position sparse. `corrected` (default): more text, position 0 dense. */
  readonly compat?: "official" | "corrected";
  /** Recorded; nothing here is random. */
  readonly seed?: number;
  /** Ends calibration with the signal's reason. */
  readonly signal?: AbortSignal;
  /** Called after each projection's factors and each 128 tokens. */
  readonly onProgress?: (
    progress: { readonly phase: "factors" | "thresholds"; readonly done: number; readonly total: number },
  ) => void;
}

/** Tokens a piece: each begins a new sequence. */
const PIECE = 512, STREAM_PIECE = 1024;
const DEFAULT_PIECES = 16;
/** Tokens between two looks at the signal. */
const STEP = 128;

/**
 * Calibrates R-Sparse (rsparse.md sections 3 to 5): the model runs dense over the text; per projection, the threshold is the k-th smallest
 * score of all tokens and channels, k = trunc(count * targetSparsity), targetSparsity = 1 - (1 - sparsity) * rho.
 *
 * @param model any dtype: its recipe, if it has one, is not used
 * @throws {RangeError} If a share is out of range or the text is too short.
 */
export async function calibrateModel(model: Model, options: CalibrateOptions): Promise<LoadedRecipe> {
  const { sparsity, signal, onProgress, method = "r-sparse" } = options,
    compat = options.compat ?? "corrected";
  if (!CALIBRATION_METHODS.includes(method)) {
    throw new RangeError(`method: ${method} found, one of ${CALIBRATION_METHODS.join(" ")} wanted`);
  }
  const fixedRho = method === "r-sparse" ? null : method === "low-rank" ? 0 : 1,
    rho = options.rho ?? fixedRho ?? 1;
  if (fixedRho !== null && rho !== fixedRho) {
    throw new RangeError(`rho: ${rho} found, ${method} has ${fixedRho}`);
  }
  planBudget({ nIn: 1, nOut: 1 }, sparsity, rho);
  const wanted = options.tokens ?? (compat === "official" ? PIECE : PIECE * DEFAULT_PIECES);
  if (!Number.isInteger(wanted) || wanted < 2) {
    throw new RangeError(`tokens: ${wanted} found, at least 2 wanted`);
  }
  const ids = model.description.tokenizer.encode(options.text).slice(0, wanted);
  if (ids.length < 2) {
    throw new RangeError(`the calibration text has ${ids.length} tokens, at least 2 wanted`);
  }
  if (method === "teal" || method === "by-site") {
    return await calibrateStream(model, { ...options, method, ids, compat });
  }
  if (method === "cats" || method === "griffin" || method === "relufication") {
    const neurons = { method, ids, sparsity, signal, keepDense: compat === "official" ? 0 : 1 };
    const onTokens = (done: number, total: number): void =>
      onProgress?.({ phase: "thresholds", done, total });
    const source = method === "griffin" ? { text: "", source: "none" } : {};
    return await calibrateNeurons(
      model,
      { ...neurons, onTokens },
      (made) => describe(model, { ...options, ...source }, { ...made, method, compat }),
    );
  }
  const scaled = method === "wina" || (rho > 0 && rho < 1);
  const tensors = await weightTensors(model, (layer, name) => {
    const shape = projectionShape(model.config, name);
    return {
      scaled,
      rank: rho === 1 ? 0 : planBudget(shape, sparsity, rho).rank,
      path: projectionPath(layer, name),
    };
  }, options);
  const observers = rho === 0
    ? new Map<string, ThresholdObserver>()
    : makeObservers(model, tensors, ids.length);
  if (rho > 0) {
    await observe(
      model,
      ids,
      observers,
      signal,
      (done) => onProgress?.({ phase: "thresholds", done, total: ids.length }),
    );
  }
  // ranks stay as they are at every setting of the dial, so channels pay for what they cost
  const rankShare = (1 - sparsity) * (1 - rho), points = rho === 0 ? [] : dialPoints(sparsity);
  const targetAt = (point: number): number =>
    point === sparsity ? 1 - (1 - sparsity) * rho : Math.min(point + rankShare, 1);
  const table = new Float32Array(eachProjection(model).length * points.length);
  const rows = new Map<ThresholdObserver, Float32Array>();
  const projections: ProjectionRecipe[] = eachProjection(model).map(([layer, name], i) => {
    const path = projectionPath(layer, name),
      budget = planBudget(projectionShape(model.config, name), sparsity, rho);
    if (rho > 0) {
      const observer = observers.get(path)!;
      const row = rows.get(observer) ?? observer.quantiles(points.map(targetAt));
      rows.set(observer, row);
      table.set(row, points.length * i);
    }
    return {
      path,
      score: scaled ? "columnNorm" : "abs",
      threshold: rho === 0 ? -1 : table[points.length * i + points.indexOf(sparsity)]!,
      rho,
      sparsity,
      channels: budget.activeChannels,
      rank: rho === 1 ? 0 : budget.rank,
      mode: modeOf(rho),
    };
  });
  return joinRecipe(
    await describe(model, options, {
      method,
      sparsity,
      points,
      rho,
      compat,
      projections,
      tokens: ids.length,
      keepDense: compat === "official" ? 0 : 1,
    }),
    tensors,
    points.length === 0 ? null : table,
  );
}

/** `teal` and `by-site`: |x|, one mask a site, thresholds on the sparse stream. */
async function calibrateStream(
  model: Model,
  options: CalibrateOptions & {
    readonly method: "teal" | "by-site";
    readonly ids: readonly number[];
    readonly compat: "official" | "corrected";
  },
): Promise<LoadedRecipe> {
  const { method, ids, compat, sparsity, signal, onProgress } = options, { config } = model;
  const points = dialPoints(sparsity), keepDense = compat === "official" ? 0 : 1;
  const sizeOf = (names: readonly ProjectionName[]): number =>
    names.reduce(
      (sum, name) => sum + projectionShape(config, name).nIn * projectionShape(config, name).nOut,
      0,
    );
  const sizes = {
    down: sizeOf(["downProj"]),
    o: sizeOf(["oProj"]),
    others: sizeOf(["qProj", "kProj", "vProj", "gateProj", "upProj"]),
  };
  const shareOf = (name: ProjectionName, sparsity: number): number => {
    if (method === "teal") return sparsity;
    const { down, o, others } = siteShares(sizes, sparsity);
    return name === "downProj" ? down : name === "oProj" ? o : others;
  };
  const length = Math.min(STREAM_PIECE, model.engine.contextLength), own = points.indexOf(sparsity);
  const pieces = Array.from(
    { length: Math.ceil(ids.length / length) },
    (_, i) => ids.slice(length * i, length * (i + 1)),
  );
  const rows = await streamThresholds(model, {
    pieces,
    keepDense,
    targets: (name) => ({ shares: points.map((point) => shareOf(name, point)), own }),
    signal,
    onTokens: (done) => onProgress?.({ phase: "thresholds", done, total: ids.length }),
  });
  const table = new Float32Array(eachProjection(model).length * points.length);
  const projections = eachProjection(model).map(([layer, name], i): ProjectionRecipe => {
    const path = projectionPath(layer, name), share = shareOf(name, sparsity), row = rows.get(path)!;
    table.set(row, points.length * i);
    return {
      path,
      score: "abs",
      threshold: row[own]!,
      rho: 1,
      sparsity: share,
      channels: planBudget(projectionShape(config, name), share, 1).activeChannels,
      rank: 0,
      mode: "sparse",
    };
  });
  const made = { method, sparsity, points, rho: 1, compat, projections, tokens: ids.length, keepDense };
  return joinRecipe(await describe(model, options, made), new Map(), table);
}

/**
 * A recipe from thresholds that someone gives (`calibrate --thresholds`): factors and scales come from the weights, nothing is observed.
 * Every position runs sparse, as in the runs such files come from.
 *
 * @param json `{sparsity, rho, modules: [[path, threshold, activeChannels, rank], …]}`, or what {@linkcode importThresholdRecipe} reads
 * @throws {RecipeError} If it does not fit the model.
 */
export async function recipeFromThresholds(
  model: Model,
  json: unknown,
  options: Pick<CalibrateOptions, "source" | "signal" | "onProgress" | "seed" | "compat">,
): Promise<LoadedRecipe> {
  if (isJsonObject(json) && isJsonObject(json["modules"])) {
    const loaded = importThresholdRecipe(json, model.config, options.source);
    checkRecipe(loaded, model.config, await model.hash());
    return loaded;
  }
  const { sparsity, rho, projections: given } = parseThresholds(json, model.config);
  const byPath = new Map(given.map((p) => [p.path, p]));
  const tensors = await weightTensors(model, (layer, name) => {
    const path = projectionPath(layer, name);
    return { scaled: rho > 0 && rho < 1, rank: rho === 1 ? 0 : byPath.get(path)!.rank, path };
  }, options);
  const projections: ProjectionRecipe[] = given.map((p) => ({
    path: p.path,
    score: rho > 0 && rho < 1 ? "columnNorm" : "abs",
    threshold: p.threshold,
    rho,
    sparsity,
    channels: p.activeChannels,
    rank: rho === 1 ? 0 : p.rank,
    mode: modeOf(rho),
  }));
  return joinRecipe(
    await describe(model, { ...options, text: "" }, {
      method: "r-sparse",
      sparsity,
      points: [],
      rho,
      compat: options.compat ?? "corrected",
      projections,
      tokens: 0,
      keepDense: 0,
    }),
    tensors,
  );
}

async function describe(
  model: Model,
  options: { readonly text: string; readonly source: string; readonly seed?: number },
  made:
    & Pick<Recipe, "method" | "sparsity" | "points" | "rho" | "compat" | "projections" | "keepDense" | "mlp">
    & { readonly tokens: number },
): Promise<Recipe> {
  const { tokens, ...rest } = made;
  return {
    version: RECIPE_VERSION,
    modelHash: await model.hash(),
    model: model.description.name,
    seed: options.seed ?? 0,
    calibration: {
      source: options.source,
      tokens,
      sha256: options.text === "" ? "" : await model.platform.sha256([new Blob([options.text])]),
    },
    ...rest,
  };
}

function eachProjection(model: Model): [number, ProjectionName][] {
  return Array.from(
    { length: model.config.numHiddenLayers },
    (_, layer) => PROJECTIONS.map((name): [number, ProjectionName] => [layer, name]),
  ).flat();
}

/** Column norms and factors of every projection that needs them. */
async function weightTensors(
  model: Model,
  plan: (
    layer: number,
    name: ProjectionName,
  ) => { readonly scaled: boolean; readonly rank: number; readonly path: string },
  options: Pick<CalibrateOptions, "signal" | "onProgress">,
): Promise<Map<string, ProjectionTensors>> {
  const out = new Map<string, ProjectionTensors>(), all = eachProjection(model);
  let svd: Svd | null = null, reader: TensorReader | null = null;
  for (const [done, [layer, name]] of all.entries()) {
    options.signal?.throwIfAborted();
    const { scaled, rank, path } = plan(layer, name);
    if (!scaled && rank === 0) continue;
    const module = await loadKernelModule("baseline");
    svd ??= await createSvd(module);
    reader ??= await TensorReader.create(module);
    const { nIn, nOut } = projectionShape(model.config, name);
    const w = await reader.read(model.description.layers[layer]!.projections[name]);
    let scale: Float32Array | null = null;
    if (scaled) {
      const norms = new ColumnNorms(nIn);
      norms.add(w);
      scale = norms.finish();
    }
    const factors: Factors | null = rank === 0 ? null : svd.truncatedSvd(w, nOut, nIn, rank);
    out.set(path, { scale, factors: factors === null ? null : { u: factors.u, v: factors.v } });
    options.onProgress?.({ phase: "factors", done: done + 1, total: all.length });
    await nextTurn();
  }
  return out;
}

/** One observer a projection; those of a site that score by |x| share theirs. */
function makeObservers(
  model: Model,
  tensors: ReadonlyMap<string, ProjectionTensors>,
  nTokens: number,
): Map<string, ThresholdObserver> {
  const observers = new Map<string, ThresholdObserver>();
  for (let layer = 0; layer < model.config.numHiddenLayers; layer++) {
    for (const site of SITES) {
      let shared: ThresholdObserver | null = null;
      for (const name of site) {
        const path = projectionPath(layer, name), scale = tensors.get(path)?.scale ?? null;
        const expected = nTokens * projectionShape(model.config, name).nIn;
        if (scale !== null) observers.set(path, new ThresholdObserver({ scale, expected }));
        else observers.set(path, shared ??= new ThresholdObserver({ expected }));
      }
    }
  }
  return observers;
}

async function observe(
  model: Model,
  ids: readonly number[],
  observers: ReadonlyMap<string, ThresholdObserver>,
  signal: AbortSignal | undefined,
  onTokens: (done: number) => void,
): Promise<void> {
  const { memory } = model.engine, piece = Math.min(PIECE, model.engine.contextLength);
  const watch = (
    layer: number,
    site: readonly ProjectionName[],
    x: number,
    stride: number,
    nTokens: number,
  ): void => {
    const { nIn } = projectionShape(model.config, site[0]!), seen = new Set<ThresholdObserver>();
    const values = new Float32Array(nTokens * nIn),
      all = new Float32Array(memory.buffer, x, nTokens * stride);
    for (let t = 0; t < nTokens; t++) values.set(all.subarray(t * stride, t * stride + nIn), t * nIn);
    for (const name of site) seen.add(observers.get(projectionPath(layer, name))!);
    for (const observer of seen) observer.observe(values);
  };
  using session = model.session();
  for (let first = 0; first < ids.length; first += piece) {
    session.truncate(0);
    const last = Math.min(ids.length, first + piece);
    for (let at = first; at < last; at += STEP) {
      const end = Math.min(last, at + STEP);
      session.advance(ids.slice(at, end), { observe: watch });
      onTokens(end);
      await nextTurn();
      signal?.throwIfAborted();
    }
  }
}
