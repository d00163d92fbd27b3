/** What is between the routes and the scheduler: states of the server, limits, metrics, errors. */
import { ContextError } from "../errors.ts";
import { dialRange } from "../recipe/dial.ts";
import type { Model } from "../runtime/model.ts";
import { Answer, type AnswerKind } from "./answer.ts";
import { eventStream, readBody } from "./body.ts";
import { ApiError, invalidField } from "./errors.ts";
import { found } from "./fields.ts";
import type { HandlerOptions } from "./handler.ts";
import { Metrics } from "./metrics.ts";
import { chatTokens, textTokens, tooLong } from "./prompt.ts";
import { type GenerationRequest, parseBody, readChat, readCompletion } from "./request.ts";
import { QueueFullError, Scheduler } from "./scheduler.ts";
import type { Piece, Sequence } from "./sequence.ts";

/** Tokens of an answer where nothing was said: as `rsparse chat`, and as OpenAI has it for completions. */
const DEFAULT_OUTPUT = { chat: 512, completion: 16 } as const;
const LIMITS = [
  "maxSequences",
  "maxQueue",
  "kvBytes",
  "maxPromptTokens",
  "maxOutputTokens",
  "maxBodyBytes",
  "bodyMs",
  "stallMs",
] as const;
/** Routes as metrics name them. */
const ROUTES: ReadonlyMap<string, string> = new Map([
  ["/v1/chat/completions", "chat"],
  ["/v1/completions", "completions"],
  ["/v1/models", "models"],
  ["/health", "health"],
  ["/metrics", "metrics"],
]);

/** One server. Its methods answer, or throw what {@linkcode Service.refuse} makes an answer of. */
export class Service {
  readonly #options: HandlerOptions;
  readonly #metrics: Metrics = new Metrics();
  readonly #created: number = Math.floor(Date.now() / 1000);
  #model: Model | null = null;
  #scheduler: Scheduler | null = null;
  #failure: unknown = null;
  /** Errors that were told of. */
  readonly #reported: WeakSet<object> = new WeakSet();
  /** Requests for text that were accepted and not yet answered to the end. */
  #open = 0;
  #draining: { readonly done: Promise<void>; readonly end: () => void } | null = null;

