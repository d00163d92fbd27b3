// Prefill with int4 weights in the relaxed build: bytes of quads times i8 activations, the arithmetic of gemv_quad_i4 for four tokens at once.
//
// A panel holds 8 outputs: 32 bytes of row scales, then for each 64 channels (groups g and g+1) 576 bytes: 8 i16 pairs (d[o,g], d[o,g+1]), 8 pairs
// (m'[o,g], m'[o,g+1]), zeros where there are no mins, and 16 quads of 2 x 16 bytes: byte 4l+i of vector h is channel i of the quad (as in quad i4) for
// output 4h+l, 0..15.
//
// Tokens lie in fours, for each 64 channels a record of 320 bytes: i8[16 quads, 4 tokens, 4]; then for the four tokens what store_scales says of g
// and g+1: i16 pairs of start values, of sums, f32 scales, i16 pairs of shares.
//
// Four tokens by eight outputs, one quad a round: 8 sums, 2 weights, 4 splats fit x64's registers. Against gemm_i16 this is 2.6 times as fast in
// Deno, 2.1 in Node 24 and Bun; 3, 5 and 6 tokens by 8, 3 by 12 and 16, 2 by 16 are within 5 % of it, two quads a round lose 20 % in Deno.
import { K_LOW4, K_MAGIC, K_MAGIC_BITS, madd, round_i32 } from "./lanes";
import { inverse_of, largest_of_32, quantize16, store_scales, sum_i8 } from "./quads";

/** Bytes of a panel's 64 channels, of four tokens' 64 channels. */
const BLOCK: usize = 576;
const RECORD: usize = 320;
/** Channels, in 64s, after which the next tokens take their turn: 9 KB of a panel and 5 KB of four tokens stay in L1. */
const STRIDE: u32 = 16;

/** Four quads, 16 bytes apart. */
// @ts-ignore: decorator
@inline
function store_quads(a: usize, v: v128): void {
  v128.store32_lane(a, v, 0); v128.store32_lane(a, v, 1, 16); v128.store32_lane(a, v, 2, 32); v128.store32_lane(a, v, 3, 48);
}

/**
 * Quantises x f32[nTokens, xStride] to i8, scale = max / 127 per token and group of 32, into records of four tokens. Tokens past nTokens are 0.
 *
 * @param a   ceil(nTokens / 4) * nIn / 64 records of 320 bytes
 * @param nIn a multiple of 64
 */
export function pack_tokens_quad_i4(a: usize, x: usize, nTokens: u32, xStride: u32, nIn: u32): void {
  const magic = f32x4.splat(K_MAGIC), bits = i32x4.splat(K_MAGIC_BITS), nBlocks = <usize>(nIn >> 6), padded = (nTokens + 3) & ~3;
  for (let t: u32 = 0; t < padded; ++t, x += <usize>xStride << 2) {
    let out = a + <usize>(t >> 2) * (nBlocks * RECORD);
    const lane = <usize>(t & 3) << 2;
    for (let p = x, end = x + (<usize>nIn << 2); p < end; p += 256, out += RECORD) {
      const q = out + lane;
      if (t >= nTokens) {
        for (let i: usize = 0; i < RECORD; i += 16) store<i32>(q + i, 0);
        continue;
      }
      const largestG = largest_of_32(p), largestH = largest_of_32(p + 128), inverseG = inverse_of(largestG), inverseH = inverse_of(largestH);
      const g0 = quantize16(p, inverseG, magic, bits), g1 = quantize16(p + 64, inverseG, magic, bits);
      const h0 = quantize16(p + 128, inverseH, magic, bits), h1 = quantize16(p + 192, inverseH, magic, bits);
      store_quads(q, v128.shuffle<i16>(g0, h0, 0, 8, 1, 9, 2, 10, 3, 11)); store_quads(q + 64, v128.shuffle<i16>(g0, h0, 4, 12, 5, 13, 6, 14, 7, 15));
      store_quads(q + 128, v128.shuffle<i16>(g1, h1, 0, 8, 1, 9, 2, 10, 3, 11)); store_quads(q + 192, v128.shuffle<i16>(g1, h1, 4, 12, 5, 13, 6, 14, 7, 15));
      store_scales(q + 256, 16, sum_i8(g0, g1), sum_i8(h0, h1), largestG, largestH);
    }
  }
}

/** y f32[nIn] = x minus what pack_tokens_quad_i4 keeps of it: another 7 bits, for a second product. nIn a multiple of 64. */
export function rest_quad_i4(y: usize, x: usize, nIn: u32): void {
  const magic = f32x4.splat(K_MAGIC), bits = i32x4.splat(K_MAGIC_BITS);
  for (const end = x + (<usize>nIn << 2); x < end; x += 128, y += 128) {
    const largest = largest_of_32(x), inverse = inverse_of(largest), unit = f32x4.splat(largest / <f32>127);
    for (let k: usize = 0; k < 128; k += 16) {
      const v = v128.load(x + k);
      v128.store(y + k, f32x4.sub(v, f32x4.mul(f32x4.convert_i32x4_s(round_i32(f32x4.mul(v, inverse), magic, bits)), unit)));
    }
  }
}

