/** What a sequence's logits become: tokens, text, and an end. */
import type { FinishReason, GenerateOptions } from "./generate.ts";
import type { Model } from "./model.ts";
import { Sampler, validateSampling } from "./sampler.ts";
import { TextStream } from "./text_stream.ts";

/** Most new tokens where nothing was said. */
const DEFAULT_TOKENS = 128;

/**
 * Draws token after token from logits that it is given, and holds them against the rules that end a generation. Whoever has it runs the tokens:
 * `generate` one sequence to its end, a server many beside one another.
 */
export class Continuation {
  /** Most new tokens. */
  readonly maxTokens: number;
  /** New tokens, without the end-of-text token that stopped it. */
  readonly tokens: number[] = [];
  readonly #sampler: Sampler;
  readonly #stream: TextStream;
  readonly #stopIds: ReadonlySet<number>;
  /** Prompt and new tokens, which the repeat penalty looks at. */
  readonly #recent: number[];
  #text = "";
  #finishReason: FinishReason | null;

  /**
   * @throws {ContextError} If prompt and new tokens do not fit.
   * @throws {RangeError} If the prompt is empty or an option is out of its range.
   */
  constructor(model: Model, prompt: readonly number[], options: GenerateOptions) {
    validateSampling(options);
    const room = model.engine.contextLength - prompt.length;
    this.maxTokens = options.maxTokens ?? Math.max(1, Math.min(DEFAULT_TOKENS, room));
    if (!Number.isInteger(this.maxTokens) || this.maxTokens < 0) {
      throw new RangeError(`maxTokens: ${this.maxTokens} found, a whole number of at least 0 wanted`);
    }
    if (prompt.length === 0) throw new RangeError("the prompt is empty: give at least one token");
    model.checkContext(prompt.length, this.maxTokens);
    const { tokenizer } = model.description;
    this.#sampler = new Sampler(options);
    this.#stream = new TextStream(tokenizer, { stop: options.stop, previous: prompt[prompt.length - 1] });
    this.#stopIds = new Set(options.ignoreEos === true ? [] : tokenizer.stopIds);
    this.#recent = [...prompt];
    this.#finishReason = this.maxTokens === 0 ? "length" : null;
  }

  /** The text so far, stop texts and control tokens left out. */
  get text(): string {
    return this.#text;
  }

  /** Why it ended; null while it goes on. */
  get finishReason(): FinishReason | null {
    return this.#finishReason;
  }

  /** Characters of text so far, those included that are held back because a stop text or a character may begin with them. */
  get decodedLength(): number {
    return this.#text.length + this.#stream.heldLength;
  }

  /**
   * Draws the next token.
   *
   * @param logits f32[vocabSize], after the last token of prompt and `tokens`
   * @returns the token, null if it is one that ends the text; and what text it completes
   */
  next(logits: Float32Array): { readonly token: number | null; readonly text: string } {
    const id = this.#sampler.sample(logits, this.#recent);
    if (this.#stopIds.has(id)) {
      this.#finishReason = "stop";
      return { token: null, text: "" };
    }
    this.tokens.push(id);
    this.#recent.push(id);
    const { text, stopped } = this.#stream.push(id);
    this.#text += text;
    if (stopped) this.#finishReason = "stop";
    else if (this.tokens.length >= this.maxTokens) this.#finishReason = "length";
    return { token: id, text };
  }

  /** Ends it, by its own rules or before them: the text that was held back, and why it ended. */
  end(): { readonly text: string; readonly finishReason: FinishReason } {
    const finishReason = this.#finishReason ??= "cancelled", text = this.#stream.end();
    this.#text += text;
    return { text, finishReason };
  }
}
