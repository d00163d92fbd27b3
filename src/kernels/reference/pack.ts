import { BLOCK } from "../../format/checkpoint.ts";
import { GROUP, type Kernels } from "../kernels.ts";
import { dequantizeReference } from "./dequantize.ts";
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
import { bf16ToF32, clamp, f16ToNumber, f32ToBf16, memoryViews, roundHalfEven } from "./memory.ts";

type Pack = Pick<
  Kernels,
  | "dequantize"
  | "findNonFiniteF32"
  | "packChannelsF32"
  | "packChannelsBf16"
  | "packBf16"
  | "balanceScalesI8"
  | "packChannelsI8"
  | "packPairsI8"
  | "pairsOfChannelsI8"
  | "readRowPairsI8"
  | "readRowBf16"
  | "packGroupI4"
>;

/** What loading does: file blocks to floats, floats and blocks to layouts. Scale arithmetic is f32 throughout. */
export function packKernels(memory: WebAssembly.Memory): Pack {
  const views = memoryViews(memory);

  const findNonFiniteF32: Kernels["findNonFiniteF32"] = (x, n) =>
    views().f32.subarray(x >>> 2, (x >>> 2) + n).findIndex((v) => !Number.isFinite(v));

  return {
    dequantize(type, y, blocks, n) {
      const { u8, f32 } = views();
      const { values, bytes } = BLOCK[type];
      f32.set(dequantizeReference(type, u8.slice(blocks, blocks + n * bytes)), y >>> 2);
      return Math.floor(findNonFiniteF32(y, n * values) / values);
    },

    findNonFiniteF32,

    packChannelsF32(w, src, o0, nRows, nIn, nOut) {
      const { f32 } = views();
      for (let row = 0; row < nRows; ++row) {
        for (let c = 0; c < nIn; ++c) {
          f32[(w >>> 2) + c * nOut + o0 + row] = f32[(src >>> 2) + row * nIn + c]!;
        }
      }
    },

    packChannelsBf16(w, src, o0, nRows, nIn, nOut) {
      const { f32, u16 } = views();
      for (let row = 0; row < Math.ceil(nRows / 8) * 8; ++row) {
        for (let c = 0; c < nIn; ++c) {
          const v = row < nRows ? f32[(src >>> 2) + row * nIn + c]! : 0;
          u16[(w >>> 1) + bf16Lane(c, o0 + row, nOut)] = f32ToBf16(v);
        }
      }
    },

    packBf16(w, src, n) {
      const { f32, u16 } = views();
      for (let i = 0; i < n; ++i) u16[(w >>> 1) + i] = f32ToBf16(f32[(src >>> 2) + i]!);
    },

    balanceScalesI8(rowScale, channelScale, src, nRows, nIn) {
      const { f32 } = views();
      const rows = f32.subarray(rowScale >>> 2, (rowScale >>> 2) + nRows);
      const channels = f32.subarray(channelScale >>> 2, (channelScale >>> 2) + nIn);
      const size = (row: number, c: number) => Math.abs(f32[(src >>> 2) + row * nIn + c]!);
      const isZero = (row: number) =>
        f32.subarray((src >>> 2) + row * nIn, (src >>> 2) + (row + 1) * nIn).every((v) => v === 0);
      const balanceRows = () => {
        for (let row = 0; row < nRows; ++row) {
          let largest = 0;
          for (let c = 0; c < nIn; ++c) largest = Math.max(largest, Math.fround(size(row, c) / channels[c]!));
          rows[row] = largest === 0 ? 1 : largest;
        }
      };
      const balanceChannels = () => {
        for (let c = 0; c < nIn; ++c) {
          let largest = 0;
          for (let row = 0; row < nRows; ++row) {
            largest = Math.max(largest, Math.fround(size(row, c) / rows[row]!));
          }
          channels[c] = largest === 0 ? 1 : largest;
        }
      };
      channels.fill(1);
      for (let round = 0; round < 2; ++round) {
        balanceRows();
        balanceChannels();
      }
      balanceRows();
      for (let row = 0; row < nRows; ++row) rows[row] = isZero(row) ? 1 : rows[row]! / 127;
    },

    packChannelsI8(w, src, rowScale, channelScale, nRows, nIn, nOut) {
      const { f32, u8 } = views();
      for (let c = 0; c < nIn; ++c) {
        for (let o = 0; o < nOut; ++o) {
          let quantised = 0;
          if (o < nRows) {
            const unit = Math.fround(f32[(rowScale >>> 2) + o]! * f32[(channelScale >>> 2) + c]!);
            const v = Math.fround(f32[(src >>> 2) + o * nIn + c]! / unit);
            quantised = clamp(roundHalfEven(v), 127);
          }
          u8[w + c * nOut + o] = quantised + channelsI8Bias(o);
        }
      }
    },

    packPairsI8(w, rowScale, src, o0, nRows, nIn, nInPadded) {
      const { f32, u8 } = views();
      for (let row = 0; row < Math.ceil(nRows / 16) * 16; ++row) {
        const o = o0 + row;
        const weight = (c: number) => row < nRows && c < nIn ? f32[(src >>> 2) + row * nIn + c]! : 0;
        let largest = 0;
        for (let c = 0; c < nIn; ++c) largest = Math.max(largest, Math.abs(weight(c)));
        const unit = largest === 0 ? 1 : Math.fround(largest / 127);
        f32[(rowScale >>> 2) + o] = unit;
        for (let c = 0; c < nInPadded; ++c) {
          const quantised = clamp(roundHalfEven(Math.fround(weight(c) / unit)), 127);
          u8[w + pairsI8Offset(o, c, nInPadded)] = quantised + pairsI8Bias(o);
        }
      }
    },

    pairsOfChannelsI8(w, channels, nIn, nOut, stride) {
      const { u8 } = views();
      for (let o = 0; o < nOut; ++o) {
        for (let c = 0; c < nIn; ++c) {
          const quantised = signedByte(u8[channels + c * stride + o]!, channelsI8Bias(o));
          u8[w + pairsI8Offset(o, c, nIn)] = quantised + pairsI8Bias(o);
        }
      }
    },

    readRowPairsI8(y, w, rowScale, o, nIn, nInPadded) {
      const { f32, u8 } = views();
      for (let c = 0; c < nIn; ++c) {
        const quantised = signedByte(u8[w + pairsI8Offset(o, c, nInPadded)]!, pairsI8Bias(o));
        f32[(y >>> 2) + c] = f32[(rowScale >>> 2) + o]! * quantised;
      }
    },

    readRowBf16(y, w, n) {
      const { f32, u16 } = views();
      for (let i = 0; i < n; ++i) f32[(y >>> 2) + i] = bf16ToF32(u16[(w >>> 1) + i]!);
    },

    packGroupI4(w, rowScale, blocks, withMins, o0, nRows, rowBlocks, nIn, chunk) {
      const { f32, u8, u16, i16 } = views();
      const headBytes = withMins ? 4 : 2;
      const half = (at: number) => f16ToNumber(u8[at]! | u8[at + 1]! << 8);
      let bad = -1;
      for (let row = 0; row < 64; ++row) {
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
            const at = (w + groupI4Unit(o, g * GROUP + i, nIn, chunk, withMins !== 0)) >>> 1;
            const byte = isThere ? u8[block + headBytes + i % 16]! : 0;
            const nibble = i < 16 ? byte & 15 : byte >> 4;
            u16[at] = (u16[at]! & ~(15 << groupI4Shift(o))) | (nibble << groupI4Shift(o));
          }
        }
        const largest = [...ds, ...ms].reduce((a, v) => Math.max(a, Math.abs(v)), 0),
          limit = withMins ? 29134 : 32767;
        const unit = largest === 0 ? 1 : Math.fround(largest / limit);
        f32[(rowScale >>> 2) + o] = unit;
        for (let g = 0; g < nIn / GROUP; ++g) {
          const at = (w + groupI4Scale(o, g, nIn, chunk, withMins !== 0)) >>> 1;
          const toI16 = (v: number) => clamp(roundHalfEven(Math.fround(v / unit)), limit);
          i16[at] = toI16(ds[g]!);
          if (withMins) i16[at + GROUP_MINS / 2] = toI16(ms[g]!);
        }
      }
      return bad;
    },
  };
}
