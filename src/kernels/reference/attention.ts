import { type Kernels, PAGE_POSITIONS } from "../kernels.ts";
import { memoryViews } from "./memory.ts";

/** Attention over the paged cache, in float64. */
export function attentionKernels(
  memory: WebAssembly.Memory,
): Pick<Kernels, "storeKvF32" | "attentionPagedF32"> {
  const views = memoryViews(memory);
  return {
    storeKvF32(kPage, vPage, k, v, nKvHeads, headDim, slot) {
      const { f32 } = views();
      for (let head = 0; head < nKvHeads; ++head) {
        for (let d = 0; d < headDim; ++d) {
          const to = (head * PAGE_POSITIONS + slot) * headDim + d;
          f32[(kPage >>> 2) + to] = f32[(k >>> 2) + head * headDim + d]!;
          f32[(vPage >>> 2) + to] = f32[(v >>> 2) + head * headDim + d]!;
        }
      }
    },

    attentionPagedF32(out, q, pages, kOffset, vOffset, _scores, nPositions, nHeads, nKvHeads, headDim) {
      const { f32, u32 } = views();
      /** Index in f32 of a position's first element. */
      const at = (position: number, kvHead: number, offset: number) => {
        const page = (u32[(pages >>> 2) + Math.floor(position / PAGE_POSITIONS)]! + offset) >>> 2;
        return page + (kvHead * PAGE_POSITIONS + position % PAGE_POSITIONS) * headDim;
      };
      for (let head = 0; head < nHeads; ++head) {
        const kvHead = Math.floor(head / (nHeads / nKvHeads));
        const scores = new Float64Array(nPositions);
        for (let p = 0; p < nPositions; ++p) {
          const k = at(p, kvHead, kOffset);
          let dot = 0;
          for (let d = 0; d < headDim; ++d) dot += f32[(q >>> 2) + head * headDim + d]! * f32[k + d]!;
          scores[p] = dot / Math.sqrt(headDim);
        }
        const largest = scores.reduce((a, b) => Math.max(a, b), -Infinity);
        const weights = scores.map((score) => Math.exp(score - largest));
        const total = weights.reduce((a, b) => a + b, 0);
        for (let d = 0; d < headDim; ++d) {
          let sum = 0;
          for (let p = 0; p < nPositions; ++p) sum += weights[p]! * f32[at(p, kvHead, vOffset) + d]!;
          f32[(out >>> 2) + head * headDim + d] = sum / total;
        }
      }
    },
  };
}
