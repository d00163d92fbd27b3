/** A recipe's numbers out of JSON. */
import { RecipeError } from "../errors.ts";
import { MAX_LAYERS } from "../format/limits.ts";
import { PROJECTIONS } from "../model/config.ts";
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
import { readMlp } from "./mlp.ts";
import { isPath } from "./names.ts";
import {
  COMPATS,
  LOW_RANK_INPUTS,
  METHODS,
  modeOf,
  MODES,
  type ProjectionRecipe,
  type Recipe,
  RECIPE_VERSION,
  SCORES,
} from "./recipe.ts";
import { checkShared } from "./tensors.ts";

/** Most points that a dial has. */
const MAX_POINTS = 1024;

/** A recipe out of JSON: every value checked, names that are not known left out. */
export function readRecipe(json: unknown): Recipe {
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
  const sha256 = calibration["sha256"];
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
  checkShared(projections);
  const sparsity = readSparsity(fields["sparsity"], "sparsity"),
    points = readPoints(fields["points"], sparsity);
  const method = readWord(fields["method"], "method", METHODS);
  const mlp = readMlp(fields["mlp"], method, points, projections);
  return {
    version: RECIPE_VERSION,
    method,
    compat: readWord(fields["compat"], "compat", COMPATS),
    modelHash: readText(fields["modelHash"], "modelHash"),
    model: readText(fields["model"], "model"),
    sparsity,
    points,
    rho: readRho(fields["rho"], "rho"),
    seed: readCount(fields["seed"], "seed"),
    calibration: {
      source: readText(calibration["source"], "calibration.source"),
      tokens: readCount(calibration["tokens"], "calibration.tokens"),
      sha256,
    },
    keepDense: readCount(fields["keepDense"], "keepDense"),
    ...(fields["lowRankInput"] !== undefined &&
      { lowRankInput: readWord(fields["lowRankInput"], "lowRankInput", LOW_RANK_INPUTS) }),
    ...(mlp !== null && { mlp }),
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
  if (!isPath(path)) {
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
    ...(fields["sharedV"] !== undefined &&
      { sharedV: readPath(fields["sharedV"], `${path}.sharedV`) }),
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
