/** Recipes as they are learned, against float64: V of all of x, shared V, output biases, gains of norms; dense where a position is dense. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { noSharedMemoryReason } from "../../src/kernels/probe.ts";
import { type LoadedRecipe, type LoadOptions, Model } from "../../src/mod.ts";
import { UNTUNED } from "../../src/runtime/tuner.ts";
import { largestError } from "../support/golden.ts";
import { assertSameBits, bf16 } from "../support/kernels.ts";
import { type Choices, learned, LEARNED_FILE, RANK } from "../support/learned_recipe.ts";
import { ReferenceLlama } from "../support/reference_llama.ts";
import { requireShared, skipWithout } from "../support/shared.ts";

const FILE = LEARNED_FILE;
const skip = skipWithout(FILE);
const IDS = Array.from({ length: 40 }, (_, i) => 4 + (i * 37) % 300);

function open(recipe?: LoadedRecipe, options: LoadOptions = {}): Promise<Model> {
  return Model.load(requireShared(FILE), {
    kernels: "baseline",
    threads: 1,
    tuning: UNTUNED,
    ...options,
    recipe,
  });
}

/** All logits of IDS, the first `together` in one go and the others one by one. */
function logitsOf(
  model: Model,
  together: number,
  sparseFrom: number,
  sparsity?: number,
): { logits: Float32Array[]; kept: number; dense: number } {
  using session = model.session({ sparsity });
  const logits: Float32Array[] = [], prefill = sparseFrom;
  if (together > 0) {
    session.prefillAll(IDS.slice(0, together), (_, row) => logits.push(row.slice()), { prefill });
  }
  for (const [i, id] of IDS.slice(together).entries()) {
    logits.push(session.decode(id, { dense: together + i < sparseFrom }));
  }
  return { logits, kept: session.count.kept, dense: session.count.dense };
}

function worst(actual: readonly ArrayLike<number>[], expected: readonly ArrayLike<number>[]): number {
  return Math.max(...actual.map((row, t) => largestError(row, expected[t]!)));
}

let reference: Promise<ReferenceLlama> | null = null;
function referenceLlama(): Promise<ReferenceLlama> {
  return reference ??= open().then((model) => ReferenceLlama.of(model));
}

const CASES: Choices[] = [];
for (const input of ["inactive", "all"] as const) {
  for (const shared of [true, false]) for (const apart of [false, true]) CASES.push({ input, shared, apart });
  CASES.push({ input, weighed: true }, { input, weighed: true, apart: true });
}

for (const choices of CASES) {
  const { input, shared = true, apart, weighed } = choices;
  const name = `${input}${shared ? ", shared V" : ""}${apart ? ", masks apart" : ""}${
    weighed ? ", channels weighed" : ""
  }`;
  test(
    `learned recipes: ${name}: as in float64, in prompts, in decoding and where both meet`,
    { skip },
    async () => {
      const recipe = await learned(choices), wanted = await referenceLlama();
      await using model = await open(recipe);
      for (const sparseFrom of [0, 7]) {
        const expected = wanted.run(IDS, recipe, sparseFrom);
        for (const together of [IDS.length, 11, 0]) {
          const { logits, kept, dense } = logitsOf(model, together, sparseFrom);
          const what = `sparse from ${sparseFrom}, ${together} together`,
            error = worst(logits, expected.logits);
          assert.ok(error <= 2e-4, `${what}: off by ${error}`);
          assert.deepEqual([kept, dense], [expected.kept, expected.dense], what);
        }
      }
    },
  );
}

test("learned recipes: every part of one reaches the logits", { skip }, async () => {
  const wanted = await referenceLlama(), whole = await learned();
  const { logits } = wanted.run(IDS, whole, 0);
  for (
    const [what, recipe] of [
      ["gains", { ...whole, gains: new Map() }],
      ["the last gain", { ...whole, gains: new Map([...whole.gains].slice(0, -1)) }],
      ["biases", { ...whole, bias: () => null }],
      ["the input of V", { ...whole, recipe: { ...whole.recipe, lowRankInput: "inactive" as const } }],
    ] as const
  ) {
    await using model = await open(recipe);
    const error = worst(logitsOf(model, 20, 0).logits, logits);
    assert.ok(error > 0.02, `without ${what} logits are only ${error} off`);
  }
});

test("learned recipes: bf16 is as in float64 with weights and factors of bf16", { skip }, async () => {
  const wanted = await ReferenceLlama.of(await open(), bf16);
  for (const choices of [{}, { apart: true }, { input: "inactive" as const }]) {
    const recipe = await learned(choices);
    await using model = await open(recipe, { dtype: "bf16" });
    const error = worst(logitsOf(model, 20, 7).logits, wanted.run(IDS, recipe, 7).logits);
    assert.ok(error <= 3e-4, `${JSON.stringify(choices)}: off by ${error}`);
  }
});

