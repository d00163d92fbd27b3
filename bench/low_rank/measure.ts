/**
 * What `main.ts` runs on each engine: all projections of a token at 50 % and rho 0.95, with factors, without them, and dense, in turns over the
 * same weights. Random weights and activations; thresholds that leave the share of channels that the budget has.
 */
import { parseArgs } from "node:util";
import { benchActivations, benchThreshold } from "../../src/cli/bench/activations.ts";
import { SHAPE_NAMES, type ShapeName, SHAPES } from "../../src/cli/bench/shapes.ts";
import { layersToHold, modelOfShape } from "../../src/cli/bench/variants.ts";
import { hasRelaxedSimd } from "../../src/kernels/probe.ts";
import { planBudget } from "../../src/recipe/budget.ts";
import {
  type Factors,
  joinRecipe,
  type LoadedRecipe,
  projectionShapes,
  RECIPE_VERSION,
} from "../../src/recipe/recipe.ts";
import type { LlamaConfig } from "../../src/model/config.ts";
import { type Dtype, DTYPES } from "../../src/runtime/matrix.ts";
import { detectPlatform } from "../../src/platform/detect.ts";
import { Model } from "../../src/runtime/model.ts";
import { Random } from "../../src/runtime/random.ts";
import { engineName } from "../timing.ts";

const SPARSITY = 0.5, RHO = 0.95;
/** Activations that take turns from block to block, so that no list of channels is the last one's. */
const INPUTS = 8;
const SAMPLES = 81, WARM_UP = 4;

const { values } = parseArgs({
  options: {
    shape: { type: "string", default: "tinyllama-1.1b" },
    dtype: { type: "string", default: "int4" },
    layers: { type: "string" },
  },
});
const shape = values.shape as ShapeName, dtype = values.dtype as Dtype;
if (!SHAPE_NAMES.includes(shape)) throw new RangeError(`--shape: ${SHAPE_NAMES.join(", ")} wanted`);
if (!DTYPES.includes(dtype)) throw new RangeError(`--dtype: ${DTYPES.join(", ")} wanted`);
const layers = values.layers === undefined ? layersToHold(shape, dtype) : Number(values.layers);
for (const build of hasRelaxedSimd() ? ["baseline", "relaxed"] as const : ["baseline"] as const) {
  await measure(build);
}

/** A recipe whose factors are random, the same ones for all projections of a size. */
function recipeWithFactors(config: LlamaConfig, modelHash: string): LoadedRecipe {
  const factors = new Map<string, Factors>(), random = new Random(4);
  const vector = (n: number): Float32Array => Float32Array.from({ length: n }, () => random.uniform() - 0.5);
  const projections = projectionShapes(config).map(({ path, nIn, nOut }) => {
    const { activeChannels, rank } = planBudget({ nIn, nOut }, SPARSITY, RHO);
    return { path, nIn, nOut, activeChannels, rank };
  });
  const tensors = new Map(projections.map(({ path, nIn, nOut, rank }) => {
    const size = `${nIn} ${nOut}`;
    if (!factors.has(size)) factors.set(size, { u: vector(rank * nOut), v: vector(rank * nIn) });
    return [path, { factors: factors.get(size)!, scale: null }];
  }));
  return joinRecipe({
    version: RECIPE_VERSION,
    method: "r-sparse",
    compat: "corrected",
    modelHash,
    model: "benchmark",
    sparsity: SPARSITY,
    points: [],
    rho: RHO,
    seed: 0,
    calibration: { source: "activations of the benchmark", tokens: 0, sha256: "" },
    keepDense: 0,
    projections: projections.map(({ path, nIn, activeChannels, rank }) => ({
      path,
      score: "abs",
      threshold: benchThreshold(nIn, 1 - activeChannels / nIn),
      rho: RHO,
      sparsity: SPARSITY,
      channels: activeChannels,
      rank,
      mode: "r_sparse",
    })),
  }, tensors);
}

async function measure(build: "baseline" | "relaxed"): Promise<void> {
  const { files } = modelOfShape(shape, dtype, layers), load = { dtype, kernels: build };
  const hash = await (await detectPlatform()).sha256(files.map(({ blob }) => blob));
  const config = { ...SHAPES[shape], numHiddenLayers: layers };
  const model = await Model.load(files, { ...load, recipe: recipeWithFactors(config, hash) });
  const { engine } = model, { workspace: s, weights, forward, memory } = engine;
  const sites = [
    { x: s.normed, xStride: s.strides.hidden, y: s.qkv },
    { x: s.attended, xStride: s.strides.q, y: s.output },
    { x: s.normed, xStride: s.strides.hidden, y: s.gateUp + 256 * s.strides.gateUp },
    { x: s.gateUp, xStride: s.strides.gateUp, y: s.output },
  ];
  for (const [i, { x, xStride }] of sites.entries()) {
    const { nIn } = weights.layers[0]!.sites[i]![0]!.matrix, all = benchActivations(nIn);
    for (let t = 0; t < INPUTS; t++) {
      new Float32Array(memory.buffer, x + 4 * xStride * t, nIn).set(all.subarray(nIn * t, nIn * (t + 1)));
    }
  }
  const parts = weights.layers.flatMap(({ sites }) => sites.flat().flatMap(({ parts }) => parts));
  const withFactors = parts.map(({ rule }) => rule!);
  const without = withFactors.map((rule) => ({ ...rule, rank: 0, v: null, u: null }));
  let first = 0;
  const token = (rules: typeof withFactors | null): void => {
    if (rules !== null) parts.forEach((part, i) => part.rule = rules[i]!);
    for (const [l, layer] of weights.layers.entries()) {
      for (const [i, linears] of layer.sites.entries()) {
        const { x, xStride, y } = sites[i]!;
        s.newInput();
        for (const linear of linears) {
          forward.project(
            linear,
            y + 4 * linear.at,
            x + 4 * xStride * ((l + first) % INPUTS),
            rules !== null,
          );
        }
      }
    }
    first++;
  };
  const variants = { dense: null, without, with: withFactors }, names = ["dense", "without", "with"] as const;
  const samples = { dense: [] as number[], without: [] as number[], with: [] as number[] };
  for (let round = -WARM_UP; round < SAMPLES; round++) {
    for (const name of round % 2 === 0 ? names : names.toReversed()) {
      const began = performance.now();
      token(variants[name]);
      if (round >= 0) samples[name].push(performance.now() - began);
    }
  }
  // of neighbours, because a shared machine has slow minutes
  const share = median(samples.with.map((ms, i) => 1 - samples.without[i]! / ms));
  const ms = (name: keyof typeof samples): string => median(samples[name]).toFixed(2);
  const methods = weights.layers[0]!.sites.flat().map(({ matrix, method }) => `${matrix.layout} ${method}`);
  console.log(
    `${engineName()} ${build}, ${shape}, ${dtype}, ${layers} blocks (${[...new Set(methods)].join(", ")}): ` +
      `dense ${ms("dense")} ms, without factors ${ms("without")}, with ${ms("with")}: ` +
      `low rank ${(100 * share).toFixed(1)} % of the sparse time`,
  );
  await model.close();
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >> 1]!;
}
