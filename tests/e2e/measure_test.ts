import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { babbler, failure, json, type RunDocument, stories } from "../support/cli.ts";
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

test("demo: one question, dense and sparse", withStories, async () => {
  const demo = await json<{ dense: RunDocument; sparse: RunDocument; speedup: number }>(
    ["demo", "-m", stories(), "-p", "Once upon a time", "-n", "30"],
  );
  assert.deepEqual([demo.dense.recipe, demo.dense.measuredSparsity], [null, null]);
  assert.equal(demo.sparse.recipe!.sparsity, 0.4);
  assert.ok(Math.abs(demo.sparse.measuredSparsity! - 0.4) < 0.1, `${demo.sparse.measuredSparsity}`);
  assert.ok(demo.speedup > 0);
});