test(
  "learned recipes: int8, which keeps q, k and v apart, has the same bits whether they share a V or have it thrice",
  { skip },
  async () => {
    for (
      const choices of [
        {},
        { apart: true },
        { input: "inactive" as const },
        { input: "inactive" as const, apart: true },
        { input: "inactive" as const, weighed: true },
      ]
    ) {
      const one = await learned(choices);
      const projections = one.recipe.projections.map(({ sharedV: _, ...p }) => p);
      await using shared = await open(one, { dtype: "int8" });
      await using own = await open({ ...one, recipe: { ...one.recipe, projections } }, { dtype: "int8" });
      assert.equal(shared.engine.weights.layers[0]!.sites[0]!.length, 3);
      for (const together of [20, 0]) {
        const a = logitsOf(shared, together, 3), b = logitsOf(own, together, 3);
        a.logits.forEach((row, t) => assert.deepEqual(row, b.logits[t], `${together} together, token ${t}`));
        assert.equal(a.dense, b.dense);
        // with a mask each and what is left of x, V x differs among them: nothing is saved but memory
        if (choices.input !== undefined && choices.apart === true) assert.equal(a.kept, b.kept);
        else assert.ok(a.kept < b.kept);
      }
    }
  },
);

test(
  "learned recipes: dense positions and the dial at 0 are the plain model to the bit",
  { skip },
  async () => {
    await using plain = await open();
    await using model = await open(await learned());
    const wanted = logitsOf(plain, 20, 0).logits;
    for (
      const [what, { logits }] of [
        ["dial at 0", logitsOf(model, 20, 0, 0)],
        ["dense", logitsOf(model, 20, Infinity)],
      ] as const
    ) {
      logits.forEach((row, t) => assert.deepEqual(row, wanted[t], `${what}: token ${t}`));
    }
    const partly = logitsOf(model, 20, 30).logits;
    for (const t of [0, 19, 29]) assert.deepEqual(partly[t], wanted[t], `token ${t}`);
    assert.ok(largestError(partly[30]!, wanted[30]!) > 0.02);
  },
);

test("learned recipes: the dial turns thresholds and nothing else", { skip }, async () => {
  const recipe = await learned(), wanted = await referenceLlama();
  await using model = await open(recipe);
  const turned = (share: number): LoadedRecipe => ({
    ...recipe,
    recipe: {
      ...recipe.recipe,
      projections: recipe.recipe.projections.map((p) =>
        p.mode === "dense" ? p : { ...p, threshold: Math.fround(p.threshold * share) }
      ),
    },
  });
  for (const [sparsity, share] of [[0.9, 3], [0.7, 2], [0.25, 0.5]] as const) {
    const { logits } = wanted.run(IDS, turned(share), 0);
    const error = worst(logitsOf(model, 20, 0, sparsity).logits, logits);
    assert.ok(error <= 3e-4, `${sparsity}: off by ${error}`);
  }
});

test("learned recipes: V and the weights of channels are in memory once for projections that share them", {
  skip,
}, async () => {
  for (const dtype of ["f32", "int8"] as const) {
    await using one = await open(await learned({ extras: false, weighed: true }), { dtype });
    await using each = await open(await learned({ extras: false, weighed: true, shared: false }), { dtype });
    assert.ok(one.memory.recipeBytes < 0.85 * each.memory.recipeBytes, dtype);
    const rules = one.engine.weights.layers[0]!.sites[0]!.flatMap(({ parts }) =>
      parts.map(({ rule }) => rule!)
    );
    assert.equal(new Set(rules.map(({ v }) => v)).size, 1, dtype);
    // by which the pass tells that V x is the next one's too, and its channels
    assert.equal(new Set(rules.map(({ scale }) => scale)).size, 1, dtype);
    assert.equal(rules[0]!.v!.nOut, RANK);
  }
});

test("learned recipes: the same bits however a prompt is cut, also where its first positions are dense", {
  skip,
}, async () => {
  for (const dtype of ["f32", "bf16", "int8"] as const) {
    for (const choices of [{}, { input: "inactive" as const, apart: true }]) {
      await using model = await open(await learned(choices), { dtype });
      for (const prefill of [0, 7, 21]) {
        const run = (cuts: readonly number[]): Float32Array[] => {
          using session = model.session();
          const logits: Float32Array[] = [];
          for (const [i, from] of cuts.entries()) {
            session.prefillAll(IDS.slice(from, cuts[i + 1]), (_, row) => logits.push(row.slice()), {
              prefill,
            });
          }
          return logits;
        };
        const whole = run([0]);
        for (const cuts of [[0, 5], [0, 8, 10, 22]]) {
          run(cuts).forEach((row, t) =>
            assert.deepEqual(row, whole[t], `${dtype}, sparse from ${prefill}, cut at ${cuts}: token ${t}`)
          );
        }
      }
    }
  }
});

test("learned recipes: the same bits with one thread and with three", {
  skip: skip || noSharedMemoryReason() || false,
}, async () => {
  const bits = ({ logits }: { logits: Float32Array[] }): Uint8Array<ArrayBuffer> =>
    new Uint8Array(Float32Array.from(logits.flatMap((row) => [...row])).buffer);
  for (const dtype of ["f32", "int8"] as const) {
    for (const choices of [{ weighed: true }, { input: "inactive" as const, apart: true }]) {
      const recipe = await learned(choices);
      await using alone = await open(recipe, { dtype });
      await using together = await open(recipe, { dtype, threads: 3 });
      assert.equal(together.info.threads, 3);
      assertSameBits(bits(logitsOf(together, 20, 5)), bits(logitsOf(alone, 20, 5)), dtype);
    }
  }
});
