/** A Llama from the tables of a GGUF file. Keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md#llm */
import { FormatError } from "../errors.ts";
import { readTensor, type Tensor } from "../format/checkpoint.ts";
import { type GgufCheckpoint, openGguf } from "../format/gguf.ts";
import { MAX_LAYERS, MAX_VOCABULARY, MAX_WIDTH } from "../format/limits.ts";
import { assembleLlama, checkHeads, GGUF_NAMES } from "./assemble.ts";
import type { LlamaConfig, RopeScaling } from "./config.ts";
import { fieldError, type Fields, integerField, positiveField, textField } from "./fields.ts";
import type { LlamaDescription } from "./llama.ts";
import { bpeFromGguf } from "./tokenizer_bpe.ts";

/** Architectures by their rotary pairs: the converter reorders rows of q and k for llama, and leaves qwen2's as they are. */
const INTERLEAVED: ReadonlyMap<string, boolean> = new Map([["llama", true], ["qwen2", false]]);
const FACTORS = "rope_freqs.weight";
const HEADER_END = 24;

/**
 * Opens a GGUF file as a Llama.
 *
 * @param name What to call the model if the file does not say.
 * @throws {FormatError} If the file is broken, of an architecture that cannot be run, or its parts contradict each other.
 */
export async function openGgufModel(blob: Blob, file: string, name: string): Promise<LlamaDescription> {
  const checkpoint = await openGguf(blob, file);
  const { metadata, keyOffsets, tensorOffsets, tableOffset } = checkpoint;
  const fields: Fields = {
    file,
    get: (key) => metadata.get(key),
    offsetOf: (key) => keyOffsets.get(key) ?? HEADER_END,
  };
  const config = await readConfig(checkpoint, fields);
  const assembled = assembleLlama(
    checkpoint,
    config,
    GGUF_NAMES,
    {
      file,
      tableOffset,
      offsetOf: (tensor) => tensorOffsets.get(tensor.name) ?? tableOffset,
      whyNot: () => null,
    },
    (name) => name === FACTORS,
  );
  const tokens = "tokenizer.ggml.tokens";
  const listed = fields.get(tokens);
  if (!Array.isArray(listed) || listed.length !== config.vocabSize) {
    throw fieldError(fields, tokens, `a list of ${config.vocabSize}, as many as the embedding has rows,`);
  }
  return {
    name: textField(fields, "general.name") ?? name,
    config,
    checkpoint,
    ...assembled,
    tokenizer: bpeFromGguf(metadata, file, fields.offsetOf("tokenizer.ggml.model")),
    chatTemplate: textField(fields, "tokenizer.chat_template"),
    license: textField(fields, "general.license"),
  };
}

async function readConfig(checkpoint: GgufCheckpoint, fields: Fields): Promise<LlamaConfig> {
  const { tensors, file, tableOffset } = checkpoint;
  const architecture = textField(fields, "general.architecture");
  const ropeInterleaved = INTERLEAVED.get(architecture ?? "");
  if (architecture === null || ropeInterleaved === undefined) {
    throw fieldError(fields, "general.architecture", [...INTERLEAVED.keys()].join(" or "));
  }
  const key = (name: string): string => `${architecture}.${name}`;
  const hiddenSize = integerField(fields, key("embedding_length"), MAX_WIDTH);
  const numHiddenLayers = integerField(fields, key("block_count"), MAX_LAYERS);
  const numAttentionHeads = integerField(fields, key("attention.head_count"), MAX_WIDTH);
  const numKeyValueHeads = integerField(fields, key("attention.head_count_kv"), MAX_WIDTH, numAttentionHeads);
  const headDim = integerField(
    fields,
    key("attention.key_length"),
    MAX_WIDTH,
    hiddenSize / numAttentionHeads,
  );
  const ropeDim = integerField(fields, key("rope.dimension_count"), MAX_WIDTH, headDim);
  checkHeads({ numAttentionHeads, numKeyValueHeads, headDim, ropeDim }, fields, {
    kvHeads: key("attention.head_count_kv"),
    headDim: key("attention.key_length"),
    ropeDim: key("rope.dimension_count"),
  });
  if (integerField(fields, key("attention.value_length"), MAX_WIDTH, headDim) !== headDim) {
    throw fieldError(fields, key("attention.value_length"), `${headDim}, the length of keys,`);
  }
  if (fields.get(key("expert_count")) ?? 0) throw fieldError(fields, key("expert_count"), "0: a dense model");
  const embedding = tensors.get(GGUF_NAMES.embedding);
  if (embedding === undefined) {
    throw new FormatError(file, tableOffset, `tensor "${GGUF_NAMES.embedding}": not there`);
  }
  const vocabSize = embedding.shape[0]!;
  if (integerField(fields, key("vocab_size"), MAX_VOCABULARY, vocabSize) !== vocabSize) {
    throw fieldError(fields, key("vocab_size"), `${vocabSize}, the embedding's rows,`);
  }
  const context = integerField(fields, key("context_length"), 2 ** 32 - 1);
  // beyond its window a model with sliding attention needs a mask that the forward pass does not have: the context ends there
  const window = key("attention.sliding_window");
  return {
    architecture,
    hiddenSize,
    intermediateSize: integerField(fields, key("feed_forward_length"), MAX_WIDTH),
    numHiddenLayers,
    numAttentionHeads,
    numKeyValueHeads,
    headDim,
    vocabSize,
    maxPositionEmbeddings: Math.min(
      context,
      fields.get(window) ? integerField(fields, window, 2 ** 32 - 1) : context,
    ),
    rmsNormEps: positiveField(fields, key("attention.layer_norm_rms_epsilon")),
    ropeTheta: positiveField(fields, key("rope.freq_base"), 10000),
    ropeDim,
    ropeScaling: await readScaling(fields, key, tensors.get(FACTORS), ropeDim, checkpoint),
    ropeInterleaved,
    tieWordEmbeddings: !tensors.has(GGUF_NAMES.lmHead),
  };
}

async function readScaling(
  fields: Fields,
  key: (name: string) => string,
  factors: Tensor | undefined,
  ropeDim: number,
  checkpoint: GgufCheckpoint,
): Promise<RopeScaling> {
  const type = textField(fields, key("rope.scaling.type")) ?? "none";
  const linear = type === "linear" ? "rope.scaling.factor" : "rope.scale_linear"; // the older spelling has no type
  const factor = positiveField(fields, key(linear), 1);
  if (type !== "none" && type !== "linear") {
    throw fieldError(fields, key("rope.scaling.type"), "none or linear");
  }
  if (factors === undefined) return factor === 1 ? { type: "none" } : { type: "linear", factor };
  const fail = (detail: string): never => {
    const offset = checkpoint.tensorOffsets.get(FACTORS) ?? checkpoint.tableOffset;
    throw new FormatError(fields.file, offset, `tensor "${FACTORS}": ${detail}`);
  };
  if (factor !== 1) fail(`factors for each frequency found together with a factor of ${factor} for all`);
  if (factors.type !== "F32" || factors.shape.length !== 1 || factors.shape[0] !== ropeDim / 2) {
    fail(`${factors.type} [${factors.shape.join(", ")}] found, F32 [${ropeDim / 2}] wanted`);
  }
  const bytes = await readTensor(factors);
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  const values = Array.from({ length: ropeDim / 2 }, (_, i) => view.getFloat32(i * 4, true));
  if (!values.every((value) => value > 0 && value < Infinity)) fail("a factor that is not a number above 0");
  return { type: "factors", factors: values };
}
