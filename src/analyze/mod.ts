/**
 * What a model's weights, activations and masks look like, apart from the core: `import { analyzeModel } from "rsparse/analyze"`.
 *
 * @module
 */
export { analyzeModel, type AnalyzeOptions, type Omitted } from "./analyze.ts";
export { type FigureName, FIGURES } from "./names.ts";
export type { Figure } from "../plot/figure.ts";
export {
  mergeQuality,
  parseQuality,
  type QualityMeasures,
  type QualityPaired,
  type QualityRun,
  type QualityTask,
} from "./quality_results.ts";
