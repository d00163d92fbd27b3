/** Kernels as threads are told to run them: calls written down instead of made. */
import type { Kernels } from "./kernels.ts";
import { methodsOf, type WasmKernelOptions } from "./wasm_kernels.ts";

/**
 * Kernels that a part may call: the number that `assembly/team.ts` knows it by, and what its arguments are: `i` an integer or a pointer, `f`
 * an f32, `s` an offset into the thread's own scratch.
 */
export const PART_KERNELS = {
  fillZeroF32: [1, "ii"],
  addF32: [2, "iii"],
  rmsNormF32: [3, "iiiif"],
  siluMulF32: [4, "iiii"],
  ropeF32: [5, "iiiiii"],
  attentionF32: [6, "iiiisiiiiii"],
  attentionBf16: [7, "iiiisiiiiii"],
  gemvChannelsF32: [8, "iiiiiii"],
  gemvChannelsBf16: [9, "iiiiiii"],
  gemvRowsF32: [10, "iiiii"],
  gemvRowsBf16: [11, "iiiiis"],
  gemvChannelsI8: [12, "iiiiiii"],
  gemvChannelsI8Six: [13, "iiiiiii"],
  finishChannelsI8: [14, "iiifii"],
  gemvPairsI8: [15, "iiiifiii"],
  gemvGroupI4: [16, "iiiiiiis"],
  gemvGroupI4List: [17, "iiiiiiis"],
  gemvGroupI4ListPlain: [18, "iiiiiiis"],
  scaleRowsF32: [19, "iii"],
  gemvQuadI4: [20, "iiiiiii"],
  packTokensF32: [21, "iiiii"],
  unpackChannelsF32: [22, "siiii"],
  unpackChannelsBf16: [23, "siiii"],
  unpackRowsF32: [24, "siiii"],
  unpackRowsBf16: [25, "siiii"],
  gemmF32: [26, "iisiii"],
  packTokensI16: [27, "iiiiiiii"],
  unpackGroupI4: [28, "sssiiiiii"],
  unpackQuadI4: [29, "siiiii"],
  unpackChannelsI8: [30, "sssiiiii"],
  unpackPairsI8: [31, "sssiiii"],
  gemmI16: [32, "iiiisssiii"],
  gemvAllChannelsF32: [33, "iiiii"],
  gemvAllChannelsBf16: [34, "iiiii"],
  packTokensQuadI4: [35, "iiiii"],
  unpackGroupQuadI4: [36, "siiiiii"],
  gemmQuadI4: [37, "iisiiiii"],
  unpackPairsF32: [38, "siiiiii"],
} as const;

/** The kernels that a part of a step may call. They return nothing: what a part finds is in the memory. */
export type PartKernels = Pick<Kernels, keyof typeof PART_KERNELS & keyof Kernels>;

/** Writes calls into a job. The job's memory stays where it is, so views are made once. */
export class Recorder {
  /** Write their call down. */
  readonly kernels: PartKernels;
  readonly #u32: Uint32Array;
  readonly #f32: Float32Array;
  #at = 0;

  /**
   * @param job      byte offset of the job
   * @param jobBytes its size
   * @param options  those of the kernels
   */
  constructor(memory: WebAssembly.Memory, job: number, jobBytes: number, options: WasmKernelOptions) {
    this.#u32 = new Uint32Array(memory.buffer, job, jobBytes / 4);
    this.#f32 = new Float32Array(memory.buffer, job, jobBytes / 4);
    const writers: { [name: string]: (...args: number[]) => void } = {};
    for (const [name, [number, types]] of Object.entries(PART_KERNELS)) {
      writers[name] = this.#writer(number, types);
    }
    this.kernels = methodsOf(writers, options) as unknown as PartKernels;
  }

  /** Begins a job of `parts` parts. */
  begin(parts: number): void {
    this.#at = parts;
  }

  /** Begins a part; parts come in order. */
  beginPart(part: number): void {
    this.#u32[part] = 4 * this.#at;
  }

  /** Ends a part. @throws {RangeError} If the job has no room for it. */
  endPart(): void {
    this.#u32[this.#at++] = 0;
    if (this.#at > this.#u32.length) {
      throw new RangeError(`a step's calls take ${4 * this.#at} bytes, ${4 * this.#u32.length} there are`);
    }
  }

  /** A kernel's method. */
  #writer(number: number, types: string): (...args: number[]) => void {
    const u32 = this.#u32, f32 = this.#f32, size = 1 + types.length;
    if (types.includes("f")) {
      return (...args) => {
        u32[this.#at] = number;
        for (let i = 0; i < types.length; i++) (types[i] === "f" ? f32 : u32)[this.#at + 1 + i] = args[i]!;
        this.#at += size;
      };
    }
    // all eleven whatever the kernel has: the next call begins over what is too much
    return (a, b, c, d, e, f, g, h, i, j, k) => {
      const at = this.#at;
      u32[at] = number;
      u32[at + 1] = a!;
      u32[at + 2] = b!;
      u32[at + 3] = c!;
      u32[at + 4] = d!;
      u32[at + 5] = e!;
      u32[at + 6] = f!;
      u32[at + 7] = g!;
      u32[at + 8] = h!;
      u32[at + 9] = i!;
      u32[at + 10] = j!;
      u32[at + 11] = k!;
      this.#at = at + size;
    };
  }
}
