/**
 * Safetensors: a JSON table of tensors, then their bytes. https://github.com/huggingface/safetensors#format
 * As strict as the reference reader: the bytes of the tensors cover the file exactly, without gaps.
 */
import { FormatError } from "../errors.ts";
import type { Checkpoint, StorageType, Tensor } from "./checkpoint.ts";
import { isJsonObject, type JsonObject, parseJsonObject, utf8Length } from "./json.ts";
import { exactProduct, inFileOrder, MAX_SAFETENSORS_HEADER_BYTES, quote, readU64 } from "./limits.ts";

const DTYPE_BYTES = {
  F64: 8,
  F32: 4,
  F16: 2,
  BF16: 2,
  F8_E4M3: 1,
  F8_E5M2: 1,
  I64: 8,
  I32: 4,
  I16: 2,
  I8: 1,
  U64: 8,
  U32: 4,
  U16: 2,
  U8: 1,
  BOOL: 1,
} as const;

/** A dtype of the format; weights are F32, F16 or BF16, recipes have I8 and U8 too. */
export type SafetensorsDtype = keyof typeof DTYPE_BYTES;

/** One tensor of any dtype; {@linkcode readTensor} reads its bytes. */
export interface SafetensorsEntry {
  readonly name: string;
  readonly dtype: SafetensorsDtype;
  /** Row-major, outermost first; `[]` is a scalar. */
  readonly shape: readonly number[];
  readonly file: string;
  readonly offset: number;
  readonly byteLength: number;
  readonly blob: Blob;
}

/** The tables of one or several safetensors files. */
export interface SafetensorsCheckpoint extends Checkpoint {
  readonly format: "safetensors";
  /** Every tensor of every file, in the order of their bytes; {@linkcode Checkpoint.tensors} has those that can be weights. */
  readonly entries: ReadonlyMap<string, SafetensorsEntry>;
  /** `__metadata__` of all files; where two have the same key, the later one's. */
  readonly metadata: ReadonlyMap<string, string>;
}

/** A tensor to write. */
export interface SafetensorsInput {
  readonly name: string;
  readonly dtype: "F32" | "F16" | "BF16" | "I8" | "U8";
  readonly shape: readonly number[];
  /** Its numbers, little endian. */
  readonly data: Uint8Array;
}

const METADATA = "__metadata__";
const LENGTH_BYTES = 8;
const MAX_RANK = 64;

/**
 * Reads the tables of a model's safetensors files, of which it has one or several; never the tensors' bytes.
 *
 * @param parts The files, named for errors. They are joined in the order of their names, however they are listed.
 * @throws {FormatError} If a file is cut or contradicts itself, or two of them have a tensor of one name.
 * @throws {RangeError} If there is no file.
 */
export async function openSafetensors(
  parts: readonly { readonly name: string; readonly blob: Blob }[],
): Promise<SafetensorsCheckpoint> {
  const sorted = [...parts].sort((a, b) => a.name < b.name ? -1 : a.name > b.name ? 1 : 0);
  const first = sorted[0];
  if (first === undefined) throw new RangeError("no safetensors file given, at least one wanted");
  const entries = new Map<string, SafetensorsEntry>();
  const metadata = new Map<string, string>();
  for (const { name, blob } of sorted) {
    const part = await readPart(blob, name);
    for (const [key, value] of part.metadata) metadata.set(key, value);
    for (const entry of part.entries) {
      const other = entries.get(entry.name);
      if (other !== undefined) {
        throw new FormatError(name, entry.offset, `the tensor ${quote(entry.name)} is in ${other.file} too`);
      }
      entries.set(entry.name, entry);
    }
  }
  const tensors = new Map<string, Tensor>();
  for (const { name, dtype, shape, file, offset, byteLength, blob } of entries.values()) {
    if (isStorageType(dtype)) tensors.set(name, { name, type: dtype, shape, file, offset, byteLength, blob });
  }
  return {
    format: "safetensors",
    file: first.name,
    blobs: sorted.map((part) => part.blob),
    entries,
    tensors,
    metadata,
  };
}

function isStorageType(dtype: SafetensorsDtype): dtype is Extract<SafetensorsDtype, StorageType> {
  return dtype === "F32" || dtype === "F16" || dtype === "BF16";
}

async function readPart(
  blob: Blob,
  file: string,
): Promise<{ entries: SafetensorsEntry[]; metadata: Map<string, string> }> {
  if (blob.size < LENGTH_BYTES) throw new FormatError(file, 0, `${blob.size} bytes found, at least 8 wanted`);
  const lengthBytes = await blob.slice(0, LENGTH_BYTES).arrayBuffer();
  const headerLength = readU64(new DataView(lengthBytes), 0);
  const dataOffset = LENGTH_BYTES + headerLength;
  if (dataOffset > blob.size || headerLength > MAX_SAFETENSORS_HEADER_BYTES) {
    throw new FormatError(
      file,
      0,
      `a header of ${headerLength} bytes: the file has ${blob.size}, and at most ${MAX_SAFETENSORS_HEADER_BYTES} wanted`,
    );
  }
  const header = new Uint8Array(await blob.slice(LENGTH_BYTES, dataOffset).arrayBuffer());
  const { value, text, pairs } = parseJsonObject(header, file, LENGTH_BYTES);
  const fail = (name: string, detail: string): never => {
    throw new FormatError(file, nameOffset(text, name), `${quote(name)}: ${detail}`);
  };

  const metadata = new Map<string, string>();
  const entries: SafetensorsEntry[] = [];
  let found = 0;
  for (const [name, entry] of Object.entries(value)) {
    if (!isJsonObject(entry)) return fail(name, "an object wanted");
    found += 1 + Object.keys(entry).length;
    if (name === METADATA) {
      for (const [key, item] of Object.entries(entry)) {
        if (typeof item !== "string") return fail(key, "metadata that is not a string");
        metadata.set(key, item);
      }
    } else {
      const { dtype, shape, begin, end } = checkEntry(entry, (detail) => fail(name, detail));
      const offset = dataOffset + begin;
      entries.push({ name, dtype, shape, file, offset, byteLength: end - begin, blob });
    }
  }
  if (found !== pairs) {
    throw new FormatError(
      file,
      LENGTH_BYTES,
      "a name that comes twice, or an object where the format has none",
    );
  }

  let end = dataOffset;
  const ordered = inFileOrder(entries, (entry, detail) => fail(entry.name, detail));
  for (const { name, offset, byteLength } of ordered) {
    if (offset !== end) {
      fail(name, `begins at byte ${offset}, the one before ends at ${end}: bytes of no tensor`);
    }
    end = offset + byteLength;
  }
  if (end !== blob.size) {
    throw new FormatError(
      file,
      Math.min(end, blob.size),
      `tensors end at byte ${end}, the file at ${blob.size}: it is cut or damaged, download it again`,
    );
  }
  return { entries: ordered, metadata };
}

