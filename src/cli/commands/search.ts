/** `rsparse search`: finds a recipe by trying out many on a text. */
import { type Command, Option } from "commander";
import type {
  Algorithm,
  ExecutorFactory,
  Generation,
  Progress,
  SearchResult,
  SearchSettings,
  Shares,
} from "../../search/mod.ts";
import type { Model } from "../../runtime/model.ts";
import { VERSION } from "../../version.ts";
import { UsageError } from "../errors.ts";
import { loadModel, modelDocument, type RunDocument } from "../generation.ts";
import { Journal, waitNote } from "../journal.ts";
import {
  addModelOption,
  decimal,
  dtypeOption,
  integer,
  kernelsOption,
  type RunOptions,
} from "../model_option.ts";
import { type CliContext, formatBytes } from "../output.ts";
import { checkOutput } from "../output_file.ts";
import { baseName, readText, readTextOrDocuments } from "../text_file.ts";
import { writeRecipe } from "./calibrate.ts";

/** What was typed; settings that were not keep their defaults. */
export interface SearchCommandOptions
  extends Pick<RunOptions, "model" | "kernels" | "dtype">, Partial<Omit<SearchSettings, "algorithm">> {
  readonly algorithm: Algorithm;
  readonly size: "paper" | "small" | "local";
  readonly recipeOut?: string;
  readonly data?: string;
  readonly from?: string;
  readonly workers?: number;
  readonly threads?: number;
  readonly queue?: string;
}

/** A line of the state: a piece that is finished, and how long after the one before. */
interface Line {
  readonly key: string;
  readonly value: readonly number[];
  readonly ms: number;
}

/** Beside the model's memory and factors, what a worker takes: its runtime, streams of samples. */
const WORKER_BYTES = 250e6;
/** Of the memory that is free, workers may take so much. */
const MEMORY_SHARE = 0.8;
const DEFAULT_SPARSITY = 0.5;

/** Adds the command. */
export function register(program: Command, context: CliContext): void {
  const share = decimal(0, 1);
  const command = program.command("search")
    .description("try out many recipes on a text and write the best; a search that was cut short goes on");
  addModelOption(command)
    .option("--recipe-out <file>", "where to write the recipe; the state of the search is kept beside it")
    .addOption(
      new Option(
        "--algorithm <name>",
        "evolutionary: rho of each projection; joint: rho and sparsity at the same bytes; greedy: sparsity as TEAL allots it; " +
          "local: rho of each projection alone",
      ).choices(["evolutionary", "joint", "greedy", "local"]).default("evolutionary"),
    )
    .addOption(
      new Option(
        "--size <name>",
        "paper: population 32, 5 generations, 16 samples of 2,048 tokens; small: 8, 3, 4 of 512; local: as --algorithm local",
      )
        .choices(["paper", "small", "local"]).default("paper"),
    )
    .option(
      "--data <file>",
      "text, or documents: FILE.jsonl or FILE.jsonl.gz with {text} in each line; without it passages of novels that come with rsparse",
    )
    .option("--sparsity <s>", "share of the multiply-adds to skip (default: 0.5)", decimal(0, 0.9))
    .option(
      "--from <file>",
      "begin with rho and sparsity of each projection from the authors' released recipe",
    )
    .option("--population <n>", "members of a population", integer(1))
    .option(
      "--generations <n>",
      "times that it has children; 0: only what the search begins with is tried",
      integer(0),
    )
    .option(
      "--pm <x>",
      "mutation: weight of the difference of two members, or with --step genetic a chance (default: 0.5)",
      decimal(0, 2),
    )
    .option("--pc <x>", "crossover: chance that a variable is the mutant's (default: 0.5)", share)
    .addOption(
      new Option("--step <name>", "how children are made (default: differential)").choices([
        "differential",
        "genetic",
      ]),
    )
    .option("--group-layers <n>", "blocks that are varied together (default: 4)", integer(1))
    .addOption(
      new Option(
        "--variables <what>",
        "one for each projection of a group, or for each kind (default: projection)",
      )
        .choices(["projection", "kind"]),
    )
    .option("--rho-from <r>", "the least rho that a first population draws (default: 0)", share)
    .option(
      "--spread <x>",
      "joint: how far from its own a first population draws a sparsity (default: 0.2)",
      share,
    )
    .addOption(
      new Option("--accept <when>", "whether a group changes only for the better (default: better)")
        .choices(["better", "always"]),
    )
    .option("--samples <n>", "pieces of text that recipes are compared on", integer(1))
    .option("--sample-tokens <n>", "tokens of each, at most the model's context", integer(2))
    .option(
      "--calibration-tokens <n>",
      "tokens of them that thresholds are taken from (default: 8192)",
      integer(2),
    )
    .option("--keep-dense <n>", "the first so many positions are dense (default: 1)", integer(0))
    .option(
      "--greedy-step <x>",
      "sparsity that a step adds to a projection of hidden x hidden (default: 0.05)",
      decimal(0, 0.5),
    )
    .option("--greedy-target <s>", "sparsity of a block at which its path ends (default: 0.9)", share)
    .option("--seed <n>", "seed of every draw (default: 0)", integer(0, 0xffffffff))
    .option(
      "--workers <n>",
      "threads, each with a model of its own (default: one a processor, as far as memory suffices)",
      integer(1, 1024),
    )
    .option("--threads <n>", "another name of --workers", integer(1, 1024))
    .option(
      "--queue <url>",
      "instead of threads here, workers anywhere: those that run `rsparse worker --queue` with the same redis://host:port",
    )
    .addOption(kernelsOption())
    .addOption(dtypeOption())
    .action((options: SearchCommandOptions) => {
      const isTyped = command.getOptionValueSource("algorithm") === "cli";
      if (options.size === "local" && options.algorithm !== "local" && isTyped) {
        throw new UsageError(
          `Cannot take both --size local and --algorithm ${options.algorithm}: --size local is --algorithm local`,
        );
      }
      return run(context, options);
    });
}

