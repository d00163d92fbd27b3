/**
 * A model of any shape with random weights, as a GGUF file that is made as it is read: speed does not depend on what the weights are, as long as they
 * and the activations they give stay normal numbers.
 */
import { BLOCK, type BlockType } from "../../format/checkpoint.ts";
import { GGUF_NAMES } from "../../model/assemble.ts";
import { byteLevelChar } from "../../model/byte_level.ts";
import { type LlamaConfig, PROJECTIONS, projectionShape } from "../../model/config.ts";
import type { Dtype } from "../../runtime/matrix.ts";
import { Random } from "../../runtime/random.ts";

/** A model's file, for `Model.load`. */
export interface SyntheticModel {
  readonly files: readonly { readonly name: string; readonly blob: Blob }[];
  /** Blocks that it has; the config's own number may be more. */
  readonly layersHeld: number;
}

const MAGIC = 0x46554747, VERSION = 3, ALIGNMENT = 32;
/** GGUF's numbers of value types. */
const U32 = 4, F32 = 6, STRING = 8, ARRAY = 9;
const TYPE_NUMBER = { F32: 0, Q4_1: 3, Q8_0: 8, BF16: 30 } as const satisfies {
  readonly [type in BlockType]?: number;
};
type MadeType = keyof typeof TYPE_NUMBER;

/** What a file for a dtype holds: projections, and embedding and head. */
const STORED: {
  readonly [dtype in Dtype]: { readonly projections: MadeType; readonly embedding: MadeType };
} = {
  f32: { projections: "F32", embedding: "F32" },
  bf16: { projections: "BF16", embedding: "BF16" },
  int8: { projections: "Q8_0", embedding: "Q8_0" },
  int4: { projections: "Q4_1", embedding: "Q8_0" },
};

/** Blocks that are made; a tensor repeats them. A prime, so that no row begins as the one above it. */
const TILE_BLOCKS = 8191;

/**
 * The file of a model with random weights.
 *
 * @param name what the model is called
 * @param layersHeld blocks to put into it, 1 to the config's number
 * @param seed of the weights; the same seed gives the same bytes
 */
export function syntheticModel(
  name: string,
  config: LlamaConfig,
  dtype: Dtype,
  layersHeld: number,
  seed: number = 1,
): SyntheticModel {
  const { projections, embedding } = STORED[dtype], tiles = new Tiles(seed), tensors: Made[] = [];
  const add = (name: string, type: MadeType, shape: readonly number[], tile: Uint8Array): void => {
    tensors.push({ name, type, shape, tile });
  };
  const { hiddenSize, vocabSize } = config, unit = 1 / Math.sqrt(hiddenSize);
  const norm = (name: string): void => add(name, "F32", [hiddenSize], tiles.norms());
  add(GGUF_NAMES.embedding, embedding, [vocabSize, hiddenSize], tiles.weights(embedding, unit));
  if (!config.tieWordEmbeddings) {
    add(GGUF_NAMES.lmHead, embedding, [vocabSize, hiddenSize], tiles.weights(embedding, unit));
  }
  norm(GGUF_NAMES.finalNorm);
  for (let l = 0; l < layersHeld; l++) {
    norm(GGUF_NAMES.attentionNorm(l));
    norm(GGUF_NAMES.mlpNorm(l));
    for (const name of PROJECTIONS) {
      const { nIn, nOut } = projectionShape(config, name);
      // outputs of about the size of the inputs: a stream of 32 blocks grows to some tens
      const tile = tiles.weights(projections, 1 / Math.sqrt(nIn));
      add(`${GGUF_NAMES.projection(l, name)}.weight`, projections, [nOut, nIn], tile);
    }
  }
  const blob = new MadeBlob(writeHeader(name, config, layersHeld, tensors), tensors);
  return { files: [{ name: `${name}.gguf`, blob }], layersHeld };
}

interface Made {
  readonly name: string;
  readonly type: MadeType;
  /** Outermost first. */
  readonly shape: readonly number[];
  /** Bytes that it repeats. */
  readonly tile: Uint8Array;
}

function bytesOf({ type, shape }: Made): number {
  return shape.reduce((product, size) => product * size, 1) / BLOCK[type].values * BLOCK[type].bytes;
}

function aligned(n: number): number {
  return Math.ceil(n / ALIGNMENT) * ALIGNMENT;
}

