/** Long texts to tokens, in turns with whatever else goes on. */
import { nextTurn } from "./turn.ts";

/** Characters tokenised at once: some 20 ms. */
const RUN = 1 << 13;
/** Characters on each side of a cut that are tokenised across it. */
const WINDOW = 64;
/** Cuts that are tried before the text is tokenised in one go. */
const TRIES = 8;

/** Settings of {@linkcode encodeText}. */
export interface EncodeTextOptions {
  /** Tokens that are wanted: what comes after them is not tokenised. Default all. */
  readonly most?: number;
  /** Ends it with the signal's reason. */
  readonly signal?: AbortSignal;
}

/**
 * The tokens of a text of any length, with turns of the event loop in between: the same as `encode(text)`, but for `most`.
 *
 * The text is cut between a letter and a space with a letter after it, where every pre-tokenizer of byte-level BPE begins a word; and only where tokenising
 * across the cut gives what its two sides give, so that a tokenizer without words, or with a token that reaches across, gets its text whole.
 *
 * @throws The signal's reason, once it is aborted.
 */
export async function encodeText(
  encode: (text: string) => number[],
  text: string,
  { most = Infinity, signal }: EncodeTextOptions = {},
): Promise<number[]> {
  const ids: number[] = [];
  for (let at = 0; at < text.length && ids.length < most;) {
    const end = nextCut(encode, text, at + RUN);
    for (const id of encode(text.slice(at, end))) ids.push(id);
    at = end;
    await nextTurn();
    signal?.throwIfAborted();
  }
  return ids.slice(0, most);
}

/**
 * The first tokens of a text, or of documents with token 0 after each.
 *
 * @throws The signal's reason, once it is aborted.
 */
export async function encodeDocuments(
  encode: (text: string) => number[],
  text: string | readonly string[],
  { most = Infinity, signal }: EncodeTextOptions = {},
): Promise<number[]> {
  if (typeof text === "string") return await encodeText(encode, text, { most, signal });
  const ids: number[] = [];
  for (const document of text) {
    if (ids.length >= most) break;
    for (const id of await encodeText(encode, document, { most: most - ids.length, signal })) ids.push(id);
    ids.push(0);
  }
  return ids.slice(0, most);
}

/** The first cut from `from` on; the text's end where there is none. */
function nextCut(encode: (text: string) => number[], text: string, from: number): number {
  const place = /(?<=\p{L}) (?=\p{L})/gu;
  place.lastIndex = from;
  for (let tries = 0; tries < TRIES && place.lastIndex < text.length; tries++) {
    const found = place.exec(text);
    if (found === null) break;
    const at = found.index;
    const left = wholeCharacters(text, at - WINDOW), right = wholeCharacters(text, at + WINDOW);
    const across = encode(text.slice(left, right));
    const sides = [...encode(text.slice(left, at)), ...encode(text.slice(at, right))];
    if (across.length === sides.length && across.every((id, i) => id === sides[i])) return at;
  }
  return text.length;
}

/** A place near `at`, not between the two halves of a character. */
function wholeCharacters(text: string, at: number): number {
  if (at <= 0) return 0;
  return /[\uDC00-\uDFFF]/.test(text[at] ?? "") ? at - 1 : at;
}
