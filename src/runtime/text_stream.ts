/** Generated tokens to text, piece by piece, as it may be shown. */
import type { Tokenizer } from "../model/tokenizer.ts";

/** How a {@linkcode TextStream} makes text of tokens. */
export interface TextStreamOptions {
  /** Texts that end the stream; they are not shown. Each has at least one character. */
  readonly stop?: readonly string[];
  /** Leaves out the text of control tokens; true unless said otherwise. */
  readonly skipSpecial?: boolean;
  /** The token before the first one pushed, where there is one: what a token says can depend on it. */
  readonly previous?: number;
}

/**
 * Decodes tokens as they come. A token may end inside a character, and a stop text may begin in one token and end in
 * another, so what could still turn out to be either is held back. All text together is what
 * {@linkcode Tokenizer.decode} makes of the same ids, up to the stop text, whatever the cuts: of several stop texts,
 * the one that is complete first ends the stream, the longer one if two end at the same place.
 */
export class TextStream {
  readonly #tokenizer: Tokenizer;
  readonly #stop: readonly string[];
  readonly #skipSpecial: boolean;
  // With ignoreBOM, U+FEFF is text like any other; without, the decoder swallows it at the start of every piece.
  readonly #decoder: TextDecoder = new TextDecoder("utf-8", { ignoreBOM: true });
  #previous: number | undefined;
  #bytes: Uint8Array = new Uint8Array(0);
  #held = "";
  #ended = false;

  /** @throws {RangeError} If a stop text is empty. */
  constructor(tokenizer: Tokenizer, options: TextStreamOptions = {}) {
    this.#tokenizer = tokenizer;
    this.#stop = [...options.stop ?? []];
    this.#skipSpecial = options.skipSpecial ?? true;
    this.#previous = options.previous;
    if (this.#stop.some((text) => text === "")) {
      throw new RangeError('stop text "": it must have at least one character');
    }
  }

  /** Characters that are held back; of an unfinished one nothing counts. */
  get heldLength(): number {
    return this.#held.length;
  }

  /** Text that token `id` completes, and whether a stop text was reached; after that, nothing more comes. */
  push(id: number): { text: string; stopped: boolean } {
    if (this.#ended) return { text: "", stopped: true };
    if (!(this.#skipSpecial && this.#tokenizer.isSpecial(id))) {
      this.#bytes = join(this.#bytes, this.#tokenizer.bytesOf(id, this.#previous));
    }
    this.#previous = id;
    const whole = this.#bytes.length - incompleteTail(this.#bytes);
    this.#held += this.#decoder.decode(this.#bytes.subarray(0, whole));
    this.#bytes = this.#bytes.subarray(whole);
    return { text: this.#release(), stopped: this.#ended };
  }

  /** The text that was held back; an unfinished character is U+FFFD. */
  end(): string {
    if (this.#ended) return "";
    this.#held += this.#decoder.decode(this.#bytes);
    const text = this.#release();
    if (this.#ended) return text;
    this.#ended = true;
    return text + this.#held;
  }

  /** Takes from the held text what can be shown now. */
  #release(): string {
    const held = this.#held;
    let end = Infinity, start = 0;
    for (const stop of this.#stop) {
      const at = held.indexOf(stop);
      if (at < 0 || at + stop.length > end || (at + stop.length === end && at > start)) continue;
      start = at;
      end = at + stop.length;
    }
    if (end !== Infinity) {
      this.#ended = true;
      this.#held = "";
      return held.slice(0, start);
    }
    const keep = this.#stop.reduce((most, stop) => Math.max(most, overlap(held, stop)), 0);
    this.#held = held.slice(held.length - keep);
    return held.slice(0, held.length - keep);
  }
}

/** Length of the longest end of `text` that is a beginning of `stop`, but not all of it. */
function overlap(text: string, stop: string): number {
  for (let n = Math.min(text.length, stop.length - 1); n > 0; --n) {
    if (text.endsWith(stop.slice(0, n))) return n;
  }
  return 0;
}

/**
 * How many bytes at the end of `bytes` may begin a character that the next bytes complete. Ranges of the second
 * byte are those of the Unicode Standard's table 3-7: a pair outside them is an error already, and no later byte mends it.
 */
function incompleteTail(bytes: Uint8Array): number {
  const n = bytes.length;
  for (let back = 1; back <= Math.min(3, n); ++back) {
    const lead = bytes[n - back]!;
    if (lead >= 0x80 && lead < 0xc0) continue;
    const length = lead >= 0xc2 && lead <= 0xdf
      ? 2
      : lead >= 0xe0 && lead <= 0xef
      ? 3
      : lead >= 0xf0 && lead <= 0xf4
      ? 4
      : 1;
    if (back >= length) return 0;
    if (back === 1) return 1;
    const second = bytes[n - back + 1]!;
    const least = lead === 0xe0 ? 0xa0 : lead === 0xf0 ? 0x90 : 0x80;
    const most = lead === 0xed ? 0x9f : lead === 0xf4 ? 0x8f : 0xbf;
    return second >= least && second <= most ? back : 0;
  }
  return 0;
}

function join(a: Uint8Array, b: Uint8Array): Uint8Array {
  if (a.length === 0) return b;
  const result = new Uint8Array(a.length + b.length);
  result.set(a);
  result.set(b, a.length);
  return result;
}
