import assert from "node:assert/strict";
import { test } from "node:test";
import { Arena } from "../../src/kernels/arena.ts";
import { Team } from "../../src/kernels/team.ts";
import type { LoadedRecipe } from "../../src/recipe/recipe.ts";
import { applyRecipe } from "../../src/runtime/apply_recipe.ts";
import { Forward, type Linear, type Projection, type Weights } from "../../src/runtime/forward.ts";
import { packRows, placeMatrix, planMatrix } from "../../src/runtime/matrix.ts";
import { Workspace } from "../../src/runtime/workspace.ts";
import { assertWithin, bf16, loadBuild, Random } from "../support/kernels.ts";

const N_IN = 44;
/** Outputs that are no multiple of eight, and more than fit L1. */
const PARTS = [{ name: "gateProj", nOut: 13, offset: 0, rank: 5 }, {
  name: "upProj",
  nOut: 6150,
  offset: 64,
  rank: 3,
}] as const;

const LAYOUTS = ["channels-f32", "channels-bf16", "pairs-i8"] as const;
type Mode = "r_sparse" | "low_rank";
const THRESHOLD = Math.fround(0.8);
/** Columns of U as rows, f32[rank, nOut], and rows of V, f32[rank, N_IN]. */
type PartFactors = { readonly u: Float32Array; readonly v: Float32Array };
/** What recipes may ask for besides. */
type Asked = { readonly lowRankInput?: "all"; readonly biases?: readonly Float32Array[] };

/** One token through a linear of {@linkcode PARTS} with random weights: its weights f32[outputs, N_IN], and each part's outputs. */
async function project(
  layout: typeof LAYOUTS[number],
  mode: Mode,
  factors: readonly PartFactors[],
  x: Float32Array,
  { lowRankInput, biases }: Asked = {},
): Promise<{ kept: Float32Array; outputs: Float32Array[] }> {
  const kernels = (await loadBuild("baseline"))!;
  const arena = new Arena(kernels.memory, kernels.heapBase());
  const config = {
    vocabSize: 64,
    hiddenSize: N_IN,
    intermediateSize: 6150,
    numHiddenLayers: 1,
    numAttentionHeads: 1,
    numKeyValueHeads: 1,
    headDim: 44,
    ropeDim: 44,
  };
  const workspace = new Workspace(
    kernels,
    config as never,
    arena.allocate(Workspace.size(kernels, config as never)),
  );
  workspace.initialise();
  const nOut = 64 + 6150;
  const matrix = placeMatrix(planMatrix(layout, N_IN, nOut, {}), (bytes) => arena.allocate(bytes));
  const source = arena.allocate(4 * N_IN * nOut);
  const w = new Float32Array(kernels.memory.buffer, source, N_IN * nOut);
  w.set(new Random(7).weights(N_IN * nOut).map(bf16));
  const kept = w.slice();
  packRows(kernels, matrix, source, 0, nOut);

  const parts: Projection[] = PARTS.map(({ name, nOut, offset }) => ({
    name,
    layer: 0,
    nOut,
    offset,
    bias: 0,
    rule: null,
  }));
  const linear: Linear = { matrix, at: 0, method: layout === "pairs-i8" ? "dense" : "skip", parts };
  const weights = { config, layers: [{ sites: [[linear]] }] } as unknown as Weights;
  const paths = ["model.layers.0.mlp.gate_proj", "model.layers.0.mlp.up_proj"];
  const recipe = {
    recipe: {
      lowRankInput,
      projections: paths.map((path, i) => ({ path, mode, threshold: THRESHOLD, rank: PARTS[i]!.rank })),
    },
    factors: (path: string) => factors[paths.indexOf(path)]!,
    scale: () => null,
    bias: (path: string) => biases?.[paths.indexOf(path)] ?? null,
    gains: new Map(),
    mlpThresholds: null,
    thresholds: () => null,
  } as unknown as LoadedRecipe;
  applyRecipe(kernels, weights, recipe, arena, workspace);

  const y = arena.allocate(4 * (nOut + 64));
  new Float32Array(kernels.memory.buffer, workspace.normed, N_IN).set(x);
  const forward = new Forward(Team.alone(kernels, workspace.scratch), workspace, weights);
  forward.project(linear, y, workspace.normed, true);
  return {
    kept,
    outputs: PARTS.map(({ nOut, offset }) =>
      new Float32Array(kernels.memory.buffer, y + 4 * offset, nOut).slice()
    ),
  };
}

