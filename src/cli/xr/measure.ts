/** `rsparse xr measure`: what levels of sparsity take on this machine, and what they are worth. */
import { dialLevels, perplexityFidelity } from "../../deadline/mod.ts";
import { encodeText } from "../../runtime/encode_text.ts";
import type { Model } from "../../runtime/model.ts";
import { nextTurn } from "../../runtime/turn.ts";
import { VERSION } from "../../version.ts";
import { DEFAULT_REPLY, type LevelsFile, measureTokens, parseLevels, type TokenTimes } from "../../xr/mod.ts";
import { spreadOf } from "../../xr/reply.ts";
import { UsageError } from "../errors.ts";
import { checkDial, modelDocument, recipeDocument, withModel } from "../generation.ts";
import type { RunOptions } from "../model_option.ts";
import type { CliContext } from "../output.ts";
import { checkOutput, writeFile } from "../output_file.ts";
import { formatTable } from "../table.ts";
import { baseName } from "../text_file.ts";
import { readJson } from "./sources.ts";

/** What was typed. */
export interface MeasureOptions extends RunOptions {
  readonly text?: string;
  readonly sparsities?: readonly number[];
  readonly replies: number;
  readonly pieces: number;
  readonly note?: string;
  readonly fidelity?: string;
  readonly out: string;
}

/** Tokens of the pieces that fidelity is measured on: a reply's. */
const { prompt: PROMPT, tokens: TOKENS } = DEFAULT_REPLY;

/** The document: a levels file, and all that says what it is of. */
interface MeasureDocument extends LevelsFile {
  readonly model: ReturnType<typeof modelDocument> & { readonly sha256: string };
  readonly recipe: ReturnType<typeof recipeDocument>;
  readonly text: {
    readonly name: string;
    readonly sha256: string;
    readonly pieces: number;
    readonly prompt: number;
    readonly tokens: number;
  };
  readonly machine: { readonly cpu: string | null; readonly processors: number };
  readonly runtime: {
    readonly name: string;
    readonly rsparse: string;
    readonly kernels: string;
    readonly threads: number;
  };
  readonly measured: string;
  readonly note: string | null;
}

/** What a level is worth. */
interface Quality {
  readonly fidelity: number;
  readonly perplexity: number;
  readonly pieces: number;
}

/** Measures, prints and writes. */
export async function measure(context: CliContext, options: MeasureOptions): Promise<void> {
  const { text, out, sparsities } = options, { platform, signal } = context;
  if (text === undefined) {
    throw new UsageError(
      "Cannot measure fidelity without a text: give --text FILE, one that the recipe was not made on",
    );
  }
  if (sparsities !== undefined && !sparsities.includes(0)) {
    throw new UsageError("Cannot measure fidelity without the dense model: --sparsities must have 0");
  }
  await checkOutput(platform, out, "the levels");
  await withModel(context, options, async (model) => {
    const levels = sparsities ?? dialLevels(model.recipe);
    for (const sparsity of levels) checkDial(options.recipe, sparsity, model);
    const blob = await platform.openBlob(text);
    const content = await (await import("../../eval/rows.ts")).readText(blob, text);
    const encode = (part: string): number[] => model.description.tokenizer.encode(part);
    const ids = (await encodeText(encode, content, { signal })).slice(0, options.replies * (PROMPT + TOKENS));
    if (ids.length < PROMPT + TOKENS) {
      throw new Error(
        `Cannot measure on ${text}: ${ids.length} tokens found, at least ${PROMPT + TOKENS} wanted`,
      );
    }
    const times = await timed(context, model, ids, levels);
    const known = options.fidelity === undefined
      ? null
      : await knownFidelities(context, options.fidelity, model, levels, await platform.sha256([blob]));
    const quality = known ?? await fidelities(context, model, { blob, file: text }, levels, options.pieces);
    if (signal.aborted || times === null || quality === null) return;
    const { cpu, processors } = { cpu: platform.cpu(), processors: platform.processors() };
    const document: MeasureDocument = {
      format: 1,
      model: { ...modelDocument(model), sha256: await model.hash() },
      recipe: recipeDocument(model),
      text: {
        name: baseName(text),
        sha256: await platform.sha256([blob]),
        pieces: quality[0]!.pieces,
        prompt: PROMPT,
        tokens: TOKENS,
      },
      machine: { cpu, processors },
      runtime: {
        name: platform.runtime,
        rsparse: VERSION,
        kernels: model.info.kernels,
        threads: model.info.threads,
      },
      measured: new Date().toISOString(),
      note: options.note ?? null,
      levels: levels.map((sparsity, i) => ({
        sparsity,
        fidelity: quality[i]!.fidelity,
        perplexity: quality[i]!.perplexity,
        latencyMs: spreadOf(times.tokenMs.map((row) => round(sum(row[i]!))))!,
      })),
      ...times,
    };
    await writeFile(platform, out, [new TextEncoder().encode(`${JSON.stringify(document)}\n`)]);
    if (context.options.json) await context.printJson(document);
    else await context.print(formatTable(tableOf(document)));
  }, "own");
}

