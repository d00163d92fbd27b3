/** Scalar twins of `assembly/dequantize.ts`, one number at a time. Layouts: ggml's `ggml-common.h`. */

import type { BlockType } from "../../format/checkpoint.ts";

/** Values and bytes of a block, and what turns one at `at` into values. */
interface Decoder {
  readonly values: number;
  readonly bytes: number;
  decode(y: Float32Array, block: DataView, at: number): void;
}

const f32 = Math.fround;

/** The float16 at a byte offset. */
function half(view: DataView, at: number): number {
  const h = view.getUint16(at, true), exponent = h >> 10 & 31, mantissa = h & 1023;
  const magnitude = exponent === 0
    ? mantissa * 2 ** -24
    : exponent === 31
    ? (mantissa === 0 ? Infinity : NaN)
    : (1024 + mantissa) * 2 ** (exponent - 25);
  return h >> 15 ? -magnitude : magnitude;
}

/** Code i of 32: 16 bytes hold 0..15 in their low halves, 16..31 in their high ones. */
function nibble(view: DataView, at: number, i: number): number {
  return view.getUint8(at + i % 16) >> (i < 16 ? 0 : 4) & 15;
}

/** Code i of 32 with its fifth bit, which is bit i of the u32 at `high`. */
function fiveBits(view: DataView, high: number, at: number, i: number): number {
  return nibble(view, at, i) | (view.getUint32(high, true) >>> i & 1) << 4;
}

/** Scale and minimum j of 8 in the 12 bytes that Q4_K and Q5_K pack them into. */
function scaleAndMin(view: DataView, at: number, j: number): { scale: number; min: number } {
  const byte = (i: number): number => view.getUint8(at + i);
  if (j < 4) return { scale: byte(j) & 63, min: byte(j + 4) & 63 };
  return { scale: byte(j + 4) & 15 | byte(j - 4) >> 6 << 4, min: byte(j + 4) >> 4 | byte(j) >> 6 << 4 };
}

function single(bytes: number, number: (view: DataView, at: number) => number): Decoder {
  return { values: 1, bytes, decode: (y, block, at) => y[0] = number(block, at) };
}

/** Blocks of 32 with one scale: `d * code`. */
function scaled(bytes: number, code: (view: DataView, at: number, i: number) => number): Decoder {
  return {
    values: 32,
    bytes,
    decode(y, block, at) {
      const d = half(block, at);
      for (let i = 0; i < 32; ++i) y[i] = d * code(block, at, i);
    },
  };
}

/** Blocks of 32 with a scale and a minimum: `d * code + m`, rounded twice. */
function affine(bytes: number, code: (view: DataView, at: number, i: number) => number): Decoder {
  return {
    values: 32,
    bytes,
    decode(y, block, at) {
      const d = half(block, at), m = half(block, at + 2);
      for (let i = 0; i < 32; ++i) y[i] = f32(d * code(block, at, i)) + m;
    },
  };
}

/** Blocks of 256 in groups of 32: `d * scale * code - dMin * min`. */
function grouped(bytes: number, code: (view: DataView, at: number, i: number) => number): Decoder {
  return {
    values: 256,
    bytes,
    decode(y, block, at) {
      const d = half(block, at), dMin = half(block, at + 2);
      for (let i = 0; i < 256; ++i) {
        const { scale, min } = scaleAndMin(block, at + 4, i >> 5);
        y[i] = f32(f32(d * scale) * code(block, at, i)) - f32(dMin * min);
      }
    },
  };
}

/** Code i of 256: each 32 bytes hold 64, the first 32 in the low halves. */
function nibbleOf256(view: DataView, at: number, i: number): number {
  return view.getUint8(at + (i >> 6) * 32 + i % 32) >> (i & 32 ? 4 : 0) & 15;
}

const q6K: Decoder = {
  values: 256,
  bytes: 210,
  decode(y, block, at) {
    const d = half(block, at + 208);
    for (let i = 0; i < 256; ++i) {
      const part = i >> 7, quarter = i >> 5 & 3, l = i & 31;
      const low = block.getUint8(at + part * 64 + (quarter & 1) * 32 + l) >> (quarter < 2 ? 0 : 4) & 15;
      const high = block.getUint8(at + 128 + part * 32 + l) >> quarter * 2 & 3;
      y[i] = f32(d * block.getInt8(at + 192 + (i >> 4))) * ((low | high << 4) - 32);
    }
  },
};

const bf16Bits = new DataView(new ArrayBuffer(4));

const DECODERS: { readonly [type in BlockType]: Decoder } = {
  F32: single(4, (view, at) => view.getFloat32(at, true)),
  F16: single(2, half),
  BF16: single(2, (view, at) => {
    bf16Bits.setUint32(0, view.getUint16(at, true) << 16);
    return bf16Bits.getFloat32(0);
  }),
  Q8_0: scaled(34, (view, at, i) => view.getInt8(at + 2 + i)),
  Q4_0: scaled(18, (view, at, i) => nibble(view, at + 2, i) - 8),
  Q4_1: affine(20, (view, at, i) => nibble(view, at + 4, i)),
  Q5_0: scaled(22, (view, at, i) => fiveBits(view, at + 2, at + 6, i) - 16),
  Q5_1: affine(24, (view, at, i) => fiveBits(view, at + 4, at + 8, i)),
  Q4_K: grouped(144, (view, at, i) => nibbleOf256(view, at + 16, i)),
  Q5_K: grouped(
    176,
    (view, at, i) => nibbleOf256(view, at + 48, i) | (view.getUint8(at + 16 + i % 32) >> (i >> 5) & 1) << 4,
  ),
  Q6_K: q6K,
};

/**
 * The numbers that stored bytes stand for.
 *
 * @throws {RangeError} If the bytes are not a whole number of blocks.
 */
export function dequantizeReference(type: BlockType, bytes: Uint8Array): Float32Array {
  const decoder = DECODERS[type];
  const nBlocks = bytes.length / decoder.bytes;
  if (!Number.isInteger(nBlocks)) {
    throw new RangeError(`${bytes.length} bytes of ${type} found, a multiple of ${decoder.bytes} wanted`);
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const y = new Float32Array(nBlocks * decoder.values);
  for (let b = 0; b < nBlocks; ++b) {
    decoder.decode(y.subarray(b * decoder.values, (b + 1) * decoder.values), view, b * decoder.bytes);
  }
  return y;
}
