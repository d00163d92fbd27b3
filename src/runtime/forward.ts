/** The forward pass of a Llama: tokens in, logits out; dense or sparse, one token or many. */
import { NotFiniteError } from "../errors.ts";
import { type Kernels, padTo } from "../kernels/kernels.ts";
import type { Team } from "../kernels/team.ts";
import type { ProjectionName } from "../model/config.ts";
import { attend, eachToken, type Span } from "./attend.ts";
import type { KvCache } from "./kv_cache.ts";
import { addProduct, type Matrix, multiplyByRule, multiplyVector, readRow } from "./matrix.ts";
import { gateDense } from "./mlp_rule.ts";
import { addTokens, clearTokens, FOUR, multiplyTokens } from "./multiply_tokens.ts";
import {
  type Linear,
  type Projection,
  projectionsOf,
  SITES,
  type SparseRule,
  type Weights,
} from "./layers.ts";
import type { NeuronScores } from "./neuron_scores.ts";
import { addBias, multiplyTogether, projectTogether, type Slot } from "./together.ts";
import { MAX_TOKENS, type Workspace } from "./workspace.ts";

export {
  type Layer,
  type Linear,
  type Projection,
  projectionsOf,
  SITES,
  type SparseNorms,
  type SparseRule,
  type Weights,
} from "./layers.ts";

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
   * Whether the first of these tokens is the first of its sequence: it goes the way of many even alone, with 15 bits an activation or, on bytes, with what
   * 8 bits leave multiplied as well. That position has by far the largest activations: 8 bits, as decode has with relaxed int4 kernels, moved SmolLM2's best logit there by 1.
   */
  readonly exactFirst?: boolean;
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
  /** Called before each block, and after the last. What it returns is `sparseFrom` from that block on; undefined leaves it. */
  readonly beforeBlock?: (layer: number) => number | undefined;
}

/** The same for one sequence or several. */
export interface RunOptions extends PassOptions {
  /**
   * Several sequences instead of the one whose position and cache were given. Their tokens all run sparse (`sparseFrom` 0) or all dense (Infinity), always in the
   * way of many: a token's result is the same whatever runs beside it.
   */
  readonly spans?: readonly Span[];
  /**
   * One token of each of several sequences, in the way of one, to the bit; `spans` says of which, `sparseFrom` which of them is the first to run sparse. What is skipped
   * is counted here. For recipes whose rules of the MLP are the model's own.
   */
  readonly slots?: readonly Slot[];
}

/** Runs tokens through the blocks of one model. */
export class Forward {
  readonly #team: Team;
  readonly #k: Kernels;
  readonly #s: Workspace;
  readonly #w: Weights;
  /** Where the passes are counted: the session's that runs. */
  count: SparsityCount = { kept: 0, dense: 0, sparseTokens: 0, tokens: 0 };

  /** Of the pass that runs, or ran last. */
  #pass = { kept: 0, dense: 0, position: 0, sparseFrom: Infinity };
  readonly #isSparse: boolean;

