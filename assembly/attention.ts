// Grouped-query attention of one position over a paged key-value cache.
import { exp_f32x4, madd, max_f32, sum4_f32, sum_f32 } from "./lanes";

/** Positions a page; a power of two, so that a position's page is a shift. */
const PAGE: u32 = 64;

/** Copies k and v f32[nKvHeads, headDim] to slot 0..63 of a page's parts, f32[nKvHeads, 64, headDim] each. */
export function store_kv_f32(kPage: usize, vPage: usize, k: usize, v: usize, nKvHeads: u32, headDim: u32, slot: u32): void {
  const row = <usize>headDim << 2, head = row * PAGE;
  kPage += row * slot; vPage += row * slot;
  for (let h: u32 = 0; h < nKvHeads; ++h, kPage += head, vPage += head, k += row, v += row) {
    memory.copy(kPage, k, row);
    memory.copy(vPage, v, row);
  }
}

/**
 * out f32[nHeads, headDim] = softmax(q k^T / sqrt(headDim)) v over positions 0..nPositions-1.
 * Four positions at a time: four dot products share one load of q and one horizontal sum.
 *
 * @param pages   u32[ceil(nPositions / 64)], byte offsets of pages; layer parts at + kOffset and + vOffset
 * @param scores  f32[nPositions rounded up to 64], scratch
 * @param headDim a multiple of 4
 */
export function attention_paged_f32(
  out: usize, q: usize, pages: usize, kOffset: usize, vOffset: usize, scores: usize,
  nPositions: u32, nHeads: u32, nKvHeads: u32, headDim: u32,
): void {
  const row = <usize>headDim << 2, headBytes = row * PAGE, shared = nHeads / nKvHeads;
  const scale = f32x4.splat(<f32>1 / sqrt<f32>(<f32>headDim));
  const nPages = (nPositions + PAGE - 1) / PAGE, scoresEnd = scores + (<usize>nPositions << 2);
  for (let h: u32 = 0; h < nHeads; ++h, q += row, out += row) {
    const head = <usize>(h / shared) * headBytes;
    // scores; a page's slots past the last position hold old numbers, their scores are overwritten below
    let s = scores;
    for (let p: u32 = 0; p < nPages; ++p) {
      let k: usize = <usize>load<u32>(pages + (<usize>p << 2)) + kOffset + head;
      const end = min(s + (PAGE << 2), scores + ((<usize>nPositions + 3 & ~3) << 2));
      for (; s < end; s += 16, k += row << 2) {
        let a = f32x4.splat(0), b = a, c = a, d = a, k1 = k + row, k2 = k1 + row, k3 = k2 + row;
        for (let i: usize = 0; i < row; i += 16) {
          const x = v128.load(q + i);
          a = madd(v128.load(k + i), x, a); b = madd(v128.load(k1 + i), x, b);
          c = madd(v128.load(k2 + i), x, c); d = madd(v128.load(k3 + i), x, d);
        }
        v128.store(s, f32x4.mul(sum4_f32(a, b, c, d), scale));
      }
    }
    for (s = scoresEnd; s < ((scoresEnd + 15) & ~15); s += 4) store<f32>(s, -Infinity);
    // softmax, not yet divided by its sum
    let m = f32x4.splat(-Infinity);
    for (s = scores; s < scoresEnd; s += 16) m = f32x4.max(m, v128.load(s));
    const largest = f32x4.splat(max_f32(m));
    let total = f32x4.splat(0);
    const none = f32x4.splat(-Infinity);
    for (s = scores; s < scoresEnd; s += 16) {
      const v = v128.load(s), e = v128.andnot(exp_f32x4(f32x4.sub(v, largest)), f32x4.eq(v, none));
      total = f32x4.add(total, e);
      v128.store(s, e);
    }
    const inverse = f32x4.splat(<f32>1 / sum_f32(total));
    // sum of v, 16 numbers of the head at a time in registers
    let d: usize = 0;
    for (; d + 64 <= row; d += 64) {
      let a = f32x4.splat(0), b = a, c = a, e = a;
      s = scores;
      for (let p: u32 = 0; p < nPages; ++p) {
        let v: usize = <usize>load<u32>(pages + (<usize>p << 2)) + vOffset + head + d;
        const end = min(s + (PAGE << 2), scoresEnd);
        for (; s < end; s += 4, v += row) {
          const w = v128.load32_splat(s);
          a = madd(v128.load(v), w, a); b = madd(v128.load(v, 16), w, b); c = madd(v128.load(v, 32), w, c); e = madd(v128.load(v, 48), w, e);
        }
      }
      v128.store(out + d, f32x4.mul(a, inverse)); v128.store(out + d, f32x4.mul(b, inverse), 16);
      v128.store(out + d, f32x4.mul(c, inverse), 32); v128.store(out + d, f32x4.mul(e, inverse), 48);
    }
    for (; d < row; d += 16) {
      let a = f32x4.splat(0);
      s = scores;
      for (let p: u32 = 0; p < nPages; ++p) {
        let v: usize = <usize>load<u32>(pages + (<usize>p << 2)) + vOffset + head + d;
        const end = min(s + (PAGE << 2), scoresEnd);
        for (; s < end; s += 4, v += row) a = madd(v128.load(v), v128.load32_splat(s), a);
      }
      v128.store(out + d, f32x4.mul(a, inverse));
    }
  }
}
