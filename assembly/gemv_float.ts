// Float matrix-vector products: over active channels (channel-major weights) and over rows (the head, the low-rank V).
import { K_HIGH16, madd, sum4_f32, sum_f32 } from "./lanes";

/**
 * y f32[nOut] += sum of value[a] * w[index[a], :]. Eight channels at a time with y in L1: 1.3 to 1.56 times one channel at a time, from DRAM
 * (spec kernels.md section 5); the other loop order, outputs outside, is 2 to 3 times slower than dense.
 *
 * @param w       f32[nIn, nOut], channel-major: a channel that is skipped is memory never read
 * @param index   u32[nActive], channel numbers
 * @param value   f32[nActive], x at those channels
 * @param nActive may be 0, which leaves y as it was
 */
export function gemv_channels_f32(y: usize, w: usize, index: usize, value: usize, nActive: u32, nOut: u32): void {
  const rowBytes = <usize>nOut << 2, lanes = rowBytes & ~15;
  let a: u32 = 0;
  for (; a + 8 <= nActive; a += 8, index += 32, value += 32) {
    let p0 = w + <usize>load<u32>(index) * rowBytes, p1 = w + <usize>load<u32>(index, 4) * rowBytes;
    let p2 = w + <usize>load<u32>(index, 8) * rowBytes, p3 = w + <usize>load<u32>(index, 12) * rowBytes;
    let p4 = w + <usize>load<u32>(index, 16) * rowBytes, p5 = w + <usize>load<u32>(index, 20) * rowBytes;
    let p6 = w + <usize>load<u32>(index, 24) * rowBytes, p7 = w + <usize>load<u32>(index, 28) * rowBytes;
    const x0 = v128.load32_splat(value), x1 = v128.load32_splat(value, 4), x2 = v128.load32_splat(value, 8), x3 = v128.load32_splat(value, 12);
    const x4 = v128.load32_splat(value, 16), x5 = v128.load32_splat(value, 20), x6 = v128.load32_splat(value, 24), x7 = v128.load32_splat(value, 28);
    let q = y;
    for (const end = y + lanes; q < end; q += 16) {
      let s = v128.load(q);
      s = madd(v128.load(p0), x0, s); s = madd(v128.load(p1), x1, s); s = madd(v128.load(p2), x2, s); s = madd(v128.load(p3), x3, s);
      s = madd(v128.load(p4), x4, s); s = madd(v128.load(p5), x5, s); s = madd(v128.load(p6), x6, s); s = madd(v128.load(p7), x7, s);
      v128.store(q, s);
      p0 += 16; p1 += 16; p2 += 16; p3 += 16; p4 += 16; p5 += 16; p6 += 16; p7 += 16;
    }
    for (const end = y + rowBytes; q < end; q += 4) {
      let s = load<f32>(q);
      s += load<f32>(p0) * load<f32>(value); s += load<f32>(p1) * load<f32>(value, 4); s += load<f32>(p2) * load<f32>(value, 8); s += load<f32>(p3) * load<f32>(value, 12);
      s += load<f32>(p4) * load<f32>(value, 16); s += load<f32>(p5) * load<f32>(value, 20); s += load<f32>(p6) * load<f32>(value, 24); s += load<f32>(p7) * load<f32>(value, 28);
      store<f32>(q, s);
      p0 += 4; p1 += 4; p2 += 4; p3 += 4; p4 += 4; p5 += 4; p6 += 4; p7 += 4;
    }
  }
  for (; a < nActive; ++a, index += 4, value += 4) {
    let p = w + <usize>load<u32>(index) * rowBytes, q = y;
    const x = load<f32>(value), xs = f32x4.splat(x);
    for (const end = y + lanes; q < end; q += 16, p += 16) v128.store(q, madd(v128.load(p), xs, v128.load(q)));
    for (const end = y + rowBytes; q < end; q += 4, p += 4) store<f32>(q, load<f32>(q) + load<f32>(p) * x);
  }
}

/**
 * The same with bf16 weights. Sixteen bytes hold outputs o..o+7 as u16 lanes o o+4 o+1 o+5 o+2 o+6 o+3 o+7, so that a shift gives o..o+3
 * and a mask o+4..o+7.
 *
 * @param y f32[nOut rounded up to 8]; the columns are padded with zeros
 */
