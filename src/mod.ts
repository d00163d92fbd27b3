/**
 * rsparse: language models on a CPU in any JavaScript runtime, dense or with activation sparsity (R-Sparse).
 *
 * @module
 */
export { ContextError, FormatError, HubError, RecipeError } from "./errors.ts";
export { type EngineInfo, type LoadOptions, type MemoryInfo, Model, type ModelSource } from "./runtime/model.ts";
export { type FinishReason, type GenerateOptions, type GenerateResult, type Part } from "./runtime/generate.ts";
export { type Prefill, type PrefillOptions, type Session } from "./runtime/session.ts";
export { Sampler, type SamplingOptions } from "./runtime/sampler.ts";
export { type ChatMessage } from "./model/chat_template.ts";
export { type LlamaConfig } from "./model/config.ts";
export { type LoadedRecipe, type Recipe } from "./recipe/recipe.ts";
