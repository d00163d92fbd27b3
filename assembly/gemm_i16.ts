// Prefill with integer weights: i8 panels of 8 outputs, i16 activations with a scale per token and group of 32 channels. One kernel for int4
// (per-group scales and mins; the relaxed build has gemm_quad_i4) and int8 (a constant scale). Activations keep 15 bits, so this is closer to float than the decode kernels are.
import { K_MAGIC, K_MAGIC_BITS, madd, max_f32, round_i32, sum_i32 } from "./lanes";

/**
 * a i16[ceil(nTokens/4), nIn/2, 4, 2], |a| <= 32767; scale and sum f32[ceil(nTokens/4), nIn/32, 4]. Tokens past nTokens are 0.
 *
 * @param factor f32[nIn], multiplies x first: the weights' channel scale
 * @param nIn    a multiple of 32
 */
export function pack_tokens_i16(a: usize, scale: usize, sum: usize, x: usize, factor: usize, nTokens: u32, xStride: u32, nIn: u32): void {
  const row = <usize>xStride << 2, magic = f32x4.splat(K_MAGIC), bits = i32x4.splat(K_MAGIC_BITS), nGroups = nIn >> 5;
  const padded = (nTokens + 3) & ~3;
  for (let t: u32 = 0; t < padded; ++t, x += row) {
    // token t of its four: pairs of channels are 16 bytes apart
    let out = a + <usize>(t >> 2) * (<usize>nIn << 3) + (<usize>(t & 3) << 2);
    let at = (<usize>(t >> 2) * nGroups << 4) + (<usize>(t & 3) << 2);
    for (let g: u32 = 0; g < nGroups; ++g, out += 256, at += 16) {
      if (t >= nTokens) {
        for (let i: usize = 0; i < 256; i += 16) store<i32>(out + i, 0);
        store<f32>(scale + at, 0); store<f32>(sum + at, 0);
        continue;
      }
      const p = x + (<usize>g << 7), f = factor + (<usize>g << 7);
      let m = f32x4.splat(0);
      for (let i: usize = 0; i < 128; i += 16) m = f32x4.pmax(m, f32x4.abs(f32x4.mul(v128.load(p + i), v128.load(f + i))));
      const largest = max_f32(m), k = f32x4.splat(largest > 0 ? <f32>32767 / largest : 0), unit = largest / <f32>32767;
      let s = i32x4.splat(0);
      for (let i: usize = 0, o = out; i < 128; i += 16, o += 32) {
        const q = round_i32(f32x4.mul(f32x4.mul(v128.load(p + i), v128.load(f + i)), k), magic, bits);
        s = i32x4.add(s, q);
        const n = i16x8.narrow_i32x4_s(q, q);
        v128.store32_lane(o, n, 0); v128.store32_lane(o, n, 1, 16);
      }
      store<f32>(scale + at, unit); store<f32>(sum + at, <f32>sum_i32(s) * unit);
    }
  }
}

/** d f32[nIn/32, 8] = rowScale of 8 outputs each time, m = 0. */
// @ts-ignore: decorator
@inline
function constant_scales(d: usize, m: usize, rowScale: usize, nIn: u32): void {
  const a = v128.load(rowScale), b = v128.load(rowScale, 16), zero = f32x4.splat(0);
  for (const end = d + <usize>nIn; d < end; d += 32, m += 32) {
    v128.store(d, a); v128.store(d, b, 16); v128.store(m, zero); v128.store(m, zero, 16);
  }
}

/** Four panels from output o (a multiple of 32) of channels i8. */
export function unpack_channels_i8(panels: usize, d: usize, m: usize, w: usize, rowScale: usize, o: u32, nIn: u32, nOut: u32): void {
  const flip = i16x8.splat(0x80), panelBytes = <usize>nIn << 3, column = <usize>nOut;
  w += o;
  for (let c: u32 = 0; c < nIn; c += 2, w += column << 1, panels += 16) {
    for (let k: usize = 0; k < 2; ++k) {
      // even outputs are stored as w + 128
      const a = v128.xor(v128.load(w + (k << 4)), flip), b = v128.xor(v128.load(w + column + (k << 4)), flip), p = panels + panelBytes * (k << 1);
      v128.store(p, v128.shuffle<i8>(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23));
      v128.store(p + panelBytes, v128.shuffle<i8>(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31));
    }
  }
  for (let k: usize = 0; k < 4; ++k) constant_scales(d + k * nIn, m + k * nIn, rowScale + (<usize>o << 2) + (k << 5), nIn);
}

