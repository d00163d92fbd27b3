// Prefill for layout group i4 in the baseline build's order of nibbles: into panels of gemm_i16. The relaxed build has unpack_group_quad_i4.
import { K_LOW4 } from "./lanes";

/** Outputs 0..7 and 8..15 of 16 bytes of two channels each, as [8 outputs][2 channels] of q - 8. */
// @ts-ignore: decorator
@inline
function store_nibbles(panel: usize, panelBytes: usize, a: v128, b: v128, eight: v128): void {
  const low = i16x8.splat(<i16>K_LOW4);
  v128.store(panel, i8x16.sub(v128.or(v128.and(a, low), i16x8.shl(v128.and(b, low), 8)), eight)); panel += panelBytes;
  v128.store(panel, i8x16.sub(v128.or(v128.and(i16x8.shr_u(a, 4), low), i16x8.shl(v128.and(i16x8.shr_u(b, 4), low), 8)), eight)); panel += panelBytes;
  v128.store(panel, i8x16.sub(v128.or(v128.and(i16x8.shr_u(a, 8), low), i16x8.shl(v128.and(i16x8.shr_u(b, 8), low), 8)), eight)); panel += panelBytes;
  v128.store(panel, i8x16.sub(v128.or(i16x8.shr_u(a, 12), i16x8.shl(i16x8.shr_u(b, 12), 8)), eight));
}

/**
 * Eight panels from output o (a multiple of 64) of group i4.
 *
 * @param panels i8[8, nIn/2, 8, 2]: q - 8
 * @param d      f32[8, nIn/32, 8]; m likewise, 0 where there are no mins
 */
export function unpack_group_i4(panels: usize, d: usize, m: usize, w: usize, rowScale: usize, withMins: u32, o: u32, nIn: u32, chunk: u32): void {
  const eight = i8x16.splat(8), panelBytes = <usize>nIn << 3, nPairs = nIn >> 6, scaleBytes = <usize>nIn;
  const blocks = chunk >> 6, half: usize = withMins ? 1280 : 1024, blockBytes = 1280 + half;
  let block = w + (<usize>(o / chunk) * nPairs * blocks + ((o % chunk) >> 6)) * blockBytes;
  for (let g: u32 = 0; g < nPairs; ++g, block += blockBytes * blocks) {
    let column = block + 256, p = panels + (<usize>g << 9);
    for (let c = 0; c < 64; c += 2, column += 64, p += 16) {
      if (c == 32) column = block + 256 + half;
      store_nibbles(p, panelBytes, v128.load(column), v128.load(column, 32), eight);
      store_nibbles(p + panelBytes * 4, panelBytes, v128.load(column, 16), v128.load(column, 48), eight);
    }
    for (let j: u32 = 0; j < 64; ++j) {
      const at = <usize>(j >> 3) * scaleBytes + (<usize>g << 6) + (<usize>(j & 7) << 2), pair = block + (<usize>j << 2);
      const unit = load<f32>(rowScale + (<usize>(o + j) << 2));
      store<f32>(d + at, <f32>load<i16>(pair) * unit); store<f32>(d + at, <f32>load<i16>(pair, 2) * unit, 32);
      store<f32>(m + at, withMins ? <f32>load<i16>(pair, 1280) * unit : 0); store<f32>(m + at, withMins ? <f32>load<i16>(pair, 1282) * unit : 0, 32);
    }
  }
}
