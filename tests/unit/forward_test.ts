/** The sparse rule of one projection and of a model: shared selections, given masks, counts, and what is refused. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { Model } from "../../src/mod.ts";
import { Arena } from "../../src/kernels/arena.ts";
import { Team } from "../../src/kernels/team.ts";
import { loadKernelModule } from "../../src/kernels/probe.ts";
import { createWasmKernels } from "../../src/kernels/wasm_kernels.ts";
import type { LlamaConfig } from "../../src/model/config.ts";
import { Forward, type Linear } from "../../src/runtime/forward.ts";
import { type Layout, type Matrix, planMatrix } from "../../src/runtime/matrix.ts";
import { projectionKind } from "../../src/runtime/plan.ts";
import { Workspace } from "../../src/runtime/workspace.ts";
import { recipeOfThreshold } from "../support/golden.ts";
import { Random } from "../support/kernels.ts";
import { requireShared, rootPath, skipWithout } from "../support/shared.ts";

const FILE = "golden/tiny/llama-f32.gguf";
const skip = skipWithout(FILE);
const N_IN = 96, N_OUT = 64;

/** A workspace, and projections of one random matrix in any layout, with threshold 1 on plain |x|. */
async function bench(): Promise<{
  forward: Forward;
  workspace: Workspace;
  memory: WebAssembly.Memory;
  w: Float32Array;
  linear: (layout: Layout) => Linear;
  setInput: (x: Float32Array) => void;
}> {
  const memory = new WebAssembly.Memory({ initial: 1 });
  const kernels = await createWasmKernels(await loadKernelModule("baseline"), memory);
  const arena = new Arena(memory, kernels.heapBase());
  const config = {
    hiddenSize: N_IN,
    intermediateSize: 192,
    numAttentionHeads: 1,
    numKeyValueHeads: 1,
    headDim: 64,
    vocabSize: 64,
    ropeDim: 64,
  } as LlamaConfig;
  const workspace = new Workspace(kernels, config, arena.allocate(Workspace.size(kernels, config)));
  workspace.initialise();
  const random = new Random(3), w = random.activations(N_OUT * N_IN).map((v) => Math.fround(v / 8));
  const forward = new Forward(
    Team.alone(kernels, workspace.scratch),
    workspace,
    { config, layers: [] } as never,
  );
  const src = arena.allocate(4 * w.length);
  const linear = (layout: Layout): Linear => {
    new Float32Array(memory.buffer, src, w.length).set(w);
    const plan = planMatrix(layout, N_IN, N_OUT, {}), rowScale = arena.allocate(4 * N_OUT);
    const matrix: Matrix = {
      ...plan,
      w: arena.allocate(plan.bytes),
      rowScale,
      channelScale: 0,
    };
    if (layout === "channels-f32") kernels.packChannelsF32(matrix.w, src, 0, N_OUT, N_IN, N_OUT);
    else kernels.packPairsI8(matrix.w, rowScale, src, 0, N_OUT, N_IN, plan.nInPadded);
    const rule = {
      mode: "sparse",
      threshold: 1,
      scale: workspace.ones,
      rank: 0,
      v: null,
      firstRank: 0,
      u: null,
    } as const;
    const method = layout === "pairs-i8" ? "dense" : "skip";
    return {
      matrix,
      at: 0,
      method,
      parts: [{ name: "qProj", layer: 0, nOut: N_OUT, offset: 0, bias: 0, rule }],
    };
  };
  const setInput = (x: Float32Array): void => {
    new Float32Array(memory.buffer, workspace.normed, N_IN).set(x);
    workspace.newInput();
  };
  return { forward, workspace, memory, w, linear, setInput };
}

test("Forward.project: projections of one site in different layouts each select for themselves", async () => {
  const { forward, workspace, memory, w, linear, setInput } = await bench();
  const x = new Random(4).activations(N_IN),
    channels = linear("channels-f32"),
    pairs = linear("pairs-i8");
  const wanted = Float64Array.from({ length: N_OUT }, (_, o) => {
    let sum = 0;
    for (let c = 0; c < N_IN; c++) if (Math.abs(x[c]!) > 1) sum += w[o * N_IN + c]! * x[c]!;
    return sum;
  });
  const largest = Math.max(...wanted.map(Math.abs));
  setInput(x);
  for (const [i, p] of [channels, pairs, channels, channels, pairs].entries()) {
    const active = forward.project(p, workspace.gateUp, workspace.normed, true);
    assert.equal(active, x.filter((v) => Math.abs(v) > 1).length);
    const y = new Float32Array(memory.buffer, workspace.gateUp, N_OUT),
      bound = (p === pairs ? 0.05 : 1e-5) * largest;
    y.forEach((v, o) =>
      assert.ok(Math.abs(v - wanted[o]!) <= bound, `${i}: output ${o} is ${v}, not ${wanted[o]}`)
    );
  }
});

