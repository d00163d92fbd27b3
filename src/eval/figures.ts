/** From what is left of rows to figures: means, errors, paired differences. */
import { exp } from "../runtime/exp.ts";
import type { ClozeResult } from "./lambada.ts";
import type { Score, Work } from "./likelihood.ts";
import { type ChoiceResult, choose, shareOf } from "./multiple_choice.ts";
import type { PieceResult } from "./perplexity.ts";
import { mcNemar, mean, ratioError, signFlip, standardError } from "./statistics.ts";
import type { Rouge, SummaryResult } from "./summary.ts";
import type { Task } from "./tasks.ts";

/** What is left of one row or piece: all that the figures are made from, as JSON can hold it. */
export type RowResult = ChoiceResult | ClozeResult | PieceResult | SummaryResult;

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
  /** Of texts: tokens that each piece begins with which are not scored; absent where it is 0. */
  readonly context?: number;
  /** The same rows by the same model, run dense; absent without a recipe. */
  readonly dense?: Measures;
  /** Sparse minus dense; `nll` stands for the perplexity's logarithm. */
  readonly paired?: { readonly [metric: string]: Paired };
}

/** What the figures of a task depend on besides its rows. */
export interface FigureOptions {
  /** The task's name in results. */
  readonly name: string;
  /** Whether all rows are there. */
  readonly complete: boolean;
  /** Of the sign-flip test's draws. */
  readonly seed: number;
  /** Of texts: tokens of a piece. */
  readonly pieceLength?: number;
  /** Of texts: tokens that each piece begins with which are not scored. */
  readonly context?: number;
}

/** The figures of a task, from the results of its rows in their order. */
export function figuresOf(task: Task, rows: readonly RowResult[], options: FigureOptions): TaskResult {
  const { name, complete, seed, pieceLength, context = 0 } = options;
  switch (task.kind) {
    case "text":
    case "documents":
      return {
        ...figuresOfPieces(name, rows as PieceResult[], complete, seed),
        pieceLength,
        ...(context === 0 ? {} : { context }),
      };
    case "cloze":
      return figuresOfCloze(name, rows as ClozeResult[], complete, seed);
    case "summary":
      return figuresOfSummaries(name, rows as SummaryResult[], complete, seed);
    default:
      return figuresOfChoices(name, rows as ChoiceResult[], complete, task.accNorm);
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

function figuresOfChoices(
  name: string,
  rows: readonly ChoiceResult[],
  complete: boolean,
  accNorm: boolean,
): TaskResult {
  const names = accNorm ? ["acc", "accNorm"] as const : ["acc"] as const;
  const right = (of: "scores" | "denseScores"): Readonly<Record<"acc" | "accNorm", boolean[]>> => {
    const chosen = rows.map((row) => choose(row[of]!, row.lengths));
    const isRight = (name: "acc" | "accNorm"): boolean[] =>
      chosen.map((choice, i) => choice[name] === rows[i]!.gold);
    return { acc: isRight("acc"), accNorm: isRight("accNorm") };
  };
  const start = common(name, rows.map(({ work }) => work), complete);
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
function figuresOfCloze(
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
function figuresOfSummaries(
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
function figuresOfPieces(
  name: string,
  rows: readonly PieceResult[],
  complete: boolean,
  seed: number,
): TaskResult {
  const weights = rows.map(({ tokens }) => tokens), tokens = weights.reduce((sum, tokens) => sum + tokens, 0);
  const sum = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0);
  const rate = (values: readonly number[]): number => sum(values) / tokens;
  const bytes = rows.map((row) => row.bytes);
  const measures = (nll: readonly number[]): Measures => {
    const perplexity = exp(rate(nll)), error = ratioError(nll, weights);
    const bits = nll.map((nats) => nats / Math.LN2);
    return {
      metrics: {
        perplexity: finite(perplexity),
        nll: finite(rate(nll)),
        bitsPerByte: finite(sum(bits) / sum(bytes)),
      },
      stderr: {
        perplexity: error === null ? null : finite(perplexity * error),
        nll: error,
        bitsPerByte: ratioError(bits, bytes),
      },
    };
  };
  const own = measures(rows.map(({ nll }) => nll));
  const start = { ...common(name, rows.map(({ work }) => work), complete), ...own, tokens };
  if (rows.length === 0 || rows[0]!.dense === null) return start;
  const dense = rows.map(({ dense }) => dense!);
  const perToken = dense.every(({ kl, agree }) => kl !== undefined && agree !== undefined)
    ? [["kl", dense.map(({ kl }) => kl!)], ["agreement", dense.map(({ agree }) => agree!)]] as const
    : [];
  const differences = rows.map(({ nll }, i) => nll - dense[i]!.nll);
  return {
    ...start,
    metrics: {
      ...own.metrics,
      ...Object.fromEntries(perToken.map(([name, sums]) => [name, finite(rate(sums))])),
    },
    stderr: {
      ...own.stderr,
      ...Object.fromEntries(perToken.map(([name, sums]) => [name, ratioError(sums, weights)])),
    },
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
