/** The sparsity that the rules in memory stand at. */
import { projectionPath } from "../model/config.ts";
import { thresholdAt } from "../recipe/dial.ts";
import type { LoadedRecipe } from "../recipe/recipe.ts";
import { type Projection, projectionsOf, type Weights } from "./forward.ts";

/**
 * Sets the thresholds of all rules of a model. Rules are the model's, so whoever runs a pass sets its own sparsity first: it costs a few
 * microseconds, and nothing while the dial stays where it is.
 */
export class Dial {
  /** What model and dial were given. */
  readonly loaded: LoadedRecipe;
  readonly #weights: Weights;
  readonly #rows: { readonly projection: Projection; readonly row: Float32Array }[] = [];
  #at: number;

  /** @param weights with their rules, at the recipe's own sparsity */
  constructor(weights: Weights, loaded: LoadedRecipe) {
    this.loaded = loaded;
    this.#weights = weights;
    this.#at = loaded.recipe.sparsity;
    for (const [l, layer] of weights.layers.entries()) {
      for (const projection of projectionsOf(layer)) {
        const row = loaded.thresholds(projectionPath(l, projection.name));
        if (row !== null) this.#rows.push({ projection, row });
      }
    }
  }

  /** @param sparsity one that `checkSparsity` has passed, not 0 */
  set(sparsity: number): void {
    if (sparsity === this.#at) return;
    this.#at = sparsity;
    const { points } = this.loaded.recipe;
    for (const { projection, row } of this.#rows) {
      projection.rule!.threshold = thresholdAt(points, row, sparsity);
    }
    this.#weights.mlp?.turn(sparsity);
  }
}
