/**
 * The recipe: per projection, what the sparse forward pass needs to know. One `.safetensors` file: the recipe as JSON in
 * the metadata under {@linkcode RECIPE_KEY}, and tensors named after their projection (docs/formats.md has all rules).
 *
 *     <path>.u       [rank, nOut]      row k is column k of U times sigma_k; where rank > 0
 *     <path>.v       [rank, nIn]       row k is column k of V; where rank > 0 and no other projection's is shared
 *     <path>.u.scale, <path>.v.scale   f32[rank], where u or v is int8
 *     <path>.scale   f32[nIn]          where channels are chosen by columnNorm
 *     <path>.bias    f32[nOut]         added at sparse positions
 *     <norm>         f32[hiddenSize]   that norm's weight at sparse positions
 *     thresholds     f32[projections, points]   of each projection at each of `points`; where there are points
 */
import { FormatError, RecipeError } from "../errors.ts";
import { parseJsonObject } from "../format/json.ts";
import { quote } from "../format/limits.ts";
import {
  openSafetensors,
  type SafetensorsEntry,
  type SafetensorsInput,
  writeSafetensors,
} from "../format/safetensors.ts";
import { type LlamaConfig, projectionPath, PROJECTIONS, projectionShape } from "../model/config.ts";
import { badValue } from "./fields.ts";
import { isGainName } from "./names.ts";
import { readFactor, readFloats } from "./stored.ts";
import { checkMlp, type MlpRecipe } from "./mlp.ts";
import { readRecipe } from "./read.ts";
import { checkAllTensors, checkGains, checkMlpTable, MLP_TABLE, TABLE, tableRows } from "./tensors.ts";

/** Where in the file's metadata the recipe is. */
export const RECIPE_KEY = "rsparse.recipe";
/** The format version that this release reads and writes. */
export const RECIPE_VERSION = 3;

/** What a channel is weighed by: `|x|`, or `|x|` times the norm of its column of W, or what was learned in its place. */
export const SCORES = ["abs", "columnNorm"] as const;
/** One of {@linkcode SCORES}. */
export type Score = (typeof SCORES)[number];

/** How a projection is computed (`sparse` is rho = 1, `low_rank` rho = 0, `r_sparse` between them). */
export const MODES = ["sparse", "r_sparse", "low_rank", "dense"] as const;
/** One of {@linkcode MODES}. */
export type Mode = (typeof MODES)[number];

/** The methods that run through one set of kernels. */
export const METHODS = [
  "r-sparse",
  "teal",
  "wina",
  "cats",
  "griffin",
  "relufication",
  "low-rank",
  "by-site",
  "learned",
] as const;
/** One of {@linkcode METHODS}. */
export type Method = (typeof METHODS)[number];

/** Whose arithmetic a recipe was made with: the released code's, or the corrected one. */
export const COMPATS = ["official", "corrected"] as const;
/** One of {@linkcode COMPATS}. */
export type Compat = (typeof COMPATS)[number];

/** What V of a low-rank part multiplies: what is left of x beside the active channels, or all of x. */
export const LOW_RANK_INPUTS = ["inactive", "all"] as const;
/** One of {@linkcode LOW_RANK_INPUTS}. */
export type LowRankInput = (typeof LOW_RANK_INPUTS)[number];

/** One projection's part of a recipe. */
export interface ProjectionRecipe {
  /** The checkpoint's own path, such as `model.layers.3.mlp.down_proj`. */
  readonly path: string;
  /** What a channel's |x| is weighed by in the test. */
  readonly score: Score;
  /** A channel is active when its score is above, at the recipe's own sparsity; -1 leaves every channel active. */
  readonly threshold: number;
  /** Share of the kept compute that goes to channels, [0, 1]. */
  readonly rho: number;
  /** Share of the multiply-adds to skip, [0, 1). */
  readonly sparsity: number;
  /** Active channels that the budget pays for; how many there are varies from token to token. */
  readonly channels: number;
  /** Rows of the factors; 0 in modes `sparse` and `dense`. */
  readonly rank: number;
  /** Which half of the rule runs. */
  readonly mode: Mode;
  /** The projection of the same site, with a V of its own and the same rank, whose V it uses. */
  readonly sharedV?: string;
}

/** What calibration read. */
export interface CalibrationSource {
  /** The text's file name, or what the caller called it. */
  readonly source: string;
  /** Tokens seen; 0 where thresholds were given. */
  readonly tokens: number;
  /** SHA-256 of the text, lower-case hex; empty where there was none. */
  readonly sha256: string;
  /** What thresholds were set on: the inputs of the model that runs sparse up to there, or dense. Absent where there are none, or someone gave them. */
  readonly stream?: "sparse" | "dense";
}

