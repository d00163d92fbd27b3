// int8 matrix-vector products. No masks: with v a signed 16-bit unit of two bytes, A0 = sum v*x and A1 = sum (v >> 8)*x give the high
// byte's sum A1 and the low byte's A0 - 256*A1, exact modulo 2^32 however large A0 gets. Low bytes are stored as w + 128, hence -128 * sum x.
import { K_MAGIC, K_MAGIC_BITS, K_ONE, max_f32, round_i32, sum_i32 } from "./lanes";

/**
 * xq i16[nPadded] = round(x * factor / s), at most 2047, less above 8,259 channels so that n * 127 * |xq| stays within i32; returns s, or 0
 * if all are 0. nPadded a multiple of 8.
 */
export function quantize_i16(xq: usize, x: usize, factor: usize, n: u32, nPadded: u32): f32 {
  const end = x + (<usize>n << 2), whole = x + ((<usize>n << 2) & ~15), xq0 = xq;
  let m = f32x4.splat(0), f = factor, p = x;
  for (; p < whole; p += 16, f += 16) m = f32x4.pmax(m, f32x4.abs(f32x4.mul(v128.load(p), v128.load(f))));
  let largest = max_f32(m);
  for (; p < end; p += 4, f += 4) largest = max<f32>(largest, abs<f32>(load<f32>(p) * load<f32>(f)));
  const limit: f32 = n > 8259 ? <f32>(<u32>16909320 / n) : 2047, inverse: f32 = largest > 0 ? limit / largest : 0;
  const k = f32x4.splat(inverse), magic = f32x4.splat(K_MAGIC), bits = i32x4.splat(K_MAGIC_BITS);
  p = x; f = factor;
  for (; p < whole; p += 16, f += 16, xq += 8) {
    const q = round_i32(f32x4.mul(f32x4.mul(v128.load(p), v128.load(f)), k), magic, bits);
    v128.store64_lane(xq, i16x8.narrow_i32x4_s(q, q), 0);
  }
  for (; p < end; p += 4, f += 4, xq += 2) store<i16>(xq, <i16>nearest<f32>(load<f32>(p) * load<f32>(f) * inverse));
  for (const stop = xq0 + (<usize>nPadded << 1); xq < stop; xq += 2) store<i16>(xq, 0);
  return largest / limit;
}

/** Sum of x i16[n], n a multiple of 8. */
export function sum_i16(x: usize, n: u32): i32 {
  const one = i16x8.splat(<i16>K_ONE);
  let s = i32x4.splat(0);
  for (const end = x + (<usize>n << 1); x < end; x += 16) s = i32x4.add(s, i32x4.dot_i16x8_s(v128.load(x), one));
  return sum_i32(s);
}

// @ts-ignore: decorator
@inline
function low(a: v128, b: v128): v128 { return v128.shuffle<i16>(a, b, 0, 8, 1, 9, 2, 10, 3, 11); }
// @ts-ignore: decorator
@inline
function high(a: v128, b: v128): v128 { return v128.shuffle<i16>(a, b, 4, 12, 5, 13, 6, 14, 7, 15); }
// @ts-ignore: decorator
@inline
function dot(sum: v128, a: v128, x: v128): v128 { return i32x4.add(sum, i32x4.dot_i16x8_s(a, x)); }

/**
 * acc i32[nOut] += active channels, in the order that finish_channels_i8 undoes: per 16 outputs A0 and A1 of the first eight, then of the
 * rest. Pairs of channels whose 16-bit units are interleaved: 14 operations for 32 weights. Eight channels at a time, 32 outputs a round: 16 were 2
 * to 10 % slower in V8 11 and up to 40 % in V8 15 (4,096 to 22,016: 1.09 of dense, not 1.50). Touching the first lines of a group, or of the
 * next one, won 3 % in some shapes and lost 4 % in others.
 *
 * @param w       channels i8, even outputs as w + 128; output o of channel c is byte c * stride + o
 * @param index   u32[nActive]
 * @param xq      i16[nActive], gathered
 * @param nActive a multiple of 8: padded with xq = 0
 * @param nOut    a multiple of 32
 */
