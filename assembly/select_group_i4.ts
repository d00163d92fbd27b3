// Selection, quantisation and compaction of activations for the int4 kernels, fused: one pass per 64 channels.
import { brought, share_of } from "./quads";
import { COMPACT } from "./select";
import { K_LOW16, K_MAGIC, K_MAGIC_BITS, max_f32, round_i32, sum_f32, sum_i32 } from "./lanes";

/** Bytes between a list's column offsets and its values. */
const SPAN: usize = 131072;
/** Bytes of one channel in a 64 x 64 block. */
const COLUMN: i32 = 32;

/**
 * Makes the table and lists that gemv_group_i4 and gemv_group_i4_list read. One scale serves two neighbouring groups (64 channels).
 *
 * Baseline build: i16 with scale = max(L1 of g, L1 of g+1) / 4079 over the active channels, so that the absolute values of a group add up
 * to at most 4095 after rounding and every sum of (q - 8)*x fits i16 although its steps wrap (perplexity 18.847 against 18.849 exact).
 * Relaxed build: i8, scale = max / 127 of each group, whose sums are brought to the larger one (quads.ts); channels in pairs, as bytes (xa, xb,
 * xa, xb).
 *
 *     table, 32 bytes a group g: u32 list begin, u32 list end, f32 scale, i16 pair: sums of the quantised x of g and g+1 (g even; as many bytes
 *     unused where it is odd), 4 x i16 pair: start values of nibbles 0..3; relaxed: start values of all, shares of g and g+1 (g even), 8 bytes unused
 *     list: u32 byte offset of each channel's column in its half block; SPAN bytes on: its value, i16 twice
 *
 * @param list     2 * SPAN bytes; nIn at most 32,000
 * @param scale    f32[nIn]; channel c is active when scale[c] * |x[c]| > threshold
 * @param nIn      a multiple of 64
 * @returns how many channels are active
 */
export function select_group_i4(table: usize, list: usize, x: usize, scale: usize, threshold: f32, nIn: u32): u32 {
  const t = f32x4.splat(threshold), magic = f32x4.splat(K_MAGIC), bits = i32x4.splat(K_MAGIC_BITS), low = i32x4.splat(K_LOW16);
  const first = i32x4(0, COLUMN, 2 * COLUMN, 3 * COLUMN), step = i32x4.splat(4 * COLUMN), end = x + (<usize>nIn << 2);
  let count: u32 = 0;
  for (; x < end; ) {
    let l0 = f32x4.splat(0), l1 = l0;
    for (let k: usize = 0; k < 128; k += 16) {
      const u = f32x4.abs(v128.load(x + k)), v = f32x4.abs(v128.load(x + k, 128));
      const au = v128.and(u, f32x4.gt(f32x4.mul(u, v128.load(scale + k)), t)), av = v128.and(v, f32x4.gt(f32x4.mul(v, v128.load(scale + k, 128)), t));
      if (ASC_FEATURE_RELAXED_SIMD) { l0 = f32x4.pmax(l0, au); l1 = f32x4.pmax(l1, av); }
      else { l0 = f32x4.add(l0, au); l1 = f32x4.add(l1, av); }
    }
    const norm0 = ASC_FEATURE_RELAXED_SIMD ? max_f32(l0) : sum_f32(l0), norm1 = ASC_FEATURE_RELAXED_SIMD ? max_f32(l1) : sum_f32(l1);
    const norm = max<f32>(norm0, norm1), limit: f32 = ASC_FEATURE_RELAXED_SIMD ? 127 : 4079, unit = norm / limit;
    for (let half = 0; half < 2; ++half, x += 128, scale += 128) {
      const own = ASC_FEATURE_RELAXED_SIMD ? (half ? norm1 : norm0) : norm, inverse = f32x4.splat(own > 0 ? limit / own : 0);
      let offset = first, sum = i32x4.splat(0);
      const begin = list;
      for (let k: usize = 0; k < 128; k += 16) {
        const v = v128.load(x + k), on = f32x4.gt(f32x4.mul(f32x4.abs(v), v128.load(scale + k)), t), m = i32x4.bitmask(on);
        const q = v128.and(round_i32(f32x4.mul(v, inverse), magic, bits), on);
        sum = i32x4.add(sum, q);
        const value = ASC_FEATURE_RELAXED_SIMD ? q : v128.or(v128.and(q, low), i32x4.shl(q, 16));
        const shuffle = v128.load(COMPACT + (<usize>m << 4));
        v128.store(list, i8x16.swizzle(offset, shuffle)); v128.store(list, i8x16.swizzle(value, shuffle), SPAN);
        list += <usize>popcnt<i32>(m) << 2;
        offset = i32x4.add(offset, step);
      }
      count += <u32>((list - begin) >> 2);
      let total = sum_i32(sum);
      if (ASC_FEATURE_RELAXED_SIMD) {
        v128.store(list, i32x4.splat(0)); v128.store(list, i32x4.splat(0), SPAN);
        list = begin + ((list - begin + 7) & ~7);
        for (let p = begin; p < list; p += 8) {
          const pair = (load<i32>(p, SPAN) & 255) | ((load<i32>(p + 4, SPAN) & 255) << 8);
          store<i32>(p, pair | (pair << 16), SPAN);
        }
        const start = -8 * total, share = share_of(own, norm);
        store<i32>(table, (start & 0xffff) | (start << 16), 16);
        store<i16>(table - <usize>(half << 5) + <usize>(half << 1), <i16>share, 20);
        total = brought(total, share);
      } else {
        const c = total << 3, c3 = -c, c2 = -17 * c, c1 = -273 * c, c0 = -4369 * c;
        store<i32>(table, (c0 & 0xffff) | (c0 << 16), 16); store<i32>(table, (c1 & 0xffff) | (c1 << 16), 20);
        store<i32>(table, (c2 & 0xffff) | (c2 << 16), 24); store<i32>(table, (c3 & 0xffff) | (c3 << 16), 28);
      }
      store<u32>(table, <u32>begin); store<u32>(table, <u32>list, 4); store<f32>(table, unit, 8);
      store<i16>(table - <usize>(half << 5) + <usize>(half << 1), <i16>total, 12);
      table += 32;
    }
  }
  return count;
}