/** Two panels from output o (a multiple of 16) of pairs i8. */
export function unpack_pairs_i8(panels: usize, d: usize, m: usize, w: usize, rowScale: usize, o: u32, nIn: u32): void {
  const flip = i16x8.splat(0x80), panelBytes = <usize>nIn << 3;
  w += <usize>o * nIn;
  for (let c: u32 = 0; c < nIn; c += 2, w += 32, panels += 16) {
    const a = v128.xor(v128.load(w), flip), b = v128.xor(v128.load(w, 16), flip);
    v128.store(panels, v128.shuffle<i8>(a, a, 0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15));
    v128.store(panels + panelBytes, v128.shuffle<i8>(b, b, 0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15));
  }
  constant_scales(d, m, rowScale + (<usize>o << 2), nIn);
  constant_scales(d + nIn, m + nIn, rowScale + (<usize>o << 2) + 32, nIn);
}

/** y[0..7] += k * d * s + x * m for one token. */
// @ts-ignore: decorator
@inline
function flush(y: usize, s0: v128, s1: v128, k: v128, x: v128, d: usize, m: usize): void {
  v128.store(y, f32x4.add(v128.load(y), madd(x, v128.load(m), f32x4.mul(f32x4.mul(f32x4.convert_i32x4_s(s0), k), v128.load(d)))));
  v128.store(y, f32x4.add(v128.load(y, 16), madd(x, v128.load(m, 16), f32x4.mul(f32x4.mul(f32x4.convert_i32x4_s(s1), k), v128.load(d, 16)))), 16);
}

/**
 * y[t, 0..7] += sum over g of scale[t,g] * d[g,o] * (a panel) + sum[t,g] * m[g,o]. Four tokens by eight outputs in i32; a group's sum is at
 * most 32 * 127 * 32767, within i32.
 *
 * @param y f32, room for nTokens rounded up to 4 rows of yStride
 */
export function gemm_i16(y: usize, a: usize, scale: usize, sum: usize, panel: usize, d: usize, m: usize, nTokens: u32, yStride: u32, nIn: u32): void {
  const row = <usize>yStride << 2;
  for (let t: u32 = 0; t < nTokens; t += 4, y += row << 2) {
    let w = panel, dp = d, mp = m;
    for (const end = d + <usize>nIn; dp < end; dp += 32, mp += 32, scale += 16, sum += 16) {
      let s0 = i32x4.splat(0), s1 = s0, s2 = s0, s3 = s0, s4 = s0, s5 = s0, s6 = s0, s7 = s0;
      for (const wEnd = w + 256; w < wEnd; w += 16, a += 16) {
        const w0 = v128.load_ext<i8>(w), w1 = v128.load_ext<i8>(w, 8);
        let v = v128.load32_splat(a);
        s0 = i32x4.add(s0, i32x4.dot_i16x8_s(w0, v)); s1 = i32x4.add(s1, i32x4.dot_i16x8_s(w1, v)); v = v128.load32_splat(a, 4);
        s2 = i32x4.add(s2, i32x4.dot_i16x8_s(w0, v)); s3 = i32x4.add(s3, i32x4.dot_i16x8_s(w1, v)); v = v128.load32_splat(a, 8);
        s4 = i32x4.add(s4, i32x4.dot_i16x8_s(w0, v)); s5 = i32x4.add(s5, i32x4.dot_i16x8_s(w1, v)); v = v128.load32_splat(a, 12);
        s6 = i32x4.add(s6, i32x4.dot_i16x8_s(w0, v)); s7 = i32x4.add(s7, i32x4.dot_i16x8_s(w1, v));
      }
      flush(y, s0, s1, v128.load32_splat(scale), v128.load32_splat(sum), dp, mp);
      flush(y + row, s2, s3, v128.load32_splat(scale, 4), v128.load32_splat(sum, 4), dp, mp);
      flush(y + row * 2, s4, s5, v128.load32_splat(scale, 8), v128.load32_splat(sum, 8), dp, mp);
      flush(y + row * 3, s6, s7, v128.load32_splat(scale, 12), v128.load32_splat(sum, 12), dp, mp);
    }
  }
}
