import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { babbler, failure, json, rsparse, type RunDocument, stories } from "../support/cli.ts";
import { requireShared, skipWithout } from "../support/shared.ts";

interface Sequence {
  readonly positions: { token: number; top: [number, number][]; nll?: number }[];
  readonly last?: number[];
}

const withStories = { skip: skipWithout("data/models/stories260K") };

test(
  "logits: golden best tokens of a tiny model, alone and in a batch",
  { skip: skipWithout("golden/tiny") },
  async () => {
    const golden = JSON.parse(readFileSync(requireShared("golden/tiny/llama-f32.json"), "utf8"));
    const prompts = golden.prompts as {
      ids: number[];
      top8: { ids: number[]; logits: number[] }[];
      last: number[];
    }[];
    const args = ["logits", "-m", babbler(), "--full-last", "--kernels", "baseline"];
    const batch = await json<Sequence[]>([...args, "--batch"], {
      input: JSON.stringify(prompts.map(({ ids }) => ids)),
    });
    assert.equal(batch.length, prompts.length);
    for (const [i, { ids, top8, last }] of prompts.entries()) {
      const { positions, last: found } = batch[i]!;
      assert.deepEqual(positions.map(({ token }) => token), ids);
      assert.equal(found!.length, 320);
      for (const [id, logit] of last.entries()) {
        assert.ok(
          Math.abs(found![id]! - logit) <= 1e-3,
          `last ${id}`,
        );
      }
      for (const [t, { top, nll }] of positions.entries()) {
        assert.equal(top.length, 8);
        for (const [k, [, logit]] of top.entries()) {
          assert.ok(
            Math.abs(logit - top8[t]!.logits[k]!) <= 1e-3,
            `${t}`,
          );
        }
        if (t === ids.length - 1) assert.equal(nll, undefined);
        else assert.ok(nll! > 0);
      }
    }
    const alone = await json<Sequence[]>([...args, "--tokens", prompts[0]!.ids.join(","), "--top", "3"]);
    assert.deepEqual(alone[0]!.last, batch[0]!.last);
    assert.deepEqual(
      alone[0]!.positions.map(({ top }) => top),
      batch[0]!.positions.map(({ top }) => top.slice(0, 3)),
    );
  },
);

test(
  "logits: what is no sequence of tokens is exit status 2",
  { skip: skipWithout("golden/tiny") },
  async () => {
    const args = ["logits", "-m", babbler()];
    await failure(2, /either --tokens 1,2,3 or --batch/, args);
    await failure(2, /either --tokens 1,2,3 or --batch/, [...args, "--tokens", "1", "--batch"], {
      input: "[[1]]",
    });
    await failure(2, /"two" as a token id/, [...args, "--tokens", "1,two"]);
    await failure(2, /--tokens is empty/, [...args, "--tokens", ""]);
    await failure(2, /token 320: ids of this model are below 320/, [...args, "--tokens", "1,320"]);
    await failure(2, /sequence 1 of the batch is empty/, [...args, "--batch"], { input: "[[1],[]]" });
    await failure(2, /not an array of arrays of token ids/, [...args, "--batch"], { input: "[[1.5]]" });
    await failure(2, /an array of arrays of token ids wanted/, [...args, "--batch"], { input: "[[1" });
    const long = JSON.stringify([new Array(100_000).fill(1)]);
    await failure(1, /more than the context of/, [...args, "--batch"], { input: long });
  },
);

