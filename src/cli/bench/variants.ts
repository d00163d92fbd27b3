/** The models that a benchmark compares: one without a recipe, and one for each sparsity, in turns in one process. */
import type { LoadedRecipe } from "../../recipe/recipe.ts";
import type { Dtype } from "../../runtime/matrix.ts";
import type { Model } from "../../runtime/model.ts";
import type { CliContext } from "../output.ts";
import { benchThreshold } from "./activations.ts";
import { recipeOfThresholds } from "./recipes.ts";
import { layerWeights, type ShapeName, SHAPES } from "./shapes.ts";
import { type SyntheticModel, syntheticModel } from "./synthetic_model.ts";

/** What a benchmark needs of whoever runs it: the command line, or a page. */
export interface BenchHost extends Pick<CliContext, "signal" | "note" | "progress"> {
  /** How often the system took the processor away from this process; null where it can't be known. */
  interruptions(): number | null;
}

/** A model under test. */
export interface Variant {
  /** 0 is dense. */
  readonly sparsity: number;
  /** `dense`, or what makes it sparse. */
  readonly name: string;
  readonly model: Model;
}

/** Loads a model anew, with a recipe or without. */
export type LoadModel = (recipe?: LoadedRecipe) => Promise<Model>;

/** Bytes a weight takes in memory: int4 has 16-bit scales and mins for each 32. */
export const BYTES: { readonly [dtype in Dtype]: number } = { f32: 4, bf16: 2, int8: 1, int4: 0.625 };
/** Weights of blocks that are held without being asked for: three variants fit into a machine with 8 GB. */
const HELD_BYTES = 2 ** 30;
/** Four times the last cache of the largest machines at hand (32 MiB): fewer would be read from there. */
export const LEAST_BYTES: number = 2 ** 27;

/** Blocks of a shape that are held: all of them where they fit, never so few that a cache holds them. */
export function layersToHold(shape: ShapeName, dtype: Dtype): number {
  const config = SHAPES[shape], bytes = layerWeights(config) * BYTES[dtype];
  const layers = Math.max(Math.floor(HELD_BYTES / bytes), Math.ceil(LEAST_BYTES / bytes));
  return Math.min(config.numHiddenLayers, layers);
}

/** The synthetic model of a shape; `vocab` is the number of words to hold instead of its own. */
export function modelOfShape(
  shape: ShapeName,
  dtype: Dtype,
  layers: number = layersToHold(shape, dtype),
  vocab: number = SHAPES[shape].vocabSize,
): SyntheticModel {
  return syntheticModel(shape, { ...SHAPES[shape], vocabSize: vocab }, dtype, layers);
}

/** A recipe that leaves so many of the benchmark's activations active in every matrix of a synthetic model. */
export async function kernelRecipe(dense: Model, sparsity: number): Promise<LoadedRecipe> {
  const threshold = (nIn: number): number => benchThreshold(nIn, sparsity);
  return recipeOfThresholds(dense.config, await dense.hash(), sparsity, threshold);
}

/**
 * Loads a model for each sparsity; those above 0 with a recipe that `makeRecipe` makes from the dense one. Each is its own model, so that dense is never
 * held in a layout that was chosen for skipping.
 */
export async function loadVariants(
  host: BenchHost,
  sparsities: readonly number[],
  load: LoadModel,
  makeRecipe: (dense: Model, sparsity: number) => Promise<LoadedRecipe>,
): Promise<Variant[]> {
  const variants: Variant[] = [], dense = await load();
  try {
    for (const sparsity of sparsities) {
      host.signal.throwIfAborted();
      if (sparsity === 0) {
        variants.push({ sparsity, name: "dense", model: dense });
        continue;
      }
      const recipe = await makeRecipe(dense, sparsity);
      variants.push({ sparsity, name: recipe.recipe.method, model: await load(recipe) });
    }
  } catch (error) {
    await closeVariants([...variants, { model: dense }]);
    throw error;
  }
  if (!sparsities.includes(0)) await dense.close();
  return variants;
}

/** Closes every model once. */
export async function closeVariants(variants: readonly Pick<Variant, "model">[]): Promise<void> {
  for (const model of new Set(variants.map(({ model }) => model))) await model.close();
}
