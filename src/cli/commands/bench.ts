/** `rsparse bench WHAT`: speed of loading, prefill, decode and single kernels, dense and sparse, in one process. */
import process from "node:process";
import { Argument, type Command, InvalidArgumentError, Option } from "commander";
import type { EngineInfo, Model } from "../../runtime/model.ts";
import type { Row } from "../bench/rows.ts";
import type { ShapeName } from "../bench/shapes.ts";
import type { BenchHost, Variant } from "../bench/variants.ts";
import { dtypeOf } from "../dtype.ts";
import { UsageError } from "../errors.ts";
import { checkDial, describeRun, loadModel } from "../generation.ts";
import { addRunOptions, decimal, describe, integer, locate, type RunOptions } from "../model_option.ts";
import type { CliContext } from "../output.ts";

interface BenchOptions extends RunOptions {
  readonly shape?: ShapeName;
  readonly layers?: number;
  readonly vocab?: number;
  readonly sparsity?: readonly number[];
  readonly reps?: number;
  readonly tokens?: number;
}

const WHATS = ["decode", "prefill", "kernels", "load"] as const;
type What = (typeof WHATS)[number];

const DEFAULT_TOKENS = { decode: 64, prefill: 128, kernels: 128 } as const;
/** A whole token's sample takes a tenth of a second and more, a kernel's some milliseconds. */
const DEFAULT_REPS = { decode: 5, prefill: 5, load: 5, kernels: 21 } as const;

/** Adds the command. */
export function register(program: Command, context: CliContext): void {
  const command = program.command("bench")
    .description(
      "measure speed: medians of runs that take turns in one process, after one that does not count",
    )
    .addArgument(new Argument("<what>", "what to measure").choices(WHATS));
  addRunOptions(command)
    .addOption(
      new Option("--shape <name>", "random weights of this shape instead of a model")
        .choices(["smollm2-135m", "tinyllama-1.1b", "llama2-7b"]),
    )
    .option(
      "--layers <n>",
      "blocks of --shape to hold, time is scaled to all; without it as many as fit 1 GiB",
      integer(1),
    )
    .option(
      "--vocab <n>",
      "words of --shape to hold, for kernels alone: fewer load faster, and the head is so much smaller",
      integer(256),
    )
    .option(
      "--sparsity <list>",
      "such as 0,0.5: 0 is dense, others are calibrated for the run; with --recipe 0 or its own",
      sparsities,
    )
    .option("--reps <n>", "runs of each variant that count (5; kernels 21)", integer(1, 1000))
    .option("-n, --tokens <n>", "tokens to generate (64), or of the prompt (128)", integer(1))
    .action(async (what: What, options: BenchOptions) => {
      const modelGiven = command.getOptionValueSource("model") === "cli";
      await checkOptions(what, options, modelGiven);
      // how fast a thread is; `auto` would mix samples of one with samples of several while it finds out what is faster
      if (command.getOptionValueSource("threads") !== "cli") options = { ...options, threads: 1 };
      const { engine, rows } = what === "load"
        ? await benchLoad(context, options)
        : await benchVariants(context, what, options, modelGiven);
      if (context.options.json) await context.printJson({ engine, rows });
      else if (rows.length > 0) {
        const { rowTable } = await import("../bench/rows.ts");
        await context.print(rowTable(rows));
      }
    });
}

function sparsities(text: string): number[] {
  const read = decimal(0, 1, { below: true });
  const list = text.split(",").map((part) => read(part));
  if (new Set(list).size !== list.length) throw new InvalidArgumentError("different numbers wanted.");
  return list;
}

