/** What `generate`, `chat` and `demo` share: options, loading, streaming, the JSON document, the timing line. */
import { type Command, InvalidArgumentError, Option } from "commander";
import { dialRange } from "../recipe/dial.ts";
import type { LoadedRecipe } from "../recipe/recipe.ts";
import type { GenerateOptions, GenerateResult, Part } from "../runtime/generate.ts";
import type { EngineInfo, MemoryInfo, Model } from "../runtime/model.ts";
import type { Prefill } from "../runtime/session.ts";
import { nextTurn } from "../runtime/turn.ts";
import { dtypeOf } from "./dtype.ts";
import { UsageError } from "./errors.ts";
import { addRunOptions, decimal, integer, locate, type RunOptions } from "./model_option.ts";
import type { CliContext } from "./output.ts";

/** Options of a command that generates text. */
export interface GenerationOptions extends RunOptions {
  readonly prompt?: string;
  readonly maxTokens?: number;
  readonly temperature: number;
  readonly topK?: number;
  readonly topP?: number;
  readonly minP?: number;
  readonly repeatPenalty?: number;
  readonly stop?: readonly string[];
  readonly sparsity?: number;
  readonly prefill?: Prefill;
  readonly ignoreEos?: boolean;
}

/** `--prefill`, which `logits` has too. */
export function prefillOption(): Option {
  return new Option("--prefill <how>", "which prompt tokens run sparse: none, all, or the last tenth")
    .choices(["dense", "sparse", "official"]).default("dense");
}

/** `--sparsity`, which `logits` has too. */
export function sparsityOption(): Option {
  return new Option(
    "--sparsity <s>",
    "share of the multiply-adds to skip, 0 for none (default: the recipe's)",
  )
    .argParser(decimal(0, 1, { below: true }));
}

/** Adds the options of {@linkcode GenerationOptions}. */
export function addGenerationOptions(command: Command): Command {
  return addRunOptions(command)
    .option("-p, --prompt <text>", "the prompt; without it, stdin up to its last line break")
    .option("-n, --max-tokens <n>", "most new tokens", integer(0))
    .option("--temperature <t>", "0 takes the best token each time", number, 0)
    .option("--top-k <k>", "draws from the k best tokens", integer(0))
    .option("--top-p <p>", "draws from the fewest best tokens whose probabilities reach p", number)
    .option("--min-p <p>", "draws from tokens at least p times as probable as the best", number)
    .option("--repeat-penalty <x>", "above 1 makes recent tokens less likely", number)
    .option("--stop <text>", "ends before this text; may be given several times", collect)
    .addOption(sparsityOption())
    .addOption(prefillOption())
    .option("--ignore-eos", "go on past the model's end-of-text tokens");
}

function number(text: string): number {
  const value = Number(text);
  if (text.trim() === "" || !Number.isFinite(value)) throw new InvalidArgumentError("a number wanted.");
  return value;
}

function collect(text: string, before: readonly string[] = []): string[] {
  if (text === "") throw new InvalidArgumentError("at least one character wanted.");
  return [...before, text];
}

/**
 * The text of `-p`, or of stdin without the line break that `echo` and editors put at its end.
 *
 * @throws {UsageError} If there is neither.
 */
export async function readPrompt(context: CliContext, prompt: string | undefined): Promise<string> {
  if (prompt === undefined && context.stdinIsTerminal) {
    throw new UsageError("Cannot run without a prompt: give -p TEXT, or text on stdin");
  }
  return prompt ?? (await context.readStdin()).replace(/\r?\n$/, "");
}

/** The error for a prompt of no characters. */
export function emptyPrompt(prompt: string | undefined): UsageError {
  const where = prompt === undefined ? "on stdin" : "after -p";
  return new UsageError(`Cannot run an empty prompt: give at least one character ${where}`);
}

/**
 * The library's options for what was typed, but for signal and length. A seed is made up here where none was given, so
 * that it can be told.
 *
 * @throws {UsageError} If a value is out of its range.
 */
export async function generateOptions(
  options: GenerationOptions,
): Promise<GenerateOptions & { readonly seed: number }> {
  const { temperature, topK, topP, minP, repeatPenalty, stop, sparsity, prefill, ignoreEos } = options;
  const { validateSampling } = await import("../runtime/sampler.ts");
  const seed = options.seed ?? crypto.getRandomValues(new Uint32Array(1))[0]!;
  const sampling = { temperature, topK, topP, minP, repeatPenalty, seed };
  try {
    validateSampling(sampling);
  } catch (error) {
    throw new UsageError(`Cannot use ${(error as Error).message}`, { cause: error });
  }
  return { ...sampling, stop, sparsity, prefill, ignoreEos };
}

