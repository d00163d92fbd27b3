import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { FormatError, RecipeError } from "../../src/errors.ts";
import { type SafetensorsInput, writeSafetensors } from "../../src/format/safetensors.ts";
import type { LlamaConfig } from "../../src/model/config.ts";
import { planOfficialBudget } from "../../src/recipe/budget.ts";
import { importOfficialRecipe, importThresholdRecipe, parseThresholds } from "../../src/recipe/import.ts";
import {
  checkRecipe,
  joinRecipe,
  modeOf,
  parseRecipe,
  type ProjectionRecipe,
  projectionShapes,
  type ProjectionTensors,
  type Recipe,
  RECIPE_KEY,
  serialiseRecipe,
  tableOf,
} from "../../src/recipe/recipe.ts";
import { requireShared, skipWithout } from "../support/shared.ts";

const CONFIG: LlamaConfig = {
  architecture: "llama",
  hiddenSize: 8,
  intermediateSize: 12,
  numHiddenLayers: 2,
  numAttentionHeads: 4,
  numKeyValueHeads: 2,
  headDim: 2,
  vocabSize: 16,
  maxPositionEmbeddings: 32,
  rmsNormEps: 1e-5,
  ropeTheta: 10000,
  ropeDim: 2,
  ropeScaling: { type: "none" },
  ropeInterleaved: true,
  tieWordEmbeddings: true,
};
const HASH = "a".repeat(64);
const Q0 = "model.layers.0.self_attn.q_proj";
const DOWN1 = "model.layers.1.mlp.down_proj";

type Changes = { [field: string]: unknown };
type Made = { recipe: Recipe; tensors: Map<string, ProjectionTensors>; table: Float32Array };
const POINTS = [0, 0.25, 0.5, 0.75];

/** A recipe for CONFIG with projections of every mode; `changes` go to the recipe, `at` to one projection. */
function make(changes: Changes = {}, at: { [path: string]: Changes } = {}): Made {
  const tensors = new Map<string, ProjectionTensors>();
  const rhos = [1, 0.75, 0, 0.5];
  const projections = projectionShapes(CONFIG).map(({ path, nIn, nOut }, i): ProjectionRecipe => {
    const rho = rhos[i % 4]!, mode = modeOf(rho), rank = mode === "sparse" ? 0 : 2;
    const values = (n: number): Float32Array => Float32Array.from({ length: n }, (_, k) => (k + i) / 7);
    tensors.set(path, {
      factors: rank > 0 ? { u: values(rank * nOut), v: values(rank * nIn) } : null,
      scale: mode === "r_sparse" ? values(nIn) : null,
    });
    const score = mode === "sparse" ? "abs" : "columnNorm";
    return { path, score, threshold: 0.1 * i, rho, sparsity: 0.5, channels: i % 8, rank, mode, ...at[path] };
  });
  const recipe: Recipe = {
    version: 3,
    method: "r-sparse",
    compat: "corrected",
    modelHash: HASH,
    model: "tiny",
    sparsity: 0.5,
    points: POINTS,
    rho: 0.75,
    seed: 42,
    calibration: { source: "text.txt", tokens: 512, sha256: "b".repeat(64) },
    keepDense: 1,
    projections,
    ...changes,
  };
  const table = new Float32Array(projections.flatMap(({ threshold: t }) => [-1, t / 2, t, 2 * t]));
  return { recipe, tensors, table };
}

function blobOf(chunks: Uint8Array[]): Blob {
  return new Blob(chunks as BlobPart[]);
}

/** A file with any JSON as its recipe and the tensors of a good one, but for those that `change` replaces or drops. */
function fileOf(json: string, change: (inputs: Map<string, SafetensorsInput>) => void = () => {}): Blob {
  const { recipe, tensors, table } = make(), inputs = new Map<string, SafetensorsInput>();
  inputs.set("thresholds", tensor("thresholds", table, [recipe.projections.length, POINTS.length]));
  for (const { path, rank } of recipe.projections) {
    const { factors, scale } = tensors.get(path)!;
    if (factors !== null) {
      inputs.set(`${path}.u`, tensor(`${path}.u`, factors.u, [rank, factors.u.length / rank]));
      inputs.set(`${path}.v`, tensor(`${path}.v`, factors.v, [rank, factors.v.length / rank]));
    }
    if (scale !== null) inputs.set(`${path}.scale`, tensor(`${path}.scale`, scale, [scale.length]));
  }
  change(inputs);
  return blobOf(writeSafetensors([...inputs.values()], { [RECIPE_KEY]: json }));
}

