// Float matrix-vector products: over active channels, over all channels, and over rows (the head, the low-rank V).
//
// One memory reads at very different speeds (AMD Zen 5, one thread, weights in DRAM, plain loads in order 30 to 33 GB/s): one stream in address
// order at 28 to 33 GB/s, two to six columns or rows side by side at 14 to 21 GB/s until each is 16 KB long, because the prefetcher starts
// anew at each jump. So what is read whole is read in address order, one column or row at a time; what is skipped, where every column is a
// jump anyway, goes six or eight columns at a time, so that their first misses wait together.
// Whatever the walk, an output's terms are added channel by channel: the baseline build gives the same bits.
import { K_HIGH16, madd, sum_f32 } from "./lanes";

/**
 * Columns up to this many bytes go eight at a time, longer ones six. Over dense at 50 %: f32, 576 to 960 outputs, eight 1.03 to 1.29, six 0.91 to
 * 1.21; f32, 4,096 outputs and more, eight 1.68 to 1.78, six 1.86 to 2.0; the two meet at 8 KB.
 */
const SHORT_COLUMN: usize = 6144;

/** The column of list entry `at`, or of the last one: the last group of a list ends on repeats with x = 0. */
// @ts-ignore: decorator
@inline
function column(w: usize, at: usize, last: usize, bytes: usize): usize { return w + <usize>load<u32>(min(at, last)) * bytes; }

// @ts-ignore: decorator
@inline
function factor(at: usize, last: usize, value: usize): v128 { return f32x4.splat(at <= last ? load<f32>(value) : 0); }

/** Not madd: with columns, factors and sums in registers a fused one makes JavaScriptCore spill (bf16, eight columns: 0.83 of dense, not 1.14). */
// @ts-ignore: decorator
@inline
function add(s: v128, w: v128, x: v128): v128 { return f32x4.add(s, f32x4.mul(w, x)); }

/**
 * y f32[nOut] += sum of value[a] * w[index[a], :]. The other loop order, outputs outside, is 2 to 3 times slower than dense; touching the first lines of
 * the group or of the next one changes nothing (within 3 %) from 2 KB a column up.
 *
 * @param w       f32, channel-major: output o of channel c is element c * stride + o; a channel that is skipped is memory never read
 * @param index   u32[nActive], channel numbers
 * @param value   f32[nActive], x at those channels
 * @param nActive may be 0, which leaves y as it was
 */
