/**
 * Many generations on one model, advancing together: in each round every one of them that is listened to gets a token, and one prompt gets some of its
 * tokens. Rounds are run by whoever waits for a piece, so nothing runs for nobody.
 */
import { assumedFidelity, createPolicy, dialLevels, LatencyTable, type Policy } from "../deadline/mod.ts";
import type { Model } from "../runtime/model.ts";
import { nextTurn } from "../runtime/turn.ts";
import { MAX_TOKENS } from "../runtime/workspace.ts";
import { type Piece, Sequence, type SequenceOptions } from "./sequence.ts";

/** Limits of a scheduler. */
export interface SchedulerLimits {
  /** Generations that run beside one another. */
  readonly maxSequences: number;
  /** Generations that wait for their turn; more are refused. */
  readonly maxQueue: number;
  /** Bytes of keys and values that all that run may come to need; one alone may always run. */
  readonly kvBytes: number;
  /** Milliseconds for which a listener may not ask for pieces. */
  readonly stallMs: number;
}

/** What a scheduler tells of its work, for metrics. */
export interface SchedulerEvents {
  /** Tokens of prompts that were run. */
  prompt?(tokens: number): void;
  /** A token came, so many milliseconds after the one before it; NaN: the first, or after a pause. */
  token?(ms: number): void;
  /** A generation was ended before its time, by its listener or because that took nothing. */
  cancelled?(reason: CancelledError["reason"]): void;
  /** A generation was ended by an error. */
  failed?(error: unknown): void;
  /** Work that ran, of a generation that is over. */
  work?(count: { readonly kept: number; readonly dense: number; readonly sparseTokens: number }): void;
}

/** Pieces that may wait for a listener: with more its generation waits, and the others go on. */
const MAX_OUTBOX = 32;
/** Milliseconds that a prompt's part may take while others wait for their next tokens, and the least that such a part is. */
const PROMPT_MS = 50, LEAST_PROMPT = 8;
/** The longest that a timer can be set to. */
const MOST_MS = 2 ** 31 - 1;

/** Thrown by {@linkcode Scheduler.submit} when the queue is full. */
export class QueueFullError extends Error {
  /** Always `"QueueFullError"`. */
  override readonly name = "QueueFullError";
  /** Seconds after which there may be room. */
  readonly retryAfter: number;
  /** After so many seconds there may be room. */
  constructor(waiting: number, retryAfter: number) {
    super(`the server is busy: ${waiting} requests wait already: try again in ${retryAfter} s`);
    this.retryAfter = retryAfter;
  }
}

/** Thrown at the listener of a generation that was given up because it has gone, or took nothing. */
export class CancelledError extends Error {
  /** Always `"CancelledError"`. */
  override readonly name = "CancelledError";
  /** Which of the two. */
  readonly reason: "disconnect" | "stalled";
  /** `message` says for how long nothing was taken, or that it has gone. */
  constructor(reason: CancelledError["reason"], message: string) {
    super(message);
    this.reason = reason;
  }
}

/** Runs generations; see the module's comment. */
export class Scheduler {
  readonly #model: Model;
  readonly #limits: SchedulerLimits;
  readonly #events: SchedulerEvents;
  /** What tokens take at each setting of the dial. */
  readonly #latencies: LatencyTable;
  /** Which setting meets a deadline. */
  readonly #policy: Policy;
  readonly #queue: Sequence[] = [];
  #running: Sequence[] = [];
  /** The round that runs; whoever waits for a piece begins the next. */
  #round: Promise<void> | null = null;
  #wake: () => void = () => {};
  /** Listeners that wait for a piece of their generation. */
  readonly #arrivals: Map<Sequence, () => void> = new Map();
  /** When to look next whether somebody still asks for pieces: of all generations whose last one has not been taken. */
  readonly #watches: Map<Sequence, ReturnType<typeof setTimeout>> = new Map();
  #stallMs: number;
  /** Milliseconds that a prompt's token took in the last part of one. */
  #promptMs = 0;
  /** Milliseconds that generations took, a mean, for `Retry-After`. */
  #generationMs = 1000;

