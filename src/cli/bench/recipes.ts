/** Recipes that benchmarks make for themselves: thresholds only, so that what is timed is skipping. */
import type { LlamaConfig } from "../../model/config.ts";
import { joinRecipe, type LoadedRecipe, projectionShapes, RECIPE_VERSION } from "../../recipe/recipe.ts";
import type { Model } from "../../runtime/model.ts";
import { Random } from "../../runtime/random.ts";

/** Tokens that a real model reads; a synthetic one reads fewer, as all of its tokens are alike. */
const REAL_TOKENS = 512, SYNTHETIC_TOKENS = 64;

/** Calibrates a model on the built-in text. */
export async function calibratedRecipe(
  model: Model,
  sparsity: number,
  signal: AbortSignal,
): Promise<LoadedRecipe> {
  const { calibrateModel, defaultCalibrationText } = await import("../../calibrate/mod.ts");
  const text = await defaultCalibrationText();
  return await calibrateModel(model, { ...text, sparsity, rho: 1, tokens: REAL_TOKENS, signal });
}

/** Calibrates a synthetic model on random characters: quantiles of the activations that its weights give. */
export async function syntheticRecipe(
  model: Model,
  sparsity: number,
  signal: AbortSignal,
): Promise<LoadedRecipe> {
  const { calibrateModel } = await import("../../calibrate/mod.ts");
  const random = new Random(2), code = (): number => 33 + Math.floor(94 * random.uniform());
  const text = String.fromCharCode(...Array.from({ length: SYNTHETIC_TOKENS }, code));
  return await calibrateModel(model, {
    text,
    source: "random characters",
    sparsity,
    rho: 1,
    tokens: SYNTHETIC_TOKENS,
    signal,
  });
}

/** A recipe with a threshold for each width of input, for activations that are handed to the kernels. */
export function recipeOfThresholds(
  config: LlamaConfig,
  modelHash: string,
  sparsity: number,
  thresholdOf: (nIn: number) => number,
): LoadedRecipe {
  return joinRecipe({
    version: RECIPE_VERSION,
    method: "r-sparse",
    compat: "corrected",
    modelHash,
    model: "benchmark",
    sparsity,
    points: [],
    rho: 1,
    seed: 0,
    calibration: { source: "activations of the benchmark", tokens: 0, sha256: "" },
    keepDense: 0,
    projections: projectionShapes(config).map(({ path, nIn }) => ({
      path,
      score: "abs",
      threshold: thresholdOf(nIn),
      rho: 1,
      sparsity,
      channels: Math.floor(nIn * (1 - sparsity)),
      rank: 0,
      mode: "sparse",
    })),
  }, new Map());
}
