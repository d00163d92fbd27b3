/** How prompts are cut. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Model } from "../../src/mod.ts";
import { promptPart } from "../../src/server/scheduler.ts";
import { assertSameBits } from "../support/kernels.ts";
import { requireShared, skipWithout } from "../support/shared.ts";

/** The parts that a prompt is run in. */
function partsOf(total: number, most: number): number[] {
  const parts: number[] = [];
  for (let done = 0; done < total; done += parts.at(-1)!) parts.push(promptPart(done, total, most));
  return parts;
}

test("promptPart: never past 128, and a token alone only where a whole prompt has one", () => {
  assert.deepEqual(partsOf(300, 128), [128, 128, 44]);
  assert.deepEqual(partsOf(20, 8), [8, 8, 4]);
  assert.deepEqual(partsOf(17, 8), [8, 9]);
  assert.deepEqual(partsOf(1, 8), [1]);
  assert.deepEqual(partsOf(129, 128), [128, 1]);
  assert.deepEqual(partsOf(129, 127), [128, 1]);
  for (let total = 1; total < 400; total++) {
    for (const most of [1, 2, 3, 8, 50, 127, 128]) {
      const parts = partsOf(total, most), ones = parts.filter((part) => part === 1).length;
      assert.equal(parts.reduce((sum, part) => sum + part), total);
      assert.equal(ones, total % 128 === 1 ? 1 : 0, `${total} by ${most}`);
      assert.ok(parts.every((part) => part <= Math.max(most, 2) + 1));
    }
  }
});

test("promptPart: the bits of a prompt that is run in one go, however it is cut", {
  skip: skipWithout("golden/tiny"),
}, async () => {
  for (
    const [file, dtype, kernels] of [
      ["golden/tiny/llama-f32.gguf", "f32", "baseline"],
      ["golden/tiny/llama-f32.gguf", "int8", "baseline"],
      ["golden/tiny/llama-mixed.gguf", "int4", "baseline"],
      ["golden/tiny/llama-mixed.gguf", "int4", "auto"],
    ] as const
  ) {
    await using model = await Model.load(requireShared(file), { dtype, kernels, threads: 1 });
    for (const total of [2, 129, 200]) {
      const ids = Array.from({ length: total }, (_, i) => (i * i * 7 + i * 31) % 320);
      using whole = model.session();
      const expected = whole.prefill(ids), next = whole.decode(5);
      for (const most of [2, 8, 30, 127]) {
        using session = model.session();
        let logits: Float32Array = new Float32Array(0);
        for (const part of partsOf(total, most)) {
          logits = session.prefill(ids.slice(session.length, session.length + part));
        }
        assertSameBits(logits, expected, `${dtype}, ${kernels}, ${total} by ${most}`);
        assertSameBits(session.decode(5), next, `${dtype}, ${kernels}, ${total} by ${most}, the next`);
      }
    }
  }
});
