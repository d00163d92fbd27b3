import type { Kernels } from "../kernels.ts";
import { memoryViews } from "./memory.ts";

type Vectors = Pick<
  Kernels,
  | "fillZeroF32"
  | "addF32"
  | "addI32"
  | "rmsNormF32"
  | "siluMulF32"
  | "ropeAnglesF64"
  | "ropeFrequenciesF64"
  | "ropeF32"
>;

/** Norm, gate, rotation and the like, in float64. */
export function vectorKernels(memory: WebAssembly.Memory): Vectors {
  const views = memoryViews(memory);
  return {
    fillZeroF32(y, n) {
      views().f32.fill(0, y >>> 2, (y >>> 2) + n);
    },

    addF32(y, x, n) {
      const { f32 } = views();
      for (let i = 0; i < n; ++i) f32[(y >>> 2) + i]! += f32[(x >>> 2) + i]!;
    },

    addI32(y, x, n) {
      const { i32 } = views();
      for (let i = 0; i < n; ++i) i32[(y >>> 2) + i]! += i32[(x >>> 2) + i]!;
    },

    rmsNormF32(y, x, weight, n, eps) {
      const { f32 } = views();
      let squares = 0;
      for (let i = 0; i < n; ++i) squares += f32[(x >>> 2) + i]! ** 2;
      const root = Math.sqrt(squares / n + eps);
      for (let i = 0; i < n; ++i) {
        f32[(y >>> 2) + i] = f32[(x >>> 2) + i]! / root * f32[(weight >>> 2) + i]!;
      }
    },

    siluMulF32(y, gate, up, n) {
      const { f32 } = views();
      for (let i = 0; i < n; ++i) {
        const v = f32[(gate >>> 2) + i]!;
        f32[(y >>> 2) + i] = v / (1 + Math.exp(-v)) * f32[(up >>> 2) + i]!;
      }
    },

    ropeAnglesF64(cosSin, frequency, nPairs, position) {
      const { f32, f64 } = views();
      for (let i = 0; i < nPairs; ++i) {
        const angle = position * f64[(frequency >>> 3) + i]!;
        f32[(cosSin >>> 2) + 2 * i] = Math.cos(angle);
        f32[(cosSin >>> 2) + 2 * i + 1] = Math.sin(angle);
      }
    },

    ropeFrequenciesF64(frequency, nPairs, theta) {
      const { f64 } = views();
      for (let i = 0; i < nPairs; ++i) f64[(frequency >>> 3) + i] = theta ** (-i / nPairs);
    },

    ropeF32(x, cosSin, nHeads, headDim, nPairs, interleaved) {
      const { f32 } = views();
      for (let head = 0; head < nHeads; ++head) {
        const base = (x >>> 2) + head * headDim;
        for (let i = 0; i < nPairs; ++i) {
          const first = base + (interleaved ? 2 * i : i);
          const second = first + (interleaved ? 1 : nPairs);
          const cos = f32[(cosSin >>> 2) + 2 * i]!;
          const sin = f32[(cosSin >>> 2) + 2 * i + 1]!;
          const a = f32[first]!;
          const b = f32[second]!;
          f32[first] = a * cos - b * sin;
          f32[second] = a * sin + b * cos;
        }
      }
    },
  };
}
