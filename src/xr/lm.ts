/** A language model that really runs, token by token, as replies need it. */
import { divergence, normalise } from "../eval/divergence.ts";

/** What is asked of a session; `Session` of the runtime is one. */
export interface LmSession {
  /** The dial, from the next token on. */
  sparsity: number;
  /** Tokens run so far. */
  readonly length: number;
  /** Runs a prompt dense; logits after it. */
  prefill(ids: readonly number[]): Float32Array;
  /** Runs a token at the dial; logits after it. */
  decode(
    id: number,
    options?: { readonly beforeBlock?: (block: number) => number | undefined },
  ): Float32Array;
  /** Forgets what comes after n tokens. */
  truncate(n: number): void;
  /** Gives its memory back. */
  close(): void;
}

/** What is asked of a model; `Model` of the runtime is one. */
export interface LmModel {
  /** A new sequence. */
  session(): LmSession;
}

/** A token that was generated. */
export interface GeneratedToken {
  /** What came out: the likeliest. */
  readonly id: number;
  /** What it took, by the clock. */
  readonly ms: number;
}

/**
 * Runs replies one at a time, each in a session of its own. It knows no clock but that of its own tokens, and no deadlines.
 *
 * @example
 * ```ts ignore
 * const runner = new ReplyRunner(model, reply, prompts);
 * runner.begin(0);
 * for (let token = 1; token < reply.tokens; token++) runner.next(0.5);
 * runner.end();
 * ```
 */
export class ReplyRunner {
  readonly #model: LmModel;
  readonly #prompts: readonly (readonly number[])[];
  #session: LmSession | null = null;
  #last = 0;

  /** For replies of this model. @param prompts token ids; reply i has the i-th, those after the last from the first on */
  constructor(model: LmModel, prompts: readonly (readonly number[])[]) {
    this.#model = model;
    this.#prompts = prompts;
  }

  /** The prompt of a reply. */
  promptOf(reply: number): readonly number[] {
    return this.#prompts[reply % this.#prompts.length]!;
  }

  /** Whether a reply runs. */
  get hasBegun(): boolean {
    return this.#session !== null;
  }

  /** Begins a reply, in place of one that runs: its prompt, dense, and token 0. */
  begin(reply: number): GeneratedToken {
    this.end();
    const began = performance.now(), session = this.#session = this.#model.session();
    this.#last = best(session.prefill(this.promptOf(reply)));
    return { id: this.#last, ms: performance.now() - began };
  }

  /**
   * The next token.
   *
   * @param beforeBlock turns the dial within the token
   * @throws {Error} If no reply has begun.
   */
  next(sparsity: number, beforeBlock?: (block: number) => number | undefined): GeneratedToken {
    const session = this.#session;
    if (session === null) throw new Error("no reply has begun: call begin first");
    const began = performance.now();
    session.sparsity = sparsity;
    this.#last = best(session.decode(this.#last, beforeBlock && { beforeBlock }));
    return { id: this.#last, ms: performance.now() - began };
  }

  /** Ends the reply that runs, if one does. */
  end(): void {
    this.#session?.close();
    this.#session = null;
  }
}

/** The likeliest token; of equals the first. */
export function best(logits: Float32Array): number {
  let choice = 0, most = -Infinity;
  for (let id = 0; id < logits.length; id++) {
    if (logits[id]! > most) [choice, most] = [id, logits[id]!];
  }
  return choice;
}

/** What a token of a reply is, beside the same tokens run dense. */
export interface ComparedToken {
  /** KL(dense || this), nats. */
  readonly kl: number;
  /** Of the token that came out, negative log-likelihood by the dense model, nats. */
  readonly denseNll: number;
}

/**
 * Runs a reply again as it ran, and dense beside it: what its tokens were worth. Not for the clock.
 *
 * @param tokens what came out, token 0 first, and how each after it ran: a sparsity, or one for each block
 */
export function compareWithDense(
  model: LmModel,
  prompt: readonly number[],
  tokens: readonly { readonly id: number; readonly sparsity: number | readonly number[] }[],
): ComparedToken[] {
  const own = model.session(), dense = model.session();
  try {
    own.prefill(prompt);
    dense.prefill(prompt);
    dense.sparsity = 0;
    return tokens.slice(1).map(({ id, sparsity }, i) => {
      const before = tokens[i]!.id, wanted = dense.decode(before);
      const blocks = typeof sparsity === "number" ? null : sparsity;
      own.sparsity = blocks?.[0] ?? sparsity as number;
      const found = own.decode(before, blocks === null ? {} : { beforeBlock: (block) => blocks[block] });
      const p = normalise(wanted);
      return {
        kl: divergence(wanted, p, found, normalise(found)),
        denseNll: p.logSum - wanted[id]!,
      };
    });
  } finally {
    own.close();
    dense.close();
  }
}
