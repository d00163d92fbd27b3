/** Recipes in other forms than our own file: thresholds that someone gives, by module or by site, and the authors' released list of rho. */
import { RecipeError } from "../errors.ts";
import type { JsonObject } from "../format/json.ts";
import { type LlamaConfig, type ProjectionName, projectionPath } from "../model/config.ts";
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
import { planBudget } from "./budget.ts";
import { readPath } from "./read.ts";
import {
  joinRecipe,
  type LoadedRecipe,
  projectionShapes,
  RECIPE_VERSION,
  type ShapedProjection,
} from "./recipe.ts";

/** What is given for one projection. */
export interface GivenProjection {
  readonly path: string;
  readonly threshold: number;
  readonly activeChannels: number;
  readonly rank: number;
}

/** Thresholds to be taken as they are. */
export interface GivenThresholds {
  readonly sparsity: number;
  readonly rho: number;
  /** One for every projection of the model, in the model's order. */
  readonly projections: readonly GivenProjection[];
}

/**
 * Checks the content of a `--thresholds` file, `{sparsity, rho, modules: [[path, threshold, activeChannels, rank], …]}`.
 *
 * @param json What `JSON.parse` made of it.
 * @throws {RecipeError} If a value is out of its range or doesn't fit the model, or a projection is missing, twice or unknown.
 */
export function parseThresholds(json: unknown, config: LlamaConfig): GivenThresholds {
  const fields = readObject(json, "thresholds");
  const shapes = new Map(projectionShapes(config).map((shape) => [shape.path, shape]));
  const given = new Map<string, GivenProjection>();
  readList(fields["modules"], "modules", shapes.size).forEach((entry, index) => {
    const row = readList(entry, `modules.${index}`, 4);
    const path = readPath(row[0], `modules.${index}.0`);
    const shape = shapes.get(path);
    if (shape === undefined) throw badValue(path, `the model has ${config.numHiddenLayers} blocks`);
    if (given.has(path)) throw badValue(path, "found twice");
    const threshold = readThreshold(row[1], `${path}.threshold`);
    const activeChannels = readCount(row[2], `${path}.activeChannels`),
      rank = readCount(row[3], `${path}.rank`);
    const { nIn, nOut } = shape;
    if (activeChannels > nIn) {
      throw badValue(`${path}.activeChannels`, `${activeChannels} found, at most ${nIn} fits this model`);
    }
    if (rank > Math.min(nIn, nOut)) {
      throw badValue(`${path}.rank`, `${rank} found, at most ${Math.min(nIn, nOut)} fits this model`);
    }
    given.set(path, { path, threshold, activeChannels, rank });
  });
  const projections = Array.from(shapes.keys(), (path) => {
    const projection = given.get(path);
    if (projection === undefined) {
      throw new RecipeError(
        "missing_projection",
        path,
        "no threshold given, each projection of the model wants one",
      );
    }
    return projection;
  });
  const rho = readRho(fields["rho"], "rho");
  for (const { path, rank } of projections) {
    if (rho === 1 && rank > 0) {
      throw badValue(`${path}.rank`, `${rank} found, with rho 1 there is no rank: give 0`);
    }
  }
  return { sparsity: readSparsity(fields["sparsity"], "sparsity"), rho, projections };
}

/** Projections by their names in GGUF files. */
const GGUF_NAMES: ReadonlyMap<string, ProjectionName> = new Map([
  ["attn_q", "qProj"],
  ["attn_k", "kProj"],
  ["attn_v", "vProj"],
  ["attn_output", "oProj"],
  ["ffn_gate", "gateProj"],
  ["ffn_up", "upProj"],
  ["ffn_down", "downProj"],
]);

/**
 * Reads a recipe of thresholds on |x| that names its model, `{model, sha256, target_sparsity, modules: {"blk.0.attn_q": {score, threshold, sparsity, rho,
 * rank}, …}}`. It has no low-rank part, so it needs nothing of the weights. Every position runs sparse, as in the runs such files come from.
 *
 * @param json What `JSON.parse` made of it.
 * @param source The file's name.
 * @throws {RecipeError} If a value is out of its range or doesn't fit the model, or a projection is missing or unknown.
 */