export function gemv_channels_f32(y: usize, w: usize, index: usize, value: usize, nActive: u32, nOut: u32, stride: u32): void {
  if (nActive == 0) return;
  const all = <usize>nOut << 2, bytes = <usize>stride << 2, last = index + (<usize>(nActive - 1) << 2), isShort = all <= SHORT_COLUMN;
  const vectors = isShort ? all & ~31 : all & ~63, end = y + vectors;
  if (vectors != all) tail_f32(end, y + all, w + vectors, index, value, last, bytes);
  if (isShort) {
    for (; index <= last; index += 32, value += 32) {
      let p0 = column(w, index, last, bytes); const x0 = factor(index, last, value);
      let p1 = column(w, index + 4, last, bytes); const x1 = factor(index + 4, last, value + 4);
      let p2 = column(w, index + 8, last, bytes); const x2 = factor(index + 8, last, value + 8);
      let p3 = column(w, index + 12, last, bytes); const x3 = factor(index + 12, last, value + 12);
      let p4 = column(w, index + 16, last, bytes); const x4 = factor(index + 16, last, value + 16);
      let p5 = column(w, index + 20, last, bytes); const x5 = factor(index + 20, last, value + 20);
      let p6 = column(w, index + 24, last, bytes); const x6 = factor(index + 24, last, value + 24);
      let p7 = column(w, index + 28, last, bytes); const x7 = factor(index + 28, last, value + 28);
      for (let q = y; q < end; q += 32) {
        let s = v128.load(q);
        s = add(s, v128.load(p0), x0); s = add(s, v128.load(p1), x1); s = add(s, v128.load(p2), x2); s = add(s, v128.load(p3), x3);
        s = add(s, v128.load(p4), x4); s = add(s, v128.load(p5), x5); s = add(s, v128.load(p6), x6); s = add(s, v128.load(p7), x7);
        v128.store(q, s);
        s = v128.load(q, 16);
        s = add(s, v128.load(p0, 16), x0); s = add(s, v128.load(p1, 16), x1); s = add(s, v128.load(p2, 16), x2); s = add(s, v128.load(p3, 16), x3);
        s = add(s, v128.load(p4, 16), x4); s = add(s, v128.load(p5, 16), x5); s = add(s, v128.load(p6, 16), x6); s = add(s, v128.load(p7, 16), x7);
        v128.store(q, s, 16);
        p0 += 32; p1 += 32; p2 += 32; p3 += 32; p4 += 32; p5 += 32; p6 += 32; p7 += 32;
      }
    }
  } else {
    for (; index <= last; index += 24, value += 24) {
      let p0 = column(w, index, last, bytes); const x0 = factor(index, last, value);
      let p1 = column(w, index + 4, last, bytes); const x1 = factor(index + 4, last, value + 4);
      let p2 = column(w, index + 8, last, bytes); const x2 = factor(index + 8, last, value + 8);
      let p3 = column(w, index + 12, last, bytes); const x3 = factor(index + 12, last, value + 12);
      let p4 = column(w, index + 16, last, bytes); const x4 = factor(index + 16, last, value + 16);
      let p5 = column(w, index + 20, last, bytes); const x5 = factor(index + 20, last, value + 20);
      for (let q = y; q < end; q += 64) {
        let s = v128.load(q);
        s = add(s, v128.load(p0), x0); s = add(s, v128.load(p1), x1); s = add(s, v128.load(p2), x2);
        s = add(s, v128.load(p3), x3); s = add(s, v128.load(p4), x4); s = add(s, v128.load(p5), x5);
        v128.store(q, s);
        s = v128.load(q, 16);
        s = add(s, v128.load(p0, 16), x0); s = add(s, v128.load(p1, 16), x1); s = add(s, v128.load(p2, 16), x2);
        s = add(s, v128.load(p3, 16), x3); s = add(s, v128.load(p4, 16), x4); s = add(s, v128.load(p5, 16), x5);
        v128.store(q, s, 16);
        s = v128.load(q, 32);
        s = add(s, v128.load(p0, 32), x0); s = add(s, v128.load(p1, 32), x1); s = add(s, v128.load(p2, 32), x2);
        s = add(s, v128.load(p3, 32), x3); s = add(s, v128.load(p4, 32), x4); s = add(s, v128.load(p5, 32), x5);
        v128.store(q, s, 32);
        s = v128.load(q, 48);
        s = add(s, v128.load(p0, 48), x0); s = add(s, v128.load(p1, 48), x1); s = add(s, v128.load(p2, 48), x2);
        s = add(s, v128.load(p3, 48), x3); s = add(s, v128.load(p4, 48), x4); s = add(s, v128.load(p5, 48), x5);
        v128.store(q, s, 48);
        p0 += 64; p1 += 64; p2 += 64; p3 += 64; p4 += 64; p5 += 64;
      }
    }
  }
}

/** The outputs that do not fill a round, one at a time. */
function tail_f32(y: usize, end: usize, w: usize, index: usize, value: usize, last: usize, bytes: usize): void {
  for (; y < end; y += 4, w += 4) {
    let s = load<f32>(y);
    for (let i = index, v = value; i <= last; i += 4, v += 4) s += load<f32>(w + <usize>load<u32>(i) * bytes) * load<f32>(v);
    store<f32>(y, s);
  }
}

/**
 * The same with bf16 weights. Sixteen bytes hold outputs o..o+7 as u16 lanes o o+4 o+1 o+5 o+2 o+6 o+3 o+7, so that a shift gives o..o+3
 * and a mask o+4..o+7.
 *
 * @param y      f32[nOut rounded up to 8]; the columns are padded with zeros
 * @param stride a multiple of 8
 */
