/** `rsparse inspect FILE`: what a model file or a recipe holds; no weight is read. */
import type { Command } from "commander";
import type { SafetensorsCheckpoint } from "../../format/safetensors.ts";
import type { LlamaDescription } from "../../model/llama.ts";
import { locate } from "../model_option.ts";
import { type CliContext, formatBytes } from "../output.ts";
import { formatTable } from "../table.ts";

interface TensorRow {
  readonly name: string;
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly bytes: number;
}

/** Adds the command. */
export function register(program: Command, context: CliContext): void {
  program.command("inspect")
    .description("show what a model file, a folder or a recipe holds")
    .argument("<file>", "a model as for -m, or a recipe")
    .action(async (source: string) => {
      const located = await locate(context, source);
      const tables = await openTables(located.files);
      const { RECIPE_KEY } = await import("../../recipe/recipe.ts");
      const result = tables?.metadata.has(RECIPE_KEY)
        ? await recipeResult(located.files[0]!, tables)
        : tables && !located.files.some((file) => /(^|[/\\])config\.json$/.test(file.name))
        ? containerResult(tables)
        : await modelResult(await (await import("../../model/open.ts")).openModel(located.files));
      if (context.options.json) return await context.printJson(result);
      const { tensors, ...rest } = result;
      for (const [key, value] of Object.entries(rest)) {
        await context.print(`${key}: ${typeof value === "string" ? value : JSON.stringify(value, null, 2)}`);
      }
      const rows = tensors.map((
        { name, dtype, shape, bytes },
      ) => [name, dtype, shape.join(" x "), formatBytes(bytes)]);
      await context.print(formatTable([["tensor", "dtype", "shape", "size"], ...rows]));
    });
}

/** The tables of safetensors files, which may be a recipe or lack their configuration; null for other files. */
async function openTables(
  files: readonly { readonly name: string; readonly blob: Blob }[],
): Promise<SafetensorsCheckpoint | null> {
  const parts = files.filter((file) => file.name.endsWith(".safetensors"));
  if (parts.length === 0) return null;
  const { openSafetensors } = await import("../../format/safetensors.ts");
  return await openSafetensors(parts);
}

async function modelResult(model: LlamaDescription) {
  const { tokenizer, config } = model;
  return {
    name: model.name,
    format: model.checkpoint.format,
    architecture: config.architecture,
    config,
    parameters: model.parameters,
    quantization: model.quantization,
    tokenizer: {
      vocabSize: tokenizer.vocabSize,
      bosId: tokenizer.bosId,
      addBos: tokenizer.addBos,
      stopIds: tokenizer.stopIds,
    },
    chatTemplate: model.chatTemplate !== null,
    license: model.license,
    ...(model.checkpoint.format === "pack" && await packFields(model)),
    tensors: [...model.checkpoint.tensors.values()].map(({ name, type, shape, byteLength }): TensorRow => ({
      name,
      dtype: type,
      shape,
      bytes: byteLength,
    })),
  };
}

/** What only a pack says. */
async function packFields({ modelHash, card, recipe }: LlamaDescription) {
  if (!recipe) return { modelHash, card, recipe: null };
  const { parseRecipe } = await import("../../recipe/recipe.ts");
  const { recipe: { method, sparsity, rho, points } } = await parseRecipe(
    recipe.blob,
    "the recipe in the pack",
  );
  return {
    modelHash,
    card,
    recipe: { method, sparsity, rho, from: points[0] ?? sparsity, to: points.at(-1) ?? sparsity },
  };
}

/** A safetensors file with nothing beside it: its tensors are all there is to know. */
function containerResult(tables: SafetensorsCheckpoint) {
  return {
    format: tables.format,
    architecture: null,
    config: null,
    quantization: null,
    tokenizer: null,
    license: null,
    tensors: tensorRows(tables),
  };
}

async function recipeResult(
  file: { readonly name: string; readonly blob: Blob },
  tables: SafetensorsCheckpoint,
) {
  const { parseRecipe } = await import("../../recipe/recipe.ts");
  const { recipe } = await parseRecipe(file.blob, file.name);
  return { ...containerResult(tables), format: "rsparse-recipe", ...recipe };
}

function tensorRows(tables: SafetensorsCheckpoint): TensorRow[] {
  return [...tables.entries.values()].map(({ name, dtype, shape, byteLength }) => ({
    name,
    dtype,
    shape,
    bytes: byteLength,
  }));
}
