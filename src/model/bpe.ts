/**
 * Byte-level BPE. Text is cut into words by `@huggingface/tokenizers` and merged here, by pairs of ids: the library spells every pair as JSON, and
 * making its tokenizer took 139 ms of a cold start with 6,144 tokens, where this takes 5. Control tokens are found here too, so text cannot become one.
 */
import * as library from "@huggingface/tokenizers";
import { byteLevelBytes, decodeTokens } from "./byte_level.ts";
import { ControlTokens } from "./control_tokens.ts";
import { type Merge, mergePairs } from "./merge_pairs.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** Cuts text into words, which come spelled as bytes. */
interface Cutter {
  pre_tokenize(text: string): string[];
}

/** The library exports it; to TypeScript's resolution of modules its declarations lack endings. */
interface Library {
  readonly SequencePreTokenizer: new (config: object) => Cutter;
}

/** What a tokenizer is made of, checked. */
export interface BpeSpec {
  /** By id; undefined or null where an id has no token. */
  readonly tokens: readonly (string | null | undefined)[];
  /** Ids of control tokens, and of texts that are found in any text as they stand (GGUF's "user defined"); the others are spelled as bytes. */
  readonly controls: readonly number[];
  readonly added: readonly number[];
  /** Two ids and what they make, by rank: i32[merges, 3]. */
  readonly merges: ArrayLike<number>;
  /** A word that is a token stays one, whatever the merges say. */
  readonly ignoreMerges: boolean;
  /** Unicode forms, one after the other. */
  readonly normalizers: readonly UnicodeForm[];
  /** A `Sequence` of the library's words. */
  readonly preTokenizer: { readonly pretokenizers: readonly object[] };
  /** Control tokens that take the white space on a side with them. */
  readonly stripLeft: readonly number[];
  readonly stripRight: readonly number[];
  readonly bosId: number | null;
  readonly addBos: boolean;
  readonly stopIds: readonly number[];
}

/** Unicode forms that text may be brought to. */
export const UNICODE_FORMS = ["NFC", "NFD", "NFKC", "NFKD"] as const;
/** One of {@linkcode UNICODE_FORMS}. */
export type UnicodeForm = (typeof UNICODE_FORMS)[number];

/** Words whose ids are kept, and how long they are at most. */
const CACHED_WORDS = 10_000, CACHED_LENGTH = 256;

/** The tokenizer of a specification. */
export class BpeTokenizer implements Tokenizer {
  readonly vocabSize: number;
  readonly bosId: number | null;
  readonly addBos: boolean;
  readonly stopIds: readonly number[];
  readonly #spec: BpeSpec;
  readonly #kinds: Uint8Array;
  readonly #controls: ControlTokens;
  readonly #added: ControlTokens;
  readonly #stripLeft: ReadonlySet<number>;
  readonly #stripRight: ReadonlySet<number>;
  readonly #cut: Cutter;
  readonly #merges: MergeTable;
  readonly #words: Map<string, readonly number[]> = new Map();
  /** Ids of tokens of one character, by its code: bytes, where a word begins. */
  readonly #byteIds: Int32Array;
  /** By text; made when it is first asked for. */
  #idOf: ReadonlyMap<string, number> | null;

