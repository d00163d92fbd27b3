/** Finished rows of an evaluation, on disk. */
import type { RowResult } from "../eval/mod.ts";
import type { Platform } from "../platform/platform.ts";
import { Journal, type JournalWait } from "./journal.ts";

interface Line {
  readonly task: string;
  readonly result: RowResult;
  readonly ms: number;
}

/** Rows by task. */
export class EvalState {
  readonly #journal: Journal<Line>;

  private constructor(journal: Journal<Line>) {
    this.#journal = journal;
  }

  /**
   * Opens what an earlier run left, or begins.
   *
   * @param inputs everything that results depend on
   * @throws {Error} If what is there is of a run with other inputs, or another process writes it.
   */
  static async open(
    platform: Platform,
    path: string,
    inputs: Record<string, unknown>,
    wait: JournalWait = {},
  ): Promise<EvalState> {
    return new EvalState(await Journal.open(platform, path, inputs, isLine, "-o", wait));
  }

  /** Milliseconds that its rows took. */
  get ms(): number {
    return this.#journal.lines.reduce((sum, { ms }) => sum + ms, 0);
  }

  /** The rows of a task that are done, from the first on. */
  finished(task: string): RowResult[] {
    return this.#journal.lines.filter((line) => line.task === task).map(({ result }) => result);
  }

  async add(task: string, result: RowResult, ms: number): Promise<void> {
    await this.#journal.add({ task, result, ms });
  }

  /** Twice is once. */
  close(): Promise<void> {
    return this.#journal.close();
  }

  /** Closes it and takes the file away: its rows are in the results. */
  remove(): Promise<void> {
    return this.#journal.remove();
  }
}

function isLine(value: unknown): value is Line {
  const line = value as Partial<Line> | null;
  return typeof line?.task === "string" && typeof line.result?.work === "object" &&
    typeof line.ms === "number";
}
