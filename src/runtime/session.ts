/** One sequence: its tokens, its cache, and the low-level way to run a model. */
import { ContextError } from "../errors.ts";
import { checkSparsity } from "../recipe/dial.ts";
import type { KvCache } from "./kv_cache.ts";
import { drain, notFinite, type PassOptions, type SparsityCount } from "./forward.ts";
import type { Engine } from "./model.ts";
import type { NeuronScores } from "./neuron_scores.ts";
import { MAX_TOGETHER, type Slot } from "./together.ts";
import { MAX_TOKENS } from "./workspace.ts";

/** Which positions of a prompt run dense: all, only the first `keepDense`, the official first 90 % (`official`), or those before a position. */
export type Prefill = "dense" | "sparse" | "official" | number;

/** Settings of a session. */
export interface SessionOptions {
  /** See {@linkcode Session.sparsity}. */
  readonly sparsity?: number;
}

/** Settings of a pass over several tokens. */
export interface PrefillOptions {
  /** Default `dense`. Without a recipe all are dense whatever this says. */
  readonly prefill?: Prefill;
  /** Sees the input of every projection, as calibration does. */
  readonly observe?: PassOptions["observe"];
  /** Gives masks instead of the recipe's test, for replays. */
  readonly forceMask?: PassOptions["forceMask"];
  /** Called after each chunk of tokens, so that a caller can stop by throwing. */
  readonly onChunk?: (done: number, total: number) => void;
}

/** Tokens that may come next, for {@linkcode Session.branchAsync}. */
export interface Branch {
  /** At least one. */
  readonly ids: readonly number[];
  /** The first of them after which logits are wanted. */
  readonly from: number;
  /** The first position that runs sparse. */
  readonly sparseFrom: number;
}

/** Settings of a pass over one token. */
export interface DecodeOptions extends Pick<PassOptions, "observe" | "forceMask"> {
  /** Runs it dense even with a recipe. */
  readonly dense?: boolean;
  /**
   * Called before each block, from 0, and with the number of blocks before the head. A sparsity that it returns holds from that block to the token's last, so that a token may hurry when it finds itself late; undefined
   * leaves the dial. It costs nothing but the call: the same weights and thresholds are there for all settings. Not for a position that always runs dense.
   */
  readonly beforeBlock?: (block: number) => number | undefined;
}

/** A token of one of several sessions, for `model.decodeTogether`. */
export interface DecodeStep {
  /** The sequence. */
  readonly session: Session;
  /** The token, which comes next in it. */
  readonly id: number;
}

/**
 * One sequence of a model. Made by `model.session()`; `close()` gives its cache back.
 *
 * @example
 * ```ts ignore
 * const session = model.session();
 * let logits = session.prefill(model.tokenize("The capital of France is"));
 * logits = session.decode(new Sampler({ temperature: 0 }).sample(logits, []));
 * ```
 */
export class Session {
  readonly #engine: Engine;
  readonly #cache: KvCache;
  #tokens: number[] = [];
  #closed = false;
  #running = false;

  #sparsity: number | null = null;
  /** Where the recipe picks neurons by what the sequence's dense positions did. */
  readonly #scores: NeuronScores | null;

  /** Use `model.session()`. */
  constructor(engine: Engine, { sparsity }: SessionOptions = {}) {
    this.#engine = engine;
    this.#sparsity = engine.restsAt;
    if (sparsity !== undefined) this.sparsity = sparsity;
    this.#cache = engine.newCache();
    this.#scores = engine.weights.mlp?.newScores() ?? null;
  }

  /** The share of multiply-adds that tokens skip which run sparse: the recipe's own until it is set; 0 without a recipe, or with a pack's own. */
  get sparsity(): number {
    return this.#sparsity ?? this.#engine.dial?.loaded.recipe.sparsity ?? 0;
  }

