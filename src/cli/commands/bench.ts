/** `rsparse bench WHAT`: speed of loading, prefill and decode, dense and sparse, in one process. */
import { Argument, type Command, InvalidArgumentError } from "commander";
import type { EngineInfo, Model } from "../../runtime/model.ts";
import { nextTurn } from "../../runtime/turn.ts";
import { UsageError } from "../errors.ts";
import { checkDial, describeRun, dtypeOf, loadModel, withModel } from "../generation.ts";
import { addRunOptions, decimal, integer, type RunOptions } from "../model_option.ts";
import { type CliContext, formatTable } from "../output.ts";

interface BenchOptions extends RunOptions {
  readonly sparsity?: readonly number[];
  readonly reps: number;
  readonly tokens?: number;
}

type What = "decode" | "prefill" | "load";

interface Stat {
  readonly median: number;
  readonly min: number;
  readonly max: number;
  readonly n: number;
}

interface Row {
  readonly name: What;
  readonly shape: string;
  readonly dtype: string;
  readonly sparsity: number;
  readonly variant: string;
  readonly tokensPerSecond?: Stat;
  readonly ms?: Stat;
  /** Of the median, over that of the dense row. */
  readonly speedup?: number;
  readonly measuredSparsity?: number | null;
}

/** Repeated until there are enough tokens: what the text says makes no difference to a dense run. */
const TEXT =
  "The old lighthouse keeper climbed the stairs every evening to light the lamp. Ships far out at sea " +
  "could see it and steer away from the rocks. One winter a storm broke the glass, and he stood beside the flame " +
  "all night and shielded it from the wind with his own coat. In the morning the fishermen brought him bread. ";
const DECODE_PROMPT = 16;
const DEFAULT_TOKENS = { decode: 64, prefill: 128 } as const;

/** Adds the command. */
export function register(program: Command, context: CliContext): void {
  const command = program.command("bench")
    .description(
      "measure speed: medians of runs that take turns in one process, after one that does not count",
    )
    .addArgument(new Argument("<what>", "what to measure").choices(["decode", "prefill", "load"]));
  addRunOptions(command)
    .option("--sparsity <list>", "such as 0,0.5: 0 is dense, the other one is --recipe's", sparsities)
    .option("--reps <n>", "runs of each variant that count", integer(1, 1000), 5)
    .option("-n, --tokens <n>", "tokens to generate (64), or of the prompt (128)", integer(2))
    .action(async (what: What, options: BenchOptions) => {
      const { engine, rows }: Measured = what === "load"
        ? await benchLoad(context, options)
        : await withModel(context, options, (model) => benchTokens(context, model, what, options));
      if (context.options.json) await context.printJson({ engine, rows });
      else if (rows.length > 0) await context.print(table(rows));
    });
}

function sparsities(text: string): number[] {
  const read = decimal(0, 1, { below: true });
  const list = text.split(",").map((part) => read(part));
  if (new Set(list).size !== list.length) throw new InvalidArgumentError("different numbers wanted.");
  return list;
}

interface Measured {
  readonly engine: EngineInfo;
  readonly rows: readonly Row[];
}

interface Variant {
  readonly sparsity: number;
  readonly name: string;
  readonly speeds: number[];
  measured: number | null;
}

/** Rows of what was measured until Ctrl-C, if it came. */
async function benchTokens(
  context: CliContext,
  model: Model,
  what: "decode" | "prefill",
  options: BenchOptions,
): Promise<Measured> {
  const variants = chooseVariants(model, options), tokens = options.tokens ?? DEFAULT_TOKENS[what];
  const prompt = promptOf(model, what === "decode" ? DECODE_PROMPT : tokens);
  model.checkContext(prompt.length, what === "decode" ? tokens : 0);
  context.note(`${describeRun(model)}: ${what}, ${tokens} tokens, ${options.reps} runs each`);
  for (let rep = -1; rep < options.reps && !context.signal.aborted; rep++) {
    for (const variant of variants) {
      const { speed, measured } = what === "decode"
        ? await decodeSpeed(model, prompt, tokens, variant, context.signal)
        : prefillSpeed(model, prompt, variant);
      await nextTurn();
      if (context.signal.aborted) break;
      if (rep < 0) continue;
      variant.speeds.push(speed);
      variant.measured = measured;
      context.progress.update(what, rep + 1, options.reps, "runs");
    }
  }
  context.progress.end();
  const dense = variants.find(({ sparsity, speeds }) => sparsity === 0 && speeds.length > 0);
  const rows = variants.filter(({ speeds }) => speeds.length > 0).map((variant): Row => {
    const tokensPerSecond = statOf(variant.speeds);
    const row = {
      name: what,
      shape: model.description.name,
      dtype: dtypeOf(model),
      sparsity: variant.sparsity,
      variant: variant.name,
      tokensPerSecond,
      measuredSparsity: variant.measured,
    };
    return dense === undefined || variant === dense
      ? row
      : { ...row, speedup: tokensPerSecond.median / statOf(dense.speeds).median };
  });
  return { engine: model.info, rows };
}

