/** Text to token ids and back. */

/** What every tokenizer of this project can do. Ids are integers in [0, vocabSize). */
export interface Tokenizer {
  readonly vocabSize: number;
  /** Put before a prompt by models that want it; null where the model wants none. */
  readonly bosId: number | null;
  /** Whether {@linkcode Tokenizer.encode} with `bos` puts `bosId` first. */
  readonly addBos: boolean;
  /** Ids that end generation: end of sequence, end of turn. */
  readonly stopIds: readonly number[];
  /** Encodes text. With `special`, control tokens in the text are recognised; without (the default), user text cannot write them. */
  encode(text: string, options?: { special?: boolean; bos?: boolean }): number[];
  /**
   * The bytes a token stands for; a control token's are those of its text. `previous` is the token before it,
   * which matters to llama2.c's vocabulary alone: there, the token after BOS loses its leading space.
   */
  bytesOf(id: number, previous?: number): Uint8Array;
  /** Whether `id` is a control token, whose text is not shown to users. */
  isSpecial(id: number): boolean;
  /** The id of a token by its exact text, or null. */
  idOf(token: string): number | null;
  /** Bytes of all ids joined and decoded as UTF-8, invalid sequences as U+FFFD; `previous` is the token before the first. */
  decode(ids: readonly number[], options?: { skipSpecial?: boolean; previous?: number }): string;
  /** What a pack keeps of it: `storedTokenizer` makes the same one of that. */
  toJSON(): object;
}
