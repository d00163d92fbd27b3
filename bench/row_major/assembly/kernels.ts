// What the dense kernels are measured against: products over the blocks as a GGUF file has them, row by row, as ggml computes them. Not part of
// the product. Activations are quantised to 8 bits a block of 32; plain SIMD widens them to i16, relaxed SIMD multiplies bytes.

export let K_LOW4: i32 = 15;
export let K_ONE: i32 = 1;

// @ts-ignore: decorator
@inline
function half(h: u32): f32 { return reinterpret<f32>(((h & 0x8000) << 16) | ((h & 0x7fff) << 13)) * reinterpret<f32>(0x77800000); }
// @ts-ignore: decorator
@inline
function sum(v: v128): f32 { return (f32x4.extract_lane(v, 0) + f32x4.extract_lane(v, 1)) + (f32x4.extract_lane(v, 2) + f32x4.extract_lane(v, 3)); }
// @ts-ignore: decorator
@inline
function dot(a: v128, b: v128): v128 { return i32x4.dot_i16x8_s(a, b); }
// @ts-ignore: decorator
@inline
function dot8(a: v128, b: v128, one: v128): v128 { return i32x4.dot_i16x8_s(i16x8.relaxed_dot_i8x16_i7x16_s(a, b), one); }

/** Reads n bytes, a multiple of 64, in order: the speed of memory. */
export function read_in_order(p: usize, n: usize): i32 {
  let a = i32x4.splat(0), b = a, c = a, d = a;
  for (const end = p + n; p < end; p += 64) {
    a = v128.xor(a, v128.load(p)); b = v128.xor(b, v128.load(p, 16)); c = v128.xor(c, v128.load(p, 32)); d = v128.xor(d, v128.load(p, 48));
  }
  return i32x4.extract_lane(v128.xor(v128.xor(a, b), v128.xor(c, d)), 0);
}

/**
 * Per block of 32: xq, i16[32] (relaxed: i8[32], then |x| i8[32] and the mask of its signs i8[32], for weights that have signs of their own);
 * unit f32[2]: the scale, and the scale times the sum.
 */
export function quantize_blocks(xq: usize, unit: usize, x: usize, n: u32): void {
  for (const end = x + (<usize>n << 2); x < end; x += 128, unit += 8) {
    let m = f32x4.splat(0);
    for (let k: usize = 0; k < 128; k += 16) m = f32x4.pmax(m, f32x4.abs(v128.load(x + k)));
    const largest = max<f32>(max<f32>(f32x4.extract_lane(m, 0), f32x4.extract_lane(m, 1)), max<f32>(f32x4.extract_lane(m, 2), f32x4.extract_lane(m, 3)));
    const inverse = f32x4.splat(largest > 0 ? 127 / largest : 0);
    let total = i32x4.splat(0);
    for (let k: usize = 0; k < 128; k += 32) {
      const a = i32x4.trunc_sat_f32x4_s(f32x4.nearest(f32x4.mul(v128.load(x + k), inverse)));
      const b = i32x4.trunc_sat_f32x4_s(f32x4.nearest(f32x4.mul(v128.load(x + k, 16), inverse)));
      total = i32x4.add(total, i32x4.add(a, b));
      const w = i16x8.narrow_i32x4_s(a, b);
      if (ASC_FEATURE_RELAXED_SIMD) {
        const q = i8x16.narrow_i16x8_s(w, w), at = xq + (k >> 2);
        v128.store64_lane(at, q, 0); v128.store64_lane(at, i8x16.abs(q), 0, 32); v128.store64_lane(at, i8x16.shr_s(q, 7), 0, 64);
      } else v128.store(xq + (k >> 1), w);
    }
    xq += ASC_FEATURE_RELAXED_SIMD ? 96 : 64;
    const d = largest / 127, s = i32x4.extract_lane(total, 0) + i32x4.extract_lane(total, 1) + i32x4.extract_lane(total, 2) + i32x4.extract_lane(total, 3);
    store<f32>(unit, d); store<f32>(unit, d * <f32>s, 4);
  }
}

