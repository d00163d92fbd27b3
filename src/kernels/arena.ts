/** A bump allocator over one WebAssembly memory: weights and buffers live as long as the model, so nothing is ever given back. */

const PAGE_BYTES = 65536;
/** Memory32's end: 65,536 pages. */
const LIMIT = 65536 * PAGE_BYTES;
/** Kernels touch up to this many bytes past a buffer (the stream's read-ahead). */
const SLACK = 4096;

/** Hands out 64-byte aligned ranges of a memory and grows it when needed. */
export class Arena {
  readonly memory: WebAssembly.Memory;
  #top: number;

  /** @param start first free byte */
  constructor(memory: WebAssembly.Memory, start: number) {
    this.memory = memory;
    this.#top = align(start);
  }

  /** Bytes handed out so far, the module's own data included. */
  get used(): number {
    return this.#top;
  }

  /**
   * The offset of `bytes` fresh bytes. New memory is zero.
   *
   * @throws {RangeError} If 4 GiB, or what the runtime gives, is not enough; says how much was wanted.
   */
  allocate(bytes: number): number {
    const at = this.#top;
    this.reserve(bytes);
    this.#top = align(at + bytes);
    return at;
  }

  /**
   * Grows the memory for `bytes` that are about to be allocated piece by piece. V8 collects garbage at most grows: one grow a
   * tensor made Node 24 take 4.3 s to load SmolLM2 in f32, and 0.5 s with a single one.
   *
   * @throws {RangeError} As {@linkcode Arena.allocate}.
   */
  reserve(bytes: number): void {
    const at = this.#top, wanted = align(at + bytes) + SLACK;
    const missing = wanted - this.memory.buffer.byteLength;
    if (missing > 0) {
      const pages = Math.ceil(missing / PAGE_BYTES);
      try {
        if (wanted > LIMIT) throw new RangeError("over 4 GiB");
        this.memory.grow(pages);
      } catch (cause) {
        throw new RangeError(
          `Cannot allocate ${mib(bytes)} MiB: ${
            mib(at)
          } MiB are in use and the runtime gives no more of WebAssembly's 4096 MiB: ` +
            `use a smaller model, a smaller dtype or a shorter context`,
          { cause },
        );
      }
    }
  }
}

function align(n: number): number {
  return Math.ceil(n / 64) * 64;
}

function mib(bytes: number): number {
  return Math.ceil(bytes / 2 ** 20);
}
