/** Buffers of one forward pass, shared by all sessions of a model: a pass runs to its end before another begins. */
import {
  attentionScratchBytes,
  GROUP,
  type Kernels,
  LIST_SPAN,
  padTo,
  QUAD_RECORD,
  QUAD_TOKENS_RECORD,
} from "../kernels/kernels.ts";
import type { LlamaConfig } from "../model/config.ts";
import { panelScratchBytes } from "./multiply_tokens.ts";

/** Tokens that prefill takes through the model together: large enough to pay for unpacking weights, small enough for L2. */
export const MAX_TOKENS = 128;

/** Most segments that the channels of a product are cut into, so that as many threads can add up outputs of their own. */
export const MAX_SEGMENTS = 4;

/** Sizes of the rows that activations are kept in, padded so that every layout may read zeros past the end. */
export interface Strides {
  readonly hidden: number;
  readonly q: number;
  readonly kv: number;
  /** q, k and v side by side. */
  readonly qkv: number;
  readonly mlp: number;
  /** gate and up side by side. */
  readonly gateUp: number;
  /** The widest input of a projection. */
  readonly widest: number;
  /** Ranks of a linear's projections side by side. */
  readonly z: number;
}

/** Byte offsets of every buffer. Shapes are given as [rows, columns] of f32 unless said otherwise. */
export class Workspace {
  /** f32 elements a row. */
  readonly strides: Strides;
  /** [MAX_TOKENS, strides.hidden]: the residual stream. */
  readonly hidden: number;
  /** [MAX_TOKENS, strides.hidden]: the residual stream, normalised. */
  readonly normed: number;
  /** [MAX_TOKENS, strides.qkv]: q, then k from strides.q, then v from strides.q + strides.kv. */
  readonly qkv: number;
  /** [MAX_TOKENS, strides.q]: what attention gives. */
  readonly attended: number;
  /** [MAX_TOKENS, strides.gateUp]: gate, then up from strides.mlp. */
  readonly gateUp: number;
  /** [MAX_TOKENS, strides.hidden]: what o and down give, before it is added to the stream. */
  readonly output: number;
  /** [MAX_TOKENS, widest]: x with the channels that are not active set to 0. */
  readonly active: number;
  /** [MAX_TOKENS, widest]: x - active. */
  readonly rest: number;
  /** [MAX_TOKENS, nPairs, 2]: cos and sin of each position. */
  readonly cosSin: number;
  /** [vocabSize padded]. */
  readonly logits: number;
  /** [widest]: ones, the scale of plain |x|. */
  readonly ones: number;
  /** u32[widest], f32[widest]: active channels and their x; room for look-ahead. */
  readonly index: number;
  readonly value: number;
  /** u32[widest]: 0, 1, 2 …: every channel. */
  readonly iota: number;
  /** [widest]: channel scales of the active channels. */
  readonly gathered: number;
  /** i16[widest]. */
  readonly quantised: number;
  /** i32 and f32, as wide as the outputs of a site: sums of int8 products; a product with a mask that was given. */
  readonly accumulator: number;
  readonly replayed: number;
  /** Table and lists of selectGroupI4. */
  readonly table: number;
  readonly list: number;
  /** Records of quantizeQuadI4. */
  readonly quadRecords: number;
  /** [MAX_TOKENS, strides.z]: z = V^T x of all projections of a linear; each rank is at most its projection's inputs and outputs. */
  readonly z: number;
  /** u8[widest / 8]: a mask that a test gave. */
  readonly mask: number;
  /** Tokens packed for a product, and their scales and sums. */
  readonly packed: number;
  readonly tokenScale: number;
  readonly tokenSum: number;
  /** [widest], and records of one token: what 8 bits leave of a sequence's first token. */
  readonly firstRest: number;
  readonly firstPacked: number;
  /** Partial sums of a product whose channels are cut into segments: {@linkcode MAX_SEGMENTS} - 1 vectors as wide as a site's outputs. */
  readonly partials: number;
  /** Bytes from one of them to the next. */
  readonly partialBytes: number;
  /** What a part of a step scribbles on; threads have their own. */
  readonly scratch: number;
  readonly scratchBytes: number;
  /** Bytes from the first buffer to the end of the last. */
  readonly bytes: number;
  readonly #kernels: Kernels;
  readonly #widest: number;
  #selected = { form: "list", x: 0, scale: 0, threshold: 0, n: 0, active: 0 };

