import assert from "node:assert/strict";
import { test } from "node:test";
import { recipeOfThresholds } from "../../src/cli/bench/recipes.ts";
import { syntheticModel } from "../../src/cli/bench/synthetic_model.ts";
import { FormatError, RecipeError } from "../../src/errors.ts";
import { BytesBlob } from "../../src/format/bytes_blob.ts";
import { Checksum, checksum } from "../../src/format/checksum.ts";
import { openPack } from "../../src/format/pack.ts";
import { type LoadedRecipe, type LoadOptions, Model } from "../../src/mod.ts";
import { serialiseRecipe } from "../../src/recipe/recipe.ts";
import { hasRelaxedSimd } from "../../src/kernels/probe.ts";
import type { LlamaConfig } from "../../src/model/config.ts";
import { openModel } from "../../src/model/open.ts";
import { sparseShapes } from "../../src/runtime/plan.ts";
import { recipeHints } from "../../src/runtime/apply_recipe.ts";
import { UNTUNED } from "../../src/runtime/tuner.ts";
import { packOf } from "../support/packs.ts";
import { UNEVEN } from "../support/shapes.ts";
import { assertSameBits, Random } from "../support/kernels.ts";

const IDS = [5, 44, 3, 201, 7, 90, 11], MORE = [250, 8, 8];
const DTYPES = ["f32", "bf16", "int8", "int4"] as const;

function source(dtype: (typeof DTYPES)[number], config: LlamaConfig = UNEVEN) {
  return syntheticModel("tiny", config, dtype, config.numHiddenLayers).files;
}

/** All logits of a prompt and of some tokens after it. */
function logitsOf(model: Model, sparsity?: number): Float32Array {
  using session = model.session({ sparsity });
  const rows = [session.prefill(IDS, { prefill: "sparse" }), ...MORE.map((id) => session.decode(id))];
  return Float32Array.from(rows.flatMap((row) => [...row]));
}

/** Thresholds that leave about half of the activations. */
async function recipeFor(files: Parameters<typeof Model.load>[0]) {
  await using model = await Model.load(files, { recipe: null });
  const made = recipeOfThresholds(model.config, await model.hash(), 0.5, (nIn) => nIn === 224 ? 0.1 : 0.6);
  const blob = new Blob(serialiseRecipe(made.recipe, new Map()) as Uint8Array<ArrayBuffer>[]);
  const loaded = { ...made, sha256: await model.platform.sha256([blob]) };
  return { loaded, bytes: new Uint8Array(await blob.arrayBuffer()) };
}

async function same(
  files: Parameters<typeof Model.load>[0],
  pack: Uint8Array,
  options: LoadOptions,
  what: string,
): Promise<void> {
  const { sparsity, ...rest } = { sparsity: undefined, ...options as object } as LoadOptions & {
    sparsity?: number;
  };
  await using a = await Model.load(files, rest);
  await using b = await Model.load(pack, rest);
  assertSameBits(logitsOf(b, sparsity), logitsOf(a, sparsity), what);
  assert.equal(await b.hash(), await a.hash());
}

const BUILDS = hasRelaxedSimd() ? ["baseline", "relaxed"] as const : ["baseline"] as const;

for (const kernels of BUILDS) {
  for (const dtype of DTYPES) {
    test(`pack: ${dtype} has the logits of its model, dense and by a recipe, bit for bit (${kernels})`, async () => {
      const files = source(dtype),
        pack = await packOf(files, dtype),
        { loaded: recipe } = await recipeFor(files);
      await same(files, pack, { kernels, dtype, recipe: null }, "dense");
      await same(files, pack, { kernels, dtype, recipe, tuning: UNTUNED }, "sparse");
      await using model = await Model.load(pack, { kernels });
      assert.equal(model.name, "tiny");
      assert.deepEqual(model.config, { ...UNEVEN, rmsNormEps: Math.fround(UNEVEN.rmsNormEps) });
      const wanted = await openModel(files);
      assert.equal(model.description.parameters, wanted.parameters);
      assert.deepEqual(model.tokenize("word 299, and ünï"), wanted.tokenizer.encode("word 299, and ünï"));
    });
  }
}

