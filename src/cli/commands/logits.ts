/** `rsparse logits`: what the model expects after each token of given sequences. */
import type { Command } from "commander";
import type { Model } from "../../runtime/model.ts";
import type { Prefill } from "../../runtime/session.ts";
import { nextTurn } from "../../runtime/turn.ts";
import { UsageError } from "../errors.ts";
import { describeRun, prefillOption, sparsityOption, withDial } from "../generation.ts";
import { addRunOptions, integer, type RunOptions } from "../model_option.ts";
import { type CliContext, isArrayOf, readJsonInput } from "../output.ts";
import { formatTable } from "../table.ts";

interface LogitsOptions extends RunOptions {
  readonly tokens?: string;
  readonly batch?: boolean;
  readonly top: number;
  readonly fullLast?: boolean;
  readonly prefill: Prefill;
  readonly sparsity?: number;
}

interface Position {
  readonly token: number;
  readonly top: readonly (readonly [id: number, logit: number])[];
  /** -ln p(next token of the input). */
  readonly nll?: number;
}

interface Sequence {
  readonly positions: readonly Position[];
  readonly last?: readonly number[];
}

/** Tokens between two looks at Ctrl-C: what the library runs in one pass. */
const CHUNK = 128;

const isId = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;
const isIds = (value: unknown): value is number[] => isArrayOf(value, isId);
const isIdArrays = (value: unknown): value is number[][] => isArrayOf(value, isIds);

/** Adds the command. */
export function register(program: Command, context: CliContext): void {
  const command = program.command("logits")
    .description(
      "the best next tokens after each token of the input, and what the input's own next token cost",
    );
  addRunOptions(command)
    .option("--tokens <ids>", "the sequence, with spaces or commas between the ids")
    .option("--batch", "read a JSON array of id arrays from stdin; each is a sequence of its own")
    .option("--top <k>", "how many of the best", integer(0), 8)
    .option("--full-last", "all logits after the last token too")
    .addOption(sparsityOption())
    .addOption(prefillOption())
    .action(async (options: LogitsOptions) => {
      const sequences = await readSequences(context, options);
      await withDial(context, options, (model) => {
        return run(context, model, sequences, options);
      });
    });
}

async function run(
  context: CliContext,
  model: Model,
  sequences: readonly (readonly number[])[],
  options: LogitsOptions,
): Promise<void> {
  checkSequences(sequences, model);
  const results: Sequence[] = [];
  for (const ids of sequences) {
    if (context.signal.aborted) break;
    const result = await runSequence(context, model, ids, options);
    if (result !== null) results.push(result);
  }
  if (context.options.json) await context.printJson(results);
  else await printTables(context, results);
  context.note(`${describeRun(model, options.sparsity)}: ${results.length} of ${sequences.length} sequences`);
}

async function readSequences(context: CliContext, options: LogitsOptions): Promise<number[][]> {
  if ((options.tokens === undefined) !== Boolean(options.batch)) {
    throw new UsageError("Cannot tell which tokens to run: give either --tokens 1,2,3 or --batch");
  }
  const sequences = options.tokens === undefined
    ? await readJsonInput(context, "an array of arrays of token ids", isIdArrays)
    : [readIds(options.tokens)];
  const empty = sequences.findIndex((ids) => ids.length === 0);
  if (empty >= 0) {
    const which = options.batch ? `sequence ${empty} of the batch` : "--tokens";
    throw new UsageError(`Cannot run no tokens: ${which} is empty: give at least one id`);
  }
  return sequences;
}

function readIds(text: string): number[] {
  return text.split(/[\s,[\]]+/).filter((word) => word !== "").map((word) => {
    const id = Number(word);
    if (!/^\d+$/.test(word) || !isId(id)) {
      throw new UsageError(`Cannot read ${JSON.stringify(word)} as a token id: integers wanted`);
    }
    return id;
  });
}

/** Before the first one runs: a batch of an hour must not end at its last sequence. */
function checkSequences(sequences: readonly (readonly number[])[], model: Model): void {
  const { vocabSize } = model.config;
  for (const ids of sequences) {
    const unknown = ids.find((id) => id >= vocabSize);
    if (unknown !== undefined) {
      throw new UsageError(`Cannot run token ${unknown}: ids of this model are below ${vocabSize}`);
    }
    model.checkContext(ids.length, 0);
  }
}

/** Null if Ctrl-C came before its end. */
async function runSequence(
  context: CliContext,
  model: Model,
  ids: readonly number[],
  options: LogitsOptions,
): Promise<Sequence | null> {
  const { logProbability, topLogits } = await import("../../runtime/sampler.ts");
  const { prefill, sparsity } = options;
  const positions: Position[] = [];
  let last: number[] | undefined;
  const each = (at: number, logits: Float32Array): void => {
    const token = ids[at]!, next = ids[at + 1], top = topLogits(logits, options.top);
    positions.push(next === undefined ? { token, top } : { token, top, nll: -logProbability(logits, next) });
    if (next === undefined && options.fullLast) last = finite(logits);
  };
  const session = model.session({ sparsity });
  try {
    // The official share is one of the whole prompt: it has to go in one call.
    const step = prefill === "official" ? ids.length : CHUNK;
    for (let first = 0; first < ids.length; first += step) {
      const chunk = ids.slice(first, first + step);
      session.prefillAll(chunk, (index, logits) => each(first + index, logits), { prefill });
      await nextTurn();
      if (context.signal.aborted) return null;
    }
  } finally {
    session.close();
  }
  return last === undefined ? { positions } : { positions, last };
}

function finite(logits: Float32Array): number[] {
  const bad = logits.findIndex((logit) => !Number.isFinite(logit));
  if (bad >= 0) {
    throw new Error(
      `Cannot print the logits: that of token ${bad} is ${logits[bad]}, which JSON has no word for`,
    );
  }
  return [...logits];
}

async function printTables(context: CliContext, sequences: readonly Sequence[]): Promise<void> {
  for (const [i, { positions, last }] of sequences.entries()) {
    if (i > 0) await context.print("");
    const rows = positions.map(({ token, top, nll }, at) => [
      String(at),
      String(token),
      nll === undefined ? "" : nll.toFixed(4),
      ...top.map(([id, logit]) => `${id}:${logit.toFixed(3)}`),
    ]);
    await context.print(formatTable([["position", "token", "nll", "best next tokens"], ...rows]));
    if (last !== undefined) await context.print(`last: ${last.join(" ")}`);
  }
}
