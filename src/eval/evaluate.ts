/** From tasks and their files to figures. */
import { exp } from "../runtime/exp.ts";
import { type ClozeResult, scoreCloze } from "./lambada.ts";
import type { EvalPrefill, EvalSession, Score, Subject, Work } from "./likelihood.ts";
import { type ChoiceResult, type ChoiceRow, choose, scoreChoices, shareOf } from "./multiple_choice.ts";
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
} from "./rows.ts";
import { mcNemar, mean, ratioError, signFlip, standardError } from "./statistics.ts";
import { type Rouge, scoreSummary, type SummaryResult } from "./summary.ts";
import type { TaskChoice } from "./tasks.ts";

/** A task with the file that holds its rows. */
export interface TaskInput extends Pick<TaskChoice, "task" | "name"> {
  /** The file, gzip or not. */
  readonly blob: Blob;
  /** What the file is called in errors. */
  readonly file: string;
}

/** What is left of one row or piece: all that the figures are made from, as JSON can hold it. */
export type RowResult = ChoiceResult | ClozeResult | PieceResult | SummaryResult;

/** Settings of {@linkcode evaluateTask}. */
export interface EvaluateOptions {
  /** Which positions run sparse; default `sparse`. Without a recipe none do. */
  readonly prefill?: EvalPrefill;
  /** Rows or pieces at most; default: all, c4: 64. */
  readonly limit?: number;
  /** Tokens of a piece; default 1,024, or the model's context where that is shorter. */
  readonly pieceLength?: number;
  /** The token after each document of c4; default 0. */
  readonly separator?: number;
  /** Of the sign-flip test's draws; default 0. */
  readonly seed?: number;
  /** Ends it after the row that runs; what is there is returned, with `complete` false. */
  readonly signal?: AbortSignal;
  /** Results of rows that an earlier run has finished, from the first on. They don't run again. */
  readonly finished?: readonly RowResult[];
  /** Called with each new result, in the order of the rows. */
  readonly onRow?: (result: RowResult, done: number, total: number) => void | Promise<void>;
}

/** A measure with recipe minus the same without, on the same rows. */
export interface Paired {
  /** Sparse minus dense. */
  readonly difference: number;
  /** Its standard error, from the rows' own differences; null where one row can't tell. */
  readonly stderr: number | null;
  /** The chance of a difference at least as large were there none; `test` says how it was computed. */
  readonly p: number;
  /** McNemar's exact test of right and wrong answers, or the sign-flip test of differences. */
  readonly test: "mcnemar" | "sign-flip";
  /** Of `acc` and `accNorm`: rows that only the sparse model answers rightly. */
  readonly better?: number;
  /** And those that only the dense one does. */
  readonly worse?: number;
}

/** Figures by the name of the measure. */
export interface Measures {
  /** null where it can't be told, or is beyond what a double holds. */
  readonly metrics: { readonly [metric: string]: number | null };
  /** Standard errors; null where one row can't tell. */
  readonly stderr: { readonly [metric: string]: number | null };
}

/** What a task came to. */
export interface TaskResult extends Measures {
  /** The task's, for `text` with its file's. */
  readonly name: string;
  /** Rows, or pieces. */
  readonly n: number;
  /** Share of positions that ran sparse, each request taken as if it had run alone. */
  readonly sparseTokens: number;
  /** Share of multiply-adds skipped in them; null where none ran sparse. */
  readonly measuredSparsity: number | null;
  /** Whether all rows were done. */
  readonly complete: boolean;
  /** Of texts: tokens that were scored. */
  readonly tokens?: number;
  /** Of texts: tokens of a piece. */
  readonly pieceLength?: number;
  /** The same rows by the same model, run dense; absent without a recipe. */
  readonly dense?: Measures;
  /** Sparse minus dense; `nll` stands for the perplexity's logarithm. */
  readonly paired?: { readonly [metric: string]: Paired };
}

/** A task's result, and what it is made from. */
export interface Evaluation {
  /** The figures. */
  readonly result: TaskResult;
  /** What each row came to. */
  readonly rows: readonly RowResult[];
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
  const { limit } = options;
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
  const pieceLength = options.pieceLength ?? Math.min(PIECE, subject.contextLength);
  if (!(Number.isInteger(pieceLength) && pieceLength >= 2 && pieceLength <= subject.contextLength)) {
    throw new RangeError(
      `piece length: ${pieceLength} found, 2 to ${subject.contextLength} wanted: the model's context`,
    );
  }
  const limit = options.limit ?? task.limit ?? Infinity;
  const ids = task.kind === "text" ? subject.encode(text) : joinDocuments(
    subject.encode,
    parseRows(text, file, readDocument).map(({ row }) => row),
    options.separator ?? 0,
    limit * pieceLength,
  );
  const pieces = cutPieces(ids, pieceLength).slice(0, limit);
  if (pieces.length === 0) throw new RangeError(`Cannot evaluate ${file}: it has less than two tokens`);
  const own = subject.session(), dense = subject.isSparse ? subject.session() : own;
  const rows = await runAll(pieces, options, [own, dense], async (piece) => {
    return await measurePiece(subject, { own, dense }, piece, options.prefill ?? "sparse", options.signal);
  }) as PieceResult[];
  const complete = rows.length === pieces.length;
  return { rows, result: { ...summarisePieces(name, rows, complete, options.seed ?? 0), pieceLength } };
}

