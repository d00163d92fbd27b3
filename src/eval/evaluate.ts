/** From tasks and their files to figures. */
import { encodeText } from "../runtime/encode_text.ts";
import { figuresOf, type RowResult, type TaskResult } from "./figures.ts";
import { type ClozeResult, scoreCloze } from "./lambada.ts";
import type { EvalPrefill, Subject } from "./likelihood.ts";
import { type ChoiceResult, scoreChoices } from "./multiple_choice.ts";
import { checkPart, type Part, rangeOfPart } from "./parts.ts";
import { cutPieces, joinDocuments, measurePiece, type PieceResult } from "./perplexity.ts";
import { type Numbered, parseRows, READERS, readText, splitDocuments } from "./rows.ts";
import { scoreSummary, type SummaryResult } from "./summary.ts";
import type { TaskChoice } from "./tasks.ts";

/** A task with the file that holds its rows. */
export interface TaskInput extends Pick<TaskChoice, "task" | "name"> {
  /** The file, gzip or not. */
  readonly blob: Blob;
  /** What the file is called in errors. */
  readonly file: string;
}

/** Settings of {@linkcode evaluateTask}. */
export interface EvaluateOptions {
  /** Which positions run sparse; default `sparse`. Without a recipe none do. */
  readonly prefill?: EvalPrefill;
  /** Rows or pieces at most; default: all, c4: 64. */
  readonly limit?: number;
  /** Tokens of a piece; default 1,024, or the model's context where that is shorter. */
  readonly pieceLength?: number;
  /** Tokens that each piece of a text begins with which are not scored; `prefill` `dense` runs them dense. Default 0. */
  readonly context?: number;
  /** The token after each document of c4; default 0. */
  readonly separator?: number;
  /** Which rows or pieces of those that there are; default all. The figures are then the part's own. */
  readonly part?: Part;
  /** Of the sign-flip test's draws; default 0. */
  readonly seed?: number;
  /** Ends it after the row that runs; what is there is returned, with `complete` false. */
  readonly signal?: AbortSignal;
  /** Results of rows that an earlier run has finished, from the first on. They don't run again. */
  readonly finished?: readonly RowResult[];
  /**
   * Results of the same rows of the same model without its recipe, as {@linkcode Evaluation.rows} has them: they don't run dense again. Of texts only perplexities are
   * compared then, without `kl` and `agreement`.
   */
  readonly denseRows?: readonly RowResult[];
  /** Who runs rows instead of this model: all that are left are asked for at once, and are taken in their order. */
  readonly runRows?: (range: RowRange) => Promise<readonly RowResult[]>;
  /** Called with each new result, in the order of the rows. */
  readonly onRow?: (result: RowResult, done: number, total: number) => void | Promise<void>;
}

/** Rows or pieces of a task that follow one another. */
export interface RowRange {
  /** The first, of all that there are. */
  readonly from: number;
  /** After the last. */
  readonly to: number;
  /** The same rows without a recipe, as {@linkcode EvaluateOptions.denseRows}. */
  readonly denseRows?: readonly RowResult[];
}

/** A task whose rows are read and, where it is a text, cut in pieces of tokens. */
export interface OpenTask {
  /** Rows or pieces that there are. */
  readonly total: number;
  /**
   * What one comes to.
   *
   * @param before its result without a recipe, which then does not run dense
   * @throws {Error} If it can't be run, with its line.
   * @throws The signal's reason, once it is aborted.
   */
  run(row: number, before?: RowResult): Promise<RowResult>;
  /** Closes its sessions. */
  close(): void;
}

/** A task's result, and what it is made from. */
export interface Evaluation {
  /** The figures. */
  readonly result: TaskResult;
  /** What each row came to. */
  readonly rows: readonly RowResult[];
  /** Rows or pieces that there are, of which a part may be less; null where the signal came before they were known. */
  readonly total: number | null;
}

/** Tokens of a piece. */
const PIECE = 1024;

/** Rows that are run together elsewhere: a piece takes seconds, a question some tens of milliseconds. */
const ROWS_TOGETHER = 8;

/**
 * Evaluates a model on one task.
 *
 * @throws {FormatError} If the file is broken, with its line.
 * @throws {RangeError} If an option is out of range.
 */
export async function evaluateTask(
  subject: Subject,
  input: TaskInput,
  options: EvaluateOptions = {},
): Promise<Evaluation> {
  const { task, name } = input, { seed = 0, context = 0, part, signal } = options;
  if (part !== undefined) checkPart(part);
  const isText = task.kind === "text" || task.kind === "documents";
  const shape = isText ? { pieceLength: pieceLengthOf(subject, options), context } : {};
  const open = await unlessAborted(signal, () => openTask(subject, input, options));
  if (open === null) {
    return { rows: [], total: null, result: figuresOf(task, [], { name, complete: false, seed, ...shape }) };
  }
  const range = part === undefined ? [0, open.total] as const : rangeOfPart(open.total, part);
  try {
    const { rows, complete } = await runAll(open, range, isText ? 1 : ROWS_TOGETHER, options);
    return {
      rows,
      total: open.total,
      result: figuresOf(task, rows, { name, complete, seed, ...shape }),
    };
  } finally {
    open.close();
  }
}

/**
 * Reads a task's rows.
 *
 * @throws As {@linkcode evaluateTask}, or the signal's reason, once it is aborted.
 */
