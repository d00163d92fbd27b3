/** Weights from a file straight into the runtime's memory, slice by slice, each tensor in the layout its dtype asks for. */
import { FormatError } from "../errors.ts";
import { BLOCK, readTensor, type StorageType, type Tensor } from "../format/checkpoint.ts";
import type { Arena } from "../kernels/arena.ts";
import { type Kernels, MAX_LIST_CHANNELS, padTo } from "../kernels/kernels.ts";
import { type LlamaConfig, type ProjectionName, projectionPath, PROJECTIONS } from "../model/config.ts";
import type { LlamaDescription } from "../model/llama.ts";
import type { Layer, Projection, Weights } from "./forward.ts";
import { type Dtype, type Layout, type Matrix, planMatrix } from "./matrix.ts";

/** Bytes of a file read at once, and of the floats they become. */
const SLICE_BYTES = 2 ** 21;

/** What loading reports as it goes. */
export type LoadProgress = (loadedBytes: number, totalBytes: number) => void;

/**
 * Where a projection goes under a dtype; `auto` keeps what the file has as closely as a kernel can read it. Four-bit weights with more
 * channels than a list takes go to int8.
 *
 * @param sparsity what a recipe will skip of it; 0 without one
 */
export function projectionLayout(
  tensor: Pick<Tensor, "type" | "shape">,
  dtype: Dtype | "auto",
  sparsity: number,
): Layout {
  const { type } = tensor, [nOut, nIn] = tensor.shape as readonly [number, number];
  const int8 = skipPaysI8(nOut, sparsity) ? "channels-i8" : "pairs-i8";
  const fourBit = (type === "Q4_0" || type === "Q4_1") && padTo(nIn, 64) <= MAX_LIST_CHANNELS;
  if (dtype === "auto") {
    if (type === "F32") return "channels-f32";
    if (type === "BF16" || type === "F16") return "channels-bf16";
    return fourBit ? "group-i4" : int8;
  }
  if (dtype === "f32") return "channels-f32";
  if (dtype === "bf16") return "channels-bf16";
  // int4 is the file's own groups; what the file does not hold in 4 bits stays at 8
  return dtype === "int4" && fourBit ? "group-i4" : int8;
}

/**
 * Whether int8 columns of nOut bytes are skipped faster than the dense kernel reads them all. From DRAM a jump costs as much as streaming
 * 5 to 10 KB, so short columns never pay: SmolLM2 at 50 % ran at 0.56 of dense, at 70 % (79 % measured) at 1.09 (Deno); the larger sizes
 * are those of the kernel prototypes, one projection at a time. Where it does not pay, channels that are not active are set to 0 and read.
 */
function skipPaysI8(nOut: number, sparsity: number): boolean {
  return sparsity >= (nOut >= 8192 ? 0.45 : nOut >= 3072 ? 0.6 : 0.75);
}

/** The same for the embedding and the head. */
export function embeddingLayout(type: StorageType, dtype: Dtype | "auto"): Layout {
  if (dtype === "f32" || (dtype === "auto" && type === "F32")) return "rows-f32";
  if (dtype === "bf16" || (dtype === "auto" && (type === "BF16" || type === "F16"))) return "rows-bf16";
  return "pairs-i8";
}

/** Scratch that loading needs: the largest slice raw, and as floats (a whole matrix where int8 balances its scales). */
export function stagingBytes(model: LlamaDescription, dtype: Dtype | "auto"): number {
  let floats = 0;
  for (const tensor of everyTensor(model)) {
    const nIn = tensor.shape[tensor.shape.length - 1]!;
    const whole = tensor.shape.length === 2 &&
      projectionLayout(tensor, dtype, 0) === "pairs-i8" &&
      tensor !== model.embedding && tensor !== model.lmHead;
    floats = Math.max(floats, 4 * nIn * (whole ? tensor.shape[0]! : stagedRows(tensor)));
  }
  return rawBytes(model) + padTo(floats, 64) + 64;
}

/** The part of it where slices lie as they are in the file; floats come after it. */
function rawBytes(model: LlamaDescription): number {
  let bytes = 0;
  for (const tensor of everyTensor(model)) bytes = Math.max(bytes, rowBytes(tensor) * stagedRows(tensor));
  return padTo(bytes, 64);
}

/** Rows of a tensor that lie in staging together, whole blocks of 64. */
function stagedRows(tensor: Tensor): number {
  return padTo(Math.min(tensor.shape.length === 2 ? tensor.shape[0]! : 1, sliceRows(tensor)), 64);
}

