/** A model in memory: its weights block by block, and the rules by which a recipe has them run. */
import type { LlamaConfig, ProjectionName } from "../model/config.ts";
import type { Matrix, RunMethod } from "./matrix.ts";
import type { MlpRule } from "./mlp_rule.ts";

/** Site by site, the projections that share an input. */
export const SITES = [["qProj", "kProj", "vProj"], ["oProj"], ["gateProj", "upProj"], ["downProj"]] as const;

/** How a projection runs when a recipe is loaded. Pointers as in {@linkcode Matrix}. */
export interface SparseRule {
  readonly mode: "dense" | "sparse" | "r_sparse" | "low_rank";
  /** For the sparsity that `Dial` was set to last. */
  threshold: number;
  /** f32[nInPadded]: ones where the score is plain |x|. */
  readonly scale: number;
  /** 0 where there is no low-rank part. */
  readonly rank: number;
  /**
   * V^T of all projections of a linear, a row for each of their ranks, once where projections share them: rows f32 or bf16 beside weights of that
   * type, pairs i8 beside int8 and int4. The same matrix for all linears of a site that share the same rows. null where none has a low-rank part.
   */
  readonly v: Matrix | null;
  /** The projection's first row in v. */
  readonly firstRank: number;
  /** U, columns times their singular value: channels f32 or bf16, or pairs i8. null where rank is 0. */
  readonly u: Matrix | null;
  /** Whether v multiplies all of x and not what is left of it beside the active channels. */
  readonly takesAll?: boolean;
  /** f32[nOut], added at sparse positions; 0 or left out: nothing is. */
  readonly bias?: number;
}

/** One linear layer in memory: some outputs of a {@linkcode Linear}. */
export interface Projection {
  readonly name: ProjectionName;
  readonly layer: number;
  readonly nOut: number;
  /** Its first output in the matrix, a multiple of 64. */
  readonly offset: number;
  /** f32[nOut], or 0. */
  readonly bias: number;
  /** Dense where there is no recipe. */
  rule: SparseRule | null;
}

/**
 * A matrix and the projections of one site that it holds: all of them (q, k and v; gate and up) where they are kept alike and select the
 * same channels, so that one list and one pass over memory serve them all.
 */
export interface Linear {
  readonly matrix: Matrix;
  /** Its first output in the site's row of activations, a multiple of 64. */
  readonly at: number;
  /** How it runs by a sparse rule. */
  readonly method: RunMethod;
  /** Where a recipe was loaded, their rules differ at most in rank, firstRank, u and bias; calibration gives them any, which costs a product each. */
  readonly parts: readonly Projection[];
}

/** One block in memory. */
export interface Layer {
  readonly attentionNorm: number;
  readonly mlpNorm: number;
  /** For each of {@linkcode SITES}, what its input is multiplied with. */
  readonly sites: readonly (readonly Linear[])[];
}

/** Weights of the norms at sparse positions: a recipe's, and the model's where it has none. */
export interface SparseNorms {
  /** Block by block. */
  readonly attention: readonly number[];
  readonly mlp: readonly number[];
  readonly final: number;
}

/** A model's weights in memory. */
export interface Weights {
  readonly config: LlamaConfig;
  readonly embedding: Matrix;
  readonly lmHead: Matrix;
  readonly finalNorm: number;
  /** f64[ropeDim / 2]. */
  readonly ropeFrequencies: number;
  readonly layers: readonly Layer[];
  /** Where a recipe has any. */
  sparseNorms?: SparseNorms;
  /** Where a recipe skips neurons, or someone looks at them. */
  mlp?: MlpRule;
}

/** All projections of a block. */
export function projectionsOf(layer: Layer): Projection[] {
  return layer.sites.flat().flatMap(({ parts }) => parts);
}
