/** What `rsparse eval` says at its end: the JSON document, and the table for people. */
import type { EvalPrefill, Paired, Part, RowResult, TaskResult } from "../eval/mod.ts";
import type { CalibrationSource } from "../recipe/recipe.ts";
import type { EngineInfo } from "../runtime/model.ts";
import type { RunDocument } from "./generation.ts";

/** What ran, which all rows have in common. */
export interface EvalSetting {
  readonly model: RunDocument["model"];
  readonly engine: EngineInfo;
  /** `stream`: what its thresholds were set on, where there are any and nobody gave them; figures of the two kinds do not compare. */
  readonly recipe: NonNullable<RunDocument["recipe"]> & Pick<CalibrationSource, "stream"> | null;
  readonly prefill: EvalPrefill;
}

/** The document of `eval --json`. */
export interface EvalDocument extends EvalSetting {
  readonly tasks: readonly TaskResult[];
  /** Over all tasks. */
  readonly measuredSparsity: number | null;
  /** Computing the rows took, in this run and in those that it went on from; of joined parts, in all of them. */
  readonly seconds: number;
  readonly seed: number;
}

/** The document of `eval --part`: figures of its own rows, and all that joining needs. */
export interface PartDocument extends EvalDocument {
  readonly part: Part;
  /** Everything that rows depend on: other parts must have the same. */
  readonly inputs: { readonly [name: string]: unknown };
  /** By task: how many rows all parts have together, and what those of this one came to. */
  readonly rows: {
    readonly [task: string]: { readonly total: number; readonly results: readonly RowResult[] };
  };
}

/** Makes the document. */
export function evalDocument(
  { model, engine, recipe, prefill }: EvalSetting,
  tasks: readonly TaskResult[],
  rows: readonly RowResult[],
  { seconds, seed }: Pick<EvalDocument, "seconds" | "seed">,
): EvalDocument {
  const kept = rows.reduce((sum, { work }) => sum + work.kept, 0),
    dense = rows.reduce((sum, { work }) => sum + work.dense, 0);
  const measuredSparsity = dense === 0 ? null : 1 - kept / dense;
  return { model, engine, recipe, prefill, tasks, measuredSparsity, seconds, seed };
}

/** The rows of its table, the header first. */
export function tableOf({ tasks }: EvalDocument): string[][] {
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

/** A task's figures in a line. */
export function describeTask({ name, n, complete, metrics, stderr }: TaskResult): string {
  const figures = Object.keys(metrics).map((metric) =>
    `${metric} ${number(metrics[metric]!)}${plusMinus(stderr[metric])}`
  );
  return `${name}: ${figures.join(", ")}, ${n} rows${complete ? "" : ", cut short"}`;
}

function number(value: number | null): string {
  return value === null ? "-" : value.toFixed(4);
}

function plusMinus(error: number | null | undefined): string {
  return error === null || error === undefined ? "" : ` ± ${error.toFixed(4)}`;
}
