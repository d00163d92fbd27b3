// Grouped-query attention over a paged key-value cache, for one query or many: queries of all heads that share a key head are the rows of two
// small matrix products a page, S = Q K^T and O += P V, four rows at a time.
//
// A page holds 64 positions. Both products read panels of 8 numbers, as gemm_f32 does, so pages are stored as panels: nothing is transposed
// when they are read, and reading is in address order. With `w` = headDim rounded up to 8, a head's tile in a page is
//
//     k [8 panels][headDim][8 positions], then v at + 64 * w elements: [w / 8 panels][64 positions][8 numbers]
//
// in f32, or in bf16 with each 8 as u16 lanes 0 4 1 5 2 6 3 7, so that a shift gives the first four and a mask the others.
import { bf16_bits, K_HIGH16, madd } from "./lanes";

/** Positions a page; a power of two, so that a position's page is a shift. */
const PAGE: u32 = 64;

/** 2^r = 1 + r (c1 + r (c2 + ...)) within 1.5 ulp for |r| <= 0.5, minimax; then 1.5 * 2^23 and the least exponent. */
// In memory: V8 15 rebuilds constants inside a loop (lanes.ts).
const EXP2 = memory.data<f32>([
  0.6931470036506653, 0.24022242426872253, 0.05550733581185341, 0.009671512991189957, 0.0013264745939522982, 12582912.0, -120.0,
], 16);

/** 2^x for x <= 0, and 0 below 2^-120; NaN stays NaN. */
// @ts-ignore: decorator
@inline
function exp2_f32x4(x: v128, c1: v128, c2: v128, c3: v128, c4: v128, c5: v128, magic: v128, least: v128, one: v128): v128 {
  const t = f32x4.add(x, magic), r = f32x4.sub(x, f32x4.sub(t, magic));
  let p = madd(c5, r, c4);
  p = madd(p, r, c3); p = madd(p, r, c2); p = madd(p, r, c1); p = madd(p, r, one);
  return v128.andnot(i32x4.add(p, i32x4.shl(t, 23)), f32x4.lt(x, least));
}

// @ts-ignore: decorator
@inline
function first4<T>(p: usize): v128 {
  return sizeof<T>() == 4 ? v128.load(p) : i32x4.shl(v128.load(p), 16);
}

// @ts-ignore: decorator
@inline
function last4<T>(p: usize, high: v128): v128 {
  return sizeof<T>() == 4 ? v128.load(p, 16) : v128.and(v128.load(p), high);
}

/** s f32[8, 4] = scores of a panel's 8 positions for `rows` rows of q f32[headDim, 4]. */
// @ts-ignore: decorator
@inline
function score_panel<T>(rows: i32, s: usize, q: usize, k: usize, headDim: u32, high: v128): void {
  let a0 = f32x4.splat(0), a1 = a0, b0 = a0, b1 = a0, c0 = a0, c1 = a0, d0 = a0, d1 = a0;
  for (const end = q + (<usize>headDim << 4); q < end; q += 16, k += 8 * sizeof<T>()) {
    const w0 = first4<T>(k), w1 = last4<T>(k, high);
    let x = v128.load32_splat(q);
    a0 = madd(w0, x, a0); a1 = madd(w1, x, a1);
    if (rows > 1) { x = v128.load32_splat(q, 4); b0 = madd(w0, x, b0); b1 = madd(w1, x, b1); }
    if (rows > 2) { x = v128.load32_splat(q, 8); c0 = madd(w0, x, c0); c1 = madd(w1, x, c1); }
    if (rows > 3) { x = v128.load32_splat(q, 12); d0 = madd(w0, x, d0); d1 = madd(w1, x, d1); }
  }
  store_transposed(s, a0, b0, c0, d0);
  store_transposed(s + 64, a1, b1, c1, d1);
}

/** s f32[4, 4] = columns a, b, c, d. */
// @ts-ignore: decorator
@inline
function store_transposed(s: usize, a: v128, b: v128, c: v128, d: v128): void {
  const ab = v128.shuffle<i32>(a, b, 0, 4, 1, 5), cd = v128.shuffle<i32>(c, d, 0, 4, 1, 5);
  const ef = v128.shuffle<i32>(a, b, 2, 6, 3, 7), gh = v128.shuffle<i32>(c, d, 2, 6, 3, 7);
  v128.store(s, v128.shuffle<i64>(ab, cd, 0, 2)); v128.store(s, v128.shuffle<i64>(ab, cd, 1, 3), 16);
  v128.store(s, v128.shuffle<i64>(ef, gh, 0, 2), 32); v128.store(s, v128.shuffle<i64>(ef, gh, 1, 3), 48);
}

