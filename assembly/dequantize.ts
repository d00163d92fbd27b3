// Stored numbers to f32, bit for bit as ggml has them: each product and each sum is rounded on its own, so none may become a
// fused multiply-add. Block layouts: https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h
//
// Every kernel is (y f32[nBlocks * values], blocks, nBlocks) and returns the index of the first block that has a NaN or an infinity, or
// -1. Codes are finite, and the largest scale times the largest codes is below 2^29, so a block is finite exactly when its scales are.
import { half_to_f32 } from "./lanes";

// @ts-ignore: decorator
@inline
function is_finite_half(h: u32): bool {
  return (h & 0x7c00) != 0x7c00;
}

/** y[0..15] = d * q[0..15], q i8. */
// @ts-ignore: decorator
@inline
function store_scaled(y: usize, q: v128, d: v128): void {
  const low = i16x8.extend_low_i8x16_s(q), high = i16x8.extend_high_i8x16_s(q);
  v128.store(y, f32x4.mul(f32x4.convert_i32x4_s(i32x4.extend_low_i16x8_s(low)), d), 0);
  v128.store(y, f32x4.mul(f32x4.convert_i32x4_s(i32x4.extend_high_i16x8_s(low)), d), 16);
  v128.store(y, f32x4.mul(f32x4.convert_i32x4_s(i32x4.extend_low_i16x8_s(high)), d), 32);
  v128.store(y, f32x4.mul(f32x4.convert_i32x4_s(i32x4.extend_high_i16x8_s(high)), d), 48);
}

/** y[0..15] = d * q[0..15] + m, q i8. */
// @ts-ignore: decorator
@inline
function store_affine(y: usize, q: v128, d: v128, m: v128): void {
  const low = i16x8.extend_low_i8x16_s(q), high = i16x8.extend_high_i8x16_s(q);
  v128.store(y, f32x4.add(f32x4.mul(f32x4.convert_i32x4_s(i32x4.extend_low_i16x8_s(low)), d), m), 0);
  v128.store(y, f32x4.add(f32x4.mul(f32x4.convert_i32x4_s(i32x4.extend_high_i16x8_s(low)), d), m), 16);
  v128.store(y, f32x4.add(f32x4.mul(f32x4.convert_i32x4_s(i32x4.extend_low_i16x8_s(high)), d), m), 32);
  v128.store(y, f32x4.add(f32x4.mul(f32x4.convert_i32x4_s(i32x4.extend_high_i16x8_s(high)), d), m), 48);
}

/** Four float16 in the low halves of i32 lanes, exactly; see `half_to_f32`. */
// @ts-ignore: decorator
@inline
function halves_to_f32(h: v128): v128 {
  const magnitude = f32x4.mul(i32x4.shl(v128.and(h, i32x4.splat(0x7fff)), 13), f32x4.splat(reinterpret<f32>(0x77800000)));
  const special = i32x4.eq(v128.and(h, i32x4.splat(0x7c00)), i32x4.splat(0x7c00));
  const sign = i32x4.shl(v128.and(h, i32x4.splat(0x8000)), 16);
  // an exponent of 31 came out as 143; all ones make it infinity or NaN, its mantissa is already in place
  return v128.or(v128.or(magnitude, v128.and(special, i32x4.splat(0x7f800000))), sign);
}

/** Index of the first of n floats that is NaN or infinite, or -1. */
export function find_non_finite_f32(x: usize, n: u32): i32 {
  const exponent = i32x4.splat(0x7f800000);
  let i: u32 = 0;
  for (; i + 4 <= n; i += 4) {
    const v = v128.load(x + ((<usize>i) << 2));
    if (v128.any_true(i32x4.eq(v128.and(v, exponent), exponent))) break;
  }
  for (; i < n; ++i) {
    if ((load<u32>(x + ((<usize>i) << 2)) & 0x7f800000) == 0x7f800000) return i;
  }
  return -1;
}