test("pack: a file in one type packs as another, as it would load", async () => {
  for (
    const [from, to] of [["f32", "bf16"], ["int4", "bf16"], ["bf16", "f32"], ["int4", "int8"], [
      "f32",
      "int4",
    ], ["bf16", "auto"]] as const
  ) {
    const files = source(from);
    await same(files, await packOf(files, to), { kernels: "baseline", dtype: to }, `${from} as ${to}`);
  }
});

test("pack: int8 loads as floats too, which are its values", async () => {
  const files = source("f32"), pack = await packOf(files, "int8");
  const logits: Float32Array[] = [];
  for (const dtype of ["f32", "bf16", "int8"] as const) {
    await using model = await Model.load(pack, { kernels: "baseline", dtype });
    logits.push(logitsOf(model));
  }
  const [f32, bf16, int8] = logits as [Float32Array, Float32Array, Float32Array];
  const off = (a: Float32Array) => Math.max(...a.map((v, i) => Math.abs(v - f32[i]!)));
  const largest = Math.max(...f32.map(Math.abs));
  // 12 bits of activations, 8 of weights; other values would be off by as much as there is
  assert.ok(off(int8) > 0 && off(int8) < 0.02 * largest, `int8 ${off(int8)} of ${largest}`);
  assert.ok(off(bf16) > 0 && off(bf16) < 0.03 * largest, `bf16 ${off(bf16)} of ${largest}`);
});

test("pack: gate and up that a recipe masks apart are taken out of the matrix that they share", async () => {
  const files = source("int8"), pack = await packOf(files, "int8"), { loaded } = await recipeFor(files);
  const projections = loaded.recipe.projections.map((p) =>
    p.path.endsWith("up_proj") ? { ...p, threshold: 0.4 } : p
  );
  const recipe: LoadedRecipe = { ...loaded, recipe: { ...loaded.recipe, projections } };
  await using skipping = await Model.load(pack, { kernels: "baseline", recipe });
  const storage = skipping.engine.weights.layers[0]!.sites[2]!.map((
    { matrix },
  ) => [matrix.layout, matrix.nOut]);
  assert.deepEqual(storage, [["channels-i8", 224], ["channels-i8", 224]]);
  await using dense = await Model.load(pack, { kernels: "baseline", recipe: null });
  assertSameBits(logitsOf(skipping, 0), logitsOf(dense), "dense, out of two matrices and of one");
});

test("pack: its own recipe runs where a sparsity is asked for, and only there", async () => {
  const files = source("int8"),
    recipe = await recipeFor(files),
    pack = await packOf(files, "int8", { recipe });
  await using own = await Model.load(pack, { kernels: "baseline" });
  await using dense = await Model.load(files, { kernels: "baseline", dtype: "int8" });
  await using sparse = await Model.load(files, {
    kernels: "baseline",
    dtype: "int8",
    recipe: recipe.loaded,
    tuning: UNTUNED,
  });
  assert.equal(own.sparsity, 0);
  assert.equal(sparse.sparsity, 0.5);
  assertSameBits(logitsOf(own), logitsOf(dense), "at rest");
  assertSameBits(logitsOf(own, 0.5), logitsOf(sparse), "asked for");
  assert.equal(
    own.recipe?.sha256,
    await own.platform.sha256([new Blob([recipe.bytes as Uint8Array<ArrayBuffer>])]),
  );
  await using none = await Model.load(pack, { kernels: "baseline", recipe: null });
  assert.equal(none.recipe, null);
  assert.throws(() => none.session({ sparsity: 0.5 }), RangeError);
  // nothing to be timed: that would be most of the time to the first token
  assert.deepEqual(sparseShapes(own.description, "auto", recipeHints(own.recipe)), []);
  assert.notDeepEqual(sparseShapes(dense.description, "auto", recipeHints(own.recipe)), []);
});

test("pack: a recipe for another model is refused", async () => {
  const pack = await packOf(source("int8"), "int8"), { loaded } = await recipeFor(source("bf16"));
  await assert.rejects(Model.load(pack, { recipe: loaded }), RecipeError);
});

