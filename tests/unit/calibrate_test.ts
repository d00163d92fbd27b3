/** Calibration on the sparse stream, and the methods that choose what to skip. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { calibrateModel, type CalibrateOptions, CALIBRATION_METHODS } from "../../src/calibrate/calibrate.ts";
import { streamThresholds } from "../../src/calibrate/stream.ts";
import { ThresholdObserver } from "../../src/calibrate/threshold.ts";
import { type ProjectionName, projectionPath, PROJECTIONS, projectionShape } from "../../src/model/config.ts";
import { siteShares } from "../../src/recipe/budget.ts";
import { MLP_KINDS } from "../../src/recipe/mlp.ts";
import type { LoadedRecipe } from "../../src/recipe/recipe.ts";
import { projectionsOf } from "../../src/runtime/forward.ts";
import { Model } from "../../src/runtime/model.ts";
import { UNTUNED } from "../../src/runtime/tuner.ts";
import { requireShared, skipWithout } from "../support/shared.ts";

const TINY = "golden/tiny/llama-f32.gguf";
const skip = skipWithout(TINY);

function open(recipe?: LoadedRecipe): Promise<Model> {
  return Model.load(requireShared(TINY), { kernels: "baseline", threads: 1, recipe, tuning: UNTUNED });
}

let plain: Promise<Model> | null = null;
const denseModel = (): Promise<Model> => plain ??= open();

async function calibrate(options: Partial<CalibrateOptions>): Promise<LoadedRecipe> {
  const model = await denseModel(), { vocabSize } = model.config;
  const text = Array.from({ length: 900 }, (_, i) => model.detokenize([(17 * i) % vocabSize])).join("");
  return await calibrateModel(model, {
    text,
    source: "its vocabulary",
    sparsity: 0.5,
    tokens: 400,
    ...options,
  });
}

test("siteShares: down and o skip more, the whole what was asked for; the more, the more each", () => {
  const smollm2 = { down: 24, o: 9, others: 63 };
  const wanted = [[0.4, 0.55, 0.45, 0.3357], [0.5, 0.65, 0.6, 0.4286], [0.6, 0.75, 0.7, 0.5286], [
    0.7,
    0.85,
    0.8,
    0.6286,
  ]];
  for (const [sparsity, ...shares] of wanted) {
    const { down, o, others } = siteShares(smollm2, sparsity!);
    assert.deepEqual([down, o, others].map((share) => Number(share.toFixed(4))), shares);
  }
  let last = [-1, -1, -1];
  for (let i = 0; i < 100; i++) {
    const { down, o, others } = siteShares(smollm2, i / 100), shares = [down, o, others];
    assert.ok(Math.abs((24 * down + 9 * o + 63 * others) / 96 - i / 100) < 1e-12, String(i));
    shares.forEach((share, k) =>
      assert.ok(share >= last[k]! && share >= 0 && share <= 0.9901, `${i}: ${shares}`)
    );
    last = shares;
  }
  assert.deepEqual(siteShares(smollm2, 0), { down: 0, o: 0, others: 0 });
  for (const sparsity of [-0.1, 1, NaN]) assert.throws(() => siteShares(smollm2, sparsity), RangeError);
});

test(
  "streamThresholds: where nothing is skipped yet, the thresholds of the dense model",
  { skip },
  async () => {
    const model = await denseModel(), shares = [0, 0.25, 0.5];
    // longer than one pass, and a piece that ends in one token
    const pieces = [160, 129].map((n, p) =>
      Array.from({ length: n }, (_, i) => (13 * i + p) % model.config.vocabSize)
    );
    const found = await streamThresholds(model, {
      pieces,
      keepDense: 1,
      targets: () => ({ shares, own: 0 }),
    });
    const observers = await observe(model, pieces);
    for (const [path, row] of found) assert.deepEqual(row, observers.get(path)!.quantiles(shares), path);
    assert.equal(found.size, 7 * model.config.numHiddenLayers);
    for (const layer of model.engine.weights.layers) {
      for (const { rule } of projectionsOf(layer)) assert.equal(rule, null, "a rule is left");
    }
  },
);

test("streamThresholds: each is the quantile of what the sparse model sees there", { skip }, async () => {
  for (const method of ["teal", "by-site"] as const) {
    const recipe = await calibrate({ method, sparsity: 0.6 }), model = await open(recipe);
    const text = Array.from({ length: 900 }, (_, i) => model.detokenize([(17 * i) % model.config.vocabSize]))
      .join("");
    const ids = model.description.tokenizer.encode(text).slice(0, 400), { contextLength } = model.engine;
    const pieces = Array.from(
      { length: Math.ceil(400 / contextLength) },
      (_, i) => ids.slice(contextLength * i, contextLength * (i + 1)),
    );
    const observers = await observe(model, pieces);
    for (const { path, sparsity, threshold } of recipe.recipe.projections) {
      assert.equal(threshold, observers.get(path)!.quantile(sparsity), `${method} ${path}`);
    }
  }
});

test("streamThresholds: an abort ends it and leaves no rule behind", { skip }, async () => {
  const model = await denseModel(), stop = new AbortController();
  const reason = new Error("enough");
  await assert.rejects(
    streamThresholds(model, {
      pieces: [[1, 2, 3, 4]],
      keepDense: 0,
      targets: () => ({ shares: [0.5], own: 0 }),
      signal: stop.signal,
      onTokens: () => stop.abort(reason),
    }),
    reason,
  );
  assert.ok(model.engine.weights.layers.flatMap(projectionsOf).every(({ rule }) => rule === null));
});

test(
  "calibrateModel: every method of channels skips what was asked for, and turns the dial",
  { skip },
  async () => {
    for (
      const method of CALIBRATION_METHODS.filter((method) =>
        !(MLP_KINDS as readonly string[]).includes(method)
      )
    ) {
      const made = await calibrate({ method }), { recipe } = made, first = recipe.projections[0]!;
      assert.deepEqual([recipe.method, recipe.sparsity], [method, 0.5]);
      assert.deepEqual([recipe.rho, first.mode], method === "low-rank" ? [0, "low_rank"] : [1, "sparse"]);
      assert.equal(first.score, method === "wina" ? "columnNorm" : "abs");
      const model = await open(made),
        ids = Array.from({ length: 96 }, (_, i) => (17 * i + 5) % model.config.vocabSize);
      for (const sparsity of method === "low-rank" ? [0.5] : [0.25, 0.5, 0.75]) {
        using session = model.session({ sparsity });
        session.prefill(ids, { prefill: "sparse" });
        const { kept, dense } = session.count;
        assert.ok(Math.abs(1 - kept / dense - sparsity) < 0.06, `${method} ${sparsity}: ${1 - kept / dense}`);
      }
    }
    const sparsities = new Map(
      (await calibrate({ method: "by-site" })).recipe.projections.map((p) => [p.path, p.sparsity]),
    );
    const of = (name: ProjectionName): number => sparsities.get(projectionPath(0, name))!;
    assert.deepEqual([of("downProj"), of("oProj")], [0.65, 0.6]);
    assert.ok(of("qProj") < 0.5 && of("qProj") === of("upProj"));
  },
);

test("calibrateModel: a method that is not known, or with a rho that is not its own", { skip }, async () => {
  await assert.rejects(calibrate({ method: "magic" as "teal" }), {
    name: "RangeError",
    message: /method: magic found/,
  });
  await assert.rejects(calibrate({ method: "teal", rho: 0.9 }), {
    name: "RangeError",
    message: /teal has 1/,
  });
  await assert.rejects(calibrate({ method: "low-rank", rho: 1 }), {
    name: "RangeError",
    message: /low-rank has 0/,
  });
});

/** The inputs of all projections in runs over some pieces, sparse where the model has a recipe. */
async function observe(
  model: Model,
  pieces: readonly (readonly number[])[],
): Promise<Map<string, ThresholdObserver>> {
  const observers = new Map<string, ThresholdObserver>();
  for (let l = 0; l < model.config.numHiddenLayers; l++) {
    for (const name of PROJECTIONS) observers.set(projectionPath(l, name), new ThresholdObserver());
  }
  for (const piece of pieces) {
    using session = model.session();
    session.advance(piece, {
      prefill: "sparse",
      observe: (layer, site, x, stride, n) => {
        for (const name of site) {
          const { nIn } = projectionShape(model.config, name);
          for (let t = 0; t < n; t++) {
            const row = new Float32Array(model.engine.memory.buffer, x + 4 * stride * t, nIn);
            observers.get(projectionPath(layer, name))!.observe(row);
          }
        }
      },
    });
  }
  return await Promise.resolve(observers);
}