function tensor(name: string, values: Float32Array, shape: number[]): SafetensorsInput {
  return {
    name,
    dtype: "F32",
    shape,
    data: new Uint8Array(values.buffer, values.byteOffset, values.byteLength),
  };
}

function failsAt(code: RecipeError["code"], path: string): (error: unknown) => boolean {
  return (error) => {
    assert.ok(error instanceof RecipeError, String(error));
    assert.equal(error.code, code, error.message);
    assert.ok(error.message.startsWith(`Cannot use recipe: ${path}: `), error.message);
    return true;
  };
}

test("serialiseRecipe, parseRecipe: what is written is read, and the same recipe gives the same bytes", async () => {
  const { recipe, tensors, table } = make(), chunks = serialiseRecipe(recipe, tensors, table);
  const loaded = await parseRecipe(blobOf(chunks), "recipe.safetensors");
  assert.deepEqual(loaded.recipe, recipe);
  for (const { path } of recipe.projections) {
    assert.deepEqual(loaded.factors(path), tensors.get(path)!.factors, path);
    assert.deepEqual(loaded.scale(path), tensors.get(path)!.scale, path);
  }
  assert.deepEqual(loaded.thresholds(recipe.projections[3]!.path), table.slice(12, 16));
  assert.deepEqual(tableOf(loaded), table);
  assert.equal(loaded.factors("model.layers.9.self_attn.q_proj"), null);
  assert.equal(loaded.thresholds("model.layers.9.self_attn.q_proj"), null);
  checkRecipe(loaded, CONFIG, HASH);
  const again = serialiseRecipe(loaded.recipe, tensors, tableOf(loaded));
  assert.deepEqual(await blobOf(again).arrayBuffer(), await blobOf(chunks).arrayBuffer());
});

test("serialiseRecipe: tensors that begin inside a larger buffer are cut out of it", async () => {
  const { recipe, tensors, table } = make(), path = "model.layers.0.self_attn.k_proj";
  const large = Float32Array.from({ length: 40 }, (_, i) => i);
  tensors.set(path, {
    factors: { u: large.subarray(3, 11), v: large.subarray(20, 36) },
    scale: large.subarray(1, 9),
  });
  const loaded = await parseRecipe(blobOf(serialiseRecipe(recipe, tensors, table)), "recipe");
  assert.deepEqual(loaded.factors(path), { u: large.slice(3, 11), v: large.slice(20, 36) });
  assert.deepEqual(loaded.scale(path), large.slice(1, 9));
});