/** o f32[4, 8] = o * alpha + p v: p f32[count, 4], v a panel. */
// @ts-ignore: decorator
@inline
function value_panel<T>(rows: i32, o: usize, p: usize, v: usize, count: u32, alpha: v128, high: v128): void {
  let x = v128.shuffle<i32>(alpha, alpha, 0, 0, 0, 0);
  let a0 = f32x4.mul(v128.load(o), x), a1 = f32x4.mul(v128.load(o, 16), x), b0 = x, b1 = x, c0 = x, c1 = x, d0 = x, d1 = x;
  if (rows > 1) { x = v128.shuffle<i32>(alpha, alpha, 1, 1, 1, 1); b0 = f32x4.mul(v128.load(o, 32), x); b1 = f32x4.mul(v128.load(o, 48), x); }
  if (rows > 2) { x = v128.shuffle<i32>(alpha, alpha, 2, 2, 2, 2); c0 = f32x4.mul(v128.load(o, 64), x); c1 = f32x4.mul(v128.load(o, 80), x); }
  if (rows > 3) { x = v128.shuffle<i32>(alpha, alpha, 3, 3, 3, 3); d0 = f32x4.mul(v128.load(o, 96), x); d1 = f32x4.mul(v128.load(o, 112), x); }
  for (const end = p + (<usize>count << 4); p < end; p += 16, v += 8 * sizeof<T>()) {
    const w0 = first4<T>(v), w1 = last4<T>(v, high);
    let y = v128.load32_splat(p);
    a0 = madd(w0, y, a0); a1 = madd(w1, y, a1);
    if (rows > 1) { y = v128.load32_splat(p, 4); b0 = madd(w0, y, b0); b1 = madd(w1, y, b1); }
    if (rows > 2) { y = v128.load32_splat(p, 8); c0 = madd(w0, y, c0); c1 = madd(w1, y, c1); }
    if (rows > 3) { y = v128.load32_splat(p, 12); d0 = madd(w0, y, d0); d1 = madd(w1, y, d1); }
  }
  v128.store(o, a0); v128.store(o, a1, 16);
  if (rows > 1) { v128.store(o, b0, 32); v128.store(o, b1, 48); }
  if (rows > 2) { v128.store(o, c0, 64); v128.store(o, c1, 80); }
  if (rows > 3) { v128.store(o, d0, 96); v128.store(o, d1, 112); }
}

/**
 * Softmax of s f32[count, 4], column by column, over what came before: s becomes the weights against the largest score so far.
 *
 * @param state f32[4] largest scores so far, f32[4] sums of weights
 * @returns what earlier weights are to be multiplied by
 */
function softmax_page(s: usize, count: u32, state: usize): v128 {
  const end = s + (<usize>count << 4), before = v128.load(state);
  let largest = before;
  // pmax is one instruction; a NaN that it drops comes back below
  for (let p = s; p < end; p += 16) largest = f32x4.pmax(largest, v128.load(p));
  const c1 = v128.load32_splat(EXP2), c2 = v128.load32_splat(EXP2, 4), c3 = v128.load32_splat(EXP2, 8), c4 = v128.load32_splat(EXP2, 12);
  const c5 = v128.load32_splat(EXP2, 16), magic = v128.load32_splat(EXP2, 20), least = v128.load32_splat(EXP2, 24), one = f32x4.splat(1);
  const alpha = exp2_f32x4(f32x4.sub(before, largest), c1, c2, c3, c4, c5, magic, least, one);
  let sum = f32x4.mul(v128.load(state, 16), alpha);
  for (; s < end; s += 16) {
    const e = exp2_f32x4(f32x4.sub(v128.load(s), largest), c1, c2, c3, c4, c5, magic, least, one);
    v128.store(s, e);
    sum = f32x4.add(sum, e);
  }
  v128.store(state, largest); v128.store(state, sum, 16);
  return alpha;
}