  /** @param weights with their rules, if there is a recipe */
  constructor(team: Team, workspace: Workspace, weights: Weights) {
    this.#team = team;
    this.#k = team.kernels;
    this.#s = workspace;
    this.#w = weights;
    this.#isSparse = weights.layers.some((layer) =>
      projectionsOf(layer).some(({ rule }) => rule !== null && rule.mode !== "dense")
    );
  }

  /**
   * Runs up to MAX_TOKENS tokens at positions position … and leaves the residual stream in the workspace.
   * The cache has room for them. `scores` are the session's, where a rule of the MLP has any. Yields every few milliseconds of work, where whoever runs it may give the event loop a turn or stop.
   */
  *run(
    ids: readonly number[],
    position: number,
    cache: KvCache,
    options: RunOptions,
    scores: NeuronScores | null = null,
  ): Generator<void, void> {
    const team = this.#team, k = this.#k, s = this.#s, w = this.#w, { strides } = s, n = ids.length;
    if (n > MAX_TOKENS) throw new RangeError(`${n} tokens in one pass, at most ${MAX_TOKENS}`);
    this.#pass = { kept: 0, dense: 0, position, sparseFrom: options.sparseFrom };
    for (let t = 0; t < n; t++) readRow(k, w.embedding, s.hidden + 4 * strides.hidden * t, ids[t]!);
    let first = 0;
    for (const span of options.spans ?? [{ position, count: n }]) {
      this.angles(span.position, span.count, first);
      first += span.count;
    }
    // one token's layer is too short to be timed, and the head is a third of the token
    const isDecode = options.slots !== undefined ||
      (n === 1 && options.exactFirst !== true && options.spans === undefined);
    if (isDecode) team.begin(options.slots === undefined ? "decode" : `together ${n}`, 1);
    let { sparseFrom } = options, current = options;
    for (let l = 0; l < w.layers.length; l++) {
      const turned = options.beforeBlock?.(l);
      if (turned !== undefined) {
        sparseFrom = Math.min(sparseFrom, turned);
        current = { ...options, sparseFrom: turned };
        this.#pass.sparseFrom = turned;
      }
      if (!isDecode) team.begin("prefill", n);
      for (let site = 0; site < SITES.length; site++) {
        this.prepare(l, site, n, position, current.sparseFrom);
        yield* this.finish(l, site, position, n, cache, current, scores);
      }
      if (!isDecode) team.end();
    }
    options.beforeBlock?.(w.layers.length);
    // only now, so that a pass that was given up is not counted
    this.count.tokens += n;
    if (this.#isSparse) this.count.sparseTokens += sparseTokens(position, n, sparseFrom);
    this.count.kept += this.#pass.kept;
    this.count.dense += this.#pass.dense;
  }

  /** The input of a site from what the one before has left: q/k/v and gate/up take the stream normalised, o and down what is there. */
  prepare(l: number, site: number, n: number, position: number = 0, sparseFrom: number = Infinity): void {
    const { attentionNorm, mlpNorm } = this.#w.layers[l]!, { sparseNorms: sparse } = this.#w;
    const firstSparse = sparseFrom - position;
    if (site === 0) this.#normalise(attentionNorm, sparse?.attention[l] ?? attentionNorm, firstSparse, n);
    else if (site === 2) this.#normalise(mlpNorm, sparse?.mlp[l] ?? mlpNorm, firstSparse, n);
  }

  /** Where the input of a site lies, f32[n, stride]. */
  inputOf(site: number): { readonly x: number; readonly stride: number } {
    const s = this.#s, { hidden, q, gateUp } = s.strides;
    if (site === 1) return { x: s.attended, stride: q };
    return site === 3 ? { x: s.gateUp, stride: gateUp } : { x: s.normed, stride: hidden };
  }

  /** The rest of a site: its projections, and what comes between them and the next site's input. */
  *finish(
    l: number,
    site: number,
    position: number,
    n: number,
    cache: KvCache,
    options: RunOptions,
    scores: NeuronScores | null = null,
  ): Generator<void, void> {
    const s = this.#s, { strides } = s, { x, stride } = this.inputOf(site);
    if (site === 0) {
      yield* this.#site(l, site, s.qkv, strides.qkv, x, stride, position, n, options);
      let first = 0;
      for (const span of options.spans ?? [{ position, count: n, cache }]) {
        yield* attend(this.#team, s, this.#w.config, l, span, first);
        first += span.count;
      }
    } else if (site === 2) {
      yield* this.#site(l, site, s.gateUp, strides.gateUp, x, stride, position, n, options);
      this.#gate(l, n - sparseTokens(position, n, options.sparseFrom), n, scores);
    } else {
      yield* this.#site(l, site, s.output, strides.hidden, x, stride, position, n, options);
      this.#addOutput(n);
    }
  }

  /** What down takes, from gate and up. */
  #gate(l: number, firstSparse: number, n: number, scores: NeuronScores | null): void {
    const team = this.#team, s = this.#s, { mlp, config } = this.#w;
    if (mlp === undefined) return gateDense(team, s, 0, n);
    const skipped = mlp.gate({ team, s, layer: l, nTokens: n, firstSparse, scores });
    // gate and up were counted whole
    this.#pass.kept -= skipped * mlp.rowsSpared * config.hiddenSize;
  }

  /** cos and sin of n positions, for all layers; of the pass's tokens from `first` on. */
  angles(position: number, n: number, first: number = 0): void {
    const s = this.#s, w = this.#w, nPairs = w.config.ropeDim / 2;
    for (let t = 0; t < n; t++) {
      this.#k.ropeAnglesF64(s.cosSin + 8 * nPairs * (first + t), w.ropeFrequencies, nPairs, position + t);
    }
  }

  /** Logits f32[vocabSize] after token t of the last run, in the workspace. */
  logits(t: number): number {
    const s = this.#s, w = this.#w;
    this.#k.rmsNormF32(
      s.normed,
      s.hidden + 4 * s.strides.hidden * t,
      this.#finalNorm(t),
      w.config.hiddenSize,
      w.config.rmsNormEps,
    );
    this.#checkFinite(s.normed);
    multiplyVector(this.#team, s, w.lmHead, s.logits, s.normed, s.ones, -1);
    this.#team.end();
    return s.logits;
  }

  /**
   * Logits f32[slots, stride] after the tokens of the last run, which was of these slots, into `out`, each as {@linkcode Forward.logits} gives them.
   *
   * @returns the stride, and which tokens' activations are finite; the logits of others mean nothing
   */
  logitsTogether(slots: readonly Slot[], out: number): { stride: number; isFinite: boolean[] } {
    const s = this.#s, { config, lmHead } = this.#w, { hiddenSize, rmsNormEps } = config;
    const row = 4 * s.strides.hidden, stride = padTo(config.vocabSize, 64);
    const isFinite = slots.map((slot, t) => {
      this.#k.rmsNormF32(s.normed + row * t, s.hidden + row * t, this.#finalNorm(t), hiddenSize, rmsNormEps);
      slot.s.newInput();
      return this.#k.findNonFiniteF32(s.normed + row * t, hiddenSize) < 0;
    });
    const rows = { y: out, yStride: stride, x: s.normed, xStride: s.strides.hidden };
    multiplyTogether(this.#team, slots, lmHead, rows);
    this.#team.end();
    return { stride, isFinite };
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
        this.#finalNorm(t + i),
        config.hiddenSize,
        config.rmsNormEps,
      );
      this.#checkFinite(s.normed + row * i);
    }
    drain(
      multiplyTokens(this.#team, s, w.lmHead, out, stride, s.normed, s.strides.hidden, count, false),
    );
    return stride;
  }

  /** The last norm's weight for token t of the last run. */
  #finalNorm(t: number): number {
    const { position, sparseFrom } = this.#pass, { finalNorm, sparseNorms } = this.#w;
    return position + t >= sparseFrom ? sparseNorms?.final ?? finalNorm : finalNorm;
  }

  /** Integer kernels round NaN to numbers, so a broken pass is caught here and not in its logits. */
  #checkFinite(x: number): void {
    if (this.#k.findNonFiniteF32(x, this.#w.config.hiddenSize) < 0) return;
    throw notFinite();
  }

  /**
   * y = W x of one token for all projections of a linear, by their rule if `sparse`, and counts it.
   *
   * @param y f32, the linear's first output
   * @param x f32[nIn padded]
   * @param forced masks for its projections instead of the rule's test; null keeps the test
   * @param hasZ whether V^T x is in the workspace already
   * @returns how many channels were active; with masks given, those of the last one
   */
  project(
    linear: Linear,
    y: number,
    x: number,
    sparse: boolean,
    forced: ((name: ProjectionName) => Uint8Array | null) | null = null,
    hasZ: boolean = false,
  ): number {
    const k = this.#k, s = this.#s, m = linear.matrix, rule = sparse ? linear.parts[0]!.rule : null;
    let active = m.nIn;
    if (rule === null || rule.mode === "dense") {
      multiplyVector(this.#team, s, m, y, x, s.ones, -1);
    } else if (rule.mode === "low_rank") {
      active = 0;
      k.fillZeroF32(y, m.nOutPadded);
    } else {
      const masks = linear.parts.map(({ name }) => forced?.(name) ?? null);
      if (masks.some((mask) => mask !== null) || !shareMask(linear.parts)) {
        return this.#replay(linear, y, x, masks);
      }
      active = multiplyByRule(this.#team, s, m, linear.method, y, x, rule.scale, rule.threshold);
    }
    let rest = x;
    if (rule !== null && rule.mode !== "low_rank" && rule.v !== null && rule.takesAll !== true && !hasZ) {
      rest = s.rest;
      if (linear.method !== "dense") {
        k.maskChannelsF32(s.active, rest, x, rule.scale, rule.threshold, m.nIn);
      }
    }
    if (rule !== null) this.#addLowRank(linear.parts, y, rest, hasZ);
    for (const p of linear.parts) {
      if (rule !== null) this.#add(p, m, active);
      addBias(this.#k, p, y, rule !== null);
    }
    return active;
  }

  /** The same with masks given, which may differ among the projections: the whole product once for each of them. For tests against references. */
  #replay(linear: Linear, y: number, x: number, masks: readonly (Uint8Array | null)[]): number {
    const k = this.#k, s = this.#s, m = linear.matrix;
    let active = 0;
    for (const [i, p] of linear.parts.entries()) {
      const rule = p.rule!, mask = masks[i]!;
      if (mask !== null) active = this.#force(s.active, s.rest, x, mask, m);
      else {
        active = k.maskChannelsF32(s.active, s.rest, x, rule.scale, rule.threshold, m.nIn);
        k.fillZeroF32(s.active + 4 * m.nIn, m.nInPadded - m.nIn);
      }
      s.newInput();
      multiplyVector(this.#team, s, m, s.replayed, s.active, s.ones, -1);
      s.newInput();
      new Uint8Array(k.memory.buffer).copyWithin(
        y + 4 * p.offset,
        s.replayed + 4 * p.offset,
        s.replayed + 4 * (p.offset + p.nOut),
      );
      this.#add(p, m, active);
      if (rule.u !== null) this.#addLowRank([p], y, rule.takesAll === true ? x : s.rest, false);
      addBias(this.#k, p, y, true);
    }
    return active;
  }

  /** Counts a projection of one token that ran by its rule, without V. */
  #add(p: Projection, m: Matrix, active: number): void {
    this.#pass.kept += active * p.nOut + p.rule!.rank * p.nOut;
    this.#pass.dense += m.nIn * p.nOut;
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

  /** y += U z, z = V^T x, of some projections of a linear: V's rows are dense dot products, all in one call, U's columns channels that are always active. */
  #addLowRank(parts: readonly Projection[], y: number, x: number, hasZ: boolean): void {
    const s = this.#s, { v } = parts[0]!.rule!;
    if (v === null) return;
    if (!hasZ) {
      multiplyVector(this.#team, s, v, s.z, x, s.ones, -1);
      this.#pass.kept += v.nIn * v.nOut;
    }
    for (const { rule, offset } of parts) {
      const { u, firstRank } = rule!;
      if (u !== null) addProduct(this.#team, s, u, y + 4 * offset, s.z + 4 * firstRank);
    }
  }

  /** The same for tokens `from` to n, whose rows lie xStride and yStride apart. */
  *#addLowRankOfMany(
    parts: readonly Projection[],
    y: number,
    yStride: number,
    x: number,
    xStride: number,
    from: number,
    n: number,
    hasZ: boolean,
  ): Generator<void, void> {
    const team = this.#team, s = this.#s, zStride = s.strides.z, { v } = parts[0]!.rule!;
    if (v === null) return;
    // fours begin where they do for the other products, whose buffers have room for them; z of tokens that run dense is 0
    const first = from - from % FOUR, z = s.z + 4 * zStride * first;
    if (!hasZ) {
      yield* multiplyTokens(team, s, v, z, zStride, x + 4 * xStride * first, xStride, n - first, false);
      for (let t = first; t < from; t++) this.#k.fillZeroF32(s.z + 4 * zStride * t, v.nOut);
      this.#pass.kept += (n - from) * v.nIn * v.nOut;
    }
    for (const { rule, offset } of parts) {
      const { u, firstRank } = rule!, to = y + 4 * yStride * first + 4 * offset;
      if (u !== null) yield* addTokens(team, s, u, to, yStride, z + 4 * firstRank, zStride, n - first);
    }
  }

  /** normed = rms norm of the stream, whose tokens from `firstSparse` on have a weight of their own. */
  #normalise(dense: number, sparse: number, firstSparse: number, n: number): void {
    const s = this.#s, { hiddenSize, rmsNormEps } = this.#w.config, row = 4 * s.strides.hidden;
    eachToken(this.#team, n, (k, t) => {
      const weight = t < firstSparse ? dense : sparse;
      k.rmsNormF32(s.normed + row * t, s.hidden + row * t, weight, hiddenSize, rmsNormEps);
    });
  }

  /** The stream += what o or down gave. */
  #addOutput(n: number): void {
    const s = this.#s, { hidden } = s.strides;
    eachToken(
      this.#team,
      n,
      (k, t) => k.addF32(s.hidden + 4 * hidden * t, s.output + 4 * hidden * t, hidden),
    );
  }

  /** All projections of a site for all tokens: y f32[n, yStride]. */
  *#site(
    l: number,
    site: number,
    y: number,
    yStride: number,
    x: number,
    xStride: number,
    position: number,
    n: number,
    options: RunOptions,
  ): Generator<void, void> {
    const { observe, forceMask, sparseFrom, exactFirst = false, slots } = options, s = this.#s;
    observe?.(l, SITES[site]!, x, xStride, n);
    s.newInput();
    for (const slot of slots ?? []) slot.s.newInput();
    let before: SparseRule | null = null;
    for (const linear of this.#w.layers[l]!.sites[site]!) {
      const to = y + 4 * linear.at, rule = linear.parts[0]!.rule;
      const allDense = rule === null || rule.mode === "dense" || sparseFrom >= position + n;
      const hasZ = forceMask === undefined && before !== null && rule !== null &&
        sameProductOfV(before, rule);
      before = shareMask(linear.parts) ? rule : null;
      if (slots !== undefined) {
        const rows = { y: to, yStride, x, xStride };
        projectTogether(this.#team, slots, linear, rows, sparseFrom - position, hasZ);
      } else if (
        (n === 1 && !exactFirst && options.spans === undefined) || (!allDense && forceMask !== undefined)
      ) {
        for (let t = 0; t < n; t++) {
          const at = position + t,
            forced = forceMask === undefined ? null : (name: ProjectionName) => forceMask(l, name, at);
          if (n > 1) s.newInput();
          this.project(linear, to + 4 * yStride * t, x + 4 * xStride * t, at >= sparseFrom, forced, hasZ);
        }
      } else if (allDense) {
        yield* multiplyTokens(this.#team, s, linear.matrix, to, yStride, x, xStride, n, exactFirst);
        for (const p of linear.parts) {
          for (let t = sparseTokens(position, n, sparseFrom); t > 0 && p.rule !== null; t--) {
            this.#add(p, linear.matrix, linear.matrix.nIn);
          }
        }
        this.#addBiases(linear, to, yStride, n, sparseFrom - position);
      } else {
        yield* this.#projectTokens(
          linear,
          to,
          yStride,
          x,
          xStride,
          position,
          n,
          sparseFrom,
          exactFirst,
          hasZ,
        );
      }
    }
    yield;
  }

  #addBiases({ parts }: Linear, y: number, yStride: number, n: number, firstSparse: number): void {
    for (const p of parts) {
      for (let t = 0; t < n; t++) addBias(this.#k, p, y + 4 * yStride * t, t >= firstSparse);
    }
  }

  /** Sparse rule over many tokens: x masked, then the ordinary product, and the low-rank part's for those that run sparse. */
  *#projectTokens(
    linear: Linear,
    y: number,
    yStride: number,
    x: number,
    xStride: number,
    position: number,
    n: number,
    sparseFrom: number,
    exactFirst: boolean,
    hasZ: boolean,
  ): Generator<void, void> {
    const k = this.#k, s = this.#s, m = linear.matrix, stride = s.strides.widest;
    const isShared = shareMask(linear.parts);
    for (const parts of isShared ? [linear.parts] : linear.parts.map((part) => [part])) {
      const { offset, nOut } = parts[0]!, rule = parts[0]!.rule!;
      for (let t = 0; t < n; t++) {
        const active = s.active + 4 * stride * t,
          rest = s.rest + 4 * stride * t,
          sparse = position + t >= sparseFrom;
        const threshold = !sparse ? -1 : rule.mode === "low_rank" ? Infinity : rule.threshold;
        const count = k.maskChannelsF32(
          active,
          rest,
          x + 4 * xStride * t,
          sparse ? rule.scale : s.ones,
          threshold,
          m.nIn,
        );
        k.fillZeroF32(active + 4 * m.nIn, m.nInPadded - m.nIn);
        for (const p of parts) if (sparse) this.#add(p, m, count);
      }
      const outputs = isShared ? undefined : { from: offset, to: offset + padTo(nOut, 64) };
      if (rule.mode === "low_rank" && sparseFrom <= position) {
        clearTokens(this.#team, y, yStride, m, n, outputs);
      } else yield* multiplyTokens(this.#team, s, m, y, yStride, s.active, stride, n, exactFirst, outputs);
      const [rest, restStride] = rule.takesAll === true ? [x, xStride] : [s.rest, stride];
      const from = Math.max(0, sparseFrom - position), isReady = hasZ && isShared;
      yield* this.#addLowRankOfMany(parts, y, yStride, rest, restStride, from, n, isReady);
    }
    this.#addBiases(linear, y, yStride, n, sparseFrom - position);
  }
}

/** The error for a pass that is broken. */
export function notFinite(): NotFiniteError {
  return new NotFiniteError(
    "Cannot go on: the model's activations are no longer finite: its weights, or the recipe's factors, overflow on these tokens",
  );
}

/** Whether projections of one linear select the same channels. */
function shareMask(parts: readonly Projection[]): boolean {
  const first = parts[0]!.rule;
  return parts.every(({ rule }) => rule?.threshold === first?.threshold && rule?.scale === first?.scale);
}

/** Whether V^T x of one linear is that of the next as well: the same V, and the same of x before it. */
function sameProductOfV(a: SparseRule, b: SparseRule): boolean {
  if (a.v === null || a.v !== b.v) return false;
  if (a.takesAll === true) return true;
  return (a.mode === "low_rank") === (b.mode === "low_rank") && a.threshold === b.threshold &&
    a.scale === b.scale;
}

/** How many of n tokens from `position` run by their rules. */
function sparseTokens(position: number, n: number, sparseFrom: number): number {
  return Math.max(0, Math.min(n, position + n - sparseFrom));
}

/** Runs work to its end without a turn for anyone else, and returns what it gives. */
export function drain<T>(work: Generator<void, T>): T {
  for (;;) {
    const { done, value } = work.next();
    if (done) return value;
  }
}
