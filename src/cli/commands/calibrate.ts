/** `rsparse calibrate`: makes the recipe by which a model runs sparse. */
import { type Command, Option } from "commander";
import type { CalibrationMethod } from "../../calibrate/calibrate.ts";
import type { Platform } from "../../platform/platform.ts";
import type { LoadedRecipe, ProjectionTensors } from "../../recipe/recipe.ts";
import type { Model } from "../../runtime/model.ts";
import { UsageError } from "../errors.ts";
import { describeRun, withModel } from "../generation.ts";
import { addEngineOptions, addModelOption, decimal, integer, type RunOptions } from "../model_option.ts";
import { type CliContext, formatBytes } from "../output.ts";
import { checkOutput, writeFile } from "../output_file.ts";
import { formatTable } from "../table.ts";

interface CalibrateCommandOptions
  extends Pick<RunOptions, "model" | "threads" | "kernels" | "dtype" | "kv" | "seed"> {
  readonly data?: string;
  readonly tokens?: number;
  readonly sparsity?: number;
  readonly rho?: number | "search";
  readonly method: CalibrationMethod;
  readonly compat: "corrected" | "official";
  readonly thresholds?: string;
  readonly output?: string;
}

const DEFAULT_SPARSITY = 0.5;
/**
 * All of it for channels: SmolLM2 at sparsity 0.5 decoded at 231 tok/s with 1 and 203 with 0.95 (Deno, int4, one thread, factors in bf16;
 * dense 242), and its mean negative log-likelihood is 3.89 against 3.98 (dense 3.42).
 */
const DEFAULT_RHO = 1;
/** Apart from the module with that list, which is only loaded when it is needed. */
const METHODS: readonly CalibrationMethod[] = [
  "r-sparse",
  "teal",
  "by-site",
  "wina",
  "low-rank",
  "cats",
  "griffin",
  "relufication",
];
/** A text is read whole; 8,192 tokens are about 40 kB. */
const MAX_TEXT_BYTES = 64 << 20;

/** Adds the command. */
export function register(program: Command, context: CliContext): void {
  const command = program.command("calibrate")
    .description("watch a model read a text, and write the recipe by which it runs sparse");
  addEngineOptions(addModelOption(command))
    .option("--data <file>", "text to read, UTF-8; without it passages of novels that come with rsparse")
    .option("--tokens <n>", "tokens to read of it", integer(2))
    .option(
      "--sparsity <s>",
      "share of the multiply-adds to skip (default: 0.5)",
      decimal(0, 1, { below: true }),
    )
    .option(
      "--rho <r>",
      "share of the kept compute for channels, the rest buys rank (default: 1); search: each projection's own, as `rsparse search --size small` finds them",
      rho,
    )
    .addOption(
      new Option(
        "--method <m>",
        "how to choose what to skip: teal and by-site by |x|, by-site more of down and o; wina by |x| times the column's norm; cats, griffin and relufication neurons of the MLP",
      ).choices(METHODS).default("r-sparse"),
    )
    .addOption(
      new Option(
        "--compat <arithmetic>",
        "official: one piece of 512 tokens, no position kept dense, as the paper's code; corrected: 8,192 tokens, the first position dense",
      )
        .choices(["corrected", "official"]).default("corrected"),
    )
    .option(
      "--thresholds <file>",
      "take them from this JSON: {sparsity, rho, modules: [[path, threshold, activeChannels, rank], …]}, or one by module (docs/formats.md)",
    )
    .option("-o, --output <file>", "where to write the recipe; without it only its numbers are printed")
    .option("--seed <n>", "recorded in the recipe; nothing here is random", integer(0, 0xffffffff))
    .action(async (options: CalibrateCommandOptions) => {
      for (const other of ["data", "tokens", "sparsity", "rho"] as const) {
        if (options.thresholds !== undefined && options[other] !== undefined) {
          throw new UsageError(`Cannot take both --thresholds and --${other}: the file says it all`);
        }
      }
      if (options.method === "griffin") {
        for (const other of ["data", "tokens"] as const) {
          if (options[other] === undefined) continue;
          throw new UsageError(
            `Cannot take --${other} with --method griffin: it picks neurons by each prompt`,
          );
        }
      }
      if (options.method === "relufication" && options.sparsity !== undefined) {
        context.note(`--sparsity ${options.sparsity} has no say: relufication skips what ReLU leaves at 0`);
      }
      if (options.method !== "r-sparse") {
        for (const other of ["rho", "thresholds"] as const) {
          if (options[other] === undefined) continue;
          throw new UsageError(
            `Cannot take --${other} with --method ${options.method}: r-sparse alone has it`,
          );
        }
      }
      const { output } = options;
      if (output !== undefined) await checkOutput(context.platform, output, "the recipe");
      const began = performance.now();
      if (options.rho === "search") return await searchRho(context, options, began);
      await withModel(context, options, async (model) => {
        context.note("calibrating: the model reads the text; this takes half a minute or more");
        const loaded = await calibrate(context, model, {
          ...options,
          rho: options.rho as number | undefined,
        });
        const bytes = output === undefined ? 0 : await writeRecipe(context.platform, loaded, output);
        await printRecipe(context, loaded, output ?? null, (performance.now() - began) / 1000);
        if (output !== undefined) {
          context.note(`${describeRun(model)}: wrote ${output}, ${formatBytes(bytes)}`);
        }
      });
    });
}

function rho(text: string): number | "search" {
  return text === "search" ? text : decimal(0, 1)(text);
}