/**
 * Refuses a sparsity that the recipe can't do.
 *
 * @param recipe Its path; undefined: the pack's own, if it has one.
 */
export function checkDial(recipe: string | undefined, sparsity: number | undefined, model: Model): void {
  if (sparsity === undefined || sparsity === 0) return;
  if (model.recipe === null) {
    throw new UsageError(
      `Cannot run at sparsity ${sparsity} without a recipe: make one with ` +
        `\`rsparse calibrate --sparsity ${sparsity} -o FILE\` and give it with --recipe FILE`,
    );
  }
  const [least, most] = dialRange(model.recipe.recipe);
  if (sparsity >= least && sparsity <= most) return;
  const what = recipe ?? "the recipe in the pack";
  throw new UsageError(
    least === most
      ? `Cannot run at sparsity ${sparsity}: ${what} has thresholds for ${most} alone: give 0 or ${most}, or calibrate another`
      : `Cannot run at sparsity ${sparsity}: ${what} goes from ${least} to ${most}: give one of these, or 0`,
  );
}

/**
 * Loads what the options name, with progress and warnings on stderr.
 *
 * @param recipe where the options name none; `own`: the pack's, if it is one and has one
 */
export async function loadModel(
  context: CliContext,
  options: RunOptions,
  recipe: LoadedRecipe | "own" | null = null,
): Promise<Model> {
  const { Model } = await import("../runtime/model.ts");
  const located = await locate(context, options.model);
  const model = await Model.load(located.files, {
    recipe: options.recipe ?? (recipe === "own" ? undefined : recipe),
    threads: options.threads,
    kernels: options.kernels,
    dtype: options.dtype,
    kv: options.kv,
    tuning: options.tuning,
    onProgress: ({ loaded, total }) => context.progress.update("loading", loaded, total),
    signal: context.signal,
  }).finally(() => context.progress.end());
  for (const warning of model.warnings) context.note(`warning: ${warning}`);
  return model;
}

/** Loads what the options name, and closes it when `use` is through. */
export async function withModel<T>(
  context: CliContext,
  options: RunOptions,
  use: (model: Model) => Promise<T>,
  recipe: "own" | null = null,
): Promise<T> {
  const model = await loadModel(context, options, recipe);
  try {
    return await use(model);
  } finally {
    await model.close();
  }
}

/** The same for a run at `--sparsity`, which a pack's own recipe will do for. @throws {UsageError} If no recipe does. */
export async function withDial<T>(
  context: CliContext,
  options: RunOptions & { readonly sparsity?: number },
  use: (model: Model) => Promise<T>,
): Promise<T> {
  const { sparsity = 0, recipe } = options;
  return await withModel(context, options, async (model) => {
    checkDial(recipe, sparsity, model);
    return await use(model);
  }, sparsity === 0 ? null : "own");
}

/** A generation that ran to its end, or was cut short. */
export interface Run {
  readonly result: GenerateResult;
  /** Milliseconds from the start of the process to the first new token; null where none came. */
  readonly firstTokenMs: number | null;
}

/**
 * How often keys and signals get a turn; it takes a millisecond or two. With the library's own turns alone, a key that was
 * pressed came after 0.2 s at best in Deno 2.9, and in `chat` not before the end of the answer.
 */
const TURN_MS = 50;

/** Runs a generation; each piece of text is handed to `write` as it comes. */
export async function stream(
  context: CliContext,
  parts: AsyncIterable<Part>,
  write: (text: string) => Promise<void> | void,
): Promise<Run> {
  let firstTokenMs: number | null = null, result: GenerateResult | undefined, turn = performance.now();
  for await (const part of parts) {
    if (performance.now() - turn > TURN_MS) {
      await nextTurn();
      turn = performance.now();
    }
    if (part.token !== null) firstTokenMs ??= context.platform.uptimeMs();
    if (part.text !== "") await write(part.text);
    result = part.result;
  }
  return { result: result!, firstTokenMs };
}

/** Runs a generation as a command does: text to stdout as it comes, or one JSON document at the end, and a timing line. */
export async function printRun(
  context: CliContext,
  model: Model,
  parts: AsyncIterable<Part>,
  options: GenerateOptions,
): Promise<void> {
  if (context.options.json) {
    const run = await stream(context, parts, () => {});
    await context.printJson(runDocument(model, run, options));
    context.note(timingLine(model, run, options));
    return;
  }
  const run = await stream(context, parts, (text) => context.write(text));
  if (!run.result.text.endsWith("\n")) await context.write("\n");
  context.note(timingLine(model, run, options));
}

