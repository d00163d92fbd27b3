/** The parts of an analysis, by hand; a whole one, byte for byte. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { analyzeModel, type AnalyzeOptions, type Omitted } from "../../src/analyze/analyze.ts";
import { FIGURES } from "../../src/analyze/names.ts";
import { accountedFor, biasVectors, centre } from "../../src/analyze/bias_rank.ts";
import { contributionOf, cumulativeShares, largestFirst, marginsOf } from "../../src/analyze/contribution.ts";
import { csv } from "../../src/plot/csv.ts";
import type { Figure } from "../../src/plot/figure.ts";
import { sampleLayers, sampleNote } from "../../src/analyze/layers.ts";
import { Magnitudes } from "../../src/analyze/magnitudes.ts";
import { maskOf, MaskStatistics, testsOf } from "../../src/analyze/masks.ts";
import { ranksOf } from "../../src/analyze/spectra.ts";
import { calibrateModel } from "../../src/calibrate/calibrate.ts";
import type { LoadedRecipe, ProjectionRecipe } from "../../src/recipe/recipe.ts";
import { Model } from "../../src/runtime/model.ts";
import { UNTUNED } from "../../src/runtime/tuner.ts";
import { requireShared, skipWithout } from "../support/shared.ts";
import { assertWellFormed } from "../support/svg.ts";

const near = (found: number, wanted: number, message?: string): void =>
  assert.ok(
    Math.abs(found - wanted) <= 1e-6 * Math.max(1, Math.abs(wanted)),
    message ?? `${found}, not ${wanted}`,
  );

test("ranksOf: equal values are full rank, one alone is rank 1, none 0", () => {
  assert.deepEqual(ranksOf([3, 3, 3, 3]), { entropy: 4, stable: 4 });
  assert.deepEqual(ranksOf([5]), { entropy: 1, stable: 1 });
  assert.deepEqual(ranksOf([0, 0]), { entropy: 0, stable: 0 });
  // p = 3/4, 1/4: exp(0.5623); squares 10 / 9
  near(ranksOf([3, 1]).entropy, 1.7547653506033);
  near(ranksOf([3, 1]).stable, 10 / 9);
});

test("csv: seven digits, quotes where they are needed", () => {
  assert.equal(
    csv(["a", "b,c"], [[1 / 3, null], ['x "y"', 2e-12]]),
    'a,"b,c"\n0.3333333,\n"x ""y""",2e-12\n',
  );
});

test("sampleLayers: evenly, with both ends", () => {
  assert.deepEqual(sampleLayers(30, 3), [0, 15, 29]);
  assert.deepEqual(sampleLayers(30, 6), [0, 6, 12, 17, 23, 29]);
  assert.deepEqual(sampleLayers(2, 6), [0, 1]);
  assert.deepEqual(sampleLayers(5, 1), [2]);
  assert.deepEqual(sampleNote([0, 4], 5), ["layers 0, 4 of 5"]);
  assert.deepEqual(sampleNote([0, 1], 2), []);
});

test("Magnitudes: quantiles within a bin, a histogram by quarters of an octave, sums by channel", () => {
  const magnitudes = new Magnitudes(4);
  // 1000 tokens, the first float of each row is not part of it
  for (let t = 0; t < 1000; t++) magnitudes.add(Float32Array.of(99, t / 500 - 1, 0, 3, -1.3), 1);
  assert.deepEqual([magnitudes.rows, magnitudes.count], [1000, 4000]);
  near(magnitudes.sums[2]!, 3000);
  near(magnitudes.sums[3]!, 1300);
  // 1001 zeros, 999 of |t / 500 - 1|, 1000 of 1.3, 1000 of 3
  assert.equal(magnitudes.quantile(0.25), 0);
  const half = magnitudes.quantile(1001.5 / 4000 + 500 / 4000);
  assert.ok(Math.abs(half - 0.5) < 0.5 / 32, String(half));
  assert.ok(Math.abs(magnitudes.quantile(0.7) - 1.3) < 1.3 / 32);
  const { zeros, low, counts } = magnitudes.quarters();
  assert.equal(zeros, 1001);
  assert.equal(counts.reduce((a, b) => a + b), 2999);
  assert.equal(counts[low.indexOf(1.25)], 1000);
  assert.equal(counts[low.indexOf(3)], 1000);
  assert.equal(counts[low.indexOf(1.5)], 0);
  assert.throws(() => magnitudes.add(Float32Array.of(0, NaN, 0, 0), 0), RangeError);
  assert.throws(() => magnitudes.add(Float32Array.of(0, 0, -Infinity, 0), 0), RangeError);
});

/** A recipe of one layer. */
function recipe(
  modes: readonly Partial<ProjectionRecipe>[],
  scale: (path: string) => Float32Array | null,
): LoadedRecipe {
  const paths = ["q", "k", "v", "o"].map((name) => `model.layers.0.self_attn.${name}_proj`);
  const projections = paths.map((path, i) => ({
    path,
    score: "abs" as const,
    threshold: 0.5,
    rho: 1,
    sparsity: 0.5,
    channels: 1,
    rank: 0,
    mode: "sparse" as const,
    ...modes[i],
  }));
  return {
    recipe: { projections } as unknown as LoadedRecipe["recipe"],
    factors: () => null,
    scale,
    thresholds: () => null,
    bias: () => null,
    gains: new Map(),
    mlpThresholds: null,
  };
}

