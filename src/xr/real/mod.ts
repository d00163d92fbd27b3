/**
 * XRBench by real execution: threads as accelerators, a schedule that is kept, jobs that run. Apart from `rsparse/xr`, which simulates: `import { runReal } from
 * "rsparse/xr/real"`.
 *
 * @module
 */
export { type Binding, bindingText, parseBinding, SHAPE_DTYPES, type ShapeDtype } from "./bindings.ts";
export type { RealDial } from "./loader.ts";
export { findRate, type Probe, type RateSearch, TARGET } from "./rate.ts";
export {
  RealMachine,
  type RealOptions,
  type RealRun,
  RealRunError,
  type RealRunOptions,
  runReal,
} from "./run.ts";
export { DEFAULT_TIER, parseTier, type Tier, TIERS, tierText } from "./tiers.ts";
