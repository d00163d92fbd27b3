/** From tasks and their files to figures. */
import { encodeText } from "../runtime/encode_text.ts";
import { figuresOf, type RowResult, type TaskResult } from "./figures.ts";
import { type ClozeResult, scoreCloze } from "./lambada.ts";
import type { EvalPrefill, EvalSession, Subject } from "./likelihood.ts";
import { type ChoiceResult, scoreChoices } from "./multiple_choice.ts";
import { checkPart, type Part, rowsOfPart } from "./parts.ts";
import { cutPieces, joinDocuments, measurePiece, type PieceResult } from "./perplexity.ts";
import {
  type Numbered,
  parseRows,
  readChoices,
  readCloze,
  readContexts,
  readDocument,
  readSummary,
  readText,
  splitDocuments,
} from "./rows.ts";
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
  /** Called with each new result, in the order of the rows. */
  readonly onRow?: (result: RowResult, done: number, total: number) => void | Promise<void>;
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
  const { limit, part } = options;
  if (part !== undefined) checkPart(part);
  if (limit !== undefined && !(Number.isInteger(limit) && limit >= 1)) {
    throw new RangeError(`limit: ${limit} found, at least 1 wanted`);
  }
  const text = await readText(input.blob, input.file);
  const { task } = input;
  return task.kind === "text" || task.kind === "documents"
    ? await evaluateText(subject, input, text, options)
    : await evaluateRows(subject, input, text, options);
}

async function evaluateText(
  subject: Subject,
  { task, name, file }: TaskInput,
  text: string,
  options: EvaluateOptions,
): Promise<Evaluation> {
  const { prefill = "sparse", seed = 0, context = 0, signal } = options;
  const pieceLength = options.pieceLength ?? Math.min(PIECE, subject.contextLength);
  if (!(Number.isInteger(pieceLength) && pieceLength >= 2 && pieceLength <= subject.contextLength)) {
    throw new RangeError(
      `piece length: ${pieceLength} found, 2 to ${subject.contextLength} wanted: the model's context`,
    );
  }
  if (!(Number.isInteger(context) && context >= 0 && context <= pieceLength - 2)) {
    throw new RangeError(`context: ${context} found, 0 to ${pieceLength - 2} wanted: less than a piece has`);
  }
  const limit = options.limit ?? task.limit ?? Infinity, most = limit * pieceLength;
  const documents = task.kind === "text"
    ? splitDocuments(text)
    : parseRows(text, file, readDocument).map(({ row }) => row);
  const encode = async (): Promise<number[]> =>
    documents === null
      ? await encodeText(subject.encode, text, { most, signal })
      : await joinDocuments(subject.encode, documents, { separator: options.separator ?? 0, most, signal });
  const ids = await unlessAborted(signal, encode);
  if (ids === null) {
    return {
      rows: [],
      total: null,
      result: figuresOf(task, [], { name, complete: false, seed, pieceLength, context }),
    };
  }
  const pieces = cutPieces(ids, pieceLength, context).slice(0, limit);
  if (pieces.length === 0) {
    throw new RangeError(
      `Cannot evaluate ${file}: it has less than ${context === 0 ? "two" : context + 2} tokens`,
    );
  }
  const own = subject.session(), dense = subject.isSparse ? subject.session() : own;
  const { rows, complete } = await runAll<number[], PieceResult>(
    rowsOfPart(pieces, options.part),
    options,
    [own, dense],
    (piece, before) => measurePiece(subject, { own, dense }, piece, { prefill, context, before, signal }),
  );
  const result = figuresOf(task, rows, { name, complete, seed, pieceLength, context });
  return { rows, total: pieces.length, result };
}

async function evaluateRows(
  subject: Subject,
  { task, name, file }: TaskInput,
  text: string,
  options: EvaluateOptions,
): Promise<Evaluation> {
  const { prefill = "sparse", seed = 0, signal, limit } = options;
  const session = subject.session();
  const runRows = async <T, R extends RowResult>(
    read: (value: unknown) => T,
    score: (row: T, before?: R) => Promise<R>,
  ): Promise<Evaluation> => {
    const all: Numbered<T>[] = parseRows(text, file, read, limit);
    const { rows, complete } = await runAll<Numbered<T>, R>(
      rowsOfPart(all, options.part),
      options,
      [session],
      ({ row, line }, before) => atLine(file, line, () => score(row, before)),
    );
    return { rows, total: all.length, result: figuresOf(task, rows, { name, complete, seed }) };
  };
  switch (task.kind) {
    case "cloze":
      return await runRows(
        readCloze,
        (row, before?: ClozeResult) => scoreCloze(subject, session, row, prefill, signal, before),
      );
    case "summary":
      return await runRows(
        readSummary,
        (row, before?: SummaryResult) => scoreSummary(subject, session, row, prefill, signal, before),
      );
    default:
      return await runRows(
        task.kind === "choices" ? readChoices : readContexts,
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
async function runAll<T, R extends RowResult>(
  all: readonly T[],
  { finished = [], denseRows, signal, onRow }: EvaluateOptions,
  sessions: readonly EvalSession[],
  run: (one: T, before?: R) => Promise<R>,
): Promise<{ rows: RowResult[]; complete: boolean }> {
  const rows = finished.slice(0, all.length);
  try {
    if (denseRows !== undefined && denseRows.length !== all.length) {
      throw new RangeError(`the dense run has ${denseRows.length} rows, ${all.length} wanted`);
    }
    await unlessAborted(signal, async () => {
      for (let i = rows.length; i < all.length && !signal?.aborted; i++) {
        const result = await run(all[i]!, denseRows?.[i] as R | undefined);
        rows.push(result);
        await onRow?.(result, rows.length, all.length);
      }
    });
  } finally {
    for (const session of sessions) session.close();
  }
  return { rows, complete: rows.length === all.length };
}

async function atLine<T>(file: string, line: number, run: () => Promise<T>): Promise<T> {
  try {
    return await run();
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new Error(`Cannot evaluate line ${line} of ${file}: ${error.message}`, { cause: error });
  }
}