  /**
   * @param idOf `idsByText` of the specification, where someone has made it
   * @throws {Error} If the library cannot make its part: a pattern that is no regular expression.
   */
  constructor(spec: BpeSpec, idOf: ReadonlyMap<string, number> | null = null) {
    const { tokens, controls, added } = spec;
    this.vocabSize = tokens.length;
    this.bosId = spec.bosId;
    this.addBos = spec.addBos && spec.bosId !== null;
    this.stopIds = spec.stopIds;
    this.#spec = spec;
    this.#kinds = new Uint8Array(tokens.length);
    for (const id of controls) this.#kinds[id] = CONTROL;
    for (const id of added) this.#kinds[id] = ADDED;
    this.#idOf = idOf;
    this.#byteIds = byteIds(spec, this.#kinds);
    const named = (ids: readonly number[]): [string, number][] => ids.map((id) => [tokens[id] ?? "", id]);
    this.#controls = new ControlTokens(named(controls));
    this.#added = new ControlTokens(named(added.filter((id) => this.idOf(tokens[id] ?? "") === id)));
    this.#stripLeft = new Set(spec.stripLeft);
    this.#stripRight = new Set(spec.stripRight);
    this.#cut = new (library as unknown as Library).SequencePreTokenizer({
      type: "Sequence",
      ...spec.preTokenizer,
    });
    this.#merges = new MergeTable(spec.merges);
  }

  encode(text: string, options: { special?: boolean; bos?: boolean } = {}): number[] {
    const ids: number[] = options.bos && this.addBos ? [this.bosId!] : [];
    const parts = options.special ? this.#controls.split(text) : [text];
    parts.forEach((part, i) => {
      if (typeof part === "number") {
        ids.push(part);
        return;
      }
      const before = parts[i - 1], after = parts[i + 1];
      if (typeof before === "number" && this.#stripRight.has(before)) part = part.trimStart();
      if (typeof after === "number" && this.#stripLeft.has(after)) part = part.trimEnd();
      this.#encodePlain(part, ids);
    });
    return ids;
  }

  /** Ids of text without control tokens, to the end of `ids`. */
  #encodePlain(text: string, ids: number[]): void {
    for (let part of this.#added.split(text)) {
      if (typeof part === "number") {
        ids.push(part);
        continue;
      }
      for (const form of this.#spec.normalizers) part = part.normalize(form);
      if (part === "") continue;
      for (const word of this.#cut.pre_tokenize(part)) for (const id of this.#idsOf(word)) ids.push(id);
    }
  }

  /** Ids of a word that is spelled as bytes. A byte that the vocabulary lacks is left out. */
  #idsOf(word: string): readonly number[] {
    const known = this.#words.get(word);
    if (known !== undefined) return known;
    let ids: number[];
    const whole = this.#spec.ignoreMerges ? this.#wholeWord(word) : -1;
    if (whole >= 0) ids = [whole];
    else {
      ids = Array.from(word, (byte) => this.#byteIds[byte.charCodeAt(0)] ?? -1);
      mergePairs(ids, (left, right) => this.#merges.find(left, right));
      ids = ids.filter((id) => id >= 0);
    }
    if (word.length < CACHED_LENGTH) {
      // the oldest goes
      if (this.#words.size >= CACHED_WORDS) this.#words.delete(this.#words.keys().next().value!);
      this.#words.set(word, ids);
    }
    return ids;
  }

  /** The id of a word that is a token, but no control token; else -1. */
  #wholeWord(word: string): number {
    const id = this.idOf(word);
    return id === null || this.#kinds[id] === CONTROL ? -1 : id;
  }

  bytesOf(id: number): Uint8Array {
    if (!(Number.isInteger(id) && id >= 0 && id < this.vocabSize)) {
      throw new RangeError(`token ${id}: the vocabulary has ${this.vocabSize} tokens`);
    }
    const token = this.#spec.tokens[id] ?? "";
    const bytes = this.#kinds[id] === NORMAL ? byteLevelBytes(token) : null;
    return bytes ?? new TextEncoder().encode(token);
  }

  isSpecial(id: number): boolean {
    return id >= 0 && id < this.vocabSize && this.#kinds[id] === CONTROL;
  }

  idOf(token: string): number | null {
    this.#idOf ??= idsByText(this.#spec);
    return this.#idOf.get(token) ?? null;
  }

  decode(ids: readonly number[], options?: { skipSpecial?: boolean; previous?: number }): string {
    return decodeTokens(this, ids, options);
  }

  toJSON(): object {
    const { tokens, merges, ...rest } = this.#spec;
    return {
      type: "bpe",
      tokens: Array.from(tokens, (token) => token ?? null),
      merges: Array.from(merges),
      ...rest,
    };
  }
}

const NORMAL = 0, CONTROL = 1, ADDED = 2;

/** Codes of characters that stand for bytes are below it. */
const BYTE_CODES = 324;

/** What `idsByText` has for single characters, without making all of it; -1: none, or a control token. */
function byteIds({ tokens, controls }: BpeSpec, kinds: Uint8Array): Int32Array {
  const ids = new Int32Array(BYTE_CODES).fill(-1);
  // from the last one on, so that the first stays
  for (let id = tokens.length - 1; id >= 0; --id) {
    const token = tokens[id];
    if (
      typeof token === "string" && token.length === 1 && token.charCodeAt(0) < BYTE_CODES &&
      kinds[id] !== CONTROL
    ) {
      ids[token.charCodeAt(0)] = id;
    }
  }
  for (const id of controls) {
    const token = tokens[id];
    if (token?.length === 1 && token.charCodeAt(0) < BYTE_CODES) ids[token.charCodeAt(0)] = -1;
  }
  return ids;
}

/** Ids by their tokens' texts: of a text that comes more than once the control token's (the last one's), else the first. */
export function idsByText({ tokens, controls }: Pick<BpeSpec, "tokens" | "controls">): Map<string, number> {
  const ids = new Map<string, number>();
  for (let id = 0; id < tokens.length; ++id) {
    const token = tokens[id];
    if (typeof token === "string" && !ids.has(token)) ids.set(token, id);
  }
  for (const id of controls) ids.set(tokens[id] ?? "", id);
  return ids;
}

/** Ranks by pairs of ids: open addressing, as a Map of 48,900 numbers beyond 2^31 takes ten times as long to make. */
class MergeTable {
  readonly #merges: Int32Array;
  /** Ranks plus one; 0: empty. Twice as many places as merges at least. */
  readonly #slots: Int32Array;

  /** @param merges of two merges of the same pair the later one counts, as in the library */
  constructor(merges: ArrayLike<number>) {
    this.#merges = new Int32Array(merges);
    const count = this.#merges.length / 3;
    this.#slots = new Int32Array(2 ** Math.ceil(Math.log2(2 * count + 2)));
    for (let rank = 0; rank < count; ++rank) {
      this.#slots[this.#slotOf(this.#merges[3 * rank]!, this.#merges[3 * rank + 1]!)] = rank + 1;
    }
  }

  find(left: number, right: number): Merge | null {
    const rank = this.#slots[this.#slotOf(left, right)]! - 1;
    return rank < 0 ? null : { id: this.#merges[3 * rank + 2]!, score: -rank };
  }

  /** Where a pair is, or would be. */
  #slotOf(left: number, right: number): number {
    const mask = this.#slots.length - 1, merges = this.#merges;
    let at = Math.imul(left, 0x9e3779b1) ^ Math.imul(right, 0x85ebca6b);
    for (at = (at ^ at >>> 15) & mask;; at = (at + 1) & mask) {
      const rank = this.#slots[at]! - 1;
      if (rank < 0 || (merges[3 * rank] === left && merges[3 * rank + 1] === right)) return at;
    }
  }
}