export function gemv_channels_i8(acc: usize, w: usize, index: usize, xq: usize, nActive: u32, nOut: u32, stride: u32): void {
  const end = acc + (<usize>nOut << 2), column = <usize>stride;
  for (let a: u32 = 0; a < nActive; a += 8, index += 32, xq += 16) {
    let p0 = w + <usize>load<u32>(index) * column, p1 = w + <usize>load<u32>(index, 4) * column;
    let p2 = w + <usize>load<u32>(index, 8) * column, p3 = w + <usize>load<u32>(index, 12) * column;
    let p4 = w + <usize>load<u32>(index, 16) * column, p5 = w + <usize>load<u32>(index, 20) * column;
    let p6 = w + <usize>load<u32>(index, 24) * column, p7 = w + <usize>load<u32>(index, 28) * column;
    const x0 = v128.load32_splat(xq), x1 = v128.load32_splat(xq, 4), x2 = v128.load32_splat(xq, 8), x3 = v128.load32_splat(xq, 12);
    for (let q = acc; q < end; q += 128) {
      let s0 = v128.load(q), s1 = v128.load(q, 16), s2 = v128.load(q, 32), s3 = v128.load(q, 48), c: v128, d: v128, e: v128;
      c = v128.load(p0); d = v128.load(p1);
      e = low(c, d); s0 = dot(s0, e, x0); s1 = dot(s1, i16x8.shr_s(e, 8), x0); e = high(c, d); s2 = dot(s2, e, x0); s3 = dot(s3, i16x8.shr_s(e, 8), x0);
      c = v128.load(p2); d = v128.load(p3);
      e = low(c, d); s0 = dot(s0, e, x1); s1 = dot(s1, i16x8.shr_s(e, 8), x1); e = high(c, d); s2 = dot(s2, e, x1); s3 = dot(s3, i16x8.shr_s(e, 8), x1);
      c = v128.load(p4); d = v128.load(p5);
      e = low(c, d); s0 = dot(s0, e, x2); s1 = dot(s1, i16x8.shr_s(e, 8), x2); e = high(c, d); s2 = dot(s2, e, x2); s3 = dot(s3, i16x8.shr_s(e, 8), x2);
      c = v128.load(p6); d = v128.load(p7);
      e = low(c, d); s0 = dot(s0, e, x3); s1 = dot(s1, i16x8.shr_s(e, 8), x3); e = high(c, d); s2 = dot(s2, e, x3); s3 = dot(s3, i16x8.shr_s(e, 8), x3);
      v128.store(q, s0); v128.store(q, s1, 16); v128.store(q, s2, 32); v128.store(q, s3, 48);
      s0 = v128.load(q, 64); s1 = v128.load(q, 80); s2 = v128.load(q, 96); s3 = v128.load(q, 112);
      c = v128.load(p0, 16); d = v128.load(p1, 16);
      e = low(c, d); s0 = dot(s0, e, x0); s1 = dot(s1, i16x8.shr_s(e, 8), x0); e = high(c, d); s2 = dot(s2, e, x0); s3 = dot(s3, i16x8.shr_s(e, 8), x0);
      c = v128.load(p2, 16); d = v128.load(p3, 16);
      e = low(c, d); s0 = dot(s0, e, x1); s1 = dot(s1, i16x8.shr_s(e, 8), x1); e = high(c, d); s2 = dot(s2, e, x1); s3 = dot(s3, i16x8.shr_s(e, 8), x1);
      c = v128.load(p4, 16); d = v128.load(p5, 16);
      e = low(c, d); s0 = dot(s0, e, x2); s1 = dot(s1, i16x8.shr_s(e, 8), x2); e = high(c, d); s2 = dot(s2, e, x2); s3 = dot(s3, i16x8.shr_s(e, 8), x2);
      c = v128.load(p6, 16); d = v128.load(p7, 16);
      e = low(c, d); s0 = dot(s0, e, x3); s1 = dot(s1, i16x8.shr_s(e, 8), x3); e = high(c, d); s2 = dot(s2, e, x3); s3 = dot(s3, i16x8.shr_s(e, 8), x3);
      v128.store(q, s0, 64); v128.store(q, s1, 80); v128.store(q, s2, 96); v128.store(q, s3, 112);
      p0 += 32; p1 += 32; p2 += 32; p3 += 32; p4 += 32; p5 += 32; p6 += 32; p7 += 32;
    }
  }
}

/**
 * The same for JavaScriptCore, which runs out of registers with eight: six channels at a time, 16 outputs a round, are 3 to 20 % faster there (V8:
 * 8 % slower). The last group of six ends on pairs with x = 0.
 */
