/** What a recipe's file may hold besides thresholds: factors of any dtype, shared V, biases, gains; and what is refused of them. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { RecipeError } from "../../src/errors.ts";
import { type SafetensorsInput, writeSafetensors } from "../../src/format/safetensors.ts";
import type { LlamaConfig } from "../../src/model/config.ts";
import {
  checkRecipe,
  joinRecipe,
  parseRecipe,
  type ProjectionRecipe,
  projectionShapes,
  type ProjectionTensors,
  type Recipe,
  RECIPE_KEY,
  serialiseRecipe,
} from "../../src/recipe/recipe.ts";

const CONFIG = {
  hiddenSize: 8,
  intermediateSize: 12,
  numHiddenLayers: 1,
  numAttentionHeads: 4,
  numKeyValueHeads: 2,
  headDim: 2,
} as LlamaConfig;
const HASH = "a".repeat(64), RANK = 2;
const Q = "model.layers.0.self_attn.q_proj", K = "model.layers.0.self_attn.k_proj";
const O = "model.layers.0.self_attn.o_proj", GATE = "model.layers.0.mlp.gate_proj";
const NORM = "model.layers.0.input_layernorm";

type Fields = { [field: string]: unknown };
type Inputs = Map<string, SafetensorsInput>;

/** A learned recipe: rank 2 everywhere, k and v share q's V; `at` changes fields of projections. */
function recipeOf(at: { [path: string]: Fields } = {}, changes: Fields = {}): Recipe {
  const projections = projectionShapes(CONFIG).map(({ path, nIn }): ProjectionRecipe => ({
    path,
    score: "abs",
    threshold: 0.5,
    rho: 0.9,
    sparsity: 0.5,
    channels: nIn >> 1,
    rank: RANK,
    mode: "r_sparse",
    ...(/[kv]_proj/.test(path) && { sharedV: Q }),
    ...at[path],
  }));
  return {
    version: 3,
    method: "learned",
    compat: "corrected",
    modelHash: HASH,
    model: "tiny",
    sparsity: 0.5,
    points: [],
    rho: 0.9,
    seed: 1,
    calibration: { source: "text", tokens: 9, sha256: "" },
    keepDense: 0,
    lowRankInput: "all",
    projections,
    ...changes,
  };
}

const ramp = (n: number): Float32Array => Float32Array.from({ length: n }, (_, i) => (i - n / 3) / 8);

function f32(name: string, values: Float32Array, shape: number[] = [values.length]): SafetensorsInput {
  const data = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  return { name, dtype: "F32", shape, data };
}

/** The file as a Python script would write it; `change` puts tensors in and out. */
function fileOf(recipe: unknown, change: (inputs: Inputs) => void = () => {}): Blob {
  const inputs: Inputs = new Map(), add = (input: SafetensorsInput): unknown => inputs.set(input.name, input);
  for (const { path, nIn, nOut } of projectionShapes(CONFIG)) {
    add(f32(`${path}.u`, ramp(RANK * nOut), [RANK, nOut]));
    if (!/[kv]_proj/.test(path)) add(f32(`${path}.v`, ramp(RANK * nIn), [RANK, nIn]));
  }
  add(f32(`${K}.bias`, ramp(4)));
  add(f32(NORM, ramp(8)));
  add(f32("model.norm", ramp(8)));
  change(inputs);
  const chunks = writeSafetensors([...inputs.values()], { [RECIPE_KEY]: JSON.stringify(recipe) });
  return new Blob(chunks as BlobPart[]);
}

function failsAt(path: string, text = ""): (error: unknown) => boolean {
  return (error) => {
    assert.ok(error instanceof RecipeError, String(error));
    assert.ok(error.message.startsWith(`Cannot use recipe: ${path}: `), error.message);
    assert.ok(error.message.includes(text), error.message);
    return true;
  };
}

test("parseRecipe: shared V, biases and gains are read, and written again as they were", async () => {
  const loaded = await parseRecipe(fileOf(recipeOf()), "recipe");
  checkRecipe(loaded, CONFIG, HASH);
  assert.deepEqual(loaded.recipe, recipeOf());
  assert.deepEqual(loaded.factors(K), { u: ramp(RANK * 4), v: ramp(RANK * 8) });
  assert.equal(loaded.factors(K)!.v, loaded.factors(Q)!.v);
  assert.deepEqual([loaded.bias(K), loaded.bias(Q)], [ramp(4), null]);
  assert.deepEqual([...loaded.gains], [[NORM, ramp(8)], ["model.norm", ramp(8)]]);
  const tensors = new Map(loaded.recipe.projections.map(({ path }): [string, ProjectionTensors] => [
    path,
    { factors: loaded.factors(path), scale: null, bias: loaded.bias(path) },
  ]));
  const chunks = serialiseRecipe(loaded.recipe, tensors, null, loaded);
  const again = await parseRecipe(new Blob(chunks as BlobPart[]), "recipe");
  assert.deepEqual([again.recipe, again.bias(K), again.gains], [loaded.recipe, loaded.bias(K), loaded.gains]);
  for (const { path } of loaded.recipe.projections) {
    assert.deepEqual(again.factors(path), loaded.factors(path));
  }
  const size = chunks.reduce((sum, { length }) => sum + length, 0);
  const own = recipeOf({ [K]: { sharedV: undefined } });
  const apart = serialiseRecipe(own, tensors, null, loaded).reduce(
    (sum, { length }) => sum + length,
    0,
  );
  assert.ok(apart - size > 4 * RANK * 8, `${apart} and ${size} bytes`);
});

