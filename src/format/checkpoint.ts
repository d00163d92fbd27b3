/** What every model file is read into: named tensors, each a range of bytes in a `Blob` that is read by slices. */
import { readBytes } from "./bytes_blob.ts";
import type { StoredMatrix } from "./stored_matrix.ts";

/** How a tensor's rows are stored, under GGUF's names; safetensors' F32, F16 and BF16 are the same. */
export type BlockType =
  | "F32"
  | "F16"
  | "BF16"
  | "Q8_0"
  | "Q4_0"
  | "Q4_1"
  | "Q5_0"
  | "Q5_1"
  | "Q4_K"
  | "Q5_K"
  | "Q6_K";
/** The same, and a pack's I8: outputs of a {@linkcode StoredMatrix}, whose bytes are not rows. */
export type StorageType = BlockType | "I8";

/** Numbers and bytes of one block: a tensor's innermost dimension is a whole number of blocks. */
export const BLOCK: { readonly [type in BlockType]: { readonly values: number; readonly bytes: number } } = {
  F32: { values: 1, bytes: 4 },
  F16: { values: 1, bytes: 2 },
  BF16: { values: 1, bytes: 2 },
  Q8_0: { values: 32, bytes: 34 },
  Q4_0: { values: 32, bytes: 18 },
  Q4_1: { values: 32, bytes: 20 },
  Q5_0: { values: 32, bytes: 22 },
  Q5_1: { values: 32, bytes: 24 },
  Q4_K: { values: 256, bytes: 144 },
  Q5_K: { values: 256, bytes: 176 },
  Q6_K: { values: 256, bytes: 210 },
};

/** The same of any type: a byte of I8 is a number. */
export function blockOf(type: StorageType): { readonly values: number; readonly bytes: number } {
  return type === "I8" ? { values: 1, bytes: 1 } : BLOCK[type];
}

/** One tensor of a checkpoint; its bytes stay in the file until they are asked for. */
export interface Tensor {
  /** The name in the file. */
  readonly name: string;
  /** How its numbers are stored. */
  readonly type: StorageType;
  /** Row-major shape, outermost first: a projection is `[nOut, nIn]`. */
  readonly shape: readonly number[];
  /** The file's name, for errors. */
  readonly file: string;
  /** Where its bytes begin in `blob`. */
  readonly offset: number;
  /** How many bytes they are; checked against the file's size when the tables were read. */
  readonly byteLength: number;
  /** The file. */
  readonly blob: Blob;
  /** The checksum of its bytes, where the file has one. */
  readonly sum?: string;
  /** Of type I8: the matrix that it is part of, and its first output there. */
  readonly stored?: { readonly matrix: StoredMatrix; readonly output: number };
}

/** The tables of one model file or folder. */
export interface Checkpoint {
  readonly format: "gguf" | "safetensors" | "llama2c" | "pack";
  /** The file's name, for errors. */
  readonly file: string;
  /** Every tensor by its name in the file. */
  readonly tensors: ReadonlyMap<string, Tensor>;
  /** The files that hold the weights, in order: their bytes, one after the other, are what the model's hash is taken of. */
  readonly blobs: readonly Blob[];
}

/**
 * Reads bytes `[start, end)` of a tensor's data, which may be a view of the file's: not to be written to.
 *
 * @throws {RangeError} If the range leaves the tensor.
 */
export async function readTensor(
  tensor: Pick<Tensor, "name" | "offset" | "byteLength" | "blob">,
  start = 0,
  end: number = tensor.byteLength,
): Promise<Uint8Array> {
  if (!(start >= 0 && start <= end && end <= tensor.byteLength)) {
    throw new RangeError(`bytes ${start} to ${end} of ${tensor.name} wanted, it has ${tensor.byteLength}`);
  }
  return await readBytes(tensor.blob, tensor.offset + start, tensor.offset + end);
}