  constructor(model: Model | PromiseLike<Model>, options: HandlerOptions) {
    for (const name of LIMITS) {
      const value = options[name], least = name === "maxQueue" ? 0 : 1;
      if (value === undefined || (Number.isSafeInteger(value) && value >= least)) continue;
      throw new RangeError(`${name}: ${value} found, a whole number of at least ${least} wanted`);
    }
    this.#options = options;
    const metrics = this.#metrics;
    metrics.gauge("rsparse_ready", "1 while requests are taken", () => Number(this.#status === "ok"));
    metrics.gauge(
      "rsparse_queue_length",
      "Generations that wait for their turn",
      () => this.#scheduler?.queued ?? 0,
    );
    metrics.gauge("rsparse_running", "Generations that run", () => this.#scheduler?.running ?? 0);
    metrics.gauge(
      "rsparse_kv_bytes",
      "Memory for keys and values, in use or free",
      () => this.#model?.memory.kvBytes ?? null,
    );
    metrics.gauge("rsparse_wasm_bytes", "The model's memory", () => this.#model?.memory.wasmBytes ?? null);
    metrics.gauge(
      "process_resident_memory_bytes",
      "Resident memory",
      () => this.#model?.memory.rssBytes ?? null,
    );
    if ("then" in model) {
      void Promise.resolve(model).then((ready) => this.#begin(ready), (error) => this.#failure = error);
    } else this.#begin(model);
  }

  #begin(model: Model): void {
    const { maxSequences = 32, maxQueue = 64, kvBytes = 2 ** 28, stallMs = 60_000 } = this.#options;
    const metrics = this.#metrics;
    this.#scheduler = new Scheduler(model, { maxSequences, maxQueue, stallMs, kvBytes }, {
      prompt: (tokens) => metrics.promptTokens.add(tokens),
      token: (ms) => {
        metrics.completionTokens.add(1);
        if (ms >= 0) metrics.tokenSeconds.observe(ms / 1000);
      },
      cancelled: (reason) => metrics.cancelled.add(1, reason),
      failed: (error) => {
        metrics.cancelled.add(1, "failed");
        this.#report(error);
      },
      work: ({ kept, dense, sparseTokens }) => {
        metrics.work.add(kept, "run");
        metrics.work.add(dense - kept, "skipped");
        metrics.sparseTokens.add(sparseTokens);
      },
    });
    this.#model = model;
  }

  get #status(): "ok" | "loading" | "failed" | "draining" {
    if (this.#failure !== null) return "failed";
    return this.#draining !== null ? "draining" : this.#model === null ? "loading" : "ok";
  }

  /** @throws {ApiError} 503 while there is no model. */
  #ready(): { readonly model: Model; readonly scheduler: Scheduler; readonly name: string } {
    const model = this.#model, scheduler = this.#scheduler;
    if (model !== null && scheduler !== null && this.#failure === null) {
      return { model, scheduler, name: this.#options.modelName ?? model.name };
    }
    if (this.#failure !== null) {
      throw new ApiError(503, "model_failed", "the model can't be run: the server's log says why");
    }
    throw new ApiError(503, "model_loading", "the model is being loaded: try again soon", {
      headers: { "retry-after": "1" },
    });
  }

  drain(stallMs: number): Promise<void> {
    this.#scheduler?.hurry(stallMs);
    if (this.#draining === null) {
      let end = (): void => {};
      const done = new Promise<void>((resolve) => end = resolve);
      this.#draining = { done, end };
      if (this.#open === 0) end();
    }
    return this.#draining.done;
  }

  /** Notes an answer for the metrics. */
  count(request: Request, response: Response): Response {
    const path = new URL(request.url).pathname;
    const route = ROUTES.get(path) ?? (path.startsWith("/v1/models/") ? "models" : "other");
    this.#metrics.requests.add(1, route, String(response.status));
    return response;
  }

  /** Tells of an error, and looks whether it is the last: of a trap it can't be told what it has left in the memory. */
  #report(error: unknown): void {
    if (typeof error === "object" && error !== null) this.#reported.add(error);
    const isFatal = error instanceof WebAssembly.RuntimeError || !this.#model?.engine.canRun;
    if (isFatal) this.#failure ??= error;
    this.#options.onError?.(error, isFatal);
  }

  /** The answer for whatever was thrown. */
  refuse(error: unknown): Response {
    return this.#apiError(error).response;
  }

  #apiError(error: unknown): ApiError {
    if (error instanceof ApiError) return error;
    if (error instanceof QueueFullError) {
      const headers = { "retry-after": String(error.retryAfter) };
      return new ApiError(429, "queue_full", error.message, { headers, cause: error });
    }
    if (!this.#reported.has(error as object)) this.#report(error);
    return new ApiError(500, "internal_error", "the server failed: its log says how", { cause: error });
  }

  health(): Response {
    const status = this.#status;
    return Response.json({ status }, { status: status === "ok" ? 200 : 503 });
  }

  metricsPage(): Response {
    return new Response(this.#metrics.render(), {
      headers: { "content-type": "text/plain; version=0.0.4; charset=utf-8" },
    });
  }

  /** The model as `/v1/models` has it. */
  describe(): object {
    const { model, name } = this.#ready(), { parameters, quantization } = model.description;
    const recipe = model.recipe?.recipe ?? null;
    return {
      id: name,
      object: "model",
      created: this.#created,
      owned_by: "rsparse",
      rsparse: {
        name: model.name,
        context_length: model.engine.contextLength,
        parameters,
        quantization,
        recipe: recipe === null
          ? null
          : { method: recipe.method, sparsity: recipe.sparsity, range: dialRange(recipe) },
      },
    };
  }

  describeOne(id: string): Response {
    const { name } = this.#ready();
    if (id !== name) throw notServed(id, name);
    return Response.json(this.describe());
  }

  /** Answers a request for text. */
  async generate(request: Request, kind: AnswerKind): Promise<Response> {
    const began = performance.now(), { model, scheduler, name } = this.#ready(), { signal } = request;
    if (this.#draining !== null) {
      throw new ApiError(503, "shutting_down", "the server is shutting down: ask another one", {
        headers: { "retry-after": "1", connection: "close" },
      });
    }
    this.#open++;
    let isStream = false;
    const close = once(() => {
      if (--this.#open === 0) this.#draining?.end();
    });
    try {
      const { maxBodyBytes = 65_536 + 32 * model.engine.contextLength, bodyMs = 30_000 } = this.#options;
      const body = parseBody(await readBody(request, maxBodyBytes, bodyMs));
      const wanted = kind === "chat" ? readChat(body) : readCompletion(body);
      // an answer of another model than was asked for would look like that one's
      if (wanted.model !== undefined && wanted.model !== name) throw notServed(wanted.model, name, "model");
      const prompt = "messages" in wanted
        ? await chatTokens(model, wanted.messages, signal)
        : await textTokens(model, wanted.prompt, signal);
      const sequence = this.#submit(model, scheduler, kind, prompt, wanted);
      const cancel = (): void => {
        scheduler.cancel(sequence);
        close();
      };
      signal.addEventListener("abort", cancel, { once: true });
      if (signal.aborted) cancel();
      const answer = new Answer(kind, model, name, wanted.logprobs !== null);
      if (!wanted.stream) return Response.json(await this.#whole(scheduler, sequence, answer, began));
      isStream = true;
      // streams that stall or fail end without a last piece
      sequence.abort.signal.addEventListener("abort", close, { once: true });
      return eventStream({
        sequence,
        take: async () => {
          const pieces = await scheduler.take(sequence);
          if (this.#note(pieces, began)) close();
          return pieces;
        },
        cancel,
        begin: () => answer.begin(wanted.includeUsage),
        events: (pieces) => answer.parts(pieces, wanted.includeUsage),
        failed: (error) => this.#apiError(error).body,
      });
    } catch (error) {
      if (signal.aborted) return new Response(null, { status: 499 });
      throw error;
    } finally {
      if (!isStream) close();
    }
  }

  async #whole(scheduler: Scheduler, sequence: Sequence, answer: Answer, began: number): Promise<object> {
    const all: Piece[] = [];
    for (;;) {
      all.push(...await scheduler.take(sequence));
      const { end } = all.at(-1)!;
      if (end === null) continue;
      this.#note(all, began);
      return answer.whole(all, end);
    }
  }

  /** Notes the times of a generation whose end is among these pieces, and whether it is. */
  #note(pieces: readonly Piece[], began: number): boolean {
    const end = pieces.at(-1)!.end, metrics = this.#metrics;
    if (end === null) return false;
    metrics.queueSeconds.observe(end.queueMs / 1000);
    metrics.firstTokenSeconds.observe(end.firstTokenMs / 1000);
    metrics.requestSeconds.observe((performance.now() - began) / 1000);
    return true;
  }

  #submit(
    model: Model,
    scheduler: Scheduler,
    kind: AnswerKind,
    prompt: readonly number[],
    { options, maxTokens, logprobs, deadlineMs }: GenerationRequest,
  ): Sequence {
    const { contextLength } = model.engine, param = kind === "chat" ? "messages" : "prompt";
    const { maxPromptTokens = contextLength, maxOutputTokens = Infinity } = this.#options;
    if (prompt.length === 0) throw invalidField(param, "there is no text in it");
    if (prompt.length > maxPromptTokens) throw tooLong(prompt.length, maxPromptTokens, "the limit", param);
    if (prompt.length === contextLength) {
      throw tooLong(prompt.length + 1, contextLength, "the context, a token of an answer included,", param);
    }
    if (maxTokens !== undefined && maxTokens > maxOutputTokens) {
      throw invalidField("max_tokens", `${maxTokens} found, this server gives at most ${maxOutputTokens}`);
    }
    const most = maxTokens ?? Math.min(DEFAULT_OUTPUT[kind], maxOutputTokens, contextLength - prompt.length);
    try {
      return scheduler.submit(prompt, {
        ...options,
        sparsity: options.sparsity ?? (deadlineMs === undefined ? this.#options.sparsity : undefined),
        maxTokens: most,
        logprobs,
        deadlineMs,
      });
    } catch (error) {
      if (error instanceof ContextError) {
        throw new ApiError(400, "context_length_exceeded", error.message, {
          param: "max_tokens",
          cause: error,
        });
      }
      if (!(error instanceof RangeError)) throw error;
      const dial = deadlineMs === undefined ? "sparsity" : "deadline_ms_per_token";
      throw new ApiError(400, "invalid_value", error.message, { param: dial, cause: error });
    }
  }
}

/** The error for a model that is not the one that there is; `param`: the field that names it. */
function notServed(id: string, name: string, param?: string): ApiError {
  return new ApiError(404, "model_not_found", `there is no model ${found(id)}: ${name} is served here`, {
    param,
  });
}

function once(work: () => void): () => void {
  let isDone = false;
  return () => {
    if (!isDone) work();
    isDone = true;
  };
}