async function evaluateRows(
  subject: Subject,
  { task, name, file }: TaskInput,
  text: string,
  options: EvaluateOptions,
): Promise<Evaluation> {
  const prefill = options.prefill ?? "sparse", { signal, seed = 0, limit } = options;
  const session = subject.session();
  if (task.kind === "cloze") {
    const all = parseRows(text, file, readCloze, limit);
    const rows = await runAll(
      all,
      options,
      [session],
      ({ row, line }) => atLine(file, line, () => scoreCloze(subject, session, row, prefill, signal)),
    ) as ClozeResult[];
    return { rows, result: summariseCloze(name, rows, rows.length === all.length, seed) };
  }
  if (task.kind === "summary") {
    const all = parseRows(text, file, readSummary, limit);
    const rows = await runAll(
      all,
      options,
      [session],
      ({ row, line }) => atLine(file, line, () => scoreSummary(subject, session, row, prefill, signal)),
    ) as SummaryResult[];
    return { rows, result: summariseSummaries(name, rows, rows.length === all.length, seed) };
  }
  const all = parseRows(text, file, task.kind === "choices" ? readChoices : readContexts, limit);
  const rows = await runAll(
    all,
    options,
    [session],
    ({ row, line }) => atLine(file, line, () => scoreChoices(subject, session, row, prefill, signal)),
  ) as ChoiceResult[];
  return { rows, result: summariseChoices(name, all, rows, task.accNorm) };
}

/** Runs what is not finished, one after the other, until the end or the signal. */
async function runAll<T>(
  all: readonly T[],
  { finished = [], signal, onRow }: EvaluateOptions,
  sessions: readonly EvalSession[],
  run: (one: T) => Promise<RowResult>,
): Promise<RowResult[]> {
  const results = finished.slice(0, all.length);
  try {
    for (let i = results.length; i < all.length && !signal?.aborted; i++) {
      const result = await run(all[i]!);
      results.push(result);
      await onRow?.(result, results.length, all.length);
    }
  } catch (error) {
    if (!signal?.aborted) throw error;
  } finally {
    for (const session of sessions) session.close();
  }
  return results;
}

async function atLine<T>(file: string, line: number, run: () => Promise<T>): Promise<T> {
  try {
    return await run();
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new Error(`Cannot evaluate line ${line} of ${file}: ${error.message}`, { cause: error });
  }
}

/** The part of a result that all tasks have. */
function common(
  name: string,
  works: readonly Work[],
  complete: boolean,
): Pick<TaskResult, "name" | "n" | "sparseTokens" | "measuredSparsity" | "complete"> {
  const sum = (of: keyof Work): number => works.reduce((total, work) => total + work[of], 0);
  const positions = sum("positions"), dense = sum("dense");
  return {
    name,
    n: works.length,
    sparseTokens: positions === 0 ? 0 : sum("sparse") / positions,
    measuredSparsity: dense === 0 ? null : 1 - sum("kept") / dense,
    complete,
  };
}

/** The figures of questions; `all` may be longer than what was done. */
export function summariseChoices(
  name: string,
  all: readonly Numbered<ChoiceRow>[],
  rows: readonly ChoiceResult[],
  accNorm: boolean,
): TaskResult {
  const names = accNorm ? ["acc", "accNorm"] as const : ["acc"] as const;
  const right = (of: "scores" | "denseScores"): Readonly<Record<"acc" | "accNorm", boolean[]>> => {
    const chosen = rows.map((row, i) => choose(row[of]!, all[i]!.row.continuations));
    const isRight = (name: "acc" | "accNorm"): boolean[] =>
      chosen.map((choice, i) => choice[name] === all[i]!.row.gold);
    return { acc: isRight("acc"), accNorm: isRight("accNorm") };
  };
  const start = common(name, rows.map(({ work }) => work), rows.length === all.length);
  const own = right("scores"), result = { ...start, ...sharesOf(own, names) };
  if (rows.length === 0 || rows[0]!.denseScores === null) return result;
  const dense = right("denseScores");
  return {
    ...result,
    dense: sharesOf(dense, names),
    paired: Object.fromEntries(names.map((name) => [name, pairedShares(own[name], dense[name])])),
  };
}

function sharesOf(
  right: Readonly<Record<string, readonly boolean[]>>,
  names: readonly string[],
): Measures {
  const shares = names.map((name) => [name, shareOf(right[name]!)] as const);
  return {
    metrics: Object.fromEntries(shares.map(([name, { value }]) => [name, finite(value)])),
    stderr: Object.fromEntries(shares.map(([name, { stderr }]) => [name, stderr])),
  };
}

