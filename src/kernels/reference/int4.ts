import { GROUP, groupBlockBytes, type Kernels, LIST_SPAN } from "../kernels.ts";
import { GROUP_MINS, groupI4Scale, groupI4Shift, groupI4Unit } from "./layouts.ts";
import { memoryViews, quantiseFactor, roundHalfEven } from "./memory.ts";
import { isActive } from "./select.ts";

/**
 * Largest sum of |quantised x| aimed at in a group: with 32 roundings it stays within 4,095, and sums of (q - 8) * x, which
 * the SIMD kernel forms in i16, within 32,760.
 */
const L1_LIMIT = 4079;

/** Projections with int4 weights. A table entry is u32 begin, u32 end (addresses in the list), f32 scale, i16 sums of the quantised x of an even group and the next. */
export function int4Kernels(
  memory: WebAssembly.Memory,
): Pick<
  Kernels,
  "selectGroupI4" | "gemvGroupI4" | "gemvGroupI4List" | "scaleRowsF32"
> {
  const views = memoryViews(memory);

  const gemvGroupI4: Kernels["gemvGroupI4"] = (y, w, table, nIn, nBlocks, pairBytes, withMins, _scratch) => {
    const { f32, u32, i32, u16, i16 } = views();
    // offsets from a block inside a chunk are those from the chunk's first
    const mins = withMins !== 0, chunk = (pairBytes / groupBlockBytes(mins)) * 64;
    for (let o = 0; o < 64 * nBlocks; ++o) {
      let sum = 0;
      for (let g = 0; g < nIn / GROUP; ++g) {
        const entry = (table >>> 2) + 8 * g;
        let dot = 0;
        for (let at = u32[entry]!; at < u32[entry + 1]!; at += 4) {
          const c = g * GROUP + u32[at >>> 2]!;
          const unit = u16[(w + groupI4Unit(o, c, nIn, chunk, mins)) >>> 1]!;
          dot += (((unit >> groupI4Shift(o)) & 15) - 8) * i32[(at + LIST_SPAN) >>> 2]!;
        }
        const at = (w + groupI4Scale(o, g, nIn, chunk, mins)) >>> 1,
          xSum = i16[2 * (entry - 8 * (g & 1)) + 6 + (g & 1)]!;
        sum += f32[entry + 2]! * (i16[at]! * dot + (mins ? i16[at + GROUP_MINS / 2]! * xSum : 0));
      }
      f32[(y >>> 2) + o]! += sum;
    }
  };

  return {
    selectGroupI4(table, list, x, scale, threshold, nIn) {
      const { f32, u32, i32, i16 } = views();
      const active = (c: number) => isActive(f32[(x >>> 2) + c]!, f32[(scale >>> 2) + c]!, threshold);
      let count = 0;
      for (let pair = 0; pair < nIn; pair += 2 * GROUP) {
        let largest = 0;
        for (const begin of [pair, pair + GROUP]) {
          let l1 = 0;
          for (let c = begin; c < begin + GROUP; ++c) if (active(c)) l1 += Math.abs(f32[(x >>> 2) + c]!);
          largest = Math.max(largest, Math.fround(l1));
        }
        const s = Math.fround(largest / L1_LIMIT);
        const inverse = quantiseFactor(L1_LIMIT, largest);
        for (const begin of [pair, pair + GROUP]) {
          const entry = (table >>> 2) + 8 * (begin / GROUP);
          let sum = 0;
          u32[entry] = list + 4 * count;
          for (let c = begin; c < begin + GROUP; ++c) {
            if (!active(c)) continue;
            const quantised = roundHalfEven(Math.fround(f32[(x >>> 2) + c]! * inverse));
            u32[(list >>> 2) + count] = c - begin;
            i32[((list + LIST_SPAN) >>> 2) + count] = quantised;
            sum += quantised;
            ++count;
          }
          u32[entry + 1] = list + 4 * count;
          f32[entry + 2] = s;
          const half = (begin - pair) / GROUP;
          i16[2 * (entry - 8 * half) + 6 + half] = sum;
        }
      }
      return count;
    },

    gemvGroupI4,
    gemvGroupI4List: gemvGroupI4,

    scaleRowsF32(y, rowScale, nOut) {
      const { f32 } = views();
      for (let o = 0; o < nOut; ++o) f32[(y >>> 2) + o]! *= f32[(rowScale >>> 2) + o]!;
    },
  };
}