/** `nBlocks` counts values. */
export function dequantize_f16(y: usize, blocks: usize, nBlocks: u32): i32 {
  let i: u32 = 0;
  for (; i + 4 <= nBlocks; i += 4) {
    v128.store(y + ((<usize>i) << 2), halves_to_f32(v128.load16x4_u(blocks + ((<usize>i) << 1))));
  }
  for (; i < nBlocks; ++i) store<f32>(y + ((<usize>i) << 2), half_to_f32(load<u16>(blocks + ((<usize>i) << 1))));
  return find_non_finite_f32(y, nBlocks);
}

/** `nBlocks` counts values. */
export function dequantize_bf16(y: usize, blocks: usize, nBlocks: u32): i32 {
  let i: u32 = 0;
  for (; i + 4 <= nBlocks; i += 4) {
    v128.store(y + ((<usize>i) << 2), i32x4.shl(v128.load16x4_u(blocks + ((<usize>i) << 1)), 16));
  }
  for (; i < nBlocks; ++i) store<u32>(y + ((<usize>i) << 2), <u32>load<u16>(blocks + ((<usize>i) << 1)) << 16);
  return find_non_finite_f32(y, nBlocks);
}

/** Block of 32: d f16, q i8[32]; d * q. */
export function dequantize_q8_0(y: usize, blocks: usize, nBlocks: u32): i32 {
  let bad: i32 = -1;
  for (let b: u32 = 0; b < nBlocks; ++b, blocks += 34, y += 128) {
    const half = load<u16>(blocks);
    if (!is_finite_half(half) && bad < 0) bad = b;
    const d = f32x4.splat(half_to_f32(half));
    store_scaled(y, v128.load(blocks, 2), d);
    store_scaled(y + 64, v128.load(blocks, 18), d);
  }
  return bad;
}

/** Block of 32: d f16, codes u4[32], the low halves of the bytes first; d * (q - 8). */
export function dequantize_q4_0(y: usize, blocks: usize, nBlocks: u32): i32 {
  const low4 = i8x16.splat(15), eight = i8x16.splat(8);
  let bad: i32 = -1;
  for (let b: u32 = 0; b < nBlocks; ++b, blocks += 18, y += 128) {
    const half = load<u16>(blocks);
    if (!is_finite_half(half) && bad < 0) bad = b;
    const d = f32x4.splat(half_to_f32(half)), q = v128.load(blocks, 2);
    store_scaled(y, i8x16.sub(v128.and(q, low4), eight), d);
    store_scaled(y + 64, i8x16.sub(i8x16.shr_u(q, 4), eight), d);
  }
  return bad;
}

/** Block of 32: d f16, m f16, codes as in Q4_0; d * q + m. */
export function dequantize_q4_1(y: usize, blocks: usize, nBlocks: u32): i32 {
  const low4 = i8x16.splat(15);
  let bad: i32 = -1;
  for (let b: u32 = 0; b < nBlocks; ++b, blocks += 20, y += 128) {
    const dHalf = load<u16>(blocks), mHalf = load<u16>(blocks, 2);
    if (!(is_finite_half(dHalf) && is_finite_half(mHalf)) && bad < 0) bad = b;
    const d = f32x4.splat(half_to_f32(dHalf)), m = f32x4.splat(half_to_f32(mHalf)), q = v128.load(blocks, 4);
    store_affine(y, v128.and(q, low4), d, m);
    store_affine(y + 64, i8x16.shr_u(q, 4), d, m);
  }
  return bad;
}

/** 16 in each byte whose bit is set in the 16 bits that `bits` holds in both its lanes' low bytes. */
// @ts-ignore: decorator
@inline
function fifth_bits(bits: u32): v128 {
  const each = i8x16(1, 2, 4, 8, 16, 32, 64, -128, 1, 2, 4, 8, 16, 32, 64, -128);
  const bytes = i8x16.swizzle(i16x8.splat(<i16>bits), i8x16(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1));
  return v128.and(i8x16.eq(v128.and(bytes, each), each), i8x16.splat(16));
}

