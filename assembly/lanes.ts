// Helpers that every kernel shares. All of them are inlined.

// A SIMD constant written as v128.const is copied by Binaryen into each use, and V8 15 then rebuilds it inside the loop: int4 dense fell
// from 30 to 15.6 Gweights/s. Splatting an exported mutable global into a local before the loop keeps it in one register. V8 11 does not care.
export let K_LOW4: i32 = 15;
export let K_LOW16: i32 = 0xffff;
export let K_HIGH16: i32 = 0xffff0000;
export let K_ONE: i32 = 1;
export let K_FOUR: i32 = 4;
// 1.5 * 2^23: added to |v| < 2^22 it leaves v rounded to nearest even in the low bits
export let K_MAGIC: f32 = 12582912.0;
export let K_MAGIC_BITS: i32 = 0x4b400000;

// @ts-ignore: decorator
@inline
export function sum_f32(v: v128): f32 {
  return (f32x4.extract_lane(v, 0) + f32x4.extract_lane(v, 1)) + (f32x4.extract_lane(v, 2) + f32x4.extract_lane(v, 3));
}

// @ts-ignore: decorator
@inline
export function max_f32(v: v128): f32 {
  return max<f32>(max<f32>(f32x4.extract_lane(v, 0), f32x4.extract_lane(v, 1)), max<f32>(f32x4.extract_lane(v, 2), f32x4.extract_lane(v, 3)));
}

// @ts-ignore: decorator
@inline
export function sum_i32(v: v128): i32 {
  return i32x4.extract_lane(v, 0) + i32x4.extract_lane(v, 1) + i32x4.extract_lane(v, 2) + i32x4.extract_lane(v, 3);
}

/** a * b + c: one rounding in the relaxed build where the machine has FMA, two in the baseline build everywhere. */
// @ts-ignore: decorator
@inline
export function madd(a: v128, b: v128, c: v128): v128 {
  if (ASC_FEATURE_RELAXED_SIMD) return f32x4.relaxed_madd(a, b, c);
  return f32x4.add(c, f32x4.mul(a, b));
}

/** Sums of the four lanes of a, b, c and d, in one vector. */
// @ts-ignore: decorator
@inline
export function sum4_f32(a: v128, b: v128, c: v128, d: v128): v128 {
  const ab = f32x4.add(v128.shuffle<i32>(a, b, 0, 1, 4, 5), v128.shuffle<i32>(a, b, 2, 3, 6, 7));
  const cd = f32x4.add(v128.shuffle<i32>(c, d, 0, 1, 4, 5), v128.shuffle<i32>(c, d, 2, 3, 6, 7));
  return f32x4.add(v128.shuffle<i32>(ab, cd, 0, 2, 4, 6), v128.shuffle<i32>(ab, cd, 1, 3, 5, 7));
}

/** v rounded to nearest even as i32, for |v| < 2^22. */
// @ts-ignore: decorator
@inline
export function round_i32(v: v128, magic: v128, bits: v128): v128 {
  return i32x4.sub(f32x4.add(v, magic), bits);
}

/** The float16 with bits h, exactly; infinities and NaN become infinities and NaN. */
// @ts-ignore: decorator
@inline
export function half_to_f32(h: u32): f32 {
  const magnitude = reinterpret<f32>((h & 0x7fff) << 13) * reinterpret<f32>(0x77800000);
  const bits = (h & 0x7c00) == 0x7c00 ? 0x7f800000 | ((h & 0x3ff) << 13) : reinterpret<u32>(magnitude);
  return reinterpret<f32>(bits | ((h & 0x8000) << 16));
}

/** The bits of a float32 rounded to bfloat16, to nearest even; the value must not be NaN. */
// @ts-ignore: decorator
@inline
export function bf16_bits(v: f32): u32 {
  const b = reinterpret<u32>(v);
  return (b + 0x7fff + ((b >> 16) & 1)) >> 16;
}

/** e^x in each lane within 2 ulp for x in [-87.3, 88.3]; x is clamped to that. Cody-Waite reduction, degree 6 polynomial (Cephes expf). */
// @ts-ignore: decorator
@inline
export function exp_f32x4(x: v128): v128 {
  const v = f32x4.max(f32x4.min(x, f32x4.splat(88.3)), f32x4.splat(-87.3));
  const n = f32x4.nearest(f32x4.mul(v, f32x4.splat(1.44269504088896341)));
  let r = f32x4.sub(v, f32x4.mul(n, f32x4.splat(0.693359375)));
  r = f32x4.add(r, f32x4.mul(n, f32x4.splat(2.12194440e-4)));
  let p = f32x4.splat(1.9875691500e-4);
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(1.3981999507e-3));
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(8.3334519073e-3));
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(4.1665795894e-2));
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(1.6666665459e-1));
  p = f32x4.add(f32x4.mul(p, r), f32x4.splat(5.0000001201e-1));
  p = f32x4.add(f32x4.mul(p, f32x4.mul(r, r)), f32x4.add(r, f32x4.splat(1)));
  return f32x4.mul(p, i32x4.shl(i32x4.add(i32x4.trunc_sat_f32x4_s(n), i32x4.splat(127)), 23));
}
