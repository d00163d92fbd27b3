/** From a model and a text to a recipe: thresholds from what the model sees, scales and factors from its weights. */
import { CALIBRATION_METHODS, type CalibrationMethod } from "./methods.ts";
import { type Checkpoint, concatBytes, floatsOf } from "./checkpoint.ts";
import { ColumnNorms } from "./column_norms.ts";
import { dialRows } from "./dial_rows.ts";
import { createSvd, type Svd } from "./svd.ts";
import { TensorReader } from "./tensor_reader.ts";
import { loadKernelModule } from "../kernels/probe.ts";
import { type ProjectionName, projectionPath, PROJECTIONS, projectionShape } from "../model/config.ts";
import { calibrateNeurons } from "./neurons.ts";
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
import { applyRecipe } from "../runtime/apply_recipe.ts";
import { encodeDocuments } from "../runtime/encode_text.ts";
import { projectionsOf } from "../runtime/forward.ts";
import type { Model } from "../runtime/model.ts";
import { nextTurn } from "../runtime/turn.ts";

/**
/** Settings of {@linkcode calibrateModel}. */
export interface CalibrateOptions {
  /** The text to read; or several documents, each followed by token 0, as evaluation has C4. */
  readonly text: string | readonly string[];
  /** What to call it in the recipe. */
  readonly source: string;
  /** Default `by-site`; `r-sparse` where there is a `rho` or `compat` is `official`, which no other method has. */
  readonly method?: CalibrationMethod;
  /** Tokens to read from its beginning, in pieces of 1,024 (`stream` `dense`: 512); default 8,192 (official: 512), or all if the text has fewer. */
  readonly tokens?: number;
  /** Share of the multiply-adds to skip, [0, 1). */
  readonly sparsity: number;
  /** Share of the kept compute that goes to channels, [0, 1]; the rest buys rank. Default 1; `low-rank` has 0, other methods than `r-sparse` 1. */
  readonly rho?: number;
  /** `official`: one piece of 512 tokens, every position sparse, for `r-sparse` alone. `corrected` (default): more text. */
  readonly compat?: "official" | "corrected";
  /**
   * What the thresholds of a projection are set on: what the model hands on that runs `sparse` up to there, or that runs `dense`. Default: `sparse`, but for
   * `r-sparse`, whose paper has `dense`.
   */
  readonly stream?: "sparse" | "dense";
  /**
   * On the sparse stream: sparsities at which the model runs over the text's beginning besides its own, so that thresholds for other settings of the dial are of
   * what it sees there; default 0.25, 0.5 and 0.7, which takes three quarters more time. None: the dial is best near the recipe's own sparsity.
   */
  readonly dialStreams?: readonly number[];
  /**
   * The first so many positions of a sequence that always run dense. Default as what the methods were measured with: 0 on the sparse stream (quality.md section 2), else 1
   * (rsparse.md section 6); official: 0.
   */
  readonly keepDense?: number;
  /** Recorded; nothing here is random. */
  readonly seed?: number;
  /** Keeps what is done, and has what an earlier run with the same settings, text and model kept. */
  readonly checkpoint?: Checkpoint;
  /** Ends calibration with the signal's reason. */
  readonly signal?: AbortSignal;
  /** Called after each projection's factors, and after each block: with how many of the tokens' passes are done. */
  readonly onProgress?: (
    progress: { readonly phase: "factors" | "thresholds"; readonly done: number; readonly total: number },
  ) => void;
}

/** Tokens a piece: each begins a new sequence. */
const PIECE = 512, STREAM_PIECE = 1024;
const DEFAULT_TOKENS = 8192;

/** Everything that the options leave open, decided. */
interface Plan {
  readonly method: CalibrationMethod;
  readonly sparsity: number;
  readonly rho: number;
  readonly compat: "official" | "corrected";
  readonly stream: "sparse" | "dense";
  readonly tokens: number;
  readonly keepDense: number;
}

