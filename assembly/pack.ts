// Loading: from a file's rows to the layouts that the products read, and embedding rows back out of them.
import { bf16_bits, half_to_f32, max_f32 } from "./lanes";

/** 32 vectors: half a block on its way through the transposition. */
const TILE: usize = memory.data(512, 16);

/** Index of the first x f32[n] that is NaN or infinite, or -1. */
export function find_non_finite_f32(x: usize, n: u32): i32 {
  for (let i: u32 = 0; i < n; ++i) if ((load<u32>(x + (<usize>i << 2)) & 0x7f800000) == 0x7f800000) return i;
  return -1;
}

/** Rows o0.. of channels f32 w[nIn, nOut] from src f32[nRows, nIn]. */
export function pack_channels_f32(w: usize, src: usize, o0: u32, nRows: u32, nIn: u32, nOut: u32): void {
  const column = <usize>nOut << 2;
  w += <usize>o0 << 2;
  // eight rows at a time, so that each line of a column is written once
  for (let r: u32 = 0; r < nRows; r += 8) {
    const count = min(nRows - r, 8);
    let q = w + (<usize>r << 2), p = src + (<usize>r * nIn << 2);
    for (let c: u32 = 0; c < nIn; ++c, q += column, p += 4) {
      for (let j: u32 = 0; j < count; ++j) store<f32>(q + (<usize>j << 2), load<f32>(p + (<usize>j * nIn << 2)));
    }
  }
}

/** Rows o0.. (a multiple of 8) of channels bf16, rounded to nearest even; outputs up to the next multiple of 8 become 0. */
export function pack_channels_bf16(w: usize, src: usize, o0: u32, nRows: u32, nIn: u32, nOut: u32): void {
  const column = ((<usize>nOut + 7) & ~7) << 1;
  w += <usize>o0 << 1;
  for (let r: u32 = 0; r < nRows; r += 8) {
    const count = min(nRows - r, 8);
    let q = w + (<usize>r << 1), p = src + (<usize>r * nIn << 2);
    for (let c: u32 = 0; c < nIn; ++c, q += column, p += 4) {
      for (let j: u32 = 0; j < 8; ++j) {
        // lanes hold outputs 0 4 1 5 2 6 3 7
        const lane = (j & 3) * 2 + (j >> 2);
        store<u16>(q + (<usize>lane << 1), j < count ? <u16>bf16_bits(load<f32>(p + (<usize>j * nIn << 2))) : 0);
      }
    }
  }
}

/** w bf16[n] from src f32[n], rounded to nearest even. */
export function pack_bf16(w: usize, src: usize, n: u32): void {
  for (let i: u32 = 0; i < n; ++i) store<u16>(w + (<usize>i << 1), <u16>bf16_bits(load<f32>(src + (<usize>i << 2))));
}

/** y f32[n] from w bf16[n]. */
export function read_row_bf16(y: usize, w: usize, n: u32): void {
  for (let i: u32 = 0; i < n; ++i) store<u32>(y + (<usize>i << 2), <u32>load<u16>(w + (<usize>i << 1)) << 16);
}

/** Largest |src| / channelScale of one row. */
// @ts-ignore: decorator
@inline
function row_maximum(src: usize, channelScale: usize, nIn: u32): f32 {
  const bytes = <usize>nIn << 2, whole = bytes & ~15;
  let m = f32x4.splat(0), i: usize = 0;
  for (; i < whole; i += 16) m = f32x4.pmax(m, f32x4.div(f32x4.abs(v128.load(src + i)), v128.load(channelScale + i)));
  let largest = max_f32(m);
  for (; i < bytes; i += 4) largest = max<f32>(largest, abs<f32>(load<f32>(src + i)) / load<f32>(channelScale + i));
  return largest;
}

/**
 * rowScale f32[nRows], channelScale f32[nIn] with |src| <= 127 * rowScale * channelScale: alternating maxima, four passes, then the rows
 * once more. One scale a channel alone is poor (KL .0297 on SmolLM2), a row scale alone .0029, both .0020, at the same bytes.
 */
