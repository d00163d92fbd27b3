/** A model as one file: see `format/pack.ts`. */
import { blockOf, readTensor, type Tensor } from "../format/checkpoint.ts";
import { MAX_WIDTH } from "../format/limits.ts";
import { type PackInput, writePack } from "../format/pack.ts";
import { Arena } from "../kernels/arena.ts";
import { readStoredRows } from "../format/stored_matrix.ts";
import type { Kernels } from "../kernels/kernels.ts";
import { chooseBuild, loadKernelModule, newMemory } from "../kernels/probe.ts";
import { createWasmKernels } from "../kernels/wasm_kernels.ts";
import { HF_NAMES } from "../model/assemble.ts";
import { projectionPath } from "../model/config.ts";
import type { LlamaDescription } from "../model/llama.ts";
import type { LoadedRecipe } from "../recipe/recipe.ts";
import { recipeHints } from "./apply_recipe.ts";
import type { Weights } from "./layers.ts";
import type { Dtype, Matrix } from "./matrix.ts";
import { embeddingLayout, type PlanOptions, projectionKind, stagingBytes } from "./plan.ts";
import { UNTUNED } from "./tuner.ts";
import { type LoadProgress, WeightLoader } from "./weights.ts";

/** Numbers that are converted at a time, at least a row, and the room for them: as they are stored, or as they will be, and as floats. */
const SLICE_VALUES = MAX_WIDTH, SCRATCH_BYTES = 8 * SLICE_VALUES;

/** What to put into a pack. */
export interface PackOptions {
  /** How weights are kept, as for `Model.load`: it will load with the same. */
  readonly dtype: Dtype | "auto";
  /** SHA-256 of the model's weights: recipes for it are recipes for the pack. */
  readonly modelHash: string;
  /** A recipe that fits the model, and its file's bytes. */
  readonly recipe?: {
    readonly loaded: LoadedRecipe & { readonly sha256: string };
    readonly bytes: Uint8Array;
  } | null;
  /** What is said of it; default: what the model's file says. */
  readonly name?: string;
  readonly license?: string;
  readonly card?: string;
  readonly onProgress?: LoadProgress;
  readonly signal?: AbortSignal;
}

/** A pack's chunks, and what they hold. */
export interface Packed {
  readonly chunks: readonly Uint8Array[];
  readonly bytes: number;
  readonly sections: readonly { readonly name: string; readonly bytes: number }[];
  /** What a user should know: a dtype that loses precision. */
  readonly warnings: readonly string[];
}

/**
 * Packs a model. int8 is kept as the kernels read it, by channels: of the two layouts it is the one that skips, reads dense at 0.8 of the other's speed and becomes
 * it in one pass over the bytes. Others are rows or the file's own blocks, as what their kernels want differs from build to build and with the recipe.
 *
 * @throws {FormatError} If a weight is not finite.
 * @throws {RangeError} If memory does not suffice: int8 is made of a whole matrix at a time.
 */
export async function packModel(model: LlamaDescription, options: PackOptions): Promise<Packed> {
  const { dtype, recipe = null } = options;
  const memory = newMemory(false);
  const kernels = await createWasmKernels(await loadKernelModule(chooseBuild("baseline")), memory);
  const arena = new Arena(memory, kernels.heapBase());
  // skipping is what a layout by channels is for: every matrix is planned as if some of it were
  const hints = { ...recipeHints(recipe?.loaded ?? null), skips: () => true };
  const plan: PlanOptions = { dtype, recipe: hints, build: "baseline", tuning: UNTUNED };
  const scratch = arena.allocate(SCRATCH_BYTES), staging = arena.allocate(stagingBytes(model, plan));
  const loader = new WeightLoader(
    kernels,
    arena,
    model,
    staging,
    options.onProgress ?? (() => {}),
    options.signal,
  );
  const weights = await loader.load(model, plan);
  const { matrices, tensors } = await new Collector(kernels, weights, model, dtype, scratch).collect();
  const chunks = writePack({
    fields: {
      name: options.name ?? model.name,
      license: options.license ?? model.license,
      card: options.card ?? model.card ?? null,
      modelHash: options.modelHash,
      chatTemplate: model.chatTemplate,
      config: model.config,
    },
    tokenizer: new TextEncoder().encode(JSON.stringify(model.tokenizer)),
    recipe: recipe === null ? null : { bytes: recipe.bytes, sha256: recipe.loaded.sha256 },
    matrices,
    tensors,
  });
  const bytes = chunks.reduce((sum, chunk) => sum + chunk.length, 0),
    [preamble, header, tokenizer] = chunks as [Uint8Array, Uint8Array, Uint8Array];
  const parts = [
    { name: "header", bytes: preamble.length + header.length },
    { name: "tokenizer", bytes: tokenizer.length },
    ...recipe === null ? [] : [{ name: "recipe", bytes: recipe.bytes.length }],
  ];
  const rest = bytes - parts.reduce((sum, part) => sum + part.bytes, 0);
  return { chunks, bytes, sections: [...parts, { name: "weights", bytes: rest }], warnings: loader.warnings };
}

/** Takes every tensor out of memory, or out of its file, as the pack keeps it. */
class Collector {
  readonly #k: Kernels;
  readonly #weights: Weights;
  readonly #model: LlamaDescription;
  readonly #dtype: Dtype | "auto";
  readonly #scratch: number;
  readonly #matrices: PackInput[] = [];
  readonly #tensors: PackInput[] = [];