  /**
   * Turns the dial, from the next pass on; 0 runs all tokens dense.
   *
   * @throws {RangeError} If the recipe has no thresholds for it.
   */
  set sparsity(sparsity: number) {
    checkSparsity(this.#engine.dial?.loaded ?? null, sparsity);
    this.#sparsity = sparsity;
  }

  /** Tokens run so far. */
  get tokens(): readonly number[] {
    return this.#tokens;
  }

  /** How many tokens were run. */
  get length(): number {
    return this.#tokens.length;
  }

  /** What was skipped since the session began. */
  readonly count: SparsityCount = { kept: 0, dense: 0, sparseTokens: 0, tokens: 0 };

  /**
   * Runs tokens and returns the logits f32[vocabSize] after the last, a copy.
   *
   * @throws {ContextError} If they do not fit; nothing has run then.
   * @throws {RangeError} If there are none, or an id is not in the vocabulary.
   */
  prefill(ids: readonly number[], options: PrefillOptions = {}): Float32Array {
    return this.#alone(this.#prompt(ids, options));
  }

  /**
   * The same in pieces of some milliseconds, between which timers, signals and other tasks get their turn. While it runs, other sessions of
   * the model wait for it if they too run by this way, else get an error.
   *
   * @param options `signal` ends it within 50 ms, with the signal's reason; tokens that were not done are forgotten
   */
  prefillAsync(
    ids: readonly number[],
    options: PrefillOptions & { readonly signal?: AbortSignal } = {},
  ): Promise<Float32Array> {
    return this.#inTurns(this.#prompt(ids, options), options.signal);
  }

  /** Runs tokens for what they leave in the cache, or for an observer: no logits. Errors as {@linkcode Session.prefill}. */
  advance(ids: readonly number[], options: PrefillOptions = {}): void {
    this.#alone(this.#run(ids, options));
  }

  /**
   * Runs tokens and hands the logits after each to `each`; the array is only valid during the call, in which no session of the model can run.
   * Errors as {@linkcode Session.prefill}.
   */
  prefillAll(
    ids: readonly number[],
    each: (index: number, logits: Float32Array) => void,
    options: PrefillOptions = {},
  ): void {
    this.#engine.checkOpen();
    this.#alone(this.#run(ids, options, (first, count) => {
      this.#eachLogits(0, count, (i, logits) => each(first + i, logits));
    }));
  }

  /**
   * Runs several continuations of what the session holds, each as if it alone came next, with many of their tokens in one pass, in turns as
   * {@linkcode Session.prefillAsync}. The session is then as before. Logits go to `each` as by {@linkcode Session.prefillAll}, by the number of the branch and of its token.
   *
   * @throws {ContextError} If the longest does not fit; nothing has run then.
   * @throws {RangeError} If the session is empty, a branch is, or an id is not in the vocabulary.
   */
  branchAsync(
    branches: readonly Branch[],
    each: (branch: number, index: number, logits: Float32Array) => void,
    options: { readonly signal?: AbortSignal } = {},
  ): Promise<void> {
    return this.#inTurns(this.#branch(branches, each), options.signal);
  }

  /**
   * Runs one token and returns the logits after it, a copy. With a recipe it runs sparse, but for the first `keepDense` positions.
   *
   * @throws {ContextError} If the context is full.
   */
  decode(id: number, options: DecodeOptions = {}): Float32Array {
    return this.#alone(this.#step(id, options));
  }

  /** The same in pieces, as {@linkcode Session.prefillAsync}. */
  decodeAsync(
    id: number,
    options: DecodeOptions & { readonly signal?: AbortSignal } = {},
  ): Promise<Float32Array> {
    return this.#inTurns(this.#step(id, options), options.signal);
  }

  /**
   * Behind `model.decodeTogether`.
   *
   * @internal
   */
  static decodeTogether(engine: Engine, steps: readonly DecodeStep[]): Promise<(Float32Array | Error)[]> {
    if (new Set(steps.map(({ session }) => session)).size < steps.length) {
      throw new RangeError("a session is there twice: its second token depends on its first");
    }
    if (steps.some(({ session }) => session.#engine !== engine)) {
      throw new RangeError("a session is of another model");
    }
    return engine.inTurns(Session.#together(engine, steps));
  }

  static *#together(
    engine: Engine,
    steps: readonly DecodeStep[],
  ): Generator<void, (Float32Array | Error)[]> {
    const found: (Float32Array | Error)[] = [];
    const tokens = steps.map(({ session, id }, index) => ({ session, id, index, dial: session.#dialOfNext }));
    for (const group of groupsOf(tokens)) {
      const pace = engine.paceOf(group.length), clock = { ms: 0 };
      const isPass = group.length > 1 && pace.together && engine.weights.mlp === undefined;
      const slots = isPass ? engine.slots(group.length) : null;
      if (slots !== null) yield* timed(Session.#pass(engine, group, slots, found), clock);
      else {
        for (const { session, id, index } of group) {
          try {
            found[index] = yield* timed(session.#whileRunning(session.#step(id, {})), clock);
          } catch (error) {
            found[index] = error as Error;
          }
        }
      }
      if (group.length > 1) pace.note(clock.ms, 1);
    }
    return found;
  }

  /** The dial at which the next token runs; null: dense. */
  get #dialOfNext(): number | null {
    const keepDense = this.#engine.dial?.loaded.recipe.keepDense ?? Infinity;
    return this.length < keepDense || this.#sparsity === 0 ? null : this.sparsity;
  }

  /** One pass over tokens that run dense, the first of them, or at one dial. */
  static *#pass(
    engine: Engine,
    group: readonly { session: Session; id: number; index: number; dial: number | null }[],
    all: readonly Slot[],
    found: (Float32Array | Error)[],
  ): Generator<void, void> {
    const { forward, memory, config } = engine;
    const ready = group.filter(({ session, id, index }) => {
      try {
        session.#check([id]);
        session.#cache.reserve(session.length + 1);
        return true;
      } catch (error) {
        found[index] = error as Error;
        return false;
      }
    });
    if (ready.length === 0) return;
    const firstSparse = ready.findIndex(({ dial }) => dial !== null), slots = all.slice(0, ready.length);
    if (firstSparse >= 0) engine.dial!.set(ready[firstSparse]!.dial!);
    // what is skipped is counted by slots
    forward.count = { kept: 0, dense: 0, sparseTokens: 0, tokens: 0 };
    for (const { session } of ready) session.#running = true;
    try {
      yield* forward.run(ready.map(({ id }) => id), 0, ready[0]!.session.#cache, {
        sparseFrom: firstSparse < 0 ? Infinity : firstSparse,
        spans: ready.map(({ session }) => ({ cache: session.#cache, position: session.length, count: 1 })),
        slots,
      });
      const block = engine.logitsBlock(), { stride, isFinite } = forward.logitsTogether(slots, block.at);
      for (const [t, { session, id, index, dial }] of ready.entries()) {
        if (session.#closed) found[index] = new Error("the session is closed");
        else if (!isFinite[t]) found[index] = notFinite();
        else {
          const { count } = session, { kept, dense } = slots[t]!;
          session.#tokens.push(id);
          count.tokens++;
          if (dial !== null) count.sparseTokens++;
          count.kept += kept;
          count.dense += dense;
          found[index] = new Float32Array(memory.buffer, block.at + 4 * stride * t, config.vocabSize).slice();
        }
      }
    } finally {
      for (const { session } of ready) {
        session.#running = false;
        if (session.#closed) session.#release();
      }
    }
  }

  /** Forgets all tokens past the first n. @throws {Error} While a pass of this session is running. */
  truncate(n: number): void {
    if (this.#running) throw new Error("a pass of this session is running: wait for it before truncate");
    if (!Number.isInteger(n) || n < 0 || n > this.length) {
      throw new RangeError(`truncate(${n}): the session has ${this.length} tokens`);
    }
    if (n === this.length) return;
    this.#forgetFrom(n);
  }

  #forgetFrom(n: number): void {
    this.#tokens.length = n;
    this.#cache.truncate(n);
    this.#scores?.truncate(n);
  }

  /** Gives the cache back to the model; a pass that runs in turns fails at its next one. Twice is once. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    if (!this.#running) this.#release();
  }

  #release(): void {
    this.#tokens.length = 0;
    this.#cache.close();
  }

  /** `using session = model.session()` closes it. */
  [Symbol.dispose](): void {
    this.close();
  }

  #alone<T>(work: Generator<void, T>): T {
    return this.#engine.alone(() => drain(this.#whileRunning(work)));
  }

  #inTurns<T>(work: Generator<void, T>, signal?: AbortSignal): Promise<T> {
    return this.#engine.inTurns(this.#whileRunning(work), signal);
  }

  /** What is left of a pass that was given up is put away: its tokens are not kept, and a closed session lets go of its cache. */
  *#whileRunning<T>(work: Generator<void, T>): Generator<void, T> {
    this.#running = true;
    try {
      for (;;) {
        const { done, value } = work.next();
        if (done) return value;
        yield;
        if (this.#closed) throw new Error("the session is closed");
      }
    } finally {
      work.return(undefined as T);
      this.#running = false;
      if (this.#closed) this.#release();
    }
  }

  *#prompt(ids: readonly number[], options: PrefillOptions): Generator<void, Float32Array> {
    const before = this.length;
    yield* this.#run(ids, options);
    return this.#logits((ids.length - 1) % MAX_TOKENS, before);
  }

  *#step(id: number, options: DecodeOptions): Generator<void, Float32Array> {
    const before = this.length;
    this.#check([id]);
    const { forward } = this.#engine;
    this.#cache.reserve(before + 1);
    forward.count = this.count;
    this.#scores?.begin();
    yield* forward.run([id], before, this.#cache, {
      ...options,
      beforeBlock: this.#turnOf(options),
      sparseFrom: options.dense === true ? Infinity : this.#setDial((keepDense) => keepDense),
    }, this.#scores);
    this.#scores?.commit();
    this.#tokens.push(id);
    return this.#logits(0, before);
  }

  /** A copy of the logits after token t of the last pass. Tokens whose logits can't be had are not kept, so that a second try does not run them twice. */
  #logits(t: number, before: number): Float32Array {
    const { forward, memory, config } = this.#engine;
    try {
      return new Float32Array(memory.buffer, forward.logits(t), config.vocabSize).slice();
    } catch (error) {
      this.#forgetFrom(before);
      throw error;
    }
  }

  *#run(
    ids: readonly number[],
    options: PrefillOptions,
    each?: (first: number, count: number) => void,
  ): Generator<void, void> {
    if (ids.length === 0) throw new RangeError("no tokens to run: a prompt needs at least one");
    this.#check(ids);
    const engine = this.#engine, start = this.length, total = ids.length;
    this.#cache.reserve(start + total);
    engine.forward.count = this.count;
    const prefill = options.prefill ?? "dense";
    const sparseFrom = this.#setDial((keepDense) => sparseStart(prefill, start, total, keepDense));
    for (let first = 0; first < total; first += MAX_TOKENS) {
      const chunk = ids.slice(first, first + MAX_TOKENS);
      this.#scores?.begin();
      yield* engine.forward.run(chunk, start + first, this.#cache, {
        observe: options.observe,
        forceMask: options.forceMask,
        sparseFrom,
        exactFirst: start + first === 0,
      }, this.#scores);
      this.#scores?.commit();
      this.#tokens.push(...chunk);
      each?.(first, chunk.length);
      options.onChunk?.(first + chunk.length, total);
    }
    this.#scores?.mark(this.length);
  }

  *#branch(
    branches: readonly Branch[],
    each: (branch: number, index: number, logits: Float32Array) => void,
  ): Generator<void, void> {
    if (this.length === 0) throw new RangeError("no tokens to branch from: a session needs at least one");
    for (const { ids } of branches) {
      if (ids.length === 0) throw new RangeError("no tokens to run: a branch needs at least one");
      this.#check(ids);
    }
    const engine = this.#engine, start = this.length;
    const caches = branches.map(() => null as KvCache | null);
    const cacheOf = (branch: number): KvCache => {
      const cache = caches[branch] ??= this.#cache.fork(start);
      cache.reserve(start + branches[branch]!.ids.length);
      return cache;
    };
    engine.forward.count = this.count;
    try {
      for (const pass of planBranches(branches, start)) {
        const spans = pass.spans.map(({ branch, first, count }) => ({
          cache: cacheOf(branch),
          position: start + first,
          count,
        }));
        const ids = pass.spans.flatMap(({ branch, first, count }) =>
          branches[branch]!.ids.slice(first, first + count)
        );
        const { cache, position } = spans[0]!, sparseFrom = this.#setDial(() => pass.sparseFrom);
        // dense positions of a branch count for its own sparse ones alone
        if (pass.spans[0]!.first === 0) this.#scores?.begin();
        yield* engine.forward.run(
          ids,
          pass.isAlone ? position : 0,
          cache,
          pass.isAlone ? { sparseFrom } : { sparseFrom, spans },
          this.#scores,
        );
        let t = 0;
        for (const { branch, first, count } of pass.spans) {
          const skipped = Math.min(count, Math.max(0, branches[branch]!.from - first));
          this.#eachLogits(
            t + skipped,
            count - skipped,
            (i, logits) => each(branch, first + skipped + i, logits),
          );
          t += count;
        }
      }
    } finally {
      this.#scores?.begin();
      for (const cache of caches) cache?.close();
    }
  }

  /** Hands out the logits after some tokens of the last pass. */
  #eachLogits(first: number, count: number, each: (index: number, logits: Float32Array) => void): void {
    const { forward, memory, config } = this.#engine, block = this.#engine.logitsBlock();
    for (let t = 0; t < count; t += block.rows) {
      const rows = Math.min(block.rows, count - t), stride = forward.logitsOfMany(first + t, rows, block.at);
      for (let i = 0; i < rows; i++) {
        each(t + i, new Float32Array(memory.buffer, block.at + 4 * stride * i, config.vocabSize));
      }
    }
  }

  /** Sets the model's rules to this session's sparsity. Returns the first sparse position: none where it is dense, else what `start` gives. */
  #setDial(start: (keepDense: number) => number): number {
    const { dial } = this.#engine, from = start(dial?.loaded.recipe.keepDense ?? 0);
    if (this.#sparsity === 0) return Infinity;
    dial?.set(this.sparsity);
    return from;
  }

  /** `beforeBlock` as a pass has it: where it runs sparse from. @throws {RangeError} From within the pass, if the recipe has no thresholds for what it returns. */
  #turnOf({ beforeBlock, dense }: DecodeOptions): ((block: number) => number | undefined) | undefined {
    if (beforeBlock === undefined || dense === true) {
      return beforeBlock && ((block) => void beforeBlock(block));
    }
    const loaded = this.#engine.dial?.loaded ?? null;
    return (block) => {
      const sparsity = beforeBlock(block);
      if (sparsity === undefined) return undefined;
      checkSparsity(loaded, sparsity);
      if (sparsity === 0) return Infinity;
      this.#engine.dial!.set(sparsity);
      return loaded!.recipe.keepDense;
    };
  }

  #check(ids: readonly number[]): void {
    if (this.#closed) throw new Error("the session is closed");
    this.#engine.checkOpen();
    const { vocabSize } = this.#engine.config, limit = this.#engine.contextLength;
    for (const id of ids) {
      if (!Number.isInteger(id) || id < 0 || id >= vocabSize) {
        throw new RangeError(`token ${id}: ids of this model are 0 to ${vocabSize - 1}`);
      }
    }
    if (this.length + ids.length > limit) {
      throw new ContextError(this.length + ids.length, limit, "these tokens");
    }
  }
}

