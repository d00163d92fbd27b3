/** The one thing that is asked of a model: how likely it finds tokens after others. Tokens that sequences have in common run once. */
import type { Tokenizer } from "../model/tokenizer.ts";
import { checkSparsity } from "../recipe/dial.ts";
import type { Model } from "../runtime/model.ts";
import { type Branch, type Session, type SessionOptions, sparseStart } from "../runtime/session.ts";
import { normalise } from "./divergence.ts";

/** What evaluation needs of a session. */
export type EvalSession = Pick<
  Session,
  "count" | "truncate" | "decodeAsync" | "prefillAsync" | "prefillAll" | "branchAsync" | "close"
>;

/** What evaluation needs of a model; {@linkcode subjectOf} makes one, tests make their own. */
export interface Subject {
  /** Most tokens of a sequence. */
  readonly contextLength: number;
  /** Whether there is a recipe: without one nothing runs sparse, and nothing is compared. */
  readonly isSparse: boolean;
  /** The recipe's number of first positions that are always dense. */
  readonly keepDense: number;
  /** Without BOS, as R-Sparse and lm-evaluation-harness evaluate Llama models. */
  encode(text: string): number[];
  /** Control tokens are left out. */
  decode(ids: readonly number[]): string;
  /** UTF-8 bytes of text that ids[from…] stand for, control tokens for none. */
  byteLength(ids: readonly number[], from: number): number;
  /** Tokens that end a text. */
  readonly stopIds: readonly number[];
  /** A new, empty sequence. */
  session(): EvalSession;
}

/**
 * A loaded model to be evaluated, with its recipe if it has one.
 *
 * @param options `sparsity`: where the recipe's dial stands, its own if not given; 0 is as without a recipe
 * @throws {RangeError} If the recipe can't do that sparsity.
 */
export function subjectOf(model: Model, { sparsity }: SessionOptions = {}): Subject {
  if (sparsity !== undefined) checkSparsity(model.recipe, sparsity);
  return {
    contextLength: model.engine.contextLength,
    isSparse: model.recipe !== null && (sparsity ?? model.engine.restsAt) !== 0,
    keepDense: model.recipe?.recipe.keepDense ?? 0,
    decode: (ids) => model.description.tokenizer.decode(ids, { skipSpecial: true }),
    byteLength: (ids, from) => byteLength(model.description.tokenizer, ids, from),
    stopIds: model.description.tokenizer.stopIds,
    encode: (text) => model.description.tokenizer.encode(text),
    session: () => model.session({ sparsity }),
  };
}

function byteLength(tokenizer: Tokenizer, ids: readonly number[], from: number): number {
  let bytes = 0;
  for (let i = from; i < ids.length; i++) {
    if (!tokenizer.isSpecial(ids[i]!)) bytes += tokenizer.bytesOf(ids[i]!, ids[i - 1]).length;
  }
  return bytes;
}

/** Which positions run sparse: all but `keepDense`; only those of the continuation (`dense` is what the context is); or the last tenth. */
export type EvalPrefill = "dense" | "sparse" | "official";

/** Tokens of which the last ones are to be scored. */
export interface Request {
  readonly ids: readonly number[];
  /** The first token that is scored, at least 1. */
  readonly start: number;
  /** The first position that runs sparse; Infinity: none. */
  readonly sparseFrom: number;
}

/** What a model says to a {@linkcode Request}. */
export interface Score {
  /** Sum of the log-probabilities of its scored tokens, in nats. */
  readonly logProbability: number;
  /** Whether greedy decoding would have given just these tokens. */
  readonly greedy: boolean;
}

/** What was skipped while something was evaluated, as a session counts it; `sparse` and `positions` are as if each request had run alone. */
export interface Work {
  /** Multiply-adds that ran in sparse tokens. */
  readonly kept: number;
  /** Those that dense would have taken. */
  readonly dense: number;
  /** Positions that ran sparse. */
  readonly sparse: number;
  /** All positions. */
  readonly positions: number;
}

/**
 * The tokens of a context and a continuation, as lm-evaluation-harness makes them: white space at the context's end goes to the continuation, both
 * are encoded as one string, and what is past the number of the context's own tokens is the continuation. Cut from the left to what the model can hold.
 *
 * @throws {RangeError} If the context has no token, or the continuation has none or more than the model can hold.
 */