export function gemv_channels_i8_six(acc: usize, w: usize, index: usize, xq: usize, nActive: u32, nOut: u32, stride: u32): void {
  const end = acc + (<usize>nOut << 2), column = <usize>stride;
  for (let a: u32 = 0; a < nActive; a += 6, index += 24, xq += 12) {
    // of a multiple of eight two, four or six are left
    const second: usize = a + 2 < nActive ? 8 : 0, third: usize = a + 4 < nActive ? 16 : 0, zero = i32x4.splat(0);
    let p0 = w + <usize>load<u32>(index) * column, p1 = w + <usize>load<u32>(index, 4) * column;
    let p2 = w + <usize>load<u32>(index + second) * column, p3 = w + <usize>load<u32>(index + second, 4) * column;
    let p4 = w + <usize>load<u32>(index + third) * column, p5 = w + <usize>load<u32>(index + third, 4) * column;
    const x0 = v128.load32_splat(xq), x1 = second ? v128.load32_splat(xq, 4) : zero, x2 = third ? v128.load32_splat(xq, 8) : zero;
    for (let q = acc; q < end; q += 64) {
      let s0 = v128.load(q), s1 = v128.load(q, 16), s2 = v128.load(q, 32), s3 = v128.load(q, 48), c: v128, d: v128, e: v128;
      c = v128.load(p0); d = v128.load(p1);
      e = low(c, d); s0 = dot(s0, e, x0); s1 = dot(s1, i16x8.shr_s(e, 8), x0); e = high(c, d); s2 = dot(s2, e, x0); s3 = dot(s3, i16x8.shr_s(e, 8), x0);
      c = v128.load(p2); d = v128.load(p3);
      e = low(c, d); s0 = dot(s0, e, x1); s1 = dot(s1, i16x8.shr_s(e, 8), x1); e = high(c, d); s2 = dot(s2, e, x1); s3 = dot(s3, i16x8.shr_s(e, 8), x1);
      c = v128.load(p4); d = v128.load(p5);
      e = low(c, d); s0 = dot(s0, e, x2); s1 = dot(s1, i16x8.shr_s(e, 8), x2); e = high(c, d); s2 = dot(s2, e, x2); s3 = dot(s3, i16x8.shr_s(e, 8), x2);
      v128.store(q, s0); v128.store(q, s1, 16); v128.store(q, s2, 32); v128.store(q, s3, 48);
      p0 += 16; p1 += 16; p2 += 16; p3 += 16; p4 += 16; p5 += 16;
    }
  }
}

/** y f32[nOut] = s * rowScale * sum, from gemv_channels_i8's acc; sumX = sum of the xq that went in. nOut a multiple of 8. */
export function finish_channels_i8(y: usize, acc: usize, rowScale: usize, s: f32, sumX: i32, nOut: u32): void {
  const k = f32x4.splat(s), offset = i32x4.splat(sumX * -128);
  for (const end = acc + (<usize>nOut << 2); acc < end; acc += 32, y += 32, rowScale += 32) {
    const odd = v128.load(acc, 16), even = i32x4.add(i32x4.sub(v128.load(acc), i32x4.shl(odd, 8)), offset);
    v128.store(y, f32x4.mul(f32x4.mul(v128.load(rowScale), k), f32x4.convert_i32x4_s(v128.shuffle<i32>(even, odd, 0, 4, 1, 5))));
    v128.store(y, f32x4.mul(f32x4.mul(v128.load(rowScale, 16), k), f32x4.convert_i32x4_s(v128.shuffle<i32>(even, odd, 2, 6, 3, 7))), 16);
  }
}

/**
 * y f32[nOut] = s * rowScale * (w xq). Pairs i8: dense, in address order, 13 operations for 32 weights; two pairs a round.
 *
 * @param xq  i16[nIn], nIn a multiple of 8
 * @param nOut a multiple of 16
 */
export function gemv_pairs_i8(y: usize, w: usize, xq: usize, rowScale: usize, s: f32, sumX: i32, nIn: u32, nOut: u32): void {
  const k = f32x4.splat(s), start = i32x4.splat(sumX * -128), xEnd = xq + (<usize>nIn << 1);
  for (let o: u32 = 0; o < nOut; o += 16, y += 64, rowScale += 64) {
    let a0 = start, a1 = i32x4.splat(0), a2 = start, a3 = a1;
    for (let x = xq; x < xEnd; x += 8, w += 64) {
      const x0 = v128.load32_splat(x), c = v128.load(w), d = v128.load(w, 16);
      a0 = dot(a0, c, x0); a1 = dot(a1, i16x8.shr_s(c, 8), x0); a2 = dot(a2, d, x0); a3 = dot(a3, i16x8.shr_s(d, 8), x0);
      const x1 = v128.load32_splat(x, 4), e = v128.load(w, 32), f = v128.load(w, 48);
      a0 = dot(a0, e, x1); a1 = dot(a1, i16x8.shr_s(e, 8), x1); a2 = dot(a2, f, x1); a3 = dot(a3, i16x8.shr_s(f, 8), x1);
    }
    a0 = i32x4.sub(a0, i32x4.shl(a1, 8)); a2 = i32x4.sub(a2, i32x4.shl(a3, 8));
    v128.store(y, f32x4.mul(f32x4.mul(v128.load(rowScale), k), f32x4.convert_i32x4_s(a0)));
    v128.store(y, f32x4.mul(f32x4.mul(v128.load(rowScale, 16), k), f32x4.convert_i32x4_s(a1)), 16);
    v128.store(y, f32x4.mul(f32x4.mul(v128.load(rowScale, 32), k), f32x4.convert_i32x4_s(a2)), 32);
    v128.store(y, f32x4.mul(f32x4.mul(v128.load(rowScale, 48), k), f32x4.convert_i32x4_s(a3)), 48);
  }
}
