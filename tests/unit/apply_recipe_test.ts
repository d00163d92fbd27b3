import { test } from "node:test";
import { Arena } from "../../src/kernels/arena.ts";
import { Team } from "../../src/kernels/team.ts";
import type { LoadedRecipe } from "../../src/recipe/recipe.ts";
import { applyRecipe } from "../../src/runtime/apply_recipe.ts";
import { Forward, type Linear, type Projection, type Weights } from "../../src/runtime/forward.ts";
import { planMatrix } from "../../src/runtime/matrix.ts";
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

for (const layout of ["channels-f32", "channels-bf16"] as const) {
  for (const mode of ["r_sparse", "low_rank"] as const) {
    test(`applyRecipe: factors of ${layout} weights do in ${mode} passes what the recipe says`, async () => {
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
      const random = new Random(7), nOut = 64 + 6150, plan = planMatrix(layout, N_IN, nOut, {});
      const matrix = {
        ...plan,
        w: arena.allocate(plan.bytes),
        rowScale: 0,
        channelScale: 0,
      };
      const zero = arena.allocate(4 * N_IN * nOut),
        pack = layout === "channels-f32" ? kernels.packChannelsF32 : kernels.packChannelsBf16;
      const w = new Float32Array(kernels.memory.buffer, zero, N_IN * nOut);
      w.set(random.weights(N_IN * nOut).map(bf16));
      const kept = w.slice();
      pack(matrix.w, zero, 0, nOut, N_IN, nOut);

      const parts: Projection[] = PARTS.map(({ name, nOut, offset }) => ({
        name,
        layer: 0,
        nOut,
        offset,
        bias: 0,
        rule: null,
      }));
      const linear: Linear = { matrix, at: 0, method: "skip", parts };
      const weights = { config, layers: [{ sites: [[linear]] }] } as unknown as Weights;
      const factors = new Map(PARTS.map(({ name, nOut, rank }) => [
        `model.layers.0.mlp.${name === "gateProj" ? "gate" : "up"}_proj`,
        { u: random.weights(rank * nOut), v: random.weights(rank * N_IN) },
      ]));
      const paths = [...factors.keys()];
      const recipe = {
        recipe: {
          projections: paths.map((path, i) => ({ path, mode, threshold: 0.8, rank: PARTS[i]!.rank })),
        },
        factors: (path: string) => factors.get(path)!,
        scale: () => null,
      } as unknown as LoadedRecipe;
      applyRecipe(weights, recipe, arena, workspace.ones);

      const x = random.weights(N_IN), y = arena.allocate(4 * (nOut + 64));
      new Float32Array(kernels.memory.buffer, workspace.normed, N_IN).set(x);
      const forward = new Forward(Team.alone(kernels, workspace.scratch), workspace, weights);
      forward.project(linear, y, workspace.normed, true);

      const round = layout === "channels-f32" ? (v: number) => v : bf16;
      for (const [i, { nOut, offset, rank }] of PARTS.entries()) {
        const { u, v } = factors.get(paths[i]!)!;
        const rest = x.map((value) => mode === "r_sparse" && Math.abs(value) > Math.fround(0.8) ? 0 : value);
        const z = Array.from(
          { length: rank },
          (_, r) => rest.reduce((sum, value, c) => sum + value * round(v[r * N_IN + c]!), 0),
        );
        const expected = Float64Array.from({ length: nOut }, (_, o) => {
          let sum = 0;
          for (let c = 0; c < N_IN; c++) sum += kept[(offset + o) * N_IN + c]! * (x[c]! - rest[c]!);
          for (let r = 0; r < rank; r++) sum += round(u[r * nOut + o]!) * z[r]!;
          return sum;
        });
        const found = new Float32Array(kernels.memory.buffer, y + 4 * offset, nOut);
        assertWithin(found, expected, 1e-4, `${parts[i]!.name}`);
      }
    });
  }
}
