/** Weights as floats, one tensor at a time, outside the model's own memory. */
import { FormatError } from "../errors.ts";
import { blockOf, readTensor, type Tensor } from "../format/checkpoint.ts";
import { Arena } from "../kernels/arena.ts";
import { readStoredRows } from "../format/stored_matrix.ts";
import type { Kernels } from "../kernels/kernels.ts";
import { createWasmKernels } from "../kernels/wasm_kernels.ts";

/** Decodes tensors with kernels on a small memory of their own. */
export class TensorReader {
  readonly #k: Kernels;
  #arena: Arena;
  #room = 0;
  #at = 0;

  private constructor(kernels: Kernels) {
    this.#k = kernels;
    this.#arena = new Arena(kernels.memory, kernels.heapBase());
  }

  /** @param module a build of the kernels */
  static async create(module: WebAssembly.Module): Promise<TensorReader> {
    return new TensorReader(
      await createWasmKernels(module, new WebAssembly.Memory({ initial: 1 })),
    );
  }

  /**
   * The tensor's values, row-major.
   *
   * @throws {FormatError} If one is not finite.
   */
  async read(tensor: Tensor): Promise<Float32Array> {
    const { type, stored } = tensor,
      count = tensor.shape.reduce((a, b) => a * b, 1),
      { values, bytes } = blockOf(type);
    if (type === "I8") return await readStoredRows(stored!.matrix, stored!.output, tensor.shape[0]!);
    const data = await readTensor(tensor);
    if (type === "F32") return new Float32Array(data.slice().buffer, 0, count);
    const rawBytes = Math.ceil(data.length / 64) * 64, wanted = rawBytes + 4 * count;
    if (wanted > this.#room) {
      this.#arena = new Arena(this.#k.memory, this.#k.heapBase());
      this.#at = this.#arena.allocate(wanted);
      this.#room = wanted;
    }
    new Uint8Array(this.#k.memory.buffer, this.#at, data.length).set(data);
    const out = this.#at + rawBytes, bad = this.#k.dequantize(type, out, this.#at, count / values);
    if (bad >= 0) {
      throw new FormatError(
        tensor.file,
        tensor.offset + bad * bytes,
        `block ${bad} of ${tensor.name} holds a value that is not finite`,
      );
    }
    return new Float32Array(this.#k.memory.buffer, out, count).slice();
  }
}