/** Checks one tensor's object; its offsets count from the end of the header. */
function checkEntry(
  entry: JsonObject,
  fail: (detail: string) => never,
): { dtype: SafetensorsDtype; shape: number[]; begin: number; end: number } {
  const { dtype, shape, data_offsets: offsets } = entry;
  if (typeof dtype !== "string" || !isDtype(dtype)) {
    return fail(
      `dtype ${typeof dtype === "string" ? quote(dtype) : typeof dtype} found, one of ${
        Object.keys(DTYPE_BYTES).join(" ")
      } wanted`,
    );
  }
  if (!isCounts(shape) || shape.length > MAX_RANK) {
    return fail(`a shape that is not a list of at most ${MAX_RANK} whole numbers from 0`);
  }
  if (!isCounts(offsets) || offsets.length !== 2) {
    return fail("data_offsets that are not two whole numbers from 0");
  }
  const [begin, end] = offsets as [number, number];
  const values = exactProduct(shape);
  if (values === null) return fail(`a shape of [${shape.join(", ")}] is not possible`);
  if (end - begin !== values * DTYPE_BYTES[dtype]) {
    return fail(
      `${end - begin} bytes found, [${shape.join(", ")}] of ${dtype} wants ${values * DTYPE_BYTES[dtype]}`,
    );
  }
  return { dtype, shape, begin, end };
}

function isDtype(name: string): name is SafetensorsDtype {
  return Object.hasOwn(DTYPE_BYTES, name);
}

function isCounts(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((item) => Number.isSafeInteger(item) && item >= 0);
}

/** Byte offset in the file of a name in its header. */
function nameOffset(header: string, name: string): number {
  const at = header.indexOf(JSON.stringify(name));
  return LENGTH_BYTES + (at === -1 ? 0 : utf8Length(header.slice(0, at)));
}

/**
 * A safetensors file as chunks to write one after the other. Tensors with wide numbers come first, as the reference writer has
 * them, and the header is padded with spaces to 8 bytes, so that every tensor is aligned for a typed array.
 *
 * @throws {RangeError} If a tensor's bytes don't match its shape, or a name comes twice.
 * @example A recipe's factors
 * ```ts
 * import assert from "node:assert/strict";
 * const data = new Uint8Array(Float32Array.of(1, 2).buffer);
 * const chunks = writeSafetensors([{ name: "a", dtype: "F32", shape: [2], data }], { format: "rsparse" });
 * const { metadata, tensors } = await openSafetensors([{ name: "recipe", blob: new Blob(chunks as BlobPart[]) }]);
 * assert.equal(metadata.get("format"), "rsparse");
 * assert.deepEqual(tensors.get("a")?.shape, [2]);
 * ```
 */
export function writeSafetensors(
  tensors: readonly SafetensorsInput[],
  metadata: { readonly [key: string]: string },
): Uint8Array[] {
  const sorted = [...tensors].sort((a, b) => DTYPE_BYTES[b.dtype] - DTYPE_BYTES[a.dtype]);
  const names = new Set<string>([METADATA]);
  const members = [`${JSON.stringify(METADATA)}:${JSON.stringify(metadata)}`];
  let end = 0;
  for (const { name, dtype, shape, data } of sorted) {
    if (names.has(name)) throw new RangeError(`tensor ${quote(name)}: a name that is taken`);
    names.add(name);
    const values = isCounts(shape) ? exactProduct(shape) : null;
    if (values === null || values * DTYPE_BYTES[dtype] !== data.length) {
      throw new RangeError(
        `tensor ${quote(name)}: ${data.length} bytes found, not those of [${shape.join(", ")}] of ${dtype}`,
      );
    }
    const begin = end;
    end += data.length;
    // written by hand, since an object would lose a tensor named __proto__
    members.push(`${JSON.stringify(name)}:${JSON.stringify({ dtype, shape, data_offsets: [begin, end] })}`);
  }
  const json = new TextEncoder().encode(`{${members.join(",")}}`);
  const header = new Uint8Array(Math.ceil(json.length / 8) * 8).fill(0x20);
  header.set(json);
  const length = new Uint8Array(LENGTH_BYTES);
  new DataView(length.buffer).setBigUint64(0, BigInt(header.length), true);
  return [length, header, ...sorted.map((tensor) => tensor.data)];
}
