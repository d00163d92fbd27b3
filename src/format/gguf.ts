/**
 * GGUF, versions 2 and 3: a header of typed metadata, a table of tensors, then their bytes.
 * https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
 *
 * The reader is our own. `@huggingface/gguf` 0.4.6 accepts 26 of the 48 broken files of the hostile set: it reads zeros past the
 * end of a cut file, and checks neither offsets, alignment, overlap, duplicates, types nor block counts. It also takes 190 ms for
 * SmolLM2's header (49,152 tokens, 48,900 merges), this one 25 (Deno 2.9.6, first call).
 */
import { FormatError } from "../errors.ts";
import { BLOCK, type BlockType, type Checkpoint, type Tensor } from "./checkpoint.ts";
import { GgufHeader, type GgufValue } from "./gguf_header.ts";
import { exactProduct, inFileOrder, quote } from "./limits.ts";

export type { GgufValue } from "./gguf_header.ts";

/** The tables of a GGUF file. */
export interface GgufCheckpoint extends Checkpoint {
  readonly format: "gguf";
  /** 2 or 3. */
  readonly version: number;
  /** Every key; `general.alignment` and the tensors' own table are already applied. */
  readonly metadata: ReadonlyMap<string, GgufValue>;
  /** Byte offset of each key's value, for errors about it. */
  readonly keyOffsets: ReadonlyMap<string, number>;
  /** Byte offset of each tensor's entry in the table, for errors about it. */
  readonly tensorOffsets: ReadonlyMap<string, number>;
  /** Byte offset of the tensor table, for errors about tensors that are not there. */
  readonly tableOffset: number;
  /** Tensors begin at multiples of this. */
  readonly alignment: number;
}

const STORAGE: ReadonlyMap<number, BlockType> = new Map([
  [0, "F32"],
  [1, "F16"],
  [2, "Q4_0"],
  [3, "Q4_1"],
  [6, "Q5_0"],
  [7, "Q5_1"],
  [8, "Q8_0"],
  [12, "Q4_K"],
  [13, "Q5_K"],
  [14, "Q6_K"],
  [30, "BF16"],
]);

const HEADER_BYTES = 24;
const MIN_ENTRY_BYTES = 32; // name length, n_dims, one dimension, type, offset
const DEFAULT_ALIGNMENT = 32;
const MAX_ALIGNMENT = 1 << 16;
const MAX_DIMENSIONS = 4;

/** A tensor's entry in the table; its offset counts from the start of the data. */
interface Entry {
  readonly name: string;
  readonly type: BlockType;
  readonly shape: readonly number[];
  readonly offset: number;
  readonly byteLength: number;
  readonly saidAt: number;
  readonly offsetSaidAt: number;
}

/**
 * Reads the header and the tensor table of a GGUF file, a slice at a time; never the tensors' bytes.
 *
 * @param file What errors call the file.
 * @throws {FormatError} If the file is cut, contradicts itself, or has a type that cannot be run.
 */
export async function openGguf(blob: Blob, file: string): Promise<GgufCheckpoint> {
  const header = new GgufHeader(blob, file);
  const { version, nTensors, nKeys } = await header.read(HEADER_BYTES, readStart);

  const metadata = new Map<string, GgufValue>();
  const keyOffsets = new Map<string, number>();
  for (let i = 0; i < nKeys; ++i) {
    const saidAt = header.offset;
    const { key, valueOffset, value } = await header.read(MIN_ENTRY_BYTES, readKey);
    if (metadata.has(key)) throw new FormatError(file, saidAt, `the key ${quote(key)} comes twice`);
    metadata.set(key, value);
    keyOffsets.set(key, valueOffset);
  }

  const alignment = alignmentOf(metadata.get("general.alignment"), file, keyOffsets.get("general.alignment"));
  const tableOffset = header.offset;
  const entries = new Map<string, Entry>();
  for (let i = 0; i < nTensors; ++i) {
    const entry = await header.read(MIN_ENTRY_BYTES, readEntry);
    if (entries.has(entry.name)) {
      throw new FormatError(file, entry.saidAt, `the tensor ${quote(entry.name)} comes twice`);
    }
    entries.set(entry.name, entry);
  }

  const dataOffset = Math.ceil(header.offset / alignment) * alignment;
  const tensors = placeTensors([...entries.values()], blob, file, dataOffset, alignment);
  const tensorOffsets = new Map([...entries.values()].map((entry) => [entry.name, entry.saidAt]));
  return {
    format: "gguf",
    file,
    blobs: [blob],
    version,
    metadata,
    keyOffsets,
    tensors,
    tensorOffsets,
    tableOffset,
    alignment,
  };
}