function pairedShares(own: readonly boolean[], dense: readonly boolean[]): Paired {
  const differences = own.map((right, i) => Number(right) - Number(dense[i]));
  const better = differences.filter((difference) => difference > 0).length,
    worse = differences.filter((difference) => difference < 0).length;
  return {
    difference: mean(differences),
    stderr: standardError(differences),
    p: mcNemar(better, worse),
    test: "mcnemar",
    better,
    worse,
  };
}

/** The figures of passages whose last word is asked for; perplexity is that of whole words. */
export function summariseCloze(
  name: string,
  rows: readonly ClozeResult[],
  complete: boolean,
  seed: number,
): TaskResult {
  const measures = (scores: readonly Score[]): Measures => {
    const nll = scores.map(({ logProbability }) => -logProbability),
      acc = shareOf(scores.map(({ greedy }) => greedy));
    const perplexity = exp(mean(nll)), error = standardError(nll);
    return {
      metrics: { acc: finite(acc.value), perplexity: finite(perplexity) },
      stderr: { acc: acc.stderr, perplexity: error === null ? null : finite(perplexity * error) },
    };
  };
  const start = { ...common(name, rows.map(({ work }) => work), complete), ...measures(rows) };
  if (rows.length === 0 || rows[0]!.denseScore === null) return start;
  const dense = rows.map(({ denseScore }) => denseScore!);
  const differences = rows.map(({ logProbability }, i) => dense[i]!.logProbability - logProbability);
  return {
    ...start,
    dense: measures(dense),
    paired: {
      acc: pairedShares(rows.map(({ greedy }) => greedy), dense.map(({ greedy }) => greedy)),
      nll: {
        difference: mean(differences),
        stderr: standardError(differences),
        p: signFlip(differences, seed),
        test: "sign-flip",
      },
    },
  };
}

const ROUGES = ["rouge1", "rouge2", "rougeL"] as const;

/** The figures of summaries. */
export function summariseSummaries(
  name: string,
  rows: readonly SummaryResult[],
  complete: boolean,
  seed: number,
): TaskResult {
  const measures = (scores: readonly Rouge[]): Measures => {
    const values = (name: keyof Rouge): number[] => scores.map((score) => score[name]);
    return {
      metrics: Object.fromEntries(ROUGES.map((name) => [name, finite(mean(values(name)))])),
      stderr: Object.fromEntries(ROUGES.map((name) => [name, standardError(values(name))])),
    };
  };
  const start = { ...common(name, rows.map(({ work }) => work), complete), ...measures(rows) };
  if (rows.length === 0 || rows[0]!.dense === null) return start;
  const dense = rows.map(({ dense }) => dense!);
  const paired = (name: keyof Rouge): Paired => {
    const differences = rows.map((row, i) => row[name] - dense[i]![name]);
    return {
      difference: mean(differences),
      stderr: standardError(differences),
      p: signFlip(differences, seed),
      test: "sign-flip",
    };
  };
  return {
    ...start,
    dense: measures(dense),
    paired: Object.fromEntries(ROUGES.map((name) => [name, paired(name)])),
  };
}

/** The figures of a text; a piece is what was drawn at random. */
export function summarisePieces(
  name: string,
  rows: readonly PieceResult[],
  complete: boolean,
  seed: number,
): TaskResult {
  const weights = rows.map(({ tokens }) => tokens), tokens = weights.reduce((sum, tokens) => sum + tokens, 0);
  const rate = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / tokens;
  const measures = (nll: readonly number[]): Measures => {
    const perplexity = exp(rate(nll)), error = ratioError(nll, weights);
    return {
      metrics: { perplexity: finite(perplexity), nll: finite(rate(nll)) },
      stderr: { perplexity: error === null ? null : finite(perplexity * error), nll: error },
    };
  };
  const own = measures(rows.map(({ nll }) => nll));
  const start = { ...common(name, rows.map(({ work }) => work), complete), ...own, tokens };
  if (rows.length === 0 || rows[0]!.dense === null) return start;
  const dense = rows.map(({ dense }) => dense!);
  const kl = dense.map(({ kl }) => kl), agree = dense.map(({ agree }) => agree);
  const differences = rows.map(({ nll }, i) => nll - dense[i]!.nll);
  return {
    ...start,
    metrics: { ...own.metrics, kl: finite(rate(kl)), agreement: finite(rate(agree)) },
    stderr: { ...own.stderr, kl: ratioError(kl, weights), agreement: ratioError(agree, weights) },
    dense: measures(dense.map(({ nll }) => nll)),
    paired: {
      nll: {
        difference: rate(differences),
        stderr: ratioError(differences, weights),
        p: signFlip(differences, seed),
        test: "sign-flip",
      },
    },
  };
}

/** JSON has no word for others. */
function finite(value: number): number | null {
  return Number.isFinite(value) ? value : null;
}
