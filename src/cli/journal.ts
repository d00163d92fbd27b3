/** What a long run has finished, on disk: one that was cut short, even by kill -9, goes on from there. */
import { type Lock, waitForLock } from "../hub/lock.ts";
import type { Platform } from "../platform/platform.ts";

/** A process that was killed has its lock for up to 15 s more. */
const LOCK_WAIT_MS = 17_000, LOCK_POLL_MS = 500;

/** While another process has the file, or had it until it was killed. */
export interface JournalWait {
  /** Ends the wait with the signal's reason. */
  readonly signal?: AbortSignal;
  /** Called with the file's path when the wait begins. */
  readonly onWait?: (path: string) => void;
  /** Default: until a process that was killed has the file no longer. */
  readonly waitMs?: number;
}

/** What a person is told then. */
export function waitNote(path: string): string {
  return `waiting: ${path} is in use, or was until its process was killed: a few seconds tell`;
}

/** JSON lines: what the rest depends on, then a line for each piece of work. */
export class Journal<T> {
  /** What earlier runs have written. */
  readonly lines: readonly T[];
  readonly #platform: Platform;
  readonly #path: string;
  readonly #lock: Lock;
  #writer: Awaited<ReturnType<Platform["openWriter"]>> | null;
  #last: Promise<void> = Promise.resolve();

  private constructor(
    platform: Platform,
    path: string,
    lines: readonly T[],
    writer: Awaited<ReturnType<Platform["openWriter"]>>,
    lock: Lock,
  ) {
    this.#platform = platform;
    this.#path = path;
    this.lines = lines;
    this.#writer = writer;
    this.#lock = lock;
  }

  /**
   * Opens what an earlier run left, or begins.
   *
   * @param inputs everything that results depend on
   * @param isLine whether a parsed line is one; from the first that is not, the rest is dropped
   * @param output the option that names another output
   * @throws {Error} If what is there is of a run with other inputs, or another process writes it.
   */
  static async open<T>(
    platform: Platform,
    path: string,
    inputs: Record<string, unknown>,
    isLine: (value: unknown) => value is T,
    output: string,
    wait: JournalWait = {},
  ): Promise<Journal<T>> {
    const lock = await lockOf(platform, path, output, wait);
    try {
      const { lines, writer } = await Journal.#read(platform, path, inputs, isLine, output);
      return new Journal(platform, path, lines, writer, lock);
    } catch (error) {
      await lock.release();
      throw error;
    }
  }

  static async #read<T>(
    platform: Platform,
    path: string,
    inputs: Record<string, unknown>,
    isLine: (value: unknown) => value is T,
    output: string,
  ): Promise<{ lines: T[]; writer: Awaited<ReturnType<Platform["openWriter"]>> }> {
    const header = `${JSON.stringify(inputs)}\n`, lines: T[] = [];
    let kept = header;
    if (await platform.stat(path) !== null) {
      const text = new TextDecoder().decode(await (await platform.openBlob(path)).arrayBuffer());
      // a first line that is not whole was cut while it was written: nothing came after it
      if (text.includes("\n")) checkHeader(path, text.slice(0, text.indexOf("\n")), inputs, output);
      for (const line of text.split("\n").slice(1, -1)) {
        const parsed = parse(line);
        if (!isLine(parsed)) break;
        lines.push(parsed);
        kept += `${line}\n`;
      }
    }
    // without the line that was cut in the middle
    const part = `${path}.${crypto.randomUUID()}.part`,
      copy = await platform.openWriter(part, { truncate: true });
    await copy.write(new TextEncoder().encode(kept));
    await copy.close();
    await platform.rename(part, path);
    return { lines, writer: await platform.openWriter(path) };
  }

  /** Appends a line; several at once wait for one another. */
  add(line: T): Promise<void> {
    const next = this.#last.then(() =>
      this.#writer!.write(new TextEncoder().encode(`${JSON.stringify(line)}\n`))
    );
    this.#last = next.catch(() => {});
    return next;
  }

  /** Twice is once. */
  close(): Promise<void> {
    return this.#end(async () => {});
  }

  /** Closes it and takes the file away: what it holds is in the results. */
  remove(): Promise<void> {
    return this.#end(() => this.#platform.remove(this.#path));
  }

  /** Closes it and gives the file another name, in place of what has it. */
  rename(path: string): Promise<void> {
    return this.#end(() => this.#platform.rename(this.#path, path));
  }

  async #end(what: () => Promise<void>): Promise<void> {
    await this.#last;
    const writer = this.#writer;
    if (writer === null) return;
    this.#writer = null;
    try {
      await writer.close();
      await what();
    } finally {
      await this.#lock.release();
    }
  }
}

/** Takes the file for this process. @throws {Error} If another has it, and has not died. */
async function lockOf(
  platform: Platform,
  path: string,
  output: string,
  { signal, onWait, waitMs = LOCK_WAIT_MS }: JournalWait,
): Promise<Lock> {
  return await waitForLock(platform, `${path}.lock`, {
    pollMs: LOCK_POLL_MS,
    signal,
    onWait: () => onWait?.(path),
    waitMs,
    busy: () =>
      new Error(
        `Cannot go on with ${path}: another process is at it: wait for its end, or give another ${output}`,
      ),
  });
}

/** The first input that another run had otherwise; undefined where all are the same. */
export function differingInput(
  found: Readonly<Record<string, unknown>> | null,
  inputs: Readonly<Record<string, unknown>>,
): string | undefined {
  return Object.keys(inputs).find((name) => JSON.stringify(found?.[name]) !== JSON.stringify(inputs[name]));
}

function checkHeader(path: string, header: string, inputs: Record<string, unknown>, output: string): void {
  const found = parse(header) as Record<string, unknown> | null;
  const other = differingInput(found, inputs);
  if (other === undefined) return;
  const show = (value: unknown): string => JSON.stringify(value) ?? "nothing";
  throw new Error(
    `Cannot go on with ${path}: it is of a run with another ${other}: ${show(found?.[other])} found, ` +
      `${show(inputs[other])} wanted: remove it, or give another ${output}`,
  );
}

/** What JSON says, null where it is none. */
export function parse(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch {
    return null;
  }
}
