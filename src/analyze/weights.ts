/** A model's weights as its file has them, one projection at a time, and their decompositions. */
import { createSvd, type Svd } from "../calibrate/svd.ts";
import { TensorReader } from "../calibrate/tensor_reader.ts";
import { loadKernelModule } from "../kernels/probe.ts";
import type { LlamaConfig, ProjectionName } from "../model/config.ts";
import type { Model } from "../runtime/model.ts";
import { nextTurn } from "../runtime/turn.ts";

/** Reads weights outside the model's own memory. */
export class WeightReader {
  readonly svd: Svd;
  readonly #model: Model;
  readonly #reader: TensorReader;
  readonly #signal: AbortSignal | undefined;

  private constructor(model: Model, svd: Svd, reader: TensorReader, signal: AbortSignal | undefined) {
    this.#model = model;
    this.svd = svd;
    this.#reader = reader;
    this.#signal = signal;
  }

  /** @param signal is looked at before each projection */
  static async create(model: Model, signal?: AbortSignal): Promise<WeightReader> {
    const module = await loadKernelModule("baseline");
    return new WeightReader(model, await createSvd(module), await TensorReader.create(module), signal);
  }

  /** Of the model. */
  get config(): LlamaConfig {
    return this.#model.config;
  }

  /** f32[nOut, nIn]. @throws The signal's reason; {FormatError} if a weight is not finite. */
  async read(layer: number, name: ProjectionName): Promise<Float32Array> {
    // what was measured before held the thread: a signal that came meanwhile is handled in this turn
    await nextTurn();
    this.#signal?.throwIfAborted();
    return await this.#reader.read(this.#model.description.layers[layer]!.projections[name]);
  }
}