/** Methods that skip neurons: what is observed, and how, is theirs. */
function isNeuronMethod(method: CalibrationMethod): method is "cats" | "griffin" | "relufication" {
  return method === "cats" || method === "griffin" || method === "relufication";
}

function planCalibration(options: CalibrateOptions): Plan {
  const { sparsity, compat = "corrected" } = options, isOfficial = compat === "official";
  const method = options.method ?? (isOfficial || options.rho !== undefined ? "r-sparse" : "by-site");
  if (!CALIBRATION_METHODS.includes(method)) {
    throw new RangeError(`method: ${method} found, one of ${CALIBRATION_METHODS.join(" ")} wanted`);
  }
  const fixedRho = method === "r-sparse" ? null : method === "low-rank" ? 0 : 1,
    rho = options.rho ?? fixedRho ?? 1;
  if (fixedRho !== null && rho !== fixedRho) {
    throw new RangeError(`rho: ${rho} found, ${method} has ${fixedRho}`);
  }
  if (isOfficial && method !== "r-sparse") {
    throw new RangeError(`compat: official found with ${method}, r-sparse alone has it`);
  }
  if (isNeuronMethod(method) && options.stream !== undefined) {
    throw new RangeError(`stream: ${options.stream} found, ${method} has no choice`);
  }
  const isDense = method === "r-sparse" || method === "low-rank" || isNeuronMethod(method);
  const stream = options.stream ?? (isDense ? "dense" : "sparse");
  if (stream === "sparse" && (isOfficial || rho === 0)) {
    throw new RangeError(
      isOfficial
        ? "stream: sparse found, official calibration is dense"
        : "stream: sparse found, with rho 0 there are no thresholds",
    );
  }
  planBudget({ nIn: 1, nOut: 1 }, sparsity, rho);
  const odd = options.dialStreams?.find((at) => !dialPoints(sparsity).includes(at));
  if (odd !== undefined) {
    throw new RangeError(`dial streams: ${odd} found, hundredths from 0 to 0.9 wanted`);
  }
  const tokens = options.tokens ?? (isOfficial ? PIECE : DEFAULT_TOKENS);
  if (!Number.isInteger(tokens) || tokens < 2) {
    throw new RangeError(`tokens: ${tokens} found, at least 2 wanted`);
  }
  const keepDense = options.keepDense ?? (isOfficial || stream === "sparse" ? 0 : 1);
  if (!Number.isInteger(keepDense) || keepDense < 0 || (isOfficial && keepDense !== 0)) {
    throw new RangeError(`keepDense: ${keepDense} found, a count wanted, official: 0`);
  }
  return { method, sparsity, rho, compat, stream, tokens, keepDense };
}

/**
 * Makes a recipe (rsparse.md sections 3 to 5, quality.md section 3): the model reads the text; per projection, the threshold is the k-th smallest
 * score of all tokens and channels, k = trunc(count * share), the share that {@linkcode CalibrateOptions.method} gives it at each point of the dial.
 *
 * @param model any dtype, without a recipe, and on its own: no other session runs meanwhile. With rank on the sparse stream, its memory keeps the factors.
 * @throws {RangeError} If a share is out of range, options don't go together, or the text is too short.
 */