/** Refuses what makes no sense together, before anything is loaded. */
async function checkOptions(what: What, options: BenchOptions, modelGiven: boolean): Promise<void> {
  const { shape, recipe, layers, tokens, vocab } = options;
  const refuse = (why: string): never => {
    throw new UsageError(`Cannot bench ${what}: ${why}`);
  };
  if (shape !== undefined && modelGiven) refuse("both --shape and --model given: one of them wanted");
  if (shape !== undefined && recipe !== undefined) {
    refuse("--recipe belongs to a model and --shape has random weights: give --sparsity alone");
  }
  if (layers !== undefined && shape === undefined) refuse("--layers is of --shape: give it too");
  if (vocab !== undefined && (shape === undefined || what !== "kernels")) {
    refuse("--vocab is of kernels with --shape: leave it out");
  }
  if (what === "load") {
    if (shape !== undefined) refuse("--shape has no file to load: give --model");
    if (tokens !== undefined) refuse("loading has no tokens: leave out -n");
    if (options.sparsity?.some((sparsity) => sparsity !== 0)) {
      refuse("it takes no --sparsity: give --recipe FILE to load a recipe too");
    }
    return;
  }
  if (what === "kernels" && recipe !== undefined) {
    refuse("kernels are given thresholds for --sparsity: leave out --recipe");
  }
  if (what === "decode" && tokens === 1) {
    refuse("the first token comes with the prompt: -n of at least 2 wanted");
  }
  if (what === "kernels" && tokens !== undefined && tokens > 128) {
    refuse(`-n ${tokens}: a chunk of a prompt has at most 128 tokens`);
  }
  if (shape === undefined) return;
  const { SHAPES } = await import("../bench/shapes.ts");
  const { numHiddenLayers, maxPositionEmbeddings, vocabSize } = SHAPES[shape];
  if (vocab !== undefined && vocab > vocabSize) refuse(`--vocab ${vocab}: ${shape} has ${vocabSize}`);
  if (layers !== undefined && layers > numHiddenLayers) {
    refuse(`--layers ${layers}: ${shape} has ${numHiddenLayers}`);
  }
  const { DECODE_PROMPT } = await import("../bench/tokens.ts");
  const wanted = (tokens ?? 0) + (what === "decode" ? DECODE_PROMPT : 0);
  if (wanted > maxPositionEmbeddings) {
    refuse(
      `${wanted} tokens are more than the context of ${shape}, ${maxPositionEmbeddings}: give a smaller -n`,
    );
  }
}

interface Measured {
  readonly engine: EngineInfo | null;
  readonly rows: readonly Row[];
}

/** Rows of what was measured until Ctrl-C, if it came. */
async function benchVariants(
  context: CliContext,
  what: Exclude<What, "load">,
  options: BenchOptions,
  modelGiven: boolean,
): Promise<Measured> {
  const host = hostOf(context), tokens = options.tokens ?? DEFAULT_TOKENS[what];
  const reps = options.reps ?? DEFAULT_REPS[what];
  const shape = options.shape ?? (what === "kernels" && !modelGiven ? "smollm2-135m" : undefined);
  const { closeVariants } = await import("../bench/variants.ts");
  let variants: Variant[];
  try {
    variants = await openVariants(context, host, what, { ...options, shape });
  } catch (error) {
    if (context.signal.aborted) return { engine: null, rows: [] };
    throw error;
  }
  try {
    const { model } = variants[0]!, name = shape ?? model.description.name;
    const { SHAPES } = await import("../bench/shapes.ts");
    const layers = shape === undefined ? model.config.numHiddenLayers : SHAPES[shape].numHiddenLayers;
    const { measureTokens, DECODE_PROMPT } = await import("../bench/tokens.ts");
    if (what !== "kernels") {
      model.checkContext(what === "decode" ? DECODE_PROMPT : tokens, what === "decode" ? tokens : 0);
    }
    context.note(`${describeRun(model)}: ${what}, ${tokens} tokens, ${reps} runs each`);
    const rows = what === "kernels"
      ? await (await import("../bench/kernels.ts")).measureKernels(host, variants, {
        shape: name,
        reps,
        tokens,
        layers,
      })
      : await measureTokens(host, variants, { what, shape: name, tokens, reps, layers });
    return { engine: model.info, rows };
  } finally {
    await closeVariants(variants);
  }
}

function hostOf(context: CliContext): BenchHost {
  return {
    signal: context.signal,
    note: (line) => context.note(line),
    progress: context.progress,
    // Bun has the function and counts nothing: 0 each time
    interruptions: () => process.resourceUsage().involuntaryContextSwitches,
  };
}

