/** From a point of a search to a recipe. */
import { planBudget } from "../recipe/budget.ts";
import { dialPoints } from "../recipe/dial.ts";
import { importOfficialRecipe } from "../recipe/import.ts";
import {
  joinRecipe,
  type LoadedRecipe,
  type Method,
  modeOf,
  type ProjectionRecipe,
  projectionShapes,
  type ProjectionTensors,
  RECIPE_VERSION,
} from "../recipe/recipe.ts";
import type { Model } from "../runtime/model.ts";
import { nextTurn } from "../runtime/turn.ts";
import { Decompositions } from "./evaluator.ts";
import { type Shares, sparsityAt } from "./shares.ts";
import { type Tables, thresholdOf } from "./tables.ts";

/** What a recipe is made of. */
export interface RecipeParts {
  readonly shares: Shares;
  readonly tables: Tables;
  /** The sparsity of the whole. */
  readonly sparsity: number;
  /** A projection's sparsity where the dial is turned elsewhere; by default in proportion. */
  readonly sparsityAt?: (projection: number, point: number) => number;
  readonly leastSparsity: number;
  readonly method: Method;
  readonly keepDense: number;
  readonly seed: number;
  /** What the tables were made from. */
  readonly source: { readonly source: string; readonly tokens: number; readonly sha256: string };
}

/**
 * Reads the authors' released recipe, rho and sparsity of each projection, for a model of its shape.
 *
 * @throws {RecipeError} If it is of another shape, or holds something else.
 */
export function sharesFromOfficial(text: string, model: Model): Shares {
  const given = importOfficialRecipe(text, projectionShapes(model.config));
  return { rho: given.map(({ rho }) => rho), sparsity: given.map(({ sparsity }) => sparsity) };
}

/**
 * The recipe of a point: thresholds from the tables, as the search had them, for every setting of the dial; scales; factors from the file's weights.
 *
 * @throws The signal's reason, once it is aborted.
 */
export async function recipeOfShares(
  model: Model,
  parts: RecipeParts,
  { signal, onProgress }: {
    readonly signal?: AbortSignal;
    readonly onProgress?: (done: number, total: number) => void;
  } = {},
): Promise<LoadedRecipe> {
  const { shares, tables, sparsity, leastSparsity, source } = parts, shapes = projectionShapes(model.config);
  const points = dialPoints(sparsity), own = points.indexOf(sparsity);
  const decompositions = new Decompositions(model, leastSparsity, 0),
    tensors = new Map<string, ProjectionTensors>();
  const table = new Float32Array(shapes.length * points.length), projections: ProjectionRecipe[] = [];
  let at = 0;
  for (const [i, shape] of shapes.entries()) {
    signal?.throwIfAborted();
    const rho = shares.rho[i]!, s = shares.sparsity[i]!, mode = modeOf(rho);
    const { activeChannels: channels, rank: bought } = planBudget(shape, s, rho),
      rank = rho === 1 ? 0 : bought;
    const score = mode === "sparse" ? "abs" : "columnNorm", row = points.length * i;
    // a rank stays as it is at every setting, so channels pay for what it costs
    const rankShare = (1 - s) * (1 - rho);
    for (const [k, point] of points.entries()) {
      const turned = k === own ? s : parts.sparsityAt?.(i, point) ?? sparsityAt(s, sparsity, point);
      const share = k === own ? 1 - (1 - s) * rho : Math.min(turned + rankShare, 1);
      table[row + k] = mode === "low_rank" ? -1 : thresholdOf(tables, i, score, share);
    }
    // rounding may put a point a hair above the next one
    for (let k = own - 1; k >= 0; k--) table[row + k] = Math.min(table[row + k]!, table[row + k + 1]!);
    for (let k = own + 1; k < points.length; k++) {
      table[row + k] = Math.max(table[row + k]!, table[row + k - 1]!);
    }
    const scale = mode === "r_sparse" ? tables.norms.slice(at, at + shape.nIn) : null;
    at += shape.nIn;
    const factors = rank === 0 ? null : await decompositions.factors(i, rank);
    if (scale !== null || factors !== null) {
      tensors.set(shape.path, {
        scale,
        factors: factors === null ? null : { u: factors.u.slice(), v: factors.v.slice() },
      });
    }
    projections.push({
      path: shape.path,
      score,
      threshold: table[row + own]!,
      rho,
      sparsity: s,
      channels,
      rank,
      mode,
    });
    onProgress?.(i + 1, shapes.length);
    if (factors !== null) await nextTurn();
  }
  const mean = shares.rho.reduce((sum, rho) => sum + rho, 0) / shapes.length;
  return joinRecipe(
    {
      version: RECIPE_VERSION,
      method: parts.method,
      compat: "corrected",
      modelHash: await model.hash(),
      model: model.description.name,
      sparsity,
      points,
      rho: mean,
      seed: parts.seed,
      calibration: source,
      keepDense: parts.keepDense,
      projections,
    },
    tensors,
    table,
  );
}