export async function openTask(
  subject: Subject,
  input: TaskInput,
  options: EvaluateOptions = {},
): Promise<OpenTask> {
  const { limit } = options;
  if (limit !== undefined && !(Number.isInteger(limit) && limit >= 1)) {
    throw new RangeError(`limit: ${limit} found, at least 1 wanted`);
  }
  const text = await readText(input.blob, input.file);
  const { task } = input;
  return task.kind === "text" || task.kind === "documents"
    ? await openText(subject, input, text, options)
    : openRows(subject, input, text, options);
}

/** @throws {RangeError} If it, or the context, is out of range. */
function pieceLengthOf(subject: Subject, { pieceLength, context = 0 }: EvaluateOptions): number {
  const length = pieceLength ?? Math.min(PIECE, subject.contextLength);
  if (!(Number.isInteger(length) && length >= 2 && length <= subject.contextLength)) {
    throw new RangeError(
      `piece length: ${length} found, 2 to ${subject.contextLength} wanted: the model's context`,
    );
  }
  if (!(Number.isInteger(context) && context >= 0 && context <= length - 2)) {
    throw new RangeError(`context: ${context} found, 0 to ${length - 2} wanted: less than a piece has`);
  }
  return length;
}

async function openText(
  subject: Subject,
  { task, file }: TaskInput,
  text: string,
  options: EvaluateOptions,
): Promise<OpenTask> {
  const { prefill = "sparse", context = 0, signal } = options, length = pieceLengthOf(subject, options);
  const limit = options.limit ?? task.limit ?? Infinity, most = limit * length;
  const documents = task.kind === "text"
    ? splitDocuments(text)
    : parseRows(text, file, READERS.documents).map(({ row }) => row);
  const ids = documents === null
    ? await encodeText(subject.encode, text, { most, signal })
    : await joinDocuments(subject.encode, documents, { separator: options.separator ?? 0, most, signal });
  const pieces = cutPieces(ids, length, context).slice(0, limit);
  if (pieces.length === 0) {
    throw new RangeError(
      `Cannot evaluate ${file}: it has less than ${context === 0 ? "two" : context + 2} tokens`,
    );
  }
  const own = subject.session(), dense = subject.isSparse ? subject.session() : own;
  return {
    total: pieces.length,
    run: (row, before?: RowResult) =>
      measurePiece(subject, { own, dense }, pieces[row]!, {
        prefill,
        context,
        before: before as PieceResult | undefined,
        signal,
      }),
    close() {
      own.close();
      dense.close();
    },
  };
}

function openRows(
  subject: Subject,
  { task, file }: TaskInput,
  text: string,
  { prefill = "sparse", limit, signal }: EvaluateOptions,
): OpenTask {
  const session = subject.session();
  const open = <T, R extends RowResult>(
    read: (value: unknown) => T,
    score: (row: T, before?: R) => Promise<R>,
  ): OpenTask => {
    const all: Numbered<T>[] = parseRows(text, file, read, limit);
    return {
      total: all.length,
      run: (row, before) => atLine(file, all[row]!.line, () => score(all[row]!.row, before as R | undefined)),
      close: () => session.close(),
    };
  };
  switch (task.kind) {
    case "cloze":
      return open(
        READERS.cloze,
        (row, before?: ClozeResult) => scoreCloze(subject, session, row, prefill, signal, before),
      );
    case "summary":
      return open(
        READERS.summary,
        (row, before?: SummaryResult) => scoreSummary(subject, session, row, prefill, signal, before),
      );
    default:
      return open(
        task.kind === "choices" ? READERS.choices : READERS.contexts,
        (row, before?: ChoiceResult) => scoreChoices(subject, session, row, prefill, signal, before),
      );
  }
}

/** What `work` gives, or null where the signal ended it. */
async function unlessAborted<T>(
  signal: AbortSignal | undefined,
  work: () => Promise<T>,
): Promise<T | null> {
  try {
    return await work();
  } catch (error) {
    if (!signal?.aborted) throw error;
    return null;
  }
}

/** Runs what is not finished, one after the other, until the end or the signal. */
async function runAll(
  open: OpenTask,
  [from, to]: readonly [from: number, to: number],
  together: number,
  { finished = [], denseRows, runRows, signal, onRow }: EvaluateOptions,
): Promise<{ rows: RowResult[]; complete: boolean }> {
  const total = to - from, rows = finished.slice(0, total);
  if (denseRows !== undefined && denseRows.length !== total) {
    throw new RangeError(`the dense run has ${denseRows.length} rows, ${total} wanted`);
  }
  const add = async (result: RowResult): Promise<void> => {
    rows.push(result);
    await onRow?.(result, rows.length, total);
  };
  await unlessAborted(signal, async () => {
    if (runRows === undefined) {
      for (let i = rows.length; i < total && !signal?.aborted; i++) {
        await add(await open.run(from + i, denseRows?.[i]));
      }
      return;
    }
    const ranges: Promise<readonly RowResult[]>[] = [];
    for (let i = rows.length; i < total; i += together) {
      const end = Math.min(total, i + together);
      ranges.push(runRows({ from: from + i, to: from + end, denseRows: denseRows?.slice(i, end) }));
    }
    // the first that fails is told by the loop, which may not have come to it yet
    for (const range of ranges) range.catch(() => {});
    for (const range of ranges) for (const result of await range) await add(result);
  });
  return { rows, complete: rows.length === total };
}

async function atLine<T>(file: string, line: number, run: () => Promise<T>): Promise<T> {
  try {
    return await run();
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new Error(`Cannot evaluate line ${line} of ${file}: ${error.message}`, { cause: error });
  }
}
