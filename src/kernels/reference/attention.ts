import { type Kernels, kvTile, PAGE_POSITIONS } from "../kernels.ts";
import { bf16Lane } from "./layouts.ts";
import { bf16ToF32, f32ToBf16, memoryViews } from "./memory.ts";

/** How the reference reads and writes one element type of pages: by index of the element, from the page's first byte. */
interface Elements {
  readonly bytes: number;
  read(byteOffset: number): number;
  write(byteOffset: number, value: number): void;
  /** Where number i of eight neighbours lies among them. */
  lane(i: number): number;
}

/** Attention over the paged cache, in float64. */
export function attentionKernels(
  memory: WebAssembly.Memory,
): Pick<Kernels, "storeKvF32" | "storeKvBf16" | "attentionF32" | "attentionBf16"> {
  const views = memoryViews(memory);
  const f32: Elements = {
    bytes: 4,
    read: (at) => views().f32[at >>> 2]!,
    write: (at, value) => views().f32[at >>> 2] = value,
    lane: (i) => i,
  };
  const bf16: Elements = {
    bytes: 2,
    read: (at) => bf16ToF32(views().u16[at >>> 1]!),
    write: (at, value) => views().u16[at >>> 1] = f32ToBf16(value),
    lane: (i) => bf16Lane(0, i, 8),
  };

  /** Byte offset of number i of k, or v, of a position. */
  const place = (
    e: Elements,
    part: "k" | "v",
    page: number,
    slot: number,
    i: number,
    headDim: number,
  ): number => {
    const tile = kvTile(headDim);
    const index = part === "k"
      ? ((slot >> 3) * headDim + i) * 8 + e.lane(slot & 7)
      : tile.v + ((i >> 3) * PAGE_POSITIONS + slot) * 8 + e.lane(i & 7);
    return page + e.bytes * index;
  };
  const pageOf = (pages: number, position: number): number =>
    views().u32[(pages >>> 2) + Math.floor(position / PAGE_POSITIONS)]!;

  const store =
    (e: Elements): Kernels["storeKvF32"] =>
    (pages, offset, k, v, nTokens, stride, position, nKvHeads, headDim) => {
      const tileBytes = e.bytes * kvTile(headDim).length, width = Math.ceil(headDim / 8) * 8;
      for (let t = 0; t < nTokens; ++t) {
        const slot = (position + t) % PAGE_POSITIONS;
        for (let head = 0; head < nKvHeads; ++head) {
          const page = pageOf(pages, position + t) + offset + head * tileBytes,
            from = t * stride + head * headDim;
          for (let i = 0; i < headDim; ++i) {
            e.write(place(e, "k", page, slot, i, headDim), views().f32[(k >>> 2) + from + i]!);
            e.write(place(e, "v", page, slot, i, headDim), views().f32[(v >>> 2) + from + i]!);
          }
          for (let i = headDim; i < width; ++i) e.write(place(e, "v", page, slot, i, headDim), 0);
        }
      }
    };

  const attention =
    (e: Elements): Kernels["attentionF32"] =>
    (out, q, pages, offset, _scratch, position, nTokens, outStride, qStride, group, headDim) => {
      for (let t = 0; t < nTokens; ++t) {
        const nPositions = position + t + 1;
        const at = (part: "k" | "v", p: number, i: number): number =>
          e.read(place(e, part, pageOf(pages, p) + offset, p % PAGE_POSITIONS, i, headDim));
        for (let head = 0; head < group; ++head) {
          const query = (q >>> 2) + t * qStride + head * headDim,
            to = (out >>> 2) + t * outStride + head * headDim;
          const scores = Float64Array.from({ length: nPositions }, (_, p) => {
            let dot = 0;
            for (let i = 0; i < headDim; ++i) dot += views().f32[query + i]! * at("k", p, i);
            return dot / Math.sqrt(headDim);
          });
          const largest = scores.reduce((a, b) => Math.max(a, b), -Infinity);
          const weights = scores.map((score) => Math.exp(score - largest));
          const total = weights.reduce((a, b) => a + b, 0);
          for (let i = 0; i < headDim; ++i) {
            let sum = 0;
            for (let p = 0; p < nPositions; ++p) sum += weights[p]! * at("v", p, i);
            views().f32[to + i] = sum / total;
          }
        }
      }
    };

  return {
    storeKvF32: store(f32),
    storeKvBf16: store(bf16),
    attentionF32: attention(f32),
    attentionBf16: attention(bf16),
  };
}