/** Random blocks, made once for each type and size of the numbers in them. */
class Tiles {
  readonly #random: Random;
  readonly #made = new Map<string, Uint8Array>();

  constructor(seed: number) {
    this.#random = new Random(seed);
  }

  /** Numbers with mean 0 and this standard deviation, uniform: no value is subnormal but for some in 10^30. */
  weights(type: MadeType, deviation: number): Uint8Array {
    return this.#once(`${type} ${deviation}`, () => {
      const { bytes } = BLOCK[type],
        out = new Uint8Array(TILE_BLOCKS * bytes),
        view = new DataView(out.buffer);
      for (let at = 0; at < out.length; at += bytes) this.#block(view, at, type, deviation);
      return out;
    });
  }

  /** Weights of a norm, f32 around 1. */
  norms(): Uint8Array {
    return this.#once("norms", () => {
      const values = Float32Array.from({ length: TILE_BLOCKS }, () => 0.75 + this.#random.uniform() / 2);
      return new Uint8Array(values.buffer);
    });
  }

  #once(key: string, make: () => Uint8Array): Uint8Array {
    let tile = this.#made.get(key);
    if (tile === undefined) this.#made.set(key, tile = make());
    return tile;
  }

  #block(view: DataView, at: number, type: MadeType, deviation: number): void {
    const random = this.#random;
    if (type === "F32" || type === "BF16") {
      const value = (random.uniform() * 2 - 1) * Math.sqrt(3) * deviation;
      if (type === "F32") return view.setFloat32(at, value, true);
      return view.setUint16(at, new Uint32Array(Float32Array.of(value).buffer)[0]! >>> 16, true);
    }
    // the scales of a row differ by a factor of two, as in real files
    const spread = 0.7 + 0.7 * random.uniform();
    if (type === "Q8_0") {
      view.setUint16(at, halfBits(spread * deviation / 73.9), true); // of integers in [-128, 127]
      for (let i = 0; i < 32; i++) view.setUint8(at + 2 + i, random.bits() >>> 24);
      return;
    }
    const d = spread * deviation / 4.61; // of integers in [0, 15]
    view.setUint16(at, halfBits(d), true);
    view.setUint16(at + 2, halfBits(-7.5 * d), true);
    for (let i = 0; i < 16; i++) view.setUint8(at + 4 + i, random.bits() >>> 24);
  }
}

/** A half that is about `value`, which lies well inside its normal range: rounded down. */
function halfBits(value: number): number {
  const bits = new Uint32Array(Float32Array.of(value).buffer)[0]!;
  return (bits >>> 31 << 15) | (((bits >>> 23 & 0xff) - 112) << 10) | (bits >>> 13 & 0x3ff);
}

/** A file whose bytes are made when they are read. What reads bytes works on it; as a part of another `Blob` it is empty. */
class MadeBlob extends Blob {
  readonly #header: Uint8Array;
  readonly #tensors: readonly Made[];
  readonly #start: number;
  readonly #end: number;

  constructor(header: Uint8Array, tensors: readonly Made[], start = 0, end = Infinity) {
    super();
    this.#header = header;
    this.#tensors = tensors;
    this.#start = start;
    this.#end = Math.min(end, tensors.reduce((sum, tensor) => sum + aligned(bytesOf(tensor)), header.length));
  }

  override get size(): number {
    return this.#end - this.#start;
  }

