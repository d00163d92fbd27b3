/** Made-up inputs of projections, the same ones in every benchmark of kernels. */
import { Random } from "../../runtime/random.ts";

/** Different activations that take turns, so that no list of channels is the last one's. */
export const INPUTS = 8;

/**
 * Activations of a projection with so many inputs: normal, one in a hundred 15 times as large.
 *
 * @returns f32[INPUTS, nIn]
 */
export function benchActivations(nIn: number): Float32Array {
  let values = activations.get(nIn);
  if (values === undefined) {
    const random = new Random(nIn);
    values = Float32Array.from({ length: INPUTS * nIn }, () => {
      let sum = -6;
      for (let i = 0; i < 12; i++) sum += random.uniform();
      return random.uniform() < 0.01 ? 15 * sum : sum;
    });
    activations.set(nIn, values);
  }
  return values;
}

/** Those that were made: each matrix of each block asks for them. */
const activations = new Map<number, Float32Array>();

/** The threshold that leaves a share of {@linkcode benchActivations} active. */
export function benchThreshold(nIn: number, sparsity: number): number {
  const sizes = benchActivations(nIn).map(Math.abs).sort();
  return sizes[Math.floor(sizes.length * sparsity)]!;
}