export function tokenizeRequest(
  subject: Subject,
  context: string,
  continuation: string,
): { ids: number[]; start: number } {
  const trimmed = context.trimEnd(), moved = context.slice(trimmed.length);
  const ids = subject.encode(trimmed + moved + continuation), start = subject.encode(trimmed).length;
  if (start === 0) throw new RangeError("the context has no tokens, at least one wanted");
  if (ids.length <= start) {
    throw new RangeError(
      `the continuation ${JSON.stringify(continuation)} has no tokens, at least one wanted`,
    );
  }
  // the last token is scored, but never run
  const excess = Math.max(0, ids.length - 1 - subject.contextLength);
  if (excess >= start) {
    throw new RangeError(
      `the continuation has ${
        ids.length - start
      } tokens, at most the context of ${subject.contextLength} wanted`,
    );
  }
  return { ids: ids.slice(excess), start: start - excess };
}

/** The first sparse position of a request (docs/evaluation.md), `keepDense` included; Infinity where nothing is sparse. */
export function sparseFromOf(
  subject: Subject,
  prefill: EvalPrefill,
  request: { readonly ids: readonly number[]; readonly start: number },
): number {
  if (!subject.isSparse) return Infinity;
  if (prefill === "dense") return Math.max(subject.keepDense, request.start);
  return sparseStart(prefill, 0, request.ids.length - 1, subject.keepDense);
}

/**
 * Scores requests in one session, whose tokens are forgotten first. Tokens that all of them begin with, and that run alike in all, run once; what is left of
 * all runs together.
 *
 * @throws The signal's reason, once it is aborted.
 */
export async function scoreRequests(
  session: EvalSession,
  requests: readonly Request[],
  signal?: AbortSignal,
): Promise<Score[]> {
  const shared = sharedLength(requests), { ids, sparseFrom } = requests[0]!;
  if (shared === 0) {
    // one alone shares its context with itself
    const scores: Score[] = [];
    for (const request of requests) scores.push(...await scoreRequests(session, [request], signal));
    return scores;
  }
  session.truncate(0);
  const after = await session.prefillAsync(ids.slice(0, shared), { prefill: sparseFrom, signal });
  const sums = requests.map(() => ({ logProbability: 0, greedy: true }));
  const score = (i: number, id: number, logits: Float32Array): void => {
    const { best, logSum } = normalise(logits), sum = sums[i]!;
    sum.logProbability += logits[id]! - logSum;
    if (best !== id) sum.greedy = false;
  };
  const branches: (Branch & { readonly request: number })[] = [];
  for (const [request, { ids, start, sparseFrom }] of requests.entries()) {
    if (start === shared) score(request, ids[start]!, after);
    const rest = ids.slice(shared, -1);
    if (rest.length > 0) {
      branches.push({ request, ids: rest, from: Math.max(0, start - shared - 1), sparseFrom });
    }
  }
  if (branches.length > 0) {
    await session.branchAsync(branches, (branch, index, logits) => {
      const { request } = branches[branch]!;
      score(request, requests[request]!.ids[shared + index + 1]!, logits);
    }, { signal });
  }
  return sums;
}

/** How many tokens all requests begin with, none of them scored, all of them dense or all of them sparse in each. */
export function sharedLength(requests: readonly Request[]): number {
  const first = requests[0]!;
  let length = Math.min(...requests.map(({ start }) => start));
  if (requests.some(({ sparseFrom }) => sparseFrom !== first.sparseFrom)) {
    length = Math.min(length, ...requests.map(({ sparseFrom }) => sparseFrom));
  }
  for (let at = 0; at < length; at++) {
    if (requests.some(({ ids }) => ids[at] !== first.ids[at])) return at;
  }
  return length;
}

/** Positions of requests, and how many of them run sparse. */
export function positionsOf(requests: readonly Request[]): Pick<Work, "sparse" | "positions"> {
  let sparse = 0, positions = 0;
  for (const { ids, sparseFrom } of requests) {
    positions += ids.length - 1;
    sparse += Math.max(0, ids.length - 1 - sparseFrom);
  }
  return { sparse, positions };
}

/** Runs `work` and says what the sessions skipped meanwhile. */
export async function countWork<T>(
  sessions: readonly EvalSession[],
  work: () => Promise<T>,
): Promise<{ value: T; kept: number; dense: number }> {
  const sum = (of: "kept" | "dense"): number => sessions.reduce((total, { count }) => total + count[of], 0);
  const kept = sum("kept"), dense = sum("dense"), value = await work();
  return { value, kept: sum("kept") - kept, dense: sum("dense") - dense };
}
