/** Threads share outputs, or segments of channels that are the same for any number of them: the bits are those of one thread. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { type LoadOptions, Model } from "../../src/mod.ts";
import { noSharedMemoryReason } from "../../src/kernels/probe.ts";
import { recipeOfThreshold } from "../support/golden.ts";
import { UNTUNED } from "../../src/runtime/tuner.ts";
import { assertSameBits } from "../support/kernels.ts";
import { pulledModel } from "../support/models.ts";
import { requireShared, skipWithout } from "../support/shared.ts";
import { logitsOf, SMOL_THRESHOLD, TINY, TINY_THRESHOLD } from "./hashes.ts";

const skip = skipWithout("golden/tiny") || noSharedMemoryReason() || false;
/** What threads run is the same in all runtimes, so that one of them looks at the whole of a large model. */
const skipElsewhere = skip ||
  ("Deno" in globalThis ? false : "tiny models in all dtypes and this one in int4 are compared here");

/** Logits of a prompt and of decode steps, with one thread and with more, dense and sparse. */
async function compare(
  source: string,
  options: LoadOptions,
  threshold: number,
  teams: readonly number[],
  ranks: readonly number[],
): Promise<void> {
  const base = { ...options, contextLength: 256, tuning: UNTUNED };
  await using dense = await Model.load(source, { ...base, threads: 1 });
  const recipes = ranks.map((rank) => recipeOfThreshold(dense, threshold, 0.8, rank));
  for (const recipe of [undefined, ...await Promise.all(recipes)]) {
    await using alone = recipe === undefined
      ? dense
      : await Model.load(source, { ...base, recipe, threads: 1 });
    const expected = logitsOf(alone);
    for (const threads of teams) {
      await using together = await Model.load(source, { ...base, recipe, threads });
      assert.deepEqual([together.info.threads, together.info.threadsReason], [threads, null]);
      const what = `${source}, ${options.dtype}${
        recipe ? `, sparse, rank ${recipe.recipe.projections[0]!.rank}` : ""
      }, ${threads} threads`;
      assertSameBits(logitsOf(together), expected, what);
    }
  }
}

for (const dtype of ["f32", "bf16", "int8", "int4"] as const) {
  test(`threads: tiny models compute the same bits with one, two and three, ${dtype}`, { skip }, async () => {
    for (const name of TINY) {
      const source = requireShared(`golden/tiny/${name}`);
      await compare(source, { kernels: "baseline", dtype }, TINY_THRESHOLD, [2, 3], [0, 5]);
    }
  });

  // its channels are cut into segments, which those of tiny models are too few for
  const options = { skip: dtype === "int4" ? skip : skipElsewhere };
  test(`threads: SmolLM2 computes the same bits with one and two, ${dtype}`, options, async () => {
    await compare(await pulledModel(), { kernels: "baseline", dtype }, SMOL_THRESHOLD, [2], [0]);
  });
}

test("threads: SmolLM2 computes the same bits with one and three, relaxed", { skip }, async () => {
  await compare(await pulledModel(), { dtype: "int4" }, SMOL_THRESHOLD, [3], [0]);
});