/** y f32[nOut] = w x. Q4_1: 20 bytes a block, f16 d, f16 m, 16 bytes: low nibbles are elements 0..15, high ones 16..31. Q4_0: 18, no m. */
// @ts-ignore: decorator
@inline
function rows_q4(y: usize, w: usize, xq: usize, unit: usize, nIn: u32, nOut: u32, withMins: bool): void {
  const block: usize = withMins ? 20 : 18, low = i8x16.splat(<i8>K_LOW4), one = i16x8.splat(<i16>K_ONE), unitEnd = unit + <usize>(nIn >> 2);
  for (const end = y + (<usize>nOut << 2); y < end; y += 4) {
    let acc = f32x4.splat(0), rest: f32 = 0, x = xq;
    for (let u = unit; u < unitEnd; u += 8, w += block) {
      const v = withMins ? v128.load(w, 4) : v128.load(w, 2), l = v128.and(v, low), h = v128.and(i16x8.shr_u(v, 4), low);
      let q: v128;
      if (ASC_FEATURE_RELAXED_SIMD) {
        q = i32x4.dot_i16x8_s(i16x8.add(i16x8.relaxed_dot_i8x16_i7x16_s(v128.load(x), l), i16x8.relaxed_dot_i8x16_i7x16_s(v128.load(x, 16), h)), one);
        x += 96;
      } else {
        q = i32x4.add(
          i32x4.add(dot(i16x8.extend_low_i8x16_s(l), v128.load(x)), dot(i16x8.extend_high_i8x16_s(l), v128.load(x, 16))),
          i32x4.add(dot(i16x8.extend_low_i8x16_s(h), v128.load(x, 32)), dot(i16x8.extend_high_i8x16_s(h), v128.load(x, 48))),
        );
        x += 64;
      }
      const d = half(load<u16>(w));
      const s = f32x4.mul(f32x4.convert_i32x4_s(q), f32x4.splat(d * load<f32>(u)));
      acc = f32x4.add(acc, s);
      rest += withMins ? half(load<u16>(w, 2)) * load<f32>(u, 4) : -8 * d * load<f32>(u, 4);
    }
    store<f32>(y, sum(acc) + rest);
  }
}

export function rows_q4_1(y: usize, w: usize, xq: usize, unit: usize, nIn: u32, nOut: u32): void { rows_q4(y, w, xq, unit, nIn, nOut, true); }
export function rows_q4_0(y: usize, w: usize, xq: usize, unit: usize, nIn: u32, nOut: u32): void { rows_q4(y, w, xq, unit, nIn, nOut, false); }

/** y f32[nOut] = w x. Q8_0: 34 bytes a block, f16 d, 32 bytes. Two blocks a round. */
export function rows_q8_0(y: usize, w: usize, xq: usize, unit: usize, nIn: u32, nOut: u32): void {
  const one = i16x8.splat(<i16>K_ONE), unitEnd = unit + <usize>(nIn >> 2);
  for (const end = y + (<usize>nOut << 2); y < end; y += 4) {
    let acc = f32x4.splat(0), acc2 = acc, x = xq;
    for (let u = unit; u < unitEnd; u += 16, w += 68) {
      let a: v128, b: v128;
      if (ASC_FEATURE_RELAXED_SIMD) {
        // the second operand must lie in 0..127: |x| there, its sign given to the weight
        const m0 = v128.load(x, 64), m1 = v128.load(x, 80), m2 = v128.load(x, 160), m3 = v128.load(x, 176);
        a = i32x4.add(dot8(i8x16.sub(v128.xor(v128.load(w, 2), m0), m0), v128.load(x, 32), one), dot8(i8x16.sub(v128.xor(v128.load(w, 18), m1), m1), v128.load(x, 48), one));
        b = i32x4.add(dot8(i8x16.sub(v128.xor(v128.load(w, 36), m2), m2), v128.load(x, 128), one), dot8(i8x16.sub(v128.xor(v128.load(w, 52), m3), m3), v128.load(x, 144), one));
        x += 192;
      } else {
        a = i32x4.add(
          i32x4.add(dot(v128.load_ext<i8>(w, 2), v128.load(x)), dot(v128.load_ext<i8>(w, 10), v128.load(x, 16))),
          i32x4.add(dot(v128.load_ext<i8>(w, 18), v128.load(x, 32)), dot(v128.load_ext<i8>(w, 26), v128.load(x, 48))),
        );
        b = i32x4.add(
          i32x4.add(dot(v128.load_ext<i8>(w, 36), v128.load(x, 64)), dot(v128.load_ext<i8>(w, 44), v128.load(x, 80))),
          i32x4.add(dot(v128.load_ext<i8>(w, 52), v128.load(x, 96)), dot(v128.load_ext<i8>(w, 60), v128.load(x, 112))),
        );
        x += 128;
      }
      acc = f32x4.add(acc, f32x4.mul(f32x4.convert_i32x4_s(a), f32x4.splat(half(load<u16>(w)) * load<f32>(u))));
      acc2 = f32x4.add(acc2, f32x4.mul(f32x4.convert_i32x4_s(b), f32x4.splat(half(load<u16>(w, 34)) * load<f32>(u, 8))));
    }
    store<f32>(y, sum(f32x4.add(acc, acc2)));
  }
}
