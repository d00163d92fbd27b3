/** `rsparse pack`: a model, and its recipe, as one file that loads with hardly more than a copy. */
import type { Command } from "commander";
import type { LlamaDescription } from "../../model/llama.ts";
import type { Platform } from "../../platform/platform.ts";
import type { PackOptions } from "../../runtime/pack_model.ts";
import { addModelOption, describe, dtypeOption, type ModelOption, type RunOptions } from "../model_option.ts";
import { checkOutput, writeFile } from "../output_file.ts";
import { type CliContext, formatBytes } from "../output.ts";
import { formatTable } from "../table.ts";

interface PackCommandOptions extends ModelOption, Pick<RunOptions, "recipe" | "dtype"> {
  readonly output: string;
  readonly name?: string;
  readonly license?: string;
  readonly card?: string;
}

/** Adds the command. */
export function register(program: Command, context: CliContext): void {
  const command = program.command("pack").description(
    "put a model into one file: configuration, tokenizer, template, weights as they will be in memory, and a recipe",
  );
  addModelOption(command)
    .option("--recipe <file>", "a recipe for this model, to go with it")
    .addOption(dtypeOption())
    .requiredOption("-o, --output <file>", "the pack, such as model.rsparse")
    .option("--name <name>", "what the model is called; default: as its file says")
    .option("--license <id>", "its licence, an SPDX identifier; default: as its file says")
    .option("--card <file>", "a text about the model, Markdown, that `inspect` shows")
    .action(async (options: PackCommandOptions) => {
      const { platform, signal } = context;
      await checkOutput(platform, options.output, "the pack");
      const { packModel } = await import("../../runtime/pack_model.ts");
      const card = options.card === undefined
        ? undefined
        : await (await platform.openBlob(options.card)).text();
      const model = await describe(context, options.model);
      const modelHash = model.modelHash ?? await platform.sha256(model.checkpoint.blobs);
      const recipe = await readRecipe(platform, options.recipe, model, modelHash);
      const packed = await packModel(model, {
        dtype: options.dtype,
        modelHash,
        recipe,
        name: options.name,
        license: options.license,
        card,
        signal,
        onProgress: (loaded, total) => context.progress.update("packing", loaded, total),
      }).finally(() => context.progress.end());
      for (const warning of packed.warnings) context.note(`warning: ${warning}`);
      signal.throwIfAborted();
      await writeFile(platform, options.output, packed.chunks);
      const { bytes, sections } = packed, result = { path: options.output, bytes, sections };
      if (context.options.json) return await context.printJson(result);
      const rows = sections.map(({ name, bytes }) => [name, formatBytes(bytes)]);
      await context.print(formatTable([["section", "size"], ...rows, ["file", formatBytes(bytes)]]));
    });
}

/** The recipe that was named, or that the model's own pack has, checked against the model. */
async function readRecipe(
  platform: Platform,
  path: string | undefined,
  model: LlamaDescription,
  modelHash: string,
): Promise<PackOptions["recipe"]> {
  const blob = path === undefined ? model.recipe?.blob ?? null : await platform.openBlob(path);
  if (blob === null) return null;
  const { checkRecipe, parseRecipe } = await import("../../recipe/recipe.ts");
  const sha256 = await platform.sha256([blob]);
  const loaded = { ...await parseRecipe(blob, path ?? "the recipe in the pack"), sha256 };
  checkRecipe(loaded, model.config, modelHash);
  return { loaded, bytes: new Uint8Array(await blob.arrayBuffer()) };
}
