/**
 * rsparse for edge functions: the model, and the handler of `rsparse serve`, in one module without files, Node's modules, or code that is made while it runs. Both the kernels
 * (`rsparse/kernels.baseline.wasm` or `rsparse/kernels.relaxed.wasm`) and the model's bytes (`rsparse/tiny.rsparse`) are given to `Model.load`, as the platform imports them.
 *
 * @example A Cloudflare worker
 * ```ts ignore
 * import { createHandler, Model } from "rsparse/edge";
 * import kernels from "rsparse/kernels.baseline.wasm"; // a WebAssembly.Module
 * import pack from "rsparse/tiny.rsparse"; // an ArrayBuffer
 * let handler;
 * export default {
 *   async fetch(request) {
 *     handler ??= createHandler(await Model.load(new Uint8Array(pack), { kernels }));
 *     return await handler(request);
 *   },
 * };
 * ```
 *
 * @module
 */
export { ContextError, FormatError, HubError, RecipeError } from "../errors.ts";
export {
  type EngineInfo,
  type LoadOptions,
  type MemoryInfo,
  Model,
  type ModelSource,
} from "../runtime/model.ts";
export type { FinishReason, GenerateOptions, GenerateResult, Part } from "../runtime/generate.ts";
export type { ChatMessage } from "../model/chat_template.ts";
export { createHandler, type Handler, type HandlerOptions } from "../server/mod.ts";