function* everyTensor(model: LlamaDescription): Iterable<Tensor> {
  yield model.embedding;
  if (model.lmHead !== model.embedding) yield model.lmHead;
  yield model.finalNorm;
  for (const layer of model.layers) {
    yield layer.attentionNorm;
    yield layer.mlpNorm;
    for (const name of PROJECTIONS) {
      yield layer.projections[name];
      const bias = layer.biases[name];
      if (bias !== undefined) yield bias;
    }
  }
}

/** How a matrix will lie in memory, and which scales it has. */
function planTensor(
  tensor: Tensor,
  layout: Layout,
  balanced: boolean,
): { plan: ReturnType<typeof planMatrix>; mins: boolean; rowScale: boolean; channelScale: boolean } {
  const mins = layout === "group-i4" && tensor.type === "Q4_1",
    channelScale = balanced && (layout === "channels-i8" || layout === "pairs-i8"),
    rowScale = layout === "channels-i8" || layout === "pairs-i8" || layout === "group-i4";
  const [nOut, nIn] = tensor.shape as [number, number];
  return { plan: planMatrix(layout, nIn, nOut, { mins, channelScale }), mins, rowScale, channelScale };
}

/** About what all weights will take, padding included. */
function plannedBytes(model: LlamaDescription, dtype: Dtype | "auto"): number {
  // up to five parts a matrix, each padded to 64 bytes
  const padding = 5 * 64;
  let bytes = 0;
  for (const tensor of everyTensor(model)) {
    const isHead = tensor === model.embedding || tensor === model.lmHead;
    const layout = isHead ? embeddingLayout(tensor.type, dtype) : projectionLayout(tensor, dtype, 0);
    bytes += tensor.shape.length === 2
      ? planTensor(tensor, layout, !isHead).plan.bytes + padding
      : 4 * padTo(tensor.shape[0]!, 64);
  }
  return bytes;
}

function rowBytes(tensor: Tensor): number {
  const { values, bytes } = BLOCK[tensor.type];
  return (tensor.shape[tensor.shape.length - 1]! / values) * bytes;
}

/** Rows a slice: a multiple of 64, the outputs of a block. */
function sliceRows(tensor: Tensor): number {
  const nIn = tensor.shape[tensor.shape.length - 1]!;
  return Math.max(64, Math.floor(SLICE_BYTES / Math.max(4 * nIn, rowBytes(tensor)) / 64) * 64);
}

/** Reads every tensor of a model. */
export class WeightLoader {
  readonly #k: Kernels;
  readonly #arena: Arena;
  readonly #raw: number;
  readonly #floats: number;
  readonly #progress: LoadProgress;
  readonly #signal: AbortSignal | undefined;
  #loaded = 0;
  #total = 0;
  /** Bytes of all matrices, norms and biases in memory. */
  bytes = 0;
  /** What a user should know: a dtype that loses precision. */
  readonly warnings: string[] = [];

  /** @param staging first of `stagingBytes(model, dtype)` bytes */
  constructor(
    kernels: Kernels,
    arena: Arena,
    model: LlamaDescription,
    staging: number,
    progress: LoadProgress,
    signal?: AbortSignal,
  ) {
    this.#k = kernels;
    this.#arena = arena;
    this.#raw = padTo(staging, 64);
    this.#progress = progress;
    this.#signal = signal;
    for (const tensor of everyTensor(model)) this.#total += tensor.byteLength;
    this.#floats = this.#raw + rawBytes(model);
  }