// @ts-ignore: decorator
@inline
function tile<T>(rows: i32, at: usize, k: usize, v: usize, s: usize, count: u32, limits: v128, headDim: u32, width: usize): void {
  const high = i32x4.splat(K_HIGH16), panelBytes = <usize>headDim * 8 * sizeof<T>(), end = s + (<usize>count << 4);
  for (let to = s; to < end; to += 128, k += panelBytes) score_panel<T>(rows, to, at, k, headDim, high);
  // what later tokens of the tile see and earlier ones do not
  if (v128.any_true(i32x4.lt_s(limits, i32x4.splat(count - 1)))) {
    const none = f32x4.splat(-Infinity);
    let slot = i32x4.splat(0);
    for (let p = s; p < end; p += 16, slot = i32x4.add(slot, i32x4.splat(1))) {
      v128.store(p, v128.bitselect(none, v128.load(p), i32x4.gt_s(slot, limits)));
    }
  }
  let o = at + (<usize>headDim << 4);
  const alpha = softmax_page(s, count, o + (width << 4));
  for (const last = o + (width << 4); o < last; o += 128, v += PAGE * 8 * sizeof<T>()) value_panel<T>(rows, o, s, v, count, alpha, high);
}

// @ts-ignore: decorator
@inline
function attention<T>(
  out: usize, q: usize, pages: usize, offset: usize, scratch: usize, position: u32, nTokens: u32, outStride: u32, qStride: u32, group: u32, headDim: u32,
): void {
  const width = (<usize>headDim + 7) & ~7, partBytes = width * PAGE * sizeof<T>(), rowBytes = <usize>headDim << 2;
  const nRows = nTokens * group, stateAt = (<usize>headDim + width) << 4, tileBytes = stateAt + 32;
  const s = scratch, tiles = scratch + (PAGE << 4), scale = <f32>1.44269504088896341 / sqrt<f32>(<f32>headDim);
  // queries into tiles, rows that are not there as zeros
  for (let r: u32 = 0, at = tiles; r < nRows; r += 4, at += tileBytes) {
    for (let row = r; row < r + 4; ++row) {
      const t = row / group, from = q + <usize>t * (<usize>qStride << 2) + (row - t * group) * rowBytes;
      for (let i: usize = 0, to = at + (<usize>(row - r) << 2); i < rowBytes; i += 4, to += 16) store<f32>(to, row < nRows ? load<f32>(from + i) * scale : 0);
    }
    memory.fill(at + rowBytes * 4, 0, (width << 4) + 32);
    v128.store(at + stateAt, f32x4.splat(-Infinity));
  }
  const last = position + nTokens - 1;
  for (let first: u32 = 0; first <= last; first += PAGE, pages += 4) {
    const k: usize = <usize>load<u32>(pages) + offset;
    for (let r: u32 = 0, at = tiles; r < nRows; r += 4, at += tileBytes) {
      // the last position that the tile's last row sees; pages past it are not for this tile
      const until = position + min(r + 3, nRows - 1) / group;
      if (until < first) continue;
      const count = min(until - first + 1, PAGE);
      const limits = i32x4.sub(
        i32x4.add(i32x4.splat(position), i32x4.replace_lane(i32x4.replace_lane(i32x4.replace_lane(i32x4.splat(r / group), 1, (r + 1) / group), 2, (r + 2) / group), 3, (r + 3) / group)),
        i32x4.splat(first),
      );
      if (nRows - r > 3) tile<T>(4, at, k, k + partBytes, s, count, limits, headDim, width);
      else tile<T>(3, at, k, k + partBytes, s, count, limits, headDim, width);
    }
  }
  for (let r: u32 = 0, at = tiles; r < nRows; r += 4, at += tileBytes) {
    for (let row = r; row < min(r + 4, nRows); ++row) {
      const t = row / group, to = out + <usize>t * (<usize>outStride << 2) + (row - t * group) * rowBytes, lane = <usize>(row - r);
      const inverse = f32x4.splat(<f32>1 / load<f32>(at + stateAt + (lane << 2), 16));
      for (let i: usize = 0, from = at + rowBytes * 4 + (lane << 5); i < rowBytes; i += 32, from += 128) {
        v128.store(to + i, f32x4.mul(v128.load(from), inverse));
        if (i + 16 < rowBytes) v128.store(to + i, f32x4.mul(v128.load(from, 16), inverse), 16);
      }
    }
  }
}

