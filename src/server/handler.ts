/** OpenAI's HTTP interface over one model: a function from `Request` to `Response` that every runtime can serve. */
import { Hono } from "hono/tiny";
import { cors } from "hono/cors";
import type { Context } from "hono";
import type { Model } from "../runtime/model.ts";
import { keyCheck } from "./auth.ts";
import { ApiError } from "./errors.ts";
import { Service } from "./service.ts";

/** Settings of {@linkcode createHandler}. Every limit has a default. */
export interface HandlerOptions {
  /** What the model is called; default: its own name. */
  readonly modelName?: string;
  /** Keys, one of which a request has to bring as `Authorization: Bearer KEY`; default: none is asked for. */
  readonly apiKeys?: readonly string[];
  /** Origins whose pages may use it, or `*` for all; default: none. */
  readonly cors?: string | readonly string[];
  /** Generations that run beside one another, 32. */
  readonly maxSequences?: number;
  /** Generations that wait for their turn, 64; more are refused by 429. */
  readonly maxQueue?: number;
  /** Bytes of keys and values that generations may take together, 256 MiB; one alone may always run. */
  readonly kvBytes?: number;
  /** Tokens of a prompt; default: what the context holds. */
  readonly maxPromptTokens?: number;
  /** Tokens of an answer; default: what the context holds. */
  readonly maxOutputTokens?: number;
  /** Bytes of a request's body; default 64 KiB and 32 bytes for each token of the context. */
  readonly maxBodyBytes?: number;
  /** Milliseconds that a request's body may take to arrive, 30,000. */
  readonly bodyMs?: number;
  /** Milliseconds for which a reader of a stream may take nothing, 60,000: then it is cut off. */
  readonly stallMs?: number;
  /** Sparsity of requests that don't say one; default: the recipe's. */
  readonly sparsity?: number;
  /** Is told of errors that are no request's fault. `isFatal`: no request can be answered any more, and `/health` says so; the process should be started again. */
  readonly onError?: (error: unknown, isFatal: boolean) => void;
}

/** A function from a request to its answer, and the way to end it. */
export interface Handler {
  (request: Request): Promise<Response>;
  /**
   * Refuses new requests by 503; resolves when all that were accepted have been answered. `stallMs`: from now on readers that take nothing for so long are cut
   * off, 10,000.
   */
  drain(stallMs?: number): Promise<void>;
}

/** Orchestrators kill what has not ended 10 s (Docker) to 30 s (Kubernetes) after it was asked to; readers that read are not held up by it. */
const DRAIN_STALL_MS = 10_000;

/**
 * Serves a model: see docs/server.md. While it loads, requests are answered by 503.
 *
 * @param model A model, or the promise of one. It stays the caller's, to close after {@linkcode Handler.drain}.
 * @throws {RangeError} If an option is out of its range.
 * @example
 * ```ts ignore
 * Deno.serve(createHandler(Model.load("tiny")));
 * ```
 */
export function createHandler(model: Model | PromiseLike<Model>, options: HandlerOptions = {}): Handler {
  const service = new Service(model, options), app = new Hono();
  const { cors: origin, apiKeys } = options;
  if (origin !== undefined) {
    app.use(cors({
      // in a list hono would take it for an origin
      origin: typeof origin === "string" ? origin : origin.includes("*") ? "*" : [...origin],
      allowMethods: ["GET", "POST"],
      exposeHeaders: ["Retry-After"],
      maxAge: 86_400,
    }));
  }
  if (apiKeys !== undefined) {
    if (apiKeys.length === 0 || apiKeys.includes("")) {
      throw new RangeError("apiKeys: none, or an empty one, found: give at least one key");
    }
    const isKey = keyCheck(apiKeys);
    for (const path of ["/v1/*", "/metrics"]) {
      app.use(path, async (c, next) => {
        if (await isKey(c.req.header("authorization") ?? null)) return await next();
        throw new ApiError(
          401,
          "invalid_api_key",
          "the API key is missing or wrong: send Authorization: Bearer KEY",
          {
            headers: { "www-authenticate": "Bearer" },
          },
        );
      });
    }
  }
  const route = (
    method: "get" | "post",
    path: string,
    answer: (c: Context) => Response | Promise<Response>,
  ): void => {
    app[method](path, answer);
    const allow = method === "get" ? "GET, HEAD" : "POST";
    app.all(path, (c) => {
      const { method } = c.req;
      throw new ApiError(405, "method_not_allowed", `${method} ${path}: ${allow} wanted`, {
        headers: { allow },
      });
    });
  };
  route("post", "/v1/chat/completions", (c) => service.generate(c.req.raw, "chat"));
  route("post", "/v1/completions", (c) => service.generate(c.req.raw, "completion"));
  route("get", "/v1/models", () => Response.json({ object: "list", data: [service.describe()] }));
  route("get", "/v1/models/:id{.+}", (c) => service.describeOne(c.req.param("id") ?? ""));
  route("get", "/health", () => service.health());
  route("get", "/metrics", () => service.metricsPage());
  app.notFound((c) => {
    const { method, path } = c.req;
    return new ApiError(
      404,
      "not_found",
      `${method} ${path}: there is no such route: /v1/chat/completions, /v1/completions, /v1/models, /health and /metrics are there`,
    ).response;
  });
  app.onError((error) => service.refuse(error));
  const handler = async (request: Request): Promise<Response> =>
    service.count(request, await app.fetch(request));
  return Object.assign(handler, {
    drain: (stallMs: number = DRAIN_STALL_MS) => service.drain(stallMs),
  });
}
