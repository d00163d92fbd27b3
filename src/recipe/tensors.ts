/** A recipe's tensors held against its numbers: sizes, signs, and nothing that is not finite. */
import { quote } from "../format/limits.ts";
import { PROJECTIONS } from "../model/config.ts";
import { badValue } from "./fields.ts";
import { isGainName, siteOf } from "./names.ts";
import type { ProjectionRecipe, ProjectionTensors, Recipe } from "./recipe.ts";

/** The tensor with the dial's thresholds. */
export const TABLE = "thresholds";
/** The tensor with thresholds of MLPs. */
export const MLP_TABLE = "mlp.thresholds";

/** Whether a projection chooses channels by a stored scale. */
function needsScale({ score, mode }: ProjectionRecipe): boolean {
  return score === "columnNorm" && (mode === "sparse" || mode === "r_sparse");
}

/** The dial's row of each projection. */
export function tableRows(recipe: Recipe, table: Float32Array | null): Map<string, Float32Array> {
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
    checkRow(row, at);
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

/** The thresholds of MLPs, where the rule has any. */
export function checkMlpTable({ mlp, points, projections }: Recipe, table: Float32Array | null): void {
  const layers = mlp?.kind === "cats" ? projections.length / PROJECTIONS.length : 0;
  if ((table?.length ?? 0) !== layers * points.length) {
    throw badValue(
      MLP_TABLE,
      `${table?.length ?? 0} values found, ${layers} rows of ${points.length} wanted`,
    );
  }
  for (let l = 0; l < layers; l++) {
    checkRow(table!.subarray(points.length * l, points.length * (l + 1)), `${MLP_TABLE}.${l}`);
  }
}

/** A row of thresholds: -1 or from 0 on, never descending. */
function checkRow(row: Float32Array, at: string): void {
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
}

/** What each projection stores. @throws {RecipeError} See `joinRecipe`. */
export function checkAllTensors(
  projections: readonly ProjectionRecipe[],
  tensors: ReadonlyMap<string, ProjectionTensors>,
): void {
  const paths = new Set(projections.map(({ path }) => path));
  for (const path of tensors.keys()) {
    if (!paths.has(path)) throw badValue(path, "tensors found, but the recipe has no such projection");
  }
  for (const projection of projections) {
    checkTensors(projection, tensors.get(projection.path));
    const { path, sharedV } = projection;
    if (sharedV !== undefined && tensors.get(path)!.factors!.v !== tensors.get(sharedV)?.factors?.v) {
      throw badValue(`${path}.v`, `another array found than that of ${sharedV}, which it shares`);
    }
  }
}

function checkTensors(projection: ProjectionRecipe, tensors: ProjectionTensors | undefined): void {
  const { path, rank } = projection;
  const { factors = null, scale = null, bias = null } = tensors ?? {};
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
  if (bias !== null) {
    checkRows(bias, 1, `${path}.bias`);
    if (widths !== null && bias.length !== widths.u) {
      throw badValue(`${path}.bias`, `${bias.length} outputs found, ${widths.u} wanted, as u has`);
    }
  }
  if (scale === null) return;
  checkRows(scale, 1, `${path}.scale`);
  if (scale.some((value) => value < 0)) throw badValue(`${path}.scale`, "a negative scale found");
  if (widths !== null && scale.length !== widths.v) {
    throw badValue(`${path}.scale`, `${scale.length} channels found, ${widths.v} wanted, as v has`);
  }
}

/** Whether every V that is shared is there to be shared. */
export function checkShared(projections: readonly ProjectionRecipe[]): void {
  const byPath = new Map(projections.map((p) => [p.path, p]));
  for (const { path, sharedV, rank, mode } of projections) {
    if (sharedV === undefined) continue;
    const at = `${path}.sharedV`, owner = byPath.get(sharedV);
    if (owner === undefined || owner.path === path || siteOf(sharedV) !== siteOf(path)) {
      throw badValue(at, `${quote(sharedV)} found, another projection with the same input wanted`);
    }
    if (owner.sharedV !== undefined) {
      throw badValue(at, `${sharedV} found, which has no V of its own: it shares that of ${owner.sharedV}`);
    }
    if (owner.rank !== rank || rank === 0) {
      throw badValue(
        `${path}.rank`,
        `${rank} found, ${owner.rank} wanted, as ${sharedV} has, whose V it shares`,
      );
    }
    if (owner.mode !== mode) {
      throw badValue(
        `${path}.mode`,
        `${mode} found, ${owner.mode} wanted, as ${sharedV} has, whose V it shares`,
      );
    }
  }
}

/** The gains of norms: names that there are, finite numbers. */
export function checkGains(gains: ReadonlyMap<string, Float32Array>): void {
  for (const [name, gain] of gains) {
    if (!isGainName(name)) throw badValue(name, "a gain of no norm");
    checkRows(gain, 1, name);
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
