/** A conversation in one session: what earlier turns left in the cache is not run again, and the dial may be turned at any token. */
import type { Model, Session } from "../../../src/mod.ts";
import { Sampler } from "../../../src/mod.ts";
import { tokenizeChat } from "../../../src/model/chat_template.ts";
import { TextStream } from "../../../src/runtime/text_stream.ts";
import type { ActivityProbe } from "./activity.ts";
import type { Answer, AnswerSettings, ChatMessage, DialChange, TokenEvent } from "./protocol.ts";

/** What recent tokens' logits are divided by: models as small as a page wants go round in circles without. */
export const REPEAT_PENALTY = 1.1;

/** What an answer is made with, beside its settings. */
export interface AnswerOptions extends AnswerSettings {
  /** Asked before each token. */
  readonly dial: () => number;
  /** Looks at some of the tokens. */
  readonly probe?: ActivityProbe;
  readonly signal?: AbortSignal;
}

/** Ids of a chat through the model's template; where it has none, of the last message: the model continues it. */
export function promptOf(model: Model, messages: readonly ChatMessage[]): number[] {
  const { tokenizer, chatTemplate } = model.description;
  if (chatTemplate === null) return model.tokenize(messages.at(-1)?.content ?? "");
  return tokenizeChat(tokenizer, chatTemplate, messages, { addGenerationPrompt: true });
}

/** One sequence of a model, turn by turn. */
export class Conversation {
  readonly #model: Model;
  readonly #session: Session;

  constructor(model: Model) {
    this.#model = model;
    this.#session = model.session();
  }

  /**
   * Answers, token by token. A stop takes effect at the next token; what there is by then is the answer.
   *
   * @throws {ContextError} Before anything runs, if the prompt does not fit.
   * @throws {RangeError} If a setting is out of range, or the prompt empty.
   */
  async *answer(prompt: readonly number[], options: AnswerOptions): AsyncGenerator<TokenEvent, Answer> {
    const { maxTokens, temperature, dial, probe, signal } = options, session = this.#session;
    if (prompt.length === 0) throw new RangeError("the prompt is empty: write something first");
    this.#model.checkContext(prompt.length, 1);
    const sampler = new Sampler({
      temperature,
      topP: 0.9,
      repeatPenalty: REPEAT_PENALTY,
      ...options.seed === null ? {} : { seed: options.seed },
    });
    const { tokenizer } = this.#model.description, stopIds = new Set(tokenizer.stopIds);
    const stream = new TextStream(tokenizer, { previous: prompt.at(-1)! });
    const reused = Math.min(commonStart(session.tokens, prompt), prompt.length - 1);
    const most = Math.min(maxTokens, this.#model.engine.contextLength - prompt.length);
    const recent = [...prompt], changes: DialChange[] = [], began = performance.now();
    let text = "", tokens = 0, finishReason: Answer["finishReason"] = "length";
    let last = began, firstTokenMs = 0, decodeMs = 0, kept = 0, dense = 0;
    let pass = { sparsity: 0, skipped: 0 };

    session.truncate(reused);
    let logits = await unlessStopped(signal, () => session.prefillAsync(prompt.slice(reused), { signal }));
    for (;;) {
      if (logits === null) {
        finishReason = "cancelled";
        break;
      }
      const id = sampler.sample(logits, recent);
      if (stopIds.has(id)) {
        finishReason = "stop";
        break;
      }
      const piece = stream.push(id), now = performance.now(), ms = now - last;
      last = now;
      if (++tokens === 1) firstTokenMs = ms;
      else decodeMs += ms;
      recent.push(id);
      text += piece.text;
      yield { text: piece.text, count: tokens, ms: tokens === 1 ? 0 : ms, ...pass };
      if (tokens >= most) break;

      const sparsity = dial();
      if (changes.at(-1)?.sparsity !== sparsity) changes.push({ from: tokens + 1, sparsity });
      session.sparsity = sparsity;
      const before = { ...session.count }, observe = probe?.begin(sparsity, session.length);
      logits = await unlessStopped(signal, () => session.decodeAsync(id, { signal, observe }));
      const full = session.count.dense - before.dense, part = session.count.kept - before.kept;
      dense += full;
      kept += part;
      pass = { sparsity, skipped: full > 0 ? 1 - part / full : 0 };
    }
    const rest = stream.end();
    if (rest !== "") yield { text: rest, count: tokens, ms: 0, ...pass };
    return {
      text: text + rest,
      tokens,
      finishReason,
      promptTokens: prompt.length,
      reusedTokens: reused,
      firstTokenMs,
      tokensPerSecond: tokens > 1 ? (tokens - 1) / decodeMs * 1000 : null,
      measuredSparsity: tokens < 2 ? null : dense > 0 ? 1 - kept / dense : 0,
      dial: changes,
      seed: sampler.seed,
    };
  }

  /** Gives its memory back to the model. */
  close(): void {
    this.#session.close();
  }
}

/** How many tokens two sequences share from the start. */
export function commonStart(a: readonly number[], b: readonly number[]): number {
  let n = 0;
  while (n < a.length && n < b.length && a[n] === b[n]) n++;
  return n;
}

/** What `work` gives; null if the signal ended it. */
export async function unlessStopped<T>(
  signal: AbortSignal | undefined,
  work: () => Promise<T>,
): Promise<T | null> {
  try {
    return await work();
  } catch (error) {
    if (signal?.aborted === true && error === signal.reason) return null;
    throw error;
  }
}
