/**
 * Truncated singular value decomposition in float64, the same bits in every runtime.
 *
 * The Gram matrix of W's shorter side is reduced to tridiagonal form by Householder reflections; its largest
 * eigenvalues come from bisection, their vectors from inverse iteration, the other side from a product with W. One
 * route serves every rank and every spectrum: 1536 x 576 takes 38 ms to rank 10, 45 ms to rank 32, 125 ms to rank 209
 * (EPYC, Deno 2.9), most of it the Gram matrix. Lanczos would save little of that, its single start vector sees one copy
 * of a repeated singular value, and stopping early at the tiny gaps of trained weights mixes the vectors on both sides
 * of the cut. Squaring costs digits only below sigma_1 * 1e-8, where W itself, float32, has none left.
 */
import { largestEigenvalues, tridiagonalVector } from "./tridiagonal.ts";

/** The first triples of W = U diag(S) Vᵀ, largest first. */
export interface TruncatedSvd {
  /** The singular values; 0 for every triple past the numerical rank, with rows of 0 in `u` and `v`. */
  readonly sigma: Float64Array;
  /** f32[rank, nOut]: row k is column k of U times sigma_k. */
  readonly u: Float32Array;
  /** f32[rank, nIn]: row k is column k of V. */
  readonly v: Float32Array;
}

/** A WebAssembly instance with memory of its own, apart from the model's, that computes decompositions. */
export interface Svd {
  /**
   * The first `rank` singular triples of `w`.
   *
   * @param w f32[nOut, nIn], row-major.
   * @param rank 0 to min(nIn, nOut).
   * @throws {RangeError} If a size is wrong or a weight is not finite.
   */
  truncatedSvd(w: Float32Array, nOut: number, nIn: number, rank: number): TruncatedSvd;
  /**
   * All min(nIn, nOut) singular values, largest first, without vectors, in a tenth of the time. Those below 2^-24 of the largest are rounding noise, and 0.
   *
   * @param w f32[nOut, nIn], row-major.
   * @throws {RangeError} If a size is wrong or a weight is not finite.
   */
  singularValues(w: Float32Array, nOut: number, nIn: number): Float64Array;
}

interface SvdKernels {
  heap_base(): number;
  gram_panel_f64(g: number, panel: number, nBlocks: number, nRows: number): void;
  project_panel_f64(y: number, panel: number, z: number, work: number, nBlocks: number, nRows: number): void;
  tridiagonalise_f64(
    d: number,
    e: number,
    h: number,
    a: number,
    work: number,
    n: number,
    stride: number,
    tiny: number,
  ): void;
  orthogonalise_f64(x: number, basis: number, nVectors: number, n: number, stride: number): void;
  back_transform_f64(z: number, a: number, h: number, nVectors: number, n: number, stride: number): void;
}

/** Rows of a panel: 128 x 4 doubles are 4 KiB, so the two runs of a Gram tile stay in the first-level cache. */
const PANEL_ROWS = 128;
/** Below sigma_1 times this a triple is rounding noise: eigenvalues of the Gram matrix are good to 2^-53 of the largest. */
const NOISE = 2 ** -30;
/** The same for values that are roots of eigenvalues, not lengths of what their vectors are taken to. */
const ROOT_NOISE = 2 ** -24;
const PAGE = 65536;

/**
 * Instantiates the kernel module a second time, with a small memory that grows with the largest matrix.
 *
 * @param module The kernels, compiled or as bytes.
 * @example
 * ```ts ignore
 * const svd = await createSvd(await loadKernelModule("baseline"));
 * const { sigma, u, v } = svd.truncatedSvd(weights, 576, 576, 7);
 * ```
 */
export async function createSvd(module: WebAssembly.Module | BufferSource): Promise<Svd> {
  const memory = new WebAssembly.Memory({ initial: 16 });
  const compiled = module instanceof WebAssembly.Module ? module : await WebAssembly.compile(module);
  const instance = await WebAssembly.instantiate(compiled, { env: { memory } });
  const kernels = instance.exports as unknown as SvdKernels;
  return {
    truncatedSvd(w: Float32Array, nOut: number, nIn: number, rank: number): TruncatedSvd {
      checkSizes(w, nOut, nIn, rank);
      return decompose(kernels, memory, w, nOut, nIn, rank);
    },
    singularValues(w: Float32Array, nOut: number, nIn: number): Float64Array {
      checkSizes(w, nOut, nIn, 0);
      return valuesOf(kernels, memory, w, nOut, nIn);
    },
  };
}

