/**
 * The recipe: per projection, what the sparse forward pass needs to know. One `.safetensors` file: the recipe as JSON in
 * the metadata under {@linkcode RECIPE_KEY}, factors and scales as float32 tensors named after their projection.
 *
 *     <path>.u       f32[rank, nOut]   row k is column k of U times sigma_k; where rank > 0
 *     <path>.v       f32[rank, nIn]    row k is column k of V; where rank > 0
 *     <path>.scale   f32[nIn]          where channels are chosen by columnNorm
 *     thresholds     f32[projections, points]   of each projection at each of `points`; where there are points
 */
import { FormatError, RecipeError } from "../errors.ts";
import { parseJsonObject } from "../format/json.ts";
import { MAX_LAYERS, quote } from "../format/limits.ts";
import {
  openSafetensors,
  type SafetensorsEntry,
  type SafetensorsInput,
  writeSafetensors,
} from "../format/safetensors.ts";
import { type LlamaConfig, projectionPath, PROJECTIONS, projectionShape } from "../model/config.ts";
import {
  badValue,
  readCount,
  readList,
  readObject,
  readRho,
  readSparsity,
  readText,
  readThreshold,
  readWord,
  show,
} from "./fields.ts";

/** Where in the file's metadata the recipe is. */
export const RECIPE_KEY = "rsparse.recipe";
/** The format version that this release reads and writes. */
export const RECIPE_VERSION = 2;
/** The tensor with the dial's thresholds. */
const TABLE = "thresholds";
/** Most points that a dial has. */
const MAX_POINTS = 1024;

/** What a channel is weighed by: `|x|`, or `|x|` times the norm of its column of W. */
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
  "cats",
  "griffin",
  "relu",
  "wina",
  "by-site",
  "low-rank",
  "larosa",
  "scap",
] as const;
/** One of {@linkcode METHODS}. */
export type Method = (typeof METHODS)[number];

/** Whose arithmetic a recipe was made with: the released code's, or the corrected one. */
export const COMPATS = ["official", "corrected"] as const;
/** One of {@linkcode COMPATS}. */
export type Compat = (typeof COMPATS)[number];

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
  readonly version: 2;
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
  /** What each projection does; every projection of the model is here. */
  readonly projections: readonly ProjectionRecipe[];
}

/** The first singular triples of a projection. */
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

const PATH = /^model\.layers\.(0|[1-9]\d{0,3})\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)$/;

/** The mode that rho stands for. */
export function modeOf(rho: number): Exclude<Mode, "dense"> {
  return rho === 1 ? "sparse" : rho === 0 ? "low_rank" : "r_sparse";
}

