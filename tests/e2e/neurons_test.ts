/** Methods that skip neurons, as a person uses them: one command makes the recipe, others run it. */
import assert from "node:assert/strict";
import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { failure, json, rsparse, stories } from "../support/cli.ts";
import { skipWithout } from "../support/shared.ts";

const withStories = { skip: skipWithout("data/models/stories260K") };

interface Made {
  readonly method: string;
  readonly sparsity: number;
  readonly mlp: { readonly kind: string; readonly thresholds: readonly number[] };
}

for (const method of ["cats", "griffin", "relufication"] as const) {
  test(`calibrate --method ${method}: generate, eval and logits run the recipe`, withStories, async () => {
    const folder = mkdtempSync(join(tmpdir(), "rsparse-cli-")), recipe = join(folder, "recipe.safetensors");
    const text = method === "griffin" ? [] : ["--tokens", "300"];
    const made = await json<Made>(
      ["calibrate", "-m", stories(), "--method", method, "--sparsity", "0.2", ...text, "-o", recipe],
    );
    assert.deepEqual([made.method, made.mlp.kind], [method, method]);
    assert.equal(made.mlp.thresholds.length, method === "cats" ? 5 : 0);
    if (method !== "relufication") assert.equal(made.sparsity, 0.2);
    const run = ["-m", stories(), "-p", "Once upon a time there was a dog", "-n", "40", "--recipe", recipe];
    const settings = method === "relufication" ? [made.sparsity] : [0.2, 0.35];
    for (const sparsity of settings) {
      const found = await json(["generate", ...run, "--sparsity", String(sparsity), "--ignore-eos"]);
      assert.deepEqual([found.recipe!.method, found.recipe!.sparsity], [method, sparsity]);
      assert.ok(Math.abs(found.measuredSparsity! - sparsity) < 0.1, `${sparsity}: ${found.measuredSparsity}`);
    }
    const story = join(folder, "story.txt");
    writeFileSync(
      story,
      "Once upon a time there was a dog. It had a ball. It ran to the park and was happy. ".repeat(4),
    );
    const evaluated = await json<{ measuredSparsity: number; tasks: { sparseTokens: number }[] }>(
      ["eval", "-m", stories(), "--tasks", `text:${story}`, "--recipe", recipe, "--prefill", "official"],
    );
    assert.ok(evaluated.measuredSparsity > 0.1, `${evaluated.measuredSparsity}`);
    const logits = ["logits", "-m", stories(), "--tokens", "1,2,3,4,5,6", "--prefill", "sparse"];
    const sparse = JSON.stringify(await json([...logits, "--recipe", recipe]));
    assert.notEqual(sparse, JSON.stringify(await json(logits)));
    if (method !== "relufication") {
      await failure(2, /goes from 0 to 0\.\d+: give one of these/, ["generate", ...run, "--sparsity", "0.9"]);
    }
  });
}

test("calibrate: what methods of neurons can't do, and what has no say with them", withStories, async () => {
  const calibrate = ["calibrate", "-m", stories()];
  await failure(
    1,
    /Cannot calibrate: sparsity 0\.6: cats skips rows and columns of 2 of 7 projections, at most 0\.\d+/,
    [
      ...calibrate,
      ...["--method", "cats", "--sparsity", "0.6"],
    ],
  );
  await failure(2, /Cannot take --tokens with --method griffin/, [
    ...calibrate,
    "--method",
    "griffin",
    "--tokens",
    "9",
  ]);
  await failure(2, /Cannot take --rho with --method cats/, [...calibrate, "--method", "cats", "--rho", "1"]);
  const relu = [...calibrate, "--method", "relufication", "--tokens", "64"];
  const { stderr, stdout } = await rsparse([...relu, "--sparsity", "0.2"]);
  assert.match(stderr, /--sparsity 0\.2 has no say/);
  assert.match(stdout, /^relufication skips \d+\.\d % of the blocks' weights\n$/);
});
