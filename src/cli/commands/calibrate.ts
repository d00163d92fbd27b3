/** `rsparse calibrate`: makes the recipe by which a model runs sparse. */
import { type Command, InvalidArgumentError, Option } from "commander";
import { CALIBRATION_METHODS, type CalibrationMethod } from "../../calibrate/methods.ts";
import type { Platform } from "../../platform/platform.ts";
import type { LoadedRecipe, ProjectionTensors } from "../../recipe/recipe.ts";
import type { Model } from "../../runtime/model.ts";
import { VERSION } from "../../version.ts";
import { UsageError } from "../errors.ts";
import type { CalibrateState } from "../calibrate_state.ts";
import { describeRun, modelDocument, withModel } from "../generation.ts";
import { addEngineOptions, addModelOption, decimal, integer, type RunOptions } from "../model_option.ts";
import { type CliContext, formatBytes } from "../output.ts";
import { checkOutput, writeFile } from "../output_file.ts";
import { formatTable } from "../table.ts";
import { baseName, readText, readTextOrDocuments } from "../text_file.ts";

interface CalibrateCommandOptions
  extends Pick<RunOptions, "model" | "threads" | "kernels" | "dtype" | "kv" | "seed"> {
  readonly data?: string;
  readonly tokens?: number;
  readonly sparsity?: number;
  readonly rho?: number | "search";
  readonly method?: CalibrationMethod;
  readonly stream?: "sparse" | "dense";
  readonly dialStreams?: readonly number[];
  readonly keepDense?: number;
  readonly compat: "corrected" | "official";
  readonly thresholds?: string;
  readonly output?: string;
}

/** By site SmolLM2 loses a tenth of its perplexity at 0.4 and a third at 0.5 (quality.md section 3). */
const DEFAULT_SPARSITY = 0.4;
/**
 * All of it for channels: SmolLM2 at sparsity 0.5 decoded at 231 tok/s with 1 and 203 with 0.95 (Deno, int4, one thread, factors in bf16;
 * dense 242), and its mean negative log-likelihood is 3.89 against 3.98 (dense 3.42).
 */
const DEFAULT_RHO = 1;

/** Adds the command. */
export function register(program: Command, context: CliContext): void {
  const command = program.command("calibrate")
    .description("watch a model read a text, and write the recipe by which it runs sparse");
  addEngineOptions(addModelOption(command))
    .option(
      "--data <file>",
      "text to read, UTF-8, or with a name in .jsonl documents, {text} in each line; without it passages of novels that come with rsparse",
    )
    .option("--tokens <n>", "tokens to read of it", integer(2))
    .option(
      "--sparsity <s>",
      "share of the multiply-adds to skip; 0.5 is faster and worse (default: 0.4)",
      decimal(0, 1, { below: true }),
    )
    .option(
      "--rho <r>",
      "of r-sparse: share of the kept compute for channels, the rest buys rank (default: 1); search: each projection's own, as `rsparse search --size small --workers THREADS` finds them",
      rho,
    )
    .addOption(
      new Option(
        "--method <m>",
        "how to choose what to skip: by-site and teal by |x|, by-site more of down and o; wina by |x| times the column's norm; r-sparse " +
          "with low-rank factors for the rest; cats, griffin and relufication neurons of the MLP (default: by-site; r-sparse with --rho, --thresholds or --compat official)",
      ).choices(CALIBRATION_METHODS),
    )
    .addOption(
      new Option(
        "--stream <how>",
        "how the model runs whose inputs set the thresholds (default: sparse; r-sparse: dense, as its paper)",
      ).choices(["sparse", "dense"]),
    )
    .option(
      "--dial-streams <list>",
      "sparsities at which the model runs besides, so that the dial is good there too; none: quickest (default: 0.25,0.5,0.7)",
      dialStreams,
    )
    .option(
      "--keep-dense <n>",
      "the first n positions always run dense (default: 0; with --stream dense 1)",
      integer(0),
    )
    .addOption(
      new Option(
        "--compat <arithmetic>",
        "official: one piece of 512 tokens, no position kept dense, as the paper's code; corrected: 8,192 tokens",
      )
        .choices(["corrected", "official"]).default("corrected"),
    )
    .option(
      "--thresholds <file>",
      "take them from this JSON: {sparsity, rho, modules: [[path, threshold, activeChannels, rank], …]}, or one by module (docs/formats.md)",
    )
    .option(
      "-o, --output <file>",
      "where to write the recipe; what is done is kept in FILE.state until then, so that a run that was cut short goes on " +
        "(--rho search: in FILE.search.jsonl, then FILE.path.jsonl, which stays)",
    )
    .option("--seed <n>", "recorded in the recipe; nothing here is random", integer(0, 0xffffffff))
    .action(async (options: CalibrateCommandOptions) => {
      const method = methodOf(options);
      if (method === "relufication" && options.sparsity !== undefined) {
        context.note(`--sparsity ${options.sparsity} has no say: relufication skips what ReLU leaves at 0`);
      }
      const { output } = options;
      if (output !== undefined) await checkOutput(context.platform, output, "the recipe");
      const began = performance.now();
      if (options.rho === "search") return await searchRho(context, options, began);
      await withModel(context, options, async (model) => {
        if (options.method === undefined && method !== "by-site") {
          context.note(`method ${method}, as the options want`);
        }
        context.note("calibrating: the model reads the text; this takes half a minute or more");
        const { loaded, state } = await calibrate(context, model, {
          ...options,
          rho: options.rho as number | undefined,
        }, method);
        let bytes = 0;
        try {
          if (output !== undefined) bytes = await writeRecipe(context.platform, loaded, output);
          await state?.remove();
        } finally {
          await state?.close();
        }
        await printRecipe(context, loaded, output ?? null, (performance.now() - began) / 1000);
        if (output !== undefined) {
          context.note(`${describeRun(model)}: wrote ${output}, ${formatBytes(bytes)}`);
        }
      });
    });
}

