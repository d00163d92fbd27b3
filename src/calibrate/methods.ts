/** The methods' names, apart from what they do: the command line lists them at its start. */

/**
 * How `calibrateModel` chooses what to skip: `by-site`, |x|, more of down and o; `teal`, |x|, the same share everywhere; `wina`, |x| times the
 * column's norm; `r-sparse`, |x| or, with rank, |x| times the column's norm; `low-rank`, rank alone; `cats`, `griffin` and `relufication` skip neurons of the
 * MLP (`neurons.ts`).
 */
export const CALIBRATION_METHODS = [
  "by-site",
  "r-sparse",
  "teal",
  "wina",
  "low-rank",
  "cats",
  "griffin",
  "relufication",
] as const;
/** One of {@linkcode CALIBRATION_METHODS}. */
export type CalibrationMethod = typeof CALIBRATION_METHODS[number];
