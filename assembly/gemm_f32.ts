// Prefill with float weights: panels of 8 outputs, four tokens at a time.
import { K_HIGH16, madd } from "./lanes";

/** a f32[ceil(nTokens/4), nIn, 4] from x f32[nTokens, xStride]; tokens past nTokens are 0. */
export function pack_tokens_f32(a: usize, x: usize, nTokens: u32, xStride: u32, nIn: u32): void {
  const row = <usize>xStride << 2;
  for (let t: u32 = 0; t < nTokens; t += 4, x += row << 2) {
    const left = nTokens - t;
    for (let c: u32 = 0; c < nIn; ++c, a += 16) {
      const p = x + (<usize>c << 2);
      store<f32>(a, load<f32>(p));
      store<f32>(a, left > 1 ? load<f32>(p + row) : 0, 4);
      store<f32>(a, left > 2 ? load<f32>(p + row * 2) : 0, 8);
      store<f32>(a, left > 3 ? load<f32>(p + row * 3) : 0, 12);
    }
  }
}

/** panel f32[nIn, 8]: outputs o..o+7 of channels f32; those at or past nOut are 0. */
export function unpack_channels_f32(panel: usize, w: usize, o: u32, nIn: u32, nOut: u32): void {
  const row = <usize>nOut << 2;
  w += <usize>o << 2;
  if (o + 8 <= nOut) {
    for (let c: u32 = 0; c < nIn; ++c, panel += 32, w += row) { v128.store(panel, v128.load(w)); v128.store(panel, v128.load(w, 16), 16); }
  } else {
    const count = nOut - o;
    for (let c: u32 = 0; c < nIn; ++c, w += row) {
      for (let j: u32 = 0; j < 8; ++j, panel += 4) store<f32>(panel, j < count ? load<f32>(w + (<usize>j << 2)) : 0);
    }
  }
}

/** The same of channels bf16, whose columns are padded to 8 outputs; o a multiple of 8. */
export function unpack_channels_bf16(panel: usize, w: usize, o: u32, nIn: u32, nOut: u32): void {
  const row = ((<usize>nOut + 7) & ~7) << 1, high = i32x4.splat(K_HIGH16);
  w += <usize>o << 1;
  for (let c: u32 = 0; c < nIn; ++c, panel += 32, w += row) {
    const v = v128.load(w);
    v128.store(panel, i32x4.shl(v, 16)); v128.store(panel, v128.and(v, high), 16);
  }
}

/** The same of rows f32[nOut, nIn]. */
export function unpack_rows_f32(panel: usize, w: usize, o: u32, nIn: u32, nOut: u32): void {
  const row = <usize>nIn << 2;
  for (let j: u32 = 0; j < 8; ++j, panel += 4) {
    let p = panel, q = w + <usize>(o + j) * row;
    const inside = o + j < nOut;
    for (let c: u32 = 0; c < nIn; ++c, p += 32, q += 4) store<f32>(p, inside ? load<f32>(q) : 0);
  }
}

/** The same of rows bf16[nOut, nIn]. */
export function unpack_rows_bf16(panel: usize, w: usize, o: u32, nIn: u32, nOut: u32): void {
  const row = <usize>nIn << 1;
  for (let j: u32 = 0; j < 8; ++j, panel += 4) {
    let p = panel, q = w + <usize>(o + j) * row;
    const inside = o + j < nOut;
    for (let c: u32 = 0; c < nIn; ++c, p += 32, q += 2) store<u32>(p, inside ? <u32>load<u16>(q) << 16 : 0);
  }
}

/** The same of pairs i8, times the scales of rows and channels; o is a multiple of 8. */
export function unpack_pairs_f32(panel: usize, w: usize, rowScale: usize, channelScale: usize, o: u32, nIn: u32, nInPadded: u32): void {
  const flip = i16x8.splat(0x80), s0 = v128.load(rowScale + (<usize>o << 2)), s1 = v128.load(rowScale + (<usize>o << 2), 16);
  w += (<usize>(o >> 4) * nInPadded << 4) + (<usize>(o & 8) << 1);
  for (let c: u32 = 0; c < nIn; c += 2, w += 32, panel += 64, channelScale += 8) {
    // a vector is outputs 0 4 0 4 1 5 1 5 … of channels c c c+1 c+1 …; even bytes are stored as w + 128
    const v = v128.xor(v128.load(w), flip);
    const q = v128.shuffle<i8>(v, v, 0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const a = i16x8.extend_low_i8x16_s(q), b = i16x8.extend_high_i8x16_s(q);
    const ka = v128.load32_splat(channelScale), kb = v128.load32_splat(channelScale, 4);
    v128.store(panel, f32x4.mul(f32x4.mul(f32x4.convert_i32x4_s(i32x4.extend_low_i16x8_s(a)), s0), ka));
    v128.store(panel, f32x4.mul(f32x4.mul(f32x4.convert_i32x4_s(i32x4.extend_high_i16x8_s(a)), s1), ka), 16);
    v128.store(panel, f32x4.mul(f32x4.mul(f32x4.convert_i32x4_s(i32x4.extend_low_i16x8_s(b)), s0), kb), 32);
    v128.store(panel, f32x4.mul(f32x4.mul(f32x4.convert_i32x4_s(i32x4.extend_high_i16x8_s(b)), s1), kb), 48);
  }
}

/**
 * y[t, 0..7] += a panel. Four tokens by eight outputs: 8 sums, 2 weights and a splat fit x64's 15 registers; 6 x 8 spills (27 against 43
 * GFLOP/s in V8 11). Channels in blocks of 512, so that a block of the panel (16 KB) stays in L1.
 *
 * @param y f32, room for nTokens rounded up to 4 rows of yStride
 * @param a f32[ceil(nTokens/4), nIn, 4]
 */
export function gemm_f32(y: usize, a: usize, panel: usize, nTokens: u32, yStride: u32, nIn: u32): void {
  const row = <usize>yStride << 2, aBytes = <usize>nIn << 4;
  for (let c: u32 = 0; c < nIn; c += 512) {
    const count = min(nIn - c, 512), w = panel + (<usize>c << 5), wEnd = w + (<usize>count << 5);
    let q = y, x = a + (<usize>c << 4);
    for (let t: u32 = 0; t < nTokens; t += 4, q += row << 2, x += aBytes) {
      const q1 = q + row, q2 = q1 + row, q3 = q2 + row;
      let s0 = v128.load(q), s1 = v128.load(q, 16), s2 = v128.load(q1), s3 = v128.load(q1, 16);
      let s4 = v128.load(q2), s5 = v128.load(q2, 16), s6 = v128.load(q3), s7 = v128.load(q3, 16);
      for (let p = w, b = x; p < wEnd; p += 32, b += 16) {
        const w0 = v128.load(p), w1 = v128.load(p, 16);
        let v = v128.load32_splat(b);
        s0 = madd(w0, v, s0); s1 = madd(w1, v, s1); v = v128.load32_splat(b, 4);
        s2 = madd(w0, v, s2); s3 = madd(w1, v, s3); v = v128.load32_splat(b, 8);
        s4 = madd(w0, v, s4); s5 = madd(w1, v, s5); v = v128.load32_splat(b, 12);
        s6 = madd(w0, v, s6); s7 = madd(w1, v, s7);
      }
      v128.store(q, s0); v128.store(q, s1, 16); v128.store(q1, s2); v128.store(q1, s3, 16);
      v128.store(q2, s4); v128.store(q2, s5, 16); v128.store(q3, s6); v128.store(q3, s7, 16);
    }
  }
}
