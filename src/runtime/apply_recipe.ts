/** A recipe's thresholds, scales and factors into the model's memory. */
import type { Arena } from "../kernels/arena.ts";
import { padTo } from "../kernels/kernels.ts";
import { projectionPath } from "../model/config.ts";
import type { LoadedRecipe } from "../recipe/recipe.ts";
import type { Weights } from "./forward.ts";
import { NO_RECIPE, type RecipeHints } from "./plan.ts";

/** What loading has to know of a recipe. */
export function recipeHints(loaded: LoadedRecipe | null): RecipeHints {
  if (loaded === null) return NO_RECIPE;
  const rules = new Map(loaded.recipe.projections.map((p) => [p.path, p]));
  return {
    sparsityOf: (path) => rules.get(path)!.sparsity,
    isDense: (path) => rules.get(path)!.mode === "dense",
    sharesMask: (a, b) => {
      const p = rules.get(a)!, q = rules.get(b)!;
      if (p.mode === "dense" || p.mode === "low_rank" || q.mode === "dense" || q.mode === "low_rank") {
        return p.mode === q.mode;
      }
      return p.threshold === q.threshold && sameScale(loaded.scale(a), loaded.scale(b));
    },
  };
}

/** Column norms belong to each projection's own weights, so only plain |x| is the same for two of them, or norms that a recipe shares. */
function sameScale(a: Float32Array | null, b: Float32Array | null): boolean {
  if (a === null || b === null) return a === b;
  return a.every((v, c) => v === b[c]);
}

/**
 * Gives every projection its rule. The recipe has been checked against the model: it has one for each.
 *
 * @param ones f32 ones, at least as many as the widest input has channels
 * @returns bytes that scales and factors took
 */
export function applyRecipe(weights: Weights, loaded: LoadedRecipe, arena: Arena, ones: number): number {
  const before = arena.used;
  const place = (values: Float32Array, length: number): number => {
    const at = arena.allocate(4 * length);
    new Float32Array(arena.memory.buffer, at, values.length).set(values);
    return at;
  };
  const rules = new Map(loaded.recipe.projections.map((p) => [p.path, p]));
  for (const [l, { sites }] of weights.layers.entries()) {
    for (const { matrix, parts } of sites.flat()) {
      const scale = loaded.scale(projectionPath(l, parts[0]!.name));
      const scaleAt = scale === null ? ones : place(scale, padTo(matrix.nIn, 64));
      for (const p of parts) {
        const path = projectionPath(l, p.name), recipe = rules.get(path)!, factors = loaded.factors(path);
        p.rule = {
          mode: recipe.mode,
          threshold: recipe.threshold,
          scale: scaleAt,
          rank: recipe.rank,
          u: factors === null ? 0 : place(factors.u, factors.u.length),
          v: factors === null ? 0 : place(factors.v, factors.v.length),
        };
      }
    }
  }
  return arena.used - before;
}