  /**
   * Loads all weights.
   *
   * @param sparsityOf what a recipe will skip of the projection with this path; 0 for none
   * @throws {FormatError} If a tensor holds a value that is not finite; says which block.
   */
  async load(
    model: LlamaDescription,
    dtype: Dtype | "auto",
    sparsityOf: (path: string) => number,
  ): Promise<Weights> {
    const { config } = model;
    this.#arena.reserve(plannedBytes(model, dtype));
    const embedding = await this.#matrix(model.embedding, embeddingLayout(model.embedding.type, dtype));
    const lmHead = model.lmHead === model.embedding
      ? embedding
      : await this.#matrix(model.lmHead, embeddingLayout(model.lmHead.type, dtype));
    const finalNorm = await this.#vector(model.finalNorm);
    if (
      dtype === "int4" &&
      model.layers.some((layer) =>
        PROJECTIONS.some((name) => projectionLayout(layer.projections[name], dtype, 0) !== "group-i4")
      )
    ) {
      this.#warnOnce(
        "int4 keeps a file's own 4-bit groups: projections that the file does not hold in Q4_0 or Q4_1 are int8",
      );
    }
    const layers: Layer[] = [];
    for (let l = 0; l < model.layers.length; l++) {
      const tensors = model.layers[l]!;
      const attentionNorm = await this.#vector(tensors.attentionNorm),
        mlpNorm = await this.#vector(tensors.mlpNorm);
      const projections = {} as { [name in ProjectionName]: Projection };
      for (const name of PROJECTIONS) {
        const tensor = tensors.projections[name], bias = tensors.biases[name];
        projections[name] = {
          name,
          layer: l,
          matrix: await this.#matrix(
            tensor,
            projectionLayout(tensor, dtype, sparsityOf(projectionPath(l, name))),
            true,
          ),
          bias: bias === undefined ? 0 : await this.#vector(bias),
          rule: null,
        };
      }
      layers.push({ attentionNorm, mlpNorm, projections });
    }
    return { config, embedding, lmHead, finalNorm, ropeFrequencies: this.#rope(config), layers };
  }

  #place(bytes: number): number {
    this.bytes += bytes;
    return this.#arena.allocate(bytes);
  }

  async #vector(tensor: Tensor): Promise<number> {
    const n = tensor.shape[tensor.shape.length - 1]!, at = this.#place(4 * padTo(n, 64));
    await this.#read(tensor, 0, 1, this.#floats);
    new Uint8Array(this.#k.memory.buffer).copyWithin(at, this.#floats, this.#floats + 4 * n);
    return at;
  }

  /** @param balanced int8 gets a channel scale beside the row's; projections only, as it takes the whole matrix at once */
  async #matrix(tensor: Tensor, layout: Layout, balanced = false): Promise<Matrix> {
    const nOut = tensor.shape[0]!, nIn = tensor.shape[1]!, k = this.#k;
    const { plan, mins, rowScale, channelScale } = planTensor(tensor, layout, balanced),
      { nInPadded, nOutPadded, chunk } = plan;
    if (tensor.type === "F16" && (layout === "channels-bf16" || layout === "rows-bf16")) {
      this.#warnOnce("F16 weights rounded to bf16: 3 bits of precision are lost; --dtype f32 keeps them");
    }
    const minBytes = mins ? (nInPadded / 64) * nOutPadded * 4 : 0,
      outBytes = 4 * nOutPadded,
      inBytes = 4 * nInPadded;
    const scales = (rowScale ? outBytes : 0) + (channelScale ? inBytes : 0) +
      (mins ? minBytes + outBytes : 0);
    const matrix: Matrix = {
      ...plan,
      w: this.#place(plan.bytes - scales),
      rowScale: rowScale ? this.#place(outBytes) : 0,
      channelScale: channelScale ? this.#place(inBytes) : 0,
      mins: mins ? this.#place(minBytes) : 0,
      minScale: mins ? this.#place(outBytes) : 0,
    };
    if (channelScale) {
      await this.#balancedI8(tensor, matrix);
      return matrix;
    }
    const step = sliceRows(tensor);
    for (let first = 0; first < nOut; first += step) {
      const last = Math.min(nOut, first + step);
      if (layout === "group-i4") {
        await this.#raws(tensor, first, last);
        const bytes = rowBytes(tensor), rowBlocks = nIn / BLOCK[tensor.type].values;
        for (let o = first; o < last; o += 64) {
          const bad = k.packGroupI4(
            matrix.w,
            matrix.rowScale,
            matrix.mins,
            matrix.minScale,
            this.#raw + (o - first) * bytes,
            mins ? 1 : 0,
            o,
            Math.min(64, last - o),
            rowBlocks,
            nInPadded,
            chunk,
          );
          if (bad >= 0) throw notFinite(tensor, o * rowBlocks + bad);
        }
        continue;
      }
      const floats = layout === "rows-f32" ? matrix.w + 4 * first * nIn : this.#floats;
      await this.#read(tensor, first, last, floats);
      if (layout === "channels-f32") k.packChannelsF32(matrix.w, floats, first, last - first, nIn, nOut);
      else if (layout === "channels-bf16") {
        k.packChannelsBf16(matrix.w, floats, first, last - first, nIn, nOut);
      } else if (layout === "rows-bf16") k.packBf16(matrix.w + 2 * first * nIn, floats, (last - first) * nIn);
      else if (layout === "pairs-i8") {
        k.packPairsI8(matrix.w, matrix.rowScale, floats, first, last - first, nIn, nInPadded);
      }
    }
    return matrix;
  }

  /** int8 with a row and a channel scale: found over the whole matrix. */
  async #balancedI8(tensor: Tensor, m: Matrix): Promise<void> {
    const k = this.#k, floats = this.#floats;
    await this.#read(tensor, 0, m.nOut, floats);
    new Float32Array(k.memory.buffer, m.rowScale, m.nOutPadded).fill(1);
    new Float32Array(k.memory.buffer, m.channelScale, m.nInPadded).fill(1);
    k.balanceScalesI8(m.rowScale, m.channelScale, floats, m.nOut, m.nIn);
    if (m.layout === "pairs-i8") {
      k.divideColumnsF32(floats, m.channelScale, m.nOut, m.nIn);
      k.packPairsI8(m.w, m.rowScale, floats, 0, m.nOut, m.nIn, m.nInPadded);
      return;
    }
    k.packChannelsI8(m.w, floats, m.rowScale, m.channelScale, m.nOut, m.nIn, m.nOutPadded);
    // channels nIn to nInPadded, which prefill reads, were zero bytes in fresh memory: as weights that is -128 in even outputs
    const pad = new Uint8Array(
      k.memory.buffer,
      m.w + m.nIn * m.nOutPadded,
      (m.nInPadded - m.nIn) * m.nOutPadded,
    );
    for (let i = 0; i < pad.length; i += 2) pad[i] = 128;
  }

  /** Bytes of rows [first, last) to the raw staging. */
  async #raws(tensor: Tensor, first: number, last: number): Promise<void> {
    this.#signal?.throwIfAborted();
    const bytes = tensor.shape.length === 2 ? rowBytes(tensor) : tensor.byteLength;
    const data = await readTensor(tensor, first * bytes, last * bytes);
    if (data.length !== (last - first) * bytes) {
      throw new FormatError(
        tensor.file,
        tensor.offset + first * bytes + data.length,
        `the file ended inside ${tensor.name}: did it change while it was read?`,
      );
    }
    new Uint8Array(this.#k.memory.buffer, this.#raw, data.length).set(data);
    this.#loaded += data.length;
    this.#progress(this.#loaded, this.#total);
  }

  /** Rows [first, last) as floats at `out`; slices of the raw staging's size. */
  async #read(tensor: Tensor, first: number, last: number, out: number): Promise<void> {
    const nIn = tensor.shape[tensor.shape.length - 1]!,
      { values } = BLOCK[tensor.type],
      step = sliceRows(tensor),
      k = this.#k;
    for (let r = first; r < last; r += step, out += 4 * step * nIn) {
      const end = Math.min(last, r + step);
      await this.#raws(tensor, r, end);
      const blocks = ((end - r) * nIn) / values;
      let bad: number;
      if (tensor.type === "F32") {
        new Uint8Array(k.memory.buffer).copyWithin(out, this.#raw, this.#raw + 4 * blocks);
        bad = k.findNonFiniteF32(out, blocks);
      } else bad = k.dequantize(tensor.type, out, this.#raw, blocks);
      if (bad >= 0) throw notFinite(tensor, (r * nIn) / values + bad);
    }
  }

  #warnOnce(text: string): void {
    if (!this.warnings.includes(text)) this.warnings.push(text);
  }

  /** f64[ropeDim / 2]: base frequencies, scaled as the config says. */
  #rope(config: LlamaConfig): number {
    const n = config.ropeDim / 2, at = this.#place(8 * n), k = this.#k, scaling = config.ropeScaling;
    k.ropeFrequenciesF64(at, n, config.ropeTheta);
    const f = new Float64Array(k.memory.buffer, at, n);
    for (let i = 0; i < n; i++) {
      const base = f[i]!;
      if (scaling.type === "linear") f[i] = base / scaling.factor;
      else if (scaling.type === "factors") f[i] = base / scaling.factors[i]!;
      else if (scaling.type === "llama3") {
        const wave = 2 * Math.PI / base,
          { factor, lowFreqFactor: lo, highFreqFactor: hi, originalMaxPositionEmbeddings: trained } = scaling;
        const smooth = (trained / wave - lo) / (hi - lo);
        f[i] = wave > trained / lo
          ? base / factor
          : wave < trained / hi
          ? base
          : (1 - smooth) * base / factor + smooth * base;
      }
    }
    return at;
  }
}

function notFinite(tensor: Tensor, block: number): FormatError {
  const { bytes } = BLOCK[tensor.type];
  return new FormatError(
    tensor.file,
    tensor.offset + block * bytes,
    `block ${block} of ${tensor.name} (${tensor.type}) holds a value that is not finite`,
  );
}
