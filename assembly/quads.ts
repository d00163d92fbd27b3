// How the relaxed build quantises 64 activations: for quads, one token (gemv_quad_i4.ts) and many (gemm_quad_i4.ts), and lists (select_group_i4.ts). All
// inlined.
import { max_f32, round_i32, sum_i32 } from "./lanes";

/** The largest magnitude of 32 floats. */
// @ts-ignore: decorator
@inline
export function largest_of_32(x: usize): f32 {
  let m = f32x4.splat(0);
  for (let k: usize = 0; k < 128; k += 32) m = f32x4.pmax(m, f32x4.pmax(f32x4.abs(v128.load(x + k)), f32x4.abs(v128.load(x + k, 16))));
  return max_f32(m);
}

/** What 32 floats of that magnitude are multiplied with. Infinite below 3.7e-37: each is then one of -128 to 127, times a scale of at most 3e-39. */
// @ts-ignore: decorator
@inline
export function inverse_of(largest: f32): v128 { return f32x4.splat(largest > 0 ? <f32>127 / largest : 0); }

/** 16 floats as i8. */
// @ts-ignore: decorator
@inline
export function quantize16(x: usize, inverse: v128, magic: v128, bits: v128): v128 {
  return i8x16.narrow_i16x8_s(
    i16x8.narrow_i32x4_s(round_i32(f32x4.mul(v128.load(x), inverse), magic, bits), round_i32(f32x4.mul(v128.load(x, 16), inverse), magic, bits)),
    i16x8.narrow_i32x4_s(round_i32(f32x4.mul(v128.load(x, 32), inverse), magic, bits), round_i32(f32x4.mul(v128.load(x, 48), inverse), magic, bits)));
}

// @ts-ignore: decorator
@inline
export function sum_i8(a: v128, b: v128): i32 {
  return sum_i32(i32x4.extadd_pairwise_i16x8_s(i16x8.add(i16x8.extadd_pairwise_i8x16_s(a), i16x8.extadd_pairwise_i8x16_s(b))));
}

/** largest / ofBoth in 15 bits. */
// @ts-ignore: decorator
@inline
export function share_of(largest: f32, ofBoth: f32): i32 { return ofBoth > 0 ? <i32>nearest<f32>(largest / ofBoth * 32767) : 0; }
/** A sum brought to the larger scale, as i16x8.relaxed_q15mulr_s does it. */
// @ts-ignore: decorator
@inline
export function brought(sum: i32, share: i32): i32 { return (sum * share + 0x4000) >> 15; }

/**
 * Two groups have a scale each, and one product with their weights' scales: the sums of the one with the smaller scale are brought to the other's first,
 * by i16x8.relaxed_q15mulr_s with these shares, 32767 and less. Against one scale for 64 channels this takes a quarter of the rounding error away
 * (SmolLM2: the 8 best logits are off by 0.143 on average, by 0.196 with one), for one instruction per 64 channels and 4 outputs.
 *
 * @param at start values -8 * sum of q, as q comes; + next: sums of q brought to one scale; + 2 * next: the scale; + 3 * next: shares
 */
// @ts-ignore: decorator
@inline
export function store_scales(at: usize, next: usize, g: i32, h: i32, largestG: f32, largestH: f32): void {
  const largest = max<f32>(largestG, largestH), shareG = share_of(largestG, largest), shareH = share_of(largestH, largest);
  store<i16>(at, <i16>(-8 * g)); store<i16>(at, <i16>(-8 * h), 2); at += next;
  store<i16>(at, <i16>brought(g, shareG)); store<i16>(at, <i16>brought(h, shareH), 2); at += next;
  store<f32>(at, largest / <f32>127); at += next;
  store<i16>(at, <i16>shareG); store<i16>(at, <i16>shareH, 2);
}