/** The method that the options mean. @throws {UsageError} If they don't go together. */
function methodOf(options: CalibrateCommandOptions): CalibrationMethod {
  const { thresholds, compat, stream } = options;
  const isOfficial = compat === "official";
  for (const other of ["data", "tokens", "sparsity", "rho", "stream", "dialStreams", "keepDense"] as const) {
    if (thresholds !== undefined && options[other] !== undefined) {
      throw new UsageError(
        `Cannot take both --thresholds and --${
          other.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)
        }: the file says it all`,
      );
    }
  }
  const own = thresholds !== undefined || options.rho !== undefined || isOfficial;
  const method = options.method ?? (own ? "r-sparse" : "by-site");
  if (method !== "r-sparse" && own) {
    const other = thresholds !== undefined ? "thresholds" : isOfficial ? "compat official" : "rho";
    throw new UsageError(`Cannot take --${other} with --method ${method}: r-sparse alone has it`);
  }
  if (isOfficial && (options.keepDense ?? 0) > 0) {
    throw new UsageError("Cannot take --keep-dense with --compat official: it keeps no position dense");
  }
  if (stream === "sparse" && isOfficial) {
    throw new UsageError(
      "Cannot take --stream sparse with --compat official: its thresholds are set on the dense model",
    );
  }
  if (method === "griffin") {
    for (const other of ["data", "tokens"] as const) {
      if (options[other] === undefined) continue;
      throw new UsageError(`Cannot take --${other} with --method griffin: it picks neurons by each prompt`);
    }
  }
  const hasNoStream: readonly CalibrationMethod[] = ["cats", "griffin", "relufication"];
  for (const [name, value] of [["stream", stream], ["dial-streams", options.dialStreams]] as const) {
    if (value === undefined || !hasNoStream.includes(method)) continue;
    throw new UsageError(`Cannot take --${name} with --method ${method}: it has no choice`);
  }
  if (stream !== undefined && (method === "low-rank" || options.rho === 0)) {
    throw new UsageError("Cannot take --stream where rank is all: there are no thresholds to set");
  }
  if (
    options.dialStreams !== undefined && options.rho !== "search" &&
    (isOfficial || options.rho === 0 || method === "low-rank" ||
      (stream ?? (method === "r-sparse" ? "dense" : "sparse")) === "dense")
  ) {
    throw new UsageError(
      "Cannot take --dial-streams where thresholds are set on the dense model: it is of --stream sparse",
    );
  }
  return method;
}

