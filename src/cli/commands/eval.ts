/** `rsparse eval`: how good a model is on texts and questions, dense, and beside it sparse. */
import { type Command, InvalidArgumentError, Option } from "commander";
import type {
  EvalPrefill,
  EvaluateOptions,
  Part,
  RowResult,
  TaskChoice,
  TaskInput,
  TaskResult,
} from "../../eval/mod.ts";
import type { Platform } from "../../platform/platform.ts";
import type { Model } from "../../runtime/model.ts";
import { VERSION } from "../../version.ts";
import { UsageError } from "../errors.ts";
import {
  describeTask,
  type EvalDocument,
  evalDocument,
  type PartDocument,
  tableOf,
} from "../eval_document.ts";
import { EvalState } from "../eval_state.ts";
import { waitNote } from "../journal.ts";
import { describeRun, modelDocument, recipeDocument, sparsityOption, withDial } from "../generation.ts";
import { addRunOptions, integer, type RunOptions } from "../model_option.ts";
import type { CliContext } from "../output.ts";
import { checkOutput, writeFile } from "../output_file.ts";
import { formatTable } from "../table.ts";

interface EvalOptions extends RunOptions {
  readonly tasks?: string;
  readonly data?: string;
  readonly sparsity?: number;
  readonly limit?: number;
  readonly part?: Part;
  readonly join?: readonly string[];
  readonly dense?: string;
  readonly pieceLength?: number;
  readonly context?: number;
  readonly prefill: EvalPrefill;
  readonly queue?: string;
  readonly out?: string;
}

/** Adds the command. */
export function register(program: Command, context: CliContext): void {
  const command = program.command("eval")
    .description("how good a model is on texts and questions, dense or beside its dense self with a recipe");
  addRunOptions(command)
    .option(
      "--tasks <list>",
      "with commas: wikitext2, c4, arc_easy, arc_challenge, openbookqa, piqa, winogrande, boolq, hellaswag, sciq, " +
        "lambada_openai, xsum; NAME:FILE reads that file, text:FILE any text",
    )
    .option("--data <folder>", "where the tasks' files are (default: RSPARSE_DATA)")
    .addOption(sparsityOption())
    .option("--limit <n>", "rows of each task, or pieces of a text (default: all; c4: 64)", integer(1))
    .option(
      "--piece-length <n>",
      "tokens of a text's pieces (default: 1024, or the model's context)",
      integer(2),
    )
    .option(
      "--context <n>",
      "tokens that each piece of a text begins with which are not scored; --prefill dense runs them dense (default: 0)",
      integer(0),
    )
    .addOption(
      new Option(
        "--prefill <how>",
        "what runs sparse with a recipe: dense: continuations only; sparse: all; official: the last tenth",
      ).choices(["dense", "sparse", "official"]).default("sparse"),
    )
    .option(
      "--part <i/n>",
      "one of n parts of each task's rows, such as 3/16: n processes or machines share the work, and --join adds up",
      part,
    )
    .option(
      "--dense <file>",
      "what the same part came to without a recipe: it does not run dense again; texts then without kl and agreement",
    )
    .option(
      "--queue <url>",
      "rows are run by workers anywhere: those of `rsparse worker --queue` with the same redis://host:port",
    )
    .option("--join <files...>", "no model runs: makes one result of those of all parts")
    .option(
      "-o, --out <file>",
      "write the JSON document there too; finished rows are kept beside it until then, so that a run that was cut short goes on",
    )
    .action((options: EvalOptions, command: Command) =>
      options.join === undefined
        ? run(context, checked(options, command))
        : join(context, options, options.join, command.getOptionValueSource.bind(command))
    );
}

function part(text: string): Part {
  const [, number, of] = (text.match(/^(\d+)\/(\d+)$/) ?? []).map(Number);
  if (number === undefined || of === undefined || number < 1 || number > of || !Number.isSafeInteger(of)) {
    throw new InvalidArgumentError("such as 3/16 wanted: the third of sixteen.");
  }
  return { number, of };
}

/** @throws {UsageError} If options don't go together. */
function checked(options: EvalOptions, command: Command): EvalOptions {
  if (options.queue === undefined) return options;
  if (command.getOptionValueSource("threads") === "cli") {
    throw new UsageError("Cannot take both --threads and --queue: `rsparse worker` has threads of its own");
  }
  return { ...options, threads: 1 };
}

/** Options that `--join` has a use for. */
const JOIN_OPTIONS: readonly string[] = ["join", "out", "seed"];