test("parseRecipe: a value that is wrong is named with its path", async () => {
  const recipeFields: [string, RecipeError["code"], unknown[]][] = [
    ["version", "version", [0, 1, "2", null, undefined]],
    ["method", "bad_value", ["magic", 1, null, "__proto__", undefined]],
    ["compat", "bad_value", ["", "constructor", []]],
    ["modelHash", "bad_value", ["", 5, null]],
    ["sparsity", "bad_value", [1, -0.1, "0.5", null, 1e999]],
    ["points", "bad_value", [null, undefined, "all", {}, [0, 0.4], Array(2000).fill(0)]],
    ["points.0", "bad_value", [[-0.1, 0.5], ["0.5"], [null], [1]]],
    ["points.1", "bad_value", [[0.5, 0.5], [0.5, 0.4], [0.5, 1], [0.5, "1"]]],
    ["rho", "bad_value", [1.01, -1, {}]],
    ["seed", "bad_value", [-1, 0.5, 2 ** 60, null]],
    ["keepDense", "bad_value", [-1, 1.5, true]],
    ["calibration", "bad_value", [null, [], "text", undefined]],
    ["projections", "bad_value", [null, {}, "all", Array(8000).fill(0)]],
  ];
  for (const [field, code, values] of recipeFields) {
    for (const value of values) {
      const json = JSON.stringify({ ...make().recipe, [field.split(".")[0]!]: value });
      await assert.rejects(parseRecipe(fileOf(json), "recipe"), failsAt(code, field));
    }
  }
  const projectionFields: [string, unknown[]][] = [
    ["score", ["norm", null]],
    ["threshold", [NaN, "0.1", null, undefined]],
    ["rho", [1.5, -0.5, "1"]],
    ["sparsity", [1, -1, null]],
    ["channels", [-1, 1.5, null]],
    ["rank", [-1, 0.5, 1, 2 ** 60]],
    ["mode", ["fast", "low_rank", "r_sparse", null]],
  ];
  for (const [field, values] of projectionFields) {
    for (const value of values) {
      const json = JSON.stringify(make({}, { [Q0]: { [field]: value } }).recipe);
      await assert.rejects(parseRecipe(fileOf(json), "recipe"), failsAt("bad_value", `${Q0}.${field}`));
    }
  }
  for (
    const path of [
      "",
      "lm_head",
      "model.layers.00.mlp.up_proj",
      "model.layers.0.mlp.q_proj",
      7,
      null,
      "\u0000",
    ]
  ) {
    const json = JSON.stringify(make({}, { [Q0]: { path } }).recipe);
    await assert.rejects(parseRecipe(fileOf(json), "recipe"), failsAt("bad_value", "projections.0.path"));
  }
  const twice = make().recipe.projections.concat(make().recipe.projections[3]!);
  const json = JSON.stringify(make({ projections: twice }).recipe);
  await assert.rejects(
    parseRecipe(fileOf(json), "recipe"),
    failsAt("bad_value", "model.layers.0.self_attn.o_proj"),
  );
});

test("parseRecipe: JSON that is broken, deep, or reaches for prototypes is an error and changes nothing", async () => {
  const good = JSON.stringify(make().recipe);
  for (const json of ["", "{", "[]", "null", good.slice(0, -1), `${"[".repeat(50000)}${"]".repeat(50000)}`]) {
    await assert.rejects(parseRecipe(fileOf(json), "recipe"), FormatError);
  }
  const polluted = good.replace("{", `{"__proto__":{"version":3,"polluted":true},`);
  const { recipe } = await parseRecipe(fileOf(polluted), "recipe");
  assert.deepEqual(recipe, make().recipe);
  assert.equal(({} as Changes)["polluted"], undefined);
  const inherited = `{"__proto__":${good}}`;
  await assert.rejects(parseRecipe(fileOf(inherited), "recipe"), failsAt("version", "version"));
});

test("parseRecipe: a file that is cut, or is no recipe, is a FormatError with its name", async () => {
  const { recipe, tensors, table } = make(), whole = blobOf(serialiseRecipe(recipe, tensors, table));
  for (const size of [0, 4, 8, 100, whole.size - 1]) {
    await assert.rejects(
      parseRecipe(whole.slice(0, size), "cut.safetensors"),
      /Cannot read cut\.safetensors: /,
    );
  }
  const plain = blobOf(writeSafetensors([tensor("w", Float32Array.of(1), [1])], {}));
  await assert.rejects(parseRecipe(plain, "model.safetensors"), (error: unknown) => {
    return error instanceof FormatError && /model\.safetensors.*not a recipe/.test(error.message);
  });
});

