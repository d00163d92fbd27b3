import { GROUP, type Kernels, QUAD_RECORD } from "../kernels.ts";
import { quadI4Activation, quadI4Byte, quadI4Scale } from "./layouts.ts";
import { clamp, f16ToNumber, memoryViews, quantiseFactor, roundHalfEven } from "./memory.ts";

/** Bytes from a scale of quad i4 to its min. */
const MINS = 64;

/** Projections in quad i4. */
export function quadKernels(
  memory: WebAssembly.Memory,
): Pick<Kernels, "quantizeQuadI4" | "gemvQuadI4" | "unpackQuadI4" | "packQuadI4"> {
  const views = memoryViews(memory);

  /** q of weight (o, c). */
  function nibble(w: number, o: number, c: number, nIn: number, withMins: boolean): number {
    const byte = views().u8[w + quadI4Byte(o, c, nIn, withMins)]!;
    return o & 4 ? byte >> 4 : byte & 15;
  }

  return {
    quantizeQuadI4(xq, x, nIn) {
      const { f32, i8, i16 } = views();
      for (let pair = 0; pair < nIn; pair += 64) {
        const record = xq + (pair / 64) * QUAD_RECORD;
        const values = f32.subarray((x >>> 2) + pair, (x >>> 2) + pair + 64);
        const largest = values.reduce((a, v) => Math.max(a, Math.abs(v)), 0);
        const inverse = quantiseFactor(127, largest);
        const sums = [0, 0];
        values.forEach((v, c) => {
          const quantised = clamp(roundHalfEven(Math.fround(v * inverse)), 127);
          i8[xq + quadI4Activation(pair + c)] = quantised;
          sums[c >> 5]! += quantised;
        });
        sums.forEach((sum, half) => {
          i16[((record + 64) >>> 1) + half] = -8 * sum;
          i16[((record + 68) >>> 1) + half] = sum;
        });
        f32[(record + 72) >>> 2] = Math.fround(largest / 127);
      }
    },

    gemvQuadI4(y, w, rowScale, xq, nIn, nOut, withMins) {
      const { f32, i8, i16 } = views();
      for (let o = 0; o < nOut; ++o) {
        let total = 0;
        for (let g = 0; g < nIn / GROUP; ++g) {
          let dot = 0;
          let sum = 0;
          for (let c = g * GROUP; c < (g + 1) * GROUP; ++c) {
            const v = i8[xq + quadI4Activation(c)]!;
            dot += (nibble(w, o, c, nIn, withMins !== 0) - 8) * v;
            sum += v;
          }
          const at = (w + quadI4Scale(o, g, nIn, withMins !== 0)) >>> 1;
          const min = withMins ? i16[at + MINS / 2]! : 0;
          total += f32[(xq + (g >> 1) * QUAD_RECORD + 72) >>> 2]! * (i16[at]! * dot + min * sum);
        }
        f32[(y >>> 2) + o] = f32[(rowScale >>> 2) + o]! * total;
      }
    },

    unpackQuadI4(panels, d, m, w, rowScale, withMins, o, nIn) {
      const { f32, i8, i16 } = views();
      for (let j = 0; j < 16; ++j) {
        const panel = j >> 3;
        for (let c = 0; c < nIn; ++c) {
          const at = panels + panel * nIn * 8 + (c >> 1) * 16 + (j % 8) * 2 + c % 2;
          i8[at] = nibble(w, o + j, c, nIn, withMins !== 0) - 8;
        }
        const unit = f32[(rowScale >>> 2) + o + j]!;
        for (let g = 0; g < nIn / GROUP; ++g) {
          const at = (w + quadI4Scale(o + j, g, nIn, withMins !== 0)) >>> 1;
          const to = (panel * nIn) / 4 + g * 8 + j % 8;
          f32[(d >>> 2) + to] = i16[at]! * unit;
          f32[(m >>> 2) + to] = withMins ? i16[at + MINS / 2]! * unit : 0;
        }
      }
    },

    packQuadI4(w, rowScale, blocks, withMins, o0, nRows, rowBlocks, nIn) {
      const { f32, u8, i16 } = views();
      const headBytes = withMins ? 4 : 2;
      const limit = withMins ? 29356 : 32767;
      const half = (at: number) => f16ToNumber(u8[at]! | u8[at + 1]! << 8);
      let bad = -1;
      for (let row = 0; row < Math.ceil(nRows / 16) * 16; ++row) {
        const o = o0 + row;
        const ds: number[] = [];
        const ms: number[] = [];
        for (let g = 0; g < nIn / GROUP; ++g) {
          const isThere = row < nRows && g < rowBlocks;
          const block = blocks + (row * rowBlocks + g) * (headBytes + 16);
          const d = isThere ? half(block) : 0;
          const m = isThere && withMins ? half(block + 2) : 0;
          if (bad < 0 && !(Number.isFinite(d) && Number.isFinite(m))) bad = row * rowBlocks + g;
          ds.push(d);
          ms.push(withMins ? Math.fround(m + Math.fround(8 * d)) : 0);
          for (let i = 0; i < GROUP; ++i) {
            const at = w + quadI4Byte(o, g * GROUP + i, nIn, withMins !== 0);
            const byte = isThere ? u8[block + headBytes + i % 16]! : 0;
            const q = i < 16 ? byte & 15 : byte >> 4;
            u8[at] = o & 4 ? (u8[at]! & 15) | (q << 4) : (u8[at]! & 240) | q;
          }
        }
        const largest = [...ds, ...ms].reduce((a, v) => Math.max(a, Math.abs(v)), 0);
        const unit = largest === 0 ? 1 : Math.fround(largest / limit);
        f32[(rowScale >>> 2) + o] = unit;
        for (let g = 0; g < nIn / GROUP; ++g) {
          const at = (w + quadI4Scale(o, g, nIn, withMins !== 0)) >>> 1;
          const toI16 = (v: number) => clamp(roundHalfEven(Math.fround(v / unit)), limit);
          i16[at] = toI16(ds[g]!);
          if (withMins) i16[at + MINS / 2] = toI16(ms[g]!);
        }
      }
      return bad;
    },
  };
}
