/** What `deno task quality` measures: methods at sparsities, each a recipe and an evaluation in parts. */

/** A method at a sparsity; dense has neither. */
export interface Cell {
  readonly method: string;
  readonly sparsity: number | null;
}

/** What cells are measured on. */
export interface Settings {
  readonly model: string;
  readonly data: string;
  readonly tasks: string;
  /** Rows or pieces of each task; null takes all. */
  readonly limit: number | null;
  readonly prefill: string;
  readonly dtype: string;
  /** Parts of each evaluation. */
  readonly parts: number;
  /** Text that recipes are calibrated on; null leaves it to `calibrate`. */
  readonly calibration: string | null;
}

/** The methods that `calibrate` makes recipes of, with what they want said. */
const CALIBRATED: { readonly [method: string]: readonly string[] } = {
  "by-site": [],
  "teal": [],
  "wina": [],
  // the stream of all others; its paper's is dense
  "r-sparse": ["--rho", "0.95", "--stream", "sparse"],
  "low-rank": [],
  "cats": [],
  "griffin": [],
  "relufication": [],
};
/** Without data of its own. */
const BLIND: readonly string[] = ["griffin"];

/** Cells that are measured unless others are named. */
export const DEFAULT_CELLS =
  "dense,by-site:0.4:0.5:0.6,teal:0.4:0.5:0.6,wina:0.4:0.5:0.6,r-sparse:0.4:0.5:0.6,learned:0.4:0.5:0.6";

/**
 * `METHOD[:SPARSITY…],…`, such as `dense,by-site:0.4:0.5`.
 *
 * @throws {RangeError} If a method is not known, or a sparsity is missing or out of range.
 */
export function parseCells(text: string): Cell[] {
  return text.split(",").flatMap((part): Cell[] => {
    const [method, ...sparsities] = part.split(":");
    if (method === "dense" && sparsities.length === 0) return [{ method, sparsity: null }];
    if (method === undefined || !(method in CALIBRATED || method === "learned")) {
      throw new RangeError(
        `cells: "${part}" found, dense, or one of ${
          [...Object.keys(CALIBRATED), "learned"].join(" ")
        } with :SPARSITY wanted`,
      );
    }
    if (sparsities.length === 0) throw new RangeError(`cells: "${part}" found, ${method}:SPARSITY wanted`);
    return sparsities.map((value) => {
      const sparsity = Number(value);
      if (value !== "" && sparsity > 0 && sparsity < 1) return { method, sparsity };
      throw new RangeError(`cells: "${part}" found, sparsities between 0 and 1 wanted`);
    });
  });
}

/** What a cell's files are called. */
export function nameOf({ method, sparsity }: Cell): string {
  return sparsity === null ? method : `${method}-${sparsity}`;
}

/** Options of `calibrate` for a cell's recipe; null where it has none of its own. */
export function calibrationOf(cell: Cell, settings: Settings, recipe: string): string[] | null {
  const { method, sparsity } = cell;
  if (sparsity === null || method === "learned") return null;
  const text = settings.calibration === null || BLIND.includes(method)
    ? []
    : ["--data", settings.calibration];
  return [
    ...["calibrate", "-m", settings.model, "--method", method, "--sparsity", String(sparsity)],
    ...[...CALIBRATED[method]!, ...text, "--threads", "1", "--quiet", "-o", recipe],
  ];
}

/** Options of `eval` for one part of a cell. */
export function evaluationOf(
  cell: Cell,
  settings: Settings,
  recipe: string | null,
  part: number,
  out: string,
): string[] {
  const { model, data, tasks, limit, prefill, dtype, parts } = settings;
  return [
    ...["eval", "-m", model, "--data", data, "--tasks", tasks, "--prefill", prefill, "--dtype", dtype],
    ...(limit === null ? [] : ["--limit", String(limit)]),
    ...(recipe === null ? [] : ["--recipe", recipe]),
    ...(recipe !== null && cell.method === "learned" ? ["--sparsity", String(cell.sparsity)] : []),
    ...["--part", `${part}/${parts}`, "--threads", "1", "--quiet", "-o", out],
  ];
}

/**
 * What work under these settings is told apart by: other work goes on from nothing of it.
 *
 * @param made What else results come from: the program's state, and what is in the files.
 */
export function workKey(settings: Settings, made: readonly string[]): string {
  return JSON.stringify([settings, made]);
}