test("pack: the same from bytes, a Blob, a stream and a named file; packing is repeatable", async () => {
  const files = source("int8"),
    pack = await packOf(files, "int8", { name: "n", license: "MIT", card: "# A card" });
  assert.deepEqual(await packOf(files, "int8", { name: "n", license: "MIT", card: "# A card" }), pack);
  const blob = new Blob([pack]);
  const logits: Float32Array[] = [];
  for (
    const from of [pack, blob, blob.stream(), [{ name: "a.rsparse", blob }], [{
      name: "a",
      blob: new BytesBlob(pack),
    }]] as const
  ) {
    await using model = await Model.load(from, { kernels: "baseline" });
    assert.deepEqual([model.name, model.description.license, model.description.card], [
      "n",
      "MIT",
      "# A card",
    ]);
    logits.push(logitsOf(model));
  }
  for (const each of logits) assertSameBits(each, logits[0]!, "logits");
  // of a pack the same pack
  assert.deepEqual(await repacked(pack), pack);
});

async function repacked(pack: Uint8Array): Promise<Uint8Array> {
  const { packModel } = await import("../../src/runtime/pack_model.ts");
  const model = await openModel([{ name: "p.rsparse", blob: new BytesBlob(pack) }]);
  const { chunks } = await packModel(model, { dtype: "auto", modelHash: model.modelHash! });
  return new Uint8Array(await new Blob(chunks as Uint8Array<ArrayBuffer>[]).arrayBuffer());
}

/** What loading bytes comes to: logits, or a FormatError that points into the file; anything else fails the test. */
async function load(bytes: Uint8Array): Promise<Float32Array | FormatError> {
  try {
    await using model = await Model.load([{ name: "bad.rsparse", blob: new BytesBlob(bytes) }], {
      kernels: "baseline",
    });
    return logitsOf(model);
  } catch (error) {
    assert.ok(error instanceof FormatError, `not a FormatError: ${(error as Error).stack}`);
    assert.equal(error.file, "bad.rsparse");
    assert.ok(Number.isSafeInteger(error.offset) && error.offset >= 0, error.message);
    return error;
  }
}

const SMALL: LlamaConfig = {
  ...UNEVEN,
  hiddenSize: 64,
  intermediateSize: 96,
  numHiddenLayers: 1,
  numAttentionHeads: 2,
};

test("pack: a file that is cut, wherever, is refused", async () => {
  const pack = await packOf(source("int8", SMALL), "int8");
  const ends = [0, 1, 7, 8, 31, 32, 33, 1000, pack.length >> 1, pack.length - 65, pack.length - 1];
  for (const end of ends) assert.ok(await load(pack.subarray(0, end)) instanceof FormatError, `${end} bytes`);
  const longer = new Uint8Array(pack.length + 1);
  longer.set(pack);
  assert.ok(await load(longer) instanceof FormatError, "a byte more");
});

test("pack: a bit that is flipped, wherever, is noticed or changes nothing", async () => {
  const pack = await packOf(source("int8", SMALL), "int8", {
    recipe: await recipeFor(source("int8", SMALL)),
  });
  const wanted = await load(pack) as Float32Array, random = new Random(3);
  const { tensors, tokenizer, recipe, matrices } = await openPack(new BytesBlob(pack), "p");
  let noticed = 0;
  const flip = async (at: number): Promise<void> => {
    const bad = pack.slice();
    bad[at]! ^= 1 << random.below(8);
    const found = await load(bad);
    if (found instanceof FormatError) noticed++;
    else assertSameBits(found, wanted, `byte ${at} is padding`);
  };
  const places = [
    ...[...tensors.values()].filter(({ type }) => type !== "I8"),
    ...matrices,
    tokenizer,
    recipe!,
  ].map(({ offset }) => offset);
  for (const at of [...Array(64).keys(), ...places, pack.length - 1]) await flip(at);
  assert.equal(noticed, 64 + places.length + 1, "in what is read all are noticed");
  for (let i = 0; i < 100; i++) await flip(random.below(pack.length));
});

/** The pack with another header, whose checksum is right: what a forger can do. */
function withHeader(pack: Uint8Array, change: (header: Record<string, unknown>) => unknown): Uint8Array {
  const view = new DataView(pack.buffer, pack.byteOffset), length = view.getUint32(12, true);
  const header = JSON.parse(new TextDecoder().decode(pack.subarray(32, 32 + length)));
  const text = new TextEncoder().encode(JSON.stringify(change(header) ?? header));
  assert.ok(text.length <= length, "the header is no longer than it was");
  const out = pack.slice();
  out.fill(0x20, 32, 32 + length);
  out.set(text, 32);
  new DataView(out.buffer).setUint32(24, parseInt(checksum(out.subarray(32, 32 + length)), 16), true);
  return out;
}

