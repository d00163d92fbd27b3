/** What the loader and the accelerators share: a word that they wake the loader by, states, and two rings for each accelerator. */
import { Ring } from "./ring.ts";

/** Jobs of one accelerator that may be on their way: dispatch has one at a time, and clocks are compared by another. */
const CAPACITY = 16;
const HEADER_BYTES = 128;
/** State and text of an accelerator. */
const STATE_BYTES = 512;
const TEXT_AT = 8;

/** A job, as it goes through the ring; `COMPARE` is none, but asks for the time. */
export interface JobEntry {
  /** Number of the model in the scenario's order. */
  readonly model: number;
  /** The frame's number. */
  readonly frame: number;
  /** Sparsity of a model with a dial; NaN: its own. */
  readonly sparsity: number;
  /** Of a reply's token which one it is, from 0; -1 of frames. */
  readonly token: number;
}

/** What comes back of it. */
export interface DoneEntry {
  readonly model: number;
  readonly frame: number;
  /** By the accelerator's clock. */
  readonly startMs: number;
  readonly endMs: number;
}

/** In place of a model: no job, but the question what time it is. */
export const COMPARE = -1;

/** Shared memory of a run; every thread makes a view of its own. */
export class Board {
  readonly buffer: SharedArrayBuffer;
  readonly accelerators: number;
  readonly #header: Int32Array;
  /** By accelerator: whether it is lost, and bytes of the reason. */
  readonly #states: Int32Array[];
  readonly #jobs: Ring[];
  readonly #done: Ring[];

  constructor(buffer: SharedArrayBuffer, accelerators: number) {
    this.buffer = buffer;
    this.accelerators = accelerators;
    this.#header = new Int32Array(buffer, 0, HEADER_BYTES / 4);
    this.#states = Array.from(
      { length: accelerators },
      (_, i) => new Int32Array(buffer, HEADER_BYTES + STATE_BYTES * i, TEXT_AT / 4),
    );
    const ring = Ring.bytes(CAPACITY), from = HEADER_BYTES + STATE_BYTES * accelerators;
    this.#jobs = Array.from(
      { length: accelerators },
      (_, i) => new Ring(buffer, from + 2 * ring * i, CAPACITY),
    );
    this.#done = Array.from(
      { length: accelerators },
      (_, i) => new Ring(buffer, from + 2 * ring * i + ring, CAPACITY),
    );
  }

  /** Makes the memory for some accelerators. */
  static create(accelerators: number): Board {
    const bytes = HEADER_BYTES + accelerators * (STATE_BYTES + 2 * Ring.bytes(CAPACITY));
    return new Board(new SharedArrayBuffer(bytes), accelerators);
  }

  /** Hands a job to an accelerator and wakes it. @throws {Error} If its ring is full, which no scheduler lets happen. */
  send(accelerator: number, { model, frame, sparsity, token }: JobEntry): void {
    const ring = this.#jobs[accelerator]!;
    if (!ring.push([model, frame, sparsity, token])) {
      throw new Error(`accelerator ${accelerator} has no room`);
    }
    ring.notify();
  }

  /** The accelerator's side: the next job, or null. */
  takeJob(accelerator: number): JobEntry | null {
    const entry = this.#jobs[accelerator]!.pop();
    return entry && { model: entry[0], frame: entry[1], sparsity: entry[2], token: entry[3] };
  }

  /** The accelerator's side: sleeps until there may be a job, or `ms` have passed. `seen` is `jobsSent` before the last look. */
  waitForJob(accelerator: number, seen: number, ms: number): void {
    this.#jobs[accelerator]!.waitForTail(seen, ms);
  }

  /** A word that changes with every job that is sent. */
  jobsSent(accelerator: number): number {
    return this.#jobs[accelerator]!.tail;
  }

  /** The accelerator's side: hands back what a job came to and wakes the loader. */
  finish(accelerator: number, { model, frame, startMs, endMs }: DoneEntry): void {
    this.#done[accelerator]!.push([model, frame, startMs, endMs]);
    this.wake();
  }

  /** The loader's side: the next job that is over, or null. */
  takeDone(accelerator: number): DoneEntry | null {
    const entry = this.#done[accelerator]!.pop();
    return entry && { model: entry[0], frame: entry[1], startMs: entry[2], endMs: entry[3] };
  }

  /** Says that something has changed. */
  wake(): void {
    Atomics.add(this.#header, 0, 1);
    Atomics.notify(this.#header, 0);
  }

  /** A word that changes whenever the loader should look. */
  get changes(): number {
    return Atomics.load(this.#header, 0);
  }

  /** The loader's side: sleeps while `changes` is as it was, `ms` at most. */
  waitForChange(seen: number, ms: number): void {
    Atomics.wait(this.#header, 0, seen, ms);
  }

  /** Tells everyone to end. */
  stop(): void {
    Atomics.store(this.#header, 1, 1);
    for (const ring of this.#jobs) ring.notify();
    this.wake();
  }

  /** Whether everyone is to end. */
  get isStopped(): boolean {
    return Atomics.load(this.#header, 1) !== 0;
  }

  /** Notes that an accelerator is no more; the first reason counts. */
  lose(accelerator: number, reason: string): void {
    const words = this.#states[accelerator]!;
    // 1: someone writes the reason
    if (Atomics.compareExchange(words, 0, 0, 1) !== 0) return;
    const text = new TextEncoder().encode(reason).subarray(0, STATE_BYTES - TEXT_AT);
    this.#textOf(accelerator, text.length).set(text);
    Atomics.store(words, 1, text.length);
    Atomics.store(words, 0, 2);
    this.wake();
  }

  /** Why an accelerator is no more, or null. */
  lossOf(accelerator: number): string | null {
    const words = this.#states[accelerator]!;
    if (Atomics.load(words, 0) !== 2) return null;
    // decoders take no shared memory
    return new TextDecoder().decode(this.#textOf(accelerator, Atomics.load(words, 1)).slice());
  }

  #textOf(accelerator: number, bytes: number): Uint8Array {
    return new Uint8Array(this.buffer, HEADER_BYTES + STATE_BYTES * accelerator + TEXT_AT, bytes);
  }
}