/** Block of 32: d f16, fifth bits u32, codes as in Q4_0; d * (q - 16). */
export function dequantize_q5_0(y: usize, blocks: usize, nBlocks: u32): i32 {
  const low4 = i8x16.splat(15), sixteen = i8x16.splat(16);
  let bad: i32 = -1;
  for (let b: u32 = 0; b < nBlocks; ++b, blocks += 22, y += 128) {
    const half = load<u16>(blocks);
    if (!is_finite_half(half) && bad < 0) bad = b;
    const d = f32x4.splat(half_to_f32(half)), q = v128.load(blocks, 6);
    store_scaled(y, i8x16.sub(v128.or(v128.and(q, low4), fifth_bits(load<u16>(blocks, 2))), sixteen), d);
    store_scaled(y + 64, i8x16.sub(v128.or(i8x16.shr_u(q, 4), fifth_bits(load<u16>(blocks, 4))), sixteen), d);
  }
  return bad;
}

/** Block of 32: d f16, m f16, fifth bits u32, codes as in Q4_0; d * q + m. */
export function dequantize_q5_1(y: usize, blocks: usize, nBlocks: u32): i32 {
  const low4 = i8x16.splat(15);
  let bad: i32 = -1;
  for (let b: u32 = 0; b < nBlocks; ++b, blocks += 24, y += 128) {
    const dHalf = load<u16>(blocks), mHalf = load<u16>(blocks, 2);
    if (!(is_finite_half(dHalf) && is_finite_half(mHalf)) && bad < 0) bad = b;
    const d = f32x4.splat(half_to_f32(dHalf)), m = f32x4.splat(half_to_f32(mHalf)), q = v128.load(blocks, 8);
    store_affine(y, v128.or(v128.and(q, low4), fifth_bits(load<u16>(blocks, 4))), d, m);
    store_affine(y + 64, v128.or(i8x16.shr_u(q, 4), fifth_bits(load<u16>(blocks, 6))), d, m);
  }
  return bad;
}

/** The 6-bit scale j (0..7) of 12 bytes: low bits of bytes 0..3, and for 4..7 nibbles of 8..11 with the top bits of 0..3. */
// @ts-ignore: decorator
@inline
function k_scale(scales: usize, j: usize): u32 {
  if (j < 4) return load<u8>(scales + j) & 63;
  return (load<u8>(scales + j + 4) & 15) | ((load<u8>(scales + j - 4) >> 6) << 4);
}

/** The 6-bit minimum j, which lies beside the scales. */
// @ts-ignore: decorator
@inline
function k_min(scales: usize, j: usize): u32 {
  if (j < 4) return load<u8>(scales + j + 4) & 63;
  return (load<u8>(scales + j + 4) >> 4) | ((load<u8>(scales + j) >> 6) << 4);
}

/** Block of 256: d f16, dMin f16, 8 scales and minima of 6 bits in 12 bytes, codes u4[256]; d * scale * q - dMin * min. */
export function dequantize_q4_k(y: usize, blocks: usize, nBlocks: u32): i32 {
  const low4 = i8x16.splat(15);
  let bad: i32 = -1;
  for (let b: u32 = 0; b < nBlocks; ++b, blocks += 144, y += 1024) {
    const dHalf = load<u16>(blocks), mHalf = load<u16>(blocks, 2);
    if (!(is_finite_half(dHalf) && is_finite_half(mHalf)) && bad < 0) bad = b;
    const d = half_to_f32(dHalf), dMin = half_to_f32(mHalf), scales = blocks + 4;
    for (let j: usize = 0; j < 8; ++j) {
      // 32 bytes hold two groups: the first in the low halves, the second in the high ones
      const codes = blocks + 16 + ((j >> 1) << 5), out = y + (j << 7);
      const dj = f32x4.splat(d * <f32>k_scale(scales, j)), mj = f32x4.splat(-(dMin * <f32>k_min(scales, j)));
      let q0 = v128.load(codes), q1 = v128.load(codes, 16);
      if (j & 1) {
        q0 = i8x16.shr_u(q0, 4);
        q1 = i8x16.shr_u(q1, 4);
      }
      store_affine(out, v128.and(q0, low4), dj, mj);
      store_affine(out + 64, v128.and(q1, low4), dj, mj);
    }
  }
  return bad;
}

