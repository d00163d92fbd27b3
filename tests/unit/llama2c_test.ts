import assert from "node:assert/strict";
import { test } from "node:test";
import { FormatError } from "../../src/errors.ts";
import { readTensor } from "../../src/format/checkpoint.ts";
import { openLlama2c } from "../../src/format/llama2c.ts";

/** dim 8, hidden 12, 2 layers, 2 heads, 1 key/value head, 5 tokens, 3 positions. */
const SIZES = [8, 12, 2, 2, 1, 5, 3];
const N_TIED = 5 * 8 + 2 * 8 + 2 * 64 + 2 * 32 + 2 * 32 + 2 * 64 + 2 * 8 + 3 * 2 * 96 + 8 + 3 * 4;

/** A file of `n` floats that count up from 0. */
function file(sizes: readonly number[], n: number): Blob {
  return new Blob([Int32Array.from(sizes), Float32Array.from({ length: n }, (_, i) => i)]);
}

function assertRefused(blob: Blob, offset: number): Promise<void> {
  return assert.rejects(openLlama2c(blob, "a.bin"), (error: unknown) => {
    assert.ok(error instanceof FormatError, String(error));
    assert.equal(error.offset, offset, error.message);
    return true;
  });
}

test("openLlama2c: every tensor lies where the layout says", async () => {
  const { header, tensors } = await openLlama2c(file(SIZES, N_TIED), "a.bin");
  assert.deepEqual(header, {
    dim: 8,
    hiddenDim: 12,
    nLayers: 2,
    nHeads: 2,
    nKvHeads: 1,
    vocabSize: 5,
    seqLen: 3,
    sharedClassifier: true,
  });
  // first numbers, summed by hand over the layout: each is how many come before
  const first: { [name: string]: [number, number[]] } = {
    "model.embed_tokens.weight": [0, [5, 8]],
    "model.layers.0.input_layernorm.weight": [40, [8]],
    "model.layers.1.input_layernorm.weight": [48, [8]],
    "model.layers.0.self_attn.q_proj.weight": [56, [8, 8]],
    "model.layers.1.self_attn.q_proj.weight": [120, [8, 8]],
    "model.layers.0.self_attn.k_proj.weight": [184, [4, 8]],
    "model.layers.1.self_attn.v_proj.weight": [280, [4, 8]],
    "model.layers.0.self_attn.o_proj.weight": [312, [8, 8]],
    "model.layers.1.post_attention_layernorm.weight": [448, [8]],
    "model.layers.0.mlp.gate_proj.weight": [456, [12, 8]],
    "model.layers.0.mlp.down_proj.weight": [648, [8, 12]],
    "model.layers.1.mlp.up_proj.weight": [936, [12, 8]],
    "model.norm.weight": [1032, [8]],
  };
  for (const [name, [number, shape]] of Object.entries(first)) {
    const tensor = tensors.get(name)!;
    assert.deepEqual(tensor.shape, shape, name);
    const bytes = await readTensor(tensor);
    assert.equal(new Float32Array(bytes.buffer)[0], number, name);
  }
  assert.equal(tensors.size, 2 + 2 * 9);
});

test("openLlama2c: a negative vocabulary size means a head of its own, after the rotary tables", async () => {
  const sizes = SIZES.with(5, -5);
  const { header, tensors } = await openLlama2c(file(sizes, N_TIED + 40), "a.bin");
  assert.deepEqual([header.vocabSize, header.sharedClassifier], [5, false]);
  const head = new Float32Array((await readTensor(tensors.get("lm_head.weight")!)).buffer);
  assert.deepEqual([head.length, head[0], head[39]], [40, N_TIED, N_TIED + 39]);
});

test("openLlama2c: refuses a file that is not exactly as long as its sizes say", async () => {
  const end = 28 + N_TIED * 4;
  await assertRefused(file(SIZES, N_TIED - 1), end - 4);
  await assertRefused(file(SIZES, N_TIED + 1), end);
  await assertRefused(file(SIZES.with(5, -5), N_TIED), end);
  await assertRefused(new Blob([new Uint8Array(27)]), 0);
});

test("openLlama2c: refuses impossible sizes at their field", async () => {
  for (let i = 0; i < 7; ++i) {
    await assertRefused(file(SIZES.with(i, 0), N_TIED), i * 4);
    await assertRefused(file(SIZES.with(i, -(2 ** 31)), N_TIED), i * 4);
    if (i !== 5) await assertRefused(file(SIZES.with(i, -1), N_TIED), i * 4);
  }
  await assertRefused(file(SIZES.with(3, 3), N_TIED), 12);
  await assertRefused(file(SIZES.with(3, 8), N_TIED), 12); // heads of one number have no rotary pair
  await assertRefused(file(SIZES.with(4, 3), N_TIED), 16);
  await assertRefused(file([2 ** 20, 2 ** 20, 1024, 1, 1, 2 ** 22, 2 ** 31 - 1], N_TIED), 28 + N_TIED * 4);
});
