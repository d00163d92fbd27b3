import type { Kernels } from "../kernels.ts";
import { bf16Lane } from "./layouts.ts";
import { bf16ToF32, memoryViews } from "./memory.ts";

/** Projections with float weights, in float64. */
export function floatKernels(
  memory: WebAssembly.Memory,
): Pick<
  Kernels,
  | "gemvChannelsF32"
  | "gemvChannelsBf16"
  | "gemvAllChannelsF32"
  | "gemvAllChannelsBf16"
  | "gemvRowsF32"
  | "gemvRowsBf16"
> {
  const views = memoryViews(memory);

  /** `index` null: channels 0 to n - 1. */
  function channels(
    y: number,
    index: number | null,
    value: number,
    n: number,
    nOut: number,
    weight: (c: number, o: number) => number,
  ): void {
    const { f32, u32 } = views();
    const sums = Float64Array.from(f32.subarray(y >>> 2, (y >>> 2) + nOut));
    for (let a = 0; a < n; ++a) {
      const c = index === null ? a : u32[(index >>> 2) + a]!;
      const v = f32[(value >>> 2) + a]!;
      for (let o = 0; o < nOut; ++o) sums[o]! += v * weight(c, o);
    }
    f32.set(sums, y >>> 2);
  }

  function rows(
    y: number,
    x: number,
    nIn: number,
    nOut: number,
    weight: (o: number, c: number) => number,
  ): void {
    const { f32 } = views();
    for (let o = 0; o < nOut; ++o) {
      let sum = 0;
      for (let c = 0; c < nIn; ++c) sum += weight(o, c) * f32[(x >>> 2) + c]!;
      f32[(y >>> 2) + o] = sum;
    }
  }

  return {
    gemvChannelsF32(y, w, index, value, nActive, nOut, stride) {
      const { f32 } = views();
      channels(y, index, value, nActive, nOut, (c, o) => f32[(w >>> 2) + c * stride + o]!);
    },

    gemvChannelsBf16(y, w, index, value, nActive, nOut, stride) {
      const { u16 } = views();
      channels(y, index, value, nActive, nOut, (c, o) => bf16ToF32(u16[(w >>> 1) + bf16Lane(c, o, stride)]!));
    },

    gemvAllChannelsF32(y, w, x, nIn, nOut) {
      const { f32 } = views();
      channels(y, null, x, nIn, nOut, (c, o) => f32[(w >>> 2) + c * nOut + o]!);
    },

    gemvAllChannelsBf16(y, w, x, nIn, nOut) {
      const { u16 } = views();
      channels(y, null, x, nIn, nOut, (c, o) => bf16ToF32(u16[(w >>> 1) + bf16Lane(c, o, nOut)]!));
    },

    gemvRowsF32(y, w, x, nIn, nOut) {
      const { f32 } = views();
      rows(y, x, nIn, nOut, (o, c) => f32[(w >>> 2) + o * nIn + c]!);
    },

    gemvRowsBf16(y, w, x, nIn, nOut) {
      const { u16 } = views();
      rows(y, x, nIn, nOut, (o, c) => bf16ToF32(u16[(w >>> 1) + o * nIn + c]!));
    },
  };
}
