import assert from "node:assert/strict";
import { openAsBlob, readdirSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { FormatError } from "../../src/errors.ts";
import { type SafetensorsInput, writeSafetensors } from "../../src/format/safetensors.ts";
import { type ProjectionName, PROJECTIONS } from "../../src/model/config.ts";
import type { LlamaDescription } from "../../src/model/llama.ts";
import { byteLevelChar } from "../../src/model/byte_level.ts";
import { type NamedBlob, openModel } from "../../src/model/open.ts";
import {
  f32,
  i32s,
  text,
  texts,
  u32,
  writeGguf,
  type WrittenKey,
  type WrittenTensor,
} from "../support/gguf_writer.ts";
import { requireShared, skipWithout } from "../support/shared.ts";

type Json = { [key: string]: unknown };

// A model of one layer: hidden 8, 2 heads of 4, 1 key/value head, ff 12, 258 tokens
const TOKENS = ["<|end|>", "<|begin|>", ...Array.from({ length: 256 }, (_, byte) => byteLevelChar(byte))];
const SHAPES: { readonly [name: string]: number[] } = {
  "embed_tokens.weight": [258, 8],
  "norm.weight": [8],
  "layers.0.input_layernorm.weight": [8],
  "layers.0.post_attention_layernorm.weight": [8],
  "layers.0.self_attn.q_proj.weight": [8, 8],
  "layers.0.self_attn.k_proj.weight": [4, 8],
  "layers.0.self_attn.v_proj.weight": [4, 8],
  "layers.0.self_attn.o_proj.weight": [8, 8],
  "layers.0.mlp.gate_proj.weight": [12, 8],
  "layers.0.mlp.up_proj.weight": [12, 8],
  "layers.0.mlp.down_proj.weight": [8, 12],
};
const N_PARAMETERS = 258 * 8 + 3 * 8 + 2 * 64 + 2 * 32 + 3 * 96;
const CONFIG: Json = {
  model_type: "llama",
  hidden_size: 8,
  intermediate_size: 12,
  num_hidden_layers: 1,
  num_attention_heads: 2,
  num_key_value_heads: 1,
  vocab_size: 258,
  max_position_embeddings: 100,
  rms_norm_eps: 1e-6,
  tie_word_embeddings: true,
  eos_token_id: 0,
};
const TOKENIZER: Json = {
  added_tokens: [{ id: 0, content: TOKENS[0], special: true }, { id: 1, content: TOKENS[1], special: true }],
  normalizer: null,
  pre_tokenizer: { type: "ByteLevel", add_prefix_space: false, use_regex: true },
  decoder: { type: "ByteLevel" },
  model: { type: "BPE", vocab: Object.fromEntries(TOKENS.map((token, id) => [token, id])), merges: [] },
};

const f16 = (name: string, shape: readonly number[]): SafetensorsInput => ({
  name,
  dtype: "F16",
  shape,
  data: new Uint8Array(shape.reduce((a, b) => a * b, 2)),
});
const weights: readonly SafetensorsInput[] = Object.entries(SHAPES).map(([name, shape]) =>
  f16(`model.${name}`, shape)
);
const biases: readonly SafetensorsInput[] = [["q", 8] as const, ["k", 4] as const, ["v", 4] as const]
  .map(([name, n]) => f16(`model.layers.0.self_attn.${name}_proj.bias`, [n]));
const lmHead = f16("lm_head.weight", [258, 8]);

const file = (name: string, ...parts: (string | Uint8Array)[]): NamedBlob => ({
  name: `models/tiny/${name}`,
  blob: new Blob(parts.map((part) => typeof part === "string" ? part : new Uint8Array(part))),
});
const json = (name: string, value: unknown): NamedBlob => file(name, JSON.stringify(value));
const tensorFile = (tensors: readonly SafetensorsInput[], name = "model.safetensors"): NamedBlob =>
  file(name, ...writeSafetensors(tensors, {}));

/** The folder with changes to its configuration, other tensors, and more files. */
function folder(config: Json = {}, tensors = weights, more: readonly NamedBlob[] = []): NamedBlob[] {
  return [
    json("config.json", { ...CONFIG, ...config }),
    json("tokenizer.json", TOKENIZER),
    tensorFile(tensors),
    ...more,
  ];
}

async function refused(files: readonly NamedBlob[], says: RegExp): Promise<FormatError> {
  try {
    await openModel(files);
  } catch (error) {
    assert.ok(error instanceof FormatError, String(error));
    assert.match(error.message, says);
    return error;
  }
  assert.fail(`not refused: ${says}`);
}

const GGUF_NAMES: readonly (readonly [gguf: string, hf: string])[] = [
  ["token_embd.weight", "embed_tokens.weight"],
  ["output_norm.weight", "norm.weight"],
  ["blk.0.attn_norm.weight", "layers.0.input_layernorm.weight"],
  ["blk.0.ffn_norm.weight", "layers.0.post_attention_layernorm.weight"],
  ["blk.0.attn_q.weight", "layers.0.self_attn.q_proj.weight"],
  ["blk.0.attn_k.weight", "layers.0.self_attn.k_proj.weight"],
  ["blk.0.attn_v.weight", "layers.0.self_attn.v_proj.weight"],
  ["blk.0.attn_output.weight", "layers.0.self_attn.o_proj.weight"],
  ["blk.0.ffn_gate.weight", "layers.0.mlp.gate_proj.weight"],
  ["blk.0.ffn_up.weight", "layers.0.mlp.up_proj.weight"],
  ["blk.0.ffn_down.weight", "layers.0.mlp.down_proj.weight"],
];
const ggufWeights: readonly WrittenTensor[] = GGUF_NAMES.map(([name, hf]) => ({
  name,
  type: "F32",
  shape: SHAPES[hf]!,
}));
const ggufBiases: readonly WrittenTensor[] = [["q", 8] as const, ["k", 4] as const, ["v", 4] as const]
  .map(([name, n]) => ({ name: `blk.0.attn_${name}.bias`, type: "F32", shape: [n] }));

function ggufKeys(architecture: string, more: readonly WrittenKey[] = []): WrittenKey[] {
  const own: WrittenKey[] = [
    text("general.architecture", architecture),
    u32(`${architecture}.block_count`, 1),
    u32(`${architecture}.context_length`, 100),
    u32(`${architecture}.embedding_length`, 8),
    u32(`${architecture}.feed_forward_length`, 12),
    u32(`${architecture}.attention.head_count`, 2),
    u32(`${architecture}.attention.head_count_kv`, 1),
    f32(`${architecture}.attention.layer_norm_rms_epsilon`, 0.5),
    text("tokenizer.ggml.model", "gpt2"),
    text("tokenizer.ggml.pre", "smollm"),
    texts("tokenizer.ggml.tokens", TOKENS),
    i32s("tokenizer.ggml.token_type", TOKENS.map((_, id) => id < 2 ? 3 : 1)),
    texts("tokenizer.ggml.merges", []),
  ];
  const names = new Set(more.map(([key]) => key));
  return [...own.filter(([key]) => !names.has(key)), ...more];
}

const gguf = (
  keys: readonly WrittenKey[],
  tensors = ggufWeights,
): NamedBlob[] => [file("a.gguf", writeGguf(keys, tensors))];

test("openModel: a folder's configuration, tensors, tokenizer and name", async () => {
  const model = await openModel(folder());
  assert.deepEqual(model.config, {
    architecture: "llama",
    hiddenSize: 8,
    intermediateSize: 12,
    numHiddenLayers: 1,
    numAttentionHeads: 2,
    numKeyValueHeads: 1,
    headDim: 4,
    vocabSize: 258,
    maxPositionEmbeddings: 100,
    rmsNormEps: 1e-6,
    ropeTheta: 10000,
    ropeScaling: { type: "none" },
    ropeDim: 4,
    ropeInterleaved: false,
    tieWordEmbeddings: true,
  });
  assert.equal(model.lmHead, model.embedding);
  assert.equal(model.layers.length, 1);
  assert.deepEqual(model.layers[0]!.biases, {});
  for (const name of PROJECTIONS) {
    assert.match(model.layers[0]!.projections[name].name, new RegExp(snake(name)));
  }
  assert.deepEqual([model.name, model.parameters, model.quantization], ["tiny", N_PARAMETERS, "F16"]);
  assert.deepEqual([model.chatTemplate, model.license], [null, null]);
  assert.deepEqual(model.tokenizer.encode("a"), [TOKENS.indexOf("a")]);
});

function snake(name: ProjectionName): string {
  return name.replace(/[A-Z]/g, (c) => `_${c.toLowerCase()}`);
}

test("openModel: every spelling of rotary base and scaling", async () => {
  const llama3 = { factor: 8, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 50 };
  const scaled = {
    type: "llama3",
    factor: 8,
    lowFreqFactor: 1,
    highFreqFactor: 4,
    originalMaxPositionEmbeddings: 50,
  };
  const spellings: [Json, number, unknown][] = [
    [{ rope_theta: 500, rope_scaling: null }, 500, { type: "none" }],
    [{ rope_theta: 500, rope_scaling: { rope_type: "llama3", ...llama3 } }, 500, scaled],
    [{ rope_parameters: { rope_theta: 700, rope_type: "llama3", ...llama3 } }, 700, scaled],
    [{ rope_parameters: { rope_theta: 700, rope_type: "default" } }, 700, { type: "none" }],
    [{ rope_scaling: { type: "linear", factor: 4 } }, 10000, { type: "linear", factor: 4 }],
  ];
  for (const [config, theta, scaling] of spellings) {
    const { ropeTheta, ropeScaling } = (await openModel(folder(config))).config;
    assert.deepEqual([ropeTheta, ropeScaling], [theta, scaling]);
  }
  await refused(folder({ rope_scaling: { rope_type: "yarn", factor: 4 } }), /"rope_type" "yarn" found/);
  await refused(folder({ rope_scaling: { rope_type: "linear" } }), /"factor" missing/);
  await refused(folder({ rope_scaling: { rope_type: "llama3", ...llama3, high_freq_factor: 1 } }), /above 1/);
  await refused(folder({ rope_theta: 0 }), /"rope_theta" 0 found/);
  await refused(folder({ rope_scaling: [] }), /"rope_scaling" a list/);
  await refused(folder({ partial_rotary_factor: 0.5 }), /partial_rotary_factor/);
});

test("openModel: a head of its own, or tied; a copy of the embedding beside a tied one is passed over", async () => {
  const untied = await openModel(folder({ tie_word_embeddings: false }, [...weights, lmHead]));
  assert.equal(untied.lmHead.name, "lm_head.weight");
  assert.equal(untied.parameters, N_PARAMETERS + 258 * 8);
  const tied = await openModel(folder({}, [...weights, lmHead]));
  assert.equal(tied.lmHead, tied.embedding);
  assert.equal(tied.parameters, N_PARAMETERS);
  assert.equal((await openModel(folder({ tie_word_embeddings: undefined }))).config.tieWordEmbeddings, true);
  await refused(folder({ tie_word_embeddings: false }), /"lm_head.weight": not there/);
});

test("openModel: biases of q, k and v, which qwen2 must have", async () => {
  const qwen2 = await openModel(folder({ model_type: "qwen2" }, [...weights, ...biases]));
  assert.deepEqual(Object.keys(qwen2.layers[0]!.biases), ["qProj", "kProj", "vProj"]);
  assert.equal(qwen2.parameters, N_PARAMETERS + 16);
  await refused(folder({ model_type: "qwen2" }), /q_proj.bias": not there/);
  const llama = await openModel(folder({ attention_bias: true }, [...weights, ...biases]));
  assert.equal(llama.layers[0]!.biases.kProj?.shape[0], 4);
  const oBias = f16("model.layers.0.self_attn.o_proj.bias", [8]);
  await refused(folder({}, [...weights, oBias]), /o_proj.bias": a llama of 1 layers has none/);
});

test("openModel: an explicit head_dim, and a window that ends the context", async () => {
  const wide = weights.map((tensor) => {
    const rows = { q_proj: [16, 8], k_proj: [8, 8], v_proj: [8, 8], o_proj: [8, 16] };
    const shape = Object.entries(rows).find(([name]) => tensor.name.includes(name))?.[1];
    return shape === undefined ? tensor : f16(tensor.name, shape);
  });
  const mistral = await openModel(folder({ model_type: "mistral", head_dim: 8, sliding_window: 64 }, wide));
  assert.deepEqual([mistral.config.headDim, mistral.config.maxPositionEmbeddings], [8, 64]);
  const qwen2 = { model_type: "qwen2", sliding_window: 64 };
  const withBiases = [...weights, ...biases];
  assert.equal((await openModel(folder(qwen2, withBiases))).config.maxPositionEmbeddings, 100);
  const slides = await openModel(folder({ ...qwen2, use_sliding_window: true }, withBiases));
  assert.equal(slides.config.maxPositionEmbeddings, 64);
});

test("openModel: refuses impossible numbers at their place in config.json", async () => {
  const impossible: [string, unknown][] = [
    ["hidden_size", 0],
    ["hidden_size", 7],
    ["hidden_size", 8.5],
    ["hidden_size", "8"],
    ["hidden_size", null],
    ["hidden_size", 2 ** 40],
    ["intermediate_size", -1],
    ["intermediate_size", 12.5],
    ["num_hidden_layers", 0],
    ["num_hidden_layers", 2 ** 31],
    ["num_attention_heads", 0],
    ["num_attention_heads", 2 ** 31],
    ["num_key_value_heads", 0],
    ["num_key_value_heads", 3],
    ["vocab_size", 0],
    ["vocab_size", 2 ** 31],
    ["max_position_embeddings", 0],
    ["rms_norm_eps", 0],
    ["rms_norm_eps", "x"],
    ["model_type", "gpt9"],
    ["model_type", ["llama"]],
    ["hidden_act", "gelu"],
    ["tie_word_embeddings", 1],
    ["quantization_config", { quant_method: "gptq" }],
  ];
  for (const [key, value] of impossible) {
    const error = await refused(folder({ [key]: value }), /wanted/);
    assert.equal(error.file, "models/tiny/config.json");
    if (error.message.includes(`"${key}"`)) {
      const { blob } = folder({ [key]: value })[0]!;
      assert.ok((await blob.slice(error.offset).text()).startsWith(`"${key}"`), error.message);
    }
  }
  await refused(folder({ num_hidden_layers: 2 }), /layers\.1\..*not there/);
  await refused(folder({ vocab_size: 300 }), /embed_tokens.*\[258, 8\] found, \[300, 8\] wanted/);
  await refused(folder({ num_attention_heads: 4, num_key_value_heads: 2 }), /multiple of 4/);
});

test("openModel: shards that an index names; other safetensors beside them are not read", async () => {
  const [config, tokenizer] = folder();
  const shards = [
    tensorFile(weights.slice(0, 4), "m-1.safetensors"),
    tensorFile(weights.slice(4), "m-2.safetensors"),
  ];
  const other = file("consolidated.safetensors", "broken");
  const names = Object.fromEntries(
    weights.map(({ name }, i) => [name, i < 4 ? "m-1.safetensors" : "m-2.safetensors"]),
  );
  const index = json("model.safetensors.index.json", { weight_map: names });
  const model = await openModel([other, shards[1]!, config!, index, tokenizer!, shards[0]!]);
  assert.deepEqual(model.checkpoint.blobs, shards.map(({ blob }) => blob));
  assert.equal((await openModel([config!, tokenizer!, ...shards])).checkpoint.tensors.size, weights.length);
  assert.equal((await openModel([...folder(), other])).checkpoint.tensors.size, weights.length);
  await refused([config!, tokenizer!, index, shards[0]!], /names "m-2.safetensors", which is not there/);
  for (const map of [undefined, {}, [], { a: 1 }, { a: { toString: 1 } }]) {
    await refused(
      [config!, tokenizer!, ...shards, json(index.name.slice(12), { weight_map: map })],
      /weight_map/,
    );
  }
});

test("openModel: chat templates and stop ids from the files beside", async () => {
  const template = async (...more: NamedBlob[]): Promise<string | null> =>
    (await openModel(folder({}, weights, more))).chatTemplate;
  const list = [{ name: "tool_use", template: "t" }, { name: "default", template: "d" }];
  assert.equal(await template(json("tokenizer_config.json", { chat_template: "one" })), "one");
  assert.equal(await template(json("tokenizer_config.json", { chat_template: list })), "d");
  assert.equal(await template(json("tokenizer_config.json", { chat_template: list.slice(0, 1) })), null);
  assert.equal(
    await template(
      json("tokenizer_config.json", { chat_template: "one" }),
      file("chat_template.jinja", "own"),
    ),
    "own",
  );
  await refused(folder({}, weights, [file("chat_template.jinja", Uint8Array.of(0xff))]), /UTF-8/);
  await refused(folder({}, weights, [file("generation_config.json", "{")]), /JSON/);
  const stops = await openModel(
    folder({}, weights, [json("generation_config.json", { eos_token_id: [5, 6] })]),
  );
  assert.ok([5, 6].every((id) => stops.tokenizer.stopIds.includes(id)));
});

test("openModel: refuses a folder without config, tokenizer or weights, and a tokenizer larger than the embedding", async () => {
  const [config, tokenizer, tensors] = folder();
  await refused([tokenizer!, tensors!], /no config\.json/);
  await refused([config!, tensors!], /no tokenizer\.json/);
  await refused([config!, tokenizer!], /no safetensors/);
  const fewer = weights.map((tensor) => tensor.shape[0] === 258 ? f16(tensor.name, [257, 8]) : tensor);
  await refused(folder({ vocab_size: 257 }, fewer), /258 tokens found, the embedding has 257 rows/);
  const more = weights.map((tensor) => tensor.shape[0] === 258 ? f16(tensor.name, [260, 8]) : tensor);
  assert.equal((await openModel(folder({ vocab_size: 260 }, more))).config.vocabSize, 260);
});

test("openModel: refuses weights of integers by their dtype", async () => {
  const name = "model.layers.0.mlp.up_proj.weight";
  const codes: SafetensorsInput = { name, dtype: "I8", shape: [12, 8], data: new Uint8Array(96) };
  await refused(folder({}, [...weights.filter((tensor) => tensor.name !== name), codes]), /stored as I8/);
});

test("openModel: a GGUF file's defaults, and rotary pairs by its architecture", async () => {
  const llama = await openModel(gguf(ggufKeys("llama")));
  assert.deepEqual(llama.config, {
    architecture: "llama",
    hiddenSize: 8,
    intermediateSize: 12,
    numHiddenLayers: 1,
    numAttentionHeads: 2,
    numKeyValueHeads: 1,
    headDim: 4,
    vocabSize: 258,
    maxPositionEmbeddings: 100,
    rmsNormEps: 0.5,
    ropeTheta: 10000,
    ropeDim: 4,
    ropeScaling: { type: "none" },
    ropeInterleaved: true,
    tieWordEmbeddings: true,
  });
  assert.deepEqual([llama.name, llama.license, llama.parameters, llama.quantization], [
    "a",
    null,
    N_PARAMETERS,
    "F32",
  ]);
  const qwen2 = await openModel(gguf(ggufKeys("qwen2"), [...ggufWeights, ...ggufBiases]));
  assert.equal(qwen2.config.ropeInterleaved, false);
  assert.deepEqual(Object.keys(qwen2.layers[0]!.biases), ["qProj", "kProj", "vProj"]);
  await refused(gguf(ggufKeys("qwen2")), /attn_q.bias": not there/);
});

test("openModel: what a GGUF file says of itself", async () => {
  const keys = ggufKeys("llama", [
    text("general.name", "A model"),
    text("general.license", "mit"),
    text("tokenizer.chat_template", "{{ x }}"),
    f32("llama.rope.freq_base", 500),
    u32("llama.rope.dimension_count", 2),
    text("llama.rope.scaling.type", "linear"),
    f32("llama.rope.scaling.factor", 4),
    u32("llama.attention.sliding_window", 64),
  ]);
  const head: WrittenTensor = { name: "output.weight", type: "F32", shape: [258, 8] };
  const { name, license, chatTemplate, config, lmHead } = await openModel(gguf(keys, [...ggufWeights, head]));
  assert.deepEqual([name, license, chatTemplate, lmHead.name], [
    "A model",
    "mit",
    "{{ x }}",
    "output.weight",
  ]);
  assert.deepEqual(config.ropeScaling, { type: "linear", factor: 4 });
  assert.deepEqual([config.ropeTheta, config.ropeDim, config.maxPositionEmbeddings], [500, 2, 64]);
  assert.equal(config.tieWordEmbeddings, false);
});

test("openModel: rope_freqs.weight of a GGUF file is a factor for each frequency", async () => {
  const factors = (...values: number[]): WrittenTensor => ({
    name: "rope_freqs.weight",
    type: "F32",
    shape: [values.length],
    data: new Uint8Array(Float32Array.from(values).buffer),
  });
  const { config } = await openModel(gguf(ggufKeys("llama"), [...ggufWeights, factors(1, 8)]));
  assert.deepEqual(config.ropeScaling, { type: "factors", factors: [1, 8] });
  for (const bad of [[1], [1, 2, 3], [1, 0], [1, -1], [1, NaN], [1, Infinity]]) {
    await refused(gguf(ggufKeys("llama"), [...ggufWeights, factors(...bad)]), /rope_freqs/);
  }
});

test("openModel: refuses what a GGUF file cannot mean", async () => {
  const impossible: [WrittenKey, RegExp][] = [
    [u32("llama.attention.head_count", 0), /head_count" 0/],
    [u32("llama.attention.head_count", 3), /key_length/],
    [u32("llama.attention.head_count", 2 ** 32 - 1), /head_count/],
    [u32("llama.attention.head_count_kv", 3), /divisor of the 2 heads/],
    [i32s("llama.attention.head_count_kv", [1]), /a list of 1/],
    [u32("llama.attention.key_length", 6), /multiple of 4/],
    [u32("llama.attention.value_length", 8), /value_length/],
    [u32("llama.rope.dimension_count", 3), /even number/],
    [u32("llama.rope.dimension_count", 6), /even number/],
    [u32("llama.block_count", 2 ** 31), /block_count/],
    [u32("llama.block_count", 2), /blk\.1\..*not there/],
    [u32("llama.vocab_size", 257), /vocab_size" 257/],
    [u32("llama.expert_count", 8), /expert_count/],
    [f32("llama.rope.freq_base", NaN), /freq_base/],
    [text("llama.rope.scaling.type", "yarn"), /yarn/],
    [text("llama.embedding_length", "8"), /embedding_length/],
    [texts("tokenizer.ggml.tokens", TOKENS.slice(1)), /a list of 257 found, a list of 258/],
    [u32("general.name", 1), /general\.name/],
  ];
  for (const [key, says] of impossible) await refused(gguf(ggufKeys("llama", [key])), says);
  const extra: WrittenTensor = { name: "blk.0.attn_q_norm.weight", type: "F32", shape: [4] };
  await refused(gguf(ggufKeys("llama"), [...ggufWeights, extra]), /attn_q_norm/);
});

test("openModel: files of no kind, of two models, or of half a model are refused", async () => {
  const [one] = gguf(ggufKeys("llama"));
  await refused([one!, { ...one!, name: "b.gguf" }], /second GGUF file/);
  assert.equal((await openModel([{ name: "no ending", blob: one!.blob }])).name, "no ending");
  await refused([file("a.txt", "hello")], /neither/);
  await refused([file("a.bin", "hello")], /tokenizer/);
  await refused([file("a.bin", "hello"), file("b.bin", "hello")], /header of 28/);
  await assert.rejects(openModel([]), RangeError);
});

async function filesIn(relative: string): Promise<NamedBlob[]> {
  const path = requireShared(relative);
  return await Promise.all(
    readdirSync(path).map(async (name) => {
      const full = join(path, name);
      return { name: full, blob: await openAsBlob(full) };
    }),
  );
}

test(
  "openModel: stories260K, a llama2.c checkpoint with its tokenizer",
  { skip: skipWithout("data/models") },
  async () => {
    const model = await openModel(await filesIn("data/models/stories260K"));
    assert.deepEqual([model.name, model.parameters, model.quantization], ["stories260K", 260_032, "F32"]);
    const { numHiddenLayers, numKeyValueHeads, ropeInterleaved, tieWordEmbeddings } = model.config;
    assert.deepEqual([numHiddenLayers, numKeyValueHeads, ropeInterleaved, tieWordEmbeddings], [
      5,
      4,
      true,
      true,
    ]);
    assert.equal(model.tokenizer.vocabSize, 512);
  },
);

test("openModel: the tiny models of every kind", { skip: skipWithout("golden/tiny") }, async () => {
  const open = async (name: string): Promise<LlamaDescription> => {
    const path = `golden/tiny/${name}`;
    if (!name.endsWith(".gguf")) return openModel(await filesIn(path));
    return openModel([{ name, blob: await openAsBlob(requireShared(path)) }]);
  };
  const found = [];
  for (
    const name of [
      "llama-f32.gguf",
      "llama-mixed.gguf",
      "llama3-untied-f16.gguf",
      "llama3-hf",
      "qwen2-hf",
      "mistral-hf",
    ]
  ) {
    const { config, quantization, layers } = await open(name);
    const { ropeScaling, ropeInterleaved, tieWordEmbeddings } = config;
    const nBiases = Object.keys(layers[1]!.biases).length;
    found.push([name, quantization, ropeScaling.type, ropeInterleaved, tieWordEmbeddings, nBiases]);
  }
  assert.deepEqual(found, [
    ["llama-f32.gguf", "F32", "none", true, true, 0],
    ["llama-mixed.gguf", "Q4_1", "none", true, true, 0],
    ["llama3-untied-f16.gguf", "F16", "factors", true, false, 0],
    ["llama3-hf", "BF16", "llama3", false, true, 0],
    ["qwen2-hf", "F32", "none", false, false, 3],
    ["mistral-hf", "F16", "none", false, false, 0],
  ]);
});