/** Block of 256: as Q4_K, with fifth bits in 32 bytes before the codes: bit j of byte i is that of value i of group j. */
export function dequantize_q5_k(y: usize, blocks: usize, nBlocks: u32): i32 {
  const low4 = i8x16.splat(15), sixteen = i8x16.splat(16), one = i8x16.splat(1);
  let bad: i32 = -1;
  for (let b: u32 = 0; b < nBlocks; ++b, blocks += 176, y += 1024) {
    const dHalf = load<u16>(blocks), mHalf = load<u16>(blocks, 2);
    if (!(is_finite_half(dHalf) && is_finite_half(mHalf)) && bad < 0) bad = b;
    const d = half_to_f32(dHalf), dMin = half_to_f32(mHalf), scales = blocks + 4;
    const h0 = v128.load(blocks, 16), h1 = v128.load(blocks, 32);
    for (let j: usize = 0; j < 8; ++j) {
      const codes = blocks + 48 + ((j >> 1) << 5), out = y + (j << 7);
      const dj = f32x4.splat(d * <f32>k_scale(scales, j)), mj = f32x4.splat(-(dMin * <f32>k_min(scales, j)));
      let q0 = v128.load(codes), q1 = v128.load(codes, 16);
      if (j & 1) {
        q0 = i8x16.shr_u(q0, 4);
        q1 = i8x16.shr_u(q1, 4);
      }
      const f0 = v128.and(i8x16.neg(v128.and(i8x16.shr_u(h0, <i32>j), one)), sixteen);
      const f1 = v128.and(i8x16.neg(v128.and(i8x16.shr_u(h1, <i32>j), one)), sixteen);
      store_affine(out, v128.or(v128.and(q0, low4), f0), dj, mj);
      store_affine(out + 64, v128.or(v128.and(q1, low4), f1), dj, mj);
    }
  }
  return bad;
}

/** Block of 256: low bits u4[256], high bits u2[256], scale i8[16], d f16; d * scale * (q - 32). */
export function dequantize_q6_k(y: usize, blocks: usize, nBlocks: u32): i32 {
  const low4 = i8x16.splat(15), low2 = i8x16.splat(3), center = i8x16.splat(32);
  let bad: i32 = -1;
  for (let b: u32 = 0; b < nBlocks; ++b, blocks += 210, y += 1024) {
    const half = load<u16>(blocks, 208);
    if (!is_finite_half(half) && bad < 0) bad = b;
    const d = half_to_f32(half);
    // 16 values share a scale; of 8 such runs, runs 0..3 are the low halves of 64 bytes, runs 4..7 the high ones
    for (let run: usize = 0; run < 16; ++run) {
      const part = run >> 3, r = run & 7;
      let q = v128.load(blocks + (part << 6) + ((r & 3) << 4));
      q = r < 4 ? v128.and(q, low4) : i8x16.shr_u(q, 4);
      const h = i8x16.shr_u(v128.load(blocks + 128 + (part << 5) + ((r & 1) << 4)), <i32>(r & 6));
      q = i8x16.sub(v128.or(q, i8x16.shl(v128.and(h, low2), 4)), center);
      store_scaled(y + (run << 6), q, f32x4.splat(d * <f32>load<i8>(blocks + 192 + run)));
    }
  }
  return bad;
}
