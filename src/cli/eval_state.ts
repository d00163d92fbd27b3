/** Finished rows of an evaluation, on disk: a run that was cut short, even by kill -9, goes on from there. */
import type { RowResult } from "../eval/mod.ts";
import type { Platform } from "../platform/platform.ts";

interface Line {
  readonly task: string;
  readonly result: RowResult;
  readonly ms: number;
}

/** JSON lines: what the rows depend on, then a row each. */
export class EvalState {
  readonly #platform: Platform;
  readonly #path: string;
  readonly #lines: readonly Line[];
  #writer: Awaited<ReturnType<Platform["openWriter"]>> | null;

  private constructor(
    platform: Platform,
    path: string,
    lines: readonly Line[],
    writer: Awaited<ReturnType<Platform["openWriter"]>>,
  ) {
    this.#platform = platform;
    this.#path = path;
    this.#lines = lines;
    this.#writer = writer;
  }

  /**
   * Opens what an earlier run left, or begins.
   *
   * @param inputs everything that results depend on
   * @throws {Error} If what is there is of a run with other inputs.
   */
  static async open(platform: Platform, path: string, inputs: Record<string, unknown>): Promise<EvalState> {
    const header = `${JSON.stringify(inputs)}\n`, lines: Line[] = [];
    let kept = header;
    if (await platform.stat(path) !== null) {
      const text = new TextDecoder().decode(await (await platform.openBlob(path)).arrayBuffer());
      // a first line that is not whole was cut while it was written: nothing came after it
      if (text.includes("\n")) checkHeader(path, text.slice(0, text.indexOf("\n")), inputs);
      for (const line of text.split("\n").slice(1, -1)) {
        const parsed = parse(line);
        if (parsed === null) break;
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
    return new EvalState(platform, path, lines, await platform.openWriter(path));
  }

  /** Milliseconds that its rows took. */
  get ms(): number {
    return this.#lines.reduce((sum, { ms }) => sum + ms, 0);
  }

  /** The rows of a task that are done, from the first on. */
  finished(task: string): RowResult[] {
    return this.#lines.filter((line) => line.task === task).map(({ result }) => result);
  }

  async add(task: string, result: RowResult, ms: number): Promise<void> {
    await this.#writer!.write(new TextEncoder().encode(`${JSON.stringify({ task, result, ms })}\n`));
  }

  /** Twice is once. */
  async close(): Promise<void> {
    const writer = this.#writer;
    this.#writer = null;
    await writer?.close();
  }

  /** Closes it and takes the file away: its rows are in the results. */
  async remove(): Promise<void> {
    await this.close();
    await this.#platform.remove(this.#path);
  }
}

function checkHeader(path: string, header: string, inputs: Record<string, unknown>): void {
  let found: Record<string, unknown>;
  try {
    found = JSON.parse(header);
  } catch {
    found = {};
  }
  const other = Object.keys(inputs).find((name) =>
    JSON.stringify(found?.[name]) !== JSON.stringify(inputs[name])
  );
  if (other === undefined) return;
  const show = (value: unknown): string => JSON.stringify(value) ?? "nothing";
  throw new Error(
    `Cannot go on with ${path}: it is of a run with another ${other}: ${show(found?.[other])} found, ` +
      `${show(inputs[other])} wanted: remove it, or give another -o`,
  );
}

function parse(line: string): Line | null {
  try {
    const value = JSON.parse(line);
    return typeof value?.task === "string" && typeof value?.result?.work === "object" &&
        typeof value?.ms === "number"
      ? value
      : null;
  } catch {
    return null;
  }
}
