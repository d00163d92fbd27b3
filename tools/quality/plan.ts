/** What `deno task quality` measures: methods at sparsities, each a recipe and an evaluation in parts. */
import { shortShare } from "../../src/analyze/quality_results.ts";

/** A method at a sparsity. */
export interface Cell {
  readonly method: string;
  /** Null of dense, and of what comes to a share of its own. */
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
  /** Tokens of each piece that are not scored; 0 for none. */
  readonly context: number;
  /** Stream that thresholds are set on, of methods that have a choice. */
  readonly stream: "sparse" | "dense";
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
  "r-sparse": ["--rho", "0.95"],
  "low-rank": [],
  "cats": [],
  "griffin": [],
  "relufication": [],
};
/** Whose thresholds are set on a stream. */
const STREAMED: readonly string[] = ["by-site", "teal", "wina", "r-sparse"];
/** Without data of its own. */
const BLIND: readonly string[] = ["griffin"];
/** Without a sparsity to ask for. */
const FIXED: readonly string[] = ["dense", "relufication"];

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
    if (method !== undefined && FIXED.includes(method) && sparsities.length === 0) {
      return [{ method, sparsity: null }];
    }
    const dialled = [...Object.keys(CALIBRATED), "learned"].filter((name) => !FIXED.includes(name));
    if (method === undefined || !dialled.includes(method)) {
      throw new RangeError(
        `cells: "${part}" found, ${FIXED.join(", ")}, or one of ${dialled.join(" ")} with :SPARSITY wanted`,
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

/**
 * What a cell's files are called.
 *
 * @param came What a method without a sparsity of its own came to, once that is known.
 */
export function nameOf({ method, sparsity }: Cell, came: number | null = null): string {
  if (sparsity !== null) return `${method}-${sparsity}`;
  return came === null ? method : `${method}-${shortShare(came)}`;
}

/** Options of `calibrate` for a cell's recipe; null where it has none of its own. */
export function calibrationOf(cell: Cell, settings: Settings, recipe: string): string[] | null {
  const { method, sparsity } = cell;
  if (method === "dense" || method === "learned") return null;
  const text = settings.calibration === null || BLIND.includes(method)
    ? []
    : ["--data", settings.calibration];
  const stream = STREAMED.includes(method) ? ["--stream", settings.stream] : [];
  return [
    ...["calibrate", "-m", settings.model, "--method", method],
    ...(sparsity === null ? [] : ["--sparsity", String(sparsity)]),
    // of all positions: by default some methods keep the first one dense
    ...[...CALIBRATED[method]!, ...stream, "--keep-dense", "0", ...text],
    ...["--threads", "1", "--quiet", "-o", recipe],
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
  const { model, data, tasks, limit, prefill, context, dtype, parts } = settings;
  return [
    ...["eval", "-m", model, "--data", data, "--tasks", tasks, "--prefill", prefill, "--dtype", dtype],
    ...(limit === null ? [] : ["--limit", String(limit)]),
    ...(context === 0 ? [] : ["--context", String(context)]),
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
