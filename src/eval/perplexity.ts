/** Perplexity of a text in pieces, and how far a sparse model is from its dense self on them. */
import { encodeText } from "../runtime/encode_text.ts";
import { sparseStart } from "../runtime/session.ts";
import { nextTurn } from "../runtime/turn.ts";
import { divergence, normalise, type Normaliser } from "./divergence.ts";
import { countWork, type EvalPrefill, type EvalSession, type Subject, type Work } from "./likelihood.ts";

/** What a model makes of one piece; sums over its scored tokens. */
export interface PieceResult {
  /** How many were scored: all but the first, or those after the context's next one. */
  readonly tokens: number;
  /** Bytes of text that these tokens stand for. */
  readonly bytes: number;
  /** Negative log-likelihood, in nats. */
  readonly nll: number;
  /** Beside the same tokens run dense; null without a recipe. */
  readonly dense: null | {
    readonly nll: number;
    /** KL(dense || sparse), in nats; absent where the dense run is an earlier one, of which only sums are left. */
    readonly kl?: number;
    /** Tokens at which both find the same next token likeliest; absent likewise. */
    readonly agree?: number;
  };
  /** What it took. */
  readonly work: Work;
}

/** Tokens in one pass, and between two looks at the signal. */
const CHUNK = 128;

/** Cuts tokens in pieces of a length; the last one has what is left. A piece with nothing to score after its context, and its first token, is left out. */
export function cutPieces(ids: readonly number[], length: number, context = 0): number[][] {
  const pieces: number[][] = [];
  for (let at = 0; at < ids.length; at += length) pieces.push(ids.slice(at, at + length));
  return pieces.filter((piece) => piece.length > context + 1);
}

/**
 * The tokens of documents one after the other, each followed by `separator`: no more of them than asked for.
 *
 * @throws {RangeError} If a document can't be tokenised.
 * @throws The signal's reason, once it is aborted.
 */
export async function joinDocuments(
  encode: (text: string) => number[],
  documents: readonly string[],
  { separator, most = Infinity, signal }: {
    readonly separator: number;
    readonly most?: number;
    readonly signal?: AbortSignal;
  },
): Promise<number[]> {
  const ids: number[] = [];
  for (const document of documents) {
    if (ids.length >= most) break;
    for (const id of await encodeText(encode, document, { signal })) ids.push(id);
    ids.push(separator);
  }
  return ids.slice(0, most);
}

/** What a piece runs in: the second session is for the dense run beside a sparse one. */
export interface PieceSessions {
  readonly own: EvalSession;
  readonly dense: EvalSession;
}

/**
 * Scores a piece: every token after its first, given those before it in the piece. Its first `context` tokens are not to be told: what is scored is what follows
 * token number `context` (the first is number 0), and with `dense` the context runs dense. Without a context `dense` is as `sparse`.
 *
 * With a recipe it runs dense as well, a chunk of each in turn, so that only a chunk's logits are held; the tokens before the first sparse position
 * run once where what follows fits a chunk. `before`, the piece's result without the recipe, spares it that.
 *
 * @throws {RangeError} If `before` is of another piece.
 * @throws The signal's reason, once it is aborted.
 */
export async function measurePiece(
  subject: Subject,
  sessions: PieceSessions,
  ids: readonly number[],
  { prefill, context = 0, before, signal }: {
    readonly prefill: EvalPrefill;
    readonly context?: number;
    readonly before?: PieceResult;
    readonly signal?: AbortSignal;
  },
): Promise<PieceResult> {
  const sparseFrom = !subject.isSparse
    ? Infinity
    : prefill === "dense"
    ? Math.max(subject.keepDense, context)
    : sparseStart(prefill, 0, ids.length, subject.keepDense);
  const inputs = ids.slice(0, -1), tokens = inputs.length - context;
  if (before !== undefined && before.tokens !== tokens) {
    throw new RangeError(`the dense run scored ${before.tokens} tokens, ${tokens} wanted`);
  }
  const sums = { nll: 0, denseNll: 0, kl: 0, agree: 0 };
  const { kept, dense } = await countWork([sessions.own, sessions.dense], async () => {
    sessions.own.truncate(0);
    sessions.dense.truncate(0);
    const piece = { ids, inputs, sparseFrom, context };
    if (!subject.isSparse || before !== undefined) return await measureOne(sessions.own, piece, sums, signal);
    await measureBoth(sessions, piece, sums, signal);
  });
  const { nll, denseNll, kl, agree } = sums;
  return {
    tokens,
    bytes: subject.byteLength(ids, context + 1),
    nll,
    dense: !subject.isSparse
      ? null
      : before === undefined
      ? { nll: denseNll, kl, agree }
      : { nll: before.nll },
    work: { kept, dense, positions: inputs.length, sparse: Math.max(0, inputs.length - sparseFrom) },
  };
}

interface Piece {
  readonly ids: readonly number[];
  /** All but the last. */
  readonly inputs: readonly number[];
  readonly sparseFrom: number;
  /** The first position whose next token is scored. */
  readonly context: number;
}

interface Sums {
  nll: number;
  denseNll: number;
  kl: number;
  agree: number;
}

async function measureOne(
  session: EvalSession,
  { ids, inputs, sparseFrom, context }: Piece,
  sums: Sums,
  signal?: AbortSignal,
): Promise<void> {
  for (let first = 0; first < inputs.length; first += CHUNK) {
    session.prefillAll(inputs.slice(first, first + CHUNK), (i, logits) => {
      if (first + i < context) return;
      sums.nll += normalise(logits).logSum - logits[ids[first + i + 1]!]!;
    }, { prefill: sparseFrom });
    await pause(signal);
  }
}

async function measureBoth(
  { own, dense }: PieceSessions,
  { ids, inputs, sparseFrom, context }: Piece,
  sums: Sums,
  signal?: AbortSignal,
): Promise<void> {
  // the logits of a long tail would not fit in memory, and a cache can't be copied: then the few tokens before it run twice
  const once = inputs.length - sparseFrom <= CHUNK ? Math.min(sparseFrom, inputs.length) : 0;
  for (let first = 0; first < once; first += CHUNK) {
    own.prefillAll(inputs.slice(first, Math.min(once, first + CHUNK)), (i, logits) => {
      if (first + i < context) return;
      const nll = normalise(logits).logSum - logits[ids[first + i + 1]!]!;
      sums.nll += nll;
      sums.denseNll += nll;
      sums.agree++;
    });
    await pause(signal);
  }
  const other = once > 0 ? own : dense;
  for (let first = once; first < inputs.length; first += CHUNK) {
    const chunk = inputs.slice(first, first + CHUNK),
      rows: { logits: Float32Array; normaliser: Normaliser }[] = [];
    other.prefillAll(
      chunk,
      (i, logits) => {
        if (first + i >= context) rows[i] = { logits: logits.slice(), normaliser: normalise(logits) };
      },
    );
    await pause(signal);
    if (once > 0) own.truncate(first);
    own.prefillAll(chunk, (i, logits) => {
      if (first + i < context) return;
      const { logits: before, normaliser } = rows[i]!, next = ids[first + i + 1]!, now = normalise(logits);
      sums.denseNll += normaliser.logSum - before[next]!;
      sums.nll += now.logSum - logits[next]!;
      sums.kl += divergence(before, normaliser, logits, now);
      if (now.best === normaliser.best) sums.agree++;
    }, { prefill: sparseFrom });
    await pause(signal);
  }
}

async function pause(signal?: AbortSignal): Promise<void> {
  await nextTurn();
  signal?.throwIfAborted();
}
