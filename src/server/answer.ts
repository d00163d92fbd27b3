/** Answers in OpenAI's shapes, whole and as streams. */
import type { Model } from "../runtime/model.ts";
import type { Piece, SequenceEnd, TokenLogprob } from "./sequence.ts";

/** The two kinds of answers. */
export type AnswerKind = "chat" | "completion";

/** What all parts of an answer say. */
interface Head {
  readonly id: string;
  readonly created: number;
  readonly model: string;
  readonly system_fingerprint: string;
}

/** Makes the JSON of one answer. */
export class Answer {
  readonly #kind: AnswerKind;
  readonly #head: Head;
  readonly #model: Model;
  readonly #withLogprobs: boolean;
  /** Log-probabilities of tokens whose text has not come. */
  #pending: TokenLogprob[] = [];
  /** Characters of text that have come. */
  #length = 0;

  /** @param name what the model is called */
  constructor(kind: AnswerKind, model: Model, name: string, withLogprobs: boolean) {
    this.#kind = kind;
    this.#model = model;
    this.#withLogprobs = withLogprobs;
    this.#head = {
      id: `${kind === "chat" ? "chatcmpl" : "cmpl"}-${crypto.randomUUID().replaceAll("-", "")}`,
      created: Math.floor(Date.now() / 1000),
      model: name,
      system_fingerprint: `rsparse-${model.info.kernels}`,
    };
  }

  /** The whole. */
  whole(pieces: readonly Piece[], end: SequenceEnd): object {
    const { text, logprobs } = this.#join(pieces), finish_reason = end.finishReason;
    const isChat = this.#kind === "chat";
    const content = isChat ? { message: { role: "assistant", content: text, refusal: null } } : { text };
    return {
      ...this.#head,
      object: isChat ? "chat.completion" : "text_completion",
      choices: [{ index: 0, ...content, logprobs, finish_reason }],
      usage: usage(end),
      rsparse: details(end),
    };
  }

  /** What a stream of a chat begins with: whose turn it is. */
  begin(includeUsage: boolean): object[] {
    return this.#kind === "chat"
      ? [this.#chunk({ role: "assistant", content: "", refusal: null }, null, null, includeUsage)]
      : [];
  }

  /** Parts of a stream for some pieces. */
  parts(pieces: readonly Piece[], includeUsage: boolean): object[] {
    const { text, logprobs } = this.#join(pieces), end = pieces.at(-1)!.end, isChat = this.#kind === "chat";
    const parts: object[] = [];
    if (text !== "" || (end !== null && !isChat)) {
      const reason = isChat ? null : end?.finishReason ?? null;
      parts.push(this.#chunk(isChat ? { content: text } : text, logprobs, reason, includeUsage));
    }
    if (end === null) return parts;
    if (isChat) parts.push(this.#chunk({}, text === "" ? logprobs : null, end.finishReason, includeUsage));
    if (includeUsage) {
      parts.push({
        ...this.#head,
        object: this.#object,
        choices: [],
        usage: usage(end),
        rsparse: details(end),
      });
    }
    return parts;
  }

  get #object(): string {
    return this.#kind === "chat" ? "chat.completion.chunk" : "text_completion";
  }

  #chunk(
    content: object | string,
    logprobs: object | null,
    finish_reason: string | null,
    includeUsage: boolean,
  ): object {
    const said = typeof content === "string" ? { text: content } : { delta: content };
    return {
      ...this.#head,
      object: this.#object,
      choices: [{ index: 0, ...said, logprobs, finish_reason }],
      ...(includeUsage ? { usage: null } : {}),
    };
  }

  /** Text of pieces, and the log-probabilities of the tokens that it is of. */
  #join(pieces: readonly Piece[]): { readonly text: string; readonly logprobs: object | null } {
    const text = pieces.map((piece) => piece.text).join(""), end = pieces.at(-1)?.end;
    this.#length += text.length;
    if (!this.#withLogprobs) return { text, logprobs: null };
    this.#pending.push(...pieces.flatMap(({ logprob }) => logprob ?? []));
    // of a stop text, which is not in the answer, the tokens are not either
    const said = end !== undefined && end !== null && end.finishReason !== "stop"
      ? this.#pending
      : this.#pending.filter(({ start }) => start < this.#length);
    this.#pending = this.#pending.slice(said.length);
    if (said.length === 0) return { text, logprobs: null };
    return { text, logprobs: this.#kind === "chat" ? this.#chatLogprobs(said) : this.#textLogprobs(said) };
  }

  #chatLogprobs(tokens: readonly TokenLogprob[]): object {
    const { tokenizer } = this.#model.description;
    const describe = (id: number, logprob: number, previous: number): object => ({
      token: tokenizer.decode([id], { previous }),
      logprob,
      bytes: [...tokenizer.bytesOf(id, previous)],
    });
    return {
      content: tokens.map(({ id, logprob, previous, top }) => ({
        ...describe(id, logprob, previous),
        top_logprobs: top.map((one) => describe(one.id, one.logprob, previous)),
      })),
      refusal: null,
    };
  }

  #textLogprobs(tokens: readonly TokenLogprob[]): object {
    const { tokenizer } = this.#model.description;
    return {
      tokens: tokens.map(({ id, previous }) => tokenizer.decode([id], { previous })),
      token_logprobs: tokens.map(({ logprob }) => logprob),
      top_logprobs: tokens.map(({ id, logprob, previous, top }) =>
        top.length === 0 ? null : Object.fromEntries(
          [...top, { id, logprob }].map((one) => [tokenizer.decode([one.id], { previous }), one.logprob]),
        )
      ),
      text_offset: tokens.map(({ start }) => start),
    };
  }
}

function usage({ promptTokens, completionTokens }: SequenceEnd): object {
  return {
    prompt_tokens: promptTokens,
    completion_tokens: completionTokens,
    total_tokens: promptTokens + completionTokens,
  };
}

/** What OpenAI's shapes have no place for. */
function details({ sparsity, measuredSparsity, queueMs, firstTokenMs, decodeMs }: SequenceEnd): object {
  return {
    sparsity,
    measured_sparsity: measuredSparsity,
    queue_ms: queueMs,
    first_token_ms: firstTokenMs,
    decode_ms: decodeMs,
  };
}