export function balance_scales_i8(rowScale: usize, channelScale: usize, src: usize, nRows: u32, nIn: u32): void {
  const row = <usize>nIn << 2;
  for (let c: u32 = 0; c < nIn; ++c) store<f32>(channelScale + (<usize>c << 2), 1);
  for (let round = 0; round < 2; ++round) {
    for (let r: u32 = 0; r < nRows; ++r) {
      const m = row_maximum(src + row * r, channelScale, nIn);
      store<f32>(rowScale + (<usize>r << 2), m > 0 ? m : 1);
    }
    memory.fill(channelScale, 0, row);
    for (let r: u32 = 0; r < nRows; ++r) {
      const s = load<f32>(rowScale + (<usize>r << 2)), p = src + row * r;
      for (let c: u32 = 0; c < nIn; ++c) {
        const at = channelScale + (<usize>c << 2);
        store<f32>(at, max<f32>(load<f32>(at), abs<f32>(load<f32>(p + (<usize>c << 2))) / s));
      }
    }
    for (let c: u32 = 0; c < nIn; ++c) { const at = channelScale + (<usize>c << 2); if (!(load<f32>(at) > 0)) store<f32>(at, 1); }
  }
  for (let r: u32 = 0; r < nRows; ++r) {
    const m = row_maximum(src + row * r, channelScale, nIn) / <f32>127;
    store<f32>(rowScale + (<usize>r << 2), m > 0 ? m : 1);
  }
}

// @ts-ignore: decorator
@inline
function quantise(v: f32, s: f32): i32 { return <i32>max<f32>(-127, min<f32>(127, nearest<f32>(v / s))); }

/** Channels i8 w[nIn][nOut] from src f32[nRows, nIn], all rows at once; outputs nRows..nOut-1 are 0. nOut a multiple of 32. */
export function pack_channels_i8(w: usize, src: usize, rowScale: usize, channelScale: usize, nRows: u32, nIn: u32, nOut: u32): void {
  for (let r: u32 = 0; r < nOut; r += 16) {
    let q = w + r;
    for (let c: u32 = 0; c < nIn; ++c, q += nOut) {
      for (let j: u32 = 0; j < 16; ++j) {
        let v = 0;
        if (r + j < nRows) v = quantise(load<f32>(src + ((<usize>(r + j) * nIn + c) << 2)), load<f32>(rowScale + (<usize>(r + j) << 2)) * load<f32>(channelScale + (<usize>c << 2)));
        store<u8>(q + j, <u8>(j & 1 ? v : v + 128));
      }
    }
  }
}

/** Where output o (0..15) of a 16-row block keeps its byte of channel 0. */
// @ts-ignore: decorator
@inline
function pairs_offset(o: u32): usize { return <usize>((o >> 3) << 4) + ((o & 3) << 2) + ((o >> 2) & 1); }

/**
 * Rows o0.. of pairs i8 from src f32[nRows, nIn]; writes rowScale[o0..]. Rows are taken 16 at a time, missing ones are 0.
 *
 * @param o0        a multiple of 16
 * @param nInPadded a multiple of 8; channels at or past nIn are 0
 */
export function pack_pairs_i8(w: usize, rowScale: usize, src: usize, o0: u32, nRows: u32, nIn: u32, nInPadded: u32): void {
  for (let r: u32 = 0; r < nRows; r += 16) {
    const block = w + <usize>(o0 + r) * nInPadded;
    for (let j: u32 = 0; j < 16; ++j) {
      const p = src + (<usize>(r + j) * nIn << 2), inside = r + j < nRows, low = ((j >> 2) & 1) == 0;
      let m: f32 = 0;
      if (inside) for (let c: u32 = 0; c < nIn; ++c) m = max<f32>(m, abs<f32>(load<f32>(p + (<usize>c << 2))));
      const s: f32 = m > 0 ? m / <f32>127 : 1;
      store<f32>(rowScale + (<usize>(o0 + r + j) << 2), s);
      let q = block + pairs_offset(j);
      for (let c: u32 = 0; c < nInPadded; ++c) {
        const v = inside && c < nIn ? quantise(load<f32>(p + (<usize>c << 2)), s) : 0;
        store<u8>(q, <u8>(low ? v + 128 : v));
        q += c & 1 ? 30 : 2;
      }
    }
  }
}

/**
 * Pairs i8 w from channels i8: the same weights. Of eight outputs 0 2 4 6 have their byte as w + 128 there and 0 1 2 3 here, so 1 3 4 6 change.
 *
 * @param nIn    even
 * @param nOut   a multiple of 16
 * @param stride bytes between channels
 */
