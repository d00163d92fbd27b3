/** LAMBADA: the last word of a passage, which only the whole passage tells. */
import {
  countWork,
  type EvalPrefill,
  type EvalSession,
  positionsOf,
  type Score,
  scoreRequests,
  sparseFromOf,
  type Subject,
  tokenizeRequest,
  type Work,
} from "./likelihood.ts";

/** One passage. */
export interface ClozeRow {
  readonly context: string;
  /** The last word, without the space before it. */
  readonly target: string;
}

/** What the model makes of it. */
export interface ClozeResult extends Score {
  /** The same, run dense; null without a recipe. */
  readonly denseScore: Score | null;
  /** What it took. */
  readonly work: Work;
}

/**
 * Scores the last word.
 *
 * @param before the row's result without the recipe, which then does not run dense
 * @throws {RangeError} If the row can't be tokenised, or is too long.
 */
export async function scoreCloze(
  subject: Subject,
  session: EvalSession,
  row: ClozeRow,
  prefill: EvalPrefill,
  signal?: AbortSignal,
  before?: ClozeResult,
): Promise<ClozeResult> {
  const tokens = tokenizeRequest(subject, row.context, ` ${row.target}`);
  const request = { ...tokens, sparseFrom: sparseFromOf(subject, prefill, tokens) };
  const dense = { ...request, sparseFrom: Infinity };
  const { value: [score, denseScore], ...counted } = await countWork([session], async () => {
    if (!subject.isSparse) return await scoreRequests(session, [request], signal);
    if (before !== undefined) {
      const { logProbability, greedy } = before;
      return [...await scoreRequests(session, [request], signal), { logProbability, greedy }];
    }
    if (prefill !== "sparse") return await scoreRequests(session, [request, dense], signal);
    const sparse = await scoreRequests(session, [request], signal);
    return [...sparse, ...await scoreRequests(session, [dense], signal)];
  });
  return { ...score!, denseScore: denseScore ?? null, work: { ...counted, ...positionsOf([request]) } };
}
