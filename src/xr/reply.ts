/**
 * Replies: frames that are answered token by token, each token with a deadline of its own. An extension; XRBench has no such model.
 *
 * A reply is asked for as a frame is, and is ready when its upstream frames are done, at `a`. Token j is one inference, due at a + ttftMs + j * 1000 / tokenRate, and
 * begins when token j - 1 has ended. Token 0 takes the prompt, too. One reply of a model runs at a time; those that wait are dropped when the deadline of
 * their first token has passed.
 */
import type { LogEntry, Reason } from "./log.ts";

/** What a model's frames are where they are replies. */
export interface Reply {
  /** Tokens of the prompt. */
  readonly prompt: number;
  /** Tokens that are generated; the first comes with the prompt. */
  readonly tokens: number;
  /** From being ready to the deadline of token 0. */
  readonly ttftMs: number;
  /** Tokens a second after it. */
  readonly tokenRate: number;
  /** What becomes of the rest when a token is more than a token's period late: it goes on, or is dropped. */
  readonly late: "continue" | "abort";
}

/** The specification's. */
export const DEFAULT_REPLY: Reply = { prompt: 32, tokens: 32, ttftMs: 200, tokenRate: 30, late: "continue" };

/**
 * When a token is due.
 *
 * @param readyMs when its reply was ready
 * @param token from 0
 * @example
 * ```ts
 * import assert from "node:assert/strict";
 * assert.equal(tokenDeadlineMs(DEFAULT_REPLY, 100, 0), 300);
 * assert.equal(tokenDeadlineMs(DEFAULT_REPLY, 100, 3), 400);
 * ```
 */
export function tokenDeadlineMs({ ttftMs, tokenRate }: Reply, readyMs: number, token: number): number {
  return readyMs + ttftMs + token * 1000 / tokenRate;
}

/** Whether the rest of a reply is given up after a token that ended then. */
export function isGivenUp({ late, tokenRate }: Reply, endMs: number, deadlineMs: number): boolean {
  return late === "abort" && endMs > deadlineMs + 1000 / tokenRate;
}

/** The number of a token among all tokens of its model: what logs have as its frame. */
export function tokenNumber({ tokens }: Reply, reply: number, token: number): number {
  return reply * tokens + token;
}

/** Lines of the log for tokens from `token` on that are dropped. */
export function droppedTokens(
  model: string,
  settings: Reply,
  { reply, token, readyMs, nowMs, reason }: {
    readonly reply: number;
    readonly token: number;
    /** When it was ready, or came where it never was. */
    readonly readyMs: number;
    readonly nowMs: number;
    readonly reason: Reason;
  },
): LogEntry[] {
  return Array.from({ length: settings.tokens - token }, (_, i) => ({
    model,
    frame: tokenNumber(settings, reply, token + i),
    accelerator: -1,
    injectionMs: readyMs,
    dispatchMs: nowMs,
    deadlineMs: tokenDeadlineMs(settings, readyMs, token + i),
    completionMs: nowMs,
    energyMJ: 0,
    dropped: true,
    reason,
  }));
}

/** Half and 19 of 20 are no longer than these, ms, by nearest rank. */
export interface Spread {
  /** The median. */
  readonly p50: number;
  /** Of 20 one is longer. */
  readonly p95: number;
}

/** What became of a model's replies. */
export interface ReplyReport {
  /** How many were asked for. */
  readonly replies: number;
  /** Of them to their last token. */
  readonly finished: number;
  /** From being ready to the end of token 0; null where no reply began. */
  readonly timeToFirstTokenMs: Spread | null;
  /** Tokens after the first, by the time from the end of the first to the end of the last, over all replies; null where no reply has two. */
  readonly tokensPerSecond: number | null;
  /** Executed by their deadline, of all tokens that were asked for. */
  readonly onTime: number;
  /** From being ready to the end of the last token, of replies that were finished. */
  readonly replyMs: Spread | null;
}

/**
 * Sums up the tokens of a model.
 *
 * @param entries its lines of the log
 * @param asked how many replies were asked for
 */
export function reportReplies(settings: Reply, entries: readonly LogEntry[], asked: number): ReplyReport {
  const replies = new Map<number, LogEntry[]>();
  for (const entry of entries) {
    if (entry.dropped) continue;
    const reply = Math.floor(entry.frame / settings.tokens), tokens = replies.get(reply);
    if (tokens === undefined) replies.set(reply, [entry]);
    else tokens.push(entry);
  }
  const begun = [...replies.values()].map((tokens) => tokens.sort((a, b) => a.frame - b.frame));
  const finished = begun.filter((tokens) => tokens.length === settings.tokens);
  const sinceReady = ({ completionMs, injectionMs }: LogEntry): number => completionMs - injectionMs;
  let after = 0, ms = 0, onTime = 0;
  for (const tokens of begun) {
    after += tokens.length - 1;
    ms += tokens.at(-1)!.completionMs - tokens[0]!.completionMs;
    onTime += tokens.filter(({ completionMs, deadlineMs }) => completionMs <= deadlineMs).length;
  }
  return {
    replies: asked,
    finished: finished.length,
    timeToFirstTokenMs: spreadOf(begun.map((tokens) => sinceReady(tokens[0]!))),
    tokensPerSecond: ms > 0 ? 1000 * after / ms : null,
    onTime: asked === 0 ? 0 : onTime / (asked * settings.tokens),
    replyMs: spreadOf(finished.map((tokens) => sinceReady(tokens.at(-1)!))),
  };
}

/** Nearest ranks; null of nothing. */
export function spreadOf(values: readonly number[]): Spread | null {
  if (values.length === 0) return null;
  const sorted = Float64Array.from(values).sort();
  const rank = (share: number): number => sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)]!;
  return { p50: rank(0.5), p95: rank(0.95) };
}
