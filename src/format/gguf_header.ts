/** A cursor over a GGUF header, which reads the file by windows and fails with the byte offset of what is wrong. */
import { FormatError } from "../errors.ts";
import { decodeUtf8 } from "./json.ts";
import {
  MAX_ARRAY_DEPTH,
  MAX_ARRAY_ELEMENTS,
  MAX_GGUF_HEADER_BYTES,
  MAX_NAME_BYTES,
  MAX_STRING_BYTES,
  readU64,
} from "./limits.ts";

/** A metadata value. 64-bit integers are numbers where that is exact. */
export type GgufValue = number | bigint | boolean | string | readonly GgufValue[];

const STRING = 8, ARRAY = 9;
/** Bytes of one value, by type number; of the length alone for strings and arrays. */
const VALUE_BYTES: readonly number[] = [1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8];
const FIRST_WINDOW = 1 << 20;

/** Thrown by a read that needs more bytes than the window has; {@linkcode GgufHeader.read} answers with a larger window. */
const NEEDS_MORE: unique symbol = Symbol("needs more");

/** The cursor. All offsets are the file's. */
export class GgufHeader {
  readonly #blob: Blob;
  readonly #file: string;
  #window = new Uint8Array(0);
  #view = new DataView(this.#window.buffer);
  /** Where the window begins in the file. */
  #start = 0;
  #at = 0;
  #wanted = FIRST_WINDOW;
  /** Elements of all arrays so far. */
  #elements = 0;
  /** Characters of the string being read; one array for all of them. */
  readonly #codes: number[] = [];

  constructor(blob: Blob, file: string) {
    this.#blob = blob;
    this.#file = file;
  }

  /** The next byte's offset in the file. */
  get offset(): number {
    return this.#start + this.#at;
  }

  /** Bytes from here to the end of the file. */
  get remaining(): number {
    return this.#blob.size - this.offset;
  }

  /** Throws the format's error for the byte at `offset`. */
  fail(offset: number, detail: string): never {
    throw new FormatError(this.#file, offset, detail);
  }

  /**
   * Reads one item. Where the window ends inside it, the item is read again from its start in a window twice as large, so that
   * only items longer than a window are decoded more than once.
   *
   * @param likely Bytes that the item has at least, as a hint.
   */
  async read<T>(likely: number, item: (header: GgufHeader) => T): Promise<T> {
    const from = this.offset, elements = this.#elements;
    if (this.#window.length - this.#at < likely) await this.#load(from);
    for (;;) {
      try {
        return item(this);
      } catch (error) {
        if (error !== NEEDS_MORE) throw error;
        this.#wanted = this.#window.length < FIRST_WINDOW ? FIRST_WINDOW : this.#window.length * 2;
        await this.#load(from);
        this.#elements = elements;
      }
    }
  }

  async #load(from: number): Promise<void> {
    if (from + this.#wanted > MAX_GGUF_HEADER_BYTES) {
      this.fail(from, `a header of more than ${MAX_GGUF_HEADER_BYTES} bytes`);
    }
    const slice = this.#blob.slice(from, from + this.#wanted);
    this.#window = new Uint8Array(await slice.arrayBuffer());
    this.#view = new DataView(this.#window.buffer);
    this.#start = from;
    this.#at = 0;
  }

  /** Moves on by n bytes and returns where they are in the window. */
  #take(n: number): number {
    const at = this.#at;
    if (at + n > this.#window.length) {
      if (n > this.remaining) {
        this.fail(
          this.offset,
          `${n} bytes wanted, ${this.remaining} left: the file is cut or damaged, download it again`,
        );
      }
      throw NEEDS_MORE;
    }
    this.#at = at + n;
    return at;
  }

  /** The next n bytes: a view of the window. */
  bytes(n: number): Uint8Array {
    const at = this.#take(n);
    return this.#window.subarray(at, at + n);
  }

  u32(): number {
    return this.#view.getUint32(this.#take(4), true);
  }

