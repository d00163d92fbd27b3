/** Tokens of several sessions in one pass: each has the bits that it has alone. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { hasRelaxedSimd, noSharedMemoryReason } from "../../src/kernels/probe.ts";
import { ContextError, type LoadedRecipe, type LoadOptions, Model, type Session } from "../../src/mod.ts";
import { allDense, UNTUNED } from "../../src/runtime/tuner.ts";
import { recipeOfThreshold } from "../support/golden.ts";
import { assertSameBits } from "../support/kernels.ts";
import { learned } from "../support/learned_recipe.ts";
import { requireShared, skipWithout } from "../support/shared.ts";

const F32 = "golden/tiny/llama-f32.gguf", MIXED = "golden/tiny/llama-mixed.gguf";
const skip = skipWithout("golden/tiny");
/** Both ways are tried in turn for the first seven passes. */
const STEPS = 8;

function open(file: string, options: LoadOptions = {}): Promise<Model> {
  return Model.load(requireShared(file), { kernels: "baseline", threads: 1, ...options });
}

function someIds(n: number, seed: number): number[] {
  return Array.from({ length: n }, (_, i) => (i * i * 7 + i * 31 * seed + seed) % 300);
}

/** Sessions that have run prompts of several lengths, at the dials given; null: the recipe's own. */
function begin(model: Model, dials: readonly (number | null)[]): Session[] {
  return dials.map((sparsity, i) => {
    const session = model.session(sparsity === null ? {} : { sparsity });
    session.advance(someIds([3, 70, 1, 64, 20][i % 5]!, i + 1));
    return session;
  });
}

/** Runs the same tokens in both ways, and compares logits and counts. */
async function check(model: Model, dials: readonly (number | null)[], what: string): Promise<void> {
  const alone = begin(model, dials), together = begin(model, dials);
  for (let step = 0; step < STEPS; step++) {
    const ids = someIds(dials.length, step + 11);
    const expected = alone.map((session, i) => session.decode(ids[i]!));
    const found = await model.decodeTogether(together.map((session, i) => ({ session, id: ids[i]! })));
    found.forEach((logits, i) => {
      assert.ok(logits instanceof Float32Array, String(logits));
      assertSameBits(logits, expected[i]!, `${what}, step ${step}, session ${i}`);
    });
  }
  together.forEach((session, i) => {
    assert.deepEqual(session.count, alone[i]!.count, what);
    assert.deepEqual(session.tokens, alone[i]!.tokens);
  });
  for (const session of [...alone, ...together]) session.close();
}

for (const kernels of hasRelaxedSimd() ? ["baseline", "relaxed"] as const : ["baseline"] as const) {
  for (const dtype of ["f32", "bf16", "int8", "int4"] as const) {
    test(`decodeTogether: the bits that each has alone, ${dtype}, ${kernels}`, { skip }, async () => {
      const file = dtype === "int4" ? MIXED : F32;
      await using dense = await open(file, { dtype, kernels });
      await check(dense, Array.from({ length: 9 }, () => null), "dense");
      const recipe = await recipeOfThreshold(dense, 0.2, 0.5, 3);
      for (const tuning of [UNTUNED, allDense(kernels)]) {
        await using sparse = await open(file, { dtype, kernels, recipe, tuning });
        await check(
          sparse,
          [null, 0, null, 0, null],
          `sparse and dense, ${sparse.info.layouts["down_proj"]}`,
        );
      }
    });
  }
}

test("decodeTogether: learned recipes, each at its own dial", { skip }, async () => {
  for (
    const choices of [
      {},
      { input: "inactive" as const, apart: true },
      { shared: false },
      { input: "inactive" as const, weighed: true },
    ]
  ) {
    const recipe = await learned(choices);
    for (const dtype of ["f32", "int8"] as const) {
      await using model = await open(F32, { dtype, recipe });
      await check(model, [0.3, 0, 0.3, 0.7, null, 0.7, 0.3], `${JSON.stringify(choices)}, ${dtype}`);
    }
  }
});

test("decodeTogether: more than one pass can take, and with biases", { skip }, async () => {
  await using model = await Model.load(requireShared("golden/tiny/qwen2-hf"), {
    kernels: "baseline",
    threads: 1,
  });
  await check(model, Array.from({ length: 19 }, () => null), "19 sessions");
});

test(
  "decodeTogether: the same bits with three threads",
  { skip: skip || noSharedMemoryReason() || false },
  async () => {
    for (const dtype of ["f32", "int8"] as const) {
      await using model = await open(F32, { dtype, threads: 3 });
      await check(model, Array.from({ length: 5 }, () => null), dtype);
    }
  },
);

test("decodeTogether: one that can't go on is nothing to the others", { skip }, async () => {
  await using model = await open(F32, { contextLength: 64 });
  await using alone = await open(F32);
  using expected = alone.session();
  const wanted = [expected.prefill([5, 6, 7]), ...[8, 9, 10].map((id) => expected.decode(id))];
  const [good, full, closed, last] = [1, 2, 3, 4].map(() => model.session()) as [
    Session,
    Session,
    Session,
    Session,
  ];
  good.prefill([5, 6, 7]);
  full.prefill(someIds(64, 1));
  closed.prefill([1]);
  closed.close();
  last.prefill([5, 6, 7]);
  for (const [step, id] of [8, 9, 10].entries()) {
    const found = await model.decodeTogether(
      [good, full, closed, last].map((session, i) => ({ session, id: i === 3 && step === 1 ? 999_999 : id })),
    );
    assertSameBits(found[0] as Float32Array, wanted[step + 1]!, `step ${step}`);
    assert.ok(found[1] instanceof ContextError, String(found[1]));
    assert.match(String(found[2]), /the session is closed/);
    if (step === 1) assert.match(String(found[3]), /ids of this model/);
    assert.equal(full.length, 64);
  }
  assert.deepEqual(last.tokens, [5, 6, 7, 8, 10]);
});

test("decodeTogether: a session that is closed in the middle of a pass", { skip }, async () => {
  await using model = await open(F32);
  const sessions = begin(model, [null, null, null]);
  const { kvBytes } = model.memory;
  const running = model.decodeTogether(sessions.map((session) => ({ session, id: 7 })));
  sessions[1]!.close();
  const found = await running;
  assert.match(String(found[1]), /the session is closed/);
  assert.ok(found[0] instanceof Float32Array && found[2] instanceof Float32Array);
  // its pages serve the next
  using next = model.session();
  next.prefill(someIds(70, 3));
  assert.equal(model.memory.kvBytes, kvBytes);
});

test("decodeTogether: refuses a session twice, and one of another model", { skip }, async () => {
  await using model = await open(F32);
  await using other = await open(F32);
  const session = model.session(), step = { session, id: 1 };
  assert.throws(() => model.decodeTogether([step, step]), RangeError);
  assert.throws(() => model.decodeTogether([step, { session: other.session(), id: 1 }]), RangeError);
});

test("decodeTogether: recipes that skip neurons run in turns", { skip }, async () => {
  const { calibrateModel } = await import("../../src/calibrate/calibrate.ts");
  await using plain = await open(F32);
  const source = { text: "Once upon a time there was a little girl. ".repeat(20) };
  const recipe: LoadedRecipe = await calibrateModel(plain, {
    ...source,
    method: "griffin",
    sparsity: 0.3,
    source: "a text",
  });
  await using model = await open(F32, { recipe });
  await check(model, [null, null, null], "griffin");
});
