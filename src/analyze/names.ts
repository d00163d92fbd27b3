/** The figures' names, apart from what makes them: the command line lists them at its start. */

/** All figures, in the order in which they are made. */
export const FIGURES = [
  "spectra",
  "effective-rank",
  "contribution",
  "activations",
  "kept",
  "overlap",
  "bias-rank",
  "rho",
  "quality",
] as const;
/** One of {@linkcode FIGURES}. */
export type FigureName = (typeof FIGURES)[number];
