/** Questions with a few answers: the model takes the one that it finds most likely. */
import {
  countWork,
  type EvalPrefill,
  type EvalSession,
  positionsOf,
  type Request,
  scoreRequests,
  sparseFromOf,
  type Subject,
  tokenizeRequest,
  type Work,
} from "./likelihood.ts";
import { mean, standardError } from "./statistics.ts";

/** One question. Where contexts differ (WinoGrande), the continuation is the same for all. */
export interface ChoiceRow {
  /** One for all answers, or one for each. */
  readonly contexts: readonly string[];
  /** One for each answer, or one for all; without the space that joins them. */
  readonly continuations: readonly string[];
  /** The right answer's number. */
  readonly gold: number;
}

/** A question's answers as the model scored them. */
export interface ChoiceResult {
  /** Sum of log-probabilities of each answer. */
  readonly scores: readonly number[];
  /** The same, run dense; null without a recipe. */
  readonly denseScores: readonly number[] | null;
  /** Each answer's length in characters (code points), as Python's `len` counts those of one without the joining space. */
  readonly lengths: readonly number[];
  /** The right answer's number. */
  readonly gold: number;
  /** What it took. */
  readonly work: Work;
}

/**
 * Scores the answers of a question. Context and answer are joined by one space.
 *
 * Where the context is dense (`dense`), the dense run and the sparse one share it.
 *
 * @param before the row's result without the recipe, which then does not run dense
 * @throws {RangeError} If it can't be tokenised, or is too long, or `before` is of another row.
 */
export async function scoreChoices(
  subject: Subject,
  session: EvalSession,
  row: ChoiceRow,
  prefill: EvalPrefill,
  signal?: AbortSignal,
  before?: ChoiceResult,
): Promise<ChoiceResult> {
  const count = Math.max(row.contexts.length, row.continuations.length);
  const requests = Array.from({ length: count }, (_, i): Request => {
    const context = row.contexts[i % row.contexts.length]!,
      request = tokenizeRequest(subject, context, ` ${row.continuations[i % row.continuations.length]}`);
    return { ...request, sparseFrom: sparseFromOf(subject, prefill, request) };
  });
  if (before !== undefined && before.scores.length !== count) {
    throw new RangeError(`the dense run scored ${before.scores.length} answers, ${count} wanted`);
  }
  const { value: [scores, denseScores], kept, dense } = await countWork(
    [session],
    () => scoreBoth(subject, session, requests, prefill, signal, before),
  );
  const lengths = requests.map((_, i) => [...row.continuations[i % row.continuations.length]!].length);
  return { scores, denseScores, lengths, gold: row.gold, work: { kept, dense, ...positionsOf(requests) } };
}

async function scoreBoth(
  subject: Subject,
  session: EvalSession,
  requests: readonly Request[],
  prefill: EvalPrefill,
  signal?: AbortSignal,
  before?: ChoiceResult,
): Promise<[scores: number[], denseScores: readonly number[] | null]> {
  const score = async (some: readonly Request[]): Promise<number[]> =>
    (await scoreRequests(session, some, signal)).map(({ logProbability }) => logProbability);
  if (!subject.isSparse || before !== undefined) return [await score(requests), before?.scores ?? null];
  const dense = requests.map((request) => ({ ...request, sparseFrom: Infinity }));
  if (prefill === "sparse") return [await score(requests), await score(dense)];
  const all = await score([...requests, ...dense]);
  return [all.slice(0, requests.length), all.slice(requests.length)];
}

/** The index of the largest, the first among equals. */
export function largest(values: readonly number[]): number {
  return values.reduce((best, value, i) => value > values[best]! ? i : best, 0);
}

/** Which answer each rule takes. */
export interface Choice {
  /** The likeliest. */
  readonly acc: number;
  /** The likeliest for its length. */
  readonly accNorm: number;
}

/** The answers that the scores lead to. */
export function choose(scores: readonly number[], lengths: readonly number[]): Choice {
  return { acc: largest(scores), accNorm: largest(scores.map((score, i) => score / lengths[i]!)) };
}

/** A share of right answers and its standard error, null for a single row. */
export function shareOf(right: readonly boolean[]): { value: number; stderr: number | null } {
  const values = right.map(Number);
  return { value: mean(values), stderr: standardError(values) };
}
