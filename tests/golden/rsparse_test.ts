/** R-Sparse against a float64 reference: single layers, projections of SmolLM2, forced masks, and free runs that stay clear of every threshold. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { calibrateModel, recipeFromThresholds } from "../../src/calibrate/calibrate.ts";
import { ColumnNorms } from "../../src/calibrate/column_norms.ts";
import { createSvd } from "../../src/calibrate/svd.ts";
import { ThresholdObserver } from "../../src/calibrate/threshold.ts";
import { Arena } from "../../src/kernels/arena.ts";
import { Team } from "../../src/kernels/team.ts";
import { loadKernelModule } from "../../src/kernels/probe.ts";
import { createWasmKernels } from "../../src/kernels/wasm_kernels.ts";
import {
  type LlamaConfig,
  type ProjectionName,
  projectionPath,
  PROJECTIONS,
} from "../../src/model/config.ts";
import { planBudget } from "../../src/recipe/budget.ts";
import type { LoadedRecipe } from "../../src/recipe/recipe.ts";
import {
  Forward,
  type Layer,
  type Linear,
  type Projection,
  type SparseRule,
} from "../../src/runtime/forward.ts";
import { type Matrix, type MatrixPlan, planMatrix } from "../../src/runtime/matrix.ts";
import { Model } from "../../src/runtime/model.ts";
import { logProbability } from "../../src/runtime/sampler.ts";
import { Workspace } from "../../src/runtime/workspace.ts";
import { pulledModel } from "../support/models.ts";
import { requireShared, skipWithout } from "../support/shared.ts";

interface LayerCase {
  name: string;
  nIn: number;
  nOut: number;
  tokens: number;
  w: string;
  x: string;
  calibration: string;
  dense: number[][];
  modes: {
    mode: SparseRule["mode"];
    rho: number;
    sparsity: number;
    targetSparsity: number;
    activeChannels: number;
    rank: number;
    threshold: number | null;
    nActive: number[] | null;
    active: string[] | null;
    y: number[][];
  }[];
}

const floats = (name: string): Float32Array => {
  const bytes = readFileSync(requireShared(`golden/rsparse/${name}`));
  return new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
};
const skip = skipWithout("golden/rsparse");
/** It is the baseline build that is looked at, whose bits, of SmolLM2 behind masks too, are the same in all runtimes (`tests/parity`): minutes for each of them would show nothing more. */
const skipSmol = skip || ("Deno" in globalThis ? false : "the bits of the baseline build are those of Deno");
const json = (name: string): unknown =>
  JSON.parse(readFileSync(requireShared(`golden/rsparse/${name}`), "utf8"));

/** ‖a − b‖ / ‖b‖. */
function relativeError(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let error = 0, norm = 0;
  for (let i = 0; i < b.length; i++) {
    error += (a[i]! - b[i]!) ** 2;
    norm += b[i]! ** 2;
  }
  return Math.sqrt(error / norm);
}

