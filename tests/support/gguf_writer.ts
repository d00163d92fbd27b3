/** Writes GGUF files for tests, right or wrong: nothing is checked. */
import { BLOCK, type BlockType } from "../../src/format/checkpoint.ts";

export const TYPE_NUMBER: { readonly [type in BlockType]: number } = {
  F32: 0,
  F16: 1,
  Q4_0: 2,
  Q4_1: 3,
  Q5_0: 6,
  Q5_1: 7,
  Q8_0: 8,
  Q4_K: 12,
  Q5_K: 13,
  Q6_K: 14,
  BF16: 30,
};

export interface WrittenTensor {
  readonly name: string;
  readonly type: BlockType;
  /** Outermost first. */
  readonly shape: readonly number[];
  readonly data?: Uint8Array;
  /** From the start of the data; where it comes after the one before if not given. */
  readonly offset?: number;
}

export class Bytes {
  readonly #parts: Uint8Array[] = [];
  length = 0;

  push(bytes: Uint8Array): this {
    this.#parts.push(bytes);
    this.length += bytes.length;
    return this;
  }

  number(size: number, write: (view: DataView) => void): this {
    const bytes = new Uint8Array(size);
    write(new DataView(bytes.buffer));
    return this.push(bytes);
  }

  u32(value: number): this {
    return this.number(4, (view) => view.setUint32(0, value, true));
  }

  u64(value: number | bigint): this {
    return this.number(8, (view) => view.setBigUint64(0, BigInt(value), true));
  }

  text(value: string | Uint8Array): this {
    const bytes = typeof value === "string" ? new TextEncoder().encode(value) : value;
    return this.u64(bytes.length).push(bytes);
  }

  join(): Uint8Array<ArrayBuffer> {
    const all = new Uint8Array(this.length);
    let at = 0;
    for (const part of this.#parts) {
      all.set(part, at);
      at += part.length;
    }
    return all;
  }
}

/** A key with its value's bytes; the helpers below make them. */
export type WrittenKey = readonly [key: string, type: number, value: (out: Bytes) => void];

export const u32 = (key: string, value: number): WrittenKey => [key, 4, (out) => out.u32(value)];
export const f32 = (key: string, value: number): WrittenKey => [
  key,
  6,
  (out) => out.number(4, (view) => view.setFloat32(0, value, true)),
];
export const text = (
  key: string,
  value: string | Uint8Array,
): WrittenKey => [key, 8, (out) => out.text(value)];
export const texts = (key: string, values: readonly string[]): WrittenKey => [key, 9, (out) => {
  out.u32(8).u64(values.length);
  for (const value of values) out.text(value);
}];
export const i32s = (key: string, values: readonly number[]): WrittenKey => [key, 9, (out) => {
  out.u32(5).u64(values.length);
  for (const value of values) out.u32(value >>> 0);
}];

/** The file's bytes. */
export function writeGguf(
  keys: readonly WrittenKey[],
  tensors: readonly WrittenTensor[],
  options: { version?: number; alignment?: number } = {},
): Uint8Array<ArrayBuffer> {
  const alignment = options.alignment ?? 32;
  const out = new Bytes().u32(0x46554747).u32(options.version ?? 3).u64(tensors.length).u64(keys.length);
  for (const [key, type, value] of keys) value(out.text(key).u32(type));
  const data = new Bytes();
  for (const { name, type, shape, data: given, offset } of tensors) {
    const values = shape.reduce((product, size) => product * size, 1);
    const bytes = given ?? new Uint8Array(Math.ceil(values / BLOCK[type].values) * BLOCK[type].bytes);
    out.text(name).u32(shape.length);
    for (const size of [...shape].reverse()) out.u64(size);
    out.u32(TYPE_NUMBER[type]).u64(offset ?? data.length);
    if (offset === undefined) data.push(bytes).push(new Uint8Array(-bytes.length & alignment - 1));
  }
  return out.push(new Uint8Array(-out.length & alignment - 1)).push(data.join()).join();
}
