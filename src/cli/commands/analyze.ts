/** `rsparse analyze`: figures of a model's weights, activations and masks, with their numbers. */
import { type Command, InvalidArgumentError, Option } from "commander";
import type { Figure, Omitted, QualityRun } from "../../analyze/mod.ts";
import { type FigureName, FIGURES } from "../../analyze/names.ts";
import type { ProjectionName } from "../../model/config.ts";
import type { Platform } from "../../platform/platform.ts";
import type { Model } from "../../runtime/model.ts";
import { UsageError } from "../errors.ts";
import { describeRun, withModel } from "../generation.ts";
import { addEngineOptions, addModelOption, integer, type RunOptions } from "../model_option.ts";
import type { CliContext } from "../output.ts";
import { checkOutput, writeFile } from "../output_file.ts";
import { formatTable } from "../table.ts";
import { baseName, readText, readTextOrDocuments } from "../text_file.ts";

interface AnalyzeCommandOptions extends Omit<RunOptions, "seed"> {
  readonly out: string;
  readonly data?: string;
  readonly tokens?: number;
  readonly only?: readonly FigureName[];
  readonly layer?: number;
  readonly projection: ProjectionName;
  readonly results?: string;
}

/** The document of `analyze --json`. */
interface AnalyzeDocument {
  readonly figures: readonly {
    readonly name: string;
    readonly path: string;
    readonly csv: string;
    readonly title: string;
    readonly notes: readonly string[];
  }[];
  readonly omitted: readonly Omitted[];
}

/** As checkpoints spell them. */
const PROJECTIONS: { readonly [name: string]: ProjectionName } = {
  q_proj: "qProj",
  k_proj: "kProj",
  v_proj: "vProj",
  o_proj: "oProj",
  gate_proj: "gateProj",
  up_proj: "upProj",
  down_proj: "downProj",
};

/** Adds the command. */
export function register(program: Command, context: CliContext): void {
  const command = program.command("analyze")
    .description(
      "draw a model's spectra, activations and masks; with a recipe, as they are while it runs sparse",
    );
  addEngineOptions(addModelOption(command))
    .requiredOption("--out <folder>", "where each figure goes: NAME.svg, and its numbers, NAME.csv")
    .option("--recipe <file>", "run sparse as this recipe says, and show its thresholds and masks")
    .option(
      "--data <file>",
      "text to read, or documents: FILE.jsonl or FILE.jsonl.gz with {text} in each line; without it passages of novels that come with rsparse",
    )
    .option("--tokens <n>", "tokens to read of it (default: 1024)", integer(3))
    .option("--only <names>", `with commas, some of ${FIGURES.join(", ")}`, figureNames)
    .option("--layer <n>", "layer of the contribution figure (default: the middle one)", integer(0))
    .addOption(
      new Option("--projection <name>", "projection of the contribution figure")
        .choices(Object.keys(PROJECTIONS)).default("down_proj"),
    )
    .option("--results <folder>", "JSON of `rsparse eval`, for the figure of quality against sparsity")
    .action(async (options: AnalyzeCommandOptions & { readonly projection: string }) => {
      await run(context, { ...options, projection: PROJECTIONS[options.projection]! });
    });
}

function figureNames(list: string): FigureName[] {
  const names = list.split(",").map((name) => name.trim()).filter((name) => name !== "");
  const unknown = names.find((name) => !(FIGURES as readonly string[]).includes(name));
  if (unknown !== undefined || names.length === 0) {
    throw new InvalidArgumentError(`some of ${FIGURES.join(", ")} wanted.`);
  }
  return FIGURES.filter((name) => names.includes(name));
}

