// int4 matrix-vector products on quads of channels, dense only (layout quad i4): relaxed build.
//
// A block is 16 outputs x 64 channels, groups g and g+1: 64 bytes of i16 pairs (d[o,g], d[o,g+1]), 64 of pairs (m'[o,g], m'[o,g+1]) where
// there are mins, then 16 quads of 32 bytes. Byte i of a quad's 32-bit lane is a channel of g (i 0, 1) or of g+1 (i 2, 3), so relaxed_dot
// leaves the sums of g and g+1 side by side in the i16 halves of a lane, and one i16 dot with the scale pair ends 64 channels: 12 operations
// beside the 224 of the nibbles. Mins share the row's scale, so their product is a second dot into the same i32, without a pass of its own.
//
// Against the group tile, its min pass included, 30 layers of SmolLM2 from DRAM, before each group had its own scale (one more
// instruction of some 60 for 64 channels and 4 outputs), took 0.79 of the time in Deno and Node 24, 0.68 in Bun (30 GB/s
// of the 37 there are), TinyLlama's 0.84 and 0.70. What changed nothing or lost: one or 4 quads a round (1 %), 8 and 16 (-8, -25 %: V8 hoists
// the loads and spills), 32 outputs a block, touches ahead (-15 %), two blocks of 16 outputs from both halves of the matrix in turns (0 to
// -5 %; three or more streams a third of the speed), scales and mins in 8 bits (10 % fewer bytes, the same time: arithmetic is the limit).
// i32x4.relaxed_dot_i8x16_i7x16_add_s, with the four bytes of a lane from one group, is one instruction where V8 has VNNI: 14 % faster in cache,
// 1 to 4 % from DRAM (TinyLlama 6 %), 1.55 times slower elsewhere: not worth a second order of the nibbles.
import { K_LOW4, K_MAGIC, K_MAGIC_BITS, madd } from "./lanes";
import { inverse_of, largest_of_32, quantize16, store_scales, sum_i8 } from "./quads";

// @ts-ignore: decorator
@inline
function step(sum: v128, nibbles: v128, x: v128): v128 { return i16x8.add(sum, i16x8.relaxed_dot_i8x16_i7x16_s(x, nibbles)); }

/** Sums of four outputs times their scales, as floats; with mins plus theirs. `shares` bring the sums of g and g+1 to one scale. */
// @ts-ignore: decorator
@inline
function scaled(sum: v128, block: usize, xSums: v128, shares: v128, withMins: bool): v128 {
  const v = i32x4.dot_i16x8_s(i16x8.relaxed_q15mulr_s(sum, shares), v128.load(block));
  return f32x4.convert_i32x4_s(withMins ? i32x4.add(v, i32x4.dot_i16x8_s(v128.load(block, 64), xSums)) : v);
}

// @ts-ignore: decorator
@inline
function run(y: usize, w: usize, rowScale: usize, xq: usize, nIn: u32, nOut: u32, withMins: bool): void {
  const low4 = i8x16.splat(<i8>K_LOW4), xEnd = xq + <usize>(nIn >> 6) * 80;
  for (const yEnd = y + (<usize>nOut << 2); y < yEnd; y += 64, rowScale += 64) {
    let f0 = f32x4.splat(0), f1 = f0, f2 = f0, f3 = f0;
    for (let x = xq; x < xEnd; x += 16) {
      const block = w;
      w += withMins ? 128 : 64;
      let a0 = v128.load32_splat(x, 64), a1 = a0, a2 = a0, a3 = a0;
      for (const end = x + 64; x < end; x += 8, w += 64) {
        let k = v128.load32_splat(x), u = v128.load(w), v = v128.load(w, 16);
        a0 = step(a0, v128.and(u, low4), k); a1 = step(a1, v128.and(i16x8.shr_u(u, 4), low4), k);
        a2 = step(a2, v128.and(v, low4), k); a3 = step(a3, v128.and(i16x8.shr_u(v, 4), low4), k);
        k = v128.load32_splat(x, 4); u = v128.load(w, 32); v = v128.load(w, 48);
        a0 = step(a0, v128.and(u, low4), k); a1 = step(a1, v128.and(i16x8.shr_u(u, 4), low4), k);
        a2 = step(a2, v128.and(v, low4), k); a3 = step(a3, v128.and(i16x8.shr_u(v, 4), low4), k);
      }
      const sums = v128.load32_splat(x, 4), unit = v128.load32_splat(x, 8), shares = v128.load32_splat(x, 12);
      f0 = madd(scaled(a0, block, sums, shares, withMins), unit, f0); f1 = madd(scaled(a1, block + 16, sums, shares, withMins), unit, f1);
      f2 = madd(scaled(a2, block + 32, sums, shares, withMins), unit, f2); f3 = madd(scaled(a3, block + 48, sums, shares, withMins), unit, f3);
    }
    v128.store(y, f32x4.mul(f0, v128.load(rowScale))); v128.store(y, f32x4.mul(f1, v128.load(rowScale, 16)), 16);
    v128.store(y, f32x4.mul(f2, v128.load(rowScale, 32)), 32); v128.store(y, f32x4.mul(f3, v128.load(rowScale, 48)), 48);
  }
}

/**
 * y f32[nOut] = W x, mins included. Integers for each 64 channels, exact but for one unit by which a group's sum is rounded when both are brought to one scale: |sum of (q - 8) x| is at most 32,512 and |sum of x| 4,064 a
 * group, so two groups of scales and mins within 29,356 (32,767 without mins) stay below 2^31.
 *
 * @param w    from any block of 16 outputs on, rowScale and y likewise
 * @param xq   records of quantize_quad_i4
 * @param nIn  a multiple of 64
 * @param nOut a multiple of 16
 */
export function gemv_quad_i4(y: usize, w: usize, rowScale: usize, xq: usize, nIn: u32, nOut: u32, withMins: u32): void {
  if (withMins) run(y, w, rowScale, xq, nIn, nOut, true);
  else run(y, w, rowScale, xq, nIn, nOut, false);
}

/**
 * Quantises x f32[nIn] to i8, scale = max / 127 per group of 32, into records of 80 bytes: i8[16, 4] in the order of the quads, then what store_scales
 * says of g and g+1, 4 bytes each.
 *
 * @param nIn a multiple of 64
 */
export function quantize_quad_i4(xq: usize, x: usize, nIn: u32): void {
  const magic = f32x4.splat(K_MAGIC), bits = i32x4.splat(K_MAGIC_BITS);
  for (const end = x + (<usize>nIn << 2); x < end; x += 256, xq += 80) {
    const largestG = largest_of_32(x), largestH = largest_of_32(x + 128), inverseG = inverse_of(largestG), inverseH = inverse_of(largestH);
    const g0 = quantize16(x, inverseG, magic, bits), g1 = quantize16(x + 64, inverseG, magic, bits);
    const h0 = quantize16(x + 128, inverseH, magic, bits), h1 = quantize16(x + 192, inverseH, magic, bits);
    v128.store(xq, v128.shuffle<i16>(g0, h0, 0, 8, 1, 9, 2, 10, 3, 11)); v128.store(xq, v128.shuffle<i16>(g0, h0, 4, 12, 5, 13, 6, 14, 7, 15), 16);
    v128.store(xq, v128.shuffle<i16>(g1, h1, 0, 8, 1, 9, 2, 10, 3, 11), 32); v128.store(xq, v128.shuffle<i16>(g1, h1, 4, 12, 5, 13, 6, 14, 7, 15), 48);
    store_scales(xq + 64, 4, sum_i8(g0, g1), sum_i8(h0, h1), largestG, largestH);
  }
}
