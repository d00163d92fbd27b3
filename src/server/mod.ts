/**
 * An OpenAI-compatible server on web standards, apart from the core: `import { createHandler } from "rsparse/serve"`.
 *
 * @module
 */
export { createHandler, type Handler, type HandlerOptions } from "./handler.ts";
export { readKeys } from "./auth.ts";
