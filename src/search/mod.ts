/**
 * Searching recipes, apart from the core: `import { searchRecipe } from "rsparse/search"`.
 *
 * @module
 */
export type { Step, StepSettings } from "./evolution.ts";
export type { EvolveSettings, Generation } from "./evolve.ts";
export type { EvaluationSetup, RowsJob, SentTask } from "./evaluation.ts";
export type { Executor, ExecutorFactory, Job, Setup, WorkJob, WorkSetup } from "./jobs.ts";
export { inThisThread, inThreads } from "./pool.ts";
export { sharesFromOfficial } from "./recipe.ts";
export {
  type Algorithm,
  ALGORITHMS,
  DEFAULTS,
  type Finished,
  type Progress,
  type SearchOptions,
  searchRecipe,
  type SearchResult,
  type SearchSettings,
  type SearchSize,
  SIZES,
} from "./search.ts";
export { type Shares, uniformShares } from "./shares.ts";
export type { Tables } from "./tables.ts";