/** Two panels from output o (a multiple of 16) of quad i4. */
export function unpack_quad_i4(panels: usize, w: usize, rowScale: usize, withMins: u32, o: u32, nIn: u32): void {
  const low4 = i8x16.splat(<i8>K_LOW4), zero = i32x4.splat(0), head: usize = withMins ? 128 : 64, nBlocks = <usize>(nIn >> 6), panelBytes = 32 + nBlocks * BLOCK;
  const rows = rowScale + (<usize>o << 2), second = panels + panelBytes;
  v128.store(panels, v128.load(rows)); v128.store(panels, v128.load(rows, 16), 16);
  v128.store(second, v128.load(rows, 32)); v128.store(second, v128.load(rows, 48), 16);
  let block = w + <usize>(o >> 4) * nBlocks * (head + 512);
  for (let p = panels + 32; p < second; p += BLOCK, block += head + 512) {
    for (let k: usize = 0; k < 4; ++k) {
      const q = p + (k & 1) * 16 + (k >> 1) * panelBytes;
      v128.store(q, v128.load(block + (k << 4))); v128.store(q, withMins ? v128.load(block + (k << 4), 64) : zero, 32);
    }
    for (let q = p + 64, v = block + head, end = p + BLOCK; q < end; q += 32, v += 32) {
      const a = v128.load(v), b = v128.load(v, 16);
      v128.store(q, v128.and(a, low4)); v128.store(q, v128.and(i16x8.shr_u(a, 4), low4), 16);
      v128.store(q + panelBytes, v128.and(b, low4)); v128.store(q + panelBytes, v128.and(i16x8.shr_u(b, 4), low4), 16);
    }
  }
}