function sum(values: readonly number[]): number {
  return values.reduce((a, b) => a + b, 0);
}

function round(ms: number): number {
  return Math.round(1000 * ms) / 1000;
}

function tableOf({ levels }: MeasureDocument): string[][] {
  return [
    ["sparsity", "p50 ms", "p95 ms", "fidelity"],
    ...levels.map(({ sparsity, fidelity, latencyMs: { p50, p95 } }) => [
      String(sparsity),
      p50.toFixed(2),
      p95.toFixed(2),
      fidelity.toFixed(4),
    ]),
  ];
}

/** What an earlier table has found: latencies change with the machine, this does not. @throws {Error} If it is of other weights, recipe, text or levels. */
async function knownFidelities(
  context: CliContext,
  path: string,
  model: Model,
  levels: readonly number[],
  textSha256: string,
): Promise<Quality[]> {
  const file = parseLevels(await readJson(context, path), path) as Partial<MeasureDocument> & LevelsFile;
  const differs = file.model?.sha256 !== await model.hash()
    ? "model"
    : file.recipe?.sha256 !== recipeDocument(model)?.sha256
    ? "recipe"
    : file.text?.sha256 !== textSha256
    ? "text"
    : file.model.dtype !== modelDocument(model).dtype
    ? "dtype"
    : file.levels.map(({ sparsity }) => sparsity).join() !== levels.join()
    ? "sparsities"
    : null;
  if (differs !== null) {
    throw new Error(`Cannot take fidelity from ${path}: its ${differs} is another: measure it anew`);
  }
  return file.levels.map((level) => ({
    fidelity: level.fidelity,
    perplexity: (level as { readonly perplexity?: number }).perplexity ?? NaN,
    pieces: file.text!.pieces,
  }));
}

/** Times tokens; null after Ctrl-C. */
async function timed(
  { progress, signal }: CliContext,
  model: Model,
  ids: readonly number[],
  levels: readonly number[],
): Promise<TokenTimes | null> {
  const total = Math.floor(ids.length / (PROMPT + TOKENS)) * (TOKENS - 1);
  // what engines compile while a function is new is not what tokens take
  const warm = ids.slice(0, PROMPT + TOKENS), shape = { prompt: PROMPT, tokens: TOKENS };
  const blocks = model.config.numHiddenLayers;
  for (const _ of measureTokens(model, { ids: warm, blocks }, shape, levels)) {
    if (signal.aborted) return null;
  }
  let found: TokenTimes | null = null;
  try {
    for (const times of measureTokens(model, { ids, blocks }, shape, levels)) {
      found = times;
      progress.update("latency", times.tokenMs.length, total, "tokens");
      await nextTurn();
      if (signal.aborted) return null;
    }
  } finally {
    progress.end();
  }
  return found;
}

/** A(s) = min(1, perplexity dense / perplexity at s), in pieces as replies are: the prompt dense, what follows sparse. Null after Ctrl-C. */
async function fidelities(
  { progress, signal }: CliContext,
  model: Model,
  { blob, file }: { readonly blob: Blob; readonly file: string },
  levels: readonly number[],
  pieces: number,
): Promise<Quality[] | null> {
  const { evaluateTask, parseTasks, subjectOf } = await import("../../eval/mod.ts");
  const [choice] = parseTasks(`text:${file}`);
  const found: Quality[] = [];
  let dense: Awaited<ReturnType<typeof evaluateTask>> | null = null;
  try {
    for (const [i, sparsity] of levels.entries()) {
      const evaluated = await evaluateTask(
        subjectOf(model, { sparsity }),
        { task: choice!.task, name: choice!.name, blob, file },
        {
          prefill: "dense",
          pieceLength: PROMPT + TOKENS,
          context: PROMPT,
          limit: pieces,
          signal,
          denseRows: dense?.rows,
          onRow: (_, done, total) => progress.update(`fidelity at ${sparsity}`, done, total, "pieces"),
        },
      );
      if (signal.aborted) return null;
      dense ??= evaluated;
      const perplexity = evaluated.result.metrics["perplexity"]!;
      found.push({
        fidelity: i === 0 ? 1 : perplexityFidelity(found[0]!.perplexity, perplexity),
        perplexity,
        pieces: evaluated.rows.length,
      });
    }
  } finally {
    progress.end();
  }
  return found;
}