test("Forward.project: a given mask has a bit for each channel, no more and no less", async () => {
  const { forward, workspace, linear, setInput } = await bench(), p = linear("channels-f32");
  setInput(new Float32Array(N_IN).fill(2));
  assert.equal(
    forward.project(p, workspace.gateUp, workspace.normed, true, () => new Uint8Array(N_IN / 8).fill(0x11)),
    N_IN / 4,
  );
  for (const bytes of [0, N_IN / 8 - 1, N_IN / 8 + 1]) {
    assert.throws(
      () => forward.project(p, workspace.gateUp, workspace.normed, true, () => new Uint8Array(bytes)),
      RangeError,
    );
  }
});

test("projectionKind: four-bit weights go to int8 where a list has no room for their channels", () => {
  const of = (nIn: number): string => projectionKind({ type: "Q4_0", shape: [64, nIn] }, "int4");
  assert.deepEqual([of(32000), of(32032), of(40960)], ["group-i4", "i8", "i8"]);
});

test(
  "Session.count: decode and a sparse prompt count the same, dense projections included",
  { skip },
  async () => {
    await using dense = await Model.load(requireShared(FILE), { kernels: "baseline", threads: 1 });
    const all = await recipeOfThreshold(dense, 0.4, 0.5),
      ids = Array.from({ length: 150 }, (_, i) => 4 + (i * 37) % 300);
    const load = (isDense: (i: number) => boolean): Promise<Model> => {
      const projections = all.recipe.projections.map((p, i) =>
        isDense(i) ? { ...p, mode: "dense" as const } : p
      );
      return Model.load(requireShared(FILE), {
        kernels: "baseline",
        recipe: { ...all, recipe: { ...all.recipe, projections } },
      });
    };
    await using mixed = await load((i) => i % 2 === 0);
    const steps = mixed.session(), prompt = mixed.session();
    ids.forEach((id) => steps.decode(id));
    prompt.prefillAll(ids, () => {}, { prefill: "sparse" });
    assert.deepEqual([steps.count.tokens, steps.count.sparseTokens, steps.count.dense], [
      150,
      150,
      prompt.count.dense,
    ]);
    assert.deepEqual([prompt.count.tokens, prompt.count.sparseTokens], [150, 150]);
    // a channel on its threshold may fall either way
    assert.ok(
      Math.abs(steps.count.kept / prompt.count.kept - 1) < 0.01,
      `${steps.count.kept} and ${prompt.count.kept} kept`,
    );
    assert.ok(steps.count.kept < 0.95 * steps.count.dense);
    await using none = await load(() => true);
    const session = none.session();
    ids.slice(0, 3).forEach((id) => session.decode(id));
    assert.equal(session.count.sparseTokens, 0);
    assert.equal(session.count.kept, session.count.dense);
  },
);

test("Session: a callback of a pass cannot run a session of the same model", { skip }, async () => {
  await using model = await Model.load(requireShared(FILE), { kernels: "baseline", threads: 1 });
  const session = model.session(), other = model.session(), again = (): void => other.advance([1]);
  assert.throws(() => session.prefillAll([5, 6], again), /a pass of this model is running/);
  assert.throws(() => session.prefill([5, 6], { onChunk: again }), /a pass of this model is running/);
  assert.throws(() => session.decode(5, { observe: again }), /a pass of this model is running/);
  again();
  assert.equal(other.length, 1);
});

test("Session.prefill: words and positions that mean nothing are refused", { skip }, async () => {
  await using model = await Model.load(requireShared(FILE), { kernels: "baseline", threads: 1 });
  for (const prefill of ["Dense", "", NaN, -1] as unknown as "dense"[]) {
    const session = model.session();
    assert.throws(() => session.prefill([5], { prefill }), RangeError, String(prefill));
    assert.equal(session.length, 0);
  }
});

test(
  "Model.load: unknown dtypes, cache types and kernels are refused; kernels may be bytes",
  { skip },
  async () => {
    const file = requireShared(FILE);
    await assert.rejects(Model.load(file, { dtype: "int16" as "int8" }), /dtype: int16 found/);
    await assert.rejects(Model.load(file, { kv: "f16" as "bf16" }), /kv: f16 found, f32 or bf16 wanted/);
    await assert.rejects(Model.load(file, { kernels: "fast" as "auto" }), /kernels: fast found/);
    await using model = await Model.load(file, {
      kernels: new Uint8Array(readFileSync(rootPath("build/kernels.baseline.wasm"))),
    });
    assert.equal(model.info.kernels, "baseline");
    assert.ok(model.session().prefill([5, 6]).every(Number.isFinite));
  },
);

test("Model.close: lets go of the memory", { skip }, async () => {
  const model = await Model.load(requireShared(FILE), { kernels: "baseline", threads: 1 });
  await model.close();
  assert.throws(() => model.engine.memory, /the model is closed/);
  assert.throws(() => model.session(), /the model is closed/);
  await model.close();
});