type Entry = Record<string, unknown>;

test("pack: a header that lies is refused, and nothing is made as large as it says", async () => {
  const pack = await packOf(source("int8", SMALL), "int8");
  assert.ok(await load(withHeader(pack, () => null)) instanceof Float32Array, "unchanged it loads");
  const tensor = (h: Entry, i: number): Entry => (h["tensors"] as Entry[])[i]!;
  const matrix = (h: Entry, i: number): Entry => (h["matrices"] as Entry[])[i]!;
  const config = (h: Entry): Entry => h["config"] as Entry;
  const huge = 2 ** 40;
  const lies: readonly [string, (header: Entry) => unknown][] = [
    ["no object", () => []],
    ["no tensors", (h) => void delete h["tensors"]],
    ["tensors that are none", (h) => void (h["tensors"] = [1])],
    ["no tokenizer", (h) => void (h["tokenizer"] = null)],
    ["a tokenizer past the end", (h) => void ((h["tokenizer"] as Entry)["bytes"] = huge)],
    ["a tokenizer elsewhere", (h) => void ((h["tokenizer"] as Entry)["offset"] = tensor(h, 1)["offset"])],
    ["an offset in the header", (h) => void (matrix(h, 0)["offset"] = 0)],
    ["a negative offset", (h) => void (matrix(h, 0)["offset"] = -64)],
    ["an offset between bytes", (h) => void (matrix(h, 0)["offset"] = 4096.5)],
    ["an offset past the end", (h) => void (matrix(h, 0)["offset"] = huge)],
    ["matrices in each other", (h) => void (matrix(h, 1)["offset"] = matrix(h, 0)["offset"])],
    ["a huge matrix", (h) => void (matrix(h, 1)["nOut"] = huge)],
    ["a matrix of nothing", (h) => void (matrix(h, 1)["nIn"] = 0)],
    ["a matrix beyond 2^53", (h) => void Object.assign(matrix(h, 1), { nIn: 2 ** 52, nOut: 2 ** 52 })],
    ["another layout", (h) => void (matrix(h, 1)["layout"] = "rows")],
    ["the embedding by channels", (h) => void (matrix(h, 0)["layout"] = "channels-i8")],
    ["no checksum", (h) => void delete matrix(h, 0)["sum"]],
    ["another checksum", (h) => void (matrix(h, 0)["sum"] = "0".repeat(8))],
    ["a matrix that there is not", (h) => void (tensor(h, 0)["matrix"] = 99)],
    ["an output past its matrix", (h) => void (tensor(h, 0)["output"] = 64)],
    ["an output that is in no block", (h) => void (tensor(h, 0)["output"] = 1)],
    ["another shape", (h) => void (tensor(h, 0)["shape"] = [300, 32])],
    ["a shape beyond all", (h) => void (tensor(h, 1)["shape"] = [huge])],
    ["three sizes", (h) => void (tensor(h, 1)["shape"] = [1, 1, 64])],
    ["another type", (h) => void (tensor(h, 1)["type"] = "F64")],
    ["blocks that don't fit", (h) => void Object.assign(tensor(h, 1), { type: "Q4_1", shape: [65] })],
    ["a name twice", (h) => void (tensor(h, 2)["name"] = tensor(h, 1)["name"])],
    ["a name without a role", (h) => void (tensor(h, 2)["name"] = "w")],
    ["no config", (h) => void delete h["config"]],
    ["more layers", (h) => void (config(h)["numHiddenLayers"] = 2)],
    ["a million layers", (h) => void (config(h)["numHiddenLayers"] = 1e6)],
    ["heads of nothing", (h) => void (config(h)["numAttentionHeads"] = 0)],
    ["a vocabulary beyond its rows", (h) => void (config(h)["vocabSize"] = 4e6)],
    ["no epsilon", (h) => void (config(h)["rmsNormEps"] = null)],
    ["other frequencies", (h) => void (config(h)["ropeScaling"] = { type: "yarn" })],
    ["too few factors", (h) => void (config(h)["ropeScaling"] = { type: "factors", factors: [1] })],
    ["no hash", (h) => void (h["modelHash"] = "0")],
    ["a name that is none", (h) => void (h["name"] = 7)],
  ];
  for (const [what, lie] of lies) {
    assert.ok(await load(withHeader(pack, lie as never)) instanceof FormatError, what);
  }
  assert.deepEqual(Object.keys(Object.prototype), []);
});