export function importThresholdRecipe(json: JsonObject, config: LlamaConfig, source: string): LoadedRecipe {
  const sha256 = json["sha256"];
  if (typeof sha256 !== "string" || !/^[0-9a-f]{64}$/.test(sha256)) {
    throw badValue("sha256", `${show(sha256)} found, 64 hex digits wanted`);
  }
  const shapes = new Map(projectionShapes(config).map((shape) => [shape.path, shape]));
  const given = new Map<string, { readonly threshold: number; readonly sparsity: number }>();
  for (const [key, value] of Object.entries(readObject(json["modules"], "modules"))) {
    const at = `modules.${key}`, [, layer, name] = /^blk\.(0|[1-9]\d{0,3})\.(\w+)$/.exec(key) ?? [];
    const projection = GGUF_NAMES.get(name ?? "");
    if (projection === undefined) {
      throw badValue(`modules.${show(key)}`, "a name such as blk.0.attn_q wanted");
    }
    const path = projectionPath(Number(layer), projection), fields = readObject(value, at);
    if (!shapes.has(path)) throw badValue(at, `the model has ${config.numHiddenLayers} blocks`);
    readWord(fields["score"], `${at}.score`, ["abs"]);
    for (const [field, wanted] of [["rho", 1], ["rank", 0]] as const) {
      if (fields[field] !== wanted) {
        throw badValue(`${at}.${field}`, `${show(fields[field])} found, ${wanted} wanted`);
      }
    }
    given.set(path, {
      threshold: readThreshold(fields["threshold"], `${at}.threshold`),
      sparsity: readSparsity(fields["sparsity"], `${at}.sparsity`),
    });
  }
  return joinRecipe({
    version: RECIPE_VERSION,
    method: "by-site",
    compat: "corrected",
    modelHash: sha256,
    model: readText(json["model"], "model"),
    sparsity: readSparsity(json["target_sparsity"], "target_sparsity"),
    points: [],
    rho: 1,
    seed: 0,
    calibration: { source, tokens: 0, sha256: "" },
    keepDense: 0,
    projections: Array.from(shapes.values(), (shape) => {
      const { path } = shape, found = given.get(path);
      if (found === undefined) {
        throw new RecipeError(
          "missing_projection",
          path,
          "no threshold given, each projection of the model wants one",
        );
      }
      const { activeChannels: channels } = planBudget(shape, found.sparsity, 1);
      return { path, score: "abs", ...found, rho: 1, channels, rank: 0, mode: "sparse" };
    }),
  }, new Map());
}

/** What the released file says of one projection. */
export interface OfficialProjection {
  /** Its path in the checkpoint. */
  readonly path: string;
  /** Share of the kept compute for channels. */
  readonly rho: number;
  /** Share of the multiply-adds to skip. */
  readonly sparsity: number;
}

/** Longest text of one number in the released file is 25 characters; more than this is another file. */
const MAX_NUMBER_LENGTH = 64;

/**
 * Reads the authors' released recipe: plain text (whatever its name, `….npy`), a number a line, rho and sparsity of each
 * projection in turn. It has no thresholds, ranks or factors: those come from calibration.
 *
 * @param shapes The model's projections, as {@linkcode projectionShapes} lists them.
 * @throws {RecipeError} If it has not two numbers a projection, or one is out of its range.
 * @example
 * ```ts
 * import assert from "node:assert/strict";
 * const path = "model.layers.0.self_attn.q_proj";
 * assert.deepEqual(importOfficialRecipe("0.95\n0.5\n", [{ path, nIn: 8, nOut: 8 }]), [{ path, rho: 0.95, sparsity: 0.5 }]);
 * ```
 */
export function importOfficialRecipe(
  text: string,
  shapes: readonly ShapedProjection[],
): OfficialProjection[] {
  const wanted = 2 * shapes.length;
  if (text.length > wanted * MAX_NUMBER_LENGTH) {
    throw badValue("official", `${text.length} characters found, ${wanted} numbers wanted, one a line`);
  }
  const lines = text.split(/\s+/).filter((line) => line !== "");
  if (lines.length !== wanted) {
    throw badValue(
      "official",
      `${lines.length} numbers found, ${wanted} wanted: rho and sparsity of each projection`,
    );
  }
  const numberAt = (index: number): number => {
    const line = lines[index]!;
    if (!/^[+-]?\d+(\.\d*)?(e[+-]?\d+)?$/i.test(line)) {
      throw badValue(`official.${index}`, `${show(line)} found, a number wanted`);
    }
    return Number(line);
  };
  return shapes.map(({ path }, i) => ({
    path,
    rho: readRho(numberAt(2 * i), `${path}.rho`),
    sparsity: readSparsity(numberAt(2 * i + 1), `${path}.sparsity`),
  }));
}
