/**
 * llama2.c checkpoints, version 0: seven int32, then float32 tensors in a fixed order, without names or sizes.
 * https://github.com/karpathy/llama2.c/blob/master/export.py (`legacy_export`)
 */
import { FormatError } from "../errors.ts";
import type { Checkpoint, Tensor } from "./checkpoint.ts";
import { exactProduct, MAX_LAYERS, MAX_VOCABULARY, MAX_WIDTH } from "./limits.ts";

/** The header of the file, under its own names. */
export interface Llama2cHeader {
  readonly dim: number;
  readonly hiddenDim: number;
  readonly nLayers: number;
  readonly nHeads: number;
  readonly nKvHeads: number;
  readonly vocabSize: number;
  readonly seqLen: number;
  /** The output shares the embedding: the file says so by a positive vocabulary size. */
  readonly sharedClassifier: boolean;
}

/** A llama2.c file; its tensors have the names that safetensors give the same ones. */
export interface Llama2cCheckpoint extends Checkpoint {
  readonly format: "llama2c";
  readonly header: Llama2cHeader;
}

/** Bytes of the header. */
export const LLAMA2C_HEADER_BYTES = 28;
const FIELDS = ["dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "seq_len"] as const;
const LIMITS = [MAX_WIDTH, MAX_WIDTH, MAX_LAYERS, MAX_WIDTH, MAX_WIDTH, MAX_VOCABULARY, 2 ** 31 - 1] as const;

/** A tensor, or `count` of them one after the other for the layers; a name of null is bytes that nobody reads. */
interface Part {
  readonly name: ((layer: number) => string) | null;
  readonly count: number;
  readonly shape: readonly number[];
}

/**
 * Reads the header of a llama2.c checkpoint and finds its tensors.
 *
 * @throws {FormatError} If the numbers are impossible or their tensors would not fill the file exactly.
 */
export async function openLlama2c(blob: Blob, file: string): Promise<Llama2cCheckpoint> {
  if (blob.size < LLAMA2C_HEADER_BYTES) {
    throw new FormatError(file, 0, `${blob.size} bytes found, a header of ${LLAMA2C_HEADER_BYTES} wanted`);
  }
  const header = parseHeader(new DataView(await blob.slice(0, LLAMA2C_HEADER_BYTES).arrayBuffer()), file);
  const parts = layout(header);
  const end = parts.reduce((bytes, part) => bytes + partBytes(part), LLAMA2C_HEADER_BYTES);
  if (end !== blob.size) {
    throw new FormatError(
      file,
      Math.min(end, blob.size),
      `a llama2.c checkpoint of these sizes has ${end} bytes, the file has ${blob.size}: it is cut, damaged or another format`,
    );
  }
  const tensors = new Map<string, Tensor>();
  let offset = LLAMA2C_HEADER_BYTES;
  for (const part of parts) {
    const byteLength = partBytes(part) / part.count;
    for (let i = 0; i < part.count; ++i, offset += byteLength) {
      if (part.name === null) continue;
      const name = part.name(i);
      tensors.set(name, { name, type: "F32", shape: part.shape, file, offset, byteLength, blob });
    }
  }
  return { format: "llama2c", file, blobs: [blob], header, tensors };
}

function parseHeader(view: DataView, file: string): Llama2cHeader {
  const numbers = FIELDS.map((field, i) => {
    const found = view.getInt32(i * 4, true);
    const size = field === "vocab_size" ? Math.abs(found) : found;
    if (!(size >= 1 && size <= LIMITS[i]!)) {
      throw new FormatError(
        file,
        i * 4,
        `${field} ${found} found, 1 to ${LIMITS[i]} wanted: not a llama2.c checkpoint`,
      );
    }
    return size;
  }) as [number, number, number, number, number, number, number];
  const [dim, hiddenDim, nLayers, nHeads, nKvHeads, vocabSize, seqLen] = numbers;
  if (dim % (2 * nHeads) !== 0) {
    throw new FormatError(file, 12, `${nHeads} heads found, dim ${dim} wants a divisor of ${dim / 2}`);
  }
  if (nHeads % nKvHeads !== 0) {
    throw new FormatError(file, 16, `${nKvHeads} key/value heads found, a divisor of ${nHeads} wanted`);
  }
  return {
    dim,
    hiddenDim,
    nLayers,
    nHeads,
    nKvHeads,
    vocabSize,
    seqLen,
    sharedClassifier: view.getInt32(20, true) > 0,
  };
}

function layout(header: Llama2cHeader): Part[] {
  const { dim, hiddenDim, nLayers, nHeads, nKvHeads, vocabSize, seqLen, sharedClassifier } = header;
  const headDim = dim / nHeads;
  const one = (name: string | null, shape: number[]): Part => ({
    name: name === null ? null : () => name,
    count: 1,
    shape,
  });
  const layers = (path: string, shape: number[]): Part => ({
    name: (layer) => `model.layers.${layer}.${path}.weight`,
    count: nLayers,
    shape,
  });
  return [
    one("model.embed_tokens.weight", [vocabSize, dim]),
    layers("input_layernorm", [dim]),
    layers("self_attn.q_proj", [dim, dim]),
    layers("self_attn.k_proj", [nKvHeads * headDim, dim]),
    layers("self_attn.v_proj", [nKvHeads * headDim, dim]),
    layers("self_attn.o_proj", [dim, dim]),
    layers("post_attention_layernorm", [dim]),
    layers("mlp.gate_proj", [hiddenDim, dim]),
    layers("mlp.down_proj", [dim, hiddenDim]),
    layers("mlp.up_proj", [hiddenDim, dim]),
    one("model.norm.weight", [dim]),
    one(null, [seqLen, headDim]), // rotary tables, cosines then sines, that llama2.c no longer reads either
    ...(sharedClassifier ? [] : [one("lm_head.weight", [vocabSize, dim])]),
  ];
}

/** Bytes of all tensors of a part; Infinity where no file holds as much. */
function partBytes(part: Part): number {
  return exactProduct([part.count, ...part.shape, 4]) ?? Infinity;
}