test("pack: lengths and versions of the first bytes", async () => {
  const pack = await packOf(source("int8", SMALL), "int8");
  const changed = (at: number, value: number): Uint8Array => {
    const out = pack.slice();
    new DataView(out.buffer).setUint32(at, value, true);
    return out;
  };
  for (
    const [at, value, says] of [
      [8, 2, /version 2/],
      [12, 0xffffffff, /header of 4294967295/],
      [12, pack.length, /header of/],
      [16, 1, /cut/],
      [20, 1, /cut/],
      [24, 1, /checksum/],
    ] as const
  ) {
    const found = await load(changed(at, value));
    assert.ok(found instanceof FormatError && says.test(found.message), `${at}: ${found}`);
  }
});

/** A pack whose tokenizer is another, checksums right. */
async function withTokenizer(change: (tokenizer: Entry) => void): Promise<Uint8Array> {
  const { packModel } = await import("../../src/runtime/pack_model.ts");
  const model = await openModel(source("int8", SMALL)),
    tokenizer = JSON.parse(JSON.stringify(model.tokenizer));
  change(tokenizer);
  const stored = {
    ...model,
    tokenizer: Object.assign(Object.create(model.tokenizer), { toJSON: () => tokenizer }),
  };
  const { chunks } = await packModel(stored, { dtype: "int8", modelHash: "0".repeat(64) });
  return new Uint8Array(await new Blob(chunks as Uint8Array<ArrayBuffer>[]).arrayBuffer());
}

test("pack: a tokenizer that contradicts itself is refused", async () => {
  assert.ok(await load(await withTokenizer(() => {})) instanceof Float32Array, "unchanged it loads");
  const lies: readonly [string, (tokenizer: Entry) => void][] = [
    ["type", (t) => void (t["type"] = "wordpiece")],
    ["tokens", (t) => void (t["tokens"] = "abc")],
    ["tokens", (t) => void (t["tokens"] = [1, 2])],
    ["rows", (t) => void (t["tokens"] as unknown[]).push("more")],
    ["merges", (t) => void (t["merges"] = [1, 2])],
    ["merges", (t) => void (t["merges"] = [1, 2, 300])],
    ["controls", (t) => void (t["controls"] = [-1])],
    ["bosId", (t) => void (t["bosId"] = 300)],
    ["addBos", (t) => void (t["addBos"] = 1)],
    ["normalizer", (t) => void (t["normalizers"] = ["Lowercase"])],
    ["pre_tokenizer", (t) => void (t["preTokenizer"] = {})],
    ["pre_tokenizer", (t) => void (t["preTokenizer"] = { pretokenizers: [{ type: "Metaspace" }] })],
    [
      "built",
      (t) =>
        void ((t["preTokenizer"] as { pretokenizers: { pattern: Entry }[] }).pretokenizers[0]!.pattern = {
          Regex: "(",
        }),
    ],
  ];
  for (const [what, lie] of lies) {
    const found = await load(await withTokenizer(lie));
    assert.ok(found instanceof FormatError && found.message.includes(what), `${what}: ${found}`);
  }
});

test("Checksum: XXH32, in pieces as in one", () => {
  // as its documentation and others' tests have them
  const text = (s: string) => checksum(new TextEncoder().encode(s));
  assert.deepEqual(["", "a", "abc", "Nobody inspects the spammish repetition"].map(text), [
    "02cc5d05",
    "550d7456",
    "32d153ff",
    "e2293b2f",
  ]);
  const random = new Random(1), bytes = random.bytes(1000), whole = checksum(bytes);
  const parts = new Checksum().update(bytes.subarray(0, 64)).update(bytes.subarray(64, 480)).update(
    bytes.subarray(480),
  );
  assert.equal(parts.digest(), whole);
  // at an odd offset of its buffer
  const shifted = new Uint8Array(1001);
  shifted.set(bytes, 1);
  assert.equal(checksum(shifted.subarray(1)), whole);
});
