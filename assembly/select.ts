// Which channels are active, and lists of them.
// Per four channels: compare, bitmask, look the 4-bit mask up in a table of byte shuffles, swizzle indices and values, store 16 bytes of
// each, advance by the number that passed. No branch: the loop with one is 8 to 11 times slower.
import { K_FOUR } from "./lanes";

/** Shuffle table: entry b moves the 32-bit lanes whose bit is set in b to the front; 128 selects zero. */
export const COMPACT: usize = memory.data<u8>([
  128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128,
  0, 1, 2, 3, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128,
  4, 5, 6, 7, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128,
  0, 1, 2, 3, 4, 5, 6, 7, 128, 128, 128, 128, 128, 128, 128, 128,
  8, 9, 10, 11, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128,
  0, 1, 2, 3, 8, 9, 10, 11, 128, 128, 128, 128, 128, 128, 128, 128,
  4, 5, 6, 7, 8, 9, 10, 11, 128, 128, 128, 128, 128, 128, 128, 128,
  0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 128, 128, 128, 128,
  12, 13, 14, 15, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128,
  0, 1, 2, 3, 12, 13, 14, 15, 128, 128, 128, 128, 128, 128, 128, 128,
  4, 5, 6, 7, 12, 13, 14, 15, 128, 128, 128, 128, 128, 128, 128, 128,
  0, 1, 2, 3, 4, 5, 6, 7, 12, 13, 14, 15, 128, 128, 128, 128,
  8, 9, 10, 11, 12, 13, 14, 15, 128, 128, 128, 128, 128, 128, 128, 128,
  0, 1, 2, 3, 8, 9, 10, 11, 12, 13, 14, 15, 128, 128, 128, 128,
  4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 128, 128, 128, 128,
  0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15,
], 16);

// indices of 128 select zero in the relaxed form too
// @ts-ignore: decorator
@inline
function swizzle(v: v128, indices: v128): v128 { return ASC_FEATURE_RELAXED_SIMD ? i8x16.relaxed_swizzle(v, indices) : i8x16.swizzle(v, indices); }

/** Writes those of v's four channels `lanes` that pass, the values `delta` bytes past the indices; returns where the next go. */
// @ts-ignore: decorator
@inline
function compact(index: usize, delta: usize, lanes: v128, v: v128, scale: v128, t: v128): usize {
  const bits = i32x4.bitmask(f32x4.gt(f32x4.mul(f32x4.abs(v), scale), t)), shuffle = v128.load(COMPACT + (<usize>bits << 4));
  v128.store(index, swizzle(lanes, shuffle)); v128.store(index + delta, swizzle(v, shuffle));
  return index + (<usize>popcnt<i32>(bits) << 2);
}

/**
 * index u32[], value f32[]: the channels with scale[c] * |x[c]| > threshold, ascending, and their x. Returns how many. Eight more entries name
 * the last of them (0 if there is none) with value 0, so that lists can be read in eights. Four vectors a round: 1.0 to 1.2 us for 4,096
 * channels, one 1.2 to 1.3; a table of counts in place of popcnt is slower.
 *
 * @param index room for n + 8 entries; value likewise
 * @param scale f32[n]
 */
export function select_channels_f32(index: usize, value: usize, x: usize, scale: usize, threshold: f32, n: u32): u32 {
  const first = index, delta = value - index, t = f32x4.splat(threshold), step = i32x4.splat(K_FOUR);
  const bytes = <usize>n << 2, rounds = x + (bytes & ~63), whole = x + (bytes & ~15), end = x + bytes;
  let lanes = i32x4(0, 1, 2, 3);
  for (; x < rounds; x += 64, scale += 64) {
    index = compact(index, delta, lanes, v128.load(x), v128.load(scale), t); lanes = i32x4.add(lanes, step);
    index = compact(index, delta, lanes, v128.load(x, 16), v128.load(scale, 16), t); lanes = i32x4.add(lanes, step);
    index = compact(index, delta, lanes, v128.load(x, 32), v128.load(scale, 32), t); lanes = i32x4.add(lanes, step);
    index = compact(index, delta, lanes, v128.load(x, 48), v128.load(scale, 48), t); lanes = i32x4.add(lanes, step);
  }
  for (; x < whole; x += 16, scale += 16) {
    index = compact(index, delta, lanes, v128.load(x), v128.load(scale), t); lanes = i32x4.add(lanes, step);
  }
  for (let c = n & ~3; x < end; x += 4, scale += 4, ++c) {
    const v = load<f32>(x);
    if (abs<f32>(v) * load<f32>(scale) > threshold) { store<u32>(index, c); store<f32>(index + delta, v); index += 4; }
  }
  const last = i32x4.splat(index > first ? load<u32>(index - 4) : 0), zero = i32x4.splat(0);
  v128.store(index, last); v128.store(index, last, 16); v128.store(index + delta, zero); v128.store(index + delta, zero, 16);
  return <u32>((index - first) >> 2);
}

/** out f32[n]: x[index[i]]. Whole fours are read and written: `index` and `out` have room for n rounded up to 4. */
export function gather_f32(out: usize, x: usize, index: usize, n: u32): void {
  for (const end = out + (<usize>n << 2); out < end; out += 16, index += 16) {
    let v = v128.load32_zero(x + (<usize>load<u32>(index) << 2));
    v = v128.load32_lane(x + (<usize>load<u32>(index, 4) << 2), v, 1);
    v = v128.load32_lane(x + (<usize>load<u32>(index, 8) << 2), v, 2);
    v128.store(out, v128.load32_lane(x + (<usize>load<u32>(index, 12) << 2), v, 3));
  }
}

/** active[c] = x[c] where scale[c] * |x[c]| > threshold, else 0; rest = x - active. f32[n] each. Returns how many are active. */
export function mask_channels_f32(active: usize, rest: usize, x: usize, scale: usize, threshold: f32, n: u32): u32 {
  const t = f32x4.splat(threshold), bytes = <usize>n << 2, whole = bytes & ~15;
  let count: u32 = 0, i: usize = 0;
  for (; i < whole; i += 16) {
    const v = v128.load(x + i), m = f32x4.gt(f32x4.mul(f32x4.abs(v), v128.load(scale + i)), t);
    v128.store(active + i, v128.and(v, m)); v128.store(rest + i, v128.andnot(v, m));
    count += popcnt<i32>(i32x4.bitmask(m));
  }
  for (; i < bytes; i += 4) {
    const v = load<f32>(x + i), on = abs<f32>(v) * load<f32>(scale + i) > threshold;
    store<f32>(active + i, on ? v : 0); store<f32>(rest + i, on ? 0 : v);
    count += u32(on);
  }
  return count;
}

/** The same with the mask given: channel c is bit c%8 of byte mask + (c >> 3). */
export function force_channels_f32(active: usize, rest: usize, x: usize, mask: usize, n: u32): u32 {
  let count: u32 = 0;
  for (let c: u32 = 0; c < n; ++c) {
    const on = (load<u8>(mask + (c >> 3)) >> <u8>(c & 7)) & 1, v = load<f32>(x + (<usize>c << 2));
    store<f32>(active + (<usize>c << 2), on ? v : 0); store<f32>(rest + (<usize>c << 2), on ? 0 : v);
    count += on;
  }
  return count;
}