/** Whether a projection chooses channels by a stored scale. */
function needsScale({ score, mode }: ProjectionRecipe): boolean {
  return score === "columnNorm" && (mode === "sparse" || mode === "r_sparse");
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
 * @param tensors By projection path; a path that is not there has none.
 * @param table f32[projections, points], the dial; null where the recipe has no points
 * @throws {RecipeError} If a value is out of its range, or a tensor is missing, not wanted, of the wrong size or not finite.
 */
export function joinRecipe(
  recipe: Recipe,
  tensors: ReadonlyMap<string, ProjectionTensors>,
  table: Float32Array | null = null,
): LoadedRecipe {
  const checked = readRecipe(recipe), rows = tableRows(checked, table);
  const paths = new Set(checked.projections.map(({ path }) => path));
  for (const path of tensors.keys()) {
    if (!paths.has(path)) throw badValue(path, "tensors found, but the recipe has no such projection");
  }
  for (const projection of checked.projections) checkTensors(projection, tensors.get(projection.path));
  return {
    recipe: checked,
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

/** The dial's row of each projection. */
function tableRows(recipe: Recipe, table: Float32Array | null): Map<string, Float32Array> {
  const { points, projections, sparsity } = recipe, rows = new Map<string, Float32Array>();
  const wanted = points.length * projections.length;
  if ((table?.length ?? 0) !== wanted) {
    throw badValue(
      TABLE,
      `${
        table?.length ?? 0
      } values found, ${projections.length} rows of ${points.length} wanted: calibrate it again`,
    );
  }
  if (table === null || wanted === 0) return rows;
  const own = points.indexOf(sparsity);
  for (const [i, { path, threshold }] of projections.entries()) {
    const row = table.subarray(points.length * i, points.length * (i + 1)), at = `${path}.${TABLE}`;
    for (const [k, value] of row.entries()) {
      if (!Number.isFinite(value) || (value < 0 && value !== -1)) {
        throw badValue(`${at}.${k}`, `${value} found, -1 or a number from 0 wanted: calibrate it again`);
      }
      if (k > 0 && value < row[k - 1]!) {
        throw badValue(
          `${at}.${k}`,
          `${value} found after ${row[k - 1]}, no descent wanted: calibrate it again`,
        );
      }
    }
    if (row[own] !== Math.fround(threshold)) {
      throw badValue(
        `${at}.${own}`,
        `${row[own]} found, ${threshold} wanted, its threshold: calibrate it again`,
      );
    }
    rows.set(path, row);
  }
  return rows;
}

function checkTensors(projection: ProjectionRecipe, tensors: ProjectionTensors | undefined): void {
  const { path, rank } = projection;
  const factors = tensors?.factors ?? null, scale = tensors?.scale ?? null;
  const want = (name: string, found: boolean, wanted: boolean, why: string): void => {
    if (found !== wanted) {
      throw badValue(
        `${path}.${name}`,
        `${found ? "a tensor" : "no tensor"} found, but ${why}: calibrate it again`,
      );
    }
  };
  want("u", factors !== null, rank > 0, `its rank is ${rank}`);
  want(
    "scale",
    scale !== null,
    needsScale(projection),
    `its score is ${projection.score}, its mode ${projection.mode}`,
  );
  const widths = factors === null ? null : {
    u: checkRows(factors.u, rank, `${path}.u`),
    v: checkRows(factors.v, rank, `${path}.v`),
  };
  if (widths !== null && rank > Math.min(widths.u, widths.v)) {
    throw badValue(`${path}.rank`, `${rank} found, at most ${Math.min(widths.u, widths.v)} fits its factors`);
  }
  if (scale === null) return;
  checkRows(scale, 1, `${path}.scale`);
  if (scale.some((value) => value < 0)) throw badValue(`${path}.scale`, "a negative scale found");
  if (widths !== null && scale.length !== widths.v) {
    throw badValue(`${path}.scale`, `${scale.length} channels found, ${widths.v} wanted, as v has`);
  }
}

/** Width of `count` equal rows of finite numbers. */
function checkRows(values: Float32Array, count: number, path: string): number {
  if (values.length === 0 || values.length % count !== 0) {
    throw badValue(path, `${values.length} values found, whole rows for rank ${count} wanted`);
  }
  if (!values.every(Number.isFinite)) {
    throw badValue(path, "a value that is not finite found: calibrate it again");
  }
  return values.length / count;
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
): Uint8Array[] {
  const loaded = joinRecipe(recipe, tensors, table), { points, projections } = loaded.recipe;
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
  for (const { path, rank } of projections) {
    const factors = loaded.factors(path), scale = loaded.scale(path);
    if (factors !== null) {
      add(`${path}.u`, factors.u, [rank, factors.u.length / rank]);
      add(`${path}.v`, factors.v, [rank, factors.v.length / rank]);
    }
    if (scale !== null) add(`${path}.scale`, scale, [scale.length]);
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
  const tensors = new Map<string, ProjectionTensors>();
  const taken = new Set<string>();
  const take = async (name: string, rows: number | null): Promise<Float32Array | null> => {
    const entry = entries.get(name);
    if (entry === undefined) return null;
    taken.add(name);
    return await readFloats(entry, rows);
  };
  const table = await take(TABLE, recipe.projections.length);
  for (const { path, rank } of recipe.projections) {
    const u = await take(`${path}.u`, rank), v = await take(`${path}.v`, rank);
    if ((u === null) !== (v === null)) {
      throw badValue(`${path}.${u === null ? "u" : "v"}`, "no tensor found, one wanted");
    }
    const factors = u === null || v === null ? null : { u, v };
    const scale = await take(`${path}.scale`, null);
    if (factors !== null || scale !== null) tensors.set(path, { factors, scale });
  }
  for (const name of entries.keys()) {
    if (!taken.has(name)) {
      throw badValue(quote(name), "a tensor found that belongs to no projection of the recipe");
    }
  }
  return joinRecipe(recipe, tensors, table);
}

/** A float32 matrix of `rows` rows, or a vector where `rows` is null. */
async function readFloats(entry: SafetensorsEntry, rows: number | null): Promise<Float32Array> {
  const { name, dtype, shape, blob, offset, byteLength } = entry;
  if (dtype !== "F32") throw badValue(name, `${dtype} found, F32 wanted`);
  if (rows === null ? shape.length !== 1 : shape.length !== 2 || shape[0] !== rows) {
    throw badValue(name, `shape [${shape.join(", ")}] found, [${rows === null ? "n" : `${rows}, n`}] wanted`);
  }
  return new Float32Array(await blob.slice(offset, offset + byteLength).arrayBuffer());
}

/** A recipe out of JSON: every value checked, names that are not known left out. */
function readRecipe(json: unknown): Recipe {
  const fields = readObject(json, "recipe");
  if (fields["version"] !== RECIPE_VERSION) {
    const found = show(fields["version"]);
    throw new RecipeError(
      "version",
      "version",
      `${found} found, ${RECIPE_VERSION} wanted: calibrate it again`,
    );
  }
  const calibration = readObject(fields["calibration"], "calibration");
  const sha256 = calibration["sha256"], stream = calibration["stream"];
  if (typeof sha256 !== "string" || !/^([0-9a-f]{64})?$/.test(sha256)) {
    throw badValue("calibration.sha256", `${show(sha256)} found, 64 hex digits wanted, or none`);
  }
  const list = readList(fields["projections"], "projections", MAX_LAYERS * PROJECTIONS.length);
  const projections = list.map(readProjection);
  const paths = new Set<string>();
  for (const { path } of projections) {
    if (paths.has(path)) throw badValue(path, "found twice");
    paths.add(path);
  }
  const sparsity = readSparsity(fields["sparsity"], "sparsity");
  return {
    version: RECIPE_VERSION,
    method: readWord(fields["method"], "method", METHODS),
    compat: readWord(fields["compat"], "compat", COMPATS),
    modelHash: readText(fields["modelHash"], "modelHash"),
    model: readText(fields["model"], "model"),
    sparsity,
    points: readPoints(fields["points"], sparsity),
    rho: readRho(fields["rho"], "rho"),
    seed: readCount(fields["seed"], "seed"),
    calibration: {
      source: readText(calibration["source"], "calibration.source"),
      tokens: readCount(calibration["tokens"], "calibration.tokens"),
      sha256,
      ...stream === undefined
        ? {}
        : { stream: readWord(stream, "calibration.stream", ["sparse", "dense"] as const) },
    },
    keepDense: readCount(fields["keepDense"], "keepDense"),
    projections,
  };
}

/** Where the dial has thresholds: nowhere, or at ascending sparsities with the recipe's own among them. */
function readPoints(value: unknown, own: number): number[] {
  const points = readList(value, "points", MAX_POINTS).map((point, i) => readSparsity(point, `points.${i}`));
  for (let i = 1; i < points.length; i++) {
    if (!(points[i]! > points[i - 1]!)) {
      throw badValue(`points.${i}`, `${points[i]} found after ${points[i - 1]}, ascending numbers wanted`);
    }
  }
  if (points.length > 0 && !points.includes(own)) {
    throw badValue("points", `${own} not found, the recipe's own sparsity`);
  }
  return points;
}

/** A projection's path, as checkpoints spell it. */
export function readPath(value: unknown, at: string): string {
  const path = readText(value, at);
  if (!PATH.test(path)) {
    throw badValue(at, `${show(path)} found, a path such as model.layers.0.self_attn.q_proj wanted`);
  }
  return path;
}

function readProjection(value: unknown, index: number): ProjectionRecipe {
  const fields = readObject(value, `projections.${index}`);
  const path = readPath(fields["path"], `projections.${index}.path`);
  const projection: ProjectionRecipe = {
    path,
    score: readWord(fields["score"], `${path}.score`, SCORES),
    threshold: readThreshold(fields["threshold"], `${path}.threshold`),
    rho: readRho(fields["rho"], `${path}.rho`),
    sparsity: readSparsity(fields["sparsity"], `${path}.sparsity`),
    channels: readCount(fields["channels"], `${path}.channels`),
    rank: readCount(fields["rank"], `${path}.rank`),
    mode: readWord(fields["mode"], `${path}.mode`, MODES),
  };
  const { mode, rho, rank } = projection;
  if (mode !== "dense" && mode !== modeOf(rho)) {
    throw badValue(`${path}.mode`, `${mode} found, ${modeOf(rho)} wanted where rho is ${rho}`);
  }
  if ((mode === "dense" || mode === "sparse") && rank !== 0) {
    throw badValue(`${path}.rank`, `${rank} found, 0 wanted where the mode is ${mode}`);
  }
  return projection;
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
    const factors = loaded.factors(path), scale = loaded.scale(path);
    if (factors !== null) {
      exactly(`${path}.u`, factors.u.length, rank * nOut);
      exactly(`${path}.v`, factors.v.length, rank * nIn);
    }
    if (scale !== null) exactly(`${path}.scale`, scale.length, nIn);
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
