/**
 * Making recipes, apart from the core: `import { calibrateModel } from "rsparse/calibrate"`.
 *
 * @module
 */
export { calibrateModel, type CalibrateOptions, recipeFromThresholds } from "./calibrate.ts";
export { CALIBRATION_METHODS, type CalibrationMethod } from "./methods.ts";
export type { Checkpoint } from "./checkpoint.ts";
export { defaultCalibrationText } from "./default_text.ts";
export { type LayerBudget, type OfficialBudget, planBudget, planOfficialBudget } from "../recipe/budget.ts";
export { importOfficialRecipe, type OfficialProjection } from "../recipe/import.ts";
export {
  joinRecipe,
  type ModelTensors,
  parseRecipe,
  type ProjectionTensors,
  serialiseRecipe,
  type ShapedProjection,
  tableOf,
} from "../recipe/recipe.ts";
