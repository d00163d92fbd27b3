/** One generation among others: what it has run, what it has to say, and whether anyone listens. */
import { checkSparsity } from "../recipe/dial.ts";
import { Continuation } from "../runtime/continuation.ts";
import type { FinishReason, GenerateOptions } from "../runtime/generate.ts";
import type { Model } from "../runtime/model.ts";
import { logProbability, topLogits } from "../runtime/sampler.ts";
import type { Session } from "../runtime/session.ts";

/** What is asked for. */
export interface SequenceOptions extends Omit<GenerateOptions, "signal"> {
  /** Alternatives whose log-probabilities are wanted; null or left out: none, nor the token's own. */
  readonly logprobs?: number | null;
  /** Milliseconds a token may take: sparsity is chosen for each by what tokens took. */
  readonly deadlineMs?: number;
}

/** A token's log-probability, by the model's own logits, whatever the sampling. */
export interface TokenLogprob {
  readonly id: number;
  readonly logprob: number;
  /** The most probable tokens, best first. */
  readonly top: readonly { readonly id: number; readonly logprob: number }[];
  /** Where in the text it begins, in characters. */
  readonly start: number;
  /** The token before it, on which its text may depend. */
  readonly previous: number;
}

/** How a generation went. */
export interface SequenceEnd {
  readonly finishReason: FinishReason;
  readonly text: string;
  readonly promptTokens: number;
  readonly completionTokens: number;
  /** The dial at the end. */
  readonly sparsity: number;
  /** Share of multiply-adds that were skipped in tokens that ran sparse; null if none did. */
  readonly measuredSparsity: number | null;
  /** Milliseconds in the queue, until the first token, and of the tokens after it. */
  readonly queueMs: number;
  readonly firstTokenMs: number;
  readonly decodeMs: number;
}

/** What a token adds. */
export interface Piece {
  /** Whole characters; may be empty. */
  readonly text: string;
  readonly logprob: TokenLogprob | null;
  /** In the last piece only. */
  readonly end: SequenceEnd | null;
}

/** A generation; made and run by a `Scheduler`. */
export class Sequence {
  readonly prompt: readonly number[];
  readonly options: SequenceOptions;
  readonly continuation: Continuation;
  /** Its tokens in the model; null before it is its turn, and after its end. */
  session: Session | null = null;
  /** Prompt tokens that have run. */
  prefilled = 0;
  /** The token that runs next, once the prompt has run. */
  next: number | null = null;
  /** Pieces that nobody has taken yet. */
  readonly outbox: Piece[] = [];
  /** When pieces were last taken, or it was submitted: since then its listener is waited for, unless it has asked. */
  waitingSince: number = performance.now();
  /** Set once it is over: no piece comes after those in the outbox. */
  isOver = false;
  /** Why it was ended before its time; thrown at whoever listens. */
  failure: unknown = null;
  /** Ends a prompt that runs. */
  readonly abort: AbortController = new AbortController();
  /** When the last token came; NaN where none has just come, so that no time between two can be taken. */
  lastTokenAt: number = NaN;
  readonly #submittedAt = performance.now();
  #admittedAt = 0;
  #firstTokenAt = 0;

  /** @throws {RangeError} If the options can't be run on this model; `ContextError` if the tokens don't fit. */
  constructor(model: Model, prompt: readonly number[], options: SequenceOptions) {
    if (options.sparsity !== undefined) checkSparsity(model.recipe, options.sparsity);
    if (options.deadlineMs !== undefined && model.recipe === null) {
      throw new RangeError("a deadline needs a recipe, whose sparsity it can choose: give the server one");
    }
    this.continuation = new Continuation(model, prompt, options);
    this.prompt = prompt;
    this.options = options;
  }

  /** Positions it may come to need. */
  get positions(): number {
    return this.prompt.length + this.continuation.maxTokens;
  }

  /** Takes up its work. */
  begin(session: Session): void {
    this.session = session;
    this.#admittedAt = performance.now();
  }

  /** What the logits after its last token become: a piece in the outbox, and the next token or the end. */
  deliver(logits: Float32Array): void {
    const { continuation } = this, start = continuation.decodedLength, now = performance.now();
    const previous = continuation.tokens.at(-1) ?? this.prompt.at(-1)!;
    let text = "", logprob: TokenLogprob | null = null;
    this.next = null;
    if (continuation.finishReason === null) {
      const { token, text: more } = continuation.next(logits);
      text = more;
      this.next = token;
      const { logprobs = null } = this.options;
      if (token !== null && logprobs !== null) logprob = describe(logits, token, logprobs, start, previous);
    }
    if (this.#firstTokenAt === 0) this.#firstTokenAt = now;
    this.lastTokenAt = now;
    const isOver = continuation.finishReason !== null;
    if (isOver) text += continuation.end().text;
    this.outbox.push({ text, logprob, end: isOver ? this.#end(now) : null });
    this.isOver = isOver;
  }

  #end(now: number): SequenceEnd {
    const { continuation } = this, { kept, dense } = this.session!.count;
    return {
      finishReason: continuation.finishReason!,
      text: continuation.text,
      promptTokens: this.prompt.length,
      completionTokens: continuation.tokens.length,
      sparsity: this.session!.sparsity,
      measuredSparsity: dense > 0 ? 1 - kept / dense : null,
      queueMs: this.#admittedAt - this.#submittedAt,
      firstTokenMs: this.#firstTokenAt - this.#submittedAt,
      decodeMs: now - this.#firstTokenAt,
    };
  }
}

function describe(
  logits: Float32Array,
  id: number,
  count: number,
  start: number,
  previous: number,
): TokenLogprob {
  const logprob = logProbability(logits, id), sum = logits[id]! - logprob;
  const top = topLogits(logits, count).map(([other, logit]) => ({
    id: other,
    logprob: other === id ? logprob : logit - sum,
  }));
  return { id, logprob, top, start, previous };
}
