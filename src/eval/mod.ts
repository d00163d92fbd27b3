/**
 * How good a model is, dense and sparse, apart from the core: `import { evaluateTask } from "rsparse/eval"`.
 *
 * @module
 */
export {
  type EvaluateOptions,
  evaluateTask,
  type Evaluation,
  type OpenTask,
  openTask,
  type RowRange,
  type TaskInput,
} from "./evaluate.ts";
export {
  type FigureOptions,
  figuresOf,
  type Measures,
  type Paired,
  type RowResult,
  type TaskResult,
} from "./figures.ts";
export { type Part, rangeOfPart } from "./parts.ts";
export type { ClozeResult } from "./lambada.ts";
export {
  type EvalPrefill,
  type EvalSession,
  type Score,
  type Subject,
  subjectOf,
  type Work,
} from "./likelihood.ts";
export type { ChoiceResult } from "./multiple_choice.ts";
export type { PieceResult } from "./perplexity.ts";
export type { Rouge, SummaryResult } from "./summary.ts";
export { findTaskFile, parseTasks, type Task, type TaskChoice, type TaskKind, TASKS } from "./tasks.ts";
