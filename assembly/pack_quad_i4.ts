// Loading for layout quad i4 (gemv_quad_i4.ts): from a file's blocks into it.
import { half_to_f32 } from "./lanes";

/** 16 vectors: four rows' nibbles of 64 channels on their way through the transposition. */
const TILE: usize = memory.data(256, 16);

// @ts-ignore: decorator
@inline
function to_i16(v: f32, unit: f32, limit: f32): i16 { return <i16>max<f32>(-limit, min<f32>(limit, nearest<f32>(v / unit))); }

/** Four vectors 64 bytes apart, transposed as 4 x 4 lanes of 32 bits: those at `out`, 32 bytes apart, hold one quad of four outputs each. */
// @ts-ignore: decorator
@inline
function transpose(out: usize, tile: usize): void {
  const a = v128.load(tile), b = v128.load(tile, 64), c = v128.load(tile, 128), d = v128.load(tile, 192);
  const ab = v128.shuffle<i32>(a, b, 0, 4, 1, 5), cd = v128.shuffle<i32>(c, d, 0, 4, 1, 5);
  v128.store(out, v128.shuffle<i64>(ab, cd, 0, 2)); v128.store(out, v128.shuffle<i64>(ab, cd, 1, 3), 32);
  const ef = v128.shuffle<i32>(a, b, 2, 6, 3, 7), gh = v128.shuffle<i32>(c, d, 2, 6, 3, 7);
  v128.store(out, v128.shuffle<i64>(ef, gh, 0, 2), 64); v128.store(out, v128.shuffle<i64>(ef, gh, 1, 3), 96);
}

/**
 * Rows o0.. of quad i4 from raw blocks: Q4_0 (f16 d, 16 bytes) or Q4_1 (f16 d, f16 m, 16 bytes). Nibbles are kept as they are; d and
 * m' = m + 8d become i16 against the row's largest of both (weight error 3.6e-5 rms on SmolLM2, an eighth of what rounding to f16 was).
 *
 * @param o0        a multiple of 16
 * @param nRows     rows that exist; those up to the next multiple of 16 become zero
 * @param rowBlocks blocks a row; groups at or past it, up to nIn/32, are zero
 * @returns the number, row * rowBlocks + block, of the first block whose d or m is not finite, or -1
 */
export function pack_quad_i4(
  w: usize, rowScale: usize, blocks: usize, withMins: u32, o0: u32, nRows: u32, rowBlocks: u32, nIn: u32,
): i32 {
  const size: usize = withMins ? 20 : 18, row = size * rowBlocks, head: usize = withMins ? 128 : 64, blockBytes = head + 512;
  const limit: f32 = withMins ? 29356 : 32767, nPairs = <usize>(nIn >> 6), low = i8x16.splat(15), zero = i32x4.splat(0);
  let bad: i32 = -1;
  for (let r0: u32 = 0; r0 < nRows; r0 += 16) {
    const first = w + <usize>((o0 + r0) >> 4) * nPairs * blockBytes, source = blocks + row * r0, count = min<u32>(nRows - r0, 16);
    for (let r: u32 = 0; r < 16; ++r) {
      const p = source + row * r, nBlocks = r < count ? rowBlocks : 0;
      let largest: f32 = 0;
      for (let g: u32 = 0; g < nBlocks; ++g) {
        const h = load<u16>(p + size * g), k = withMins ? load<u16>(p + size * g, 2) : 0, d = half_to_f32(h);
        if (((h & 0x7c00) == 0x7c00 || (k & 0x7c00) == 0x7c00) && bad < 0) bad = <i32>((r0 + r) * rowBlocks + g);
        largest = max<f32>(largest, abs<f32>(d));
        if (withMins) largest = max<f32>(largest, abs<f32>(half_to_f32(k) + <f32>8 * d));
      }
      const unit: f32 = largest > 0 ? largest / limit : 1;
      store<f32>(rowScale + (<usize>(o0 + r0 + r) << 2), unit);
      for (let g: u32 = 0; g < nIn >> 5; ++g) {
        const d: f32 = g < nBlocks ? half_to_f32(load<u16>(p + size * g)) : 0, at = first + blockBytes * (g >> 1) + (<usize>r << 2) + ((g & 1) << 1);
        store<i16>(at, to_i16(d, unit, limit));
        if (withMins) store<i16>(at, to_i16(g < nBlocks ? half_to_f32(load<u16>(p + size * g, 2)) + <f32>8 * d : 0, unit, limit), 64);
      }
    }
    for (let pair: u32 = 0; pair < nIn >> 6; ++pair) {
      const block = first + blockBytes * pair + head, at = source + (size * pair << 1) + (size - 16);
      const hasG = pair << 1 < rowBlocks, hasH = (pair << 1) + 1 < rowBlocks;
      for (let half: u32 = 0; half < 2; ++half) {
        for (let l: u32 = 0; l < 4; ++l) {
          const r = (half << 3) + l, p = at + row * r, q = p + (row << 2), hasLow = r < count, hasHigh = r + 4 < count;
          const gLow = hasG && hasLow ? v128.load(p) : zero, gHigh = hasG && hasHigh ? v128.load(q) : zero;
          const hLow = hasH && hasLow ? v128.load(p + size) : zero, hHigh = hasH && hasHigh ? v128.load(q + size) : zero;
          const g0 = v128.or(v128.and(gLow, low), i8x16.shl(gHigh, 4)), g1 = v128.or(i8x16.shr_u(gLow, 4), v128.andnot(gHigh, low));
          const h0 = v128.or(v128.and(hLow, low), i8x16.shl(hHigh, 4)), h1 = v128.or(i8x16.shr_u(hLow, 4), v128.andnot(hHigh, low));
          const t = TILE + (<usize>l << 6);
          v128.store(t, v128.shuffle<i16>(g0, h0, 0, 8, 1, 9, 2, 10, 3, 11)); v128.store(t, v128.shuffle<i16>(g0, h0, 4, 12, 5, 13, 6, 14, 7, 15), 16);
          v128.store(t, v128.shuffle<i16>(g1, h1, 0, 8, 1, 9, 2, 10, 3, 11), 32); v128.store(t, v128.shuffle<i16>(g1, h1, 4, 12, 5, 13, 6, 14, 7, 15), 48);
        }
        for (let k: usize = 0; k < 4; ++k) transpose(block + (half << 4) + (k << 7), TILE + (k << 4));
      }
    }
  }
  return bad;
}
