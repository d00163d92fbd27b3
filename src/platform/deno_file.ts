/** Files by Deno's own functions: Node's, which Deno has as well, take 30 ms until they are there. */

/** What is used of `Deno`. */
interface DenoFiles {
  openSync(path: string): {
    readSync(target: Uint8Array): number | null;
    seekSync(offset: number, whence: number): number;
    close(): void;
  };
  stat(
    path: string,
  ): Promise<{ readonly isDirectory: boolean; readonly size: number; readonly mtime: Date | null }>;
  readonly errors: { readonly NotFound: new () => Error; readonly NotADirectory?: new () => Error };
}

const files = (globalThis as { Deno?: unknown }).Deno as DenoFiles;
/** From the file's beginning. */
const SEEK_START = 0;
/** Bytes that are read before others have a turn. */
const READ_BYTES = 4 << 20;

/**
 * Bytes `[start, end)` of a file, read when asked for. Deno has Node's `openAsBlob`, but reads the whole file into
 * memory there: 1.5 GB took 3.6 s and 3.1 GB (Deno 2.9.6). Only what reads bytes works on this one; as a part of another
 * `Blob`, or sent as a body, it is empty.
 */
class FileBlob extends Blob {
  readonly #path: string;
  readonly #start: number;
  readonly #end: number;

  constructor(path: string, start: number, end: number) {
    super();
    this.#path = path;
    this.#start = start;
    this.#end = end;
  }

  override get size(): number {
    return this.#end - this.#start;
  }

  override slice(start = 0, end: number = this.size): Blob {
    const within = (at: number): number => at < 0 ? Math.max(this.size + at, 0) : Math.min(at, this.size);
    const from = within(start);
    return new FileBlob(this.#path, this.#start + from, this.#start + Math.max(from, within(end)));
  }

  override async bytes(): Promise<Uint8Array<ArrayBuffer>> {
    const bytes = new Uint8Array(this.size);
    await this.readInto(bytes);
    return bytes;
  }

  /** Reads all of it to the beginning of `target`: `readInto` of `format/bytes_blob.ts` finds this. */
  async readInto(target: Uint8Array): Promise<void> {
    // Deno reads to no shared memory
    if (!(target.buffer instanceof ArrayBuffer)) return void target.set(await this.bytes());
    // Opened for each read: nothing tells when a Blob is needed no longer. Not by promises: those for a pack's 80 reads were a tenth of the time in which it loads.
    const file = files.openSync(this.#path);
    try {
      file.seekSync(this.#start, SEEK_START);
      for (let done = 0; done < this.size;) {
        const found = file.readSync(target.subarray(done, Math.min(this.size, done + READ_BYTES)));
        if (found === null) {
          throw new RangeError(
            `Cannot read ${this.#path}: it ends at byte ${
              this.#start + done
            }, it was longer when it was opened`,
          );
        }
        done += found;
        if (done < this.size) await new Promise((resolve) => setTimeout(resolve, 0));
      }
    } finally {
      file.close();
    }
  }

  override async arrayBuffer(): Promise<ArrayBuffer> {
    return (await this.bytes()).buffer;
  }

  override async text(): Promise<string> {
    return new TextDecoder().decode(await this.bytes());
  }

  override stream(): ReadableStream<Uint8Array<ArrayBuffer>> {
    const chunk = 1 << 20;
    let at = 0;
    return new ReadableStream({
      pull: async (controller) => {
        const bytes = new Uint8Array(await this.slice(at, at + chunk).arrayBuffer());
        at += bytes.length;
        if (bytes.length > 0) controller.enqueue(bytes);
        else controller.close();
      },
    });
  }
}

/** What `Platform.stat` says. */
export async function statFile(
  path: string,
): Promise<{ kind: "file" | "folder"; size: number; modified: number } | null> {
  try {
    const found = await files.stat(path);
    return {
      kind: found.isDirectory ? "folder" : "file",
      size: found.size,
      modified: found.mtime?.getTime() ?? 0,
    };
  } catch (error) {
    const { NotFound, NotADirectory } = files.errors;
    if (error instanceof NotFound || (NotADirectory && error instanceof NotADirectory)) return null;
    throw error;
  }
}

/** A file as a Blob that is read by slices. @throws {TypeError} If it is a folder, or not there. */
export async function openFile(path: string): Promise<Blob> {
  const found = await statFile(path);
  if (found?.kind !== "file") {
    throw new TypeError(`Cannot open ${path}: ${found ? "it is a folder" : "there is no such file"}`);
  }
  return new FileBlob(path, 0, found.size);
}
