/**
 * rsparse: language models on a CPU in any JavaScript runtime, dense or with activation sparsity (R-Sparse).
 *
 * @module
 */
export { ContextError, FormatError, HubError, RecipeError } from "./errors.ts";
export {
  type EngineInfo,
  type LoadOptions,
  type MemoryInfo,
  Model,
  type ModelSource,
} from "./runtime/model.ts";
export {
  type FinishReason,
  type GenerateOptions,
  type GenerateResult,
  type Part,
} from "./runtime/generate.ts";
export { KV_TYPES, type KvType } from "./runtime/kv_cache.ts";
export {
  type Branch,
  type DecodeOptions,
  type DecodeStep,
  type Prefill,
  type PrefillOptions,
  type Session,
  type SessionOptions,
} from "./runtime/session.ts";
export { type PassOptions, type SparsityCount } from "./runtime/forward.ts";
export { type Dtype, DTYPES, type Layout, type RunMethod } from "./runtime/matrix.ts";
export { MLP_KINDS, type MlpKind, type MlpRecipe } from "./recipe/mlp.ts";
export { Sampler, type SamplingOptions } from "./runtime/sampler.ts";
export { type KernelChoice } from "./kernels/probe.ts";
export { type KernelSource } from "./runtime/open_kernels.ts";
export { type ChatMessage } from "./model/chat_template.ts";
export { type LlamaConfig, type ProjectionName, PROJECTIONS, type RopeScaling } from "./model/config.ts";
export {
  type CalibrationSource,
  type Compat,
  COMPATS,
  type Factors,
  type LoadedRecipe,
  LOW_RANK_INPUTS,
  type LowRankInput,
  type Method,
  METHODS,
  type Mode,
  MODES,
  type ProjectionRecipe,
  type Recipe,
  type Score,
  SCORES,
} from "./recipe/recipe.ts";
