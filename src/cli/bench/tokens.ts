/** Whole tokens: decode and prefill of variants that take turns. */
import type { Model } from "../../runtime/model.ts";
import { nextTurn } from "../../runtime/turn.ts";
import { dtypeOf } from "../dtype.ts";
import { type Row, statOf, withSpeedups } from "./rows.ts";
import type { BenchHost, Variant } from "./variants.ts";

/** What to measure. */
export interface TokenOptions {
  readonly what: "decode" | "prefill";
  /** What rows say they are of. */
  readonly shape: string;
  /** Tokens to generate, or of the prompt. */
  readonly tokens: number;
  /** Runs of each variant that count, after one that does not. */
  readonly reps: number;
  /** Blocks that the shape has, where the models hold fewer: time is scaled to all of them. */
  readonly layers?: number;
}

/** Repeated until there are enough tokens: what the text says makes no difference to a dense run. */
const TEXT =
  "The old lighthouse keeper climbed the stairs every evening to light the lamp. Ships far out at sea " +
  "could see it and steer away from the rocks. One winter a storm broke the glass, and he stood beside the flame " +
  "all night and shielded it from the wind with his own coat. In the morning the fishermen brought him bread. ";
/** Tokens before those that are generated. */
export const DECODE_PROMPT = 16;

/** Rows of what was measured until the host's signal, if it came. */
export async function measureTokens(
  host: BenchHost,
  variants: readonly Variant[],
  options: TokenOptions,
): Promise<Row[]> {
  const { what, reps, tokens, shape } = options;
  const speeds = variants.map((): number[] => []), measured = variants.map((): number | null => null);
  const prompt = promptOf(variants[0]!.model, what === "decode" ? DECODE_PROMPT : tokens);
  for (let rep = -1; rep < reps && !host.signal.aborted; rep++) {
    // the order alternates, so that none always runs behind the same other
    const order = variants.map((_, i) => rep % 2 === 0 ? i : variants.length - 1 - i);
    for (const i of order) {
      const variant = variants[i]!;
      const run = what === "decode"
        ? await decodeRun(variant, prompt, tokens, host.signal)
        : prefillRun(variant, prompt);
      await nextTurn();
      if (host.signal.aborted) break;
      if (rep < 0) continue;
      speeds[i]!.push(scaled(variant.model, run.tokens, run.ms, options));
      measured[i] = run.measured;
      host.progress.update(what, rep + 1, reps, "runs");
    }
  }
  host.progress.end();
  const rows = variants.map(({ model, sparsity, name }, i): Row | null => {
    if (speeds[i]!.length === 0) return null;
    const held = model.config.numHiddenLayers, { layers = held } = options;
    return {
      name: what,
      shape,
      dtype: dtypeOf(model),
      sparsity,
      variant: name,
      ...sparsity > 0 && model.recipe?.sha256 !== undefined ? { recipe: model.recipe.sha256 } : {},
      tokensPerSecond: statOf(speeds[i]!),
      measuredSparsity: measured[i],
      ...layers > held ? { layersHeld: held, layers } : {},
    };
  });
  return withSpeedups(rows.filter((row) => row !== null));
}

function promptOf(model: Model, length: number): number[] {
  const piece = model.description.tokenizer.encode(TEXT);
  return Array.from({ length }, (_, i) => piece[i % piece.length]!);
}

interface Run {
  readonly tokens: number;
  readonly ms: number;
  readonly measured: number | null;
}

async function decodeRun(
  { model, sparsity }: Variant,
  prompt: readonly number[],
  tokens: number,
  signal: AbortSignal,
): Promise<Run> {
  for await (
    const { result } of model.generate(prompt, { maxTokens: tokens, ignoreEos: true, sparsity, signal })
  ) {
    if (!result) continue;
    // the first token comes with the prompt
    return { tokens: result.tokens.length - 1, ms: result.decodeMs, measured: result.measuredSparsity };
  }
  throw new Error("a generation ended without its result");
}

function prefillRun({ model, sparsity }: Variant, prompt: readonly number[]): Run {
  using session = model.session();
  const began = performance.now();
  session.prefill(prompt, { prefill: sparsity === 0 ? "dense" : "sparse" });
  const ms = performance.now() - began, { kept, dense } = session.count;
  return { tokens: prompt.length, ms, measured: dense > 0 ? 1 - kept / dense : null };
}

/** Tokens a second, as if the model had all blocks: what is not in blocks is the head. */
function scaled(model: Model, tokens: number, ms: number, { what, layers }: TokenOptions): number {
  const held = model.config.numHiddenLayers;
  if (layers === undefined || layers === held) return tokens / ms * 1000;
  const heads = headMs(model) * (what === "decode" ? tokens : 1);
  return tokens / (heads + (ms - heads) * layers / held) * 1000;
}

function headMs(model: Model): number {
  const { engine } = model, runs = 5;
  const began = performance.now();
  engine.alone(() => {
    for (let i = 0; i < runs; i++) engine.forward.logits(0);
  });
  return (performance.now() - began) / runs;
}