test("testsOf: one test for projections that share it; all and none; null for other means", () => {
  const none = (): null => null;
  assert.deepEqual(testsOf(recipe([], none), 0, 0), [
    { names: ["qProj", "kProj", "vProj"], scale: null, threshold: 0.5 },
  ]);
  const mixed = testsOf(recipe([{ mode: "dense" }, { mode: "low_rank" }, { threshold: 0.1 }], none), 0, 0)!;
  assert.deepEqual(mixed.map(({ names, threshold }) => [names[0], threshold]), [
    ["qProj", -1],
    ["kProj", Infinity],
    ["vProj", Math.fround(0.1)],
  ]);
  const scales = new Map([["q", Float32Array.of(1, 2)], ["k", Float32Array.of(1, 2)], [
    "v",
    Float32Array.of(2, 1),
  ]]);
  const scaled = testsOf(recipe([], (path) => scales.get(/(.)_proj$/.exec(path)![1]!)!), 0, 0)!;
  assert.deepEqual(scaled.map(({ names }) => names), [["qProj", "kProj"], ["vProj"]]);
  const other = { mode: "gated" } as unknown as ProjectionRecipe;
  assert.equal(testsOf(recipe([{}, other], none), 0, 0), null);
  const cats = recipe([], none);
  assert.equal(testsOf({ ...cats, recipe: { ...cats.recipe, mlp: { kind: "cats" } } }, 0, 0), null);
});

test("maskOf: above the threshold, equal is not; scores in float32", () => {
  const mask = new Uint8Array(4), x = Float32Array.of(9, 0.5, -0.6, 0, 0.3);
  assert.equal(maskOf(mask, x, 1, { scale: null, threshold: 0.5 }), 1);
  assert.deepEqual([...mask], [0, 1, 0, 0]);
  assert.equal(maskOf(mask, x, 1, { scale: Float32Array.of(2, 0, 1, 2), threshold: 0.5 }), 2);
  assert.deepEqual([...mask], [1, 0, 0, 1]);
  assert.equal(maskOf(mask, x, 1, { scale: null, threshold: -1 }), 4);
  assert.equal(maskOf(mask, x, 1, { scale: null, threshold: Infinity }), 0);
});

test("MaskStatistics: kept share, Jaccard index, and what chance gives", () => {
  const statistics = new MaskStatistics({ names: ["oProj"], scale: null, threshold: 0.5 }, 4);
  const add = (...x: number[]): number => statistics.add(Float32Array.from(x), 0);
  assert.equal(statistics.overlap, null);
  add(1, 1, 0, 0);
  add(0, 1, 1, 0); // 1 of 3
  add(0, 1, 1, 0); // 2 of 2
  add(0, 0, 0, 0); // none active: no pair
  add(1, 0, 0, 0); // none before
  statistics.begin();
  add(1, 0, 0, 0); // another sequence
  near(statistics.kept, 8 / 24);
  const { jaccard, stays, independent, byChannel, pairs } = statistics.overlap!;
  assert.equal(pairs, 2);
  near(jaccard, (1 / 3 + 1) / 2);
  near(stays, (1 / 2 + 1) / 2);
  // 2 * 2 / 4 = 1 of 3 by chance, both times
  near(independent, 1 / 3);
  // shares 1/2, 1/2, 1/3, 0
  const both = 1 / 4 + 1 / 4 + 1 / 9, either = 2 * (1 / 2 + 1 / 2 + 1 / 3) - both;
  near(byChannel, both / either);
});

