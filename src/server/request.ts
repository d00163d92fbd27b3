/** Bodies of the two generation routes to what the scheduler runs; docs/server.md has the fields. */
import type { ChatMessage } from "../model/chat_template.ts";
import type { GenerateOptions } from "../runtime/generate.ts";
import { ApiError, invalidField } from "./errors.ts";
import { Fields, found, isObject, type JsonObject } from "./fields.ts";

/** What both routes have. */
export interface GenerationRequest {
  /** Which model is asked for; undefined: the one that there is. */
  readonly model: string | undefined;
  readonly options: Omit<GenerateOptions, "signal" | "maxTokens">;
  /** Undefined: the server's default. */
  readonly maxTokens: number | undefined;
  readonly stream: boolean;
  /** Whether a stream ends with its usage. */
  readonly includeUsage: boolean;
  /** Alternatives told for each token besides it; null: no log-probabilities. */
  readonly logprobs: number | null;
  /** Milliseconds a token may take: sparsity follows from it. */
  readonly deadlineMs: number | undefined;
}

/** A chat. */
export interface ChatRequest extends GenerationRequest {
  readonly messages: readonly ChatMessage[];
}

/** A text to be continued. */
export interface CompletionRequest extends GenerationRequest {
  readonly prompt: string | readonly number[];
}

/** Most stop texts, as OpenAI has it, and characters of each: what may begin one is held back. */
const MAX_STOPS = 4, MAX_STOP_LENGTH = 1000;
/** Roles, and what templates call them. */
const ROLES: ReadonlyMap<string, string> = new Map([
  ["system", "system"],
  ["developer", "system"],
  ["user", "user"],
  ["assistant", "assistant"],
]);
/** Fields that change an answer in a way that there isn't here, and the values that ask for nothing. */
const UNSUPPORTED: { readonly [name: string]: (value: unknown) => boolean } = {
  n: (value) => value === 1,
  best_of: (value) => value === 1,
  echo: (value) => value === false,
  suffix: (value) => value === "",
  tools: isEmpty,
  functions: isEmpty,
  tool_choice: (value) => value === "none" || value === "auto",
  function_call: (value) => value === "none" || value === "auto",
  logit_bias: isEmpty,
  presence_penalty: (value) => value === 0,
  frequency_penalty: (value) => value === 0,
  response_format: (value) => isObject(value) && value["type"] === "text",
  modalities: (value) => Array.isArray(value) && value.length === 1 && value[0] === "text",
};

function isEmpty(value: unknown): boolean {
  return Array.isArray(value) ? value.length === 0 : isObject(value) && Object.keys(value).length === 0;
}

/** A body as JSON. @throws {ApiError} If it is not an object in UTF-8. */
export function parseBody(bytes: Uint8Array): JsonObject {
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (cause) {
    throw new ApiError(400, "invalid_json", `Cannot read the body: ${(cause as Error).message}`, { cause });
  }
  if (!isObject(value)) {
    throw new ApiError(400, "invalid_json", `Cannot read the body: ${found(value)} found, an object wanted`);
  }
  return value;
}

/** Reads the body of `/v1/chat/completions`. @throws {ApiError} */
export function readChat(body: JsonObject): ChatRequest {
  const fields = new Fields(body);
  const logprobs = fields.boolean("logprobs") ?? false;
  const top = fields.number("top_logprobs", { min: 0, max: 20, integer: true });
  if (top !== undefined && !logprobs) throw invalidField("top_logprobs", "it needs logprobs: true");
  return {
    ...readGeneration(fields, logprobs ? top ?? 0 : null),
    messages: readMessages(fields.value("messages")),
  };
}

/** Reads the body of `/v1/completions`. @throws {ApiError} */
export function readCompletion(body: JsonObject): CompletionRequest {
  const fields = new Fields(body);
  const logprobs = fields.number("logprobs", { min: 0, max: 5, integer: true }) ?? null;
  return { ...readGeneration(fields, logprobs), prompt: readPrompt(fields.value("prompt")) };
}