export async function calibrateModel(model: Model, options: CalibrateOptions): Promise<LoadedRecipe> {
  const plan = planCalibration(options), { config } = model;
  const { method, sparsity, rho, compat, keepDense } = plan;
  if (model.recipe !== null) throw new RangeError("the model has a recipe: load it without one to calibrate");
  const ids = await encodeDocuments((text) => model.description.tokenizer.encode(text), options.text, {
    most: plan.tokens,
    signal: options.signal,
  });
  if (ids.length < 2) {
    throw new RangeError(`the calibration text has ${ids.length} tokens, at least 2 wanted`);
  }
  if (isNeuronMethod(method)) {
    const { signal, onProgress } = options;
    const onTokens = (done: number, total: number): void =>
      onProgress?.({ phase: "thresholds", done, total });
    const source = method === "griffin" ? { text: "", source: "none" } : {};
    return await calibrateNeurons(
      model,
      { method, ids, sparsity, signal, keepDense, onTokens },
      (made) => describe(model, { ...options, ...source }, { ...made, method, compat }),
    );
  }
  const scaled = method === "wina" || (rho > 0 && rho < 1);
  const rankOf = (name: ProjectionName): number =>
    rho === 1 ? 0 : planBudget(projectionShape(config, name), sparsity, rho).rank;
  const tensors = await weightTensors(
    model,
    (layer, name) => ({ scaled, rank: rankOf(name), path: projectionPath(layer, name) }),
    options,
  );
  const points = rho === 0 ? [] : dialPoints(sparsity), shareAt = sharesOf(model, plan);
  const recipeWith = async (threshold: (path: string) => number): Promise<Recipe> => {
    const projections = eachProjection(model).map(([layer, name]): ProjectionRecipe => {
      const path = projectionPath(layer, name),
        share = method === "by-site" ? shareAt(name, sparsity) : sparsity;
      return {
        path,
        score: scaled ? "columnNorm" : "abs",
        threshold: threshold(path),
        rho,
        sparsity: share,
        channels: planBudget(projectionShape(config, name), share, rho).activeChannels,
        rank: rankOf(name),
        mode: modeOf(rho),
      };
    });
    const made = { method, sparsity, points, rho, compat, projections, tokens: ids.length, keepDense };
    return await describe(model, options, rho === 0 ? made : { ...made, stream: plan.stream });
  };
  if (rho === 0) return joinRecipe(await recipeWith(() => -1), tensors);
  if (scaled && plan.stream === "sparse") {
    // their scales and factors are in the model while it runs, their thresholds not yet
    const blank = joinRecipe({ ...await recipeWith(() => 0), points: [] }, tensors);
    const { kernels, weights, arena, workspace } = model.engine;
    applyRecipe(kernels, weights, blank, arena, workspace);
  }
  try {
    const rows = await dialRows(model, {
      points,
      sparsity,
      ids,
      stream: plan.stream,
      keepDense,
      pieceLength: plan.stream === "sparse" ? STREAM_PIECE : PIECE,
      dialStreams: options.dialStreams,
      shareAt,
      scale: (path) => tensors.get(path)?.scale ?? null,
      ...options.checkpoint === undefined ? {} : { checkpoint: options.checkpoint },
      signal: options.signal,
      onTokens: (done, total) => options.onProgress?.({ phase: "thresholds", done, total }),
    });
    const own = points.indexOf(sparsity), table = new Float32Array(rows.size * points.length);
    for (const [i, [layer, name]] of eachProjection(model).entries()) {
      table.set(rows.get(projectionPath(layer, name))!, points.length * i);
    }
    return joinRecipe(await recipeWith((path) => rows.get(path)![own]!), tensors, table);
  } finally {
    for (const part of model.engine.weights.layers.flatMap(projectionsOf)) part.rule = null;
  }
}