export function gemv_channels_bf16(y: usize, w: usize, index: usize, value: usize, nActive: u32, nOut: u32, stride: u32): void {
  if (nActive == 0) return;
  const padded = (<usize>nOut + 7) & ~7, bytes = <usize>stride << 1, last = index + (<usize>(nActive - 1) << 2);
  const end = y + (padded << 2), high = i32x4.splat(K_HIGH16);
  if (padded << 1 <= SHORT_COLUMN) {
    for (; index <= last; index += 32, value += 32) {
      let p0 = column(w, index, last, bytes); const x0 = factor(index, last, value);
      let p1 = column(w, index + 4, last, bytes); const x1 = factor(index + 4, last, value + 4);
      let p2 = column(w, index + 8, last, bytes); const x2 = factor(index + 8, last, value + 8);
      let p3 = column(w, index + 12, last, bytes); const x3 = factor(index + 12, last, value + 12);
      let p4 = column(w, index + 16, last, bytes); const x4 = factor(index + 16, last, value + 16);
      let p5 = column(w, index + 20, last, bytes); const x5 = factor(index + 20, last, value + 20);
      let p6 = column(w, index + 24, last, bytes); const x6 = factor(index + 24, last, value + 24);
      let p7 = column(w, index + 28, last, bytes); const x7 = factor(index + 28, last, value + 28);
      for (let q = y; q < end; q += 32) {
        let s = v128.load(q), t = v128.load(q, 16), v = v128.load(p0);
        s = add(s, i32x4.shl(v, 16), x0); t = add(t, v128.and(v, high), x0); v = v128.load(p1);
        s = add(s, i32x4.shl(v, 16), x1); t = add(t, v128.and(v, high), x1); v = v128.load(p2);
        s = add(s, i32x4.shl(v, 16), x2); t = add(t, v128.and(v, high), x2); v = v128.load(p3);
        s = add(s, i32x4.shl(v, 16), x3); t = add(t, v128.and(v, high), x3); v = v128.load(p4);
        s = add(s, i32x4.shl(v, 16), x4); t = add(t, v128.and(v, high), x4); v = v128.load(p5);
        s = add(s, i32x4.shl(v, 16), x5); t = add(t, v128.and(v, high), x5); v = v128.load(p6);
        s = add(s, i32x4.shl(v, 16), x6); t = add(t, v128.and(v, high), x6); v = v128.load(p7);
        s = add(s, i32x4.shl(v, 16), x7); t = add(t, v128.and(v, high), x7);
        v128.store(q, s); v128.store(q, t, 16);
        p0 += 16; p1 += 16; p2 += 16; p3 += 16; p4 += 16; p5 += 16; p6 += 16; p7 += 16;
      }
    }
  } else {
    for (; index <= last; index += 24, value += 24) {
      let p0 = column(w, index, last, bytes); const x0 = factor(index, last, value);
      let p1 = column(w, index + 4, last, bytes); const x1 = factor(index + 4, last, value + 4);
      let p2 = column(w, index + 8, last, bytes); const x2 = factor(index + 8, last, value + 8);
      let p3 = column(w, index + 12, last, bytes); const x3 = factor(index + 12, last, value + 12);
      let p4 = column(w, index + 16, last, bytes); const x4 = factor(index + 16, last, value + 16);
      let p5 = column(w, index + 20, last, bytes); const x5 = factor(index + 20, last, value + 20);
      for (let q = y; q < end; q += 32) {
        let s = v128.load(q), t = v128.load(q, 16), v = v128.load(p0);
        s = add(s, i32x4.shl(v, 16), x0); t = add(t, v128.and(v, high), x0); v = v128.load(p1);
        s = add(s, i32x4.shl(v, 16), x1); t = add(t, v128.and(v, high), x1); v = v128.load(p2);
        s = add(s, i32x4.shl(v, 16), x2); t = add(t, v128.and(v, high), x2); v = v128.load(p3);
        s = add(s, i32x4.shl(v, 16), x3); t = add(t, v128.and(v, high), x3); v = v128.load(p4);
        s = add(s, i32x4.shl(v, 16), x4); t = add(t, v128.and(v, high), x4); v = v128.load(p5);
        s = add(s, i32x4.shl(v, 16), x5); t = add(t, v128.and(v, high), x5);
        v128.store(q, s); v128.store(q, t, 16);
        p0 += 16; p1 += 16; p2 += 16; p3 += 16; p4 += 16; p5 += 16;
      }
    }
  }
}

/**
 * y f32[nOut] += w x over every channel, column by column in address order: 96 to 100 % of the speed of plain loads (29 to 32 GB/s) while y stays
 * in L1, where six or eight columns side by side reach 60 to 75 %. Above 24 KB of y (6,144 outputs) `gemv_channels_f32` with a list of all
 * channels is faster (11,264 outputs: 27 to 29 GB/s against 20).
 *
 * @param x f32[nIn]
 */
export function gemv_all_channels_f32(y: usize, w: usize, x: usize, nIn: u32, nOut: u32): void {
  const end = y + (<usize>nOut << 2), blocks = y + ((<usize>nOut << 2) & ~127), vectors = y + ((<usize>nOut << 2) & ~15);
  for (const stop = x + (<usize>nIn << 2); x < stop; x += 4) {
    const xs = v128.load32_splat(x);
    let q = y;
    for (; q < blocks; q += 128, w += 128) {
      v128.store(q, madd(v128.load(w), xs, v128.load(q))); v128.store(q, madd(v128.load(w, 16), xs, v128.load(q, 16)), 16);
      v128.store(q, madd(v128.load(w, 32), xs, v128.load(q, 32)), 32); v128.store(q, madd(v128.load(w, 48), xs, v128.load(q, 48)), 48);
      v128.store(q, madd(v128.load(w, 64), xs, v128.load(q, 64)), 64); v128.store(q, madd(v128.load(w, 80), xs, v128.load(q, 80)), 80);
      v128.store(q, madd(v128.load(w, 96), xs, v128.load(q, 96)), 96); v128.store(q, madd(v128.load(w, 112), xs, v128.load(q, 112)), 112);
    }
    for (; q < vectors; q += 16, w += 16) v128.store(q, madd(v128.load(w), xs, v128.load(q)));
    for (; q < end; q += 4, w += 4) store<f32>(q, load<f32>(q) + load<f32>(w) * load<f32>(x));
  }
}

