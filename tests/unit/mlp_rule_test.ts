/** Methods that skip neurons of the MLP: against float64, on the dial, in sessions, and what is refused. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { calibrateModel, type CalibrateOptions } from "../../src/calibrate/calibrate.ts";
import { RecipeError } from "../../src/errors.ts";
import { noSharedMemoryReason } from "../../src/kernels/probe.ts";
import { type LlamaConfig, type LoadedRecipe, type LoadOptions, Model } from "../../src/mod.ts";
import { MLP_KINDS, type MlpKind, mostSparsity, neuronShare, neuronsKept } from "../../src/recipe/mlp.ts";
import { checkRecipe, joinRecipe, parseRecipe, serialiseRecipe, tableOf } from "../../src/recipe/recipe.ts";
import { NeuronScores } from "../../src/runtime/neuron_scores.ts";
import type { Session } from "../../src/runtime/session.ts";
import { UNTUNED } from "../../src/runtime/tuner.ts";
import { largestError } from "../support/golden.ts";
import { ReferenceLlama } from "../support/reference_llama.ts";
import { requireShared, skipWithout } from "../support/shared.ts";

const FILE = "golden/tiny/llama-f32.gguf";
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

const made = new Map<string, Promise<LoadedRecipe>>();
function calibrate(method: MlpKind, options: Partial<CalibrateOptions> = {}): Promise<LoadedRecipe> {
  const key = JSON.stringify([method, options]);
  if (!made.has(key)) {
    made.set(
      key,
      open().then(async (model) => {
        const { vocabSize } = model.config;
        const text = Array.from({ length: 900 }, (_, i) => model.detokenize([(17 * i) % vocabSize])).join("");
        return await calibrateModel(model, {
          text,
          source: "its vocabulary",
          sparsity: 0.3,
          tokens: 400,
          method,
          ...options,
        });
      }),
    );
  }
  return made.get(key)!;
}

/** As if it had been made for another sparsity of its dial. */
function at(loaded: LoadedRecipe, sparsity: number): LoadedRecipe {
  return { ...loaded, recipe: { ...loaded.recipe, sparsity } };
}

/** All logits of IDS, the first `together` in one go and the others one by one. */
function logitsOf(session: Session, together: number, sparseFrom: number): Float32Array[] {
  const logits: Float32Array[] = [];
  if (together > 0) {
    session.prefillAll(IDS.slice(0, together), (_, row) => logits.push(row.slice()), { prefill: sparseFrom });
  }
  for (const [i, id] of IDS.slice(together).entries()) {
    logits.push(session.decode(id, { dense: together + i < sparseFrom }));
  }
  return logits;
}

function worst(actual: readonly ArrayLike<number>[], expected: readonly ArrayLike<number>[]): number {
  return Math.max(...actual.map((row, t) => largestError(row, expected[t]!)));
}

let reference: Promise<ReferenceLlama> | null = null;