/** `--rho search`: as `rsparse search` does it, with its `--size small`: minutes where the paper's takes hours. */
async function searchRho(
  context: CliContext,
  options: CalibrateCommandOptions,
  began: number,
): Promise<void> {
  if (options.compat === "official") {
    throw new UsageError("Cannot take --compat official with --rho search: it has no search");
  }
  const { search } = await import("./search.ts"),
    { model, kernels, dtype, data, sparsity, seed, output } = options;
  const { result } = await search(context, {
    model,
    kernels,
    dtype,
    data,
    sparsity,
    seed,
    calibrationTokens: options.tokens,
    recipeOut: output,
    algorithm: "evolutionary",
    size: "small",
  });
  await printRecipe(context, result.recipe, output ?? null, (performance.now() - began) / 1000);
}

async function calibrate(
  context: CliContext,
  model: Model,
  options: CalibrateCommandOptions & { readonly rho?: number },
): Promise<LoadedRecipe> {
  const { calibrateModel, recipeFromThresholds } = await import("../../calibrate/calibrate.ts");
  const { compat, seed } = options, { signal, progress, platform } = context;
  const onProgress = (
    { phase, done, total }: { phase: "factors" | "thresholds"; done: number; total: number },
  ): void => progress.update(phase, done, total, phase === "factors" ? "projections" : "tokens");
  try {
    if (options.thresholds !== undefined) {
      const json = parseJson(await readText(platform, options.thresholds), options.thresholds);
      return await recipeFromThresholds(model, json, {
        source: baseName(options.thresholds),
        compat,
        seed,
        signal,
        onProgress,
      });
    }
    const { text, source } = options.data === undefined
      ? await (await import("../../calibrate/default_text.ts")).defaultCalibrationText()
      : { text: await readText(platform, options.data), source: baseName(options.data) };
    const { tokens, method, sparsity = DEFAULT_SPARSITY } = options;
    const rho = options.rho ?? (method === "r-sparse" ? DEFAULT_RHO : undefined);
    return await calibrateModel(model, {
      text,
      source,
      method,
      tokens,
      sparsity,
      rho,
      compat,
      seed,
      signal,
      onProgress,
    });
  } catch (error) {
    if (error instanceof RangeError && error.name === "RangeError") {
      throw new Error(`Cannot calibrate: ${error.message}`, { cause: error });
    }
    throw error;
  } finally {
    progress.end();
  }
}

/** A text file, whole. */
export async function readText(platform: Platform, path: string): Promise<string> {
  const found = await platform.stat(path);
  if (found?.kind !== "file") {
    throw new Error(
      `Cannot read ${path}: ${found ? "it is a folder" : "there is no such file"}: check the path`,
    );
  }
  if (found.size > MAX_TEXT_BYTES) {
    throw new Error(
      `Cannot read ${path}: ${formatBytes(found.size)} found, at most ${
        formatBytes(MAX_TEXT_BYTES)
      } wanted: give a part of it`,
    );
  }
  const bytes = await (await platform.openBlob(path)).arrayBuffer();
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new Error(`Cannot read ${path}: it is not UTF-8 text`, { cause });
  }
}

function parseJson(text: string, path: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new Error(`Cannot read ${path}: ${(cause as Error).message}`, { cause });
  }
}

/** The last part of a path. */
export function baseName(path: string): string {
  return path.replace(/^.*[/\\]/, "");
}

/** Returns the bytes written. */
export async function writeRecipe(platform: Platform, loaded: LoadedRecipe, path: string): Promise<number> {
  const { serialiseRecipe, tableOf } = await import("../../recipe/recipe.ts");
  const tensors = new Map<string, ProjectionTensors>();
  for (const { path } of loaded.recipe.projections) {
    const factors = loaded.factors(path), scale = loaded.scale(path);
    if (factors !== null || scale !== null) tensors.set(path, { factors, scale });
  }
  const chunks = serialiseRecipe(loaded.recipe, tensors, tableOf(loaded), loaded);
  await writeFile(platform, path, chunks);
  return chunks.reduce((sum, chunk) => sum + chunk.length, 0);
}

async function printRecipe(
  context: CliContext,
  loaded: LoadedRecipe,
  path: string | null,
  seconds: number,
): Promise<void> {
  const { method, sparsity, projections, mlp, points } = loaded.recipe, own = points.indexOf(sparsity);
  const neurons = mlp && {
    kind: mlp.kind,
    // of each layer, at the recipe's own sparsity
    thresholds: Array.from(loaded.mlpThresholds ?? []).filter((_, i) => i % points.length === own),
  };
  if (context.options.json) {
    return await context.printJson({
      recipe: path,
      method,
      sparsity,
      seconds,
      projections: projections.map(({ path, score, threshold, rho, rank, channels, sparsity }) => ({
        path,
        score,
        threshold,
        rho,
        rank,
        channels,
        sparsity,
      })),
      ...(neurons && { mlp: neurons }),
    });
  }
  if (neurons !== undefined) return await context.print(describeNeurons(neurons, sparsity));
  const rows = projections.map((
    { path, threshold, channels, rank },
  ) => [path, threshold.toPrecision(6), String(channels), String(rank)]);
  await context.print(formatTable([["projection", "threshold", "channels", "rank"], ...rows]));
}

function describeNeurons(
  { kind, thresholds }: { readonly kind: string; readonly thresholds: readonly number[] },
  sparsity: number,
): string {
  const whole = `${kind} skips ${(100 * sparsity).toFixed(1)} % of the blocks' weights`;
  if (kind !== "cats") return whole;
  const rows = thresholds.map((threshold, l) => [`model.layers.${l}.mlp`, threshold.toPrecision(6)]);
  return `${whole}\n${formatTable([["layer", "|silu(gate)| above"], ...rows])}`;
}