async function run(context: CliContext, options: SearchCommandOptions): Promise<void> {
  const { recipeOut } = options;
  checkUsage(options);
  if (recipeOut !== undefined) await checkOutput(context.platform, recipeOut, "the recipe");
  const { result, settings, model, seconds } = await search(context, options);
  const { best, start, history, evaluations } = result;
  if (context.options.json) {
    const { source, tokens, sha256 } = result.recipe.recipe.calibration;
    return await context.printJson({
      best,
      history,
      evaluations,
      seconds,
      start,
      recipe: recipeOut ?? null,
      model,
      data: { source, sha256, calibrationTokens: tokens },
      settings,
    });
  }
  await context.print(
    `perplexity of the samples ${best.toFixed(3)}, ${
      start.toFixed(3)
    } at the start, ${evaluations} evaluations, ${seconds.toFixed(0)} s`,
  );
}

/** @throws {UsageError} If options don't go together. */
function checkUsage(
  { workers, threads, queue, from, sparsity, algorithm, size }: SearchCommandOptions,
): void {
  if (workers !== undefined && threads !== undefined) {
    throw new UsageError("Cannot take both --workers and --threads: they are one option");
  }
  if ((workers ?? threads) !== undefined && queue !== undefined) {
    throw new UsageError(
      `Cannot take both --${workers === undefined ? "threads" : "workers"} and --queue: ` +
        "`rsparse worker` starts workers of a queue",
    );
  }
  if (from === undefined) return;
  if (sparsity !== undefined) {
    throw new UsageError(
      "Cannot take both --from and --sparsity: the file has the sparsity of each projection",
    );
  }
  const alone = size === "local" ? "local" : algorithm;
  if (alone === "greedy" || alone === "local") {
    throw new UsageError(
      `Cannot take --from with --algorithm ${alone}: what it finds does not depend on where it begins`,
    );
  }
}

/** What a search came to. */
export interface Searched {
  readonly result: SearchResult;
  readonly settings: SearchSettings;
  readonly model: RunDocument["model"];
  /** Over all runs of it. */
  readonly seconds: number;
}

