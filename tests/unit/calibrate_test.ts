/** Calibration on the sparse stream, and the methods that choose what to skip. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { calibrateModel, type CalibrateOptions } from "../../src/calibrate/calibrate.ts";
import { CALIBRATION_METHODS } from "../../src/calibrate/methods.ts";
import { blend, correct } from "../../src/calibrate/dial_rows.ts";
import { streamThresholds } from "../../src/calibrate/stream.ts";
import { ThresholdObserver } from "../../src/calibrate/threshold.ts";
import { type ProjectionName, projectionPath, PROJECTIONS, projectionShape } from "../../src/model/config.ts";
import { siteShares } from "../../src/recipe/budget.ts";
import { MLP_KINDS } from "../../src/recipe/mlp.ts";
import {
  type LoadedRecipe,
  type ProjectionTensors,
  serialiseRecipe,
  tableOf,
} from "../../src/recipe/recipe.ts";
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

function textOf(model: Model): string {
  const { vocabSize } = model.config;
  return Array.from({ length: 900 }, (_, i) => model.detokenize([(17 * i) % vocabSize])).join("");
}

/** As calibration cuts it: its pieces are longer than this model's context. */
function piecesOf(
  model: Model,
  ids: readonly number[] = model.description.tokenizer.encode(textOf(model)).slice(0, 400),
): number[][] {
  const { contextLength } = model.engine;
  assert.ok(contextLength <= 512);
  return Array.from(
    { length: Math.ceil(ids.length / contextLength) },
    (_, i) => ids.slice(contextLength * i, contextLength * (i + 1)),
  );
}

