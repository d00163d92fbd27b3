/**
 * Pictures of XRBench runs, apart from the rest because what draws them is large: `import { timelineFigure } from "rsparse/xr/plots"`.
 *
 * @module
 */
export { dialFigure } from "./plots/dial.ts";
export { figure5 } from "./plots/figure5.ts";
export { type NamedResult, scoresFigure } from "./plots/scores.ts";
export { timelineFigure } from "./plots/timeline.ts";
export type { Figure } from "../plot/figure.ts";