test("contributionOf, marginsOf: the mean of |sigma x V| over tokens, summed both ways", () => {
  const v = Float32Array.of(0.6, -0.8, 0.8, 0.6), sigma = Float64Array.of(3, 1);
  const x = [[1, -2], [-3, 0]], means = Float64Array.of(2, 1);
  const { s } = contributionOf({ sigma, v }, means);
  for (let i = 0; i < 2; i++) {
    for (let c = 0; c < 2; c++) {
      const mean = x.reduce((sum, row) => sum + Math.abs(sigma[i]! * row[c]! * v[2 * i + c]!), 0) / 2;
      near(s[2 * i + c]!, mean);
    }
  }
  const { channels, components } = marginsOf({ s, nIn: 2, rank: 2 });
  near(channels[0]!, 3.6 + 1.6);
  near(components[0]!, 3.6 + 2.4);
  assert.deepEqual(largestFirst([1, 5, 1, 7]), [3, 1, 0, 2]);
  assert.deepEqual(cumulativeShares(Float64Array.of(1, 6, 3)), [
    { k: 0, share: 0 },
    { k: 1, share: 0.6 },
    { k: 2, share: 0.9 },
    { k: 3, share: 1 },
  ]);
  assert.equal(cumulativeShares(new Float64Array(1000)).at(-1)!.share, 1);
});

test("biasVectors, accountedFor, centre: two phases a token", () => {
  // channel columns of W (2 outputs): (1, 0), (0, 1), (1, 1)
  const w = Float32Array.of(1, 0, 1, 0, 1, 1),
    test_ = { names: ["oProj"] as const, scale: null, threshold: 1 };
  const x = Float32Array.of(-0.5, 0.5, 9, 0.5, 0.5, 0);
  const { biases, dropped } = biasVectors({ x, tokens: 2, test: test_ }, w, 2);
  // token 0: x = -0.5 in channel 0, 0.5 in channel 1, channel 2 is large; token 1: 0.5 in both
  assert.deepEqual([...dropped], [-0.5, 0.5, 0.5, 0.5]);
  assert.deepEqual([...biases].map((value) => value + 0), [-0.5, 0, 0, 0.5, 0, 0, 0.5, 0.5]);
  // every inactive input is its phase's constant
  const { byPhases, byMean } = accountedFor(biases, dropped, 2);
  near(byPhases, 1);
  // mean (0, 0.5): 0.5 of a sum of squares of 1
  near(byMean, 0.5);
  assert.deepEqual([...centre(biases, 2)].map((value) => value + 0), [-0.25, 0, -0.25, 0, 0.25, 0, 0.25, 0]);
  assert.deepEqual(accountedFor(new Float32Array(4), new Float32Array(2), 2), { byPhases: 0, byMean: 0 });
});

const TINY = "golden/tiny/llama-f32.gguf", skip = skipWithout(TINY);

function open(loaded?: LoadedRecipe): Promise<Model> {
  return Model.load(requireShared(TINY), {
    kernels: "baseline",
    threads: 1,
    recipe: loaded,
    tuning: UNTUNED,
  });
}

/** Its whole vocabulary, over and over. */
function textFor(model: Model): string {
  return Array.from({ length: 700 }, (_, i) => model.detokenize([(17 * i) % model.config.vocabSize])).join(
    "",
  );
}

async function analyze(model: Model, options: Partial<AnalyzeOptions> = {}): Promise<(Figure | Omitted)[]> {
  const made: (Figure | Omitted)[] = [];
  for await (
    const one of analyzeModel(model, {
      text: textFor(model),
      source: "its vocabulary",
      tokens: 300,
      ...options,
    })
  ) {
    made.push(one);
  }
  return made;
}

