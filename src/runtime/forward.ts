/** The forward pass of a Llama: tokens in, logits out; dense or sparse, one token or many. */
import { type Kernels, padTo, PAGE_POSITIONS } from "../kernels/kernels.ts";
import type { LlamaConfig, ProjectionName } from "../model/config.ts";
import type { KvCache } from "./kv_cache.ts";
import { type Matrix, multiplyTokens, multiplyVector, readRow } from "./matrix.ts";
import { MAX_TOKENS, type Workspace } from "./workspace.ts";

/** How a projection runs when a recipe is loaded. Pointers as in {@linkcode Matrix}. */
export interface SparseRule {
  readonly mode: "dense" | "sparse" | "r_sparse" | "low_rank";
  readonly threshold: number;
  /** f32[nInPadded]: ones where the score is plain |x|. */
  readonly scale: number;
  /** 0 where there is no low-rank part. */
  readonly rank: number;
  /** f32[rank, nOut]: columns of U times their singular value. */
  readonly u: number;
  /** f32[rank, nIn]. */
  readonly v: number;
}

/** One linear layer in memory. */
export interface Projection {
  readonly name: ProjectionName;
  readonly layer: number;
  readonly matrix: Matrix;
  /** f32[nOut], or 0. */
  readonly bias: number;
  /** Dense where there is no recipe. */
  rule: SparseRule | null;
}

/** One block in memory. */
export interface Layer {
  readonly attentionNorm: number;
  readonly mlpNorm: number;
  readonly projections: { readonly [name in ProjectionName]: Projection };
}

/** A model's weights in memory. */
export interface Weights {
  readonly config: LlamaConfig;
  readonly embedding: Matrix;
  readonly lmHead: Matrix;
  readonly finalNorm: number;
  /** f64[ropeDim / 2]. */
  readonly ropeFrequencies: number;
  readonly layers: readonly Layer[];
}

/** What was skipped, counted token by token and projection by projection. */
export interface SparsityCount {
  /** Multiply-adds that ran, in tokens that ran sparse. */
  kept: number;
  /** Those that dense would have taken. */
  dense: number;
  /** Tokens that ran sparse. */
  sparseTokens: number;
  /** All tokens. */
  tokens: number;
}

/** Settings of one pass. */
export interface PassOptions {
  /** Tokens at this position and later run by their projections' rules; those before it dense. Infinity: all dense. */
  readonly sparseFrom: number;
  /**
   * Takes one token the way of many: slower (SmolLM2: 40 ms), but with a prompt's 15 bits an activation. The first position of a sequence has
   * by far the largest activations: 8 bits, as the relaxed int4 kernels have, moved SmolLM2's best logit there by 1.
   */
  readonly likePrompt?: boolean;
  /** Sees the input of each site, f32[nTokens, stride], before its projections run. */
  readonly observe?: (
    layer: number,
    site: readonly ProjectionName[],
    x: number,
    stride: number,
    nTokens: number,
  ) => void;
  /** Gives the mask of a projection and position instead of its rule's test, for replays; null keeps the test. */
  readonly forceMask?: (layer: number, name: ProjectionName, position: number) => Uint8Array | null;
}

/** Site by site, the projections that share an input. */
export const SITES = [["qProj", "kProj", "vProj"], ["oProj"], ["gateProj", "upProj"], ["downProj"]] as const;

/** Runs tokens through the blocks of one model. */
export class Forward {
  readonly #k: Kernels;
  readonly #s: Workspace;
  readonly #w: Weights;
  /** f32 scratch for attention scores, at least as many as there are positions: {@linkcode Forward.run}'s caller sees to it. */
  scores = 0;
  /** Where the passes are counted: the session's that runs. */
  count: SparsityCount = { kept: 0, dense: 0, sparseTokens: 0, tokens: 0 };

  /** Of the pass that runs. */
  #pass = { kept: 0, dense: 0 };
  readonly #isSparse: boolean;