/** A recipe without its tensors. */
export interface Recipe {
  /** Format of the file. */
  readonly version: 3;
  /** How its numbers were found. */
  readonly method: Method;
  /** Whose arithmetic it follows. */
  readonly compat: Compat;
  /** SHA-256 of the weights' files that it was made for. */
  readonly modelHash: string;
  /** That model's name, for people. */
  readonly model: string;
  /** Share of the multiply-adds to skip that was asked for, [0, 1): how it runs where nobody turns the dial. */
  readonly sparsity: number;
  /** The sparsities for which it has thresholds, ascending, its own among them; empty where it has its own alone. */
  readonly points: readonly number[];
  /** Share of the kept compute for channels that was asked for, [0, 1]. */
  readonly rho: number;
  /** Seed of what was random, 0 where nothing was. */
  readonly seed: number;
  /** What calibration read. */
  readonly calibration: CalibrationSource;
  /** The first so many positions of a sequence are always dense. */
  readonly keepDense: number;
  /** Default `inactive`. */
  readonly lowRankInput?: LowRankInput;
  /** Which neurons of the MLPs run, where a method picks them: beside it gate and up are `dense`, and down is `sparse`. */
  readonly mlp?: MlpRecipe;
  /** What each projection does; every projection of the model is here. */
  readonly projections: readonly ProjectionRecipe[];
}

/** A low-rank part: the first singular triples of a projection, or what was learned. */
export interface Factors {
  /** f32[rank, nOut], times sigma. */
  readonly u: Float32Array;
  /** f32[rank, nIn]. */
  readonly v: Float32Array;
}

/** What a projection stores besides numbers; what its mode and score don't need is null. */
export interface ProjectionTensors {
  /** Where its rank is above 0. */
  readonly factors: Factors | null;
  /** f32[nIn], where its score is `columnNorm`. */
  readonly scale: Float32Array | null;
  /** f32[nOut], added at sparse positions; none if it is left out. */
  readonly bias?: Float32Array | null;
}

/** Tensors of a recipe that belong to no projection. */
export interface ModelTensors {
  /** Weights of norms at sparse positions, f32[hiddenSize], by their names in checkpoints (`model.norm`); norms that are not here keep the model's. */
  readonly gains?: ReadonlyMap<string, Float32Array>;
  /** f32[layers, points], where the MLPs' rule is `cats`. */
  readonly mlpThresholds?: Float32Array | null;
}

/** A recipe and its tensors, checked against each other. */
export interface LoadedRecipe {
  /** Its numbers. */
  readonly recipe: Recipe;
  /** SHA-256 of its file, where it came from one and someone took it. */
  readonly sha256?: string;
  /** The factors of a projection, null where it has none. */
  factors(path: string): Factors | null;
  /** The scale of a projection, null where every channel's is 1. */
  scale(path: string): Float32Array | null;
  /** What is added to a projection's outputs at sparse positions, null where it is nothing. */
  bias(path: string): Float32Array | null;
  /** Weights of norms at sparse positions, f32[hiddenSize], by their names in checkpoints (`model.norm`); norms that are not here keep the model's. */
  readonly gains: ReadonlyMap<string, Float32Array>;
  /** Thresholds on |silu(gate)| at the recipe's points, f32[layers, points], never descending along a layer's row; null but for `cats`. */
  readonly mlpThresholds: Float32Array | null;
  /** A projection's thresholds at the recipe's points, f32[points], never descending; null where there are no points. */
  thresholds(path: string): Float32Array | null;
}

/** A projection of a model. */
export interface ShapedProjection {
  /** Its path in the checkpoint. */
  readonly path: string;
  /** Inputs. */
  readonly nIn: number;
  /** Outputs. */
  readonly nOut: number;
}

/** The mode that rho stands for. */
export function modeOf(rho: number): Exclude<Mode, "dense"> {
  return rho === 1 ? "sparse" : rho === 0 ? "low_rank" : "r_sparse";
}

/** Every projection of a model with its own shape: block 0's q, k, v, o, gate, up, down, then block 1's, and so on. */
export function projectionShapes(config: LlamaConfig): ShapedProjection[] {
  const shapes: ShapedProjection[] = [];
  for (let layer = 0; layer < config.numHiddenLayers; layer++) {
    for (const name of PROJECTIONS) {
      shapes.push({ path: projectionPath(layer, name), ...projectionShape(config, name) });
    }
  }
  return shapes;
}