const length = (values: ArrayLike<number>): number => Math.hypot(...Array.from(values));

for (const layout of LAYOUTS) {
  for (const [mode, asked] of [["r_sparse", false], ["low_rank", false], ["r_sparse", true]] as const) {
    const what = `${mode} passes${asked ? ", V of all of x and a bias," : ""}`;
    test(`applyRecipe: factors of ${layout} weights do in ${what} what the recipe says`, async () => {
      const random = new Random(8), x = random.weights(N_IN);
      const factors = PARTS.map(({ nOut, rank }) => ({
        u: random.weights(rank * nOut),
        v: random.weights(rank * N_IN),
      }));
      const biases = asked ? PARTS.map(({ nOut }) => random.weights(nOut)) : undefined;
      const { kept, outputs } = await project(layout, mode, factors, x, {
        ...(asked && { lowRankInput: "all" }),
        biases,
      });
      const round = layout === "channels-bf16" ? bf16 : (v: number) => v;
      for (const [i, { name, nOut, offset, rank }] of PARTS.entries()) {
        const { u, v } = factors[i]!;
        const rest = x.map((value) => mode === "r_sparse" && Math.abs(value) > THRESHOLD ? 0 : value);
        const z = Array.from(
          { length: rank },
          (_, r) => (asked ? x : rest).reduce((sum, value, c) => sum + value * round(v[r * N_IN + c]!), 0),
        );
        const expected = Float64Array.from({ length: nOut }, (_, o) => {
          let sum = biases === undefined ? 0 : biases[i]![o]!;
          for (let c = 0; c < N_IN; c++) sum += kept[(offset + o) * N_IN + c]! * (x[c]! - rest[c]!);
          for (let r = 0; r < rank; r++) sum += round(u[r * nOut + o]!) * z[r]!;
          return sum;
        });
        if (layout === "pairs-i8") {
          // half a step of each row and column of the factors, and of the weights' rows
          const error = length(outputs[i]!.map((y, o) => y - expected[o]!)) / length(expected);
          assert.ok(error <= 0.01, `${name}: error ${error}`);
        } else assertWithin(outputs[i]!, expected, 1e-4, name);
      }
    });
  }
}

test("applyRecipe: int8 factors keep a column of U that is small beside another", async () => {
  const random = new Random(9), half = N_IN / 2;
  // the first singular value is a thousand times the others, and nothing of x is in its row of V
  const x = random.weights(N_IN).fill(0, 0, half);
  const factors = PARTS.map(({ nOut, rank }) => ({
    u: random.weights(rank * nOut).map((u, i) => i < nOut ? 1000 * u : u),
    v: random.weights(rank * N_IN).map((v, i) => i < N_IN === i % N_IN < half ? v : 0),
  }));
  const { outputs } = await project("pairs-i8", "low_rank", factors, x);
  for (const [i, { name, nOut, rank }] of PARTS.entries()) {
    const { u, v } = factors[i]!;
    const expected = Float64Array.from({ length: nOut }, (_, o) => {
      let sum = 0;
      for (let r = 1; r < rank; r++) {
        for (let c = half; c < N_IN; c++) sum += u[r * nOut + o]! * v[r * N_IN + c]! * x[c]!;
      }
      return sum;
    });
    const error = length(outputs[i]!.map((y, o) => y - expected[o]!)) / length(expected);
    assert.ok(error <= 0.02, `${name}: error ${error}`);
  }
});
