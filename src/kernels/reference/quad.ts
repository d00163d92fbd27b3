import { GROUP, type Kernels, padTo, QUAD_RECORD, QUAD_TOKENS_RECORD, quadPanelBytes } from "../kernels.ts";
import {
  GROUP_MINS,
  groupI4Scale,
  groupI4Shift,
  groupI4Unit,
  quadI4Activation,
  quadI4Byte,
  quadI4Scale,
} from "./layouts.ts";
import { clamp, f16ToNumber, memoryViews, quantiseFactor, roundHalfEven } from "./memory.ts";

/** Bytes from a scale of quad i4 to its min. */
const MINS = 64;

/** 64 activations as i8. */
interface Quantised {
  readonly quantised: readonly number[];
  /** Of each group of 32: largest magnitude, sum, and its scale over the larger one, times 32767. */
  readonly largest: readonly number[];
  readonly sums: readonly number[];
  readonly shares: readonly number[];
  /** The larger scale. */
  readonly scale: number;
}

/** v * share / 2^15, to nearest, as i16x8.relaxed_q15mulr_s has it. */
export function q15(v: number, share: number): number {
  return (v * share + 0x4000) >> 15;
}

/** Projections in quad i4. */
export function quadKernels(
  memory: WebAssembly.Memory,
): Pick<
  Kernels,
  | "quantizeQuadI4"
  | "gemvQuadI4"
  | "packTokensQuadI4"
  | "restQuadI4"
  | "unpackQuadI4"
  | "unpackGroupQuadI4"
  | "gemmQuadI4"
  | "packQuadI4"