export function gemv_channels_bf16(y: usize, w: usize, index: usize, value: usize, nActive: u32, nOut: u32): void {
  const padded = (<usize>nOut + 7) & ~7, rowBytes = padded << 1, end = y + (padded << 2), high = i32x4.splat(K_HIGH16);
  let a: u32 = 0;
  // four at a time: with eight, columns, splats, sums and the mask pass the 15 registers of x64
  for (; a + 4 <= nActive; a += 4, index += 16, value += 16) {
    let p0 = w + <usize>load<u32>(index) * rowBytes, p1 = w + <usize>load<u32>(index, 4) * rowBytes;
    let p2 = w + <usize>load<u32>(index, 8) * rowBytes, p3 = w + <usize>load<u32>(index, 12) * rowBytes;
    const x0 = v128.load32_splat(value), x1 = v128.load32_splat(value, 4), x2 = v128.load32_splat(value, 8), x3 = v128.load32_splat(value, 12);
    for (let q = y; q < end; q += 32) {
      let s = v128.load(q), t = v128.load(q, 16), v = v128.load(p0);
      s = madd(i32x4.shl(v, 16), x0, s); t = madd(v128.and(v, high), x0, t); v = v128.load(p1);
      s = madd(i32x4.shl(v, 16), x1, s); t = madd(v128.and(v, high), x1, t); v = v128.load(p2);
      s = madd(i32x4.shl(v, 16), x2, s); t = madd(v128.and(v, high), x2, t); v = v128.load(p3);
      s = madd(i32x4.shl(v, 16), x3, s); t = madd(v128.and(v, high), x3, t);
      v128.store(q, s); v128.store(q, t, 16);
      p0 += 16; p1 += 16; p2 += 16; p3 += 16;
    }
  }
  for (; a < nActive; ++a, index += 4, value += 4) {
    let p = w + <usize>load<u32>(index) * rowBytes;
    const x = v128.load32_splat(value);
    for (let q = y; q < end; q += 32, p += 16) {
      const v = v128.load(p);
      v128.store(q, madd(i32x4.shl(v, 16), x, v128.load(q))); v128.store(q, madd(v128.and(v, high), x, v128.load(q, 16)), 16);
    }
  }
}

/** y f32[nOut] = w f32[nOut, nIn] x. Four rows at a time share each load of x. */
export function gemv_rows_f32(y: usize, w: usize, x: usize, nIn: u32, nOut: u32): void {
  const rowBytes = <usize>nIn << 2, lanes = rowBytes & ~15;
  let o: u32 = 0;
  for (; o + 4 <= nOut; o += 4, y += 16, w += rowBytes << 2) {
    const w1 = w + rowBytes, w2 = w1 + rowBytes, w3 = w2 + rowBytes;
    let a = f32x4.splat(0), b = a, c = a, d = a, i: usize = 0;
    for (; i < lanes; i += 16) {
      const v = v128.load(x + i);
      a = madd(v128.load(w + i), v, a); b = madd(v128.load(w1 + i), v, b); c = madd(v128.load(w2 + i), v, c); d = madd(v128.load(w3 + i), v, d);
    }
    let s = sum4_f32(a, b, c, d);
    for (; i < rowBytes; i += 4) s = f32x4.add(s, f32x4.mul(f32x4(load<f32>(w + i), load<f32>(w1 + i), load<f32>(w2 + i), load<f32>(w3 + i)), v128.load32_splat(x + i)));
    v128.store(y, s);
  }
  for (; o < nOut; ++o, y += 4, w += rowBytes) {
    let a = f32x4.splat(0), i: usize = 0;
    for (; i < lanes; i += 16) a = madd(v128.load(w + i), v128.load(x + i), a);
    let s = sum_f32(a);
    for (; i < rowBytes; i += 4) s += load<f32>(w + i) * load<f32>(x + i);
    store<f32>(y, s);
  }
}

/** y f32[nOut] = w bf16[nOut, nIn] x, the weights widened exactly. */
export function gemv_rows_bf16(y: usize, w: usize, x: usize, nIn: u32, nOut: u32): void {
  const rowBytes = <usize>nIn << 1, lanes = rowBytes & ~15, high = i32x4.splat(K_HIGH16);
  for (let o: u32 = 0; o < nOut; ++o, y += 4, w += rowBytes) {
    let a = f32x4.splat(0), b = a, i: usize = 0, p = x;
    for (; i < lanes; i += 16, p += 32) {
      // even elements are the low halves of u32 lanes, odd ones the high halves
      const v = v128.load(w + i), u = v128.load(p), t = v128.load(p, 16);
      a = madd(i32x4.shl(v, 16), v128.shuffle<i32>(u, t, 0, 2, 4, 6), a);
      b = madd(v128.and(v, high), v128.shuffle<i32>(u, t, 1, 3, 5, 7), b);
    }
    let s = sum_f32(f32x4.add(a, b));
    for (; i < rowBytes; i += 2, p += 4) s += reinterpret<f32>(<u32>load<u16>(w + i) << 16) * load<f32>(p);
    store<f32>(y, s);
  }
}
