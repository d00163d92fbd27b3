/** Finds the texts of control tokens in a text. */
export class ControlTokens {
  readonly #idOf: Map<string, number> = new Map();
  /** Lengths of texts by their first code unit, longest first. */
  readonly #lengths: Map<number, number[]> = new Map();

  /** `tokens`: texts and ids; an empty text is never found. */
  constructor(tokens: Iterable<readonly [text: string, id: number]>) {
    for (const [text, id] of tokens) {
      if (text === "") continue;
      this.#idOf.set(text, id);
      const lengths = this.#lengths.get(text.charCodeAt(0));
      if (!lengths) this.#lengths.set(text.charCodeAt(0), [text.length]);
      else if (!lengths.includes(text.length)) lengths.push(text.length);
    }
    for (const lengths of this.#lengths.values()) lengths.sort((a, b) => b - a);
  }

  /** Every text that is looked for. */
  texts(): Iterable<string> {
    return this.#idOf.keys();
  }

  /** Cuts `text` into ids of control tokens and the (never empty) text between them: leftmost first, the longest where several begin. */
  split(text: string): (string | number)[] {
    const parts: (string | number)[] = [];
    let start = 0;
    for (let i = 0; i < text.length;) {
      const found = this.#at(text, i);
      if (!found) {
        ++i;
        continue;
      }
      if (i > start) parts.push(text.slice(start, i));
      parts.push(found.id);
      start = i += found.length;
    }
    if (start < text.length) parts.push(text.slice(start));
    return parts;
  }

  #at(text: string, i: number): { id: number; length: number } | null {
    for (const length of this.#lengths.get(text.charCodeAt(i)) ?? []) {
      const id = this.#idOf.get(text.slice(i, i + length));
      if (id !== undefined) return { id, length };
    }
    return null;
  }
}
