// Grouped-query attention over a paged key-value cache, for one query or many: queries of all heads that share a key head are the rows of two
// small matrix products a page, S = Q K^T and O += P V, four rows at a time.
//
// A page holds 64 positions. Both products read panels of 8 numbers, as gemm_f32 does, so pages are stored as panels: nothing is transposed
// when they are read, and reading is in address order. With `w` = headDim rounded up to 8, a head's tile in a page is
//
//     k [8 panels][headDim][8 positions], then v at + 64 * w elements: [w / 8 panels][64 positions][8 numbers]
//
// in f32, or in bf16 with each 8 as u16 lanes 0 4 1 5 2 6 3 7, so that a shift gives the first four and a mask the others.
import { bf16_bits, K_HIGH16, madd, max_f32, sum_f32 } from "./lanes";

/** Positions a page; a power of two, so that a position's page is a shift. */
const PAGE: u32 = 64;

/** 2^r = 1 + r (c1 + r (c2 + ...)) within 1.5 ulp for |r| <= 0.5, minimax; then 1.5 * 2^23, the least exponent, and 0. */
// In memory: V8 15 rebuilds constants inside a loop (lanes.ts), and 18 bytes for each zero and shuffle added up to 1.2 KB.
const EXP2 = memory.data<f32>([
  0.6931470036506653, 0.24022242426872253, 0.05550733581185341, 0.009671512991189957, 0.0013264745939522982, 12582912.0, -120.0, 0.0,
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

/** Scores of a panel's 8 positions for `rows` rows of q f32[headDim, 4], into s f32[4, 64] at those positions. */
// @ts-ignore: decorator
@inline
function score_panel<T>(rows: i32, s: usize, q: usize, k: usize, headDim: u32, high: v128): void {
  let a0 = v128.load32_splat(EXP2, 28), a1 = a0, b0 = a0, b1 = a0, c0 = a0, c1 = a0, d0 = a0, d1 = a0;
  for (const end = q + (<usize>headDim << 4); q < end; q += 16, k += 8 * sizeof<T>()) {
    const w0 = first4<T>(k), w1 = last4<T>(k, high);
    let x = v128.load32_splat(q);
    a0 = madd(w0, x, a0); a1 = madd(w1, x, a1);
    if (rows > 1) { x = v128.load32_splat(q, 4); b0 = madd(w0, x, b0); b1 = madd(w1, x, b1); }
    if (rows > 2) { x = v128.load32_splat(q, 8); c0 = madd(w0, x, c0); c1 = madd(w1, x, c1); }
    if (rows > 3) { x = v128.load32_splat(q, 12); d0 = madd(w0, x, d0); d1 = madd(w1, x, d1); }
  }
  v128.store(s, a0); v128.store(s, a1, 16);
  if (rows > 1) { v128.store(s, b0, 256); v128.store(s, b1, 272); }
  if (rows > 2) { v128.store(s, c0, 512); v128.store(s, c1, 528); }
  if (rows > 3) { v128.store(s, d0, 768); v128.store(s, d1, 784); }
}

/** o f32[4, 8] = o * alpha + p v: alpha f32[4], p f32[4, 64], the first `count` of each row, v a panel. */
// @ts-ignore: decorator
@inline
function value_panel<T>(rows: i32, o: usize, p: usize, v: usize, count: u32, alpha: usize, high: v128): void {
  let x = v128.load32_splat(alpha);
  let a0 = f32x4.mul(v128.load(o), x), a1 = f32x4.mul(v128.load(o, 16), x), b0 = x, b1 = x, c0 = x, c1 = x, d0 = x, d1 = x;
  if (rows > 1) { x = v128.load32_splat(alpha, 4); b0 = f32x4.mul(v128.load(o, 32), x); b1 = f32x4.mul(v128.load(o, 48), x); }
  if (rows > 2) { x = v128.load32_splat(alpha, 8); c0 = f32x4.mul(v128.load(o, 64), x); c1 = f32x4.mul(v128.load(o, 80), x); }
  if (rows > 3) { x = v128.load32_splat(alpha, 12); d0 = f32x4.mul(v128.load(o, 96), x); d1 = f32x4.mul(v128.load(o, 112), x); }
  for (const end = p + (<usize>count << 2); p < end; p += 4, v += 8 * sizeof<T>()) {
    const w0 = first4<T>(v), w1 = last4<T>(v, high);
    let y = v128.load32_splat(p);
    a0 = madd(w0, y, a0); a1 = madd(w1, y, a1);
    if (rows > 1) { y = v128.load32_splat(p, 256); b0 = madd(w0, y, b0); b1 = madd(w1, y, b1); }
    if (rows > 2) { y = v128.load32_splat(p, 512); c0 = madd(w0, y, c0); c1 = madd(w1, y, c1); }
    if (rows > 3) { y = v128.load32_splat(p, 768); d0 = madd(w0, y, d0); d1 = madd(w1, y, d1); }
  }
  v128.store(o, a0); v128.store(o, a1, 16);
  if (rows > 1) { v128.store(o, b0, 32); v128.store(o, b1, 48); }
  if (rows > 2) { v128.store(o, c0, 64); v128.store(o, c1, 80); }
  if (rows > 3) { v128.store(o, d0, 96); v128.store(o, d1, 112); }
}

/**
 * Softmax of a row's scores s f32[count], of which it sees the first `seen`, over what came before: s becomes weights against the largest score
 * so far.
 *
 * @param state f32 at 0, 16 and 32: largest score so far, sum of weights, and what earlier weights are to be multiplied by now
 */
function softmax_row(s: usize, count: u32, seen: i32, state: usize): void {
  const end = s + ((<usize>count + 3 & ~3) << 2), before = load<f32>(state);
  for (let p = s + (<usize>max(seen, 0) << 2); p < end; p += 4) store<f32>(p, -Infinity);
  let m = f32x4.splat(before);
  // pmax is one instruction; a NaN that it drops comes back below
  for (let p = s; p < end; p += 16) m = f32x4.pmax(m, v128.load(p));
  const largest = max_f32(m);
  m = f32x4.splat(largest);
  const c1 = v128.load32_splat(EXP2), c2 = v128.load32_splat(EXP2, 4), c3 = v128.load32_splat(EXP2, 8), c4 = v128.load32_splat(EXP2, 12);
  const c5 = v128.load32_splat(EXP2, 16), magic = v128.load32_splat(EXP2, 20), least = v128.load32_splat(EXP2, 24), one = f32x4.splat(1);
  const alpha = f32x4.extract_lane(exp2_f32x4(f32x4.sub(f32x4.splat(before), m), c1, c2, c3, c4, c5, magic, least, one), 0);
  let sum = f32x4.splat(0);
  for (; s < end; s += 16) {
    const e = exp2_f32x4(f32x4.sub(v128.load(s), m), c1, c2, c3, c4, c5, magic, least, one);
    v128.store(s, e);
    sum = f32x4.add(sum, e);
  }
  store<f32>(state, largest);
  store<f32>(state, load<f32>(state, 16) * alpha + sum_f32(sum), 16);
  store<f32>(state, alpha, 32);
}

/**
 * Reads bytes from `from` to `end` ahead of their use; what was read goes to `to`, or the compiler drops it. A page in one go, then what is computed
 * with it: at decode 8 lines in flight are all that fit beside three rows of arithmetic, and each 4 KB begin with a miss. 4,096 positions of
 * SmolLM2 with and without: V8 11 12.3 and 16.1 ms in f32, 10.1 and 15.0 in bf16; V8 15 14.0 and 22.2, 11.3 and 19.8; JavaScriptCore loses 14 %
 * in f32 and wins 10 % in bf16. Fewer lines a page, panel by panel, or a line each two steps of the products were all slower.
 */
function read_ahead(to: usize, from: usize, end: usize): void {
  let x = v128.load(to);
  for (; from < end; from += 256) {
    x = v128.or(x, v128.or(v128.or(v128.load(from), v128.load(from, 64)), v128.or(v128.load(from, 128), v128.load(from, 192))));
  }
  v128.store(to, x);
}

/** One tile of rows and one page: the first `count` positions of the head's k and v there. Row r of a group's is token r / group, at slot from + r / group. */
// @ts-ignore: decorator
@inline
function tile<T>(rows: u32, at: usize, k: usize, v: usize, s: usize, count: u32, from: u32, r: u32, group: u32, headDim: u32, width: usize): void {
  const high = i32x4.splat(K_HIGH16), panelBytes = <usize>headDim * 8 * sizeof<T>(), end = s + (<usize>count << 2);
  for (let to = s; to < end; to += 32, k += panelBytes) {
    if (rows == 4) score_panel<T>(4, to, at, k, headDim, high);
    else if (rows == 1) score_panel<T>(1, to, at, k, headDim, high);
    else score_panel<T>(3, to, at, k, headDim, high);
  }
  let o = at + (<usize>headDim << 4);
  const state = o + (width << 4);
  for (let j: u32 = 0; j < rows; ++j) {
    softmax_row(s + (<usize>j << 8), count, min<i32>(from + (r + j) / group + 1, count), state + (<usize>j << 2));
  }
  for (; o < state; o += 128, v += PAGE * 8 * sizeof<T>()) {
    if (rows == 4) value_panel<T>(4, o, s, v, count, state + 32, high);
    else if (rows == 1) value_panel<T>(1, o, s, v, count, state + 32, high);
    else value_panel<T>(3, o, s, v, count, state + 32, high);
  }
}

// @ts-ignore: decorator
@inline
function attention<T>(
  out: usize, q: usize, pages: usize, offset: usize, scratch: usize, position: u32, nTokens: u32, outStride: u32, qStride: u32, group: u32, headDim: u32,
): void {
  const width = (<usize>headDim + 7) & ~7, partBytes = width * PAGE * sizeof<T>(), rowBytes = <usize>headDim << 2;
  const nRows = nTokens * group, stateAt = (<usize>headDim + width) << 4, tileBytes = stateAt + 48;
  const s = scratch, tiles = scratch + (PAGE << 4), scale = <f32>1.44269504088896341 / sqrt<f32>(<f32>headDim);
  // queries into tiles, rows that are not there as zeros
  for (let r: u32 = 0, at = tiles; r < nRows; r += 4, at += tileBytes) {
    for (let row = r; row < r + 4; ++row) {
      const t = row / group, from = q + <usize>t * (<usize>qStride << 2) + <usize>(row - t * group) * rowBytes;
      for (let i: usize = 0, to = at + (<usize>(row - r) << 2); i < rowBytes; i += 4, to += 16) store<f32>(to, row < nRows ? load<f32>(from + i) * scale : 0);
    }
    memory.fill(at + rowBytes * 4, 0, (width << 4) + 48);
    v128.store(at + stateAt, f32x4.splat(-Infinity));
  }
  // one row of f32 keeps up with memory by itself
  const last = position + nTokens - 1, isAhead = nTokens == 1 && (group > 1 || sizeof<T>() == 2);
  for (let first: u32 = 0; first <= last; first += PAGE, pages += 4) {
    const k: usize = <usize>load<u32>(pages) + offset;
    if (isAhead) read_ahead(s, k, k + (partBytes << 1));
    for (let r: u32 = 0, at = tiles; r < nRows; r += 4, at += tileBytes) {
      // the last position that the tile's last row sees; pages past it are not for this tile
      const until = position + min(r + 3, nRows - 1) / group;
      if (until < first) continue;
      const count = min(until - first + 1, PAGE);
      tile<T>(nRows - r > 3 ? 4 : nRows == 1 ? 1 : 3, at, k, k + partBytes, s, count, position - first, r, group, headDim, width);
    }
  }
  for (let r: u32 = 0, at = tiles; r < nRows; r += 4, at += tileBytes) {
    for (let row = r; row < min(r + 4, nRows); ++row) {
      const t = row / group, to = out + <usize>t * (<usize>outStride << 2) + <usize>(row - t * group) * rowBytes, lane = <usize>(row - r);
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
 * Four rows by eight numbers, as gemm_f32: 8 sums, 2 of k or v and a splat fit x64's 15 registers (21 to 27 GMAC/s; unrolled by 2 and 4 it was 5 to
 * 30 % slower). Where fewer are left at the end, three or, for one query without a group, one: 25 GB/s of f32 then, where three rows give 14 to 19.
 *
 * @param out     f32[nTokens, outStride], at the first of the group's heads; q f32[nTokens, qStride] likewise
 * @param pages   u32[], byte offsets of pages; the key head's tile is at + offset
 * @param scratch 1,024 bytes, and (headDim + width) * 16 + 48 for each four rows of nTokens * group
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
        const kv = load<f32>(k + <usize>h * row + (i << 2)), vv = load<f32>(v + <usize>h * row + (i << 2));
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
