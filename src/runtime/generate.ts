/** Tokens to text, one at a time: sampling, stop rules, cancellation and timings. */
import { Continuation } from "./continuation.ts";
import type { Model } from "./model.ts";
import type { SamplingOptions } from "./sampler.ts";
import type { Prefill } from "./session.ts";

/** Settings of one generation. */
export interface GenerateOptions extends SamplingOptions {
  /** Most new tokens; default 128, or what the context still holds if that is less. */
  readonly maxTokens?: number;
  /** Texts that end generation; they are not part of the output. */
  readonly stop?: readonly string[];
  /** Goes on past the model's end-of-text tokens. */
  readonly ignoreEos?: boolean;
  /** Which prompt tokens run sparse, when there is a recipe; default none. */
  readonly prefill?: Prefill;
  /** Any that the recipe has thresholds for (`calibrate` makes them for 0 to 0.9), or 0: dense. Default: the recipe's own. */
  readonly sparsity?: number;
  /** Stops at the next token; the generator then ends with `finishReason` `cancelled`. */
  readonly signal?: AbortSignal;
}

/** Why generation ended. */
export type FinishReason = "stop" | "length" | "cancelled";

/** What a generation was. */
export interface GenerateResult {
  /** The output, stop texts and control tokens left out. */
  readonly text: string;
  /** Prompt tokens. */
  readonly promptTokens: readonly number[];
  /** New tokens, without the end-of-text token that stopped it. */
  readonly tokens: readonly number[];
  /** Why it ended. */
  readonly finishReason: FinishReason;
  /** Milliseconds that the prompt took. */
  readonly prefillMs: number;
  /** Milliseconds of the tokens after the first. */
  readonly decodeMs: number;
  /** Prompt tokens a second. */
  readonly prefillTokensPerSecond: number;
  /** Of the tokens after the first; null if there was none. */
  readonly decodeTokensPerSecond: number | null;
  /** Share of multiply-adds that were skipped in tokens that ran sparse; null if none did. */
  readonly measuredSparsity: number | null;
  /** Tokens that ran sparse, of all that ran. */
  readonly sparseTokens: number;
}

/** A piece of output. */
export interface Part {
  /** Text that is whole: no broken character, no beginning of a stop text. May be empty. */
  readonly text: string;
  /** The token that completed it; null for the last part. */
  readonly token: number | null;
  /** In the last part only. */
  readonly result?: GenerateResult;
}

/** Behind `model.generate` and `model.chat`. @throws {ContextError} Before anything runs, if it does not fit. */
export async function* generateTokens(
  model: Model,
  prompt: readonly number[],
  options: GenerateOptions,
): AsyncGenerator<Part> {
  const { signal } = options,
    continuation = new Continuation(model, prompt, options),
    { tokens } = continuation;
  const session = model.session({ sparsity: options.sparsity });
  let prefillMs = 0, prefilled = 0, decodeMs = 0;
  try {
    let began = performance.now(),
      logits = await unlessAborted(
        signal,
        () => session.prefillAsync(prompt, { prefill: options.prefill, signal }),
      );
    prefillMs = performance.now() - began;
    prefilled = session.length;
    began = performance.now();
    while (logits !== null && continuation.finishReason === null) {
      const { token, text } = continuation.next(logits);
      if (tokens.length <= 1) began = performance.now();
      if (token === null) break;
      yield { text, token };
      if (continuation.finishReason === null) {
        logits = await unlessAborted(signal, () => session.decodeAsync(token, { signal }));
      }
    }
    decodeMs = performance.now() - began;
    const { text: rest, finishReason } = continuation.end();
    const { kept, dense: full, sparseTokens } = session.count;
    yield {
      text: rest,
      token: null,
      result: {
        text: continuation.text,
        promptTokens: prompt,
        tokens,
        finishReason,
        prefillMs,
        decodeMs,
        prefillTokensPerSecond: prefillMs > 0 ? prefilled / prefillMs * 1000 : 0,
        decodeTokensPerSecond: tokens.length > 1 ? (tokens.length - 1) / decodeMs * 1000 : null,
        measuredSparsity: full > 0 ? 1 - kept / full : null,
        sparseTokens,
      },
    };
  } finally {
    session.close();
  }
}

/** What `work` gives; null if the signal ended it. */
async function unlessAborted<T>(signal: AbortSignal | undefined, work: () => Promise<T>): Promise<T | null> {
  try {
    return await work();
  } catch (error) {
    if (signal?.aborted === true && error === signal.reason) return null;
    throw error;
  }
}