test("parseRecipe: tensors that don't fit are named", async () => {
  const json = JSON.stringify(make().recipe), k = "model.layers.0.self_attn.k_proj";
  const cases: [string, (inputs: Map<string, SafetensorsInput>) => void][] = [
    [`${k}.u`, (inputs) => inputs.delete(`${k}.u`)],
    [`${k}.v`, (inputs) => inputs.delete(`${k}.v`)],
    [`${k}.scale`, (inputs) => inputs.delete(`${k}.scale`)],
    [`${k}.u`, (inputs) => inputs.delete(`${k}.u`) && inputs.delete(`${k}.v`)],
    [`${k}.u`, (inputs) => inputs.set(`${k}.u`, tensor(`${k}.u`, new Float32Array(12), [3, 4]))],
    [`${k}.u`, (inputs) => inputs.set(`${k}.u`, tensor(`${k}.u`, new Float32Array(8), [8]))],
    [`${k}.u`, (inputs) => inputs.set(`${k}.u`, tensor(`${k}.u`, new Float32Array(0), [2, 0]))],
    [`${k}.rank`, (inputs) => inputs.set(`${k}.u`, tensor(`${k}.u`, new Float32Array(2), [2, 1]))],
    [`${k}.scale`, (inputs) => inputs.set(`${k}.scale`, tensor(`${k}.scale`, new Float32Array(9), [9]))],
    [`${k}.scale`, (inputs) => inputs.set(`${k}.scale`, tensor(`${k}.scale`, Float32Array.of(NaN), [1]))],
    [
      `${k}.scale`,
      (inputs) => inputs.set(`${k}.scale`, tensor(`${k}.scale`, new Float32Array(8).fill(-1), [8])),
    ],
    [
      `${k}.v`,
      (inputs) => inputs.set(`${k}.v`, tensor(`${k}.v`, new Float32Array(16).fill(Infinity), [2, 8])),
    ],
    [`${Q0}.u`, (inputs) => {
      inputs.set(`${Q0}.u`, tensor(`${Q0}.u`, new Float32Array(0), [0, 8]));
      inputs.set(`${Q0}.v`, tensor(`${Q0}.v`, new Float32Array(0), [0, 8]));
    }],
    [`${Q0}.scale`, (inputs) => inputs.set(`${Q0}.scale`, tensor(`${Q0}.scale`, new Float32Array(8), [8]))],
    ["thresholds", (inputs) => inputs.delete("thresholds")],
    ...[[13, 4], [14, 3], [56], [4, 14]].map((shape): typeof cases[number] => ["thresholds", (inputs) => {
      const values = make().table.slice(0, shape.reduce((a, b) => a * b));
      inputs.set("thresholds", tensor("thresholds", values, shape));
    }]),
    ["thresholds", (inputs) => {
      inputs.set("thresholds", { ...inputs.get("thresholds")!, dtype: "F16", data: new Uint8Array(112) });
    }],
    ...[[2, 0, NaN], [2, 3, Infinity], [2, 0, -Infinity], [2, 1, -0.5], [2, 1, -2], [2, 3, 0.1], [2, 2, 0.15]]
      .map(([row, point, value]): typeof cases[number] => {
        const path = make().recipe.projections[row!]!.path;
        return [`${path}.thresholds.${point}`, (inputs) => {
          const values = make().table;
          values[4 * row! + point!] = value!;
          inputs.set("thresholds", tensor("thresholds", values, [14, 4]));
        }];
      }),
    [`"stray"`, (inputs) => inputs.set("stray", tensor("stray", new Float32Array(1), [1]))],
  ];
  for (const [path, change] of cases) {
    await assert.rejects(parseRecipe(fileOf(json, change), "recipe"), failsAt("bad_value", path), path);
  }
});

test("joinRecipe, serialiseRecipe: refuse what parseRecipe would refuse", () => {
  const { recipe, tensors, table } = make({}, { [Q0]: { threshold: Infinity } });
  assert.throws(() => joinRecipe(recipe, tensors, table), failsAt("bad_value", `${Q0}.threshold`));
  assert.throws(() => serialiseRecipe(recipe, tensors, table), failsAt("bad_value", `${Q0}.threshold`));
  const good = make();
  assert.throws(() => joinRecipe(good.recipe, good.tensors), failsAt("bad_value", "thresholds"));
  const fixed = make({ points: [] });
  assert.throws(() => joinRecipe(fixed.recipe, fixed.tensors, table), failsAt("bad_value", "thresholds"));
  assert.equal(tableOf(joinRecipe(fixed.recipe, fixed.tensors)), null);
  good.tensors.set("model.layers.7.mlp.up_proj", { factors: null, scale: null });
  assert.throws(
    () => joinRecipe(good.recipe, good.tensors, good.table),
    failsAt("bad_value", "model.layers.7.mlp.up_proj"),
  );
});

