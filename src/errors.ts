/**
 * The errors that rsparse throws on purpose. A bad argument is a `RangeError` or a `TypeError`;
 * everything here is about input that came from outside: files, recipes, the network.
 * Programs branch on `code`; messages say what could not be done, where, what was found and what to do.
 */

/** A model, tokenizer or recipe file that cannot be parsed, or whose parts contradict each other. */
export class FormatError extends Error {
  /** Always `"FormatError"`. */
  override readonly name = "FormatError";
  /** The file's path or URL, or what the caller called it. */
  readonly file: string;
  /** Byte offset in the file where the fault was seen; 0 where the file as a whole is at fault. */
  readonly offset: number;
  /** `detail` is what was found and what was wanted. */
  constructor(file: string, offset: number, detail: string, options?: ErrorOptions) {
    super(`Cannot read ${file}: at byte ${offset}: ${detail}`, options);
    this.file = file;
    this.offset = offset;
  }
}

/** A recipe that is malformed, or was made for another model. */
export class RecipeError extends Error {
  /** Always `"RecipeError"`. */
  override readonly name = "RecipeError";
  /** Why, for programs; stable across releases. */
  readonly code: "version" | "model_mismatch" | "missing_projection" | "bad_value";
  /** `path` is where in the recipe, dotted; `detail` is found, wanted and what to do. */
  constructor(code: RecipeError["code"], path: string, detail: string, options?: ErrorOptions) {
    super(`Cannot use recipe: ${path}: ${detail}`, options);
    this.code = code;
  }
}

/** A model that could not be found or downloaded. */
export class HubError extends Error {
  /** Always `"HubError"`. */
  override readonly name = "HubError";
  /** Why, for programs; stable across releases. */
  readonly code: "not_found" | "offline" | "server" | "unauthorized" | "checksum" | "disk" | "unknown_model";
  /** `message` is what could not be had, what was tried and what to do. */
  constructor(code: HubError["code"], message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}

/** More tokens than the model's context, or the caller's own limit, can hold. Nothing has run. */
export class ContextError extends RangeError {
  /** Always `"ContextError"`. */
  override readonly name = "ContextError";
  /** How many tokens too many. */
  readonly excess: number;
  /** `found` tokens were asked for where `limit` fit. */
  constructor(found: number, limit: number, what: string) {
    super(
      `Cannot run ${what}: ${found} tokens, ${found - limit} more than the context of ${limit}: ` +
        `shorten the prompt or ask for fewer tokens`,
    );
    this.excess = found - limit;
  }
}

/** Activations or logits that are no longer finite: the weights, or a recipe's factors, overflow on these tokens. */
export class NotFiniteError extends Error {
  /** Always `"NotFiniteError"`. */
  override readonly name = "NotFiniteError";
}

/** What {@linkcode XrError} is about. */
export type XrErrorCode = "scenario" | "hardware" | "trace" | "result" | "batch" | "levels";

/** A scenario, hardware, trace or result of the XR workload that is malformed, or names what there is not. */
export class XrError extends Error {
  /** Always `"XrError"`. */
  override readonly name = "XrError";
  /** What was read, for programs; stable across releases. */
  readonly code: XrErrorCode;
  /** Where in it, dotted; empty for the whole. */
  readonly path: string;
  /** `source` is the file or what the caller called it; `detail` is found, wanted and what to do. */
  constructor(code: XrErrorCode, source: string, path: string, detail: string, options?: ErrorOptions) {
    super(`Cannot read ${code} ${source}: ${path === "" ? "" : `${path}: `}${detail}`, options);
    this.code = code;
    this.path = path;
  }
}
