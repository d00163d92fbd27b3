/** What a long run has finished, on disk: one that was cut short, even by kill -9, goes on from there. */
import type { Platform } from "../platform/platform.ts";

/** JSON lines: what the rest depends on, then a line for each piece of work. */
export class Journal<T> {
  /** What earlier runs have written. */
  readonly lines: readonly T[];
  readonly #platform: Platform;
  readonly #path: string;
  #writer: Awaited<ReturnType<Platform["openWriter"]>> | null;
  #last: Promise<void> = Promise.resolve();

  private constructor(
    platform: Platform,
    path: string,
    lines: readonly T[],
    writer: Awaited<ReturnType<Platform["openWriter"]>>,
  ) {
    this.#platform = platform;
    this.#path = path;
    this.lines = lines;
    this.#writer = writer;
  }

  /**
   * Opens what an earlier run left, or begins.
   *
   * @param inputs everything that results depend on
   * @param isLine whether a parsed line is one; from the first that is not, the rest is dropped
   * @param output the option that names another output
   * @throws {Error} If what is there is of a run with other inputs.
   */
  static async open<T>(
    platform: Platform,
    path: string,
    inputs: Record<string, unknown>,
    isLine: (value: unknown) => value is T,
    output: string,
  ): Promise<Journal<T>> {
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
    return new Journal(platform, path, lines, await platform.openWriter(path));
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
  async close(): Promise<void> {
    await this.#last;
    const writer = this.#writer;
    this.#writer = null;
    await writer?.close();
  }

  /** Closes it and takes the file away: what it holds is in the results. */
  async remove(): Promise<void> {
    await this.close();
    await this.#platform.remove(this.#path);
  }

  /** Closes it and gives the file another name, in place of what has it. */
  async rename(path: string): Promise<void> {
    await this.close();
    await this.#platform.rename(this.#path, path);
  }
}

function checkHeader(path: string, header: string, inputs: Record<string, unknown>, output: string): void {
  const found = parse(header) as Record<string, unknown> | null;
  const other = Object.keys(inputs).find((name) =>
    JSON.stringify(found?.[name]) !== JSON.stringify(inputs[name])
  );
  if (other === undefined) return;
  const show = (value: unknown): string => JSON.stringify(value) ?? "nothing";
  throw new Error(
    `Cannot go on with ${path}: it is of a run with another ${other}: ${show(found?.[other])} found, ` +
      `${show(inputs[other])} wanted: remove it, or give another ${output}`,
  );
}

function parse(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch {
    return null;
  }
}