/**
 * out = softmax(q k^T / sqrt(headDim)) v for the `group` query heads that share one key head, nTokens queries at positions `position` …, each
 * over all positions up to its own. Page by page with the largest score and the sum of weights so far, so that scores of one page (1 KB a tile)
 * are all that is kept, and a result depends on its own query only: not on the others of a call, nor on how a prompt was cut.
 *
 * Four rows by eight numbers, as gemm_f32: 8 sums, 2 of k or v and a splat fit x64's 15 registers.
 *
 * @param out     f32[nTokens, outStride], at the first of the group's heads; q f32[nTokens, qStride] likewise
 * @param pages   u32[], byte offsets of pages; the key head's tile is at + offset
 * @param scratch 1,024 bytes, and (headDim + width) * 16 + 32 for each four rows of nTokens * group
 * @param headDim a multiple of 4
 */
export function attention_f32(
  out: usize, q: usize, pages: usize, offset: usize, scratch: usize, position: u32, nTokens: u32, outStride: u32, qStride: u32, group: u32, headDim: u32,
): void {
  attention<f32>(out, q, pages, offset, scratch, position, nTokens, outStride, qStride, group, headDim);
}

/** The same over pages of bf16. */
export function attention_bf16(
  out: usize, q: usize, pages: usize, offset: usize, scratch: usize, position: u32, nTokens: u32, outStride: u32, qStride: u32, group: u32, headDim: u32,
): void {
  attention<u16>(out, q, pages, offset, scratch, position, nTokens, outStride, qStride, group, headDim);
}

// @ts-ignore: decorator
@inline
function store_kv<T>(pages: usize, offset: usize, k: usize, v: usize, nTokens: u32, stride: u32, position: u32, nKvHeads: u32, headDim: u32): void {
  const width = (<usize>headDim + 7) & ~7, partBytes = width * PAGE * sizeof<T>(), row = <usize>headDim << 2;
  for (let t: u32 = 0; t < nTokens; ++t, k += <usize>stride << 2, v += <usize>stride << 2) {
    const at = position + t, slot = <usize>(at % PAGE);
    const page: usize = <usize>load<u32>(pages + (<usize>(at / PAGE) << 2)) + offset;
    for (let h: u32 = 0; h < nKvHeads; ++h) {
      const tileAt = page + <usize>h * (partBytes << 1);
      const kTo = tileAt + (slot >> 3) * <usize>headDim * 8 * sizeof<T>(), vTo = tileAt + partBytes + slot * 8 * sizeof<T>();
      const lane: usize = sizeof<T>() == 4 ? slot & 7 : ((slot & 3) << 1) | ((slot >> 2) & 1);
      for (let i: usize = 0; i < <usize>headDim; ++i) {
        const kv = load<f32>(k + h * row + (i << 2)), vv = load<f32>(v + h * row + (i << 2));
        if (sizeof<T>() == 4) {
          store<f32>(kTo + i * 32 + (lane << 2), kv);
          store<f32>(vTo + (i >> 3) * PAGE * 32 + ((i & 7) << 2), vv);
        } else {
          store<u16>(kTo + i * 16 + (lane << 1), <u16>bf16_bits(kv));
          store<u16>(vTo + (i >> 3) * PAGE * 16 + (((i & 3) << 2) | ((i & 4) >> 1)), <u16>bf16_bits(vv));
        }
      }
      if (headDim & 4) {
        for (let i: usize = headDim; i < width; ++i) {
          if (sizeof<T>() == 4) store<f32>(vTo + (i >> 3) * PAGE * 32 + ((i & 7) << 2), 0);
          else store<u16>(vTo + (i >> 3) * PAGE * 16 + (((i & 3) << 2) | ((i & 4) >> 1)), 0);
        }
      }
    }
  }
}

/**
 * Writes k and v of nTokens positions from `position` to their pages, all key heads: head h's tile is at offset + h * 2 * 64 * width elements.
 *
 * @param k f32[nTokens, stride], at the first key head; v likewise
 */
export function store_kv_f32(pages: usize, offset: usize, k: usize, v: usize, nTokens: u32, stride: u32, position: u32, nKvHeads: u32, headDim: u32): void {
  store_kv<f32>(pages, offset, k, v, nTokens, stride, position, nKvHeads, headDim);
}

/** The same, rounded to bf16, to nearest even. */
export function store_kv_bf16(pages: usize, offset: usize, k: usize, v: usize, nTokens: u32, stride: u32, position: u32, nKvHeads: u32, headDim: u32): void {
  store_kv<u16>(pages, offset, k, v, nTokens, stride, position, nKvHeads, headDim);
}