/** The share of a projection's scores below its threshold at a sparsity. */
function sharesOf(
  { config }: Model,
  { method, sparsity, rho }: Plan,
): (name: ProjectionName, at: number) => number {
  const sizeOf = (...names: ProjectionName[]): number =>
    names.reduce(
      (sum, name) => sum + projectionShape(config, name).nIn * projectionShape(config, name).nOut,
      0,
    );
  const sizes = {
    down: sizeOf("downProj"),
    o: sizeOf("oProj"),
    others: sizeOf("qProj", "kProj", "vProj", "gateProj", "upProj"),
  };
  // ranks stay as they are at every setting of the dial, so channels pay for what they cost
  const rankShare = (1 - sparsity) * (1 - rho);
  return (name, at) => {
    if (method === "by-site") {
      const { down, o, others } = siteShares(sizes, at);
      return name === "downProj" ? down : name === "oProj" ? o : others;
    }
    return at === sparsity ? 1 - (1 - sparsity) * rho : Math.min(at + rankShare, 1);
  };
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
  options: Pick<CalibrateOptions, "source" | "signal" | "onProgress" | "seed" | "compat" | "checkpoint">,
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

/** What a text's hash is taken of: documents as lines of JSON. */
function textBytes(text: CalibrateOptions["text"]): string {
  return typeof text === "string" ? text : text.map((document) => `${JSON.stringify(document)}\n`).join("");
}

async function describe(
  model: Model,
  options: { readonly text: CalibrateOptions["text"]; readonly source: string; readonly seed?: number },
  made:
    & Pick<Recipe, "method" | "sparsity" | "points" | "rho" | "compat" | "projections" | "keepDense" | "mlp">
    & { readonly tokens: number; readonly stream?: "sparse" | "dense" },
): Promise<Recipe> {
  const { tokens, stream, ...rest } = made;
  return {
    version: RECIPE_VERSION,
    modelHash: await model.hash(),
    model: model.description.name,
    seed: options.seed ?? 0,
    calibration: {
      source: options.source,
      tokens,
      sha256: options.text === "" ? "" : await model.platform.sha256([new Blob([textBytes(options.text)])]),
      ...stream === undefined ? {} : { stream },
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
  options: Pick<CalibrateOptions, "signal" | "onProgress" | "checkpoint">,
): Promise<Map<string, ProjectionTensors>> {
  const out = new Map<string, ProjectionTensors>(), all = eachProjection(model);
  let svd: Svd | null = null, reader: TensorReader | null = null;
  for (const [done, [layer, name]] of all.entries()) {
    options.signal?.throwIfAborted();
    const { scaled, rank, path } = plan(layer, name);
    if (!scaled && rank === 0) continue;
    const { nIn, nOut } = projectionShape(model.config, name), { checkpoint } = options;
    const kept = tensorsOf(await checkpoint?.get(`tensors ${path}`) ?? null, { scaled, rank, nIn, nOut });
    if (kept !== null) {
      out.set(path, kept);
      continue;
    }
    const module = await loadKernelModule("baseline");
    svd ??= await createSvd(module);
    reader ??= await TensorReader.create(module);
    const w = await reader.read(model.description.layers[layer]!.projections[name]);
    let scale: Float32Array | null = null;
    if (scaled) {
      const norms = new ColumnNorms(nIn);
      norms.add(w);
      scale = norms.finish();
    }
    const factors: Factors | null = rank === 0 ? null : svd.truncatedSvd(w, nOut, nIn, rank);
    out.set(path, { scale, factors: factors === null ? null : { u: factors.u, v: factors.v } });
    await checkpoint?.put(
      `tensors ${path}`,
      concatBytes([scale, factors?.u, factors?.v].filter((values) => values instanceof Float32Array)),
    );
    options.onProgress?.({ phase: "factors", done: done + 1, total: all.length });
    await nextTurn();
  }
  return out;
}

/** What an earlier run kept of a projection: its scale, u and v one after the other; null where there is none that fits. */
function tensorsOf(
  bytes: Uint8Array | null,
  { scaled, rank, nIn, nOut }: {
    readonly scaled: boolean;
    readonly rank: number;
    readonly nIn: number;
    readonly nOut: number;
  },
): ProjectionTensors | null {
  const scales = scaled ? nIn : 0;
  if (bytes === null || bytes.length !== 4 * (scales + rank * (nIn + nOut))) return null;
  const values = floatsOf(bytes), u = values.slice(scales, scales + rank * nOut);
  return {
    scale: scaled ? values.slice(0, scales) : null,
    factors: rank === 0 ? null : { u, v: values.slice(scales + u.length) },
  };
}