async function join(
  context: CliContext,
  options: EvalOptions,
  paths: readonly string[],
  sourceOf: (option: string) => string | undefined,
): Promise<void> {
  const { out } = options, { platform } = context;
  const other = Object.keys(options).find((name) => sourceOf(name) === "cli" && !JOIN_OPTIONS.includes(name));
  if (other !== undefined) {
    const name = other.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
    throw new UsageError(`Cannot take both --join and --${name}: the parts say it all`);
  }
  if (out !== undefined) await checkOutput(platform, out, "the results");
  const { joinParts } = await import("../eval_join.ts");
  const document = await joinParts(platform, paths, options.seed);
  for (const task of document.tasks) context.note(describeTask(task));
  await finish(context, document, out);
}

/** Prints the results, and writes them where they are to go. */
async function finish(context: CliContext, document: EvalDocument, out: string | undefined): Promise<void> {
  if (context.options.json) await context.printJson(document);
  else await context.print(formatTable(tableOf(document)));
  if (out === undefined || context.signal.aborted) return;
  const text = `${JSON.stringify(document, null, 2)}\n`;
  await writeFile(context.platform, out, [new TextEncoder().encode(text)]);
}

async function run(context: CliContext, options: EvalOptions): Promise<void> {
  const { out, part } = options, { platform, signal } = context;
  if (options.tasks === undefined) {
    throw new UsageError(
      "Cannot evaluate without tasks: give --tasks LIST, or --join FILES of parts that ran",
    );
  }
  if (part !== undefined && out === undefined && !context.options.json) {
    throw new UsageError(`Cannot keep part ${part.number}/${part.of} for --join: give -o FILE`);
  }
  if (options.dense !== undefined && options.recipe === undefined) {
    throw new UsageError("Cannot compare with --dense without a recipe: give --recipe FILE");
  }
  const inputs = await openTasks(platform, options.tasks, options.data);
  if (out !== undefined) await checkOutput(platform, out, "the results");
  // told before the model is loaded where there is none
  if (options.queue !== undefined) await (await import("../../search/queue.ts")).checkQueue(options.queue);
  // picked by timing, matrices might lie in another way in another part, on another machine or where a run goes on, and round otherwise
  const { UNTUNED: tuning } = await import("../../runtime/tuner.ts");
  await withDial(context, { ...options, tuning }, async (model) => {
    const { subjectOf } = await import("../../eval/mod.ts");
    const subject = subjectOf(model, options),
      seed = options.seed ?? 0,
      rows: { [task: string]: { total: number; results: readonly RowResult[] } } = {},
      tasks: TaskResult[] = [];
    const described = await describeInputs(model, inputs, options);
    const before = options.dense === undefined
      ? null
      : await (await import("../eval_dense.ts")).denseRows(platform, options.dense, described, part);
    const state = out === undefined ? null : await EvalState.open(platform, `${out}.rows.jsonl`, {
      ...described,
      part: part ?? null,
      ...(before === null ? {} : { denseRows: before.sha256 }),
    }, {
      signal,
      onWait: (path) => context.note(waitNote(path)),
    });
    const workers = options.queue === undefined
      ? null
      : await (await import("../eval_queue.ts")).openWorkers(options.queue, model, inputs, options, signal);
    try {
      let ms = state?.ms ?? 0;
      for (const [i, input] of inputs.entries()) {
        if (signal.aborted) break;
        const finished = state?.finished(input.name) ?? [];
        if (finished.length > 0) context.note(`${input.name}: ${finished.length} rows are done already`);
        const evaluated = await evaluateOne(
          context,
          subject,
          input,
          finished,
          { ...options, seed, denseRows: before?.rows[input.name], runRows: workers?.run(i) },
          async (row, took) => {
            ms += took;
            await state?.add(input.name, row, took);
          },
        );
        rows[input.name] = { total: evaluated.total ?? 0, results: evaluated.rows };
        tasks.push(evaluated.result);
      }
      const setting = {
        model: modelDocument(model),
        engine: model.info,
        recipe: recipeOf(model, options),
        prefill: options.prefill,
      };
      const all = Object.values(rows).flatMap(({ results }) => results);
      const document = evalDocument(setting, tasks, all, { seconds: ms / 1000, seed });
      const partDocument = (part: Part): PartDocument => ({ ...document, part, inputs: described, rows });
      await finish(context, part === undefined ? document : partDocument(part), out);
      if (!signal.aborted) await state?.remove();
    } finally {
      await workers?.close();
      await state?.close();
    }
    context.note(
      `${describeRun(model, options.sparsity)}${model.recipe === null ? "" : `, prefill ${options.prefill}`}`,
    );
  });
}

function recipeOf(model: Model, options: EvalOptions): EvalDocument["recipe"] {
  const document = recipeDocument(model, options), stream = model.recipe?.recipe.calibration.stream;
  return document === null || stream === undefined ? document : { ...document, stream };
}