for (const method of MLP_KINDS) {
  test(
    `${method}: as in float64, in prompts, in decoding and where both meet, all along the dial`,
    { skip },
    async () => {
      const loaded = await calibrate(method),
        wanted = await (reference ??= open().then((m) => ReferenceLlama.of(m)));
      const settings = method === "relufication" ? [loaded.recipe.sparsity] : [0.3, 0.1, 0.46];
      await using model = await open({ ...loaded, recipe: { ...loaded.recipe, keepDense: 0 } });
      for (const sparsity of settings) {
        for (const sparseFrom of [0, 7, 25]) {
          const expected = wanted.run(IDS, at(loaded, sparsity), sparseFrom);
          for (const together of [IDS.length, 11, 0]) {
            using session = model.session({ sparsity });
            const error = worst(logitsOf(session, together, sparseFrom), expected.logits);
            const what = `${sparsity}, sparse from ${sparseFrom}, ${together} together`;
            assert.ok(error <= 2e-4, `${what}: off by ${error}`);
            const { kept, dense } = session.count;
            assert.deepEqual([kept, dense], [expected.kept, expected.dense], what);
            if (method === "griffin" && sparseFrom > 0) {
              assert.ok(Math.abs(1 - kept / dense - sparsity) < 0.01, `${what}: ${1 - kept / dense} skipped`);
            }
          }
        }
      }
    },
  );

  test(`${method}: the dial at 0 and dense positions are the plain model to the bit, others are not`, {
    skip,
  }, async () => {
    await using model = await open(await calibrate(method));
    await using plain = await open();
    const wanted = logitsOf(plain.session(), 20, 0);
    assert.deepEqual(logitsOf(model.session({ sparsity: 0 }), 20, 0), wanted);
    assert.deepEqual(logitsOf(model.session(), 20, Infinity), wanted);
    const partly = logitsOf(model.session(), 20, 30);
    assert.deepEqual(partly.slice(0, 30), wanted.slice(0, 30));
    assert.ok(largestError(partly[30]!, wanted[30]!) > 0.02);
  });

  test(`${method}: a recipe that is written is read again, and runs the same`, { skip }, async () => {
    const loaded = await calibrate(method), { recipe } = loaded;
    assert.deepEqual(recipe.mlp, { kind: method });
    const chunks = serialiseRecipe(recipe, new Map(), tableOf(loaded), loaded);
    const again = await parseRecipe(new Blob(chunks as BlobPart[]), "recipe");
    assert.deepEqual([again.recipe, again.mlpThresholds], [recipe, loaded.mlpThresholds]);
    await using one = await open(loaded);
    await using other = await open(again);
    assert.deepEqual(logitsOf(other.session(), 20, 7), logitsOf(one.session(), 20, 7));
  });

  test(`${method}: the same bits with one thread and with three`, {
    skip: skip || noSharedMemoryReason() || false,
  }, async () => {
    const recipe = await calibrate(method);
    for (const dtype of ["f32", "int8"] as const) {
      await using alone = await open(recipe, { dtype });
      await using together = await open(recipe, { dtype, threads: 3 });
      assert.equal(together.info.threads, 3);
      assert.deepEqual(logitsOf(together.session(), 20, 7), logitsOf(alone.session(), 20, 7), dtype);
    }
  });
}

test("cats: skips what was asked for of the text it was calibrated on; its dial ends where no neuron runs", {
  skip,
}, async () => {
  const { recipe } = await calibrate("cats");
  // gate stays: two of three matrices of 64 x 160, of 43,008 weights
  assert.equal(recipe.points.at(-1), 0.47);
  await using model = await open(await calibrate("cats"));
  const text = Array.from({ length: 400 }, (_, i) => (17 * i) % model.config.vocabSize);
  for (const sparsity of [0.1, 0.3, 0.47]) {
    using session = model.session({ sparsity });
    session.advance(text, { prefill: "sparse" });
    const { kept, dense } = session.count;
    assert.ok(Math.abs(1 - kept / dense - sparsity) < 0.03, `${sparsity}: ${1 - kept / dense}`);
  }
  assert.throws(() => model.session({ sparsity: 0.48 }), /from 0 to 0\.47/);
});

test("relufication: its sparsity is what it skips", { skip }, async () => {
  const { recipe } = await calibrate("relufication");
  assert.deepEqual(recipe.points, []);
  await using model = await open(await calibrate("relufication"));
  using session = model.session();
  session.advance(Array.from({ length: 400 }, (_, i) => (17 * i) % model.config.vocabSize), {
    prefill: "sparse",
  });
  const { kept, dense } = session.count;
  assert.ok(
    Math.abs(1 - kept / dense - recipe.sparsity) < 0.01,
    `${1 - kept / dense}, not ${recipe.sparsity}`,
  );
});

test("griffin: a session picks neurons by its own dense positions, all of them", { skip }, async () => {
  await using model = await open(await calibrate("griffin"));
  const one = IDS.slice(0, 12), two = IDS.slice(20, 33), id = 9;
  const after = (...prompts: (readonly number[])[]): Float32Array => {
    using session = model.session();
    for (const prompt of prompts) session.prefill(prompt);
    return session.decode(id);
  };
  using first = model.session(), second = model.session();
  first.prefill(one);
  second.prefill(two);
  const both = [first.decode(id), second.decode(id)];
  assert.deepEqual(both, [after(one), after(two)]);
  // a second prompt adds to the first, as if they were one
  assert.ok(largestError(after(one, two), after([...one, ...two])) < 1e-4);
  // decoding leaves the choice as it is, a dense step does not
  using steps = model.session(), dense = model.session();
  for (const session of [steps, dense]) session.prefill(one);
  for (const step of two) steps.decode(step);
  for (const step of two) dense.decode(step, { dense: true });
  dense.truncate(dense.length);
  assert.ok(largestError(dense.decode(id), after([...one, ...two])) < 1e-4);
  assert.ok(largestError(steps.decode(id), after([...one, ...two])) > 0.01);
});