test("layers: thresholds, masks and outputs of three layers under six recipes", { skip }, async () => {
  const module = await loadKernelModule("baseline"), svd = await createSvd(module);
  for (const layer of json("layers.json") as LayerCase[]) {
    const { nIn, nOut } = layer,
      w = floats(layer.w),
      xs = floats(layer.x),
      calibration = floats(layer.calibration);
    const memory = new WebAssembly.Memory({ initial: 1 }),
      kernels = await createWasmKernels(module, memory);
    const arena = new Arena(memory, kernels.heapBase());
    const place = (values: Float32Array): number => {
      const at = arena.allocate(values.byteLength + 256);
      new Float32Array(memory.buffer, at, values.length).set(values);
      return at;
    };
    const placed = (plan: MatrixPlan, values: Float32Array): Matrix => ({
      ...plan,
      w: place(values),
      rowScale: 0,
      channelScale: 0,
    });
    const config = {
      hiddenSize: nIn,
      intermediateSize: nOut,
      numAttentionHeads: 1,
      numKeyValueHeads: 1,
      headDim: 64,
      vocabSize: 64,
      ropeDim: 64,
    } as LlamaConfig;
    const workspace = new Workspace(kernels, config, arena.allocate(Workspace.size(kernels, config)));
    workspace.initialise();
    const forward = new Forward(
      Team.alone(kernels, workspace.scratch),
      workspace,
      { config, layers: [] } as never,
    );
    const plan = planMatrix("channels-f32", nIn, nOut, {}), packed = arena.allocate(plan.bytes);
    kernels.packChannelsF32(packed, place(w), 0, nOut, nIn, nOut);
    const matrix = { ...plan, w: packed, rowScale: 0, channelScale: 0 };
    const norms = new ColumnNorms(nIn);
    norms.add(w);
    const scale = norms.finish(), scaleAt = place(scale);
    for (const mode of layer.modes) {
      const budget = planBudget(layer, mode.sparsity, mode.rho),
        what = `${layer.name} rho ${mode.rho} s ${mode.sparsity}`;
      assert.deepEqual([budget.activeChannels, mode.rho === 1 ? 0 : budget.rank], [
        mode.activeChannels,
        mode.rank,
      ], what);
      if (mode.rho > 0) {
        const observer = new ThresholdObserver({ scale: mode.rho === 1 ? null : scale });
        observer.observe(calibration);
        const found = observer.quantile(mode.targetSparsity);
        assert.ok(
          Math.abs(found / mode.threshold! - 1) <= 1e-6,
          `${what}: threshold ${found}, wanted ${mode.threshold}`,
        );
      }
      const factors = mode.rank > 0 ? svd.truncatedSvd(w, nOut, nIn, mode.rank) : null;
      const rule: SparseRule = {
        mode: mode.mode,
        threshold: mode.threshold ?? -1,
        scale: mode.rho > 0 && mode.rho < 1 ? scaleAt : workspace.ones,
        rank: mode.rank,
        v: factors && placed(planMatrix("rows-f32", nIn, mode.rank, { isFactor: true }), factors.v),
        firstRank: 0,
        u: factors && placed(planMatrix("channels-f32", mode.rank, nOut, { isFactor: true }), factors.u),
      };
      const linear: Linear = {
        matrix,
        at: 0,
        method: "skip",
        parts: [{ name: "qProj", layer: 0, nOut, offset: 0, bias: 0, rule }],
      };
      const x = place(new Float32Array(nIn)), y = place(new Float32Array(nOut));
      for (let t = 0; t < layer.tokens; t++) {
        new Float32Array(memory.buffer, x, nIn).set(xs.subarray(t * nIn, (t + 1) * nIn));
        workspace.newInput();
        const active = forward.project(linear, y, x, true);
        assert.equal(active, mode.nActive?.[t] ?? 0, what);
        const error = relativeError(new Float32Array(memory.buffer, y, nOut), mode.y[t]!);
        assert.ok(error <= 1e-5, `${what} token ${t}: relative error ${error}`);
      }
    }
  }
});

interface SmolRecipe {
  rho: number;
  sparsity: number;
  modules: [string, number, number, number][];
  replay: { ids: number[]; masks: string; top8: { ids: number[]; logits: number[] }[] };
  modules_io: {
    file: string;
    cases: {
      path: string;
      tokens: number;
      nIn: number;
      nOut: number;
      offset: number;
      nActive: number[];
      margin: number;
    }[];
  };
  clear: { ids: number[]; top8: { ids: number[]; logits: number[] }[] }[];
  free: { kept_fraction: number; dense_nll: number };
}
/** The reference's recipe of that rho. */
function smolRecipe(rho: number): SmolRecipe {
  const { recipes } = json("smollm2.json") as { recipes: SmolRecipe[] };
  return recipes.find((recipe) => recipe.rho === rho)!;
}

let dense: Promise<Model> | null = null;
/** SmolLM2 in f32 without a recipe, loaded once for calibrations. */
const denseModel = (): Promise<Model> =>
  dense ??= pulledModel().then((path) => Model.load(path, { dtype: "f32", kernels: "baseline", threads: 1 }));

