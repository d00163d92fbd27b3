/** Rows of an evaluation as jobs: any worker has the model, the recipe and the tasks' files, and gives what a row comes to wherever it runs. */
import { NotFiniteError } from "../errors.ts";
import {
  type EvalPrefill,
  type OpenTask,
  openTask,
  type RowResult,
  type Subject,
  subjectOf,
  TASKS,
} from "../eval/mod.ts";
import { type LoadOptions, Model, type ModelSource } from "../runtime/model.ts";
import { UNTUNED } from "../runtime/tuner.ts";
import { fromBase64, toBase64 } from "../format/base64.ts";

/** A task and its file. */
export interface SentTask {
  /** Of {@linkcode TASKS}. */
  readonly name: string;
  /** What the file is called in errors. */
  readonly file: string;
  /** What is in it. */
  readonly bytes: Uint8Array<ArrayBuffer>;
}

/** Everything that a worker has to know of an evaluation before its first job; plain data. */
export interface EvaluationSetup {
  /** What `-m` would say. */
  readonly model: string;
  /** SHA-256 of the weights' files. */
  readonly modelHash: string;
  /** The build that all workers compute with, so that all get the same bits. */
  readonly kernels: "baseline" | "relaxed" | "reference";
  /** How projections are kept. */
  readonly dtype: NonNullable<LoadOptions["dtype"]>;
  /** How keys and values are kept. */
  readonly kv: NonNullable<LoadOptions["kv"]>;
  /** The recipe's file; null: a pack's own where there is a sparsity, else dense. */
  readonly recipe: Uint8Array<ArrayBuffer> | null;
  /** Where the dial stands; undefined: at the recipe's own. */
  readonly sparsity?: number;
  /** Which positions run sparse. */
  readonly prefill: EvalPrefill;
  /** Rows or pieces at most of each task. */
  readonly limit?: number;
  /** Tokens of a piece. */
  readonly pieceLength?: number;
  /** Tokens that each piece begins with which are not scored. */
  readonly context?: number;
  /** The tasks that jobs are of. */
  readonly tasks: readonly SentTask[];
}

/** Some rows of a task. */
export interface RowsJob {
  /** Apart from jobs of a search. */
  readonly kind: "rows";
  /** Its place among the setup's. */
  readonly task: number;
  /** The first row. */
  readonly from: number;
  /** After the last. */
  readonly to: number;
  /** The same rows without a recipe, where they are not to run dense. */
  readonly denseRows?: readonly RowResult[];
}

/** What a row came to, or why it can't be run. */
export type RowAnswer = RowResult | { readonly failed: string };

/** Does the jobs of an evaluation on a model of its own. */
export class RowsEvaluator {
  readonly model: Model;
  readonly #setup: EvaluationSetup;
  readonly #subject: Subject;
  /** The task whose rows ran last. */
  #open: { readonly task: number; readonly rows: OpenTask } | null = null;

  private constructor(model: Model, setup: EvaluationSetup) {
    this.model = model;
    this.#setup = setup;
    this.#subject = subjectOf(model, setup);
  }

  /**
   * Loads the model.
   *
   * @param source instead of what the setup names
   * @throws {Error} If it is not the model of the setup; `RecipeError` likewise where there is a recipe.
   */
  static async open(setup: EvaluationSetup, source: ModelSource = setup.model): Promise<RowsEvaluator> {
    const { kernels, dtype, kv, modelHash, sparsity = 0 } = setup;
    // as where it was begun: a pack's own recipe at a sparsity alone, and no timing in how matrices lie
    const recipe = setup.recipe !== null ? new Blob([setup.recipe]) : sparsity === 0 ? null : undefined;
    const model = await Model.load(source, { kernels, dtype, kv, recipe, tuning: UNTUNED, threads: 1 });
    const hash = await model.hash();
    if (hash === modelHash) return new RowsEvaluator(model, setup);
    await model.close();
    throw new Error(
      `Cannot evaluate ${
        String(source)
      }: its SHA-256 is ${hash}, the evaluation is of ${modelHash}: give the same model with -m`,
    );
  }

  async close(): Promise<void> {
    this.#open?.rows.close();
    this.#open = null;
    await this.model.close();
  }

  /** What the rows come to; what would fail anywhere is an answer too, as another worker would not help. */
  async run(job: RowsJob): Promise<RowAnswer[]> {
    try {
      return await this.#run(job);
    } catch (error) {
      if (!(error instanceof NotFiniteError || (error as Error).cause instanceof RangeError)) throw error;
      return [{ failed: (error as Error).message }];
    }
  }

  async #run({ task, from, to, denseRows }: RowsJob): Promise<RowResult[]> {
    if (this.#open?.task !== task) {
      this.#open?.rows.close();
      this.#open = null;
      const { name, file, bytes } = this.#setup.tasks[task]!;
      const input = { task: TASKS.find((one) => one.name === name)!, name, file, blob: new Blob([bytes]) };
      this.#open = { task, rows: await openTask(this.#subject, input, this.#setup) };
    }
    const results: RowResult[] = [];
    for (let row = from; row < to; row++) {
      results.push(await this.#open.rows.run(row, denseRows?.[row - from]));
    }
    return results;
  }
}

/** An evaluation as text. */
export function packEvaluation(setup: EvaluationSetup): string {
  return JSON.stringify({
    ...setup,
    recipe: setup.recipe === null ? null : toBase64(setup.recipe),
    tasks: setup.tasks.map((task) => ({ ...task, bytes: toBase64(task.bytes) })),
  });
}

/** What {@linkcode packEvaluation} made, once it is parsed. */
export function unpackEvaluation(packed: object): EvaluationSetup {
  const { recipe, tasks, ...rest } = packed as Omit<EvaluationSetup, "recipe" | "tasks"> & {
    readonly recipe: string | null;
    readonly tasks: readonly { readonly name: string; readonly file: string; readonly bytes: string }[];
  };
  return {
    ...rest,
    recipe: recipe === null ? null : fromBase64(recipe),
    tasks: tasks.map((task) => ({ ...task, bytes: fromBase64(task.bytes) })),
  };
}