export function pairs_of_channels_i8(w: usize, channels: usize, nIn: u32, nOut: u32, stride: u32): void {
  const column = <usize>stride, changed = i32x4(<i32>0x80008000, 0x00800080, <i32>0x80008000, 0x00800080);
  for (let o: u32 = 0; o < nOut; o += 16) {
    let p = channels + o;
    for (let c: u32 = 0; c < nIn; c += 2, p += column << 1, w += 32) {
      const a = v128.load(p), b = v128.load(p + column);
      v128.store(w, v128.xor(v128.shuffle<i8>(a, b, 0, 4, 16, 20, 1, 5, 17, 21, 2, 6, 18, 22, 3, 7, 19, 23), changed));
      v128.store(w, v128.xor(v128.shuffle<i8>(a, b, 8, 12, 24, 28, 9, 13, 25, 29, 10, 14, 26, 30, 11, 15, 27, 31), changed), 16);
    }
  }
}

/** y f32[nIn] = row o of pairs i8. */
export function read_row_pairs_i8(y: usize, w: usize, rowScale: usize, o: u32, nIn: u32, nInPadded: u32): void {
  const low = ((o >> 2) & 1) == 0, s = load<f32>(rowScale + (<usize>o << 2));
  let q = w + <usize>(o & ~15) * nInPadded + pairs_offset(o & 15);
  for (let c: u32 = 0; c < nIn; ++c) {
    const v = low ? <i32>load<u8>(q) - 128 : <i32>load<i8>(q);
    store<f32>(y + (<usize>c << 2), <f32>v * s);
    q += c & 1 ? 30 : 2;
  }
}

// @ts-ignore: decorator
@inline
function low16(a: v128, b: v128): v128 { return v128.shuffle<i16>(a, b, 0, 8, 1, 9, 2, 10, 3, 11); }
// @ts-ignore: decorator
@inline
function high16(a: v128, b: v128): v128 { return v128.shuffle<i16>(a, b, 4, 12, 5, 13, 6, 14, 7, 15); }

/** 16 bytes of one channel: u16 units as they are (baseline), or their low bytes then their high bytes (relaxed). */
// @ts-ignore: decorator
@inline
function store_channel(p: usize, v: v128): void {
  v128.store(p, ASC_FEATURE_RELAXED_SIMD ? v128.shuffle<i8>(v, v, 0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15) : v);
}

/** Eight vectors of eight u16 at `tile`, 64 bytes apart, transposed to eight channels of 32 bytes from `out`: three perfect shuffles. */
// @ts-ignore: decorator
@inline
function transpose(out: usize, tile: usize): void {
  const a0 = v128.load(tile), a1 = v128.load(tile, 64), a2 = v128.load(tile, 128), a3 = v128.load(tile, 192);
  const a4 = v128.load(tile, 256), a5 = v128.load(tile, 320), a6 = v128.load(tile, 384), a7 = v128.load(tile, 448);
  const b0 = low16(a0, a4), b1 = high16(a0, a4), b2 = low16(a1, a5), b3 = high16(a1, a5), b4 = low16(a2, a6), b5 = high16(a2, a6), b6 = low16(a3, a7), b7 = high16(a3, a7);
  const c0 = low16(b0, b4), c1 = high16(b0, b4), c2 = low16(b1, b5), c3 = high16(b1, b5), c4 = low16(b2, b6), c5 = high16(b2, b6), c6 = low16(b3, b7), c7 = high16(b3, b7);
  store_channel(out, low16(c0, c4)); store_channel(out + 32, high16(c0, c4)); store_channel(out + 64, low16(c1, c5)); store_channel(out + 96, high16(c1, c5));
  store_channel(out + 128, low16(c2, c6)); store_channel(out + 160, high16(c2, c6)); store_channel(out + 192, low16(c3, c7)); store_channel(out + 224, high16(c3, c7));
}

/** i16 of v against a row's unit. */
// @ts-ignore: decorator
@inline
function to_i16(v: f32, unit: f32, limit: f32): i16 { return <i16>max<f32>(-limit, min<f32>(limit, nearest<f32>(v / unit))); }