  u64(): number {
    return readU64(this.#view, this.#take(8));
  }

  /** A key or a tensor's name. */
  name(what: string): string {
    const offset = this.offset;
    const name = this.#string(MAX_NAME_BYTES, what);
    if (name === "") this.fail(offset, `an empty ${what}`);
    return name;
  }

  /** A metadata value of `type`, whose number is written at `typeOffset`. */
  value(type: number, typeOffset: number, depth = 0): GgufValue {
    switch (type) {
      case 0:
        return this.#view.getUint8(this.#take(1));
      case 1:
        return this.#view.getInt8(this.#take(1));
      case 2:
        return this.#view.getUint16(this.#take(2), true);
      case 3:
        return this.#view.getInt16(this.#take(2), true);
      case 4:
        return this.u32();
      case 5:
        return this.#view.getInt32(this.#take(4), true);
      case 6:
        return this.#view.getFloat32(this.#take(4), true);
      case 7:
        return this.#bool();
      case STRING:
        return this.#string(MAX_STRING_BYTES, "string");
      case ARRAY:
        return this.#array(depth);
      case 10:
        return exact(this.#view.getBigUint64(this.#take(8), true));
      case 11:
        return exact(this.#view.getBigInt64(this.#take(8), true));
      case 12:
        return this.#view.getFloat64(this.#take(8), true);
    }
    this.fail(typeOffset, `value type ${type} found, 0 to ${VALUE_BYTES.length - 1} wanted`);
  }

  #bool(): boolean {
    const value = this.#view.getUint8(this.#take(1));
    if (value > 1) this.fail(this.offset - 1, `a bool of ${value}, 0 or 1 wanted`);
    return value === 1;
  }

  #array(depth: number): GgufValue[] {
    const offset = this.offset;
    if (depth === MAX_ARRAY_DEPTH) this.fail(offset, `arrays nested more than ${MAX_ARRAY_DEPTH} deep`);
    const type = this.u32(), length = this.u64();
    const bytes = VALUE_BYTES[type];
    if (bytes === undefined) {
      this.fail(offset, `array of value type ${type} found, 0 to ${VALUE_BYTES.length - 1} wanted`);
    }
    this.#elements += length;
    if (length * bytes > this.remaining || this.#elements > MAX_ARRAY_ELEMENTS) {
      this.fail(
        offset + 4,
        `an array of ${length} values: ${this.remaining} bytes are left, and at most ${MAX_ARRAY_ELEMENTS} values in all arrays wanted`,
      );
    }
    const values: GgufValue[] = [];
    for (let i = 0; i < length; ++i) values.push(this.value(type, offset, depth + 1));
    return values;
  }

  #string(limit: number, what: string): string {
    const offset = this.offset;
    const length = this.u64();
    if (length > limit || length > this.remaining) {
      this.fail(
        offset,
        `a ${what} of ${length} bytes: ${this.remaining} are left, and at most ${limit} wanted`,
      );
    }
    const at = this.#take(length);
    const text = length <= 64 ? this.#shortString(at, length) : null;
    return text ?? decodeUtf8(this.#window.subarray(at, at + length)) ??
      this.fail(offset + 8, `a ${what} that is not UTF-8`);
  }

  /**
   * A string of one- and two-byte characters, as nearly all of a byte-level vocabulary's are, or null. Without it TextDecoder
   * takes most of the time for SmolLM2's 98,052 strings.
   */
  #shortString(at: number, length: number): string | null {
    const bytes = this.#window, codes = this.#codes, end = at + length;
    codes.length = 0;
    for (let i = at; i < end; ++i) {
      const byte = bytes[i]!;
      if (byte < 0x80) {
        codes.push(byte);
      } else {
        const next = i + 1 < end ? bytes[++i]! : 0;
        if (byte < 0xc2 || byte > 0xdf || (next & 0xc0) !== 0x80) return null;
        codes.push((byte & 0x1f) << 6 | next & 0x3f);
      }
    }
    return String.fromCharCode.apply(null, codes);
  }
}

/** A number where it can hold the integer. */
function exact(value: bigint): number | bigint {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}