/** The document of `generate --json` and `chat --json`. */
export interface RunDocument {
  readonly model: {
    readonly name: string;
    readonly architecture: string;
    readonly parameters: number;
    readonly quantization: string;
    readonly dtype: string;
  };
  readonly engine: EngineInfo;
  /** `sparsity` is the one that ran: 0 where the recipe was turned off. */
  readonly recipe: null | {
    readonly method: string;
    readonly sparsity: number;
    readonly rho: number;
    readonly sha256: string | null;
  };
  readonly prompt: { readonly tokens: readonly number[]; readonly count: number };
  readonly output: {
    readonly text: string;
    readonly tokens: readonly number[];
    readonly count: number;
    readonly finishReason: string;
  };
  readonly timings: {
    readonly loadMs: number;
    readonly prefillMs: number;
    readonly prefillTokensPerSecond: number;
    readonly firstTokenMs: number | null;
    readonly decodeMs: number;
    readonly decodeTokensPerSecond: number | null;
  };
  readonly measuredSparsity: number | null;
  readonly memory: MemoryInfo;
  /** What the draws were seeded with, given or not. */
  readonly seed: number | null;
}

/** The document of a run. */
export function runDocument(
  model: Model,
  { result, firstTokenMs }: Run,
  options: GenerateOptions,
): RunDocument {
  const { info, memory, loadMs } = model;
  const { promptTokens, tokens, text, finishReason, measuredSparsity } = result;
  return {
    model: modelDocument(model),
    engine: info,
    recipe: recipeDocument(model, options),
    prompt: { tokens: promptTokens, count: promptTokens.length },
    output: { text, tokens, count: tokens.length, finishReason },
    timings: {
      loadMs,
      prefillMs: result.prefillMs,
      prefillTokensPerSecond: result.prefillTokensPerSecond,
      firstTokenMs,
      decodeMs: result.decodeMs,
      decodeTokensPerSecond: result.decodeTokensPerSecond,
    },
    measuredSparsity,
    memory,
    seed: options.seed ?? null,
  };
}

/** What a document says of a model. */
export function modelDocument(model: Model): RunDocument["model"] {
  const { description } = model;
  return {
    name: description.name,
    architecture: description.config.architecture,
    parameters: description.parameters,
    quantization: description.quantization,
    dtype: dtypeOf(model),
  };
}

/** What a document says of the recipe. */
export function recipeDocument(model: Model, options: GenerateOptions = {}): RunDocument["recipe"] {
  if (model.recipe === null) return null;
  const { recipe, sha256 } = model.recipe;
  return {
    method: recipe.method,
    sparsity: options.sparsity ?? recipe.sparsity,
    rho: recipe.rho,
    sha256: sha256 ?? null,
  };
}

/** What ran: model, weights, recipe, kernels, runtime, threads. */
export function describeRun(model: Model, sparsity?: number): string {
  const { kernels, runtime, threads } = model.info;
  const recipe = model.recipe?.recipe;
  const how = recipe === undefined || sparsity === 0
    ? "dense"
    : `${recipe.method} at sparsity ${sparsity ?? recipe.sparsity}, rho ${recipe.rho}`;
  return `${model.description.name} (${dtypeOf(model)}), ${how}, ` +
    `${kernels} kernels, ${runtime}, ${threads} thread${threads === 1 ? "" : "s"}`;
}

/** The line on stderr that says what ran and how fast. */
export function timingLine(model: Model, { result, firstTokenMs }: Run, options: GenerateOptions): string {
  const { promptTokens, tokens, measuredSparsity, prefillTokensPerSecond, decodeTokensPerSecond } = result;
  const facts = [describeRun(model, options.sparsity)];
  if (measuredSparsity !== null) facts.push(`measured sparsity ${measuredSparsity.toFixed(3)}`);
  if (options.temperature) facts.push(`seed ${options.seed}`);
  const decode = decodeTokensPerSecond === null ? "" : ` at ${decodeTokensPerSecond.toFixed(1)} tok/s`;
  return `${facts.join(", ")}: prompt ${promptTokens.length} tokens at ${
    prefillTokensPerSecond.toFixed(1)
  } tok/s, ` +
    `generated ${tokens.length}${decode}` +
    (firstTokenMs === null ? "" : `, first after ${(firstTokenMs / 1000).toFixed(2)} s`);
}
