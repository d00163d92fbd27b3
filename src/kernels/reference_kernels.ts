import type { Kernels } from "./kernels.ts";
import { attentionKernels } from "./reference/attention.ts";
import { floatKernels } from "./reference/float.ts";
import { gemmKernels } from "./reference/gemm.ts";
import { int4Kernels } from "./reference/int4.ts";
import { int8Kernels } from "./reference/int8.ts";
import { packKernels } from "./reference/pack.ts";
import { quadKernels } from "./reference/quad.ts";
import { selectKernels } from "./reference/select.ts";
import { vectorKernels } from "./reference/vectors.ts";

/**
 * The scalar twin of every kernel: plain loops and float64 sums, rounded to f32 when stored, over the layouts of the
 * baseline build. It is what the SIMD kernels are held against, and 10 to 100 times slower.
 *
 * Integer results (quantised activations, packed weights, integer sums) are those of the baseline build bit for bit;
 * `exp`, `sin`, `cos` and `pow` are JavaScript's, whose last bits differ between engines.
 *
 * @param memory What pointers point into; it may grow between calls.
 * @returns All kernels; nothing is kept in the memory, so everything from byte 1,024 is free.
 */
export function createReferenceKernels(memory: WebAssembly.Memory): Kernels {
  return {
    build: "reference",
    memory,
    heapBase: () => 1024,
    ...vectorKernels(memory),
    ...attentionKernels(memory),
    ...selectKernels(memory),
    ...floatKernels(memory),
    ...int8Kernels(memory),
    ...int4Kernels(memory),
    ...quadKernels(memory),
    ...gemmKernels(memory),
    ...packKernels(memory),
  };
}