test("parseRecipe: factors of bf16, f16 and int8 become the float32 that they stand for", async () => {
  const halves = (...values: number[]): Uint8Array =>
    new Uint8Array(Uint16Array.from([...values, ...Array(16).fill(0)].slice(0, 16)).buffer);
  const put = (dtype: SafetensorsInput["dtype"], data: Uint8Array) => (inputs: Inputs): void => {
    inputs.set(`${O}.u`, { name: `${O}.u`, dtype, shape: [RANK, 8], data });
  };
  const read = async (
    change: (inputs: Inputs) => void,
  ): Promise<number[]> => [...(await parseRecipe(fileOf(recipeOf(), change), "recipe")).factors(O)!.u];
  const bf16 = await read(put("BF16", halves(0x3f80, 0xc040, 0x0001, 0x8000, 0x7f7f)));
  assert.deepEqual(bf16.slice(0, 5), [1, -3, 2 ** -133, -0, 2 ** 127 * (2 - 2 ** -7)]);
  // one; the largest; the smallest normal and subnormal; the largest subnormal; -0
  const f16 = await read(put("F16", halves(0x3c00, 0x7bff, 0x0400, 0x0001, 0x83ff, 0x8000, 0xc100)));
  assert.deepEqual(f16.slice(0, 7), [1, 65504, 2 ** -14, 2 ** -24, -1023 * 2 ** -24, -0, -2.5]);
  const bytes = Uint8Array.from([1, 127, 128, 255, 0, 0, 0, 0, 1, 2, 3, 0, 0, 0, 0, 250]);
  const int8 = await read((inputs) => {
    put("I8", bytes)(inputs);
    inputs.set(`${O}.u.scale`, f32(`${O}.u.scale`, Float32Array.of(0.5, 0.1)));
  });
  const tenth = Math.fround(0.1), wanted = [0.5, 63.5, -64, -0.5, 0, 0, 0, 0];
  assert.deepEqual(int8, [...wanted, ...[1, 2, 3, 0, 0, 0, 0, -6].map((v) => Math.fround(tenth * v))]);
});

test("parseRecipe: tensors of learned recipes that don't fit are named", async () => {
  const set = (input: SafetensorsInput) => (inputs: Inputs): unknown => inputs.set(input.name, input);
  const bytes = (name: string, dtype: SafetensorsInput["dtype"], width: number, shape = [RANK, 8]) =>
    set({ name, dtype, shape, data: new Uint8Array(width * shape.reduce((a, b) => a * b)) });
  const both = (...changes: ((inputs: Inputs) => unknown)[]) => (inputs: Inputs): void =>
    changes.forEach((change) => change(inputs));
  const u = `${O}.u`, v = `${O}.v`;
  const cases: [string, (inputs: Inputs) => unknown, string?][] = [
    [u, bytes(u, "U8", 1), "U8 found, one of F32 BF16 F16 I8"],
    [u, bytes(u, "BF16", 2, [3, 8]), "[3, 8] found"],
    [v, bytes(v, "F16", 2, [16]), "[16] found"],
    [`${u}.scale`, bytes(u, "I8", 1), "no tensor found"],
    [`${u}.scale`, set(f32(`${u}.scale`, ramp(2))), "a tensor found, but"],
    [`${v}.scale`, both(bytes(v, "I8", 1), set(f32(`${v}.scale`, ramp(3)))), "3 values found, 2 wanted"],
    [`${v}.scale`, both(bytes(v, "I8", 1), set(f32(`${v}.scale`, Float32Array.of(1, NaN)))), "not finite"],
    [`${v}.scale`, both(bytes(v, "I8", 1), bytes(`${v}.scale`, "F16", 2, [2])), "F16 found, F32 wanted"],
    [v, set({ name: v, dtype: "F16", shape: [RANK, 8], data: new Uint8Array(32).fill(0x7c) }), "not finite"],
    [v, set({ name: v, dtype: "BF16", shape: [RANK, 8], data: new Uint8Array(32).fill(0xff) }), "not finite"],
    [`${K}.v`, set(f32(`${K}.v`, ramp(16), [RANK, 8])), "it shares that of"],
    [`${Q}.v`, (inputs) => inputs.delete(`${Q}.v`), "no tensor found"],
    [`${K}.u`, (inputs) => inputs.delete(`${K}.u`), "no tensor found"],
    [`${K}.bias`, set(f32(`${K}.bias`, ramp(5))), "5 outputs found, 4 wanted"],
    [`${K}.bias`, set(f32(`${K}.bias`, ramp(4), [1, 4])), "[1, 4] found"],
    [`${K}.bias`, set(f32(`${K}.bias`, ramp(4).fill(Infinity))), "not finite"],
    [`${K}.bias`, bytes(`${K}.bias`, "BF16", 2, [4]), "BF16 found, F32 wanted"],
    [NORM, set(f32(NORM, ramp(8).fill(NaN))), "not finite"],
    [NORM, set(f32(NORM, ramp(8), [2, 4])), "[2, 4] found"],
    [`"model.layers.0.final_norm"`, set(f32("model.layers.0.final_norm", ramp(8))), "belongs to no"],
    [`"${NORM}.weight"`, set(f32(`${NORM}.weight`, ramp(8))), "belongs to no"],
  ];
  for (const [path, change, text] of cases) {
    const file = fileOf(recipeOf(), change as (inputs: Inputs) => void);
    await assert.rejects(parseRecipe(file, "recipe"), failsAt(path, text), `${path}: ${text}`);
  }
});