  /** @param weights with their rules, if there is a recipe */
  constructor(kernels: Kernels, workspace: Workspace, weights: Weights) {
    this.#k = kernels;
    this.#s = workspace;
    this.#w = weights;
    this.#isSparse = weights.layers.some((layer) =>
      Object.values(layer.projections).some(({ rule }) => rule !== null && rule.mode !== "dense")
    );
  }

  /**
   * Runs up to MAX_TOKENS tokens at positions position … and leaves the residual stream in the workspace.
   * The cache has room for them.
   */
  run(ids: readonly number[], position: number, cache: KvCache, options: PassOptions): void {
    const k = this.#k, s = this.#s, w = this.#w, { config } = w, { strides } = s, n = ids.length;
    if (n > MAX_TOKENS) throw new RangeError(`${n} tokens in one pass, at most ${MAX_TOKENS}`);
    this.#pass = { kept: 0, dense: 0 };
    const nPairs = config.ropeDim / 2, { numAttentionHeads, numKeyValueHeads, headDim } = config;
    for (let t = 0; t < n; t++) {
      readRow(k, w.embedding, s.hidden + 4 * strides.hidden * t, ids[t]!);
      k.ropeAnglesF64(s.cosSin + 8 * nPairs * t, w.ropeFrequencies, nPairs, position + t);
    }
    for (let l = 0; l < w.layers.length; l++) {
      const layer = w.layers[l]!, parts = cache.parts(l);
      this.#normalise(layer.attentionNorm, n);
      this.#site(
        layer,
        SITES[0],
        [s.q, s.k, s.v],
        [strides.q, strides.kv, strides.kv],
        s.normed,
        strides.hidden,
        position,
        n,
        options,
      );
      for (let t = 0; t < n; t++) {
        const q = s.q + 4 * strides.q * t,
          key = s.k + 4 * strides.kv * t,
          at = position + t,
          page = cache.page(at);
        const angles = s.cosSin + 8 * nPairs * t, interleaved = config.ropeInterleaved ? 1 : 0;
        k.ropeF32(q, angles, numAttentionHeads, headDim, nPairs, interleaved);
        k.ropeF32(key, angles, numKeyValueHeads, headDim, nPairs, interleaved);
        k.storeKvF32(
          page + parts.k,
          page + parts.v,
          key,
          s.v + 4 * strides.kv * t,
          numKeyValueHeads,
          headDim,
          at % PAGE_POSITIONS,
        );
        k.attentionPagedF32(
          s.attended + 4 * strides.q * t,
          q,
          cache.table,
          parts.k,
          parts.v,
          this.scores,
          at + 1,
          numAttentionHeads,
          numKeyValueHeads,
          headDim,
        );
      }
      this.#site(layer, SITES[1], [s.output], [strides.hidden], s.attended, strides.q, position, n, options);
      k.addF32(s.hidden, s.output, n * strides.hidden);
      this.#normalise(layer.mlpNorm, n);
      this.#site(
        layer,
        SITES[2],
        [s.gate, s.up],
        [strides.mlp, strides.mlp],
        s.normed,
        strides.hidden,
        position,
        n,
        options,
      );
      k.siluMulF32(s.gate, s.gate, s.up, n * strides.mlp);
      this.#site(layer, SITES[3], [s.output], [strides.hidden], s.gate, strides.mlp, position, n, options);
      k.addF32(s.hidden, s.output, n * strides.hidden);
    }
    // only now, so that a pass that an observer ended by throwing is not counted
    this.count.tokens += n;
    if (this.#isSparse) this.count.sparseTokens += sparseTokens(position, n, options.sparseFrom);
    this.count.kept += this.#pass.kept;
    this.count.dense += this.#pass.dense;
  }

  /** Logits f32[vocabSize] after token t of the last run, in the workspace. */
  logits(t: number): number {
    const s = this.#s, w = this.#w;
    this.#k.rmsNormF32(
      s.normed,
      s.hidden + 4 * s.strides.hidden * t,
      w.finalNorm,
      w.config.hiddenSize,
      w.config.rmsNormEps,
    );
    this.#checkFinite(s.normed);
    multiplyVector(this.#k, s, w.lmHead, s.logits, s.normed, s.ones, -1);
    return s.logits;
  }

  /** Logits f32[count, stride] after tokens t … t + count - 1 of the last run, into `out`, which has room for count rounded up to 4. */
  logitsOfMany(t: number, count: number, out: number): number {
    const s = this.#s,
      w = this.#w,
      { config } = w,
      row = 4 * s.strides.hidden,
      stride = padTo(config.vocabSize, 64);
    for (let i = 0; i < count; i++) {
      this.#k.rmsNormF32(
        s.normed + row * i,
        s.hidden + row * (t + i),
        w.finalNorm,
        config.hiddenSize,
        config.rmsNormEps,
      );
      this.#checkFinite(s.normed + row * i);
    }
    multiplyTokens(this.#k, s, w.lmHead, out, stride, s.normed, s.strides.hidden, count);
    return stride;
  }

  /** Integer kernels round NaN to numbers, so a broken pass is caught here and not in its logits. */
  #checkFinite(x: number): void {
    if (this.#k.findNonFiniteF32(x, this.#w.config.hiddenSize) < 0) return;
    throw new Error(
      "Cannot go on: the model's activations are no longer finite: its weights, or the recipe's factors, overflow on these tokens",
    );
  }

  /**
   * y = projection of one x f32[nIn padded], by its rule if `sparse`, and counts it.
   *
   * @returns how many channels were active
   */
  project(p: Projection, y: number, x: number, sparse: boolean, forced: Uint8Array | null = null): number {
    const k = this.#k, s = this.#s, m = p.matrix, rule = sparse ? p.rule : null;
    let active = m.nIn;
    if (rule === null || rule.mode === "dense") {
      multiplyVector(k, s, m, y, x, s.ones, -1);
    } else if (rule.mode === "low_rank") {
      active = 0;
      k.fillZeroF32(y, m.nOutPadded);
      this.#addLowRank(rule, y, x, m);
    } else if (forced !== null) {
      active = this.#force(s.active, s.rest, x, forced, m);
      s.newInput();
      multiplyVector(k, s, m, y, s.active, s.ones, 0);
      s.newInput();
      if (rule.rank > 0) this.#addLowRank(rule, y, s.rest, m);
    } else {
      active = multiplyVector(k, s, m, y, x, rule.scale, rule.threshold);
      if (rule.rank > 0) {
        k.maskChannelsF32(s.active, s.rest, x, rule.scale, rule.threshold, m.nIn);
        this.#addLowRank(rule, y, s.rest, m);
      }
    }
    if (rule !== null) this.#add(rule, m, active);
    if (p.bias !== 0) k.addF32(y, p.bias, m.nOut);
    return active;
  }

  /** Counts a projection of one token that ran sparse. */
  #add(rule: SparseRule, m: Matrix, active: number): void {
    this.#pass.kept += active * m.nOut + rule.rank * (m.nIn + m.nOut);
    this.#pass.dense += m.nIn * m.nOut;
  }

  /** Splits x by a given mask; returns how many channels are in it. @throws {RangeError} If it is not the mask of this matrix. */
  #force(active: number, rest: number, x: number, mask: Uint8Array, m: Matrix): number {
    const wanted = Math.ceil(m.nIn / 8);
    if (mask.length !== wanted) {
      throw new RangeError(`a mask of ${mask.length} bytes, ${wanted} wanted for ${m.nIn} channels`);
    }
    new Uint8Array(this.#k.memory.buffer, this.#s.mask, wanted).set(mask);
    const count = this.#k.forceChannelsF32(active, rest, x, this.#s.mask, m.nIn);
    this.#k.fillZeroF32(active + 4 * m.nIn, m.nInPadded - m.nIn);
    return count;
  }

  /** y += U z, z = V^T x: V's rows are dense dot products, U's columns are channels that are always active. */
  #addLowRank(rule: SparseRule, y: number, x: number, m: Matrix): void {
    this.#k.gemvRowsF32(this.#s.z, rule.v, x, m.nIn, rule.rank);
    this.#k.gemvChannelsF32(y, rule.u, this.#s.iota, this.#s.z, rule.rank, m.nOut);
  }

  /** normed = rms norm of the stream. */
  #normalise(weight: number, n: number): void {
    const s = this.#s, { hiddenSize, rmsNormEps } = this.#w.config, row = 4 * s.strides.hidden;
    for (let t = 0; t < n; t++) {
      this.#k.rmsNormF32(s.normed + row * t, s.hidden + row * t, weight, hiddenSize, rmsNormEps);
    }
  }

  /** All projections of a site for all tokens. */
  #site(
    layer: Layer,
    names: readonly ProjectionName[],
    ys: readonly number[],
    yStrides: readonly number[],
    x: number,
    xStride: number,
    position: number,
    n: number,
    options: PassOptions,
  ): void {
    options.observe?.(layer.projections[names[0]!].layer, names, x, xStride, n);
    this.#s.newInput();
    for (let i = 0; i < names.length; i++) {
      const p = layer.projections[names[i]!], y = ys[i]!, yStride = yStrides[i]!;
      if (n === 1 && options.likePrompt !== true) {
        this.project(
          p,
          y,
          x,
          position >= options.sparseFrom,
          options.forceMask?.(p.layer, p.name, position) ?? null,
        );
      } else if (p.rule === null || p.rule.mode === "dense" || options.sparseFrom >= position + n) {
        multiplyTokens(this.#k, this.#s, p.matrix, y, yStride, x, xStride, n);
        for (let t = sparseTokens(position, n, options.sparseFrom); t > 0 && p.rule !== null; t--) {
          this.#add(p.rule, p.matrix, p.matrix.nIn);
        }
        if (p.bias !== 0) {
          for (let t = 0; t < n; t++) this.#k.addF32(y + 4 * yStride * t, p.bias, p.matrix.nOut);
        }
      } else {
        this.#projectTokens(p, p.rule, y, yStride, x, xStride, position, n, options);
      }
    }
  }

  /** Sparse rule over many tokens: x masked, then the ordinary product; the low-rank part token by token. */
  #projectTokens(
    p: Projection,
    rule: SparseRule,
    y: number,
    yStride: number,
    x: number,
    xStride: number,
    position: number,
    n: number,
    options: PassOptions,
  ): void {
    const k = this.#k, s = this.#s, m = p.matrix;
    for (let t = 0; t < n; t++) {
      const row = 4 * xStride * t, active = s.active + row, rest = s.rest + row;
      const sparse = position + t >= options.sparseFrom,
        forced = sparse ? options.forceMask?.(p.layer, p.name, position + t) ?? null : null;
      let count: number;
      if (forced !== null && rule.mode !== "low_rank") {
        count = this.#force(active, rest, x + row, forced, m);
      } else {
        const threshold = !sparse ? -1 : rule.mode === "low_rank" ? Infinity : rule.threshold;
        count = k.maskChannelsF32(active, rest, x + row, sparse ? rule.scale : s.ones, threshold, m.nIn);
        k.fillZeroF32(active + 4 * m.nIn, m.nInPadded - m.nIn);
      }
      if (sparse) this.#add(rule, m, count);
    }
    if (rule.mode === "low_rank" && options.sparseFrom <= position) k.fillZeroF32(y, padTo(n, 4) * yStride);
    else multiplyTokens(k, s, m, y, yStride, s.active, xStride, n);
    for (let t = 0; t < n; t++) {
      const row = 4 * xStride * t, to = y + 4 * yStride * t;
      if (rule.rank > 0 && position + t >= options.sparseFrom) this.#addLowRank(rule, to, s.rest + row, m);
      if (p.bias !== 0) k.addF32(to, p.bias, m.nOut);
    }
  }
}

/** How many of n tokens from `position` run by their rules. */
function sparseTokens(position: number, n: number, sparseFrom: number): number {
  return Math.max(0, Math.min(n, position + n - sparseFrom));
}