const loaded = new Map<number, Promise<LoadedRecipe>>();
/** The recipe's thresholds as given, factors from our own decomposition: made once. */
function goldenRecipe(recipe: SmolRecipe): Promise<LoadedRecipe> {
  let made = loaded.get(recipe.rho);
  if (made === undefined) {
    made = denseModel().then((model) => recipeFromThresholds(model, recipe, { source: "golden" }));
    loaded.set(recipe.rho, made);
  }
  return made;
}

/** SmolLM2 in f32 with {@linkcode goldenRecipe}. */
async function golden(recipe: SmolRecipe): Promise<Model> {
  return await Model.load(await pulledModel(), {
    dtype: "f32",
    kernels: "baseline",
    threads: 1,
    recipe: await goldenRecipe(recipe),
  });
}

/** Masks of the replay: for each projection and token, ceil(nIn / 8) bytes. */
function readMasks(
  recipe: SmolRecipe,
  model: Model,
): (layer: number, name: ProjectionName, position: number) => Uint8Array {
  const bytes = new Uint8Array(readFileSync(requireShared(`golden/rsparse/${recipe.replay.masks}`))),
    at = new Map<string, [number, number]>();
  let offset = 0;
  for (const layer of model.engine.weights.layers) {
    for (const name of PROJECTIONS) {
      const { linear, part } = find(layer, name), row = Math.ceil(linear.matrix.nIn / 8);
      at.set(projectionPath(part.layer, name), [offset, row]);
      offset += row * recipe.replay.ids.length;
    }
  }
  assert.equal(offset, bytes.length);
  return (layer, name, position) => {
    const [start, row] = at.get(projectionPath(layer, name))!;
    return bytes.subarray(start + row * position, start + row * (position + 1));
  };
}

function checkTop(
  logits: Float32Array,
  wanted: { ids: number[]; logits: number[] },
  bound: number,
  what: string,
): number {
  let worst = 0;
  wanted.ids.forEach((id, i) => worst = Math.max(worst, Math.abs(logits[id]! - wanted.logits[i]!)));
  assert.ok(worst <= bound, `${what}: off by ${worst}, at most ${bound} wanted`);
  return worst;
}

