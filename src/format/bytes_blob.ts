/** Bytes that are in memory, as the `Blob` that everything is read from, without a copy. */

/**
 * A Blob over bytes, which must not change while it is in use. `new Blob([bytes])` copies them, and each read of it copies again: 15 MB twice where a worker has 128.
 * Only what reads bytes works on it; as a part of another `Blob`, or sent as a body, it is empty.
 */
export class BytesBlob extends Blob {
  readonly #bytes: Uint8Array;

  /** @param bytes are not copied */
  constructor(bytes: Uint8Array) {
    super();
    this.#bytes = bytes;
  }

  /** Of the bytes. */
  override get size(): number {
    return this.#bytes.length;
  }

  /** Without a copy. */
  override slice(start = 0, end: number = this.size): Blob {
    const within = (at: number): number => at < 0 ? Math.max(this.size + at, 0) : Math.min(at, this.size);
    const from = within(start);
    return new BytesBlob(this.#bytes.subarray(from, Math.max(from, within(end))));
  }

  /** The bytes themselves, not a copy. */
  get view(): Uint8Array {
    return this.#bytes;
  }

  /** A copy. */
  override bytes(): Promise<Uint8Array<ArrayBuffer>> {
    return Promise.resolve(new Uint8Array(this.#bytes));
  }

  /** A copy. */
  override async arrayBuffer(): Promise<ArrayBuffer> {
    return (await this.bytes()).buffer;
  }

  /** As UTF-8. */
  override text(): Promise<string> {
    return Promise.resolve(new TextDecoder().decode(this.#bytes));
  }

  /** All of it in one piece. */
  override stream(): ReadableStream<Uint8Array<ArrayBuffer>> {
    const bytes = new Uint8Array(this.#bytes);
    return new ReadableStream({
      start(controller) {
        if (bytes.length > 0) controller.enqueue(bytes);
        controller.close();
      },
    });
  }
}

/** Bytes `[start, end)` of a Blob: a view where they are in memory, which must not be written to. */
export async function readBytes(blob: Blob, start: number, end: number): Promise<Uint8Array> {
  const part = blob.slice(start, end);
  return part instanceof BytesBlob ? part.view : new Uint8Array(await part.arrayBuffer());
}

/** A Blob whose bytes can be read to where they are wanted, without a buffer between. */
interface DirectBlob extends Blob {
  /** All of it, to the beginning of `target`. */
  readInto(target: Uint8Array): Promise<void>;
}

/**
 * Reads bytes `[start, start + target.length)` of a Blob to `target`, with as few copies as it can: pages that are touched for the first time cost more than what is
 * written to them.
 *
 * @returns how many there were
 */
export async function readInto(blob: Blob, start: number, target: Uint8Array): Promise<number> {
  const part = blob.slice(start, start + target.length);
  if (part instanceof BytesBlob) target.set(part.view);
  else if (typeof (part as Partial<DirectBlob>).readInto === "function") {
    await (part as DirectBlob).readInto(target);
  } else target.set(new Uint8Array(await part.arrayBuffer()));
  return part.size;
}