test("griffin: truncate goes back to what the tokens that are left had shown", { skip }, async () => {
  await using model = await open(await calibrate("griffin"));
  const one = IDS.slice(0, 12), two = IDS.slice(20, 33), id = 9;
  using session = model.session();
  session.prefill(one);
  const wanted = session.decode(id);
  for (const again of [two, [...two, ...one], two]) {
    session.truncate(one.length);
    session.prefill(again);
    session.truncate(one.length);
    assert.deepEqual(session.decode(id), wanted);
  }
  session.truncate(session.length);
  session.truncate(one.length);
  assert.deepEqual(session.decode(id), wanted);
  // a prompt that was cut has shown nothing: all neurons run
  session.truncate(5);
  await using plain = await open();
  using other = plain.session();
  other.prefill(one);
  other.truncate(5);
  assert.deepEqual(session.decode(id), other.decode(id));
});

test("griffin: a prompt that was given up in the middle leaves nothing", { skip }, async () => {
  await using model = await open(await calibrate("griffin"));
  const one = IDS.slice(0, 12), long = Array.from({ length: 300 }, (_, i) => 4 + (i * 53) % 300);
  using session = model.session(), other = model.session();
  for (const s of [session, other]) s.prefill(one);
  const stop = new AbortController(),
    cancelled = session.prefillAsync(long, {
      signal: stop.signal,
      observe: (layer, site) => {
        if (layer === 1 && site.length === 1) stop.abort(new Error("enough"));
      },
    });
  await assert.rejects(cancelled, /enough/);
  for (const s of [session, other]) {
    s.truncate(one.length);
    s.prefill(IDS.slice(20, 33));
  }
  assert.deepEqual(session.decode(9), other.decode(9));
});

test("NeuronScores: shares of each token, the best of their sums, the first of equals", () => {
  const scores = new NeuronScores(2, 4);
  assert.equal(scores.mask(0, 2), null);
  scores.begin();
  // squared shares: 0.5 0.5 0 0, then 0 0 0.1 0.9
  scores.add(0, Float32Array.of(-7, 7, 0, 0));
  scores.add(0, Float32Array.of(0, 0, 1, 3));
  scores.add(0, new Float32Array(4));
  assert.deepEqual(scores.mask(0, 2), Uint8Array.of(1, 0, 0, 1));
  assert.deepEqual(scores.mask(0, 3), Uint8Array.of(1, 1, 0, 1));
  scores.commit();
  scores.mark(2);
  assert.deepEqual(scores.mask(0, 1), Uint8Array.of(0, 0, 0, 1));
  scores.begin();
  scores.add(0, Float32Array.of(0, 0, 5, 0));
  assert.deepEqual(scores.mask(0, 1), Uint8Array.of(0, 0, 1, 0));
  // given up
  scores.begin();
  assert.deepEqual(scores.mask(0, 1), Uint8Array.of(0, 0, 0, 1));
  scores.add(0, Float32Array.of(0, 0, 5, 0));
  scores.commit();
  scores.mark(3);
  scores.truncate(2);
  assert.deepEqual(scores.mask(0, 1), Uint8Array.of(0, 0, 0, 1));
  scores.truncate(1);
  assert.equal(scores.mask(0, 1), null);
});

const SMOLLM2 = {
  hiddenSize: 576,
  intermediateSize: 1536,
  numAttentionHeads: 9,
  numKeyValueHeads: 3,
  headDim: 64,
};