test("checkRecipe: another model, a missing or unknown projection, sizes that don't fit", () => {
  const check = ({ recipe, tensors, table }: Made, config = CONFIG, hash = HASH): void => {
    checkRecipe(joinRecipe(recipe, tensors, table), config, hash);
  };
  check(make());
  assert.throws(() => check(make(), CONFIG, "c".repeat(64)), failsAt("model_mismatch", "modelHash"));
  assert.throws(
    () => check(make(), { ...CONFIG, numHiddenLayers: 1 }),
    failsAt("model_mismatch", "model.layers.1.self_attn.q_proj"),
  );
  const short = make(), projections = short.recipe.projections.filter(({ path }) => path !== DOWN1);
  short.tensors.delete(DOWN1);
  assert.throws(
    () => check({ ...short, recipe: { ...short.recipe, projections }, table: short.table.slice(0, -4) }),
    failsAt("missing_projection", DOWN1),
  );
  assert.throws(() => check(make({}, { [Q0]: { channels: 9 } })), failsAt("bad_value", `${Q0}.channels`));
  const k = "model.layers.0.self_attn.k_proj", wide = make();
  wide.tensors.set(k, {
    ...wide.tensors.get(k)!,
    factors: { u: new Float32Array(10), v: new Float32Array(16) },
  });
  assert.throws(() => check(wide), failsAt("bad_value", `${k}.u`));
  const v = new Float32Array(18), scale = new Float32Array(9);
  wide.tensors.set(k, { factors: { u: new Float32Array(8), v }, scale });
  assert.throws(() => check(wide), failsAt("bad_value", `${k}.v`));
  const norms = make({}, { [Q0]: { score: "columnNorm" } });
  norms.tensors.set(Q0, { factors: null, scale });
  assert.throws(() => check(norms), failsAt("bad_value", `${Q0}.scale`));
  const high = make({}, { [k]: { rank: 5 } });
  high.tensors.set(k, {
    factors: { u: new Float32Array(25), v: new Float32Array(40) },
    scale: new Float32Array(8),
  });
  assert.throws(() => check(high), failsAt("bad_value", `${k}.rank`));
});

test("parseThresholds: one row a projection, in the model's order; anything else is named", () => {
  const rows = projectionShapes(CONFIG).map(({ path }, i): unknown[] => [path, 0.5 * i - 1, i % 8, i % 4]);
  const parse = (
    modules: unknown,
    sparsity: unknown = 0.5,
    rho: unknown = 0.5,
  ): ReturnType<typeof parseThresholds> => {
    return parseThresholds({ sparsity, rho, modules }, CONFIG);
  };
  const given = parse(rows.toReversed());
  assert.deepEqual([given.sparsity, given.rho], [0.5, 0.5]);
  assert.throws(() => parse(rows, 0.5, 1), failsAt("bad_value", `${rows[1]![0]}.rank`));
  // -1, -0.5, 0, 0.5, …: below 0 every channel is active, and that is -1
  const wanted = rows.map((
    [path, threshold, ...rest],
  ) => [path, (threshold as number) < 0 ? -1 : threshold, ...rest]);
  assert.deepEqual(given.projections.map((p) => [p.path, p.threshold, p.activeChannels, p.rank]), wanted);
  assert.equal(parse(rows.with(0, rows[0]!.with(1, -1e-46))).projections[0]!.threshold, -1);
  const at = (index: number, value: unknown): unknown[] => rows.with(2, rows[2]!.with(index, value));
  const path = "model.layers.0.self_attn.v_proj";
  const cases: [string, () => unknown, RecipeError["code"]?][] = [
    ["thresholds", () => parseThresholds(null, CONFIG)],
    ["modules", () => parse({})],
    ["modules", () => parse(rows.concat(rows))],
    ["modules.2", () => parse([...rows.slice(0, 2), "row"])],
    ["modules.2", () => parse(rows.with(2, [1, 2, 3, 4, 5]))],
    ["modules.2.0", () => parse(at(0, "blk.0.attn_v"))],
    ["model.layers.2.mlp.up_proj", () => parse(at(0, "model.layers.2.mlp.up_proj"))],
    [Q0, () => parse(at(0, Q0))],
    [`${path}.threshold`, () => parse(at(1, NaN))],
    [`${path}.threshold`, () => parse(rows.with(2, [path]))],
    [`${path}.activeChannels`, () => parse(at(2, 9))],
    [`${path}.rank`, () => parse(at(3, 5))],
    [path, () => parse(rows.toSpliced(2, 1)), "missing_projection"],
    ["sparsity", () => parse(rows, 1)],
    ["rho", () => parse(rows, 0.5, 2)],
  ];
  for (const [where, run, code] of cases) assert.throws(run, failsAt(code ?? "bad_value", where), where);
});

