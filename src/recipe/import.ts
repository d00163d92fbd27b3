/** Recipes in other forms than our own file: thresholds that someone gives, and the authors' released list of rho. */
import { RecipeError } from "../errors.ts";
import type { LlamaConfig } from "../model/config.ts";
import {
  badValue,
  readCount,
  readList,
  readObject,
  readRho,
  readSparsity,
  readThreshold,
  show,
} from "./fields.ts";
import { projectionShapes, readPath, type ShapedProjection } from "./recipe.ts";

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
