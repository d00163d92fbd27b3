// Element-wise kernels and norms.
import { exp_f32x4, madd, sum_f32 } from "./lanes";

/** 1 in the relaxed build: what a compiled module is can be asked of it. */
export const IS_RELAXED: i32 = ASC_FEATURE_RELAXED_SIMD ? 1 : 0;

/** First byte above the module's static data. */
export function heap_base(): usize {
  return (__heap_base + 63) & ~63;
}

/** y f32[n] = 0. */
export function fill_zero_f32(y: usize, n: u32): void {
  memory.fill(y, 0, <usize>n << 2);
}

/** y f32[n] += x f32[n]. */
export function add_f32(y: usize, x: usize, n: u32): void {
  const end = y + (<usize>n << 2), whole = y + ((<usize>n << 2) & ~15);
  for (; y < whole; y += 16, x += 16) v128.store(y, f32x4.add(v128.load(y), v128.load(x)));
  for (; y < end; y += 4, x += 4) store<f32>(y, load<f32>(y) + load<f32>(x));
}

/** y i32[n] += x i32[n], modulo 2^32. */
export function add_i32(y: usize, x: usize, n: u32): void {
  const end = y + (<usize>n << 2), whole = y + ((<usize>n << 2) & ~15);
  for (; y < whole; y += 16, x += 16) v128.store(y, i32x4.add(v128.load(y), v128.load(x)));
  for (; y < end; y += 4, x += 4) store<i32>(y, load<i32>(y) + load<i32>(x));
}

/** y f32[n] = x / sqrt(mean(x^2) + eps) * weight. y may be x. */
export function rms_norm_f32(y: usize, x: usize, weight: usize, n: u32, eps: f32): void {
  const bytes = <usize>n << 2, whole = bytes & ~15;
  let s = f32x4.splat(0), i: usize = 0;
  for (; i < whole; i += 16) { const v = v128.load(x + i); s = madd(v, v, s); }
  let sum = sum_f32(s);
  for (; i < bytes; i += 4) { const v = load<f32>(x + i); sum += v * v; }
  const k = <f32>1 / sqrt<f32>(sum / <f32>n + eps), ks = f32x4.splat(k);
  for (i = 0; i < whole; i += 16) v128.store(y + i, f32x4.mul(f32x4.mul(v128.load(x + i), ks), v128.load(weight + i)));
  for (; i < bytes; i += 4) store<f32>(y + i, load<f32>(x + i) * k * load<f32>(weight + i));
}

/** y f32[n] = gate / (1 + e^-gate) * up. y may be gate or up. Elements past n, up to a multiple of 4, are not touched. */
export function silu_mul_f32(y: usize, gate: usize, up: usize, n: u32): void {
  const one = f32x4.splat(1), bytes = <usize>n << 2, whole = bytes & ~15;
  let i: usize = 0;
  for (; i < whole; i += 16) {
    const g = v128.load(gate + i);
    v128.store(y + i, f32x4.mul(f32x4.div(g, f32x4.add(one, exp_f32x4(f32x4.neg(g)))), v128.load(up + i)));
  }
  for (; i < bytes; i += 4) {
    const g = load<f32>(gate + i);
    store<f32>(y + i, g / (<f32>1 + f32x4.extract_lane(exp_f32x4(f32x4.splat(-g)), 0)) * load<f32>(up + i));
  }
}