test("parseRecipe: a V is shared within a site, by equal ranks, with one that has its own", async () => {
  const V = "model.layers.0.self_attn.v_proj";
  const cases: [string, { [path: string]: Fields }, Fields?][] = [
    [`${K}.sharedV`, { [K]: { sharedV: GATE } }],
    [`${K}.sharedV`, { [K]: { sharedV: O } }],
    [`${K}.sharedV`, { [K]: { sharedV: K } }],
    [`${K}.sharedV`, { [K]: { sharedV: V } }],
    [`${K}.sharedV`, { [K]: { sharedV: "model.layers.1.self_attn.q_proj" } }],
    [`${K}.sharedV`, { [K]: { sharedV: "q_proj" } }],
    [`${K}.sharedV`, { [K]: { sharedV: null } }],
    [`${K}.rank`, { [K]: { rank: 1 } }],
    [`${K}.rank`, { [Q]: { rank: 0 }, [K]: { rank: 0 } }],
    [`${K}.mode`, { [K]: { rho: 0, mode: "low_rank" } }],
    ["lowRankInput", {}, { lowRankInput: "some" }],
    ["lowRankInput", {}, { lowRankInput: null }],
  ];
  for (const [path, at, changes] of cases) {
    await assert.rejects(parseRecipe(fileOf(recipeOf(at, changes)), "recipe"), failsAt(path), path);
  }
});

test("parseRecipe: version 2 says that it has to be made again", async () => {
  const old = fileOf(recipeOf({}, { version: 2 }));
  await assert.rejects(
    parseRecipe(old, "recipe"),
    failsAt("version", "2 found, 3 wanted: calibrate it again"),
  );
});

test("checkRecipe: shared V, biases and gains have the model's sizes", async () => {
  const check = async (change: (inputs: Inputs) => unknown, at: { [path: string]: Fields } = {}) =>
    checkRecipe(
      await parseRecipe(fileOf(recipeOf(at), (inputs) => void change(inputs)), "recipe"),
      CONFIG,
      HASH,
    );
  const set = (name: string, n: number, shape?: number[]) => (inputs: Inputs): unknown =>
    inputs.set(name, f32(name, ramp(n), shape));
  const cases: [string, (inputs: Inputs) => unknown][] = [
    [`${Q}.v`, set(`${Q}.v`, RANK * 9, [RANK, 9])],
    [`${K}.u`, (inputs) => inputs.delete(`${K}.bias`) && set(`${K}.u`, RANK * 8, [RANK, 8])(inputs)],
    [NORM, set(NORM, 9)],
    ["model.norm", set("model.norm", 7)],
    ["model.layers.1.input_layernorm", set("model.layers.1.input_layernorm", 8)],
  ];
  for (const [path, change] of cases) await assert.rejects(check(change), failsAt(path), path);
  const none = { [O]: { rank: 0, rho: 1, mode: "sparse" } };
  const bias = (n: number) => (inputs: Inputs): void => {
    inputs.delete(`${O}.u`);
    inputs.delete(`${O}.v`);
    set(`${O}.bias`, n)(inputs);
  };
  await check(bias(8), none);
  await assert.rejects(check(bias(9), none), failsAt(`${O}.bias`, "9 values found, 8 fit"));
});

test("joinRecipe: projections that share a V have the same array, and gains are of norms", () => {
  const tensors = new Map(
    projectionShapes(CONFIG).map(({ path, nIn, nOut }): [string, ProjectionTensors] => [
      path,
      { factors: { u: ramp(RANK * nOut), v: ramp(RANK * nIn) }, scale: null },
    ]),
  );
  assert.throws(() => joinRecipe(recipeOf(), tensors), failsAt(`${K}.v`, "another array found"));
  const own = recipeOf({
    [K]: { sharedV: undefined },
    "model.layers.0.self_attn.v_proj": { sharedV: undefined },
  });
  joinRecipe(own, tensors);
  assert.throws(
    () => joinRecipe(own, tensors, null, { gains: new Map([["lm_head", ramp(8)]]) }),
    failsAt("lm_head", "no norm"),
  );
});