function chooseVariants(model: Model, options: BenchOptions): Variant[] {
  const recipe = model.recipe?.recipe;
  const wanted = options.sparsity ?? (recipe === undefined ? [0] : [0, recipe.sparsity]);
  return wanted.map((sparsity) => {
    checkDial(options.recipe, sparsity, model);
    return { sparsity, name: sparsity === 0 ? "dense" : recipe!.method, speeds: [], measured: null };
  });
}

function promptOf(model: Model, length: number): number[] {
  const piece = model.description.tokenizer.encode(TEXT);
  return Array.from({ length }, (_, i) => piece[i % piece.length]!);
}

async function decodeSpeed(
  model: Model,
  prompt: readonly number[],
  tokens: number,
  { sparsity }: Variant,
  signal: AbortSignal,
): Promise<{ speed: number; measured: number | null }> {
  for await (
    const { result } of model.generate(prompt, { maxTokens: tokens, ignoreEos: true, sparsity, signal })
  ) {
    if (result) return { speed: result.decodeTokensPerSecond ?? 0, measured: result.measuredSparsity };
  }
  throw new Error("a generation ended without its result");
}

function prefillSpeed(
  model: Model,
  prompt: readonly number[],
  { sparsity }: Variant,
): { speed: number; measured: number | null } {
  const session = model.session();
  try {
    const began = performance.now();
    session.prefill(prompt, { prefill: sparsity === 0 ? "dense" : "sparse" });
    const ms = performance.now() - began, { kept, dense } = session.count;
    return { speed: prompt.length / ms * 1000, measured: dense > 0 ? 1 - kept / dense : null };
  } finally {
    session.close();
  }
}

/** Reading and packing the weights of files that are there; the first time warms the system's file cache. */
async function benchLoad(
  context: CliContext,
  options: BenchOptions,
): Promise<Measured> {
  if (options.sparsity?.some((sparsity) => sparsity !== 0)) {
    throw new UsageError("Cannot take --sparsity with `bench load`: give --recipe FILE to load a recipe too");
  }
  const times: number[] = [];
  let first: { engine: EngineInfo; shape: string; dtype: string; sparsity: number; variant: string } | null =
    null;
  for (let rep = -1; rep < options.reps; rep++) {
    const began = performance.now();
    const model = await loadModel(context, options);
    const ms = performance.now() - began, recipe = model.recipe?.recipe;
    first ??= {
      engine: model.info,
      shape: model.description.name,
      dtype: dtypeOf(model),
      sparsity: recipe?.sparsity ?? 0,
      variant: recipe?.method ?? "dense",
    };
    if (rep < 0) context.note(`${describeRun(model)}: load, ${options.reps} runs`);
    else times.push(ms);
    await model.close();
  }
  const { engine, ...rest } = first!;
  return { engine, rows: [{ name: "load", ...rest, ms: statOf(times) }] };
}

function statOf(values: readonly number[]): Stat {
  const sorted = [...values].sort((a, b) => a - b), n = sorted.length, half = n >> 1;
  const median = n % 2 === 1 ? sorted[half]! : (sorted[half - 1]! + sorted[half]!) / 2;
  return { median, min: sorted[0]!, max: sorted[n - 1]!, n };
}

function table(rows: readonly Row[]): string {
  const header = [
    "what",
    "model",
    "dtype",
    "variant",
    "sparsity",
    "measured",
    "median",
    "min",
    "max",
    "n",
    "unit",
    "speedup",
  ];
  return formatTable([
    header,
    ...rows.map((row) => {
      const stat = row.tokensPerSecond ?? row.ms!;
      return [
        row.name,
        row.shape,
        row.dtype,
        row.variant,
        String(row.sparsity),
        row.measuredSparsity?.toFixed(3) ?? "",
        ...[stat.median, stat.min, stat.max].map((value) => value.toFixed(1)),
        String(stat.n),
        row.tokensPerSecond ? "tok/s" : "ms",
        row.speedup === undefined ? "" : `${row.speedup.toFixed(2)}x`,
      ];
    }),
  ]);
}
