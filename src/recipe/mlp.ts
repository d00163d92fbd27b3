/** Methods that skip neurons of the MLP: rows of up (and gate) and channels of down, by what stands between them. */
import { type LlamaConfig, PROJECTIONS, projectionShape } from "../model/config.ts";
import { badValue, readObject, readWord } from "./fields.ts";
import type { Method, ProjectionRecipe, Recipe } from "./recipe.ts";

/**
 * `cats`: neurons whose |silu(gate)| is above a threshold run (Lee et al. 2024). `griffin`: those that the dense positions of a sequence used most (Dong et
 * al. 2024). `relufication`: ReLU for SiLU, and those run whose gate is above 0 (Mirzadeh et al. 2023).
 */
export const MLP_KINDS = ["cats", "griffin", "relufication"] as const;
/** One of {@linkcode MLP_KINDS}. */
export type MlpKind = (typeof MLP_KINDS)[number];

/** What a recipe does between gate and up and down. */
export interface MlpRecipe {
  /** Which neurons run. */
  readonly kind: MlpKind;
}

/** Weight matrices of which a neuron that does not run spares a row or a column. */
const SPARED: { readonly [kind in MlpKind]: number } = { cats: 2, griffin: 3, relufication: 2 };

/** The largest share of a block's weights that a method can skip: all neurons. */
export function mostSparsity(kind: MlpKind, config: LlamaConfig): number {
  let block = 0;
  for (const name of PROJECTIONS) {
    const { nIn, nOut } = projectionShape(config, name);
    block += nIn * nOut;
  }
  return SPARED[kind] * config.hiddenSize * config.intermediateSize / block;
}

/**
 * The share of neurons to skip so that `sparsity` of a block's weights are not read.
 *
 * @throws {RangeError} If all neurons have not as many weights.
 */
export function neuronShare(kind: MlpKind, config: LlamaConfig, sparsity: number): number {
  const most = mostSparsity(kind, config), share = sparsity / most;
  if (share <= 1) return share;
  throw new RangeError(
    `sparsity ${sparsity}: ${kind} skips rows and columns of ${SPARED[kind]} of 7 projections, at most ${
      Math.floor(1000 * most) / 1000
    } of this model's block weights: ask for less, or for another method`,
  );
}

/** Neurons of a block that GRIFFIN keeps: a share of them, rounded down. */
export function neuronsKept(config: LlamaConfig, sparsity: number): number {
  return Math.trunc(config.intermediateSize * (1 - neuronShare("griffin", config, sparsity)));
}

/** The rule of the MLP out of a recipe's JSON, if it has one. */
export function readMlp(
  value: unknown,
  method: Method,
  points: Recipe["points"],
  projections: readonly ProjectionRecipe[],
): MlpRecipe | null {
  const own = MLP_KINDS.find((kind) => kind === method);
  if (value === undefined) {
    if (own === undefined) return null;
    throw badValue("mlp", `nothing found, an object of kind ${own} wanted, as the method is`);
  }
  const kind = readWord(readObject(value, "mlp")["kind"], "mlp.kind", MLP_KINDS);
  if (own !== undefined && kind !== own) {
    throw badValue("mlp.kind", `${kind} found, ${own} wanted, as the method is`);
  }
  if (kind === "cats" && points.length === 0) throw badValue("points", "none found, some wanted for cats");
  for (const { path, mode } of projections) {
    const wanted = path.endsWith("down_proj") ? "sparse" : /(gate|up)_proj$/.test(path) ? "dense" : mode;
    if (mode !== wanted) throw badValue(`${path}.mode`, `${mode} found, ${wanted} wanted beside ${kind}`);
  }
  return { kind };
}

/** Holds the rule against a model. @throws {RecipeError} If a point of the dial skips more than all neurons. */
export function checkMlp({ kind }: MlpRecipe, recipe: Recipe, config: LlamaConfig): void {
  const most = mostSparsity(kind, config);
  for (const point of [recipe.sparsity, ...recipe.points]) {
    if (point > most) {
      throw badValue(
        "points",
        `${point} found, ${kind} can skip at most ${most} of this model's block weights`,
      );
    }
  }
}