  /**
   * @param start first byte of `Workspace.size(config)` free bytes, 64-byte aligned
   * @param tokens rows of the buffers that have MAX_TOKENS of them unless it is said
   */
  constructor(kernels: Kernels, config: LlamaConfig, start: number, tokens: number = MAX_TOKENS) {
    const { numAttentionHeads, numKeyValueHeads, headDim } = config;
    const hidden = padTo(config.hiddenSize, 64),
      q = padTo(numAttentionHeads * headDim, 64),
      kv = padTo(numKeyValueHeads * headDim, 64),
      mlp = padTo(config.intermediateSize, 64),
      qkv = q + 2 * kv,
      gateUp = 2 * mlp,
      widest = Math.max(hidden, q, mlp),
      z = Math.max(Math.min(hidden, q) + 2 * Math.min(hidden, kv), 2 * Math.min(hidden, mlp));
    this.strides = { hidden, q, kv, qkv, mlp, gateUp, widest, z };
    let at = start;
    const take = (bytes: number): number => {
      const here = at;
      at += padTo(bytes, 64);
      return here;
    };
    const rows = (stride: number): number => take(4 * tokens * stride);
    this.hidden = rows(hidden);
    this.normed = rows(hidden);
    this.qkv = rows(qkv);
    this.attended = rows(q);
    this.gateUp = rows(gateUp);
    this.output = rows(hidden);
    this.active = rows(widest);
    this.rest = rows(widest);
    this.cosSin = take(4 * tokens * config.ropeDim);
    this.logits = take(4 * padTo(config.vocabSize, 64));
    const vector = (): number => take(4 * (widest + 32));
    this.ones = vector();
    this.index = vector();
    this.value = vector();
    this.iota = vector();
    this.gathered = vector();
    this.quantised = vector();
    const outputs = (): number => take(4 * Math.max(hidden, qkv, gateUp));
    this.accumulator = outputs();
    this.replayed = outputs();
    this.table = take((widest / GROUP) * 32);
    this.list = take(2 * LIST_SPAN);
    this.quadRecords = take((widest / 64) * QUAD_RECORD);
    this.z = rows(z);
    this.mask = take(widest / 8);
    this.packed = rows(widest);
    this.tokenScale = take(4 * tokens * (widest / GROUP));
    this.tokenSum = take(4 * tokens * (widest / GROUP));
    this.firstRest = vector();
    this.firstPacked = take(widest / 64 * QUAD_TOKENS_RECORD);
    this.partialBytes = 4 * Math.max(hidden, qkv, gateUp);
    this.partials = take((MAX_SEGMENTS - 1) * this.partialBytes);
    this.scratchBytes = Math.max(
      attentionScratchBytes(tokens, numAttentionHeads / numKeyValueHeads, headDim),
      // a block of int4, a row's input
      256,
      4 * widest,
      panelScratchBytes(widest),
    );
    this.scratch = take(this.scratchBytes);
    this.bytes = at - start;
    this.#kernels = kernels;
    this.#widest = widest;
  }

  /** Bytes a workspace takes for a model. */
  static size(kernels: Kernels, config: LlamaConfig, tokens: number = MAX_TOKENS): number {
    return new Workspace(kernels, config, 0, tokens).bytes;
  }

  /**
   * Clears everything and writes the constants. To be called once nothing else uses the memory.
   *
   * @param dirty so many bytes from its beginning were used before; the others are memory that nobody has touched, which is zero, and is best left so
   */
  initialise(dirty: number = this.bytes): void {
    const { buffer } = this.#kernels.memory;
    new Uint8Array(buffer, this.hidden, Math.min(dirty, this.bytes)).fill(0);
    new Float32Array(buffer, this.ones, this.#widest).fill(1);
    const iota = new Uint32Array(buffer, this.iota, this.#widest);
    for (let i = 0; i < iota.length; i++) iota[i] = i;
  }

  /** For each of some ascending channels, how many of the list's `active` entries lie before it. */
  entriesAt(channels: readonly number[], active: number): number[] {
    const index = new Uint32Array(this.#kernels.memory.buffer, this.index, active);
    return channels.map((channel) => {
      let from = 0, to = active;
      while (from < to) {
        const middle = (from + to) >> 1;
        if (index[middle]! < channel) from = middle + 1;
        else to = middle;
      }
      return from;
    });
  }

  /** Forgets the last selection: to be called whenever a new x is at an old place. */
  newInput(): void {
    this.#selected.x = 0;
  }

  /**
   * Selects active channels into index and value (`list`) or table and list (`group`), unless that was the last selection: projections with
   * one input and one rule (q/k/v; gate/up) share it. Returns how many are active.
   */
  select(form: "list" | "group", x: number, scale: number, threshold: number, n: number): number {
    const last = this.#selected;
    if (
      last.x === x && last.form === form && last.scale === scale && last.threshold === threshold &&
      last.n === n
    ) return last.active;
    const k = this.#kernels;
    const active = form === "list"
      ? k.selectChannelsF32(this.index, this.value, x, scale, threshold, n)
      : k.selectGroupI4(this.table, this.list, x, scale, threshold, n);
    this.#selected = { form, x, scale, threshold, n, active };
    return active;
  }
}
