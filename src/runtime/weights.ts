/** Weights from a file straight into the runtime's memory, slice by slice, each tensor in the layout its dtype asks for. */
import { FormatError } from "../errors.ts";
import { blockOf, readTensor, type Tensor } from "../format/checkpoint.ts";
import { Checksum } from "../format/checksum.ts";
import {
  damaged,
  readStored,
  readStoredRows,
  type StoredLayout,
  type StoredMatrix,
  storedSizes,
} from "../format/stored_matrix.ts";
import type { Arena } from "../kernels/arena.ts";
import { type Kernels, padTo } from "../kernels/kernels.ts";
import type { LlamaConfig } from "../model/config.ts";
import type { LlamaDescription } from "../model/llama.ts";
import type { Layer, Linear, Projection, Weights } from "./forward.ts";
import { type Dtype, type Matrix, type MatrixPlan, packRows, placeMatrix } from "./matrix.ts";
import {
  everyTensor,
  type LinearPlan,
  planEmbedding,
  planLayer,
  plannedBytes,
  type PlanOptions,
  rawBytes,
  rowBytes,
  sliceRows,
} from "./plan.ts";

/** What loading reports as it goes. */
export type LoadProgress = (loadedBytes: number, totalBytes: number) => void;

/** Reads every tensor of a model. */
export class WeightLoader {
  readonly #k: Kernels;
  readonly #arena: Arena;
  readonly #staging: number;
  readonly #raw: number;
  readonly #floats: number;
  readonly #progress: LoadProgress;
  readonly #signal: AbortSignal | undefined;
  #loaded = 0;
  #total = 0;
  /** Of what has been read of the tensor that is being read. */
  #checksum = new Checksum();
  /** The pack's matrix that lies in scratch: several linears may be of one. */
  #staged: StoredMatrix | null = null;
  /** Bytes of the staging that were written to. */
  scratchUsed = 0;
  /** Bytes of all matrices, norms and biases in memory. */
  bytes = 0;
  /** What a user should know: a dtype that loses precision. */
  readonly warnings: string[] = [];

