/**
 * A pack: one file with all that a model needs to run (docs/formats.md has the form). 32 bytes, a header of JSON, then tokenizer, recipe and tensors, each at a
 * multiple of 64 bytes and with a checksum.
 */
import { FormatError } from "../errors.ts";
import { BLOCK, type Checkpoint, type StorageType, type Tensor } from "./checkpoint.ts";
import { readBytes } from "./bytes_blob.ts";
import { checksum } from "./checksum.ts";
import { isJsonObject, type JsonObject, parseJsonObject, utf8Length } from "./json.ts";
import {
  exactProduct,
  inFileOrder,
  MAX_JSON_BYTES,
  MAX_PACK_HEADER_BYTES,
  quote,
  readU64,
} from "./limits.ts";
import { damaged, type StoredLayout, type StoredMatrix, storedSizes } from "./stored_matrix.ts";

/** The first eight bytes: a byte above 127, as no text has, and both line ends, which transfer as text would change. */
export const PACK_MAGIC: Uint8Array = Uint8Array.of(0x89, 0x52, 0x53, 0x50, 0x4b, 0x0d, 0x0a, 0x1a); // ‰RSPK
/** The version that this release reads and writes. */
export const PACK_VERSION = 1;

const PREAMBLE_BYTES = 32, ALIGNMENT = 64;
/** What rows may be stored as; other types are not written. */
const ROW_TYPES = ["F32", "BF16", "Q4_0", "Q4_1"] as const satisfies readonly StorageType[];
const LAYOUTS: readonly StoredLayout[] = ["channels-i8", "pairs-i8"];
const SUM = /^[0-9a-f]{8}$/, SHA256 = /^[0-9a-f]{64}$/;

/** Bytes in the file that are no tensor's. */
export interface PackPart {
  readonly name: "tokenizer" | "recipe";
  readonly offset: number;
  readonly bytes: number;
  readonly sum: string;
  /** Of a recipe: the file's SHA-256, which says what it is, as hex digits. Not checked: `sum` is. */
  readonly sha256?: string;
}

/** The tables of a pack; no weight has been read. */
export interface PackCheckpoint extends Checkpoint {
  readonly format: "pack";
  /** All fields of the header, and where their names stand in the file. */
  readonly header: JsonObject;
  fieldOffset(name: string): number;
  readonly tokenizer: PackPart;
  readonly recipe: PackPart | null;
  /** Every int8 matrix, in the order of the file. */
  readonly matrices: readonly StoredMatrix[];
}

/** Whether a file begins as a pack does. */
export function isPack(first: Uint8Array): boolean {
  return PACK_MAGIC.every((byte, i) => first[i] === byte);
}

/**
 * Reads the tables of a pack.
 *
 * @param file Its name, for errors.
 * @throws {FormatError} If it is no pack, of another version, cut, damaged or contradicts itself.
 */
export async function openPack(blob: Blob, file: string): Promise<PackCheckpoint> {
  const fail = (offset: number, detail: string): never => {
    throw new FormatError(file, offset, detail);
  };
  const start = await readBytes(blob, 0, PREAMBLE_BYTES);
  if (!isPack(start)) fail(0, "no pack: its first bytes are others");
  if (start.length < PREAMBLE_BYTES) {
    fail(start.length, `the file ends after ${start.length} bytes, ${PREAMBLE_BYTES} and more wanted`);
  }
  const view = new DataView(start.buffer, start.byteOffset, PREAMBLE_BYTES);
  const version = view.getUint32(8, true),
    headerBytes = view.getUint32(12, true),
    fileBytes = readU64(view, 16);
  if (version !== PACK_VERSION) {
    fail(8, `version ${version} found, ${PACK_VERSION} wanted: make it again with rsparse pack`);
  }
  if (headerBytes > MAX_PACK_HEADER_BYTES) {
    fail(12, `a header of ${headerBytes} bytes, at most ${MAX_PACK_HEADER_BYTES} wanted`);
  }
  if (fileBytes !== blob.size) {
    fail(
      Math.min(fileBytes, blob.size),
      `${blob.size} bytes found, ${fileBytes} wanted: the file is cut or has grown, get it again`,
    );
  }
  const end = PREAMBLE_BYTES + headerBytes;
  if (end > blob.size) fail(12, `a header of ${headerBytes} bytes in a file of ${blob.size}`);
  const bytes = await readBytes(blob, PREAMBLE_BYTES, end);
  const sum = view.getUint32(24, true).toString(16).padStart(8, "0");
  if (view.getUint32(28, true) !== 0) fail(28, "four bytes that are not 0: they have no meaning yet");
  if (checksum(bytes) !== sum) throw damaged(file, PREAMBLE_BYTES, headerBytes);
  const { value: header, text } = parseJsonObject(bytes, file, PREAMBLE_BYTES);
  return new Reader(blob, file, header, text, end).read();
}