> {
  const views = memoryViews(memory);

  /** q of weight (o, c). */
  function nibble(w: number, o: number, c: number, nIn: number, withMins: boolean): number {
    const byte = views().u8[w + quadI4Byte(o, c, nIn, withMins)]!;
    return o & 4 ? byte >> 4 : byte & 15;
  }

  /** i8 of 64 values, of two groups of 32, and what joins the groups. */
  function quantise(values: Float32Array): Quantised {
    const largest = [0, GROUP].map((from) =>
      values.subarray(from, from + GROUP).reduce((a, v) => Math.max(a, Math.abs(v)), 0)
    );
    const quantised = Array.from(values, (v, c) => {
      return clamp(roundHalfEven(Math.fround(v * quantiseFactor(127, largest[c >> 5]!))), 127);
    });
    const sums = [0, GROUP].map((from) => quantised.slice(from, from + GROUP).reduce((a, b) => a + b));
    const both = Math.max(...largest);
    const shares = largest.map((v) =>
      both > 0 ? roundHalfEven(Math.fround(Math.fround(v / both) * 32767)) : 0
    );
    return { quantised, largest, sums, shares, scale: Math.fround(both / 127) };
  }

  /** Ends a record, its fields `next` bytes apart. */
  function storeScales(at: number, next: number, { sums, shares, scale }: Quantised): void {
    const { f32, i16 } = views();
    for (const half of [0, 1]) {
      i16[(at >>> 1) + half] = -8 * sums[half]!;
      i16[((at + next) >>> 1) + half] = q15(sums[half]!, shares[half]!);
      i16[((at + 3 * next) >>> 1) + half] = shares[half]!;
    }
    f32[(at + 2 * next) >>> 2] = scale;
  }

  /** Where the record of token t's four begins for its 64 channels, plus the token's place in it. */
  function tokensAt(a: number, t: number, channel: number, nIn: number): number {
    return a + ((t >> 2) * (nIn / 64) + channel / 64) * QUAD_TOKENS_RECORD + 4 * (t & 3);
  }

  /** Panels of `count` outputs from o. */
  function fillPanels(
    panels: number,
    rowScale: number,
    o: number,
    count: number,
    nIn: number,
    weight: (o: number, c: number) => number,
    scales: (o: number, g: number) => readonly [d: number, m: number],
  ): void {
    const { f32, i16, u8 } = views();
    for (let j = 0; j < count; ++j) {
      const panel = panels + (j >> 3) * quadPanelBytes(nIn), i = j % 8;
      f32[(panel >>> 2) + i] = f32[(rowScale >>> 2) + o + j]!;
      for (let c = 0; c < nIn; ++c) {
        const block = panel + 32 + 9 * (c - c % 64);
        u8[block + 64 + 32 * ((c % GROUP) >> 1) + 4 * i + 2 * ((c % 64) >> 5) + c % 2] = weight(o + j, c);
      }
      for (let g = 0; g < nIn / GROUP; ++g) {
        const at = (panel + 32 + 576 * (g >> 1) + 4 * i + 2 * (g % 2)) >>> 1;
        [i16[at], i16[at + 16]] = scales(o + j, g);
      }
    }
  }

  return {
    quantizeQuadI4(xq, x, nIn) {
      const { f32, i8 } = views();
      for (let pair = 0; pair < nIn; pair += 64) {
        const record = xq + (pair / 64) * QUAD_RECORD;
        const two = quantise(f32.subarray((x >>> 2) + pair, (x >>> 2) + pair + 64));
        two.quantised.forEach((v, c) => i8[xq + quadI4Activation(pair + c)] = v);
        storeScales(record + 64, 4, two);
      }
    },

    gemvQuadI4(y, w, rowScale, xq, nIn, nOut, withMins) {
      const { f32, i8, i16 } = views();
      for (let o = 0; o < nOut; ++o) {
        let total = 0;
        for (let g = 0; g < nIn / GROUP; ++g) {
          let dot = 0;
          for (let c = g * GROUP; c < (g + 1) * GROUP; ++c) {
            dot += (nibble(w, o, c, nIn, withMins !== 0) - 8) * i8[xq + quadI4Activation(c)]!;
          }
          const at = (w + quadI4Scale(o, g, nIn, withMins !== 0)) >>> 1, record = xq + (g >> 1) * QUAD_RECORD;
          const min = withMins ? i16[at + MINS / 2]! : 0, sum = i16[((record + 68) >>> 1) + g % 2]!;
          const brought = q15(dot, i16[((record + 76) >>> 1) + g % 2]!);
          total += f32[(record + 72) >>> 2]! * (i16[at]! * brought + min * sum);
        }
        f32[(y >>> 2) + o] = f32[(rowScale >>> 2) + o]! * total;
      }
    },

    packTokensQuadI4(a, x, nTokens, xStride, nIn) {
      const { f32, i8 } = views();
      for (let t = 0; t < padTo(nTokens, 4); ++t) {
        for (let pair = 0; pair < nIn; pair += 64) {
          const at = tokensAt(a, t, pair, nIn), from = (x >>> 2) + t * xStride + pair;
          const values = t < nTokens ? f32.subarray(from, from + 64) : new Float32Array(64);
          const two = quantise(values);
          two.quantised.forEach((v, c) => i8[at + 16 * ((c % GROUP) >> 1) + 2 * (c >> 5) + c % 2] = v);
          storeScales(at + 256, 16, two);
        }
      }
    },

    restQuadI4(y, x, nIn) {
      const { f32 } = views();
      for (let pair = 0; pair < nIn; pair += 64) {
        const values = f32.slice((x >>> 2) + pair, (x >>> 2) + pair + 64),
          { quantised, largest } = quantise(values);
        values.forEach((v, c) => {
          const step = Math.fround(largest[c >> 5]! / 127);
          f32[(y >>> 2) + pair + c] = v - Math.fround(quantised[c]! * step);
        });
      }
    },

    unpackQuadI4(panels, w, rowScale, withMins, o, nIn) {
      const { i16 } = views(), mins = withMins !== 0;
      fillPanels(panels, rowScale, o, 16, nIn, (o, c) => nibble(w, o, c, nIn, mins), (o, g) => {
        const at = (w + quadI4Scale(o, g, nIn, mins)) >>> 1;
        return [i16[at]!, mins ? i16[at + MINS / 2]! : 0];
      });
    },

    unpackGroupQuadI4(panels, w, rowScale, withMins, o, nIn, chunk) {
      const { i16, u16 } = views(), mins = withMins !== 0;
      const weight = (o: number, c: number) =>
        (u16[(w + groupI4Unit(o, c, nIn, chunk, mins)) >>> 1]! >> groupI4Shift(o)) & 15;
      fillPanels(panels, rowScale, o, 64, nIn, weight, (o, g) => {
        const at = (w + groupI4Scale(o, g, nIn, chunk, mins)) >>> 1;
        return [i16[at]!, mins ? i16[at + GROUP_MINS / 2]! : 0];
      });
    },

    gemmQuadI4(y, a, panels, nTokens, yStride, nIn, nOut, add) {
      const { f32, i8, i16, u8 } = views();
      for (let t = 0; t < nTokens; ++t) {
        for (let o = 0; o < nOut; ++o) {
          const panel = panels + (o >> 3) * quadPanelBytes(nIn), at = (y >>> 2) + t * yStride + o;
          let total = 0;
          for (let pair = 0; pair < nIn; pair += 64) {
            const record = tokensAt(a, t, pair, nIn), block = panel + 32 + 9 * pair;
            for (let half = 0; half < 2; ++half) {
              let dot = 0;
              for (let c = 0; c < GROUP; ++c) {
                const quad = c >> 1, byte = 2 * half + c % 2;
                dot += i8[record + 16 * quad + byte]! *
                  (u8[block + 64 + 32 * quad + 4 * (o % 8) + byte]! - 8);
              }
              const d = ((block + 4 * (o % 8)) >>> 1) + half, sum = i16[((record + 272) >>> 1) + half]!;
              const brought = q15(dot, i16[((record + 304) >>> 1) + half]!);
              total += f32[(record + 288) >>> 2]! * (i16[d]! * brought + i16[d + 16]! * sum);
            }
          }
          f32[at] = (add ? f32[at]! : 0) + f32[(panel >>> 2) + o % 8]! * total;
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