  /** @param staging first of `stagingBytes` bytes */
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
    this.#staging = staging;
    this.#raw = padTo(staging, 64);
    this.#progress = progress;
    this.#signal = signal;
    for (const tensor of everyTensor(model)) this.#total += tensor.byteLength;
    this.#floats = this.#raw + rawBytes(model);
  }

  /**
   * Loads all weights.
   *
   * @throws {FormatError} If a tensor holds a value that is not finite; says which block.
   */
  async load(model: LlamaDescription, options: PlanOptions): Promise<Weights> {
    const { config } = model, { dtype } = options;
    this.#arena.reserve(plannedBytes(model, options));
    const embedding = await this.#embedding(model.embedding, dtype);
    const lmHead = model.lmHead === model.embedding ? embedding : await this.#embedding(model.lmHead, dtype);
    const finalNorm = await this.#vector(model.finalNorm);
    const layers: Layer[] = [];
    for (let l = 0; l < model.layers.length; l++) {
      const tensors = model.layers[l]!;
      const attentionNorm = await this.#vector(tensors.attentionNorm),
        mlpNorm = await this.#vector(tensors.mlpNorm),
        sites: Linear[][] = [];
      for (const plans of planLayer(model, l, options)) {
        const linears: Linear[] = [];
        for (const plan of plans) linears.push(await this.#linear(plan, l, model));
        sites.push(linears);
      }
      layers.push({ attentionNorm, mlpNorm, sites });
    }
    if (
      dtype === "int4" &&
      layers.some(({ sites }) => sites.flat().some((l) => !l.matrix.layout.endsWith("-i4")))
    ) {
      this.#warnOnce(
        "int4 keeps a file's own 4-bit groups: projections that the file does not hold in Q4_0 or Q4_1 are int8",
      );
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

  async #embedding(tensor: Tensor, dtype: Dtype | "auto"): Promise<Matrix> {
    const matrix = this.#placeMatrix(planEmbedding(tensor, dtype)), { stored } = tensor;
    if (stored !== undefined && matrix.layout === "pairs-i8") {
      await this.#readInPlace(matrix, stored.matrix, "pairs-i8");
      this.#progressed(tensor.byteLength);
    } else await this.#fill(matrix, tensor, 0);
    return matrix;
  }

  /** One matrix, its projections one after the other. */
  async #linear(
    { plan, parts, at, method }: LinearPlan,
    layer: number,
    model: LlamaDescription,
  ): Promise<Linear> {
    const matrix = this.#placeMatrix(plan), projections: Projection[] = [];
    if (plan.balanced && parts[0]!.tensor.stored !== undefined) await this.#fillStored(matrix, parts);
    else if (plan.balanced) await this.#fillBalanced(matrix, parts);
    else for (const { tensor, offset } of parts) await this.#fill(matrix, tensor, offset);
    for (const { name, tensor, offset } of parts) {
      const tensorOfBias = model.layers[layer]!.biases[name];
      const bias = tensorOfBias === undefined ? 0 : await this.#vector(tensorOfBias);
      projections.push({ name, layer, nOut: tensor.shape[0]!, offset, bias, rule: null });
    }
    return { matrix, at, method, parts: projections };
  }

  #placeMatrix(plan: MatrixPlan): Matrix {
    return placeMatrix(plan, (bytes) => this.#place(bytes));
  }

  /** Packs a tensor as outputs `offset` … of a matrix. */
  async #fill(matrix: Matrix, tensor: Tensor, offset: number): Promise<void> {
    const k = this.#k, rows = tensor.shape[0]!, step = sliceRows(tensor);
    const { layout, nIn, nInPadded, chunk, withMins } = matrix;
    if (tensor.type === "F16" && (layout === "channels-bf16" || layout === "rows-bf16")) {
      this.#warnOnce("F16 weights rounded to bf16: 3 bits of precision are lost; --dtype f32 keeps them");
    }
    for (let first = 0; first < rows; first += step) {
      const last = Math.min(rows, first + step), count = last - first, o = offset + first;
      if (layout === "group-i4") {
        await this.#raws(tensor, first, last);
        const bytes = rowBytes(tensor), rowBlocks = nIn / blockOf(tensor.type).values;
        for (let i = 0; i < count; i += 64) {
          const bad = k.packGroupI4(
            matrix.w,
            matrix.rowScale,
            this.#raw + i * bytes,
            withMins ? 1 : 0,
            o + i,
            Math.min(64, count - i),
            rowBlocks,
            nInPadded,
            chunk,
          );
          if (bad >= 0) throw notFinite(tensor, (first + i) * rowBlocks + bad);
        }
        continue;
      }
      if (layout === "quad-i4") {
        await this.#raws(tensor, first, last);
        const rowBlocks = nIn / blockOf(tensor.type).values, mins = withMins ? 1 : 0;
        const bad = k.packQuadI4(matrix.w, matrix.rowScale, this.#raw, mins, o, count, rowBlocks, nInPadded);
        if (bad >= 0) throw notFinite(tensor, first * rowBlocks + bad);
        continue;
      }
      const floats = layout === "rows-f32" ? matrix.w + 4 * o * nIn : this.#floats;
      await this.#read(tensor, first, last, floats);
      if (layout !== "rows-f32") packRows(k, matrix, floats, o, count);
    }
  }

  /** int8 with row and channel scales: found over the whole matrix, as all its projections take the same quantised x. */
  async #fillBalanced(m: Matrix, parts: LinearPlan["parts"]): Promise<void> {
    const k = this.#k, floats = this.#floats;
    k.fillZeroF32(floats, m.nOut * m.nIn);
    this.#use(floats + 4 * m.nOut * m.nIn);
    for (const { tensor, offset } of parts) {
      await this.#read(tensor, 0, tensor.shape[0]!, floats + 4 * offset * m.nIn);
    }
    new Float32Array(k.memory.buffer, m.rowScale, m.nOutPadded).fill(1);
    new Float32Array(k.memory.buffer, m.channelScale, m.nInPadded).fill(1);
    k.balanceScalesI8(m.rowScale, m.channelScale, floats, m.nOut, m.nIn);
    if (m.layout === "channels-i8") {
      k.packChannelsI8(m.w, floats, m.rowScale, m.channelScale, m.nOut, m.nIn, m.nOutPadded);
      this.#padChannels(m.w, m);
      return;
    }
    // by way of channels, so that a weight is the same in both layouts: one more rounding made some differ by 1
    const channels = this.#raw;
    this.#use(channels + 16 * m.nInPadded);
    for (let o = 0; o < m.nOut; o += 16) {
      const rows = Math.min(16, m.nOut - o), src = floats + 4 * o * m.nIn;
      k.packChannelsI8(channels, src, m.rowScale + 4 * o, m.channelScale, rows, m.nIn, 16);
      this.#padChannels(channels, { ...m, nOutPadded: 16 });
      k.pairsOfChannelsI8(m.w + o * m.nInPadded, channels, m.nInPadded, 16, 16);
    }
  }

  /** int8 out of a pack, whose matrices are as the kernels read them: read in place, but where the plan has pairs or some of the outputs. */
  async #fillStored(m: Matrix, parts: LinearPlan["parts"]): Promise<void> {
    const k = this.#k, { matrix, output } = parts[0]!.tensor.stored!, sizes = storedSizes(matrix);
    const width = sizes.nOutPadded;
    if (m.layout === "channels-i8" && m.nOutPadded === width) {
      await this.#readInPlace(m, matrix, "channels-i8");
    } else {
      const at = await this.#stored(matrix, "channels-i8"), memory = new Uint8Array(k.memory.buffer);
      const move = (to: number, from: number, bytes: number): void =>
        void memory.copyWithin(to, from, from + bytes);
      if (m.layout === "pairs-i8") k.pairsOfChannelsI8(m.w, at + output, m.nInPadded, m.nOutPadded, width);
      else {
        for (let c = 0; c < m.nInPadded; c++) {
          move(m.w + c * m.nOutPadded, at + c * width + output, m.nOutPadded);
        }
      }
      move(m.rowScale, at + sizes.w + 4 * output, 4 * m.nOutPadded);
      move(m.channelScale, at + sizes.w + sizes.rowScale, sizes.channelScale);
    }
    for (const { tensor } of parts) this.#progressed(tensor.byteLength);
  }

  /** A pack's matrix to where it will be: its parts lie one after the other in the file as in memory. */
  async #readInPlace(m: Matrix, stored: StoredMatrix, wanted: StoredLayout): Promise<void> {
    this.#checkLayout(stored, wanted);
    const { w, rowScale, bytes } = storedSizes(stored),
      end = m.channelScale === 0 ? m.rowScale : m.channelScale;
    if (m.rowScale !== m.w + w || (m.channelScale !== 0 && end !== m.rowScale + rowScale)) {
      throw new Error("the parts of a matrix have room between them");
    }
    await readStored(stored, new Uint8Array(this.#k.memory.buffer, m.w, bytes));
  }

  /** A pack's matrix in scratch. */
  async #stored(matrix: StoredMatrix, wanted: StoredLayout): Promise<number> {
    this.#checkLayout(matrix, wanted);
    if (this.#staged !== matrix) {
      this.#staged = null;
      await readStored(
        matrix,
        new Uint8Array(this.#k.memory.buffer, this.#floats, storedSizes(matrix).bytes),
      );
      this.#staged = matrix;
      this.#use(this.#floats + storedSizes(matrix).bytes);
    }
    return this.#floats;
  }

  /** Notes that memory up to there was written to. */
  #use(end: number): void {
    this.scratchUsed = Math.max(this.scratchUsed, end - this.#staging);
  }

  #checkLayout({ layout, file, offset }: StoredMatrix, wanted: StoredLayout): void {
    this.#signal?.throwIfAborted();
    if (layout !== wanted) {
      throw new FormatError(file, offset, `a matrix of ${layout} found, ${wanted} wanted here`);
    }
  }

  #progressed(bytes: number): void {
    this.#loaded += bytes;
    this.#progress(this.#loaded, this.#total);
  }

  /** Channels nIn to nInPadded, which products read too, hold anything: even outputs are kept as w + 128. */
  #padChannels(
    w: number,
    { nIn, nInPadded, nOutPadded }: Pick<Matrix, "nIn" | "nInPadded" | "nOutPadded">,
  ): void {
    const pad = new Uint16Array(
      this.#k.memory.buffer,
      w + nIn * nOutPadded,
      (nInPadded - nIn) * nOutPadded / 2,
    );
    pad.fill(128);
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
    this.#use(this.#raw + data.length);
    if (tensor.sum !== undefined) this.#check(tensor, data, first, last);
    this.#progressed(data.length);
  }

  /** Adds rows to the tensor's checksum, which are read in their order, and compares it after the last. */
  #check(tensor: Tensor, data: Uint8Array, first: number, last: number): void {
    if (first === 0) this.#checksum = new Checksum();
    this.#checksum.update(data);
    if (last < (tensor.shape.length === 2 ? tensor.shape[0]! : 1) || this.#checksum.digest() === tensor.sum) {
      return;
    }
    throw damaged(tensor.file, tensor.offset, tensor.byteLength);
  }

  /** Rows [first, last) as floats at `out`; slices of the raw staging's size. */
  async #read(tensor: Tensor, first: number, last: number, out: number): Promise<void> {
    this.#staged = null;
    this.#use(out + 4 * tensor.shape[tensor.shape.length - 1]! * (last - first));
    const nIn = tensor.shape[tensor.shape.length - 1]!,
      { type, stored } = tensor,
      { values } = blockOf(type),
      step = sliceRows(tensor),
      k = this.#k;
    if (type === "I8") {
      const floats = await readStoredRows(stored!.matrix, stored!.output + first, last - first);
      new Float32Array(k.memory.buffer, out, floats.length).set(floats);
      return this.#progressed(nIn * (last - first));
    }
    for (let r = first; r < last; r += step, out += 4 * step * nIn) {
      const end = Math.min(last, r + step);
      await this.#raws(tensor, r, end);
      const blocks = ((end - r) * nIn) / values;
      let bad: number;
      if (type === "F32") {
        new Uint8Array(k.memory.buffer).copyWithin(out, this.#raw, this.#raw + 4 * blocks);
        bad = k.findNonFiniteF32(out, blocks);
      } else bad = k.dequantize(type, out, this.#raw, blocks);
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
  const { bytes } = blockOf(tensor.type);
  return new FormatError(
    tensor.file,
    tensor.offset + block * bytes,
    `block ${block} of ${tensor.name} (${tensor.type}) holds a value that is not finite`,
  );
}
