/** XSum: a summary of one sentence, held against one that a person wrote. */
import { l as rougeL, n as rougeN } from "js-rouge";
import { sparseStart } from "../runtime/session.ts";
import { normalise } from "./divergence.ts";
import { countWork, type EvalPrefill, type EvalSession, type Subject, type Work } from "./likelihood.ts";

/** One article. */
export interface SummaryRow {
  readonly article: string;
  /** What a person made of it. */
  readonly summary: string;
}

/** F1 of words, of pairs of words, and of the longest common subsequence: Lin 2004. */
export interface Rouge {
  /** Of single words. */
  readonly rouge1: number;
  /** Of neighbouring pairs. */
  readonly rouge2: number;
  /** Of the longest common subsequence of both texts, each taken as one sentence. */
  readonly rougeL: number;
}

/** What a model's summary is worth. */
export interface SummaryResult extends Rouge {
  /** What it wrote. */
  readonly text: string;
  /** The same, run dense; null without a recipe. */
  readonly dense: (Rouge & { readonly text: string }) | null;
  /** What it took. */
  readonly work: Work;
}

/** The prompt of H2O and HELM; they draw at temperature 0.3 where this takes the best token, which no seed changes. */
const prompt = (article: string): string =>
  `###\nArticle: ${article}\n\nSummarize the above article in 1 sentence.\n`;
const STOP = "###";
const MAX_TOKENS = 64;

/** Lower-case runs of ASCII letters and digits, as Google's `rouge_score` has words; not stemmed. */
const words = (text: string): string[] => text.toLowerCase().match(/[a-z0-9]+/g) ?? [];

/** ROUGE-1, -2 and -L; 0 where one of the texts has no words. */
export function rouge(candidate: string, reference: string): Rouge {
  if (words(candidate).length === 0 || words(reference).length === 0) {
    return { rouge1: 0, rouge2: 0, rougeL: 0 };
  }
  const of = (n: number): number => rougeN(candidate, reference, { n, tokenizer: words });
  const longest = rougeL(candidate, reference, { tokenizer: words, segmenter: (text) => [text] });
  return { rouge1: of(1), rouge2: of(2), rougeL: longest };
}

/**
 * Has an article summarised, greedily, and scores the summary. Too long an article is cut from the left. Where the prompt is dense (`dense`), it runs
 * once for the sparse summary and the dense one.
 *
 * @param before the row's result without the recipe, which then does not run dense
 * @throws The signal's reason, once it is aborted.
 */
export async function scoreSummary(
  subject: Subject,
  session: EvalSession,
  row: SummaryRow,
  prefill: EvalPrefill,
  signal?: AbortSignal,
  before?: SummaryResult,
): Promise<SummaryResult> {
  const room = subject.contextLength - MAX_TOKENS;
  if (room < 1) throw new RangeError(`the model's context of ${subject.contextLength} holds no article`);
  const ids = subject.encode(prompt(row.article)).slice(-room);
  const first = !subject.isSparse
    ? Infinity
    : prefill === "dense"
    ? Math.max(ids.length, subject.keepDense)
    : sparseStart(prefill, 0, ids.length, subject.keepDense);
  const read = async (sparseFrom: number): Promise<Float32Array> => {
    session.truncate(0);
    return await session.prefillAsync(ids, { prefill: sparseFrom, signal });
  };
  const { value, kept, dense } = await countWork([session], async () => {
    const after = await read(first), own = await write(subject, session, after, !subject.isSparse, signal);
    if (!subject.isSparse || before !== undefined) return { own, other: null };
    if (prefill === "dense") session.truncate(ids.length);
    const afterDense = prefill === "dense" ? after : await read(Infinity);
    return { own, other: await write(subject, session, afterDense, true, signal) };
  });
  const { own, other } = value, positions = ids.length + own.ran;
  const wholly = other === null ? null : { ...rouge(other.text, row.summary), text: other.text };
  return {
    ...rouge(own.text, row.summary),
    text: own.text,
    dense: before === undefined ? wholly : textOf(before),
    work: { kept, dense, positions, sparse: Math.max(0, positions - first) },
  };
}

function textOf({ rouge1, rouge2, rougeL, text }: SummaryResult): Rouge & { readonly text: string } {
  return { rouge1, rouge2, rougeL, text };
}

/** Takes the best token each time until the stop text, an end-of-text token, or 64 tokens. `ran`: how many of them went through the model. */
async function write(
  subject: Subject,
  session: EvalSession,
  logits: Float32Array,
  dense: boolean,
  signal?: AbortSignal,
): Promise<{ text: string; ran: number }> {
  const ids: number[] = [];
  for (;;) {
    const { best } = normalise(logits);
    if (subject.stopIds.includes(best)) break;
    ids.push(best);
    const text = subject.decode(ids), end = text.indexOf(STOP);
    if (end >= 0) return { text: text.slice(0, end), ran: ids.length - 1 };
    if (ids.length === MAX_TOKENS) return { text, ran: ids.length - 1 };
    logits = await session.decodeAsync(best, { dense, signal });
  }
  return { text: subject.decode(ids), ran: ids.length };
}