async function run(context: CliContext, options: AnalyzeCommandOptions): Promise<void> {
  const { platform } = context, out = options.out.replace(/(?<=.)[/\\]$/, "");
  if (out === "") throw new UsageError("Cannot write figures: --out is empty: give a folder's name");
  const { text, source } = options.data === undefined
    ? await (await import("../../calibrate/default_text.ts")).defaultCalibrationText()
    : { text: await readTextOrDocuments(platform, options.data), source: baseName(options.data) };
  const quality = options.results === undefined ? undefined : await readResults(platform, options.results);
  await prepareFolder(platform, out);
  // auto is baseline here: its activations have the same bits in every runtime
  const kernels = options.kernels === "auto" ? "baseline" : options.kernels;
  await withModel(context, { ...options, kernels }, async (model) => {
    const document = await draw(context, model, { ...options, out, text, source, quality });
    if (context.options.json) await context.printJson(document);
    else {await context.print(
        formatTable([["figure", "file"], ...document.figures.map(({ name, path }) => [name, path])]),
      );}
    context.note(describeRun(model));
  });
}

/** Makes the figures and writes each when it is done: after Ctrl-C those that are there are whole. */
async function draw(
  context: CliContext,
  model: Model,
  options: AnalyzeCommandOptions & {
    readonly text: string | readonly string[];
    readonly source: string;
    readonly quality: readonly QualityRun[] | undefined;
  },
): Promise<AnalyzeDocument> {
  const { analyzeModel } = await import("../../analyze/mod.ts");
  const { platform, progress, signal } = context, { out, text, source, quality } = options;
  const figures: AnalyzeDocument["figures"][number][] = [], omitted: Omitted[] = [];
  const { tokens, only, layer, projection } = options;
  try {
    for await (
      const made of analyzeModel(model, {
        text,
        source,
        tokens,
        only,
        layer,
        projection,
        quality,
        signal,
        onProgress: ({ phase, done, total }) =>
          progress.update(phase, done, total, phase === "reading" ? "tokens" : "projections"),
      })
    ) {
      if (isFigure(made)) figures.push(await write(platform, made, out));
      else omitted.push(made);
      context.note(isFigure(made) ? `${made.name}: ${made.title}` : `${made.name}: left out: ${made.reason}`);
    }
  } catch (error) {
    if (error instanceof RangeError && error.name === "RangeError") {
      throw new Error(`Cannot analyze: ${error.message}`, { cause: error });
    }
    if (!signal.aborted) throw error;
  } finally {
    progress.end();
  }
  return { figures, omitted };
}

function isFigure(made: Figure | Omitted): made is Figure {
  return "svg" in made;
}

async function write(
  platform: Platform,
  { name, title, notes, svg, csv }: Figure,
  out: string,
): Promise<AnalyzeDocument["figures"][number]> {
  const path = `${out}/${name}.svg`, numbers = `${out}/${name}.csv`, encoder = new TextEncoder();
  await writeFile(platform, numbers, [encoder.encode(csv)]);
  await writeFile(platform, path, [encoder.encode(svg)]);
  return { name, path, csv: numbers, title, notes };
}

/** Finds out before the work that figures can be written there. */
async function prepareFolder(platform: Platform, out: string): Promise<void> {
  const found = await platform.stat(out).catch(() => null);
  if (found?.kind === "file") {
    throw new Error(`Cannot write figures to ${out}: it is a file: give a folder's name`);
  }
  try {
    if (found === null) await platform.makeDir(out);
  } catch (error) {
    throw new Error(`Cannot make the folder ${out}: ${(error as Error).message}`, { cause: error });
  }
  await checkOutput(platform, `${out}/figure.svg`, "figures");
}

async function readResults(platform: Platform, folder: string): Promise<QualityRun[]> {
  const { mergeQuality, parseQuality } = await import("../../analyze/quality_results.ts");
  const found = await platform.stat(folder);
  if (found?.kind !== "folder") {
    throw new Error(
      `Cannot read ${folder}: ${found ? "it is a file" : "there is no such folder"}: check --results`,
    );
  }
  const names = (await platform.list(folder)).filter((name) => name.endsWith(".json"));
  const runs: QualityRun[] = [];
  for (const name of names) runs.push(parseQuality(await readText(platform, `${folder}/${name}`), name));
  return mergeQuality(runs);
}
