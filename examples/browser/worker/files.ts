/** What a person has chosen or dropped: a model's files, a recipe, or both. */
import { openSafetensors } from "../../../src/format/safetensors.ts";
import { baseName, type NamedBlob } from "../../../src/model/named_blob.ts";
import { RECIPE_KEY } from "../../../src/recipe/recipe.ts";

/** JSON that belongs to a model's folder; another one is a table of thresholds. */
const OF_A_MODEL =
  /^(config|tokenizer|tokenizer_config|generation_config|special_tokens_map|added_tokens|vocab|.*\.index)\.json$/;

/** Tells recipes from models by what is in the files. @throws {Error} If there is more than one recipe, or nothing. */
export async function sortFiles(
  files: readonly File[],
): Promise<{ model: readonly NamedBlob[]; recipe: Blob | null }> {
  const named = files.map((file) => ({ name: file.name, blob: file }));
  const isRecipe = await Promise.all(named.map(isRecipeFile));
  const recipes = named.filter((_, i) => isRecipe[i]), model = named.filter((_, i) => !isRecipe[i]);
  if (named.length === 0) throw new Error("No file was given");
  if (recipes.length > 1) {
    throw new Error(
      `${recipes.length} recipes were given (${recipes.map(({ name }) => name).join(", ")}): choose one`,
    );
  }
  return { model, recipe: recipes[0]?.blob ?? null };
}

async function isRecipeFile({ name, blob }: NamedBlob): Promise<boolean> {
  const base = baseName(name);
  if (base.endsWith(".json")) return !OF_A_MODEL.test(base);
  if (!base.endsWith(".safetensors")) return false;
  try {
    return (await openSafetensors([{ name, blob }])).metadata.has(RECIPE_KEY);
  } catch {
    // whoever opens it as a model says what is wrong with it
    return false;
  }
}