/** The bytes of a part, whole and undamaged. */
export async function readPart(pack: PackCheckpoint, part: PackPart): Promise<Uint8Array> {
  const bytes = await readBytes(pack.blobs[0]!, part.offset, part.offset + part.bytes);
  if (bytes.length !== part.bytes || checksum(bytes) !== part.sum) {
    throw damaged(pack.file, part.offset, part.bytes);
  }
  return bytes;
}

/** Turns the header into tables. */
class Reader {
  readonly #blob: Blob;
  readonly #file: string;
  readonly #header: JsonObject;
  readonly #text: string;
  readonly #dataStart: number;
  readonly #ranges: { name: string; offset: number; byteLength: number }[] = [];

  constructor(blob: Blob, file: string, header: JsonObject, text: string, dataStart: number) {
    this.#blob = blob;
    this.#file = file;
    this.#header = header;
    this.#text = text;
    this.#dataStart = dataStart;
  }

  read(): PackCheckpoint {
    const header = this.#header, file = this.#file, blob = this.#blob;
    const tokenizer = this.#part("tokenizer", header["tokenizer"]);
    if (tokenizer === null) return this.#fail("tokenizer", "not there");
    const recipe = this.#part("recipe", header["recipe"]);
    const matrices = this.#list("matrices").map((entry, i) => this.#matrix(entry, `matrices.${i}`));
    const tensors = new Map<string, Tensor>();
    for (const [i, entry] of this.#list("tensors").entries()) {
      const tensor = this.#tensor(entry, `tensors.${i}`, matrices);
      if (tensors.has(tensor.name)) this.#fail("tensors", `${quote(tensor.name)} comes twice`);
      tensors.set(tensor.name, tensor);
    }
    inFileOrder(this.#ranges, (range, detail) => this.#fail(range.name, detail));
    return {
      format: "pack",
      file,
      blobs: [blob],
      tensors,
      header,
      fieldOffset: (name) => this.#offsetOf(name),
      tokenizer,
      recipe,
      matrices,
    };
  }

  #offsetOf(name: string): number {
    const at = this.#text.indexOf(JSON.stringify(name));
    return PREAMBLE_BYTES + (at < 0 ? 0 : utf8Length(this.#text.slice(0, at)));
  }

  /** `name` is where in the header: its first part is looked for. */
  #fail(name: string, detail: string): never {
    throw new FormatError(this.#file, this.#offsetOf(name.split(".")[0]!), `${quote(name)}: ${detail}`);
  }

  #list(name: string): readonly unknown[] {
    const value = this.#header[name];
    return Array.isArray(value) ? value : this.#fail(name, "a list wanted");
  }

  #object(value: unknown, name: string): JsonObject {
    return isJsonObject(value) ? value : this.#fail(name, "an object wanted");
  }

