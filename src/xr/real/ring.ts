/** A lock-free ring in shared memory: one thread puts entries in, one takes them out. */

/** Numbers an entry has. */
export const ENTRY = 4;
/** An entry: four numbers. */
export type Entry = readonly [number, number, number, number];

const ENTRY_BYTES = 8 * ENTRY;
/** Head, its own cache line, and tail: what one side writes does not take the other's line away. */
const HEAD_BYTES = 128;
const TAIL_WORD = 16;

/**
 * A ring of entries. The side that puts writes an entry and then the tail, the one that takes reads the tail and then the entry: atomic accesses order the
 * plain ones between them.
 */
export class Ring {
  readonly #ends: Int32Array;
  readonly #entries: Float64Array;
  readonly #capacity: number;

  /**
   * @param offset a multiple of 128, where `Ring.bytes(capacity)` zero bytes are
   * @param capacity most entries at a time
   */
  constructor(buffer: SharedArrayBuffer | ArrayBuffer, offset: number, capacity: number) {
    this.#ends = new Int32Array(buffer, offset, HEAD_BYTES / 4);
    this.#entries = new Float64Array(buffer, offset + HEAD_BYTES, ENTRY * capacity);
    this.#capacity = capacity;
  }

  /** Bytes that a ring takes, a multiple of 128. */
  static bytes(capacity: number): number {
    return Math.ceil((HEAD_BYTES + ENTRY_BYTES * capacity) / 128) * 128;
  }

  /** Puts an entry in. Returns false where there is no room. */
  push(entry: Entry): boolean {
    const tail = Atomics.load(this.#ends, TAIL_WORD);
    // counts run over at 2 ** 32; differences are right all the same
    if (((tail - Atomics.load(this.#ends, 0)) | 0) >= this.#capacity) return false;
    this.#entries.set(entry, ENTRY * ((tail >>> 0) % this.#capacity));
    Atomics.store(this.#ends, TAIL_WORD, (tail + 1) | 0);
    return true;
  }

  /** Takes the oldest entry out, or null where there is none. */
  pop(): Entry | null {
    const head = Atomics.load(this.#ends, 0);
    if (Atomics.load(this.#ends, TAIL_WORD) === head) return null;
    const at = ENTRY * ((head >>> 0) % this.#capacity), entries = this.#entries;
    const entry = [entries[at]!, entries[at + 1]!, entries[at + 2]!, entries[at + 3]!] as const;
    Atomics.store(this.#ends, 0, (head + 1) | 0);
    return entry;
  }

  /** How many entries were put in so far, as a word that changes with each. */
  get tail(): number {
    return Atomics.load(this.#ends, TAIL_WORD);
  }

  /** Sleeps while the tail is as it was, `ms` at most. */
  waitForTail(tail: number, ms: number): void {
    Atomics.wait(this.#ends, TAIL_WORD, tail, ms);
  }

  /** Wakes whoever sleeps. */
  notify(): void {
    Atomics.notify(this.#ends, TAIL_WORD);
  }
}