test("parseThresholds: the golden recipes of SmolLM2", { skip: skipWithout("golden/rsparse") }, () => {
  const { recipes } = JSON.parse(readFileSync(requireShared("golden/rsparse/smollm2.json"), "utf8")) as {
    recipes: { modules: unknown[][] }[];
  };
  const smollm2 = { ...CONFIG, hiddenSize: 576, intermediateSize: 1536, numHiddenLayers: 30, headDim: 64 };
  const config = { ...smollm2, numAttentionHeads: 9, numKeyValueHeads: 3 };
  for (const recipe of recipes) {
    const { projections } = parseThresholds(recipe, config);
    assert.deepEqual(projections.map((p) => [p.path, p.threshold, p.activeChannels, p.rank]), recipe.modules);
  }
});

test("importThresholdRecipe: a module a projection by its GGUF name; anything else is named", () => {
  const names = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"];
  const module = (i: number): Changes => ({ score: "abs", threshold: i / 8, sparsity: 0.5, rho: 1, rank: 0 });
  const modules: [string, Changes][] = Array.from({ length: 14 }, (
    _,
    i,
  ) => [`blk.${Math.floor(i / 7)}.${names[i % 7]}`, module(i)]);
  const read = (
    entries: readonly (readonly [string, unknown])[] = modules,
    changes: Changes = {},
  ): ReturnType<typeof importThresholdRecipe> => {
    const json = { model: "tiny", sha256: HASH, target_sparsity: 0.5, modules: Object.fromEntries(entries) };
    return importThresholdRecipe({ ...json, ...changes }, CONFIG, "half.json");
  };
  const loaded = read(modules.toReversed()), { recipe } = loaded;
  checkRecipe(loaded, CONFIG, HASH);
  assert.deepEqual(
    recipe.projections.map((p) => [p.path, p.threshold, p.channels, p.score, p.mode]),
    projectionShapes(CONFIG).map(({ path, nIn }, i) => [path, i / 8, nIn / 2, "abs", "sparse"]),
  );
  assert.deepEqual([recipe.method, recipe.sparsity, recipe.points, recipe.keepDense], [
    "by-site",
    0.5,
    [],
    0,
  ]);
  assert.deepEqual([recipe.calibration.source, recipe.modelHash], ["half.json", HASH]);
  const at = (field: string, value: unknown): [string, Changes][] =>
    modules.with(2, [modules[2]![0], { ...modules[2]![1], [field]: value }]);
  const cases: [string, () => unknown, RecipeError["code"]?][] = [
    ["sha256", () => read(modules, { sha256: "abc" })],
    ["model", () => read(modules, { model: 1 })],
    ["target_sparsity", () => read(modules, { target_sparsity: 1 })],
    ["modules", () => read(modules, { modules: [] })],
    ["modules.blk.0.attn_v", () => read(modules.with(2, ["blk.0.attn_v", 5 as unknown as Changes]))],
    ["modules.blk.0.attn_v.score", () => read(at("score", "columnNorm"))],
    ["modules.blk.0.attn_v.rho", () => read(at("rho", 0.9))],
    ["modules.blk.0.attn_v.rank", () => read(at("rank", 1))],
    ["modules.blk.0.attn_v.threshold", () => read(at("threshold", NaN))],
    ["modules.blk.0.attn_v.sparsity", () => read(at("sparsity", 1))],
    ["modules.blk.2.attn_q", () => read([...modules, ["blk.2.attn_q", module(0)]])],
    [`modules."blk.00.attn_q"`, () => read([...modules, ["blk.00.attn_q", module(0)]])],
    [`modules."blk.0.attn_norm"`, () => read([...modules, ["blk.0.attn_norm", module(0)]])],
    ["model.layers.0.self_attn.v_proj", () => read(modules.toSpliced(2, 1)), "missing_projection"],
  ];
  for (const [where, run, code] of cases) assert.throws(run, failsAt(code ?? "bad_value", where), where);
});