/**
 * Rows o0..o0+63 of group i4 from raw blocks: Q4_0 (f16 d, 16 bytes) or Q4_1 (f16 d, f16 m, 16 bytes); byte j of a block holds channel j
 * in its low nibble and channel 16+j in its high one. Nibbles are kept as they are; d and m' = m + 8d become i16 against the row's largest of both
 * (weight error 3.6e-5 rms on SmolLM2, an eighth of what rounding to f16 was).
 *
 * @param o0        a multiple of 64
 * @param nRows     rows that exist, up to 64; the rest are zero
 * @param rowBlocks blocks a row; groups at or past it, up to nIn/32, are zero
 * @returns the number, row * rowBlocks + block, of the first block whose d or m is not finite, or -1
 */
export function pack_group_i4(
  w: usize, rowScale: usize, blocks: usize, withMins: u32,
  o0: u32, nRows: u32, rowBlocks: u32, nIn: u32, chunk: u32,
): i32 {
  const size: usize = withMins ? 20 : 18, row = size * rowBlocks, nPairs = nIn >> 6, inChunk = chunk >> 6;
  const half: usize = withMins ? 1280 : 1024, blockBytes = 1280 + half, limit: f32 = withMins ? 29134 : 32767;
  const first = w + (<usize>(o0 / chunk) * nPairs * inChunk + ((o0 % chunk) >> 6)) * blockBytes, stride = blockBytes * inChunk;
  let bad: i32 = -1;
  for (let r: u32 = 0; r < 64; ++r) {
    const p = blocks + row * r, count = r < nRows ? rowBlocks : 0, o = o0 + r;
    let largest: f32 = 0;
    for (let g: u32 = 0; g < count; ++g) {
      const h = load<u16>(p + size * g), k = withMins ? load<u16>(p + size * g, 2) : 0, d = half_to_f32(h);
      if (((h & 0x7c00) == 0x7c00 || (k & 0x7c00) == 0x7c00) && bad < 0) bad = <i32>(r * rowBlocks + g);
      largest = max<f32>(largest, abs<f32>(d));
      if (withMins) largest = max<f32>(largest, abs<f32>(half_to_f32(k) + <f32>8 * d));
    }
    const unit: f32 = largest > 0 ? largest / limit : 1;
    store<f32>(rowScale + (<usize>o << 2), unit);
    for (let g: u32 = 0; g < nIn >> 5; ++g) {
      const inside = g < count, d: f32 = inside ? half_to_f32(load<u16>(p + size * g)) : 0, at = first + stride * (g >> 1) + (<usize>r << 2) + ((g & 1) << 1);
      store<i16>(at, to_i16(d, unit, limit));
      if (withMins) store<i16>(at, to_i16(inside ? half_to_f32(load<u16>(p + size * g, 2)) + <f32>8 * d : 0, unit, limit), 1280);
    }
  }
  const low = i8x16.splat(15), zero = i32x4.splat(0), head = size - 16;
  for (let g: u32 = 0; g < nIn >> 5; ++g) {
    const column = first + stride * (g >> 1) + 256 + (g & 1 ? half : 0);
    for (let u: u32 = 0; u < 2; ++u) {
      for (let l: u32 = 0; l < 8; ++l) {
        const r = (u << 5) + l, p = blocks + row * r + size * g + head, inside = g < rowBlocks;
        const r0 = inside && r < nRows ? v128.load(p) : zero, r1 = inside && r + 8 < nRows ? v128.load(p + row * 8) : zero;
        const r2 = inside && r + 16 < nRows ? v128.load(p + row * 16) : zero, r3 = inside && r + 24 < nRows ? v128.load(p + row * 24) : zero;
        const a = v128.or(v128.and(r0, low), i8x16.shl(r1, 4)), b = v128.or(v128.and(r2, low), i8x16.shl(r3, 4));
        const c = v128.or(i8x16.shr_u(r0, 4), v128.andnot(r1, low)), e = v128.or(i8x16.shr_u(r2, 4), v128.andnot(r3, low));
        const t = TILE + (<usize>l << 6);
        v128.store(t, v128.shuffle<i8>(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23));
        v128.store(t, v128.shuffle<i8>(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31), 16);
        v128.store(t, v128.shuffle<i8>(c, e, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23), 32);
        v128.store(t, v128.shuffle<i8>(c, e, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31), 48);
      }
      for (let k: usize = 0; k < 4; ++k) transpose(column + (u << 4) + (k << 8), TILE + (k << 4));
    }
  }
  return bad;
}