  #count(value: unknown, name: string): number {
    if (Number.isSafeInteger(value) && (value as number) >= 0) return value as number;
    return this.#fail(name, "a whole number from 0 wanted");
  }

  /** A range of the file, with its checksum. */
  #range(entry: JsonObject, name: string, bytes: number): { offset: number; sum: string } {
    const offset = this.#count(entry["offset"], `${name}.offset`), { sum } = entry;
    if (offset < this.#dataStart || offset + bytes > this.#blob.size) {
      this.#fail(
        name,
        `bytes ${offset} to ${offset + bytes} are not in the file's ${this.#blob.size}, or in its header`,
      );
    }
    if (typeof sum !== "string" || !SUM.test(sum)) this.#fail(`${name}.sum`, "8 hex digits wanted");
    this.#ranges.push({ name, offset, byteLength: bytes });
    return { offset, sum: sum as string };
  }

  #part(name: PackPart["name"], value: unknown): PackPart | null {
    if (value === null || value === undefined) return null;
    const entry = this.#object(value, name), bytes = this.#count(entry["bytes"], `${name}.bytes`);
    if (bytes > MAX_JSON_BYTES && name === "tokenizer") {
      this.#fail(name, `${bytes} bytes, at most ${MAX_JSON_BYTES} wanted`);
    }
    const { sha256 } = entry;
    if (sha256 !== undefined && (typeof sha256 !== "string" || !SHA256.test(sha256))) {
      this.#fail(`${name}.sha256`, "64 hex digits wanted");
    }
    return { name, bytes, ...this.#range(entry, name, bytes), ...typeof sha256 === "string" && { sha256 } };
  }

  #matrix(value: unknown, name: string): StoredMatrix {
    const entry = this.#object(value, name), layout = entry["layout"] as StoredLayout;
    if (!LAYOUTS.includes(layout)) this.#fail(`${name}.layout`, `one of ${LAYOUTS.join(" ")} wanted`);
    const sizes = ["nIn", "nOut"].map((key) => this.#count(entry[key], `${name}.${key}`));
    const [nIn, nOut] = sizes as [number, number];
    if (nIn === 0 || nOut === 0 || exactProduct([nIn + 31, nOut + 31]) === null) {
      this.#fail(name, `a matrix of ${nIn} by ${nOut} is not possible`);
    }
    const { bytes } = storedSizes({ layout, nIn, nOut });
    return { layout, nIn, nOut, blob: this.#blob, file: this.#file, ...this.#range(entry, name, bytes) };
  }

  #tensor(value: unknown, at: string, matrices: readonly StoredMatrix[]): Tensor {
    const entry = this.#object(value, at),
      { name, type, shape } = entry,
      file = this.#file,
      blob = this.#blob;
    if (typeof name !== "string") return this.#fail(`${at}.name`, "a string wanted");
    if (!Array.isArray(shape) || shape.length < 1 || shape.length > 2) {
      return this.#fail(`${at}.shape`, "one or two sizes wanted");
    }
    for (const size of shape) {
      if (this.#count(size, `${at}.shape`) === 0) this.#fail(`${at}.shape`, "sizes from 1 wanted");
    }
    const width = shape[shape.length - 1] as number, values = exactProduct(shape);
    if (values === null) return this.#fail(`${at}.shape`, `[${shape.join(", ")}] is not possible`);
    if (type === "I8") {
      const matrix = matrices[this.#count(entry["matrix"], `${at}.matrix`)];
      const output = this.#count(entry["output"], `${at}.output`);
      if (
        matrix === undefined || shape.length !== 2 || width !== matrix.nIn ||
        output + shape[0] > matrix.nOut || output % 64 !== 0
      ) {
        return this.#fail(at, "an int8 tensor that its matrix does not hold");
      }
      return {
        name,
        type,
        shape,
        file,
        blob,
        offset: matrix.offset,
        byteLength: values,
        stored: { matrix, output },
      };
    }
    const rows = ROW_TYPES.find((known) => known === type);
    if (rows === undefined) return this.#fail(`${at}.type`, `one of ${ROW_TYPES.join(" ")} I8 wanted`);
    if (width % BLOCK[rows].values !== 0) {
      return this.#fail(`${at}.shape`, `rows of whole blocks of ${rows} wanted`);
    }
    const byteLength = values / BLOCK[rows].values * BLOCK[rows].bytes;
    return { name, type: rows, shape, file, blob, byteLength, ...this.#range(entry, at, byteLength) };
  }
}

/** A range of a pack that is to be written. */
export interface PackInput {
  /** What the header says of it; `offset` and `sum` are added. */
  readonly entry: { readonly [key: string]: unknown };
  /** Its bytes, one after the other; all but the last a multiple of 16 long. */
  readonly data: readonly Uint8Array[];
}

/** What a pack is made of. */
export interface PackContents {
  /** The header's other fields. */
  readonly fields: { readonly [key: string]: unknown };
  readonly tokenizer: Uint8Array;
  /** A recipe's file, and its SHA-256. */
  readonly recipe: { readonly bytes: Uint8Array; readonly sha256: string } | null;
  readonly matrices: readonly PackInput[];
  /** Rows; those of type I8 have no data. */
  readonly tensors: readonly PackInput[];
}

/** A pack as chunks to write one after the other; the same contents give the same bytes. */
export function writePack(contents: PackContents): Uint8Array[] {
  const { fields, tokenizer, recipe, matrices, tensors } = contents;
  const inputs: PackInput[] = [
    { entry: {}, data: [tokenizer] },
    ...recipe === null ? [] : [{ entry: { sha256: recipe.sha256 }, data: [recipe.bytes] }],
    ...tensors.filter(({ data }) => data.length > 0),
    ...matrices,
  ];
  const sums = new Map(
    inputs.map((input) => [input, checksum(input.data.length === 1 ? input.data[0]! : joined(input.data))]),
  );
  const sizeOf = ({ data }: PackInput): number => data.reduce((sum, part) => sum + part.length, 0);
  // offsets stand in the header, whose length they change: the first guess that is long enough is taken
  for (let headerBytes = 1024;; headerBytes *= 2) {
    let at = aligned(PREAMBLE_BYTES + headerBytes);
    const places = new Map(inputs.map((input) => {
      const offset = at;
      at = aligned(at + sizeOf(input));
      return [input, offset];
    }));
    const placed = (input: PackInput): object => ({
      ...input.entry,
      ...input.data.length === 0 ? {} : { offset: places.get(input), sum: sums.get(input) },
    });
    const part = (input: PackInput | undefined): object | null =>
      input === undefined ? null : { bytes: sizeOf(input), ...placed(input) };
    const json = new TextEncoder().encode(JSON.stringify({
      ...fields,
      tokenizer: part(inputs[0]),
      recipe: part(recipe === null ? undefined : inputs[1]),
      matrices: matrices.map(placed),
      tensors: tensors.map(placed),
    }));
    if (json.length > headerBytes) continue;
    // the header ends where its data begins
    const header = new Uint8Array(aligned(PREAMBLE_BYTES + headerBytes) - PREAMBLE_BYTES).fill(0x20);
    header.set(json);
    const last = inputs[inputs.length - 1]!, fileBytes = places.get(last)! + sizeOf(last);
    const chunks = [preamble(header, fileBytes), header];
    for (const input of inputs) {
      chunks.push(...input.data);
      const size = sizeOf(input);
      if (input !== last && size < aligned(size)) chunks.push(new Uint8Array(aligned(size) - size));
    }
    return chunks;
  }
}

function preamble(header: Uint8Array, fileBytes: number): Uint8Array {
  const bytes = new Uint8Array(PREAMBLE_BYTES), view = new DataView(bytes.buffer);
  bytes.set(PACK_MAGIC);
  view.setUint32(8, PACK_VERSION, true);
  view.setUint32(12, header.length, true);
  view.setBigUint64(16, BigInt(fileBytes), true);
  view.setUint32(24, parseInt(checksum(header), 16), true);
  return bytes;
}

function joined(parts: readonly Uint8Array[]): Uint8Array {
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

function aligned(n: number): number {
  return Math.ceil(n / ALIGNMENT) * ALIGNMENT;
}
