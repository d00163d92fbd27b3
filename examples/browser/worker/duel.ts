/** One prompt, dense and sparse side by side: both take turns token by token, so whatever slows the machine slows both. */
import type { Model } from "../../../src/mod.ts";
import { Sampler } from "../../../src/mod.ts";
import { TextStream } from "../../../src/runtime/text_stream.ts";
import { commonStart, REPEAT_PENALTY, unlessStopped } from "./conversation.ts";
import type { Comparison, Side, SideResult, SideToken } from "./protocol.ts";

/** What runs on each side. */
export interface DuelOptions {
  /** Runs dense: a model of its own where memory suffices, since one with a recipe may keep its weights in a layout for skipping. */
  readonly dense: Model;
  readonly sparse: Model;
  readonly prompt: readonly number[];
  readonly maxTokens: number;
  /** Of the sparse side; asked before each token. */
  readonly dial: () => number;
  readonly signal?: AbortSignal;
}

/** Both take the likeliest token each time, recent ones being made less likely, so that sparsity is all that differs. Yields tokens as they come. */
export async function* duel(options: DuelOptions): AsyncGenerator<SideToken, Comparison> {
  const { dense, sparse, prompt, maxTokens, dial, signal } = options;
  const most = Math.min(maxTokens, dense.engine.contextLength - prompt.length);
  dense.checkContext(prompt.length, 1);
  const lanes = [
    new Lane("dense", dense, prompt, () => 0),
    new Lane("sparse", sparse, prompt, dial),
  ] as const;
  let timed = 0;
  const ms = { dense: 0, sparse: 0 };
  try {
    for (const lane of lanes) yield* await lane.prefill(prompt, most, signal);
    for (let turn = 0; lanes.some((lane) => lane.runs); turn++) {
      const both = lanes.every((lane) => lane.runs);
      const took = { dense: 0, sparse: 0 };
      // who begins changes, so that none always runs behind the other
      for (const lane of turn % 2 === 0 ? lanes : [...lanes].reverse()) {
        if (!lane.runs) continue;
        const tokens = await lane.step(most, signal);
        took[lane.side] = lane.stepMs;
        yield* tokens;
      }
      if (!both || signal?.aborted === true) continue;
      timed++;
      ms.dense += took.dense;
      ms.sparse += took.sparse;
    }
    const [a, b] = lanes;
    return {
      dense: a.result(),
      sparse: b.result(),
      timed,
      denseTokensPerSecond: timed > 0 ? timed / ms.dense * 1000 : null,
      sparseTokensPerSecond: timed > 0 ? timed / ms.sparse * 1000 : null,
      same: commonStart(a.tokens, b.tokens),
      ownCopy: dense !== sparse,
    };
  } finally {
    for (const lane of lanes) lane.close();
  }
}

/** One side. */
class Lane {
  readonly side: Side;
  readonly tokens: number[] = [];
  readonly #session;
  /** Prompt and tokens, which the repeat penalty looks at. */
  readonly #recent: number[];
  readonly #dial: () => number;
  readonly #stream: TextStream;
  readonly #stopIds: ReadonlySet<number>;
  readonly #sampler = new Sampler({ temperature: 0, repeatPenalty: REPEAT_PENALTY });
  #finishReason: SideResult["finishReason"] | null = null;
  #prefillMs = 0;
  /** What the last pass took; 0 before the first one. */
  stepMs = 0;

  constructor(side: Side, model: Model, prompt: readonly number[], dial: () => number) {
    const { tokenizer } = model.description;
    this.side = side;
    this.#recent = [...prompt];
    this.#session = model.session();
    this.#dial = dial;
    this.#stream = new TextStream(tokenizer, { previous: prompt.at(-1)! });
    this.#stopIds = new Set(tokenizer.stopIds);
  }

  get runs(): boolean {
    return this.#finishReason === null;
  }

  async prefill(prompt: readonly number[], most: number, signal?: AbortSignal): Promise<SideToken[]> {
    const began = performance.now();
    const logits = await unlessStopped(signal, () => this.#session.prefillAsync(prompt, { signal }));
    this.#prefillMs = performance.now() - began;
    return this.#take(logits, most);
  }

  async step(most: number, signal?: AbortSignal): Promise<SideToken[]> {
    this.#session.sparsity = this.#dial();
    const id = this.tokens.at(-1)!, began = performance.now();
    const logits = await unlessStopped(signal, () => this.#session.decodeAsync(id, { signal }));
    this.stepMs = performance.now() - began;
    return this.#take(logits, most);
  }

  /** The token that logits give, or none where it ends here. */
  #take(logits: Float32Array | null, most: number): SideToken[] {
    if (logits === null) return this.#end("cancelled");
    const id = this.#sampler.sample(logits, this.#recent);
    if (this.#stopIds.has(id)) return this.#end("stop");
    this.tokens.push(id);
    this.#recent.push(id);
    const token = this.#token(this.#stream.push(id).text);
    return this.tokens.length < most ? [token] : [token, ...this.#end("length")];
  }

  #end(reason: SideResult["finishReason"]): SideToken[] {
    this.#finishReason = reason;
    const text = this.#stream.end();
    return text === "" ? [] : [this.#token(text)];
  }

  #token(text: string): SideToken {
    return { side: this.side, text, count: this.tokens.length, ms: this.stepMs };
  }

  result(): SideResult {
    const { kept, dense } = this.#session.count;
    return {
      tokens: this.tokens.length,
      finishReason: this.#finishReason ?? "cancelled",
      prefillMs: this.#prefillMs,
      measuredSparsity: dense > 0 ? 1 - kept / dense : null,
    };
  }

  close(): void {
    this.#session.close();
  }
}