/** Tokens that one pass can take: those that run dense, then with them those of one dial, and those of others; evenly, where there are too many. */
function groupsOf<T extends { readonly dial: number | null }>(tokens: readonly T[]): T[][] {
  const [first, ...others] = new Set(tokens.flatMap(({ dial }) => dial ?? []));
  const lists = [first, ...others].map((wanted) => tokens.filter(({ dial }) => dial === wanted));
  lists[0] = [...tokens.filter(({ dial }) => dial === null), ...lists[0]!];
  return lists.flatMap((list) => {
    const groups = Math.ceil(list.length / MAX_TOGETHER);
    const at = (i: number): number => Math.floor(list.length * i / groups);
    return Array.from({ length: groups }, (_, i) => list.slice(at(i), at(i + 1)));
  });
}

/** Work whose time is added up, without that between its pieces. */
function* timed<T>(work: Generator<void, T>, clock: { ms: number }): Generator<void, T> {
  try {
    for (;;) {
      const began = performance.now(), { done, value } = work.next();
      clock.ms += performance.now() - began;
      if (done) return value;
      yield;
    }
  } finally {
    work.return(undefined as T);
  }
}

/** The first sparse position of a prompt of `total` tokens from position `start` (rsparse.md section 6). */
export function sparseStart(prefill: Prefill, start: number, total: number, keepDense: number): number {
  if (typeof prefill === "number" && prefill >= 0) return prefill;
  if (prefill === "dense") return Infinity;
  if (prefill === "sparse") return keepDense;
  if (prefill === "official") return start + Math.trunc(total * (1 - 0.1));
  throw new RangeError(`prefill: ${prefill} found, dense, sparse, official or a position wanted`);
}

