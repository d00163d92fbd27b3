/** A Llama from a Hugging Face folder: `config.json`, `tokenizer.json` and safetensors, in one file or several. */
import { FormatError } from "../errors.ts";
import { decodeUtf8, isJsonObject, type JsonObject, readJsonFile, utf8Length } from "../format/json.ts";
import { MAX_LAYERS, MAX_STRING_BYTES, MAX_VOCABULARY, MAX_WIDTH, quote } from "../format/limits.ts";
import { openSafetensors, type SafetensorsCheckpoint } from "../format/safetensors.ts";
import { assembleLlama, checkHeads, HF_NAMES } from "./assemble.ts";
import type { LlamaConfig, RopeScaling } from "./config.ts";
import { fieldError, type Fields, flagField, integerField, positiveField, textField } from "./fields.ts";
import type { LlamaDescription } from "./llama.ts";
import { baseName, type NamedBlob } from "./named_blob.ts";
import { bpeFromTokenizerJson } from "./tokenizer_bpe.ts";

const MODEL_TYPES: readonly string[] = ["llama", "mistral", "qwen2"];
/** Rotary frequencies that old checkpoints carry along; they follow from the configuration. */
const INVERSE_FREQUENCIES = /\.rotary_emb\.inv_freq$/;

/**
 * Opens a folder's files as a Llama.
 *
 * @param weights Those of the files that are safetensors.
 * @param folder The folder's name, for errors about files that are not there.
 * @param name What to call the model.
 * @throws {FormatError} If a file is missing or broken, the architecture cannot be run, or the parts contradict each other.
 */
export async function openFolderModel(
  files: readonly NamedBlob[],
  weights: readonly NamedBlob[],
  folder: string,
  name: string,
): Promise<LlamaDescription> {
  const checkpoint = await openSafetensors(await weightFiles(files, weights, folder));
  const configFields = await readFields(files, folder, "config.json");
  const tokenizerFile = fileOf(files, "tokenizer.json");
  if (tokenizerFile === null) {
    throw new FormatError(folder, 0, "no tokenizer.json: it lies beside the model's config.json");
  }

  const config = readConfig(configFields, checkpoint);
  const assembled = assembleLlama(
    checkpoint,
    config,
    HF_NAMES,
    {
      file: checkpoint.blobs.length === 1 ? checkpoint.file : folder,
      tableOffset: 8,
      offsetOf: (tensor) => tensor.offset,
      whyNot: (tensor) => {
        const entry = checkpoint.entries.get(tensor);
        return entry === undefined ? null : `stored as ${entry.dtype}, F32, F16 or BF16 wanted`;
      },
    },
    (tensor) => tensor === HF_NAMES.lmHead && config.tieWordEmbeddings || INVERSE_FREQUENCIES.test(tensor),
  );

  const settings = await readOptional(files, "tokenizer_config.json");
  const generation = await readOptional(files, "generation_config.json");
  const tokenizer = bpeFromTokenizerJson(
    (await readJsonFile(tokenizerFile.blob, tokenizerFile.name)).value,
    {
      ...await readOptional(files, "special_tokens_map.json"),
      ...settings,
      eos_token_id: generation?.["eos_token_id"] ?? configFields.get("eos_token_id"),
    },
    tokenizerFile.name,
  );
  // rows past the tokenizer's are padding, as Qwen2 has it
  if (tokenizer.vocabSize > config.vocabSize) {
    throw new FormatError(
      tokenizerFile.name,
      0,
      `${tokenizer.vocabSize} tokens found, the embedding has ${config.vocabSize} rows`,
    );
  }
  const jinja = fileOf(files, "chat_template.jinja");
  return {
    name,
    config,
    checkpoint,
    ...assembled,
    tokenizer,
    chatTemplate: jinja === null ? templateOf(settings) : await readText(jinja),
    license: null,
  };
}

function fileOf(files: readonly NamedBlob[], base: string): NamedBlob | null {
  return files.find((file) => baseName(file.name) === base) ?? null;
}

async function readOptional(files: readonly NamedBlob[], base: string): Promise<JsonObject | null> {
  const file = fileOf(files, base);
  return file === null ? null : (await readJsonFile(file.blob, file.name)).value;
}

async function readFields(files: readonly NamedBlob[], folder: string, base: string): Promise<Fields> {
  const file = fileOf(files, base);
  if (file === null) throw new FormatError(folder, 0, `no ${base}: it lies beside the model's safetensors`);
  const { value, text } = await readJsonFile(file.blob, file.name);
  return fieldsOf(value, text, file.name);
}

function fieldsOf(object: JsonObject, text: string, file: string): Fields {
  return {
    file,
    get: (key) => Object.hasOwn(object, key) ? object[key] : undefined,
    offsetOf: (key) => {
      const at = text.indexOf(`"${key}"`);
      return at === -1 ? 0 : utf8Length(text.slice(0, at));
    },
  };
}

/** The safetensors that make up the model: those that an index names, else `model.safetensors`, else all there are. */
async function weightFiles(
  files: readonly NamedBlob[],
  weights: readonly NamedBlob[],
  folder: string,
): Promise<NamedBlob[]> {
  const index = fileOf(files, "model.safetensors.index.json");
  if (index !== null) {
    const map = (await readJsonFile(index.blob, index.name)).value["weight_map"];
    const shards = new Set(isJsonObject(map) ? Object.values(map) : []);
    if (shards.size === 0) fail(index.name, "a weight_map that names files wanted");
    return [...shards].map((shard) => {
      if (typeof shard !== "string") fail(index.name, "a weight_map that names something else than files");
      return fileOf(weights, shard) ?? fail(index.name, `names ${quote(shard)}, which is not there`);
    });
  }
  const single = fileOf(weights, "model.safetensors");
  if (single !== null) return [single];
  return weights.length > 0 ? [...weights] : fail(folder, "no safetensors beside config.json");
}

