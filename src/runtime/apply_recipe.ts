/** A recipe's thresholds, scales and factors into the model's memory. */
import type { Arena } from "../kernels/arena.ts";
import { padTo } from "../kernels/kernels.ts";
import { projectionPath } from "../model/config.ts";
import type { LoadedRecipe } from "../recipe/recipe.ts";
import type { SparseRule, Weights } from "./forward.ts";

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
  for (const [l, layer] of weights.layers.entries()) {
    for (const p of Object.values(layer.projections)) {
      const path = projectionPath(l, p.name), recipe = rules.get(path)!;
      const scale = loaded.scale(path), factors = loaded.factors(path);
      p.rule = {
        mode: recipe.mode,
        threshold: recipe.threshold,
        scale: scale === null ? ones : place(scale, padTo(p.matrix.nIn, 64)),
        rank: recipe.rank,
        u: factors === null ? 0 : place(factors.u, factors.u.length),
        v: factors === null ? 0 : place(factors.v, factors.v.length),
      } satisfies SparseRule;
    }
  }
  return arena.used - before;
}
