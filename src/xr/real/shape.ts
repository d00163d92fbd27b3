/**
 * A model's matrix products in its own shapes: patches of a convolution as rows (im2col), times weights, by the kernels that prompts of language models go
 * through. Weights and inputs are seeded random numbers, so outputs mean nothing.
 */
import { Arena } from "../../kernels/arena.ts";
import { GROUP, type Kernels, padTo } from "../../kernels/kernels.ts";
import { chooseBuild, loadKernelModule, newMemory } from "../../kernels/probe.ts";
import { createWasmKernels } from "../../kernels/wasm_kernels.ts";
import { Random } from "../../runtime/random.ts";
import type { ShapeDtype } from "./bindings.ts";
import type { Product } from "./tiers.ts";

/** Rows that are multiplied at a time, as for prompts. */
const ROWS = 128;
/** Outputs a panel. */
const PANEL = 8;
/** Random numbers that are drawn; weights are these over and over. */
const TILE = 1 << 16;

/** A product with its place in memory. */
interface Placed {
  readonly product: Product;
  /** Padded as the type's kernels want it. */
  readonly nIn: number;
  readonly panels: number;
  /** By group, then panel: f32[nIn, 8], or i8[nIn / 2, 8, 2]. */
  readonly weights: number;
}

/** Buffers that all products share. */
interface Buffers {
  /** f32, the widest input with its padding. */
  readonly input: number;
  /** f32[ROWS, nIn]: patches. */
  readonly rows: number;
  readonly packed: number;
  readonly tokenScale: number;
  readonly tokenSum: number;
  readonly ones: number;
  /** f32[nIn / 32, 8] of a panel: scales, and mins that are 0. */
  readonly scale: number;
  readonly min: number;
  /** f32[ROWS, nOut]. */
  readonly output: number;
}

/** Products, ready to run. */
export class ShapeModel {
  readonly #kernels: Kernels;
  readonly #dtype: ShapeDtype;
  readonly #products: readonly Placed[];
  readonly #buffers: Buffers;
  /** Bytes of weights. */
  readonly weightBytes: number;

  private constructor(
    kernels: Kernels,
    dtype: ShapeDtype,
    products: readonly Placed[],
    buffers: Buffers,
    weightBytes: number,
  ) {
    this.#kernels = kernels;
    this.#dtype = dtype;
    this.#products = products;
    this.#buffers = buffers;
    this.weightBytes = weightBytes;
  }

  /** Makes weights and buffers. @throws {RangeError} If they don't fit into 4 GiB, or what the runtime gives. */
  static async open(products: readonly Product[], dtype: ShapeDtype, seed: number): Promise<ShapeModel> {
    const memory = newMemory(false);
    const kernels = await createWasmKernels(await loadKernelModule(chooseBuild("auto")), memory);
    const arena = new Arena(memory, kernels.heapBase()), random = new Random(seed);
    const most = (of: (product: Product) => number): number =>
      products.reduce((n, product) => Math.max(n, of(product)), 1);
    const padded = (nIn: number): number => dtype === "f32" ? nIn : padTo(nIn, GROUP);
    const nIn = most((product) => padded(product.nIn)), nOut = padTo(most((product) => product.nOut), PANEL);
    const floats = (n: number): number => arena.allocate(4 * n);
    const buffers = {
      input: floats(most(({ inputs }) => inputs)),
      rows: floats(ROWS * nIn),
      packed: floats(ROWS * nIn),
      tokenScale: floats(ROWS * nIn / GROUP),
      tokenSum: floats(ROWS * nIn / GROUP),
      ones: floats(nIn),
      scale: floats(PANEL * nIn / GROUP),
      min: floats(PANEL * nIn / GROUP),
      output: floats(ROWS * nOut),
    };
    const bytes = dtype === "f32" ? 4 : 1;
    const sizes = products.map((product) =>
      product.groups * padded(product.nIn) * padTo(product.nOut, PANEL) * bytes
    );
    const weightBytes = sizes.reduce((sum, n) => sum + n, 0);
    arena.reserve(weightBytes + 64 * products.length);
    const placed = products.map((product, i): Placed => ({
      product,
      nIn: padded(product.nIn),
      panels: padTo(product.nOut, PANEL) / PANEL,
      weights: arena.allocate(sizes[i]!),
    }));
    const { buffer } = memory, tile = new Float32Array(TILE);
    for (let i = 0; i < TILE; i++) tile[i] = random.uniform() - 0.5;
    const fill = (at: number, n: number): void => repeat(new Float32Array(buffer, at, n), tile);
    fill(buffers.input, most(({ inputs }) => inputs));
    new Float32Array(buffer, buffers.ones, nIn).fill(1);
    new Float32Array(buffer, buffers.scale, PANEL * nIn / GROUP).fill(1 / 128);
    const bytesTile = Int8Array.from(tile, (x) => Math.floor(254 * x));
    placed.forEach(({ weights }, i) => {
      if (dtype === "f32") fill(weights, sizes[i]! / 4);
      else repeat(new Int8Array(buffer, weights, sizes[i]!), bytesTile);
    });
    return new ShapeModel(kernels, dtype, placed, buffers, weightBytes);
  }