for (const rho of [1, 0.95]) {
  const tag = `rho ${rho}`;
  test(
    `smollm2 ${tag}: official calibration gives the reference's thresholds, channels and ranks`,
    { skip: skipSmol },
    async () => {
      const recipe = smolRecipe(rho);
      const model = await denseModel(),
        text = readFileSync(requireShared("golden/make/calibration.txt"), "utf8");
      const { recipe: made } = await calibrateModel(model, {
        text,
        source: "calibration.txt",
        sparsity: recipe.sparsity,
        rho: recipe.rho,
        compat: "official",
      });
      assert.deepEqual(
        made.projections.map((p) => [p.path, p.channels, p.rank]),
        recipe.modules.map(([path, , channels, rank]) => [path, channels, rank]),
      );
      for (const [i, p] of made.projections.entries()) {
        const wanted = recipe.modules[i]![1];
        assert.ok(
          Math.abs(p.threshold / wanted - 1) <= 1e-4,
          `${p.path}: threshold ${p.threshold}, wanted ${wanted}`,
        );
      }
    },
  );

  test(
    `smollm2 ${tag}: projections, replay, clear sequences and a free run`,
    { skip: skipSmol },
    async () => {
      const recipe = smolRecipe(rho);
      const model = await golden(recipe), { engine } = model, { memory, workspace, forward } = engine;
      const masks = readMasks(recipe, model);
      // projection by projection
      const io = readFileSync(requireShared(`golden/rsparse/${recipe.modules_io.file}`));
      for (const c of recipe.modules_io.cases) {
        const [, layer, name] = /layers\.(\d+)\.\w+\.(\w+)_proj/.exec(c.path)!,
          { linear, part } = find(engine.weights.layers[Number(layer)]!, `${name}Proj` as ProjectionName);
        for (let t = 0; t < c.tokens; t++) {
          const x = new Float32Array(
            io.buffer.slice(
              io.byteOffset + c.offset + 4 * c.nIn * t,
              io.byteOffset + c.offset + 4 * c.nIn * (t + 1),
            ),
          );
          const yAt = io.byteOffset + c.offset + 4 * c.nIn * c.tokens + 4 * c.nOut * t,
            y = new Float32Array(io.buffer.slice(yAt, yAt + 4 * c.nOut));
          new Float32Array(memory.buffer, workspace.attended, c.nIn).set(x);
          // under a margin of 1e-5 float32 may disagree about one channel, and the file's own y may have either mask
          const masksToTry = c.margin > 1e-5 ? [null] : [null, masks(Number(layer), part.name, t)];
          const errors = masksToTry.map((forced) => {
            workspace.newInput();
            const active = forward.project(
              linear,
              workspace.gateUp,
              workspace.attended,
              true,
              forced && (() => forced),
            );
            if (c.margin > 1e-5) assert.equal(active, c.nActive[t], `${c.path} token ${t}`);
            return relativeError(
              new Float32Array(memory.buffer, workspace.gateUp + 4 * part.offset, c.nOut),
              y,
            );
          });
          assert.ok(Math.min(...errors) <= 1e-5, `${c.path} token ${t}: relative error ${errors}`);
        }
      }
      workspace.initialise();
      // replay: masks forced, token by token and as one prompt
      const session = model.session();
      recipe.replay.ids.forEach((id, t) =>
        checkTop(session.decode(id, { forceMask: masks }), recipe.replay.top8[t]!, 0.01, `replay ${t}`)
      );
      session.truncate(0);
      session.prefillAll(
        recipe.replay.ids,
        (t, logits) => checkTop(logits, recipe.replay.top8[t]!, 0.01, `replay as a prompt ${t}`),
        { prefill: "sparse", forceMask: masks },
      );
      // free runs clear of every threshold
      for (const c of recipe.clear) {
        session.truncate(0);
        c.ids.forEach((id, t) => checkTop(session.decode(id), c.top8[t]!, 0.01, `clear ${c.ids} ${t}`));
        session.truncate(0);
        session.prefillAll(
          c.ids,
          (t, logits) => checkTop(logits, c.top8[t]!, 0.01, `clear ${c.ids} as a prompt ${t}`),
          { prefill: "sparse" },
        );
      }
      // ordinary text: statistics only, single logits are chaotic
      const { prompts } = JSON.parse(readFileSync(requireShared("golden/smollm2/logits.json"), "utf8")) as {
        prompts: { name: string; ids: number[] }[];
      };
      const { ids } = prompts.find((p) => p.name === "long")!;
      session.truncate(0);
      const before = { ...session.count };
      let nll = 0;
      ids.forEach((id, t) => {
        const logits = session.decode(id);
        if (t + 1 < ids.length) nll -= logProbability(logits, ids[t + 1]!) / (ids.length - 1);
      });
      const [low, high] = recipe.rho === 1 ? [3.80, 3.98] : [3.89, 4.08];
      assert.ok(nll >= low! && nll <= high!, `mean nll ${nll}, ${low} to ${high} wanted`);
      assert.equal(session.count.sparseTokens - before.sparseTokens, ids.length);
      // kept_fraction is the plain mean over projections of active channels; ours weighs by size and counts rank, so compare what both know
      const fraction = keptFraction(model, ids);
      assert.ok(
        Math.abs(fraction - recipe.free.kept_fraction) <= 0.01,
        `kept ${fraction}, wanted ${recipe.free.kept_fraction}`,
      );
      await model.close();
    },
  );
}

/** Inputs of two blocks' projections in a dense pass over some tokens: path, x. */
function inputsOf(
  model: Model,
  ids: readonly number[],
): { layer: number; name: ProjectionName; x: Float32Array }[] {
  const { weights, memory } = model.engine,
    inputs: { layer: number; name: ProjectionName; x: Float32Array }[] = [];
  using session = model.session();
  for (const [t, id] of ids.entries()) {
    session.decode(id, {
      observe: (layer, site, x) => {
        if (t % 3 === 0 || layer % 10 !== 3) return;
        for (const name of site) {
          const { nIn } = find(weights.layers[layer]!, name).linear.matrix;
          inputs.push({ layer, name, x: new Float32Array(memory.buffer, x, nIn).slice() });
        }
      },
    });
  }
  return inputs;
}

