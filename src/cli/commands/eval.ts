/** `rsparse eval`: how good a model is on texts and questions, dense, and beside it sparse. */
import { type Command, Option } from "commander";
import type { EvalPrefill, Paired, RowResult, TaskChoice, TaskInput, TaskResult } from "../../eval/mod.ts";
import type { Platform } from "../../platform/platform.ts";
import type { Model } from "../../runtime/model.ts";
import { VERSION } from "../../version.ts";
import { UsageError } from "../errors.ts";
import { EvalState } from "../eval_state.ts";
import { describeRun, modelDocument, recipeDocument, withModel } from "../generation.ts";
import { addRunOptions, integer, type RunOptions } from "../model_option.ts";
import type { CliContext } from "../output.ts";
import { checkOutput, writeFile } from "../output_file.ts";
import { formatTable } from "../table.ts";

interface EvalOptions extends RunOptions {
  readonly tasks: string;
  readonly data?: string;
  readonly limit?: number;
  readonly pieceLength?: number;
  readonly prefill: EvalPrefill;
  readonly out?: string;
}

/** The document of `eval --json`. */
interface EvalDocument {
  readonly model: ReturnType<typeof modelDocument>;
  readonly engine: Model["info"];
  readonly recipe: ReturnType<typeof recipeDocument>;
  readonly prefill: EvalPrefill;
  readonly tasks: readonly TaskResult[];
  /** Over all tasks. */
  readonly measuredSparsity: number | null;
  /** Computing the rows took, in this run and in those that it went on from. */
  readonly seconds: number;
  readonly seed: number;
}

/** Adds the command. */
export function register(program: Command, context: CliContext): void {
  const command = program.command("eval")
    .description("how good a model is on texts and questions, dense or beside its dense self with a recipe");
  addRunOptions(command)
    .requiredOption(
      "--tasks <list>",
      "with commas: wikitext2, c4, arc_easy, arc_challenge, openbookqa, piqa, winogrande, boolq, hellaswag, sciq, " +
        "lambada_openai, xsum; NAME:FILE reads that file, text:FILE any text",
    )
    .option("--data <folder>", "where the tasks' files are (default: RSPARSE_DATA)")
    .option("--limit <n>", "rows of each task, or pieces of a text (default: all; c4: 64)", integer(1))
    .option(
      "--piece-length <n>",
      "tokens of a text's pieces (default: 1024, or the model's context)",
      integer(2),
    )
    .addOption(
      new Option(
        "--prefill <how>",
        "what runs sparse with a recipe: dense: continuations only; sparse: all; official: the last tenth",
      ).choices(["dense", "sparse", "official"]).default("sparse"),
    )
    .option(
      "-o, --out <file>",
      "write the JSON document there too; finished rows are kept beside it until then, so that a run that was cut short goes on",
    )
    .action((options: EvalOptions) => run(context, options));
}

async function run(context: CliContext, options: EvalOptions): Promise<void> {
  const { out } = options, { platform, signal } = context;
  const inputs = await openTasks(platform, options);
  if (out !== undefined) await checkOutput(platform, out, "the results");
  await withModel(context, options, async (model) => {
    const { subjectOf } = await import("../../eval/mod.ts");
    const subject = subjectOf(model),
      seed = options.seed ?? 0,
      rows: RowResult[] = [],
      tasks: TaskResult[] = [];
    const state = out === undefined
      ? null
      : await EvalState.open(platform, `${out}.rows.jsonl`, await describeInputs(model, inputs, options));
    try {
      let ms = state?.ms ?? 0;
      for (const input of inputs) {
        if (signal.aborted) break;
        const finished = state?.finished(input.name) ?? [];
        if (finished.length > 0) context.note(`${input.name}: ${finished.length} rows are done already`);
        const evaluated = await evaluateOne(
          context,
          subject,
          input,
          finished,
          { ...options, seed },
          async (row, took) => {
            ms += took;
            await state?.add(input.name, row, took);
          },
        );
        rows.push(...evaluated.rows);
        tasks.push(evaluated.result);
      }
      const document = evalDocument(model, options.prefill, tasks, rows, ms / 1000, seed);
      if (context.options.json) await context.printJson(document);
      else await context.print(formatTable(tableOf(document)));
      if (out !== undefined && !signal.aborted) {
        await writeFile(platform, out, [new TextEncoder().encode(`${JSON.stringify(document, null, 2)}\n`)]);
        await state!.remove();
      }
    } finally {
      await state?.close();
    }
    context.note(`${describeRun(model)}${model.recipe === null ? "" : `, prefill ${options.prefill}`}`);
  });
}

