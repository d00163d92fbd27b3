import { GROUP, type Kernels } from "../kernels.ts";
import { signedByte } from "./int8.ts";
import {
  bf16Lane,
  channelsI8Bias,
  GROUP_MINS,
  groupI4Scale,
  groupI4Shift,
  groupI4Unit,
  pairsI8Bias,
  pairsI8Offset,
} from "./layouts.ts";
import { bf16ToF32, memoryViews, quantiseFactor, roundHalfEven } from "./memory.ts";

type Gemm = Pick<
  Kernels,
  | "packTokensF32"
  | "unpackChannelsF32"
  | "unpackChannelsBf16"
  | "unpackRowsF32"
  | "unpackRowsBf16"
  | "unpackPairsF32"
  | "gemmF32"
  | "packTokensI16"
  | "unpackGroupI4"
  | "unpackChannelsI8"
  | "unpackPairsI8"
  | "gemmI16"
>;

/** Prefill: many tokens by panels of 8 outputs, in float64. */
export function gemmKernels(memory: WebAssembly.Memory): Gemm {
  const views = memoryViews(memory);

  function unpackFloat(
    panel: number,
    o: number,
    nIn: number,
    nOut: number,
    weight: (o: number, c: number) => number,
  ) {
    const { f32 } = views();
    for (let c = 0; c < nIn; ++c) {
      for (let i = 0; i < 8; ++i) f32[(panel >>> 2) + c * 8 + i] = o + i < nOut ? weight(o + i, c) : 0;
    }
  }

  /** Integer panels of `count` outputs from o: their weights, and a scale and a min for each group. */
  function unpackInteger(
    panels: number,
    d: number,
    m: number,
    o: number,
    count: number,
    nIn: number,
    weight: (o: number, c: number) => number,
    scale: (o: number, g: number) => number,
    min: (o: number, g: number) => number,
  ) {
    const { i8, f32 } = views();
    for (let i = 0; i < count; ++i) {
      const panel = i >> 3;
      for (let c = 0; c < nIn; ++c) {
        i8[panels + ((panel * (nIn / 2) + (c >> 1)) * 8 + i % 8) * 2 + c % 2] = weight(o + i, c);
      }
      for (let g = 0; g < nIn / GROUP; ++g) {
        const at = (panel * (nIn / GROUP) + g) * 8 + i % 8;
        f32[(d >>> 2) + at] = scale(o + i, g);
        f32[(m >>> 2) + at] = min(o + i, g);
      }
    }
  }

  return {
    packTokensF32(a, x, nTokens, xStride, nIn) {
      const { f32 } = views();
      for (let t = 0; t < Math.ceil(nTokens / 4) * 4; ++t) {
        for (let c = 0; c < nIn; ++c) {
          const to = (a >>> 2) + ((t >> 2) * nIn + c) * 4 + t % 4;
          f32[to] = t < nTokens ? f32[(x >>> 2) + t * xStride + c]! : 0;
        }
      }
    },

    unpackChannelsF32(panel, w, o, nIn, nOut) {
      const { f32 } = views();
      unpackFloat(panel, o, nIn, nOut, (o, c) => f32[(w >>> 2) + c * nOut + o]!);
    },

    unpackChannelsBf16(panel, w, o, nIn, nOut) {
      const { u16 } = views();
      unpackFloat(panel, o, nIn, nOut, (o, c) => bf16ToF32(u16[(w >>> 1) + bf16Lane(c, o, nOut)]!));
    },

    unpackRowsF32(panel, w, o, nIn, nOut) {
      const { f32 } = views();
      unpackFloat(panel, o, nIn, nOut, (o, c) => f32[(w >>> 2) + o * nIn + c]!);
    },

    unpackRowsBf16(panel, w, o, nIn, nOut) {
      const { u16 } = views();
      unpackFloat(panel, o, nIn, nOut, (o, c) => bf16ToF32(u16[(w >>> 1) + o * nIn + c]!));
    },

    unpackPairsF32(panel, w, rowScale, channelScale, o, nIn, nInPadded) {
      const { f32, u8 } = views();
      unpackFloat(panel, o, nIn, o + 8, (o, c) => {
        const q = signedByte(u8[w + pairsI8Offset(o, c, nInPadded)]!, pairsI8Bias(o));
        return Math.fround(q * f32[(rowScale >>> 2) + o]!) * f32[(channelScale >>> 2) + c]!;
      });
    },

    gemmF32(y, a, panel, nTokens, yStride, nIn) {
      const { f32 } = views();
      for (let t = 0; t < nTokens; ++t) {
        const sums = new Float64Array(8);
        for (let c = 0; c < nIn; ++c) {
          const v = f32[(a >>> 2) + ((t >> 2) * nIn + c) * 4 + t % 4]!;
          for (let i = 0; i < 8; ++i) sums[i]! += v * f32[(panel >>> 2) + c * 8 + i]!;
        }
        for (let i = 0; i < 8; ++i) f32[(y >>> 2) + t * yStride + i]! += sums[i]!;
      }
    },

    packTokensI16(a, scale, sum, x, factor, nTokens, xStride, nIn) {
      const { f32, i16 } = views();
      for (let t = 0; t < Math.ceil(nTokens / 4) * 4; ++t) {
        const scaled = (c: number) =>
          t < nTokens ? Math.fround(f32[(x >>> 2) + t * xStride + c]! * f32[(factor >>> 2) + c]!) : 0;
        for (let g = 0; g < nIn / GROUP; ++g) {
          let largest = 0;
          for (let c = g * GROUP; c < (g + 1) * GROUP; ++c) largest = Math.max(largest, Math.abs(scaled(c)));
          const inverse = quantiseFactor(32767, largest);
          const s = Math.fround(largest / 32767);
          let total = 0;
          for (let c = g * GROUP; c < (g + 1) * GROUP; ++c) {
            const quantised = roundHalfEven(Math.fround(scaled(c) * inverse));
            i16[(a >>> 1) + (((t >> 2) * (nIn / 2) + (c >> 1)) * 4 + t % 4) * 2 + c % 2] = quantised;
            total += quantised;
          }
          const at = ((t >> 2) * (nIn / GROUP) + g) * 4 + t % 4;
          f32[(scale >>> 2) + at] = s;
          f32[(sum >>> 2) + at] = Math.fround(total) * s;
        }
      }
    },

    unpackGroupI4(panels, d, m, w, rowScale, withMins, o, nIn, chunk) {
      const { f32, u16, i16 } = views(), mins = withMins !== 0;
      const scaleAt = (o: number, g: number) => (w + groupI4Scale(o, g, nIn, chunk, mins)) >>> 1;
      unpackInteger(
        panels,
        d,
        m,
        o,
        64,
        nIn,
        (o, c) => ((u16[(w + groupI4Unit(o, c, nIn, chunk, mins)) >>> 1]! >> groupI4Shift(o)) & 15) - 8,
        (o, g) => f32[(rowScale >>> 2) + o]! * i16[scaleAt(o, g)]!,
        (o, g) => mins ? f32[(rowScale >>> 2) + o]! * i16[scaleAt(o, g) + GROUP_MINS / 2]! : 0,
      );
    },

    unpackChannelsI8(panels, d, m, w, rowScale, o, nIn, nOut) {
      const { f32, u8 } = views();
      unpackInteger(
        panels,
        d,
        m,
        o,
        32,
        nIn,
        (o, c) => signedByte(u8[w + c * nOut + o]!, channelsI8Bias(o)),
        (o) => f32[(rowScale >>> 2) + o]!,
        () => 0,
      );
    },

    unpackPairsI8(panels, d, m, w, rowScale, o, nIn) {
      const { f32, u8 } = views();
      unpackInteger(
        panels,
        d,
        m,
        o,
        16,
        nIn,
        (o, c) => signedByte(u8[w + pairsI8Offset(o, c, nIn)]!, pairsI8Bias(o)),
        (o) => f32[(rowScale >>> 2) + o]!,
        () => 0,
      );
    },

    gemmI16(y, a, scale, sum, panel, d, m, nTokens, yStride, nIn) {
      const { f32, i16, i8 } = views();
      for (let t = 0; t < nTokens; ++t) {
        for (let i = 0; i < 8; ++i) {
          let total = 0;
          for (let g = 0; g < nIn / GROUP; ++g) {
            let dot = 0;
            for (let c = g * GROUP; c < (g + 1) * GROUP; ++c) {
              const v = i16[(a >>> 1) + (((t >> 2) * (nIn / 2) + (c >> 1)) * 4 + t % 4) * 2 + c % 2]!;
              dot += v * i8[panel + ((c >> 1) * 8 + i) * 2 + c % 2]!;
            }
            const token = ((t >> 2) * (nIn / GROUP) + g) * 4 + t % 4;
            const output = g * 8 + i;
            total += f32[(scale >>> 2) + token]! * f32[(d >>> 2) + output]! * dot +
              f32[(sum >>> 2) + token]! * f32[(m >>> 2) + output]!;
          }
          f32[(y >>> 2) + t * yStride + i]! += total;
        }
      }
    },
  };
}
