/** `rsparse serve`: OpenAI's HTTP interface over one model. */
import { readFile } from "node:fs/promises";
import process from "node:process";
import { type Command, InvalidArgumentError } from "commander";
import type { Model } from "../../runtime/model.ts";
import type { HandlerOptions } from "../../server/handler.ts";
import { EXIT, UsageError } from "../errors.ts";
import { checkDial, describeRun, loadModel, sparsityOption } from "../generation.ts";
import { addEngineOptions, addModelOption, integer, type RunOptions } from "../model_option.ts";
import type { CliContext } from "../output.ts";

interface ServeOptions extends RunOptions {
  readonly host: string;
  readonly port: number;
  readonly apiKeyFile?: string;
  readonly cors?: readonly string[];
  readonly sparsity?: number;
  readonly maxQueue?: number;
  readonly maxSequences?: number;
  readonly maxPrompt?: number;
  readonly maxOutput?: number;
  readonly maxBody?: number;
  readonly kvMemory?: number;
}

/** Adds the command. */
export function register(program: Command, context: CliContext): void {
  const command = program.command("serve")
    .description(
      "serve a model over HTTP as OpenAI's API: /v1/chat/completions, /v1/completions, /v1/models, /health, /metrics",
    );
  addEngineOptions(addModelOption(command))
    .option("--recipe <file>", "run sparse as this recipe says")
    .addOption(sparsityOption())
    .option("--host <address>", "address to listen on; 0.0.0.0: all", "127.0.0.1")
    .option("--port <n>", "port to listen on; 0: any that is free", integer(0, 65535), 8080)
    .option("--api-key-file <file>", "keys, one a line; requests have to bring one")
    .option(
      "--cors <origin>",
      "let pages of this origin use it, or of all: *; may be given several times",
      collect,
    )
    .option("--max-queue <n>", "requests that wait; more get status 429 (default: 64)", integer(0))
    .option("--max-sequences <n>", "requests that run beside one another (default: 32)", integer(1))
    .option("--max-prompt <n>", "most tokens of a prompt (default: the context)", integer(1))
    .option("--max-output <n>", "most tokens of an answer (default: what the context leaves)", integer(1))
    .option(
      "--max-body <bytes>",
      "most bytes of a request (default: 64 KiB and 32 for each token of the context)",
      integer(1),
    )
    .option(
      "--kv-memory <mb>",
      "memory for keys and values (default: 1024, or half of what is free)",
      integer(1),
    )
    .action((options: ServeOptions) => run(context, options));
}

function collect(origin: string, before: readonly string[] = []): string[] {
  const isOrigin = origin === "*" || (URL.canParse(origin) && new URL(origin).origin === origin);
  if (!isOrigin) throw new InvalidArgumentError("an origin such as https://example.com, or *, wanted.");
  return [...before, origin];
}

async function run(context: CliContext, options: ServeOptions): Promise<void> {
  const { createHandler } = await import("../../server/handler.ts"), { platform } = context;
  if (platform.serve === undefined) throw new Error("Cannot listen: this runtime has no sockets");
  const apiKeys = options.apiKeyFile === undefined ? undefined : await keysOf(options.apiKeyFile);
  const stop = new Stop(context);
  let lose: (error: unknown) => void = () => {};
  const lost = new Promise<never>((_, reject) => lose = reject);
  // whoever waits for it comes later
  lost.catch(() => {});
  try {
    const loading = loadModel({ ...context, signal: stop.signal }, options, "own");
    const handler = createHandler(
      loading.then((model) => {
        checkDial(options.recipe, options.sparsity, model);
        return model;
      }),
      {
        ...limits(options, platform.freeBytes()),
        apiKeys,
        onError(error, isFatal) {
          context.note(`error: ${error instanceof Error ? error.stack ?? error.message : String(error)}`);
          if (isFatal) lose(error);
        },
      },
    );
    const server = await platform.serve(handler, { hostname: options.host, port: options.port });
    const host = options.host.includes(":") ? `[${options.host}]` : options.host;
    context.note(`listening on http://${host}:${server.port}`);
    if (apiKeys === undefined && !["127.0.0.1", "localhost", "::1"].includes(options.host)) {
      context.note("warning: whoever can reach this address can use it: --api-key-file FILE asks for a key");
    }
    let model: Model | null = null;
    try {
      model = await Promise.race([loading, stop.asked]) ?? null;
      if (model !== null) {
        checkDial(options.recipe, options.sparsity, model);
        context.note(`ready: ${describeRun(model, options.sparsity)}`);
        await Promise.race([stop.asked, lost]);
        context.note("shutting down: answers that were begun are finished; again ends at once");
      }
      await handler.drain();
    } finally {
      // answers that no model can finish are not waited for
      const closed = server.close(CLOSE_MS);
      if (model !== null && model.engine.canRun) await closed;
      await model?.close();
    }
  } finally {
    stop.end();
  }
}

/** Milliseconds for what is left of answers to be sent when all of it has been made. */
const CLOSE_MS = 10_000;
/** Most bytes of keys and values unless it is said; if there is little memory, half of it. */
const KV_BYTES = 2 ** 30;

function limits(options: ServeOptions, free: number | null): HandlerOptions {
  const { model, kvMemory } = options;
  return {
    // a path says where the file lies, which is nobody's business
    modelName: /^[\w.-]+$/.test(model) ? model : undefined,
    cors: options.cors,
    sparsity: options.sparsity,
    maxQueue: options.maxQueue,
    maxSequences: options.maxSequences,
    maxPromptTokens: options.maxPrompt,
    maxOutputTokens: options.maxOutput,
    maxBodyBytes: options.maxBody,
    kvBytes: kvMemory === undefined ? Math.floor(Math.min(KV_BYTES, (free ?? Infinity) / 2)) : kvMemory * 1e6,
  };
}

async function keysOf(path: string): Promise<string[]> {
  const { readKeys } = await import("../../server/auth.ts");
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (error) {
    throw new Error(`Cannot read ${path}: ${(error as Error).message}`, { cause: error });
  }
  try {
    return readKeys(text);
  } catch (error) {
    throw new UsageError(`Cannot use ${path}: ${(error as Error).message}`, { cause: error });
  }
}

/** SIGINT and SIGTERM: the first asks for the end, the second does not wait for it. */
class Stop {
  /** Resolved by the first. */
  readonly asked: Promise<void>;
  readonly #abort: AbortController = new AbortController();
  readonly #before: readonly NodeJS.SignalsListener[];
  readonly #onSignal: (signal: NodeJS.Signals) => void;

  constructor(context: CliContext) {
    let resolve = (): void => {};
    this.asked = new Promise((done) => resolve = done);
    this.#onSignal = (signal) => {
      if (this.#abort.signal.aborted) process.exit(signal === "SIGINT" ? EXIT.interrupted : 128 + 15);
      context.progress.end();
      this.#abort.abort();
      resolve();
    };
    // of a server, unlike of other commands, Ctrl-C is the usual end and not an interruption
    this.#before = process.listeners("SIGINT");
    process.removeAllListeners("SIGINT").on("SIGINT", this.#onSignal);
    process.on("SIGTERM", this.#onSignal);
  }

  /** Aborted by the first signal. */
  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  end(): void {
    process.off("SIGINT", this.#onSignal).off("SIGTERM", this.#onSignal);
    for (const listener of this.#before) process.on("SIGINT", listener);
  }
}