async function digest(made: readonly (Figure | Omitted)[]): Promise<string> {
  const bytes = new TextEncoder().encode(
    made.map((one) => "svg" in one ? one.svg + one.csv : one.reason).join("\n"),
  );
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(hash.subarray(0, 8), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

test("analyzeModel: every figure of a dense model, the same bytes in every runtime", { skip }, async () => {
  await using model = await open();
  const made = await analyze(model);
  assert.deepEqual(made.map(({ name }) => name), [...FIGURES]);
  const figures = made.filter((one): one is Figure => "svg" in one);
  assert.deepEqual(figures.map(({ name }) => name), FIGURES.slice(0, 7));
  for (const { svg, csv, name } of figures) {
    assertWellFormed(svg);
    assert.ok(csv.split("\n").length > 8, name);
    assert.doesNotMatch(csv, /NaN|Infinity|undefined/);
  }
  // half of each site's inputs, by its own thresholds
  const kept = figures.find(({ name }) => name === "kept")!.csv.split("\n").filter((line) =>
    line.startsWith("module")
  );
  assert.equal(kept.length, 7 * model.config.numHiddenLayers);
  for (const line of kept) assert.ok(Math.abs(Number(line.split(",").at(-1)) - 0.5) < 0.02, line);
  // of Deno, Node 20, Node 24, Bun and Chromium; a new version of Vega may change it
  assert.equal(await digest(made), "0a23ef3f6b223bc3");
});

test("analyzeModel: with a recipe its own masks, and rho where it differs", { skip }, async () => {
  await using dense = await open();
  const loaded = await calibrateModel(dense, {
    text: textFor(dense),
    source: "s",
    sparsity: 0.5,
    method: "by-site",
    tokens: 300,
  });
  await using model = await open(loaded);
  const [kept, overlap, rho] = await analyze(model, { only: ["kept", "overlap", "rho"] });
  const share = (name: string): number => {
    const lines = (kept as Figure).csv.split("\n").filter((line) => line.includes(`,${name},`));
    return lines.reduce((sum, line) => sum + Number(line.split(",").at(-1)), 0) / lines.length;
  };
  // by-site skips 0.65 of down and less than half of q; calibrated on the same text, but by whole pieces
  assert.ok(share("down_proj") < 0.42 && share("q_proj") > 0.5, (kept as Figure).csv);
  assert.ok("svg" in overlap!);
  assert.deepEqual(rho, { name: "rho", reason: "the recipe has one rho everywhere, 1" });
  const varied = {
    ...loaded.recipe,
    projections: loaded.recipe.projections.map((one, i) => ({ ...one, rho: i === 3 ? 0.25 : 1 })),
  };
  const { rhoFigure } = await import("../../src/analyze/rho.ts");
  const figure = (await rhoFigure(varied))!;
  assertWellFormed(figure.svg);
  assert.ok(figure.csv.split("\n")[4]!.startsWith("0,o_proj,0.25,"), figure.csv);
});

test("analyzeModel: a recipe that keeps everything, or nothing, is drawn", { skip }, async () => {
  await using dense = await open();
  const loaded = await calibrateModel(dense, {
    text: textFor(dense),
    source: "s",
    sparsity: 0.5,
    tokens: 300,
  });
  for (const [threshold, kept] of [[-1, 1], [1e9, 0]] as const) {
    const flat: LoadedRecipe = {
      ...loaded,
      recipe: {
        ...loaded.recipe,
        points: [],
        projections: loaded.recipe.projections.map((one) => ({ ...one, threshold })),
      },
      thresholds: () => null,
    };
    await using model = await open(flat);
    const made = await analyze(model, { only: ["activations", "kept", "overlap", "bias-rank"] });
    for (const one of made) if ("svg" in one) assertWellFormed(one.svg);
    const csv = (made[1] as Figure).csv.split("\n").filter((line) => line.startsWith("module"));
    assert.ok(csv.length > 0 && csv.every((line) => Number(line.split(",").at(-1)) === kept), csv.join("\n"));
    assert.equal("svg" in made[2]!, kept === 1);
  }
});

test("analyzeModel: a recipe that skips neurons has no masks to show, and says so", { skip }, async () => {
  await using dense = await open();
  const options = { text: textFor(dense), source: "s", sparsity: 0.2, method: "cats", tokens: 300 } as const;
  await using model = await open(await calibrateModel(dense, options));
  const [activations, ...others] = await analyze(model, {
    only: ["activations", "kept", "overlap", "bias-rank"],
  });
  assert.ok("svg" in activations! && !activations.csv.includes("threshold"));
  const reason = "cats chooses channels by other means than a threshold on a projection's input";
  assert.deepEqual(others, ["kept", "overlap", "bias-rank"].map((name) => ({ name, reason })));
});

test("analyzeModel: a signal ends it; what makes no sense is refused", { skip }, async () => {
  await using model = await open();
  const controller = new AbortController(), made: string[] = [];
  await assert.rejects(async () => {
    const options = { text: textFor(model), source: "s", signal: controller.signal };
    for await (const { name } of analyzeModel(model, options)) {
      made.push(name);
      controller.abort(new Error("enough"));
    }
  }, /enough/);
  assert.ok(made.length >= 1 && made.length < FIGURES.length, made.join());
  await assert.rejects(analyze(model, { layer: 99 }), /layer: 99 found, 0 to \d+ wanted/);
  await assert.rejects(analyze(model, { text: "a", only: ["kept"] }), RangeError);
  await assert.rejects(analyze(model, { only: ["colours" as "kept"] }), /figure colours found/);
});