/** Tokens of a branch in a pass. */
interface BranchSpan {
  readonly branch: number;
  /** Their first one's number in the branch. */
  readonly first: number;
  readonly count: number;
}

/** Passes over branches from position `start`: all that is dense and all that is sparse together, and a branch that is both by itself (`isAlone`). */
function planBranches(
  branches: readonly Branch[],
  start: number,
): { readonly spans: readonly BranchSpan[]; readonly sparseFrom: number; readonly isAlone: boolean }[] {
  const passes: { spans: BranchSpan[]; sparseFrom: number; isAlone: boolean }[] = [];
  const kinds = branches.map(({ ids, sparseFrom }) =>
    sparseFrom <= start ? "sparse" : sparseFrom >= start + ids.length ? "dense" : "both"
  );
  for (const kind of ["dense", "sparse"]) {
    let room = 0;
    for (const [branch, { ids }] of branches.entries()) {
      for (let first = 0; first < ids.length && kinds[branch] === kind;) {
        if (room === 0) {
          passes.push({ spans: [], sparseFrom: kind === "sparse" ? 0 : Infinity, isAlone: false });
          room = MAX_TOKENS;
        }
        const count = Math.min(room, ids.length - first);
        passes.at(-1)!.spans.push({ branch, first, count });
        room -= count;
        first += count;
      }
    }
  }
  for (const [branch, { ids, sparseFrom }] of branches.entries()) {
    for (let first = 0; first < ids.length && kinds[branch] === "both"; first += MAX_TOKENS) {
      const count = Math.min(MAX_TOKENS, ids.length - first);
      passes.push({ spans: [{ branch, first, count }], sparseFrom, isAlone: true });
    }
  }
  return passes;
}