/**
 * Joins a recipe and its tensors, as calibration has made them or a file has held them.
 *
 * @param tensors By projection path; a path that is not there has none. Projections that share a V have the same array.
 * @param table f32[projections, points], the dial; null where the recipe has no points
 * @param more What belongs to no projection.
 * @throws {RecipeError} If a value is out of its range, or a tensor is missing, not wanted, of the wrong size or not finite.
 */
export function joinRecipe(
  recipe: Recipe,
  tensors: ReadonlyMap<string, ProjectionTensors>,
  table: Float32Array | null = null,
  { gains = new Map(), mlpThresholds = null }: ModelTensors = {},
): LoadedRecipe {
  const checked = readRecipe(recipe), rows = tableRows(checked, table);
  checkAllTensors(checked.projections, tensors);
  checkGains(gains);
  checkMlpTable(checked, mlpThresholds);
  return {
    recipe: checked,
    gains,
    mlpThresholds,
    bias: (path) => tensors.get(path)?.bias ?? null,
    factors: (path) => tensors.get(path)?.factors ?? null,
    scale: (path) => tensors.get(path)?.scale ?? null,
    thresholds: (path) => rows.get(path) ?? null,
  };
}

/** The dial of a recipe as its file has it, f32[projections, points]; null where it has no points. */
export function tableOf({ recipe, thresholds }: LoadedRecipe): Float32Array | null {
  const { points, projections } = recipe;
  if (points.length === 0) return null;
  const table = new Float32Array(projections.length * points.length);
  for (const [i, { path }] of projections.entries()) table.set(thresholds(path)!, points.length * i);
  return table;
}

/**
 * A recipe's file as chunks to write one after the other; the same recipe gives the same bytes.
 *
 * @throws {RecipeError} As {@linkcode joinRecipe}: what could not be read again is not written.
 */
export function serialiseRecipe(
  recipe: Recipe,
  tensors: ReadonlyMap<string, ProjectionTensors>,
  table: Float32Array | null = null,
  more: ModelTensors = {},
): Uint8Array[] {
  const loaded = joinRecipe(recipe, tensors, table, more), { points, projections } = loaded.recipe;
  const inputs: SafetensorsInput[] = [];
  const add = (name: string, values: Float32Array, shape: number[]): void => {
    inputs.push({
      name,
      dtype: "F32",
      shape,
      data: new Uint8Array(values.buffer, values.byteOffset, values.byteLength),
    });
  };
  if (table !== null) add(TABLE, table, [projections.length, points.length]);
  for (const { path, rank, sharedV } of projections) {
    const factors = loaded.factors(path), scale = loaded.scale(path), bias = loaded.bias(path);
    if (factors !== null) {
      add(`${path}.u`, factors.u, [rank, factors.u.length / rank]);
      if (sharedV === undefined) add(`${path}.v`, factors.v, [rank, factors.v.length / rank]);
    }
    if (scale !== null) add(`${path}.scale`, scale, [scale.length]);
    if (bias !== null) add(`${path}.bias`, bias, [bias.length]);
  }
  for (const [name, gain] of loaded.gains) add(name, gain, [gain.length]);
  if (loaded.mlpThresholds !== null) {
    add(MLP_TABLE, loaded.mlpThresholds, [loaded.mlpThresholds.length / points.length, points.length]);
  }
  return writeSafetensors(inputs, { [RECIPE_KEY]: JSON.stringify(loaded.recipe) });
}

/**
 * Reads a recipe's file.
 *
 * @param file Its name, for errors.
 * @throws {FormatError} If it is no safetensors file, or has no recipe in its metadata.
 * @throws {RecipeError} If the recipe is of another version, a value is out of its range, or the tensors don't fit it.
 */
