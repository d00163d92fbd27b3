/** How prompts are cut, and which sparsity a deadline chooses. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Model } from "../../src/mod.ts";
import { DialLatencies, dialLevels } from "../../src/runtime/dial_latency.ts";
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

test("DialLatencies: the least sparsity that is fast enough, else the fastest", () => {
  const latencies = new DialLatencies([0, 0.5, 0.7]);
  assert.equal(latencies.leastWithin(10), 0, "what was not measured is tried");
  latencies.note(0, 40);
  assert.equal(latencies.leastWithin(30), 0.5);
  latencies.note(0.5, 31);
  assert.equal(latencies.leastWithin(30), 0.7);
  latencies.note(0.7, 35);
  assert.equal(latencies.leastWithin(30), 0.5, "0.7 is slower still");
  assert.equal(latencies.leastWithin(40), 0);
  assert.equal(latencies.leastWithin(39), 0.5);
  // an exponential mean with a tenth of the new
  latencies.note(0.5, 21);
  assert.ok(Math.abs(latencies.estimate(0.5)! - 30) < 1e-9);
  assert.equal(latencies.leastWithin(30), 0.5);
  latencies.note(0.6, 1);
  assert.equal(latencies.estimate(0.6), null, "it is no level");
  assert.throws(() => new DialLatencies([]), RangeError);
  assert.throws(() => new DialLatencies([0.5, 0.5]), RangeError);
});

test("DialLatencies: goes back to what is denser when there is time again", () => {
  const latencies = new DialLatencies([0, 0.5, 0.7]);
  latencies.note(0, 40);
  latencies.note(0.5, 40);
  for (let i = 0; i < 63; i++) {
    assert.equal(latencies.leastWithin(30), 0.7, String(i));
    latencies.note(0.7, 20);
  }
  // one token in 64 tries the level below; an old mean is replaced, not mended
  assert.equal(latencies.leastWithin(30), 0.7);
  latencies.note(0.7, 20);
  assert.equal(latencies.leastWithin(30), 0.5);
  latencies.note(0.5, 25);
  assert.equal(latencies.estimate(0.5), 25);
  assert.equal(latencies.leastWithin(30), 0, "and the next below, which is as old");
  latencies.note(0, 39);
  assert.equal(latencies.leastWithin(30), 0.5);
});

test("dialLevels: those that the recipe has thresholds for", () => {
  assert.deepEqual(dialLevels(null), [0]);
  const of = (points: number[], sparsity: number): number[] =>
    dialLevels({ recipe: { points, sparsity } as never });
  assert.deepEqual(of([0, 0.5, 0.9], 0.45), [0, 0.3, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 0.9]);
  assert.deepEqual(of([], 0.5), [0, 0.5]);
  assert.deepEqual(of([0, 0.6], 0.4), [0, 0.3, 0.4, 0.5, 0.6]);
});