test("neuronShare: SmolLM2's shares, and no more than all neurons", () => {
  const config = SMOLLM2 as unknown as LlamaConfig;
  assert.deepEqual(MLP_KINDS.map((kind) => mostSparsity(kind, config)), [0.5, 0.75, 0.5]);
  assert.deepEqual([0.2, 0.25, 0.5].map((s) => neuronShare("cats", config, s)), [0.4, 0.5, 1]);
  assert.deepEqual([0.375, 0.3, 0.75].map((s) => neuronsKept(config, s)), [768, 921, 0]);
  assert.throws(() => neuronShare("cats", config, 0.51), {
    name: "RangeError",
    message: /sparsity 0\.51: cats .* at most 0\.5 of this model's block weights/,
  });
  assert.throws(() => neuronsKept(config, 0.76), /at most 0\.75/);
});

test(
  "calibrateModel: cats and griffin refuse more than all neurons; griffin reads nothing",
  { skip },
  async () => {
    await assert.rejects(calibrate("cats", { sparsity: 0.5 }), {
      name: "RangeError",
      message: /at most 0\.476/,
    });
    await assert.rejects(calibrate("griffin", { sparsity: 0.8 }), {
      name: "RangeError",
      message: /at most 0\.714/,
    });
    const { calibration } = (await calibrate("griffin")).recipe;
    assert.deepEqual(calibration, { source: "none", tokens: 0, sha256: "" });
    const signal = AbortSignal.abort();
    const model = await open(), text = "some text of more than two tokens";
    for (const method of ["cats", "relufication"] as const) {
      const stopped = calibrateModel(model, { text, source: "t", sparsity: 0.3, method, signal });
      await assert.rejects(stopped, { name: "AbortError" });
      assert.equal(model.engine.weights.mlp, undefined);
    }
  },
);

test("joinRecipe, checkRecipe: rules of the MLP that make no sense are named", { skip }, async () => {
  const cats = await calibrate("cats"), griffin = await calibrate("griffin");
  type Fields = { [field: string]: unknown };
  const join = (
    loaded: LoadedRecipe,
    changes: Fields,
    mlpThresholds = loaded.mlpThresholds,
    at: (path: string) => Fields = () => ({}),
  ): LoadedRecipe => {
    const projections = loaded.recipe.projections.map((p) => ({ ...p, ...at(p.path) }));
    const recipe = { ...loaded.recipe, projections, ...changes } as typeof loaded.recipe;
    return joinRecipe(recipe, new Map(), recipe.points.length === 0 ? null : tableOf(loaded), {
      mlpThresholds,
    });
  };
  join(cats, {});
  const table = cats.mlpThresholds!, descending = table.slice().reverse();
  const modeAt = (end: string, mode: string) => (path: string): Fields => path.endsWith(end) ? { mode } : {};
  const cases: [string, () => unknown][] = [
    ["mlp", () => join(cats, { mlp: undefined })],
    ["mlp", () => join(cats, { mlp: "cats" })],
    ["mlp.kind", () => join(cats, { mlp: { kind: "teal" } })],
    ["mlp.kind", () => join(cats, { mlp: { kind: "griffin" } })],
    ["points", () => join(cats, { points: [] })],
    ["mlp.thresholds", () => join(cats, {}, null)],
    ["mlp.thresholds", () => join(cats, {}, table.slice(1))],
    ["mlp.thresholds", () => join(griffin, {}, table)],
    ["mlp.thresholds.0.1", () => join(cats, {}, descending)],
    ["mlp.thresholds.1.0", () => join(cats, {}, table.with(table.length / 2, NaN))],
    ["model.layers.0.mlp.down_proj.mode", () => join(cats, {}, table, modeAt("0.mlp.down_proj", "dense"))],
    ["model.layers.1.mlp.up_proj.mode", () => join(cats, {}, table, modeAt("1.mlp.up_proj", "sparse"))],
    ["model.layers.0.mlp.gate_proj.mode", () => join(griffin, {}, null, modeAt("gate_proj", "sparse"))],
  ];
  for (const [path, run] of cases) {
    assert.throws(run, (error: unknown) => {
      assert.ok(error instanceof RecipeError, String(error));
      assert.ok(error.message.startsWith(`Cannot use recipe: ${path}: `), error.message);
      return true;
    }, path);
  }
  await using model = await open();
  const wide = { ...model.config, numAttentionHeads: 64 };
  assert.throws(
    () => checkRecipe(join(cats, {}), wide, cats.recipe.modelHash),
    /points: 0\.\d+ found, cats can skip/,
  );
});