/** Magic, version and counts. */
function readStart(header: GgufHeader): { version: number; nTensors: number; nKeys: number } {
  const magic = header.bytes(4);
  const found = String.fromCharCode(...magic);
  if (found !== "GGUF") header.fail(0, `magic ${quote(found)} found, "GGUF" wanted: not a GGUF file`);
  const version = header.u32();
  if (version !== 2 && version !== 3) {
    const hint = version % 65536 === 0 ? ": a big-endian file, convert it again" : "";
    header.fail(4, `version ${version} found, 2 or 3 wanted${hint}`);
  }
  const nTensors = header.u64(), nKeys = header.u64();
  // a key takes at least its length, a type and one byte
  if (nTensors * MIN_ENTRY_BYTES + nKeys * 13 > header.remaining) {
    header.fail(8, `${nTensors} tensors and ${nKeys} keys cannot fit into ${header.remaining} bytes`);
  }
  return { version, nTensors, nKeys };
}

function readKey(header: GgufHeader): { key: string; valueOffset: number; value: GgufValue } {
  const key = header.name("key");
  const type = header.u32();
  const valueOffset = header.offset;
  return { key, valueOffset, value: header.value(type, valueOffset - 4) };
}

function readEntry(header: GgufHeader): Entry {
  const saidAt = header.offset;
  const name = header.name("tensor name");
  const nDims = header.u32();
  if (nDims < 1 || nDims > MAX_DIMENSIONS) {
    header.fail(
      header.offset - 4,
      `tensor ${quote(name)}: ${nDims} dimensions found, 1 to ${MAX_DIMENSIONS} wanted`,
    );
  }
  const dimsOffset = header.offset;
  const shape: number[] = [];
  for (let i = 0; i < nDims; ++i) shape.unshift(header.u64()); // innermost first in the file
  const values = exactProduct(shape);
  if (values === null || values === 0) {
    header.fail(dimsOffset, `tensor ${quote(name)}: a shape of [${shape.join(", ")}] is not possible`);
  }
  const typeNumber = header.u32();
  const type = STORAGE.get(typeNumber);
  if (type === undefined) {
    header.fail(
      header.offset - 4,
      `tensor ${quote(name)}: type ${typeNumber} found, one of ${[...STORAGE.values()].join(" ")} wanted: ` +
        `convert the file to one of them`,
    );
  }
  const { values: blockValues, bytes } = BLOCK[type];
  const nIn = shape[shape.length - 1]!;
  if (nIn % blockValues !== 0) {
    header.fail(
      dimsOffset,
      `tensor ${quote(name)}: rows of ${nIn} values found, ${type} has blocks of ${blockValues}`,
    );
  }
  const offset = header.u64();
  return {
    name,
    type,
    shape,
    offset,
    byteLength: values / blockValues * bytes,
    saidAt,
    offsetSaidAt: header.offset - 8,
  };
}

function alignmentOf(value: GgufValue | undefined, file: string, offset: number = 0): number {
  if (value === undefined) return DEFAULT_ALIGNMENT;
  if (
    typeof value !== "number" || value < 8 || value > MAX_ALIGNMENT || !Number.isInteger(Math.log2(value))
  ) {
    throw new FormatError(
      file,
      offset,
      `general.alignment ${value} found, a power of two from 8 to ${MAX_ALIGNMENT} wanted`,
    );
  }
  return value;
}

/** Entries with offsets in the file, each checked against alignment, the file's size and its neighbours. */
function placeTensors(
  entries: readonly Entry[],
  blob: Blob,
  file: string,
  dataOffset: number,
  alignment: number,
): Map<string, Tensor> {
  for (const { name, offset, byteLength, offsetSaidAt } of entries) {
    if (offset % alignment !== 0) {
      throw new FormatError(
        file,
        offsetSaidAt,
        `tensor ${quote(name)}: offset ${offset} found, a multiple of ${alignment} wanted`,
      );
    }
    if (!(dataOffset + offset + byteLength <= blob.size)) {
      throw new FormatError(
        file,
        offsetSaidAt,
        `tensor ${quote(name)}: ends at byte ${
          dataOffset + offset + byteLength
        }, the file has ${blob.size}: ` +
          `it is cut or damaged, download it again`,
      );
    }
  }
  const sorted = inFileOrder(entries, ({ name, offsetSaidAt }, detail) => {
    throw new FormatError(
      file,
      offsetSaidAt,
      `tensor ${quote(name)}: ${detail} (counted from byte ${dataOffset})`,
    );
  });
  return new Map(sorted.map(({ name, type, shape, offset, byteLength }) => [
    name,
    { name, type, shape, file, offset: dataOffset + offset, byteLength, blob },
  ]));
}