function fail(file: string, detail: string): never {
  throw new FormatError(file, 0, detail);
}

async function readText(file: NamedBlob): Promise<string> {
  if (file.blob.size > MAX_STRING_BYTES) {
    fail(file.name, `${file.blob.size} bytes found, at most ${MAX_STRING_BYTES} wanted`);
  }
  return decodeUtf8(new Uint8Array(await file.blob.arrayBuffer())) ??
    fail(file.name, "a template that is not UTF-8");
}

function readConfig(fields: Fields, checkpoint: SafetensorsCheckpoint): LlamaConfig {
  const architecture = textField(fields, "model_type");
  if (architecture === null || !MODEL_TYPES.includes(architecture)) {
    throw fieldError(fields, "model_type", MODEL_TYPES.join(" or "));
  }
  if ((textField(fields, "hidden_act") ?? "silu") !== "silu") {
    throw fieldError(fields, "hidden_act", '"silu"');
  }
  if (fields.get("quantization_config") ?? null) {
    throw fieldError(fields, "quantization_config", "none: a model of F32, F16 or BF16, or its GGUF file,");
  }
  const hiddenSize = integerField(fields, "hidden_size", MAX_WIDTH);
  const numAttentionHeads = integerField(fields, "num_attention_heads", MAX_WIDTH);
  const numKeyValueHeads = integerField(fields, "num_key_value_heads", MAX_WIDTH, numAttentionHeads);
  const headDim = integerField(fields, "head_dim", MAX_WIDTH, hiddenSize / numAttentionHeads);
  checkHeads({ numAttentionHeads, numKeyValueHeads, headDim, ropeDim: headDim }, fields, {
    kvHeads: "num_key_value_heads",
    headDim: "head_dim",
    ropeDim: "head_dim",
  });
  const context = integerField(fields, "max_position_embeddings", 2 ** 32 - 1);
  const slides = architecture === "qwen2" ? flagField(fields, "use_sliding_window", false) : true;
  return {
    architecture,
    hiddenSize,
    intermediateSize: integerField(fields, "intermediate_size", MAX_WIDTH),
    numHiddenLayers: integerField(fields, "num_hidden_layers", MAX_LAYERS),
    numAttentionHeads,
    numKeyValueHeads,
    headDim,
    vocabSize: integerField(fields, "vocab_size", MAX_VOCABULARY),
    // beyond the window a model with sliding attention needs a mask that the forward pass does not have: the context ends there
    maxPositionEmbeddings: slides
      ? Math.min(context, integerField(fields, "sliding_window", 2 ** 32 - 1, context))
      : context,
    rmsNormEps: positiveField(fields, "rms_norm_eps"),
    ...readRope(fields, context),
    ropeDim: headDim,
    ropeInterleaved: false,
    tieWordEmbeddings: flagField(fields, "tie_word_embeddings", !checkpoint.tensors.has(HF_NAMES.lmHead)),
  };
}

/** `rope_parameters` is the newer spelling of `rope_theta` and `rope_scaling`. */
function readRope(fields: Fields, context: number): Pick<LlamaConfig, "ropeTheta" | "ropeScaling"> {
  const key = fields.get("rope_parameters") == null ? "rope_scaling" : "rope_parameters";
  const object = fields.get(key) ?? {};
  if (!isJsonObject(object)) throw fieldError(fields, key, "an object");
  const rope: Fields = {
    file: fields.file,
    get: (name) => Object.hasOwn(object, name) ? object[name] : undefined,
    offsetOf: fields.offsetOf,
  };
  const theta = key === "rope_parameters" && rope.get("rope_theta") !== undefined ? rope : fields;
  const ropeTheta = positiveField(theta, "rope_theta", 10000);
  for (const from of [fields, rope]) {
    if ((from.get("partial_rotary_factor") ?? 1) !== 1) throw fieldError(from, "partial_rotary_factor", "1");
  }
  const type = textField(rope, "rope_type") ?? textField(rope, "type") ?? "default";
  switch (type) {
    case "default":
      return { ropeTheta, ropeScaling: { type: "none" } };
    case "linear":
      return { ropeTheta, ropeScaling: { type: "linear", factor: positiveField(rope, "factor") } };
    case "llama3":
      return { ropeTheta, ropeScaling: readLlama3(rope, context) };
  }
  throw fieldError(
    rope,
    rope.get("rope_type") === undefined ? "type" : "rope_type",
    "default, linear or llama3",
  );
}

function readLlama3(rope: Fields, context: number): RopeScaling {
  const lowFreqFactor = positiveField(rope, "low_freq_factor");
  const highFreqFactor = positiveField(rope, "high_freq_factor");
  // the frequencies between are blended by (x - low) / (high - low)
  if (!(highFreqFactor > lowFreqFactor)) {
    throw fieldError(rope, "high_freq_factor", `a number above ${lowFreqFactor}`);
  }
  return {
    type: "llama3",
    factor: positiveField(rope, "factor"),
    lowFreqFactor,
    highFreqFactor,
    originalMaxPositionEmbeddings: positiveField(rope, "original_max_position_embeddings", context),
  };
}

/** `chat_template` is a string, or a list of named ones of which `default` is the one for chat. */
function templateOf(settings: JsonObject | null): string | null {
  const value = settings?.["chat_template"];
  if (typeof value === "string") return value;
  if (!Array.isArray(value)) return null;
  const named = value.find((item) => isJsonObject(item) && item["name"] === "default");
  const template = isJsonObject(named) ? named["template"] : null;
  return typeof template === "string" ? template : null;
}
