/** Every view of a memory that the reference kernels use, over one buffer. */
export interface Views {
  readonly u8: Uint8Array;
  readonly i8: Int8Array;
  readonly u16: Uint16Array;
  readonly i16: Int16Array;
  readonly u32: Uint32Array;
  readonly i32: Int32Array;
  readonly f32: Float32Array;
  readonly f64: Float64Array;
}

/** A getter of current views: `grow` leaves old ones with length 0, so they are made again when the buffer changes. */
export function memoryViews(memory: WebAssembly.Memory): () => Views {
  let buffer: ArrayBufferLike = memory.buffer;
  let views = viewsOf(buffer);
  return () => {
    if (memory.buffer !== buffer) {
      buffer = memory.buffer;
      views = viewsOf(buffer);
    }
    return views;
  };
}

function viewsOf(buffer: ArrayBufferLike): Views {
  return {
    u8: new Uint8Array(buffer),
    i8: new Int8Array(buffer),
    u16: new Uint16Array(buffer),
    i16: new Int16Array(buffer),
    u32: new Uint32Array(buffer),
    i32: new Int32Array(buffer),
    f32: new Float32Array(buffer),
    f64: new Float64Array(buffer),
  };
}

/** v rounded to an integer, halves to the even one, as `f32x4.nearest` rounds. */
export function roundHalfEven(v: number): number {
  const below = Math.floor(v);
  const rest = v - below;
  if (rest !== 0.5) return Math.round(v);
  return below % 2 === 0 ? below : below + 1;
}

/** v within ±limit. */
export function clamp(v: number, limit: number): number {
  return Math.max(-limit, Math.min(limit, v));
}

const bits = new Uint32Array(1);
const float = new Float32Array(bits.buffer);

/** The f32 that a bf16 stands for, exactly. */
export function bf16ToF32(half: number): number {
  bits[0] = half << 16;
  return float[0]!;
}

/** The bf16 nearest to v, halves to the even one; a NaN stays one. */
export function f32ToBf16(v: number): number {
  float[0] = v;
  const u = bits[0]!;
  if (Number.isNaN(v)) return (u >>> 16) | 0x40;
  return ((u + 0x7fff + ((u >>> 16) & 1)) >>> 16) & 0xffff;
}

/** The value of an IEEE half, exactly. */
export function f16ToNumber(half: number): number {
  const sign = half & 0x8000 ? -1 : 1;
  const exponent = (half >> 10) & 31;
  const fraction = half & 1023;
  if (exponent === 31) return fraction === 0 ? sign * Infinity : NaN;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  return sign * (1024 + fraction) * 2 ** (exponent - 25);
}

/** The largest f32. */
export const F32_MAX = 3.4028234663852886e38;

/**
 * The f32 factor that takes `largest` to `limit`: limit / largest, 0 for 0. Held to the largest f32: below 1e-34 the
 * quotient is infinite, and a zero times it NaN.
 */
export function quantiseFactor(limit: number, largest: number): number {
  return largest > 0 ? Math.min(Math.fround(limit / largest), F32_MAX) : 0;
}
