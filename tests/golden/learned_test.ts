/** The learned recipe that comes with the repository (models/): what its file is, and that it beats thresholds alone at as many weights read. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { checkRecipe, parseRecipe } from "../../src/recipe/recipe.ts";
import { Model } from "../../src/runtime/model.ts";
import { pulledModel, SMOLLM2 } from "../support/models.ts";
import { requireShared, skipWithout } from "../support/shared.ts";

const FILE = fileURLToPath(
  new URL("../../models/smollm2-135m-instruct-learned.safetensors", import.meta.url),
);
/** The baseline build's bits are the same in all runtimes (tests/parity): what they are worth is measured in one. */
const skip = skipWithout("golden/recipes") ||
  ("Deno" in globalThis ? false : "the bits of the baseline build are those of Deno");
/** Of the model's Q4_1 file. */
const HASH = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";

test("models/: the learned recipe is one of SmolLM2's, of at most 12 MB, for the whole dial", async () => {
  const bytes = readFileSync(FILE);
  assert.ok(bytes.length <= 12e6, String(bytes.length));
  const loaded = await parseRecipe(new Blob([bytes]), "learned.safetensors"), { recipe } = loaded;
  checkRecipe(loaded, SMOLLM2, HASH);
  assert.deepEqual([recipe.method, recipe.points[0], recipe.points.at(-1)], ["learned", 0, 0.9]);
  const ranks = new Map(recipe.projections.map(({ path, rank }) => [path.split(".").at(-1), rank]));
  assert.deepEqual([ranks.get("o_proj"), ranks.get("down_proj")], [8, 8]);
  assert.ok(recipe.projections.every(({ path }) => loaded.bias(path) !== null));
});

test(
  "the learned recipe: nearer to the dense model than thresholds by site, at as many weights read",
  { skip },
  async () => {
    const path = await pulledModel();
    const { prompts } = JSON.parse(readFileSync(requireShared("golden/smollm2/logits.json"), "utf8")) as {
      prompts: { name: string; ids: number[] }[];
    };
    const ids = prompts.find(({ name }) => name === "long")!.ids;
    const given = requireShared("golden/recipes/smollm2-135m-50.json");
    const [at40, at50, at60] = await measure(path, FILE, ids, [0.4, 0.5, 0.6]);
    const [bySite] = await measure(path, given, ids, [0.5]);
    assert.ok(at50!.kl < bySite!.kl, `${at50!.kl} ${bySite!.kl}`);
    assert.ok(at50!.kept < bySite!.kept + 0.01, `${at50!.kept} ${bySite!.kept}`);
    assert.ok(at40!.kl < at50!.kl && at50!.kl < at60!.kl, `${at40!.kl} ${at50!.kl} ${at60!.kl}`);
    assert.ok(at40!.kept > at50!.kept && at50!.kept > at60!.kept);
  },
);

/** Mean KL(dense || sparse) of a text, all positions sparse that may be, and the share of weights read, at each setting of the dial. */
async function measure(
  path: string,
  file: string,
  ids: readonly number[],
  sparsities: readonly number[],
): Promise<{ kl: number; kept: number }[]> {
  await using model = await Model.load(path, {
    kernels: "baseline",
    threads: 1,
    recipe: new Blob([readFileSync(file)]),
  });
  const dense: Float64Array[] = [];
  {
    using session = model.session();
    session.prefillAll(ids, (_, logits) => dense.push(logProbabilities(logits)), { prefill: "dense" });
  }
  return sparsities.map((sparsity) => {
    let kl = 0;
    using session = model.session({ sparsity });
    session.prefillAll(ids, (i, logits) => {
      const q = logProbabilities(logits), p = dense[i]!;
      for (let token = 0; token < p.length; token++) {
        kl += Math.exp(p[token]!) * (p[token]! - q[token]!);
      }
    }, { prefill: "sparse" });
    return { kl: kl / ids.length, kept: session.count.kept / session.count.dense };
  });
}

function logProbabilities(logits: Float32Array): Float64Array {
  const max = logits.reduce((a, b) => Math.max(a, b));
  const sum = max + Math.log(logits.reduce((total, v) => total + Math.exp(v - max), 0));
  return Float64Array.from(logits, (v) => v - sum);
}