function readGeneration(fields: Fields, logprobs: number | null): GenerationRequest {
  const model = fields.string("model");
  for (const [name, asksForNothing] of Object.entries(UNSUPPORTED)) {
    const value = fields.value(name);
    if (value === undefined || asksForNothing(value)) continue;
    throw invalidField(
      name,
      `${found(value)} found, which this server can't do: leave it out`,
      "unsupported",
    );
  }
  const stream = fields.boolean("stream") ?? false, streamOptions = fields.object("stream_options");
  if (streamOptions !== undefined && !stream) throw invalidField("stream_options", "it needs stream: true");
  const sparsity = fields.number("sparsity", { min: 0, max: 0.9 });
  const deadlineMs = fields.number("deadline_ms_per_token", { min: 0, max: Infinity, above: true });
  if (sparsity !== undefined && deadlineMs !== undefined) {
    throw invalidField(
      "deadline_ms_per_token",
      "sparsity is given too, which it would choose: give one of them",
    );
  }
  const length = { min: 1, max: Number.MAX_SAFE_INTEGER, integer: true };
  const older = fields.number("max_tokens", length), newer = fields.number("max_completion_tokens", length);
  return {
    model,
    options: { ...readSampling(fields), stop: readStop(fields), sparsity },
    maxTokens: newer ?? older,
    stream,
    includeUsage: streamOptions?.boolean("include_usage") ?? false,
    logprobs,
    deadlineMs,
  };
}

function readSampling(fields: Fields): Partial<GenerateOptions> {
  const temperature = fields.number("temperature", { min: 0, max: 2 }) ?? 1;
  const topP = fields.number("top_p", { min: 0, max: 1 }) ?? 1;
  const limit = Number.MAX_SAFE_INTEGER;
  const seed = fields.number("seed", { min: -limit, max: limit, integer: true });
  return {
    // a share of 0 is the best token alone
    temperature: topP === 0 ? 0 : temperature,
    topP: topP === 0 ? 1 : topP,
    topK: fields.number("top_k", { min: 0, max: limit, integer: true }),
    minP: fields.number("min_p", { min: 0, max: 1 }),
    repeatPenalty: fields.number("repeat_penalty", { min: 0, max: 100, above: true }),
    // OpenAI's seeds may be below 0
    seed: seed !== undefined && seed < 0 ? seed + limit + 1 : seed,
  };
}

function readStop(fields: Fields): readonly string[] {
  const value = fields.value("stop");
  const stops = value === undefined ? [] : Array.isArray(value) ? value : [value];
  const isRight = stops.length <= MAX_STOPS &&
    stops.every((stop) => typeof stop === "string" && stop !== "" && stop.length <= MAX_STOP_LENGTH);
  if (isRight) return stops;
  throw fields.wrong(
    "stop",
    value,
    `a text of 1 to ${MAX_STOP_LENGTH} characters, or at most ${MAX_STOPS} of them,`,
  );
}

function readMessages(value: unknown): ChatMessage[] {
  const wanted = "an array of at least one {role, content}";
  if (!Array.isArray(value) || value.length === 0) {
    throw invalidField(
      "messages",
      `${value === undefined ? "nothing" : found(value)} found, ${wanted} wanted`,
    );
  }
  return value.map((message: unknown, i) => {
    const at = `messages[${i}]`;
    if (!isObject(message)) throw invalidField(at, `${found(message)} found, an object wanted`);
    const given = message["role"], role = typeof given === "string" ? ROLES.get(given) : undefined;
    if (role === undefined) {
      throw invalidField(
        `${at}.role`,
        `${found(given)} found, one of ${[...ROLES.keys()].join(", ")} wanted`,
      );
    }
    if (!isEmptyOrAbsent(message["tool_calls"])) {
      throw invalidField(`${at}.tool_calls`, "this server has no tools: leave them out", "unsupported");
    }
    return { role, content: readContent(message["content"], `${at}.content`) };
  });
}

function isEmptyOrAbsent(value: unknown): boolean {
  return value === undefined || value === null || isEmpty(value);
}

/** A text, or the texts of its parts. */
function readContent(content: unknown, at: string): string {
  if (typeof content === "string") return content;
  if (!Array.isArray(content) || content.length === 0) {
    throw invalidField(at, `${found(content)} found, a text or an array of {type: "text", text} wanted`);
  }
  return content.map((part: unknown, i) => {
    if (isObject(part) && part["type"] === "text" && typeof part["text"] === "string") return part["text"];
    const type = isObject(part) ? part["type"] : part;
    throw invalidField(
      `${at}[${i}]`,
      `${found(type)} found, {type: "text", text} wanted: the model reads texts only`,
    );
  }).join("");
}

/** A text or its tokens; also in an array, as long as it is the only one. */
function readPrompt(value: unknown): string | readonly number[] {
  const only: unknown = Array.isArray(value) && value.length === 1 && typeof value[0] !== "number"
    ? value[0]
    : value;
  if (typeof only === "string") return only;
  if (Array.isArray(only) && only.length > 0 && only.every((id) => Number.isSafeInteger(id))) return only;
  if (Array.isArray(value) && value.length > 1 && typeof value[0] !== "number") {
    throw invalidField("prompt", `${value.length} prompts found: send a request for each`, "unsupported");
  }
  throw invalidField(
    "prompt",
    `${value === undefined ? "nothing" : found(value)} found, a text or an array of token ids wanted`,
  );
}