  /** @param scratch first of `SCRATCH_BYTES` bytes */
  constructor(
    kernels: Kernels,
    weights: Weights,
    model: LlamaDescription,
    dtype: Dtype | "auto",
    scratch: number,
  ) {
    this.#k = kernels;
    this.#scratch = scratch;
    this.#weights = weights;
    this.#model = model;
    this.#dtype = dtype;
  }

  /** In the order in which they will be read. */
  async collect(): Promise<{ matrices: PackInput[]; tensors: PackInput[] }> {
    const model = this.#model, weights = this.#weights;
    await this.#embedding(HF_NAMES.embedding, model.embedding, weights.embedding);
    if (model.lmHead !== model.embedding) {
      await this.#embedding(HF_NAMES.lmHead, model.lmHead, weights.lmHead);
    }
    this.#vector(HF_NAMES.finalNorm, model.finalNorm, weights.finalNorm);
    for (const [l, { attentionNorm, mlpNorm, sites }] of weights.layers.entries()) {
      const tensors = model.layers[l]!;
      this.#vector(HF_NAMES.attentionNorm(l), tensors.attentionNorm, attentionNorm);
      this.#vector(HF_NAMES.mlpNorm(l), tensors.mlpNorm, mlpNorm);
      for (const { matrix, parts } of sites.flat()) {
        const index = matrix.layout === "channels-i8" ? this.#stored(matrix, "channels-i8") : -1;
        for (const { name, offset, bias } of parts) {
          const path = projectionPath(l, name), tensor = tensors.projections[name];
          if (index >= 0) this.#part(`${path}.weight`, tensor, index, offset);
          else await this.#rows(`${path}.weight`, tensor);
          if (bias !== 0) this.#vector(`${path}.bias`, tensors.biases[name]!, bias);
        }
      }
    }
    return { matrices: this.#matrices, tensors: this.#tensors };
  }

  #view(at: number, bytes: number): Uint8Array {
    return new Uint8Array(this.#k.memory.buffer, at, bytes);
  }

  #vector(name: string, { shape }: Tensor, at: number): void {
    this.#tensors.push({ entry: { name, type: "F32", shape }, data: [this.#view(at, 4 * shape[0]!)] });
  }

  async #embedding(name: string, tensor: Tensor, matrix: Matrix): Promise<void> {
    if (embeddingLayout(tensor.type, this.#dtype) !== "pairs-i8") return await this.#rows(name, tensor);
    this.#part(name, tensor, this.#stored(matrix, "pairs-i8"), 0);
  }

  /** Its bytes and scales; returns its number. */
  #stored(
    { nIn, nOut, w, rowScale, channelScale, sizes }: Matrix,
    layout: "channels-i8" | "pairs-i8",
  ): number {
    const data = [this.#view(w, sizes.w), this.#view(rowScale, sizes.rowScale)];
    if (sizes.channelScale > 0) data.push(this.#view(channelScale, sizes.channelScale));
    return this.#matrices.push({ entry: { layout, nIn, nOut }, data }) - 1;
  }

  #part(name: string, { shape }: Tensor, matrix: number, output: number): void {
    this.#tensors.push({ entry: { name, type: "I8", shape, matrix, output }, data: [] });
  }

  /** Rows as the dtype has them: the file's own where it keeps them, else made from its floats. */
  async #rows(name: string, tensor: Tensor): Promise<void> {
    const type = this.#rowType(tensor), { shape } = tensor;
    const data = type === tensor.type || type === "Q4_0" || type === "Q4_1"
      ? await readTensor(tensor)
      : await this.#converted(tensor, type);
    this.#tensors.push({ entry: { name, type, shape }, data: [data] });
  }

  #rowType(tensor: Tensor): "F32" | "BF16" | "Q4_0" | "Q4_1" {
    const isEmbedding = tensor === this.#model.embedding || tensor === this.#model.lmHead;
    if (!isEmbedding && projectionKind(tensor, this.#dtype) === "group-i4") {
      return tensor.type as "Q4_0" | "Q4_1";
    }
    const layout = isEmbedding
      ? embeddingLayout(tensor.type, this.#dtype)
      : projectionKind(tensor, this.#dtype);
    return layout.endsWith("bf16") ? "BF16" : "F32";
  }

  /** As F32 or BF16, rounded as the loader rounds them. */
  async #converted(tensor: Tensor, type: "F32" | "BF16"): Promise<Uint8Array> {
    const k = this.#k,
      [rows, width] = tensor.shape as [number, number],
      step = Math.floor(SLICE_VALUES / width);
    const raw = this.#scratch, floats = raw + 4 * SLICE_VALUES, size = type === "F32" ? 4 : 2;
    const out = new Uint8Array(size * rows * width), { values, bytes } = blockOf(tensor.type);
    for (let first = 0; first < rows; first += step) {
      const count = Math.min(step, rows - first) * width, at = first * width;
      if (tensor.type === "I8") {
        const { matrix, output } = tensor.stored!;
        this.#floats(floats, await readStoredRows(matrix, output + first, count / width));
      } else {
        const data = await readTensor(tensor, at / values * bytes, (at + count) / values * bytes);
        if (tensor.type === "F32") this.#floats(floats, new Float32Array(data.slice().buffer));
        else {
          this.#view(raw, data.length).set(data);
          k.dequantize(tensor.type, floats, raw, count / values);
        }
      }
      if (type === "BF16") k.packBf16(raw, floats, count);
      out.set(this.#view(type === "BF16" ? raw : floats, size * count), size * at);
    }
    return out;
  }

  #floats(at: number, values: Float32Array): void {
    new Float32Array(this.#k.memory.buffer, at, values.length).set(values);
  }
}