export async function parseRecipe(blob: Blob, file: string): Promise<LoadedRecipe> {
  const { entries, metadata } = await openSafetensors([{ name: file, blob }]);
  const text = metadata.get(RECIPE_KEY);
  if (text === undefined) {
    throw new FormatError(
      file,
      0,
      `no ${RECIPE_KEY} in its metadata: it is not a recipe, make one with rsparse calibrate`,
    );
  }
  const recipe = readRecipe(
    parseJsonObject(new TextEncoder().encode(text), `the recipe in ${file}`, 0).value,
  );
  const taken = new Set<string>();
  const find = (name: string): SafetensorsEntry | undefined => {
    const entry = entries.get(name);
    if (entry !== undefined) taken.add(name);
    return entry;
  };
  const floats = async (name: string, rows: number | null): Promise<Float32Array | null> => {
    const entry = find(name);
    return entry === undefined ? null : await readFloats(entry, rows);
  };
  const factor = async (name: string, rank: number): Promise<Float32Array | null> => {
    const entry = find(name);
    return entry === undefined ? null : await readFactor(entry, find(`${name}.scale`), rank);
  };
  const table = await floats(TABLE, recipe.projections.length);
  const mlpThresholds = await floats(MLP_TABLE, recipe.projections.length / PROJECTIONS.length);
  const tensors = new Map<string, ProjectionTensors>(), gains = new Map<string, Float32Array>();
  const ownV = new Map<string, Float32Array | null>();
  for (const { path, rank, sharedV } of recipe.projections) {
    if (sharedV === undefined) ownV.set(path, await factor(`${path}.v`, rank));
    else if (entries.has(`${path}.v`)) {
      throw badValue(`${path}.v`, `a tensor found, but it shares that of ${sharedV}`);
    }
  }
  for (const { path, rank, sharedV } of recipe.projections) {
    const u = await factor(`${path}.u`, rank), v = ownV.get(sharedV ?? path)!;
    if ((u === null) !== (v === null)) {
      throw badValue(u === null ? `${path}.u` : `${sharedV ?? path}.v`, "no tensor found, one wanted");
    }
    const factors = u === null || v === null ? null : { u, v };
    const scale = await floats(`${path}.scale`, null), bias = await floats(`${path}.bias`, null);
    if (factors !== null || scale !== null || bias !== null) tensors.set(path, { factors, scale, bias });
  }
  for (const name of entries.keys()) if (isGainName(name)) gains.set(name, (await floats(name, null))!);
  for (const name of entries.keys()) {
    if (!taken.has(name)) {
      throw badValue(quote(name), "a tensor found that belongs to no projection of the recipe");
    }
  }
  return joinRecipe(recipe, tensors, table, { gains, mlpThresholds });
}

/**
 * Holds a recipe against the model it is to run on.
 *
 * @throws {RecipeError} `model_mismatch` if it was made for other weights or has projections that the model has not,
 * `missing_projection` if it lacks one, `bad_value` if a count, a factor or a scale doesn't fit its projection.
 */
export function checkRecipe(loaded: LoadedRecipe, config: LlamaConfig, modelHash: string): void {
  const { recipe } = loaded;
  if (recipe.modelHash !== modelHash) {
    throw new RecipeError(
      "model_mismatch",
      "modelHash",
      `made for ${quote(recipe.model)} (${
        quote(recipe.modelHash)
      }), this model is ${modelHash}: calibrate it again`,
    );
  }
  const shapes = new Map(projectionShapes(config).map((shape) => [shape.path, shape]));
  const found = new Set<string>();
  for (const { path, channels, rank } of recipe.projections) {
    const shape = shapes.get(path);
    if (shape === undefined) {
      throw new RecipeError(
        "model_mismatch",
        path,
        `the model has ${config.numHiddenLayers} blocks: calibrate it again`,
      );
    }
    found.add(path);
    const { nIn, nOut } = shape;
    atMost(`${path}.channels`, channels, nIn);
    atMost(`${path}.rank`, rank, Math.min(nIn, nOut));
    const factors = loaded.factors(path), scale = loaded.scale(path), bias = loaded.bias(path);
    if (factors !== null) {
      exactly(`${path}.u`, factors.u.length, rank * nOut);
      exactly(`${path}.v`, factors.v.length, rank * nIn);
    }
    if (scale !== null) exactly(`${path}.scale`, scale.length, nIn);
    if (bias !== null) exactly(`${path}.bias`, bias.length, nOut);
  }
  for (const [name, gain] of loaded.gains) {
    const layer = Number(/\d+/.exec(name)?.[0] ?? 0);
    if (layer >= config.numHiddenLayers) {
      throw new RecipeError(
        "model_mismatch",
        name,
        `the model has ${config.numHiddenLayers} blocks: calibrate it again`,
      );
    }
    exactly(name, gain.length, config.hiddenSize);
  }
  for (const path of shapes.keys()) {
    if (!found.has(path)) {
      throw new RecipeError(
        "missing_projection",
        path,
        "not in the recipe, but in the model: calibrate it again",
      );
    }
  }
  if (recipe.mlp !== undefined) checkMlp(recipe.mlp, recipe, config);
}

function atMost(path: string, found: number, most: number): void {
  if (found > most) {
    throw badValue(path, `${found} found, at most ${most} fits this model: calibrate it again`);
  }
}

function exactly(path: string, found: number, wanted: number): void {
  if (found !== wanted) {
    throw badValue(path, `${found} values found, ${wanted} fit this model: calibrate it again`);
  }
}