function checkSizes(w: Float32Array, nOut: number, nIn: number, rank: number): void {
  if (!(Number.isInteger(nOut) && Number.isInteger(nIn) && nOut > 0 && nIn > 0 && w.length === nOut * nIn)) {
    throw new RangeError(`cannot decompose ${w.length} weights as ${nOut} rows of ${nIn}`);
  }
  if (!(Number.isInteger(rank) && rank >= 0 && rank <= Math.min(nIn, nOut))) {
    throw new RangeError(
      `rank ${rank} of a ${nOut} x ${nIn} matrix wanted, it has 0 to ${Math.min(nIn, nOut)}`,
    );
  }
}

/** W seen from its shorter side: element (long index j, short index i) is `w[j * longStep + i * shortStep]`. */
interface Sides {
  readonly w: Float32Array;
  readonly short: number;
  readonly long: number;
  readonly shortStep: number;
  readonly longStep: number;
}

function sidesOf(w: Float32Array, nOut: number, nIn: number): Sides {
  return nOut < nIn
    ? { w, short: nOut, long: nIn, shortStep: nIn, longStep: 1 }
    : { w, short: nIn, long: nOut, shortStep: 1, longStep: nIn };
}

/** Byte offsets in the instance's memory. */
interface Buffers {
  readonly nBlocks: number;
  readonly stride: number;
  readonly gram: number;
  readonly d: number;
  readonly e: number;
  readonly h: number;
  readonly work: number;
  readonly z: number;
  readonly panel: number;
  readonly y: number;
  readonly sums: number;
}

function decompose(
  kernels: SvdKernels,
  memory: WebAssembly.Memory,
  w: Float32Array,
  nOut: number,
  nIn: number,
  rank: number,
): TruncatedSvd {
  const wide = nOut < nIn, sides = sidesOf(w, nOut, nIn);
  const at = reserve(kernels.heap_base(), memory, sides.short, rank);
  const result: TruncatedSvd = {
    sigma: new Float64Array(rank),
    u: new Float32Array(rank * nOut),
    v: new Float32Array(rank * nIn),
  };
  const trace = gram(kernels, memory, sides, at);
  if (!Number.isFinite(trace)) throw new RangeError(`a weight of the ${nOut} x ${nIn} matrix is not finite`);
  if (trace === 0) return result;
  eigenvectors(kernels, memory, at, sides.short, rank, trace);
  const image = project(kernels, memory, sides, at, rank);
  const norms = rowNorms(image, rank, sides.long);
  // Within a repeated value the norms differ in their last bits from the order of the eigenvalues.
  const order = Array.from(norms.keys()).sort((a, b) => norms[b]! - norms[a]! || a - b);
  const z = new Float64Array(memory.buffer, at.z, rank * at.stride);
  const least = norms[order[0]!]! * NOISE;
  order.forEach((from, k) => {
    const sigma = norms[from]!;
    if (!(sigma > least)) return;
    result.sigma[k] = sigma;
    // z has length 1 and its image length sigma, which belongs to u: where the image is v, it changes sides.
    const [short, long, moved] = wide ? [result.u, result.v, sigma] : [result.v, result.u, 1];
    for (let i = 0; i < sides.short; i++) short[k * sides.short + i] = z[from * at.stride + i]! * moved;
    for (let j = 0; j < sides.long; j++) long[k * sides.long + j] = image[from * sides.long + j]! / moved;
  });
  return result;
}

/** Square roots of the Gram matrix's eigenvalues. */
function valuesOf(
  kernels: SvdKernels,
  memory: WebAssembly.Memory,
  w: Float32Array,
  nOut: number,
  nIn: number,
): Float64Array {
  const sides = sidesOf(w, nOut, nIn), n = sides.short;
  const at = reserve(kernels.heap_base(), memory, n, 0), trace = gram(kernels, memory, sides, at);
  if (!Number.isFinite(trace)) throw new RangeError(`a weight of the ${nOut} x ${nIn} matrix is not finite`);
  if (trace === 0) return new Float64Array(n);
  const { d, e } = tridiagonal(kernels, memory, at, n, trace);
  const values = largestEigenvalues(d, e, n).map((value) => Math.sqrt(Math.max(value, 0)));
  const least = values[0]! * ROOT_NOISE;
  return values.map((value) => value > least ? value : 0);
}

function reserve(base: number, memory: WebAssembly.Memory, n: number, rank: number): Buffers {
  const nBlocks = Math.ceil(n / 4), stride = 4 * nBlocks;
  let end = base;
  const take = (doubles: number): number => {
    const start = end;
    end += Math.ceil(doubles / 8) * 64;
    return start;
  };
  const buffers: Buffers = {
    nBlocks,
    stride,
    gram: take(stride * stride),
    d: take(n),
    e: take(n),
    h: take(n),
    work: take(2 * stride),
    z: take(rank * stride),
    panel: take(nBlocks * PANEL_ROWS * 4),
    y: take(PANEL_ROWS),
    sums: take(2 * PANEL_ROWS),
  };
  const missing = end - memory.buffer.byteLength;
  if (missing > 0) memory.grow(Math.ceil(missing / PAGE));
  return buffers;
}

