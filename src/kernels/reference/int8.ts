import type { Kernels } from "../kernels.ts";
import { channelsI8Bias, pairsI8Bias, pairsI8Offset } from "./layouts.ts";
import { memoryViews, quantiseFactor, roundHalfEven } from "./memory.ts";

/** A byte of `w + bias` back as w: the low eight bits of the difference, signed. */
export function signedByte(byte: number, bias: number): number {
  return ((byte - bias) << 24) >> 24;
}

/** Projections with int8 weights: exact integer sums. */
export function int8Kernels(
  memory: WebAssembly.Memory,
): Pick<Kernels, "quantizeI16" | "gemvChannelsI8" | "finishChannelsI8" | "sumI16" | "gemvPairsI8"> {
  const views = memoryViews(memory);
  return {
    quantizeI16(xq, x, factor, n, nPadded) {
      const { f32, i16 } = views();
      const scaled = (c: number) => Math.fround(f32[(x >>> 2) + c]! * f32[(factor >>> 2) + c]!);
      let largest = 0;
      for (let c = 0; c < n; ++c) largest = Math.max(largest, Math.abs(scaled(c)));
      const limit = n > 8259 ? Math.floor(16909320 / n) : 2047, inverse = quantiseFactor(limit, largest);
      for (let c = 0; c < nPadded; ++c) {
        i16[(xq >>> 1) + c] = c < n ? roundHalfEven(Math.fround(scaled(c) * inverse)) : 0;
      }
      return Math.fround(largest / limit);
    },

    gemvChannelsI8(acc, w, index, xq, nActive, nOut, stride) {
      const { u8, i16, u32, i32 } = views();
      for (let a = 0; a < nActive; ++a) {
        const column = w + u32[(index >>> 2) + a]! * stride;
        const v = i16[(xq >>> 1) + a]!;
        for (let o = 0; o < nOut; ++o) {
          i32[(acc >>> 2) + o]! += v * signedByte(u8[column + o]!, channelsI8Bias(o));
        }
      }
    },

    finishChannelsI8(y, acc, rowScale, s, _sumX, nOut) {
      const { f32, i32 } = views();
      for (let o = 0; o < nOut; ++o) {
        f32[(y >>> 2) + o] = s * f32[(rowScale >>> 2) + o]! * i32[(acc >>> 2) + o]!;
      }
    },

    sumI16(x, n) {
      const { i16 } = views();
      let sum = 0;
      for (let i = 0; i < n; ++i) sum += i16[(x >>> 1) + i]!;
      return sum;
    },

    gemvPairsI8(y, w, xq, rowScale, s, _sumX, nIn, nOut) {
      const { u8, i16, f32 } = views();
      for (let o = 0; o < nOut; ++o) {
        let sum = 0;
        for (let c = 0; c < nIn; ++c) {
          sum += i16[(xq >>> 1) + c]! * signedByte(u8[w + pairsI8Offset(o, c, nIn)]!, pairsI8Bias(o));
        }
        f32[(y >>> 2) + o] = s * f32[(rowScale >>> 2) + o]! * sum;
      }
    },
  };
}