// @ts-ignore: decorator
@inline
function widen(q: usize, v: v128, high: v128, x: v128): void {
  v128.store(q, madd(i32x4.shl(v, 16), x, v128.load(q))); v128.store(q, madd(v128.and(v, high), x, v128.load(q, 16)), 16);
}

/** The same with bf16 weights, y f32[nOut rounded up to 8]: 24 to 27 GB/s, shifts and masks in the way of the rest. */
export function gemv_all_channels_bf16(y: usize, w: usize, x: usize, nIn: u32, nOut: u32): void {
  const bytes = ((<usize>nOut + 7) & ~7) << 2, end = y + bytes, blocks = y + (bytes & ~127), high = i32x4.splat(K_HIGH16);
  for (const stop = x + (<usize>nIn << 2); x < stop; x += 4) {
    const xs = v128.load32_splat(x);
    let q = y;
    for (; q < blocks; q += 128, w += 64) {
      widen(q, v128.load(w), high, xs); widen(q + 32, v128.load(w, 16), high, xs);
      widen(q + 64, v128.load(w, 32), high, xs); widen(q + 96, v128.load(w, 48), high, xs);
    }
    for (; q < end; q += 32, w += 16) widen(q, v128.load(w), high, xs);
  }
}

/** y f32[nOut] = w f32[nOut, nIn] x: a row at a time with four sums, 30 to 33 GB/s; four rows that share each load of x 16 to 22. */
export function gemv_rows_f32(y: usize, w: usize, x: usize, nIn: u32, nOut: u32): void {
  const bytes = <usize>nIn << 2, rounds = x + (bytes & ~63), vectors = x + (bytes & ~15), end = x + bytes;
  for (const stop = y + (<usize>nOut << 2); y < stop; y += 4) {
    let a = f32x4.splat(0), b = a, c = a, d = a, q = x;
    for (; q < rounds; q += 64, w += 64) {
      a = madd(v128.load(w), v128.load(q), a); b = madd(v128.load(w, 16), v128.load(q, 16), b);
      c = madd(v128.load(w, 32), v128.load(q, 32), c); d = madd(v128.load(w, 48), v128.load(q, 48), d);
    }
    for (; q < vectors; q += 16, w += 16) a = madd(v128.load(w), v128.load(q), a);
    let s = sum_f32(f32x4.add(f32x4.add(a, b), f32x4.add(c, d)));
    for (; q < end; q += 4, w += 4) s += load<f32>(w) * load<f32>(q);
    store<f32>(y, s);
  }
}

/**
 * y f32[nOut] = w bf16[nOut, nIn] x, the weights widened exactly: a row at a time, 23 to 28 GB/s.
 *
 * @param scratch f32[nIn]: x with the even elements of each eight before the odd ones, as a shift and a mask of 16 bytes of w
 *                give them; shuffling at each use took 1.1 (V8) to 1.5 times (JavaScriptCore) as long
 */
export function gemv_rows_bf16(y: usize, w: usize, x: usize, nIn: u32, nOut: u32, scratch: usize): void {
  const n = <usize>nIn & ~15, whole = scratch + (n << 2), end = x + (<usize>nIn << 2), high = i32x4.splat(K_HIGH16);
  for (let q = scratch; q < whole; q += 32, x += 32) {
    const u = v128.load(x), t = v128.load(x, 16);
    v128.store(q, v128.shuffle<i32>(u, t, 0, 2, 4, 6)); v128.store(q, v128.shuffle<i32>(u, t, 1, 3, 5, 7), 16);
  }
  for (const stop = y + (<usize>nOut << 2); y < stop; y += 4) {
    let a = f32x4.splat(0), b = a, c = a, d = a;
    for (let q = scratch; q < whole; q += 64, w += 32) {
      const u = v128.load(w), v = v128.load(w, 16);
      a = madd(i32x4.shl(u, 16), v128.load(q), a); b = madd(v128.and(u, high), v128.load(q, 16), b);
      c = madd(i32x4.shl(v, 16), v128.load(q, 32), c); d = madd(v128.and(v, high), v128.load(q, 48), d);
    }
    let s = sum_f32(f32x4.add(f32x4.add(a, b), f32x4.add(c, d)));
    for (let q = x; q < end; q += 4, w += 2) s += reinterpret<f32>(<u32>load<u16>(w) << 16) * load<f32>(q);
    store<f32>(y, s);
  }
}