async function calibrate(options: Partial<CalibrateOptions>): Promise<LoadedRecipe> {
  const model = await denseModel();
  return await calibrateModel(model, {
    text: textOf(model),
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
    const observers = await observe(model, pieces), first = await observe(model, pieces.slice(0, 1));
    for (const own of [0, null]) {
      const { rows, sample } = await streamThresholds(model, {
        pieces,
        keepDense: 1,
        shares: () => shares,
        own,
        sample: 1,
      });
      for (const [path, row] of rows) {
        assert.deepEqual(row, observers.get(path)!.quantiles(shares), path);
        assert.deepEqual(sample.get(path), first.get(path)!.quantiles(shares), path);
      }
      assert.equal(rows.size, 7 * model.config.numHiddenLayers);
    }
    for (const layer of model.engine.weights.layers) {
      for (const { rule } of projectionsOf(layer)) assert.equal(rule, null, "a rule is left");
    }
  },
);

test(
  "calibrateModel: each threshold is the quantile of what the sparse model sees there",
  { skip },
  async () => {
    const cases: Partial<CalibrateOptions>[] = [
      { method: "teal" },
      {},
      { method: "wina" },
      { method: "r-sparse", rho: 0.8, stream: "sparse" },
    ];
    for (const options of cases) {
      const recipe = await calibrate({ ...options, sparsity: 0.6 }), model = await open(recipe);
      const { method, rho, calibration } = recipe.recipe, what = `${method} ${rho}`;
      assert.equal(calibration.stream, "sparse");
      assert.equal(recipe.recipe.keepDense, options.keepDense ?? 0);
      const observers = await observe(model, piecesOf(model), (path) => recipe.scale(path));
      for (const { path, sparsity, threshold } of recipe.recipe.projections) {
        const share = 1 - (1 - sparsity) * rho;
        assert.equal(threshold, observers.get(path)!.quantile(share), `${what} ${path}`);
      }
      // the masks of q, k and v are one where they score by |x|, each its own where by their columns
      const [q, k] = ["qProj", "kProj"].map((name) =>
        recipe.thresholds(projectionPath(0, name as ProjectionName))!
      );
      assert.equal(q!.every((value, i) => value === k![i]), method === "teal" || method === "by-site", what);
    }
  },
);

test(
  "calibrateModel: on the dense stream, the quantiles of the dense model at every setting",
  { skip },
  async () => {
    for (
      const options of [{ method: "by-site", stream: "dense" }, { rho: 0.8 }, { rho: 1 }, {
        method: "wina",
        stream: "dense",
      }] as const
    ) {
      const { recipe, scale, thresholds } = await calibrate(options), model = await denseModel();
      const { method, rho, sparsity, points } = recipe;
      assert.equal(method, "method" in options ? options.method : "r-sparse");
      assert.deepEqual([recipe.calibration.stream, recipe.keepDense], ["dense", 1]);
      const observers = await observe(model, piecesOf(model), scale);
      for (const p of recipe.projections) {
        if (method === "by-site") assert.equal(p.threshold, observers.get(p.path)!.quantile(p.sparsity));
        else {
          const shares = points.map((at) =>
            at === sparsity ? 1 - (1 - sparsity) * rho : Math.min(at + (1 - sparsity) * (1 - rho), 1)
          );
          assert.deepEqual(
            thresholds(p.path),
            observers.get(p.path)!.quantiles(shares),
            `${method} ${p.path}`,
          );
        }
      }
    }
  },
);

test(
  "calibrateModel: at another setting of the dial, near what the model sees when it runs there",
  { skip },
  async () => {
    const far = async (options: Partial<CalibrateOptions>): Promise<number> => {
      const recipe = await calibrate({ sparsity: 0.4, ...options }),
        other = await calibrate({ sparsity: 0.7, dialStreams: [] });
      const at = recipe.recipe.points.indexOf(0.7),
        logs = other.recipe.projections.map(({ path, threshold }) =>
          Math.abs(Math.log(recipe.thresholds(path)![at]! / threshold))
        );
      return logs.reduce((sum, log) => sum + log, 0) / logs.length;
    };
    // the text is shorter than the sample, so that the run at 0.7 is the same one
    assert.equal(await far({ dialStreams: [0.7] }), 0);
    const [between, alone] = [await far({ dialStreams: [0.6, 0.8] }), await far({ dialStreams: [] })];
    assert.ok(between < alone / 2, `${between} ${alone}`);
  },
);

test("calibrateModel: documents are each followed by token 0", { skip }, async () => {
  const model = await denseModel(), text = [textOf(model).slice(0, 70), "x", textOf(model).slice(70, 140)];
  const { recipe } = await calibrate({ text, method: "teal", stream: "dense" });
  const ids = text.flatMap((document) => [...model.description.tokenizer.encode(document), 0]);
  assert.ok(ids.length < 400);
  assert.equal(recipe.calibration.tokens, ids.length);
  const observers = await observe(model, piecesOf(model, ids));
  for (const { path, threshold } of recipe.projections) {
    assert.equal(threshold, observers.get(path)!.quantile(0.5), path);
  }
  const cut = await calibrate({ text, method: "teal", stream: "dense", tokens: 60 });
  assert.equal(cut.recipe.calibration.tokens, 60);
});

test("correct: a ratio, where there is one", () => {
  assert.equal(correct(2, 3, 1.5), 4);
  for (const [value, whole, part] of [[-1, 3, 1], [0, 3, 1], [2, 0, 1], [2, 1, 0], [2, -1, -1]] as const) {
    assert.equal(correct(value, whole, part), value);
  }
});

test("blend: the runs next to a point, weighed by how near they are", () => {
  const points = [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6], row = (...values: number[]) => Float32Array.from(values);
  const runs = [
    { at: 0.2, row: row(-1, 1, 2, 3, 4, 5, 6) },
    { at: 0.4, row: row(-1, 2, 4, 6, 8, 10, 12) },
  ];
  // below and above the runs as the nearest one; 0.3 half way
  assert.deepEqual(blend(points, runs), row(-1, 1, 2, 4.5, 8, 10, 12));
  assert.deepEqual(blend(points, runs.slice(1)), runs[1]!.row);
  // never descending, also where the runs would have it so; -1 counts as 0
  const falling = [{ at: 0.1, row: row(-1, 5, 6, 7, 8, 9, 10) }, {
    at: 0.2,
    row: row(-1, -1, 1, 2, 9, 9, 10),
  }];
  assert.deepEqual(blend(points, falling), row(-1, 5, 5, 5, 9, 9, 10));
});

test(
  "calibrateModel: what was put by is taken up, and the recipe is the same to the byte",
  { skip },
  async () => {
    for (const options of [{}, { rho: 0.8, stream: "sparse" }, { rho: 0.8 }, { rho: 0 }] as const) {
      const bytes = async (more: Partial<CalibrateOptions>): Promise<string> => {
        const made = await calibrate({ ...options, ...more }), tensors = new Map<string, ProjectionTensors>();
        for (const { path } of made.recipe.projections) {
          const factors = made.factors(path), scale = made.scale(path);
          if (factors !== null || scale !== null) tensors.set(path, { factors, scale });
        }
        return serialiseRecipe(made.recipe, tensors, tableOf(made)).map((chunk) => chunk.join()).join("|");
      };
      const wanted = await bytes({}), kept = new Map<string, Uint8Array>(), what = JSON.stringify(options);
      // ends at every step, one more each time
      const died = new Error("no power");
      let puts = 0, rounds = 0, found: string | null = null;
      const checkpoint = {
        get: (name: string) => Promise.resolve(kept.get(name) ?? null),
        put: (name: string, bytes: Uint8Array) => {
          kept.set(name, bytes.slice());
          puts++;
          return Promise.reject(died);
        },
      };
      while (found === null) {
        found = await bytes({ checkpoint }).catch((error) => {
          assert.equal(error, died);
          return null;
        });
        assert.ok(++rounds < 200, "it does not go on");
      }
      assert.equal(found === wanted, true, what);
      // each round does one step: none is done twice
      assert.equal(rounds, puts + 1, what);
      const again: string[] = [];
      const store = { get: checkpoint.get, put: (name: string) => Promise.resolve(void again.push(name)) };
      assert.equal(await bytes({ checkpoint: store }) === wanted, true);
      assert.deepEqual(again, [], what);
      // what does not fit is not taken
      for (const [name, value] of kept) kept.set(name, value.subarray(0, value.length - 4));
      assert.equal(await bytes({ checkpoint: store }) === wanted, true, what);
    }
  },
);

test("streamThresholds: an abort ends it and leaves no rule behind", { skip }, async () => {
  const model = await denseModel(), stop = new AbortController();
  const reason = new Error("enough");
  await assert.rejects(
    streamThresholds(model, {
      pieces: [[1, 2, 3, 4]],
      keepDense: 0,
      shares: () => [0.5],
      own: 0,
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
  for (
    const [options, message] of [
      [{ method: "teal", compat: "official" }, /compat: official found with teal/],
      [{ compat: "official", stream: "sparse" }, /official calibration is dense/],
      [{ keepDense: -1 }, /keepDense: -1 found/],
      [{ keepDense: 1, compat: "official" }, /keepDense: 1 found/],
      [{ dialStreams: [0.255] }, /dial streams: 0.255 found, hundredths/],
      [{ method: "low-rank", stream: "sparse" }, /with rho 0 there are no thresholds/],
    ] as const
  ) await assert.rejects(calibrate(options), { name: "RangeError", message });
  const model = await open(await calibrate({}));
  await assert.rejects(
    calibrateModel(model, { text: textOf(model), source: "x", sparsity: 0.5 }),
    /has a recipe/,
  );
});

/** The inputs of all projections in runs over some pieces, sparse where the model has a recipe. */
async function observe(
  model: Model,
  pieces: readonly (readonly number[])[],
  scale: (path: string) => Float32Array | null = () => null,
): Promise<Map<string, ThresholdObserver>> {
  const observers = new Map<string, ThresholdObserver>();
  for (let l = 0; l < model.config.numHiddenLayers; l++) {
    for (const name of PROJECTIONS) {
      const path = projectionPath(l, name);
      observers.set(path, new ThresholdObserver({ scale: scale(path) }));
    }
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