for (const dtype of ["int4", "int8"] as const) {
  test(
    `smollm2 ${dtype}: int8 factors are within 2 % of exact ones, 0.1 % of the output`,
    { skip: skipSmol },
    async () => {
      const recipe = await goldenRecipe(smolRecipe(0.95));
      await using model = await Model.load(await pulledModel(), {
        dtype,
        kernels: "baseline",
        threads: 1,
        recipe,
      });
      const { weights, workspace: s, memory, forward } = model.engine;
      const run = (linear: Linear, part: Projection, x: Float32Array): Float32Array => {
        new Float32Array(memory.buffer, s.gateUp, x.length).set(x);
        s.newInput();
        forward.project(linear, s.qkv, s.gateUp, true);
        return new Float32Array(memory.buffer, s.qkv + 4 * part.offset, part.nOut).slice();
      };
      const ofPart: number[] = [], ofOutput: number[] = [];
      const { prompts } = JSON.parse(readFileSync(requireShared("golden/smollm2/logits.json"), "utf8")) as {
        prompts: { name: string; ids: number[] }[];
      };
      const { ids } = prompts.find((p) => p.name === "long")!;
      for (const { layer, name, x } of inputsOf(model, ids.slice(1, 12))) {
        const { linear, part } = find(weights.layers[layer]!, name), rules = linear.parts.map((p) => p.rule!);
        const { rank, threshold, scale, v } = part.rule!;
        assert.equal(v!.layout, "pairs-i8");
        const found = run(linear, part, x);
        for (const p of linear.parts) p.rule = { ...p.rule!, v: null, u: null };
        const without = run(linear, part, x);
        for (const [i, p] of linear.parts.entries()) p.rule = rules[i]!;
        const factors = recipe.factors(projectionPath(layer, name))!;
        const scales = new Float32Array(memory.buffer, scale, x.length);
        const rest = x.map((value, c) => Math.fround(Math.abs(value) * scales[c]!) > threshold ? 0 : value);
        const z = Array.from(
          { length: rank },
          (_, r) => rest.reduce((sum, value, c) => sum + value * factors.v[r * x.length + c]!, 0),
        );
        const exact = Float64Array.from(
          without,
          (_, o) => z.reduce((sum, value, r) => sum + value * factors.u[r * part.nOut + o]!, 0),
        );
        ofPart.push(relativeError(found.map((y, o) => y - without[o]!), exact));
        ofOutput.push(relativeError(found, exact.map((y, o) => y + without[o]!)));
      }
      const mean = (values: number[]): number => values.reduce((sum, v) => sum + v) / values.length;
      const errors = [mean(ofPart), Math.max(...ofPart), mean(ofOutput), Math.max(...ofOutput)];
      // found: 1.4 %, at most 6 %; of the output 0.07 %, at most 0.5 %, where int8 rounds the weights by 1.2 %
      [0.02, 0.1, 0.001, 0.01].forEach((bound, i) => assert.ok(errors[i]! <= bound, `errors ${errors}`));
    },
  );
}

/** A projection and the matrix it lies in. */
function find(layer: Layer, name: ProjectionName): { linear: Linear; part: Projection } {
  for (const linear of layer.sites.flat()) {
    for (const part of linear.parts) if (part.name === name) return { linear, part };
  }
  throw new Error(name);
}

/** Mean over projections of the share of active channels in a sparse run. */
function keptFraction(model: Model, ids: readonly number[]): number {
  const { engine } = model, { weights, memory } = engine;
  let sum = 0, n = 0;
  const session = model.session();
  for (const id of ids) {
    session.decode(id, {
      observe: (layer, site, x) => {
        for (const name of site) {
          const { linear: { matrix }, part: { rule } } = find(weights.layers[layer]!, name);
          const values = new Float32Array(memory.buffer, x, matrix.nIn),
            scale = new Float32Array(memory.buffer, rule!.scale, matrix.nIn);
          let active = 0;
          for (let c = 0; c < matrix.nIn; c++) {
            if (Math.fround(Math.abs(values[c]!) * scale[c]!) > rule!.threshold) active++;
          }
          sum += active / matrix.nIn;
          n++;
        }
      },
    });
  }
  session.close();
  return sum / n;
}