  /** Runs all products once. */
  run(): void {
    for (const placed of this.#products) {
      for (let group = 0; group < placed.product.groups; group++) this.#multiply(placed, group);
    }
  }

  /** The outputs of the last rows that were computed, a copy: for tests. */
  lastOutputs(n: number): Float32Array {
    return new Float32Array(this.#kernels.memory.buffer, this.#buffers.output, n).slice();
  }

  #multiply(placed: Placed, group: number): void {
    const { product, nIn, panels, weights } = placed, k = this.#kernels, b = this.#buffers;
    const panelBytes = (this.#dtype === "f32" ? 4 : 1) * PANEL * nIn, stride = PANEL * panels;
    const first = weights + group * panels * panelBytes;
    for (let from = 0; from < product.rows; from += ROWS) {
      const n = Math.min(ROWS, product.rows - from);
      const x = this.#patches(placed, group, from, n);
      k.fillZeroF32(b.output, padTo(n, 4) * stride);
      if (this.#dtype === "f32") {
        k.packTokensF32(b.packed, x, n, nIn, nIn);
        for (let p = 0; p < panels; p++) {
          k.gemmF32(b.output + 4 * PANEL * p, b.packed, first + p * panelBytes, n, stride, nIn);
        }
      } else {
        k.packTokensI16(b.packed, b.tokenScale, b.tokenSum, x, b.ones, n, nIn, nIn);
        for (let p = 0; p < panels; p++) {
          const y = b.output + 4 * PANEL * p, panel = first + p * panelBytes;
          k.gemmI16(y, b.packed, b.tokenScale, b.tokenSum, panel, b.scale, b.min, n, stride, nIn);
        }
      }
    }
  }

  /** Rows of patches f32[n, nIn]; where a patch is one whole pixel after the other, as they lie in the input. */
  #patches({ product, nIn }: Placed, group: number, from: number, n: number): number {
    const { input, rows } = this.#buffers, { groups, patch } = product;
    const { width, channels, outWidth, stride, kernelHeight, kernelWidth } = patch;
    const isPlain = kernelHeight === 1 && kernelWidth === 1 && stride === 1 && groups === 1;
    if (isPlain && nIn === channels) return input + 4 * from * channels;
    const floats = new Float32Array(this.#kernels.memory.buffer), own = channels / groups;
    const source = input / 4, target = rows / 4;
    for (let i = 0; i < n; i++) {
      const y = Math.floor((from + i) / outWidth) * stride, x = ((from + i) % outWidth) * stride;
      let to = target + i * nIn;
      for (let r = 0; r < kernelHeight; r++) {
        const line = source + ((y + r) * width + x) * channels;
        if (groups === 1) {
          floats.copyWithin(to, line, line + kernelWidth * channels);
          to += kernelWidth * channels;
          continue;
        }
        for (let s = 0; s < kernelWidth; s++) {
          const at = line + s * channels + group * own;
          for (let c = 0; c < own; c++) floats[to++] = floats[at + c]!;
        }
      }
      floats.fill(0, to, target + (i + 1) * nIn);
    }
    return rows;
  }
}

/** Fills with a tile, over and over. */
function repeat<T extends Float32Array | Int8Array>(target: T, tile: T): void {
  for (let at = 0; at < target.length; at += tile.length) {
    target.set(tile.subarray(0, Math.min(tile.length, target.length - at)), at);
  }
}