/** One quad of 16 outputs to each of two panels: bytes of channels a and b of g, c and d of g+1. */
// @ts-ignore: decorator
@inline
function store_interleaved(q: usize, panelBytes: usize, a: v128, b: v128, c: v128, d: v128): void {
  let ab = v128.shuffle<i8>(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23), cd = v128.shuffle<i8>(c, d, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  v128.store(q, v128.shuffle<i16>(ab, cd, 0, 8, 1, 9, 2, 10, 3, 11)); v128.store(q, v128.shuffle<i16>(ab, cd, 4, 12, 5, 13, 6, 14, 7, 15), 16);
  ab = v128.shuffle<i8>(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31); cd = v128.shuffle<i8>(c, d, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  q += panelBytes;
  v128.store(q, v128.shuffle<i16>(ab, cd, 0, 8, 1, 9, 2, 10, 3, 11)); v128.store(q, v128.shuffle<i16>(ab, cd, 4, 12, 5, 13, 6, 14, 7, 15), 16);
}

/** Eight panels from output o (a multiple of 64) of group i4, in the relaxed build's order of nibbles. */
export function unpack_group_quad_i4(panels: usize, w: usize, rowScale: usize, withMins: u32, o: u32, nIn: u32, chunk: u32): void {
  const low4 = i8x16.splat(<i8>K_LOW4), zero = i32x4.splat(0), nBlocks = <usize>(nIn >> 6), panelBytes = 32 + nBlocks * BLOCK;
  const blocks = <usize>(chunk >> 6), second: usize = withMins ? 1536 : 1280, blockBytes = second + 1024;
  for (let k: usize = 0; k < 16; ++k) v128.store(panels + (k >> 1) * panelBytes + ((k & 1) << 4), v128.load(rowScale + (<usize>o << 2) + (k << 4)));
  let block = w + (<usize>(o / chunk) * nBlocks * blocks + ((o % chunk) >> 6)) * blockBytes;
  for (let p = panels + 32, end = panels + panelBytes; p < end; p += BLOCK, block += blockBytes * blocks) {
    for (let k: usize = 0; k < 16; ++k) {
      const q = p + (k >> 1) * panelBytes + ((k & 1) << 4), v = block + (k << 4);
      v128.store(q, v128.load(v)); v128.store(q, withMins ? v128.load(v, 1280) : zero, 32);
    }
    for (let q = p + 64, g = block + 256, h = block + second, qEnd = p + BLOCK; q < qEnd; q += 32, g += 64, h += 64) {
      for (let half: usize = 0; half < 2; ++half) {
        const a = v128.load(g + (half << 4)), b = v128.load(g + (half << 4), 32), c = v128.load(h + (half << 4)), d = v128.load(h + (half << 4), 32);
        const to = q + half * 4 * panelBytes;
        // low nibbles of bytes 0..7 are outputs 0..7 and of 8..15 outputs 16..23, high nibbles 8..15 and 24..31
        const a0 = v128.and(a, low4), a1 = v128.and(i16x8.shr_u(a, 4), low4), b0 = v128.and(b, low4), b1 = v128.and(i16x8.shr_u(b, 4), low4);
        const c0 = v128.and(c, low4), c1 = v128.and(i16x8.shr_u(c, 4), low4), d0 = v128.and(d, low4), d1 = v128.and(i16x8.shr_u(d, 4), low4);
        store_interleaved(to, panelBytes, v128.shuffle<i64>(a0, a1, 0, 2), v128.shuffle<i64>(b0, b1, 0, 2), v128.shuffle<i64>(c0, c1, 0, 2), v128.shuffle<i64>(d0, d1, 0, 2));
        store_interleaved(to + 2 * panelBytes, panelBytes, v128.shuffle<i64>(a0, a1, 1, 3), v128.shuffle<i64>(b0, b1, 1, 3), v128.shuffle<i64>(c0, c1, 1, 3), v128.shuffle<i64>(d0, d1, 1, 3));
      }
    }
  }
}

// @ts-ignore: decorator
@inline
function step(sum: v128, w: v128, x: v128): v128 { return i16x8.add(sum, i16x8.relaxed_dot_i8x16_i7x16_s(x, w)); }

/** y[0..3] += scale * (sums . d + (sums of x) . m'), of one token. */
// @ts-ignore: decorator
@inline
function flush(y: usize, sum: v128, d: usize, xSums: v128, shares: v128, scale: v128): void {
  const v = i32x4.add(i32x4.dot_i16x8_s(i16x8.relaxed_q15mulr_s(sum, shares), v128.load(d)), i32x4.dot_i16x8_s(xSums, v128.load(d, 32)));
  v128.store(y, madd(f32x4.convert_i32x4_s(v), scale, v128.load(y)));
}
// @ts-ignore: decorator
@inline
function flush_row(y: usize, s0: v128, s1: v128, d: usize, a: usize, r0: v128, r1: v128): void {
  const xSums = v128.load32_splat(a), scale = v128.load32_splat(a, 16), shares = v128.load32_splat(a, 32);
  flush(y, s0, d, xSums, shares, f32x4.mul(scale, r0));
  flush(y + 16, s1, d + 16, xSums, shares, f32x4.mul(scale, r1));
}
// @ts-ignore: decorator
@inline
function clear_row(y: usize): void { const zero = i32x4.splat(0); v128.store(y, zero); v128.store(y, zero, 16); }

/**
 * y[t, 0..nOut-1] (+)= x panels, row scales and mins included. Integers for each 64 channels, as gemv_quad_i4 has.
 *
 * @param y       f32, room for nTokens rounded up to 4 rows of yStride
 * @param a       records of pack_tokens_quad_i4
 * @param nOut    a multiple of 8: so many panels
 * @param add     0: y is overwritten
 */
export function gemm_quad_i4(y: usize, a: usize, panels: usize, nTokens: u32, yStride: u32, nIn: u32, nOut: u32, add: u32): void {
  const row = <usize>yStride << 2, nBlocks = nIn >> 6, aBytes = <usize>nBlocks * RECORD, panelBytes = 32 + <usize>nBlocks * BLOCK;
  for (let o: u32 = 0; o < nOut; o += 8, y += 32, panels += panelBytes) {
    const r0 = v128.load(panels), r1 = v128.load(panels, 16);
    for (let first: u32 = 0; first < nBlocks; first += STRIDE) {
      const from = panels + 32 + <usize>first * BLOCK, to = from + <usize>min(nBlocks - first, STRIDE) * BLOCK;
      let q = y, tokens = a + <usize>first * RECORD;
      for (let t: u32 = 0; t < nTokens; t += 4, q += row << 2, tokens += aBytes) {
        const q1 = q + row, q2 = q1 + row, q3 = q2 + row;
        if (first == 0 && !add) { clear_row(q); clear_row(q1); clear_row(q2); clear_row(q3); }
        let x = tokens;
        for (let w = from; w < to;) {
          const d = w;
          w += 64;
          let s0 = v128.load32_splat(x, 256), s1 = s0, s2 = v128.load32_splat(x, 260), s3 = s2;
          let s4 = v128.load32_splat(x, 264), s5 = s4, s6 = v128.load32_splat(x, 268), s7 = s6;
          for (const end = w + 512; w < end; w += 32, x += 16) {
            const w0 = v128.load(w), w1 = v128.load(w, 16);
            let v = v128.load32_splat(x);
            s0 = step(s0, w0, v); s1 = step(s1, w1, v); v = v128.load32_splat(x, 4);
            s2 = step(s2, w0, v); s3 = step(s3, w1, v); v = v128.load32_splat(x, 8);
            s4 = step(s4, w0, v); s5 = step(s5, w1, v); v = v128.load32_splat(x, 12);
            s6 = step(s6, w0, v); s7 = step(s7, w1, v);
          }
          flush_row(q, s0, s1, d, x + 16, r0, r1); flush_row(q1, s2, s3, d, x + 20, r0, r1);
          flush_row(q2, s4, s5, d, x + 24, r0, r1); flush_row(q3, s6, s7, d, x + 28, r0, r1);
          x += 64;
        }
      }
    }
  }
}