test("importOfficialRecipe: pairs of rho and sparsity in the order of the blocks", () => {
  const shapes = projectionShapes(CONFIG);
  const text = shapes.map((_, i) => `${(i / 16).toExponential(18)}\n5.000000000000000000e-01\n`).join("");
  const read = importOfficialRecipe(text, shapes);
  assert.deepEqual(read, shapes.map(({ path }, i) => ({ path, rho: i / 16, sparsity: 0.5 })));
  const bad = (from: string, to: string): () => unknown => () =>
    importOfficialRecipe(text.replace(from, to), shapes);
  assert.throws(bad("0.000000000000000000e+0\n", ""), failsAt("bad_value", "official"));
  assert.throws(bad("0.000000000000000000e+0", "nan"), failsAt("bad_value", "official.0"));
  assert.throws(bad("0.000000000000000000e+0", "0x1"), failsAt("bad_value", "official.0"));
  assert.throws(bad("0.000000000000000000e+0", "1.5"), failsAt("bad_value", `${Q0}.rho`));
  assert.throws(bad("5.000000000000000000e-01", "1"), failsAt("bad_value", `${Q0}.sparsity`));
  assert.throws(bad("\n", "\n".repeat(5000)), failsAt("bad_value", "official"));
});

test("importOfficialRecipe: the released Llama-3-8B recipe gives the authors' counts", {
  skip: skipWithout("spec/rsparse_budgets.json"),
}, () => {
  const { releasedRecipe } = JSON.parse(readFileSync(requireShared("spec/rsparse_budgets.json"), "utf8")) as {
    releasedRecipe: {
      sparsity: number;
      meanRho: number;
      order: string[];
      rows: [number, string, number, number, number][];
    };
  };
  const llama = { ...CONFIG, hiddenSize: 4096, intermediateSize: 14336, numHiddenLayers: 32, headDim: 128 };
  const shapes = projectionShapes({ ...llama, numAttentionHeads: 32, numKeyValueHeads: 8 });
  const rhos = shapes.map(() => 1);
  const indexOf = (layer: number, name: string): number => 7 * layer + releasedRecipe.order.indexOf(name);
  for (const [layer, name, rho] of releasedRecipe.rows) rhos[indexOf(layer, name)] = rho;
  const read = importOfficialRecipe(
    rhos.map((rho) => `${rho}\n${releasedRecipe.sparsity}\n`).join(""),
    shapes,
  );
  assert.equal(read.length, 224);
  assert.ok(Math.abs(read.reduce((sum, { rho }) => sum + rho, 0) / 224 - releasedRecipe.meanRho) < 1e-6);
  for (const [layer, name, , channels, rank] of releasedRecipe.rows) {
    const { nIn, nOut } = shapes[indexOf(layer, name)]!, { rho, sparsity } = read[indexOf(layer, name)]!;
    const shape = name.length === 1 ? { nIn: 4096, nOut: 4096 } : { nIn, nOut };
    const budget = planOfficialBudget(shape, sparsity, rho, true);
    assert.deepEqual([budget.activeChannels, budget.rank], [channels, rank], `${layer} ${name}`);
  }
});