async function openVariants(
  context: CliContext,
  host: BenchHost,
  what: Exclude<What, "load">,
  options: BenchOptions,
): Promise<Variant[]> {
  const { kernelRecipe, loadVariants, modelOfShape } = await import("../bench/variants.ts");
  const { shape, layers, vocab, threads, kernels, signal } = { ...options, signal: context.signal };
  const sparsities = options.sparsity ?? [0];
  if (shape === undefined && what !== "kernels") {
    const hasOwn = options.recipe === undefined && (await describe(context, options.model)).recipe;
    if (options.recipe !== undefined || hasOwn) return await openWithRecipe(context, options);
  }
  const { Model } = await import("../../runtime/model.ts");
  const dtype = options.dtype === "auto" ? "int4" : options.dtype;
  const files = shape === undefined
    ? (await locate(context, options.model)).files
    : modelOfShape(shape, dtype, layers, vocab).files;
  const recipes = await import("../bench/recipes.ts");
  return await loadVariants(
    host,
    sparsities,
    async (recipe) => {
      const model = await Model.load(files, {
        recipe: recipe ?? null,
        threads,
        kernels,
        dtype: options.dtype,
        signal,
        onProgress: ({ loaded, total }) => context.progress.update("loading", loaded, total),
      }).finally(() => context.progress.end());
      if (recipe === undefined) { for (const warning of model.warnings) context.note(`warning: ${warning}`); }
      return model;
    },
    async (dense, sparsity) => {
      if (what === "kernels") return await kernelRecipe(dense, sparsity);
      context.note(`calibrating for sparsity ${sparsity} …`);
      return shape === undefined
        ? await recipes.calibratedRecipe(dense, sparsity, signal)
        : await recipes.syntheticRecipe(dense, sparsity, signal);
    },
  );
}

/** With the recipe that was given, or a pack's own. Dense is a model of its own: one with a recipe may hold its weights in a layout that was picked for skipping. */
async function openWithRecipe(context: CliContext, options: BenchOptions): Promise<Variant[]> {
  const model = await loadModel(context, options, "own"), own = model.recipe!.recipe;
  const variants: Variant[] = [];
  try {
    for (const sparsity of options.sparsity ?? [0, own.sparsity]) {
      checkDial(options.recipe, sparsity, model);
      if (sparsity > 0) variants.push({ sparsity, name: own.method, model });
      else {variants.push({
          sparsity,
          name: "dense",
          model: await loadModel(context, { ...options, recipe: undefined }),
        });}
    }
  } catch (error) {
    const { closeVariants } = await import("../bench/variants.ts");
    await closeVariants([...variants, { model }]);
    throw error;
  }
  if (!variants.some((variant) => variant.model === model)) await model.close();
  return variants;
}

/** Reading and packing the weights of files that are there; the first time warms the system's file cache. */
async function benchLoad(context: CliContext, options: BenchOptions): Promise<Measured> {
  const times: number[] = [], reps = options.reps ?? DEFAULT_REPS.load;
  let first: { engine: EngineInfo; shape: string; dtype: string; sparsity: number; variant: string } | null =
    null;
  for (let rep = -1; rep < reps && !context.signal.aborted; rep++) {
    const began = performance.now();
    let model: Model;
    try {
      model = await loadModel(context, options);
    } catch (error) {
      if (context.signal.aborted && first !== null) break;
      throw error;
    }
    const ms = performance.now() - began, recipe = model.recipe?.recipe;
    first ??= {
      engine: model.info,
      shape: model.description.name,
      dtype: dtypeOf(model),
      sparsity: recipe?.sparsity ?? 0,
      variant: recipe?.method ?? "dense",
    };
    if (rep < 0) context.note(`${describeRun(model)}: load, ${reps} runs`);
    else times.push(ms);
    await model.close();
  }
  const { statOf } = await import("../bench/rows.ts");
  const { engine, ...rest } = first!;
  return { engine, rows: times.length === 0 ? [] : [{ name: "load", ...rest, ms: statOf(times) }] };
}