/** Searches as the options say, with state, progress and workers, and writes the recipe. */
export async function search(context: CliContext, options: SearchCommandOptions): Promise<Searched> {
  const { DEFAULTS, SIZES, searchRecipe } = await import("../../search/mod.ts"),
    { signal, platform } = context;
  const text = await readDocuments(context, options.data);
  const algorithm = options.size === "local" ? "local" : options.algorithm;
  const isPassing = algorithm === "evolutionary" || algorithm === "joint";
  const size = SIZES[isPassing && options.size !== "local" ? options.size : "small"];
  const settings = {
    ...DEFAULTS,
    ...size,
    sparsity: DEFAULT_SPARSITY,
    ...picked(options, DEFAULTS, size),
    algorithm,
  };
  const queued = options.queue === undefined ? null : await openQueue(options.queue);
  const model = await loadModel(context, { ...options, threads: "auto", kv: "f32" });
  const document = modelDocument(model);
  let journal: Journal<Line> | null = null;
  try {
    const start = options.from === undefined ? undefined : await readStart(context, options.from, model);
    if (options.recipeOut !== undefined) {
      journal = await Journal.open(
        platform,
        `${options.recipeOut}.search.jsonl`,
        {
          rsparse: VERSION,
          model: await model.hash(),
          dtype: document.dtype,
          kernels: model.info.kernels,
          data: text.sha256,
          from: start ?? null,
          ...settings,
        },
        isLine,
        "--recipe-out",
        { signal, onWait: (path) => context.note(waitNote(path)) },
      );
    }
    const watch = new Watch(context, journal);
    const result = await searchRecipe(model, {
      settings,
      documents: text.documents,
      source: text.source,
      sourceHash: text.sha256,
      modelSource: options.model,
      dtype: options.dtype,
      start,
      executor: queued ?? await workers(context, options, settings, model),
      finished: watch.finished,
      onFinished: ({ key, value }, progress) => watch.add(key, value, progress),
      onGeneration: (generation, progress) => watch.generation(generation, progress),
      onPhase: (phase, done, total) =>
        context.progress.update(phase, done, total, phase === "calibrating" ? "tokens" : "projections"),
      signal,
    });
    if (options.recipeOut !== undefined) {
      const bytes = await writeRecipe(platform, result.recipe, options.recipeOut);
      context.note(`wrote ${options.recipeOut}, ${formatBytes(bytes)}`);
      await journal!.rename(`${options.recipeOut}.path.jsonl`);
    }
    return { result, settings, model: document, seconds: watch.seconds };
  } catch (error) {
    if (signal.aborted && journal !== null) {
      context.note(
        `what is done is kept in ${options.recipeOut}.search.jsonl: the same command goes on from there`,
      );
    }
    if (error instanceof RangeError && error.name === "RangeError" && !error.message.startsWith("Cannot ")) {
      throw new Error(`Cannot search: ${error.message}`, { cause: error });
    }
    throw error;
  } finally {
    context.progress.end();
    await journal?.close();
    await model.close();
  }
}

/** Those of the options that are settings and were typed. */
function picked(
  options: SearchCommandOptions,
  ...defaults: readonly object[]
): Partial<SearchSettings> {
  const names = new Set([...defaults.flatMap((one) => Object.keys(one)), "sparsity"]);
  return Object.fromEntries(
    Object.entries(options).filter(([name, value]) => names.has(name) && value !== undefined),
  );
}

async function readDocuments(
  { platform }: CliContext,
  path: string | undefined,
): Promise<{ documents: readonly string[]; source: string; sha256: string }> {
  if (path === undefined) {
    const { defaultCalibrationText } = await import("../../calibrate/default_text.ts");
    const { text, source } = await defaultCalibrationText();
    return { documents: [text], source, sha256: await platform.sha256([new Blob([text])]) };
  }
  const text = await readTextOrDocuments(platform, path);
  return {
    documents: typeof text === "string" ? [text] : text,
    source: baseName(path),
    sha256: await platform.sha256([await platform.openBlob(path)]),
  };
}

async function readStart({ platform }: CliContext, path: string, model: Model): Promise<Shares> {
  const { sharesFromOfficial } = await import("../../search/mod.ts");
  return sharesFromOfficial(await readText(platform, path), model);
}

