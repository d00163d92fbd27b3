/** Recipes by site that an independent script made and measured: read as they are, and run at the sparsity it found. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { recipeFromThresholds } from "../../src/calibrate/calibrate.ts";
import { RecipeError } from "../../src/errors.ts";
import { projectionPath } from "../../src/model/config.ts";
import { importThresholdRecipe } from "../../src/recipe/import.ts";
import { projectionsOf } from "../../src/runtime/forward.ts";
import { Model } from "../../src/runtime/model.ts";
import { pulledModel, SMOLLM2 } from "../support/models.ts";
import { requireShared, skipWithout } from "../support/shared.ts";

interface GivenRecipe {
  readonly sha256: string;
  readonly target_sparsity: number;
  readonly measured: { readonly touched: number };
  readonly modules: { readonly [module: string]: { readonly threshold: number; readonly sparsity: number } };
}

const FOLDER = "golden/recipes", SITES = ["q", "k", "v", "output", "gate", "up", "down"];
const skip = skipWithout(FOLDER);
const fileOf = (percent: number): string => requireShared(`${FOLDER}/smollm2-135m-${percent}.json`);
const read = (percent: number): GivenRecipe => JSON.parse(readFileSync(fileOf(percent), "utf8"));
const moduleOf = (index: number): string => {
  const site = index % 7;
  return `blk.${Math.floor(index / 7)}.${site < 4 ? "attn" : "ffn"}_${SITES[site]}`;
};

test("importThresholdRecipe: the four recipes of SmolLM2 give the thresholds stated", { skip }, () => {
  for (const percent of [40, 50, 60, 70]) {
    const given = read(percent);
    const { recipe } = importThresholdRecipe({ ...given }, SMOLLM2, "recipe.json");
    assert.deepEqual([recipe.modelHash, recipe.sparsity], [given.sha256, given.target_sparsity]);
    assert.equal(recipe.projections.length, 210);
    for (const [i, { path, threshold, sparsity }] of recipe.projections.entries()) {
      const { [moduleOf(i)]: wanted } = given.modules;
      assert.deepEqual([threshold, sparsity], [wanted!.threshold, wanted!.sparsity], path);
    }
  }
});

test(
  "Model.load: takes such a file as its recipe, and reads the share of weights that it states",
  { skip },
  async () => {
    const path = await pulledModel(), given = read(50), base = { kernels: "baseline", threads: 1 } as const;
    await using model = await Model.load(path, { ...base, recipe: new Blob([readFileSync(fileOf(50))]) });
    for (const [l, layer] of model.engine.weights.layers.entries()) {
      for (const { name, rule } of projectionsOf(layer)) {
        const i = model.recipe!.recipe.projections.findIndex((p) => p.path === projectionPath(l, name));
        assert.equal(rule!.threshold, given.modules[moduleOf(i)]!.threshold, moduleOf(i));
      }
    }
    const { prompts } = JSON.parse(readFileSync(requireShared("golden/smollm2/logits.json"), "utf8")) as {
      prompts: { name: string; ids: number[] }[];
    };
    using session = model.session();
    session.prefill(prompts.find(({ name }) => name === "long")!.ids, { prefill: "sparse" });
    const { kept, dense, sparseTokens, tokens } = session.count;
    assert.equal(sparseTokens, tokens);
    // another text than the one it was measured on, and a short one
    assert.ok(Math.abs(kept / dense - given.measured.touched) < 0.05, String(kept / dense));
    const made = await recipeFromThresholds(model, given, { source: "given" });
    assert.deepEqual(made.recipe.projections, model.recipe!.recipe.projections);
    const other = { ...given, sha256: "0".repeat(64) };
    await assert.rejects(recipeFromThresholds(model, other, { source: "given" }), (error: unknown) => {
      return error instanceof RecipeError && error.code === "model_mismatch";
    });
  },
);