/** Copies `count` long-side rows from `first` on into the panel, as `assembly/svd.ts` draws it. */
function packPanel(panel: Float64Array, sides: Sides, nBlocks: number, first: number, count: number): void {
  const { w, short, shortStep, longStep } = sides;
  let to = 0;
  for (let block = 0; block < nBlocks; block++) {
    const i = 4 * block, width = Math.min(4, short - i);
    let from = first * longStep + i * shortStep;
    for (let row = 0; row < count; row++) {
      for (let t = 0; t < 4; t++) panel[to + t] = t < width ? w[from + t * shortStep]! : 0;
      to += 4;
      from += longStep;
    }
  }
}

/** Fills the Gram matrix of the short side; returns its trace, the square sum of all weights. */
function gram(kernels: SvdKernels, memory: WebAssembly.Memory, sides: Sides, at: Buffers): number {
  const g = new Float64Array(memory.buffer, at.gram, at.stride * at.stride).fill(0);
  const panel = new Float64Array(memory.buffer, at.panel, at.nBlocks * PANEL_ROWS * 4);
  for (let first = 0; first < sides.long; first += PANEL_ROWS) {
    const count = Math.min(PANEL_ROWS, sides.long - first);
    packPanel(panel, sides, at.nBlocks, first, count);
    kernels.gram_panel_f64(at.gram, at.panel, at.nBlocks, count);
  }
  let trace = 0;
  for (let i = 0; i < sides.short; i++) trace += g[i * at.stride + i]!;
  return trace;
}

/** Reduces the Gram matrix: its diagonal and what is beside that, views of the memory. */
function tridiagonal(
  kernels: SvdKernels,
  memory: WebAssembly.Memory,
  at: Buffers,
  n: number,
  trace: number,
): { readonly d: Float64Array; readonly e: Float64Array } {
  const tiny = (trace * 2 ** -80) ** 2;
  kernels.tridiagonalise_f64(at.d, at.e, at.h, at.gram, at.work, n, at.stride, tiny);
  return { d: new Float64Array(memory.buffer, at.d, n), e: new Float64Array(memory.buffer, at.e, n) };
}

/** Leaves the eigenvectors of the `rank` largest eigenvalues of the Gram matrix in `z`. */
function eigenvectors(
  kernels: SvdKernels,
  memory: WebAssembly.Memory,
  at: Buffers,
  n: number,
  rank: number,
  trace: number,
): void {
  const { d, e } = tridiagonal(kernels, memory, at, n, trace);
  const z = new Float64Array(memory.buffer, at.z, rank * at.stride).fill(0);
  const values = largestEigenvalues(d, e, rank);
  for (let k = 0; k < rank; k++) {
    const x = z.subarray(k * at.stride, k * at.stride + n);
    tridiagonalVector(x, d, e, values[k]!, k, () => {
      kernels.orthogonalise_f64(at.z + k * at.stride * 8, at.z, k, n, at.stride);
    });
  }
  kernels.back_transform_f64(at.z, at.gram, at.h, rank, n, at.stride);
}

/** The vectors in `z` taken to the long side: f64[rank, long]. */
function project(
  kernels: SvdKernels,
  memory: WebAssembly.Memory,
  sides: Sides,
  at: Buffers,
  rank: number,
): Float64Array {
  const image = new Float64Array(rank * sides.long);
  const panel = new Float64Array(memory.buffer, at.panel, at.nBlocks * PANEL_ROWS * 4);
  const y = new Float64Array(memory.buffer, at.y, PANEL_ROWS);
  for (let first = 0; first < sides.long; first += PANEL_ROWS) {
    const count = Math.min(PANEL_ROWS, sides.long - first);
    packPanel(panel, sides, at.nBlocks, first, count);
    for (let k = 0; k < rank; k++) {
      kernels.project_panel_f64(at.y, at.panel, at.z + k * at.stride * 8, at.sums, at.nBlocks, count);
      image.set(y.subarray(0, count), k * sides.long + first);
    }
  }
  return image;
}

function rowNorms(rows: Float64Array, count: number, length: number): Float64Array {
  const norms = new Float64Array(count);
  for (let k = 0; k < count; k++) {
    let sum = 0;
    for (let j = k * length; j < (k + 1) * length; j++) sum += rows[j]! * rows[j]!;
    norms[k] = Math.sqrt(sum);
  }
  return norms;
}