/** @param onRow is handed the milliseconds since the last one */
async function evaluateOne(
  context: CliContext,
  subject: ReturnType<typeof import("../../eval/mod.ts").subjectOf>,
  input: TaskInput,
  finished: readonly RowResult[],
  options: EvalOptions & Pick<EvaluateOptions, "denseRows" | "runRows"> & { readonly seed: number },
  onRow: (row: RowResult, ms: number) => Promise<void>,
): ReturnType<typeof import("../../eval/mod.ts").evaluateTask> {
  const { evaluateTask } = await import("../../eval/mod.ts");
  const { progress, signal } = context,
    { prefill, limit, pieceLength, context: unscored, part, seed, denseRows, runRows } = options;
  let last = performance.now();
  try {
    const evaluated = await evaluateTask(subject, input, {
      prefill,
      limit,
      pieceLength,
      context: unscored,
      part,
      seed,
      signal,
      finished,
      denseRows,
      runRows,
      onRow: async (row, done, total) => {
        const now = performance.now();
        progress.update(input.name, done, total, "rows");
        await onRow(row, now - last);
        last = now;
      },
    });
    context.note(describeTask(evaluated.result));
    return evaluated;
  } catch (error) {
    if (error instanceof RangeError && error.name === "RangeError" && !error.message.startsWith("Cannot ")) {
      throw new Error(`Cannot evaluate ${input.name}: ${error.message}`, { cause: error });
    }
    throw error;
  } finally {
    progress.end();
  }
}

/** The tasks that the options name, with their files: all are found before the model is loaded. */
async function openTasks(platform: Platform, list: string, data: string | undefined): Promise<TaskInput[]> {
  const { parseTasks } = await import("../../eval/tasks.ts");
  let choices: TaskChoice[];
  try {
    choices = parseTasks(list);
  } catch (error) {
    throw new UsageError(`Cannot evaluate: ${(error as Error).message}`, { cause: error });
  }
  const folder = data ?? platform.env("RSPARSE_DATA");
  const inputs: TaskInput[] = [];
  for (const { task, name, file } of choices) {
    const path = file ?? await findFile(platform, task, folder);
    const found = await platform.stat(path);
    if (found?.kind !== "file") {
      throw new Error(
        `Cannot read ${path}: ${found ? "it is a folder" : "there is no such file"}: check --tasks`,
      );
    }
    inputs.push({ task, name, blob: await platform.openBlob(path), file: path });
  }
  return inputs;
}

async function findFile(
  platform: Platform,
  task: TaskChoice["task"],
  folder: string | undefined,
): Promise<string> {
  if (folder === undefined) {
    throw new UsageError(
      `Cannot find the rows of ${task.name}: give their folder with --data DIR or RSPARSE_DATA, or the file: ${task.name}:FILE`,
    );
  }
  const { findTaskFile } = await import("../../eval/tasks.ts");
  for (const place of [folder, `${folder.replace(/[/\\]$/, "")}/eval`]) {
    const found = await platform.stat(place);
    if (found?.kind !== "folder") {
      if (place !== folder) continue;
      throw new Error(
        `Cannot read ${folder}: ${found ? "it is a file" : "there is no such folder"}: check --data`,
      );
    }
    try {
      const name = findTaskFile(task, await platform.list(place));
      if (name !== null) return `${place.replace(/[/\\]$/, "")}/${name}`;
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      throw new Error(`Cannot read ${place}: ${error.message}`, { cause: error });
    }
  }
  const wanted = task.kind === "text" ? ".txt" : ".jsonl";
  throw new Error(
    `Cannot read the rows of ${task.name}: there is no ${task.name}${wanted} in ${folder} or its folder eval, with .gz or without: check --data, or name the file: ${task.name}:FILE`,
  );
}

/** Everything that a row's result depends on. */
async function describeInputs(
  model: Model,
  inputs: readonly TaskInput[],
  options: EvalOptions,
): Promise<Record<string, unknown>> {
  const files: Record<string, string> = {};
  for (const { name, blob } of inputs) files[name] = await model.platform.sha256([blob]);
  return {
    rsparse: VERSION,
    model: await model.hash(),
    dtype: modelDocument(model).dtype,
    kv: options.kv,
    kernels: model.info.kernels,
    // either rounds int8 and int4
    storage: model.info.storage,
    layouts: model.info.layouts,
    recipe: model.recipe?.sha256 ?? null,
    sparsity: options.sparsity ?? model.recipe?.recipe.sparsity ?? null,
    prefill: options.prefill,
    limit: options.limit ?? null,
    pieceLength: options.pieceLength ?? null,
    context: options.context ?? 0,
    ...(options.dense === undefined ? {} : { dense: "from a file" }),
    files,
  };
}
