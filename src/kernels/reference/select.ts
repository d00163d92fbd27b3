import type { Kernels } from "../kernels.ts";
import { memoryViews } from "./memory.ts";

/** Whether a channel passes: the product is rounded to f32 as the SIMD kernels round it; false for NaN. */
export function isActive(x: number, scale: number, threshold: number): boolean {
  return Math.fround(scale * Math.abs(x)) > Math.fround(threshold);
}

/** Which channels a token uses. */
export function selectKernels(
  memory: WebAssembly.Memory,
): Pick<Kernels, "selectChannelsF32" | "gatherF32" | "maskChannelsF32" | "forceChannelsF32"> {
  const views = memoryViews(memory);

  function split(
    active: number,
    rest: number,
    x: number,
    n: number,
    isSelected: (c: number) => boolean,
  ): number {
    const { f32 } = views();
    let count = 0;
    for (let c = 0; c < n; ++c) {
      const selected = isSelected(c);
      const v = f32[(x >>> 2) + c]!;
      f32[(active >>> 2) + c] = selected ? v : 0;
      f32[(rest >>> 2) + c] = selected ? 0 : v;
      if (selected) ++count;
    }
    return count;
  }

  return {
    selectChannelsF32(index, value, x, scale, threshold, n) {
      const { f32, u32 } = views();
      let count = 0;
      for (let c = 0; c < n; ++c) {
        const v = f32[(x >>> 2) + c]!;
        if (!isActive(v, f32[(scale >>> 2) + c]!, threshold)) continue;
        u32[(index >>> 2) + count] = c;
        f32[(value >>> 2) + count] = v;
        ++count;
      }
      const last = count > 0 ? u32[(index >>> 2) + count - 1]! : 0;
      u32.fill(last, (index >>> 2) + count, (index >>> 2) + count + 8);
      f32.fill(0, (value >>> 2) + count, (value >>> 2) + count + 8);
      return count;
    },

    gatherF32(out, x, index, n) {
      const { f32, u32 } = views();
      for (let i = 0; i < n; ++i) f32[(out >>> 2) + i] = f32[(x >>> 2) + u32[(index >>> 2) + i]!]!;
    },

    maskChannelsF32(active, rest, x, scale, threshold, n) {
      const { f32 } = views();
      return split(
        active,
        rest,
        x,
        n,
        (c) => isActive(f32[(x >>> 2) + c]!, f32[(scale >>> 2) + c]!, threshold),
      );
    },

    forceChannelsF32(active, rest, x, mask, n) {
      const { u8 } = views();
      return split(active, rest, x, n, (c) => ((u8[mask + (c >> 3)]! >> (c % 8)) & 1) === 1);
    },
  };
}