test("calibrate: a recipe by which the model then runs sparse", withStories, async () => {
  const folder = mkdtempSync(join(tmpdir(), "rsparse-cli-")), recipe = join(folder, "half.safetensors");
  const made = await json<{ recipe: string; projections: Record<string, unknown>[] }>(
    ["calibrate", "-m", stories(), "--sparsity", "0.5", "--rho", "0.8", "--tokens", "600", "-o", recipe],
  );
  assert.deepEqual(Object.keys(made), ["recipe", "method", "sparsity", "seconds", "projections"]);
  assert.equal(made.recipe, recipe);
  assert.equal(made.projections.length, 5 * 7);
  assert.deepEqual(Object.keys(made.projections[0]!), [
    "path",
    "score",
    "threshold",
    "rho",
    "rank",
    "channels",
    "sparsity",
  ]);
  assert.deepEqual(readdirSync(folder), ["half.safetensors"]);
  const args = ["generate", "-m", stories(), "-p", "Once upon a time", "-n", "60", "--recipe", recipe];
  const sparse = await json(args);
  assert.equal(sparse.recipe!.sparsity, 0.5);
  assert.match(sparse.recipe!.sha256, /^[0-9a-f]{64}$/);
  assert.ok(Math.abs(sparse.measuredSparsity! - 0.5) < 0.1, `${sparse.measuredSparsity}`);
  const dense = await json([...args, "--sparsity", "0"]);
  assert.deepEqual([dense.recipe!.sparsity, dense.measuredSparsity], [0, null]);
  assert.equal(dense.output.text, (await json(args.slice(0, -2))).output.text);
  // the same recipe at any other sparsity that ranks leave room for
  for (const sparsity of [0.3, 0.755]) {
    const { recipe, measuredSparsity } = await json([...args, "--sparsity", String(sparsity)]);
    assert.equal(recipe!.sparsity, sparsity);
    assert.ok(Math.abs(measuredSparsity! - sparsity) < 0.1, `${measuredSparsity}`);
  }
  await failure(2, /half\.safetensors goes from 0 to 0\.9: give one of these, or 0/, [
    ...args,
    "--sparsity",
    "0.91",
  ]);
  const chat = ["chat", "-m", stories(), "-p", "Hi", "--recipe", recipe, "--sparsity", "0.95"];
  await failure(2, /goes from 0 to 0\.9/, chat);
  const logits = ["logits", "-m", stories(), "--tokens", "1,2,3,4", "--prefill", "sparse"];
  const at = async (...more: string[]): Promise<string> => JSON.stringify(await json([...logits, ...more]));
  const each = await Promise.all(["0", "0.3", "0.5"].map((s) => at("--recipe", recipe, "--sparsity", s)));
  assert.equal(new Set(each).size, 3);
  assert.deepEqual([each[0], each[2]], [await at(), await at("--recipe", recipe)]);
  await failure(2, /goes from 0 to 0\.9/, [...logits, "--recipe", recipe, "--sparsity", "0.99"]);
  await failure(2, /sparsity 0\.5 without a recipe/, [...logits, "--sparsity", "0.5"]);

  const bench = await json<{ rows: Record<string, unknown>[] }>(
    ["bench", "decode", "-m", stories(), "--recipe", recipe, "--sparsity", "0,0.5", "--reps", "3", "-n", "8"],
  );
  assert.deepEqual(bench.rows.map(({ variant, sparsity }) => [variant, sparsity]), [["dense", 0], [
    "r-sparse",
    0.5,
  ]]);
  for (const { tokensPerSecond } of bench.rows) {
    const { median, min, max, n } = tokensPerSecond as Record<string, number>;
    assert.ok(0 < min! && min! <= median! && median! <= max! && n === 3);
  }
  assert.ok(Number(bench.rows[1]!["speedup"]) > 0);
});

test("calibrate: by site, on the sparse stream", withStories, async () => {
  const folder = mkdtempSync(join(tmpdir(), "rsparse-cli-")), recipe = join(folder, "by-site.safetensors");
  const args = ["calibrate", "-m", stories(), "--method", "by-site", "--tokens", "600"];
  const made = await json<{ method: string; projections: { path: string; sparsity: number }[] }>(
    [...args, "--sparsity", "0.5", "-o", recipe],
  );
  assert.equal(made.method, "by-site");
  const down = made.projections.find(({ path }) => path === "model.layers.0.mlp.down_proj");
  assert.equal(down!.sparsity, 0.65);
  const run = ["generate", "-m", stories(), "-p", "Once upon a time", "-n", "60", "--recipe", recipe];
  for (const sparsity of [0.3, 0.5]) {
    const { recipe, measuredSparsity } = await json([...run, "--sparsity", String(sparsity)]);
    assert.deepEqual([recipe!.method, recipe!.sparsity], ["by-site", sparsity]);
    assert.ok(Math.abs(measuredSparsity! - sparsity) < 0.1, `${measuredSparsity}`);
  }
  await failure(2, /--rho with --method by-site: r-sparse alone/, [...args, "--rho", "0.9"]);
  await failure(2, /--thresholds with --method by-site/, [...args.slice(0, 5), "--thresholds", "x.json"]);
});