/** Told before the work where there is no queue. */
async function openQueue(url: string): Promise<ExecutorFactory> {
  const { checkQueue, inQueue } = await import("../../search/queue.ts");
  await checkQueue(url);
  return inQueue(url);
}

/** What low-rank parts take where rho is 0: those of two groups as floats, all of them packed, as bytes mostly. */
function factorBytes({ config }: Model, { sparsity, groupLayers }: SearchSettings): number {
  const { hiddenSize, intermediateSize, numHiddenLayers, numAttentionHeads, numKeyValueHeads, headDim } =
    config;
  const block = hiddenSize * (3 * intermediateSize + 2 * headDim * (numAttentionHeads + numKeyValueHeads));
  return (1 - sparsity) * block * (4 * Math.min(2 * groupLayers, numHiddenLayers) + numHiddenLayers);
}

async function workers(
  context: CliContext,
  options: SearchCommandOptions,
  settings: SearchSettings,
  model: Model,
): Promise<ExecutorFactory> {
  const { inThreads } = await import("../../search/mod.ts"), { platform } = context;
  const cores = platform.processors(),
    each = model.memory.wasmBytes + WORKER_BYTES + factorBytes(model, settings);
  const free = platform.freeBytes() ?? Infinity, fit = Math.max(1, Math.floor(MEMORY_SHARE * free / each));
  const typed = options.workers ?? options.threads, count = typed ?? Math.min(cores, fit);
  if (typed === undefined && fit < cores) {
    context.note(`${count} workers: ${formatBytes(free)} are free, each takes about ${formatBytes(each)}`);
  }
  return inThreads(count);
}

function isLine(value: unknown): value is Line {
  const line = value as Partial<Line> | null;
  return typeof line?.key === "string" && typeof line.ms === "number" && Array.isArray(line.value) &&
    line.value.every((one) => typeof one === "number");
}

/** Writes the state and says how far the search is. */
class Watch {
  readonly finished: ReadonlyMap<string, readonly number[]>;
  readonly #context: CliContext;
  readonly #journal: Journal<Line> | null;
  #ms: number;
  #last: number = performance.now();
  /** When the first new piece was begun, and how many have come since. */
  readonly #began: number = performance.now();
  #added = 0;
  #generation = "";

  constructor(context: CliContext, journal: Journal<Line> | null) {
    this.#context = context;
    this.#journal = journal;
    const lines = journal?.lines ?? [];
    this.finished = new Map(lines.map(({ key, value }) => [key, value]));
    this.#ms = lines.reduce((sum, { ms }) => sum + ms, 0);
    if (lines.length > 0) context.note(`${lines.length} evaluations are done already`);
  }

  /** Of all runs. */
  get seconds(): number {
    return (this.#ms + performance.now() - this.#last) / 1000;
  }

  async add(key: string, value: readonly number[], progress: Progress): Promise<void> {
    const now = performance.now(), ms = now - this.#last;
    this.#last = now;
    this.#ms += ms;
    this.#added++;
    this.#context.progress.update(
      `${this.#generation}${this.#left(progress)}`,
      progress.done,
      progress.total,
      "evaluations",
    );
    await this.#journal?.add({ key, value, ms });
  }

  generation({ generation, layers: [from, to], best, mean }: Generation, progress: Progress): void {
    this.#generation = `generation ${generation}, best ${best.toFixed(2)}, `;
    const left = progress.done < progress.total ? `, ${this.#left(progress)}` : "";
    this.#context.note(
      `generation ${generation}, blocks ${from} to ${to - 1}: best ${best.toFixed(3)}, mean ${
        mean.toPrecision(5)
      }, ` +
        `${progress.done} of at most ${progress.total} evaluations${left}`,
    );
  }

  #left({ done, total }: Progress): string {
    if (this.#added === 0) return "time left not known yet";
    const seconds = (performance.now() - this.#began) / 1000 / this.#added * (total - done);
    return seconds < 90 ? `${seconds.toFixed(0)} s left` : `${(seconds / 60).toFixed(0)} min left`;
  }
}