/** @param onRow is handed the milliseconds since the last one */
async function evaluateOne(
  context: CliContext,
  subject: ReturnType<typeof import("../../eval/mod.ts").subjectOf>,
  input: TaskInput,
  finished: readonly RowResult[],
  options: EvalOptions & { readonly seed: number },
  onRow: (row: RowResult, ms: number) => Promise<void>,
): ReturnType<typeof import("../../eval/mod.ts").evaluateTask> {
  const { evaluateTask } = await import("../../eval/mod.ts");
  const { progress, signal } = context, { prefill, limit, pieceLength, seed } = options;
  let last = performance.now();
  try {
    const evaluated = await evaluateTask(subject, input, {
      prefill,
      limit,
      pieceLength,
      seed,
      signal,
      finished,
      onRow: async (row, done, total) => {
        const now = performance.now();
        progress.update(input.name, done, total, "rows");
        await onRow(row, now - last);
        last = now;
      },
    });
    const { n, complete, metrics, stderr } = evaluated.result;
    const figures = Object.keys(metrics).map((name) =>
      `${name} ${number(metrics[name]!)}${plusMinus(stderr[name])}`
    );
    context.note(`${input.name}: ${figures.join(", ")}, ${n} rows${complete ? "" : ", cut short"}`);
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
async function openTasks(platform: Platform, options: EvalOptions): Promise<TaskInput[]> {
  const { parseTasks } = await import("../../eval/tasks.ts");
  let choices: TaskChoice[];
  try {
    choices = parseTasks(options.tasks);
  } catch (error) {
    throw new UsageError(`Cannot evaluate: ${(error as Error).message}`, { cause: error });
  }
  const folder = options.data ?? platform.env("RSPARSE_DATA");
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
    recipe: model.recipe?.sha256 ?? null,
    prefill: options.prefill,
    limit: options.limit ?? null,
    pieceLength: options.pieceLength ?? null,
    files,
  };
}

function evalDocument(
  model: Model,
  prefill: EvalPrefill,
  tasks: readonly TaskResult[],
  rows: readonly RowResult[],
  seconds: number,
  seed: number,
): EvalDocument {
  const kept = rows.reduce((sum, { work }) => sum + work.kept, 0),
    dense = rows.reduce((sum, { work }) => sum + work.dense, 0);
  return {
    model: modelDocument(model),
    engine: model.info,
    recipe: recipeDocument(model),
    prefill,
    tasks,
    measuredSparsity: dense === 0 ? null : 1 - kept / dense,
    seconds,
    seed,
  };
}

function tableOf({ tasks }: EvalDocument): string[][] {
  const paired = tasks.some(({ paired }) => paired !== undefined);
  const header = [
    "task",
    "rows",
    "measure",
    "value",
    ...(paired ? ["dense", "difference", "p", "sparse tokens"] : []),
  ];
  const lines = tasks.flatMap(({ name, n, metrics, stderr, dense, paired, sparseTokens }) =>
    Object.keys(metrics).map((metric) => {
      const pair: Paired | undefined = paired?.[metric], before = dense?.metrics[metric];
      return [
        name,
        String(n),
        metric,
        `${number(metrics[metric]!)}${plusMinus(stderr[metric])}`,
        ...(dense === undefined ? [] : [
          before === undefined ? "" : number(before),
          pair === undefined ? "" : `${number(pair.difference)}${plusMinus(pair.stderr)}`,
          pair === undefined ? "" : pair.p.toPrecision(2),
          sparseTokens.toFixed(3),
        ]),
      ];
    })
  );
  return [header, ...lines];
}

function number(value: number | null): string {
  return value === null ? "-" : value.toFixed(4);
}

function plusMinus(error: number | null | undefined): string {
  return error === null || error === undefined ? "" : ` ± ${error.toFixed(4)}`;
}