function dialStreams(text: string): number[] {
  const list = text === "none" ? [] : text.split(",").map((part) => decimal(0, 0.9)(part));
  if (list.some((at) => Math.round(100 * at) / 100 !== at)) {
    throw new InvalidArgumentError("hundredths from 0 to 0.9 with commas wanted, or none.");
  }
  return list;
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
  for (
    const [name, value] of Object.entries({ stream: options.stream, "dial-streams": options.dialStreams })
  ) {
    if (value !== undefined) {
      throw new UsageError(`Cannot take --${name} with --rho search: it looks at the dense model`);
    }
  }
  if (options.kv !== "f32") {
    throw new UsageError(`Cannot take --kv ${options.kv} with --rho search: it searches with f32`);
  }
  const { search } = await import("./search.ts"),
    { model, kernels, dtype, data, sparsity, seed, output, threads } = options;
  const { result } = await search(context, {
    model,
    kernels,
    dtype,
    data,
    sparsity: sparsity ?? DEFAULT_SPARSITY,
    seed,
    keepDense: options.keepDense,
    calibrationTokens: options.tokens,
    recipeOut: output,
    workers: threads === "auto" ? undefined : threads,
    algorithm: "evolutionary",
    size: "small",
  });
  await printRecipe(context, result.recipe, output ?? null, (performance.now() - began) / 1000);
}

async function calibrate(
  context: CliContext,
  model: Model,
  options: CalibrateCommandOptions & { readonly rho?: number },
  method: CalibrationMethod,
): Promise<{ loaded: LoadedRecipe; state: CalibrateState | null }> {
  const { calibrateModel, recipeFromThresholds } = await import("../../calibrate/calibrate.ts");
  const { compat, stream, dialStreams, keepDense, tokens, seed, output, sparsity = DEFAULT_SPARSITY } =
    options;
  const { signal, progress, platform } = context;
  const onProgress = (
    { phase, done, total }: { phase: "factors" | "thresholds"; done: number; total: number },
  ): void => progress.update(phase, done, total, phase === "factors" ? "projections" : "tokens");
  const open = async (inputs: Record<string, unknown>): Promise<CalibrateState | null> =>
    output === undefined
      ? null
      : await openState(context, model, `${output}.state`, options, { method, compat, ...inputs });
  let state: CalibrateState | null = null;
  try {
    if (options.thresholds !== undefined) {
      const text = await readText(platform, options.thresholds), json = parseJson(text, options.thresholds);
      state = await open({ thresholds: await platform.sha256([new Blob([text])]) });
      const loaded = await recipeFromThresholds(model, json, {
        source: baseName(options.thresholds),
        compat,
        seed,
        signal,
        onProgress,
        checkpoint: state ?? undefined,
      });
      return { loaded, state };
    }
    const { text, source } = options.data === undefined
      ? await (await import("../../calibrate/default_text.ts")).defaultCalibrationText()
      : { text: await readTextOrDocuments(platform, options.data), source: baseName(options.data) };
    const rho = options.rho ?? (method === "r-sparse" ? DEFAULT_RHO : undefined);
    const settings = { method, tokens, sparsity, rho, compat, stream, dialStreams, keepDense };
    state = await open({ ...settings, text: await platform.sha256([new Blob([JSON.stringify(text)])]) });
    const checkpoint = state ?? undefined;
    const loaded = await calibrateModel(model, {
      ...settings,
      text,
      source,
      seed,
      checkpoint,
      signal,
      onProgress,
    });
    return { loaded, state };
  } catch (error) {
    progress.end();
    if (signal.aborted && state !== null) {
      context.note(`what is done is kept in ${output}.state: the same command goes on from there`);
    }
    if (error instanceof RangeError && error.name === "RangeError") {
      await state?.remove();
      await state?.close();
      throw new Error(`Cannot calibrate: ${error.message}`, { cause: error });
    }
    await state?.close();
    throw error;
  } finally {
    progress.end();
  }
}

/** What an earlier run has done of this one, or nothing; a note says which. */
async function openState(
  context: CliContext,
  model: Model,
  path: string,
  options: Pick<CalibrateCommandOptions, "kv">,
  settings: Readonly<Record<string, unknown>>,
): Promise<CalibrateState> {
  const { CalibrateState } = await import("../calibrate_state.ts");
  const state = await CalibrateState.open(context.platform, path, {
    rsparse: VERSION,
    model: await model.hash(),
    kernels: model.info.kernels,
    dtype: modelDocument(model).dtype,
    kv: options.kv,
    ...settings,
  }, {
    signal: context.signal,
    onWait: () => context.note(`waiting: another process is at work on ${path}, or was until just now`),
  });
  if (state.isResumed) context.note(`going on with what an earlier run left in ${path}`);
  if (state.replaced !== null) {
    context.note(
      `${path} was of a run with another ${state.replaced}: it is gone, this one begins at the start`,
    );
  }
  return state;
}

function parseJson(text: string, path: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new Error(`Cannot read ${path}: ${(cause as Error).message}`, { cause });
  }
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