test("calibrate: thresholds are taken as they are given", withStories, async () => {
  const folder = mkdtempSync(join(tmpdir(), "rsparse-cli-")), recipe = join(folder, "given.safetensors");
  const given = join(folder, "given.json"), made = join(folder, "made.safetensors");
  const { projections } = await json<{ projections: { path: string; channels: number }[] }>(
    ["calibrate", "-m", stories(), "--tokens", "64", "-o", made],
  );
  const modules = projections.map(({ path, channels }, i) => [path, 0.125 + i, channels, 0]);
  writeFileSync(given, JSON.stringify({ sparsity: 0.5, rho: 1, modules }));
  const result = await json<{ projections: { threshold: number }[] }>(
    ["calibrate", "-m", stories(), "--thresholds", given, "-o", recipe],
  );
  assert.deepEqual(
    result.projections.map(({ threshold }) => threshold),
    modules.map(([, threshold]) => threshold),
  );
  const run = ["generate", "-m", stories(), "-p", "Hi", "-n", "2", "--recipe", recipe, "--sparsity"];
  await failure(2, /given\.safetensors has thresholds for 0\.5 alone: give 0 or 0\.5/, [...run, "0.4"]);
  writeFileSync(given, "{");
  await failure(1, /Cannot read .*given\.json: /, [
    "calibrate",
    "-m",
    stories(),
    "--thresholds",
    given,
    "-o",
    recipe,
  ]);
  const both = ["calibrate", "--thresholds", given, "--rho", "1", "-o", recipe];
  await failure(2, /both --thresholds and --rho/, both);
});

test("calibrate: wrong usage and files that can't be had", withStories, async () => {
  const folder = mkdtempSync(join(tmpdir(), "rsparse-cli-"));
  const args = ["calibrate", "-m", stories(), "-o", join(folder, "no", "such", "folder.safetensors")];
  const alone = await rsparse(["calibrate", "-m", stories(), "--tokens", "32", "--json"]);
  assert.equal((JSON.parse(alone.stdout) as { recipe: unknown }).recipe, null);
  await failure(2, /comes with the search command/, [...args, "--rho", "search"]);
  await failure(2, /Allowed choices are r-sparse/, [...args, "--method", "magic"]);
  await failure(1, /Cannot read \/none\.txt: there is no such file/, [
    "calibrate",
    "-m",
    stories(),
    "--data",
    "/none.txt",
  ]);
  await failure(1, /Cannot write .*: it is a folder/, ["calibrate", "-m", stories(), "-o", folder]);
  await failure(1, /Cannot write .*folder\.safetensors: there is no folder .*such/, [
    ...args,
    "--tokens",
    "32",
  ]);
  writeFileSync(join(folder, "latin1.txt"), new Uint8Array([0x63, 0x61, 0x66, 0xe9]));
  await failure(1, /latin1\.txt: it is not UTF-8/, [
    "calibrate",
    "-m",
    stories(),
    "--data",
    join(folder, "latin1.txt"),
  ]);
});

test("demo: one question, dense and sparse", withStories, async () => {
  const demo = await json<{ dense: RunDocument; sparse: RunDocument; speedup: number }>(
    ["demo", "-m", stories(), "-p", "Once upon a time", "-n", "30"],
  );
  assert.deepEqual([demo.dense.recipe!.sparsity, demo.dense.measuredSparsity], [0, null]);
  assert.equal(demo.sparse.recipe!.sparsity, 0.4);
  assert.ok(Math.abs(demo.sparse.measuredSparsity! - 0.4) < 0.1, `${demo.sparse.measuredSparsity}`);
  assert.ok(demo.speedup > 0);
});