  override slice(start = 0, end: number = this.size): Blob {
    const within = (at: number): number => at < 0 ? Math.max(this.size + at, 0) : Math.min(at, this.size);
    const from = within(start), to = Math.max(from, within(end));
    return new MadeBlob(this.#header, this.#tensors, this.#start + from, this.#start + to);
  }

  override arrayBuffer(): Promise<ArrayBuffer> {
    const out = new Uint8Array(this.size);
    let at = 0;
    const part = (length: number, fill: (to: Uint8Array, from: number) => void): void => {
      const from = Math.max(at, this.#start), to = Math.min(at + length, this.#end);
      if (from < to) fill(out.subarray(from - this.#start, to - this.#start), from - at);
      at += length;
    };
    part(this.#header.length, (to, from) => to.set(this.#header.subarray(from, from + to.length)));
    for (const tensor of this.#tensors) {
      const bytes = bytesOf(tensor);
      part(bytes, (to, from) => repeat(to, tensor.tile, from));
      at += aligned(bytes) - bytes;
    }
    return Promise.resolve(out.buffer);
  }
}

/** Bytes of a tile repeated without end, from byte `from`. */
function repeat(to: Uint8Array, tile: Uint8Array, from: number): void {
  for (let at = 0, offset = from % tile.length; at < to.length; offset = 0) {
    const piece = tile.subarray(offset, offset + to.length - at);
    to.set(piece, at);
    at += piece.length;
  }
}

/** Magic, keys and the table of tensors, padded to where the data begins. Its vocabulary is the 256 bytes and words that stand for themselves. */
function writeHeader(
  name: string,
  config: LlamaConfig,
  layersHeld: number,
  tensors: readonly Made[],
): Uint8Array {
  const out = new Writer(), { architecture, vocabSize } = config;
  const keys: [key: string, type: number, write: () => void][] = [];
  const text = (key: string, value: string): void => void keys.push([key, STRING, () => out.text(value)]);
  const u32 = (key: string, value: number): void =>
    void keys.push([`${architecture}.${key}`, U32, () => out.u32(value)]);
  const f32 = (key: string, value: number): void =>
    void keys.push([`${architecture}.${key}`, F32, () => out.f32(value)]);
  const texts = (key: string, values: readonly string[]): void =>
    void keys.push([key, ARRAY, () => {
      out.u32(STRING);
      out.u64(values.length);
      for (const value of values) out.text(value);
    }]);
  text("general.architecture", architecture);
  text("general.name", name);
  u32("embedding_length", config.hiddenSize);
  u32("feed_forward_length", config.intermediateSize);
  u32("block_count", layersHeld);
  u32("attention.head_count", config.numAttentionHeads);
  u32("attention.head_count_kv", config.numKeyValueHeads);
  u32("attention.key_length", config.headDim);
  u32("attention.value_length", config.headDim);
  u32("rope.dimension_count", config.ropeDim);
  u32("context_length", config.maxPositionEmbeddings);
  f32("attention.layer_norm_rms_epsilon", config.rmsNormEps);
  f32("rope.freq_base", config.ropeTheta);
  text("tokenizer.ggml.model", "gpt2");
  text("tokenizer.ggml.pre", "gpt-2");
  texts(
    "tokenizer.ggml.tokens",
    Array.from({ length: vocabSize }, (_, id) => id < 256 ? byteLevelChar(id) : `word${id}`),
  );
  texts("tokenizer.ggml.merges", []);

  out.u32(MAGIC);
  out.u32(VERSION);
  out.u64(tensors.length);
  out.u64(keys.length);
  for (const [key, type, write] of keys) {
    out.text(key);
    out.u32(type);
    write();
  }
  let offset = 0;
  for (const tensor of tensors) {
    out.text(tensor.name);
    out.u32(tensor.shape.length);
    for (const size of [...tensor.shape].reverse()) out.u64(size);
    out.u32(TYPE_NUMBER[tensor.type]);
    out.u64(offset);
    offset += aligned(bytesOf(tensor));
  }
  return out.finish();
}

class Writer {
  #bytes = new Uint8Array(1 << 20);
  #length = 0;

  u32(value: number): void {
    this.#view(4).setUint32(0, value, true);
  }

  u64(value: number): void {
    this.#view(8).setBigUint64(0, BigInt(value), true);
  }

  f32(value: number): void {
    this.#view(4).setFloat32(0, value, true);
  }

  text(value: string): void {
    const bytes = new TextEncoder().encode(value);
    this.u64(bytes.length);
    this.#take(bytes.length).set(bytes);
  }

  finish(): Uint8Array {
    return this.#bytes.slice(0, aligned(this.#length));
  }

  #view(bytes: number): DataView {
    const taken = this.#take(bytes);
    return new DataView(taken.buffer, taken.byteOffset, bytes);
  }

  #take(bytes: number): Uint8Array {
    const end = this.#length + bytes;
    if (end + ALIGNMENT > this.#bytes.length) {
      const grown = new Uint8Array(2 * end + ALIGNMENT);
      grown.set(this.#bytes);
      this.#bytes = grown;
    }
    this.#length = end;
    return this.#bytes.subarray(end - bytes, end);
  }
}