  /** Generations on `model` within `limits`. */
  constructor(model: Model, limits: SchedulerLimits, events: SchedulerEvents = {}) {
    this.#model = model;
    this.#limits = limits;
    this.#stallMs = limits.stallMs;
    this.#events = events;
    const levels = dialLevels(model.recipe);
    this.#latencies = new LatencyTable(
      levels.map((sparsity) => ({ sparsity, fidelity: assumedFidelity(sparsity) })),
    );
    this.#policy = createPolicy("slack", this.#latencies, { explore: true });
  }

  /** Generations that wait for their turn. */
  get queued(): number {
    return this.#queue.length;
  }

  /** Generations that run. */
  get running(): number {
    return this.#running.length;
  }

  /**
   * Puts a generation in the queue; it runs while its pieces are taken by {@linkcode Scheduler.take}.
   *
   * @throws {QueueFullError} If it can't.
   * @throws {RangeError} As `Sequence`.
   */
  submit(prompt: readonly number[], options: SequenceOptions): Sequence {
    const sequence = new Sequence(this.#model, prompt, options);
    this.#queue.push(sequence);
    this.#admit();
    const waiting = this.#queue.length - 1;
    if (waiting >= this.#limits.maxQueue) {
      this.#queue.pop();
      const rounds = 1 + waiting / Math.max(1, this.#running.length);
      throw new QueueFullError(
        waiting,
        Math.min(60, Math.max(1, Math.ceil(rounds * this.#generationMs / 1000))),
      );
    }
    this.#watch(sequence);
    this.#wake();
    return sequence;
  }

  /** From now on a listener may not ask for no longer than this, if that is less than before. */
  hurry(stallMs: number): void {
    this.#stallMs = Math.min(this.#stallMs, stallMs);
    for (const sequence of [...this.#watches.keys()]) this.#watch(sequence);
  }

  /**
   * The pieces that have come since the last call, at least one. After the piece with an end there are none.
   *
   * @throws What ended the generation, if it was not its own rules.
   */
  async take(sequence: Sequence): Promise<readonly Piece[]> {
    for (;;) {
      if (sequence.failure !== null) throw sequence.failure;
      if (sequence.outbox.length > 0) {
        const pieces = sequence.outbox.splice(0);
        sequence.waitingSince = performance.now();
        if (pieces.at(-1)!.end !== null) this.#unwatch(sequence);
        if (pieces.length >= MAX_OUTBOX) this.#wake();
        return pieces;
      }
      if (sequence.isOver) throw new Error("this generation is over");
      const arrived = new Promise<void>((resolve) => this.#arrivals.set(sequence, resolve));
      // a round that another listener has begun may be longer than the wait for this piece
      await Promise.race([arrived, this.#round ??= this.#advance()]);
      this.#arrivals.delete(sequence);
    }
  }

  /** Ends a generation whose listener has gone. It runs no further token; its memory is free when the pass that runs has ended. */
  cancel(sequence: Sequence): void {
    this.#unwatch(sequence);
    if (!sequence.isOver) this.#cancel(sequence, new CancelledError("disconnect", "whoever asked has gone"));
  }

  #cancel(sequence: Sequence, error: CancelledError): void {
    this.#fail(sequence, error);
    this.#events.cancelled?.(error.reason);
  }

  /**
   * Ends a generation whose pieces, also the last ones, nobody has asked for in a while. Each has its own timer: with nobody who asks there are no rounds that could
   * look after it.
   */
  #watch(sequence: Sequence): void {
    const since = this.#arrivals.has(sequence) ? performance.now() : sequence.waitingSince;
    const left = since + this.#stallMs - performance.now();
    this.#unwatch(sequence);
    if (left > 0) {
      this.#watches.set(sequence, setTimeout(() => this.#watch(sequence), Math.min(left, MOST_MS)));
    } else {
      this.#cancel(sequence, new CancelledError("stalled", `nothing was read for ${this.#stallMs / 1000} s`));
    }
  }

  #unwatch(sequence: Sequence): void {
    clearTimeout(this.#watches.get(sequence));
    this.#watches.delete(sequence);
  }

  #fail(sequence: Sequence, reason: unknown): void {
    this.#unwatch(sequence);
    sequence.isOver = true;
    sequence.failure = reason;
    sequence.outbox.length = 0;
    sequence.abort.abort(reason);
    const at = this.#queue.indexOf(sequence);
    if (at >= 0) this.#queue.splice(at, 1);
    // a session that runs lets go of its memory by itself when its pass has ended
    this.#release(sequence);
    this.#arrivals.get(sequence)?.();
    this.#wake();
  }

  #failed(sequence: Sequence, error: unknown): void {
    this.#fail(sequence, error);
    this.#events.failed?.(error);
  }

  /** Takes a generation that is over out of those that run. */
  #release(sequence: Sequence): void {
    const { session } = sequence;
    if (session === null) return;
    this.#events.work?.(session.count);
    session.close();
    sequence.session = null;
    this.#running = this.#running.filter((other) => other !== sequence);
  }

  /** One round, and the wait for something to do where there was nothing. */
  async #advance(): Promise<void> {
    const woken = new Promise<void>((resolve) => this.#wake = resolve);
    let moved = false;
    try {
      this.#admit();
      moved = await this.#decode();
      moved = await this.#prefill(moved) || moved;
      await nextTurn();
      if (!moved) await woken;
    } catch (error) {
      // of a model that can't go on: nobody's request alone is at fault
      for (const sequence of [...this.#running, ...this.#queue]) this.#failed(sequence, error);
    } finally {
      this.#round = null;
    }
  }

  /** Bytes of keys and values that a generation may come to need. */
  #bytes(sequence: Sequence): number {
    return this.#model.engine.kvBytesOf(sequence.positions);
  }

  #fits(sequence: Sequence): boolean {
    if (this.#running.length === 0) return true;
    const used = this.#running.reduce((sum, other) => sum + this.#bytes(other), 0);
    return this.#running.length < this.#limits.maxSequences &&
      used + this.#bytes(sequence) <= this.#limits.kvBytes;
  }

  /** Begins generations in the order in which they came. One that needs much memory is not overtaken: it would wait for ever. */
  #admit(): void {
    for (let first = this.#queue[0]; first !== undefined && this.#fits(first); first = this.#queue[0]) {
      first.begin(this.#model.session({ sparsity: first.options.sparsity }));
      this.#queue.shift();
      this.#running.push(first);
    }
  }

  /** A token for each generation that is past its prompt and not paused. */
  async #decode(): Promise<boolean> {
    const ready = this.#running.filter((sequence) => sequence.next !== null && !isPaused(sequence));
    for (const { session, options: { deadlineMs } } of ready) {
      if (deadlineMs === undefined) continue;
      const level = this.#policy.choose({ leftMs: deadlineMs, waiting: [] });
      session!.sparsity = this.#latencies.levels[level]!.sparsity;
    }
    const steps = ready.map(({ session, next }) => ({ session: session!, id: next! }));
    const found = ready.length > 0 ? await this.#model.decodeTogether(steps) : [];
    for (const [i, sequence] of ready.entries()) {
      const logits = found[i]!;
      if (sequence.isOver) continue;
      if (logits instanceof Error) this.#failed(sequence, logits);
      else this.#deliver(sequence, logits);
    }
    for (const sequence of this.#running.filter(isPaused)) sequence.lastTokenAt = NaN;
    return ready.length > 0;
  }

  /** Some tokens of the prompt that has waited longest for a turn. */
  async #prefill(othersWait: boolean): Promise<boolean> {
    const sequence = this.#running.find(({ next, prefilled, prompt }) =>
      next === null && prefilled < prompt.length
    );
    if (sequence === undefined) return false;
    // behind those that have not had a turn since
    this.#running = [...this.#running.filter((other) => other !== sequence), sequence];
    const most = othersWait && this.#promptMs > 0
      ? Math.min(MAX_TOKENS, Math.max(LEAST_PROMPT, Math.floor(PROMPT_MS / this.#promptMs)))
      : MAX_TOKENS;
    const { prompt, prefilled, abort: { signal } } = sequence;
    const count = promptPart(prefilled, prompt.length, most), began = performance.now();
    const logits = await this.#run(
      sequence,
      () => sequence.session!.prefillAsync(prompt.slice(prefilled, prefilled + count), { signal }),
    );
    if (logits === null) return true;
    this.#promptMs = (performance.now() - began) / count;
    this.#events.prompt?.(count);
    sequence.prefilled += count;
    if (sequence.prefilled === prompt.length) this.#deliver(sequence, logits);
    return true;
  }

  /** Runs some of a generation; null if it ended meanwhile, or ends by an error of its own. */
  async #run(sequence: Sequence, work: () => Promise<Float32Array>): Promise<Float32Array | null> {
    try {
      const logits = await work();
      return sequence.isOver ? null : logits;
    } catch (error) {
      if (sequence.isOver) return null;
      this.#failed(sequence, error);
      return null;
    }
  }

  #deliver(sequence: Sequence, logits: Float32Array): void {
    const before = sequence.lastTokenAt, { tokens } = sequence.continuation, count = tokens.length;
    try {
      sequence.deliver(logits);
    } catch (error) {
      return this.#failed(sequence, error);
    }
    const ms = sequence.lastTokenAt - before;
    if (tokens.length > count) this.#events.token?.(ms);
    const level = sequence.session === null ? -1 : this.#latencies.indexOf(sequence.session.sparsity);
    if (ms > 0 && level >= 0) this.#latencies.note(level, ms);
    if (sequence.isOver) {
      const { queueMs, firstTokenMs, decodeMs } = sequence.outbox.at(-1)!.end!;
      this.#generationMs += 0.1 * (firstTokenMs - queueMs + decodeMs - this.#generationMs);
      this.#release(sequence);
    }
    this.#arrivals.get(sequence)?.();
  }
}

function isPaused({ outbox }: Sequence): boolean {
  return outbox.length >= MAX_OUTBOX;
}

/**
 * How many tokens of a prompt to run next: at most `most` or one more, never past a multiple of MAX_TOKENS, and one alone only where a prompt that is run in one go
 * has one alone too. A token alone goes another way than several, so the bits are those of the whole prompt, however it is cut.
 */
export function promptPart(done: number, total: number, most: number): number {
  const left = Math.min(MAX_TOKENS - done % MAX_TOKENS, total - done);
  const part = Math.max(2, most);
  return left - part <= 1 ? left : part;
}
