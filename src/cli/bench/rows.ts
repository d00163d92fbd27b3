/** What benchmarks report: rows of medians with their spread. */
import { formatTable } from "../table.ts";

/** What was measured. */
export interface Stat {
  readonly median: number;
  readonly min: number;
  readonly max: number;
  readonly n: number;
}

/** One line of a report. */
export interface Row {
  /** `decode`, `prefill`, `load`, or for kernels the matrix or what else was timed. */
  readonly name: string;
  readonly shape: string;
  readonly dtype: string;
  /** Share of the multiply-adds that the recipe is to skip; 0 is dense. */
  readonly sparsity: number;
  /** `dense`, or what skips: a recipe's method, or for kernels the layout that is read. */
  readonly variant: string;
  /** SHA-256 of the recipe's file, where it ran by one. */
  readonly recipe?: string;
  readonly tokensPerSecond?: Stat;
  readonly ms?: Stat;
  /** 10^9 multiply-adds times two a second, those that were skipped counted as if they had run. */
  readonly gflops?: Stat;
  /** 10^9 bytes of weights read a second; of columns that are jumped over nothing counts, though memory brings whole lines. */
  readonly gbPerSecond?: Stat;
  /** How a sparse matrix runs, as the tuner picked: `dense`, `skip` or `stream`. */
  readonly method?: string;
  /** Of the median, over that of the dense row. */
  readonly speedup?: number;
  readonly measuredSparsity?: number | null;
  /** Inputs and outputs of a matrix. */
  readonly nIn?: number;
  readonly nOut?: number;
  /** Blocks of weights in memory, where that is less than `layers`: times are scaled from those to all. */
  readonly layersHeld?: number;
  readonly layers?: number;
}

/** Median, extremes and number of `values`. */
export function statOf(values: readonly number[]): Stat {
  const sorted = [...values].sort((a, b) => a - b), n = sorted.length, half = n >> 1;
  const median = n % 2 === 1 ? sorted[half]! : (sorted[half - 1]! + sorted[half]!) / 2;
  return { median, min: sorted[0]!, max: sorted[n - 1]!, n };
}

/** The stat of a quantity that is `amount` over what was measured. */
export function inverseOf({ median, min, max, n }: Stat, amount: number): Stat {
  return { median: amount / median, min: amount / max, max: amount / min, n };
}

/** Rows with the speed-up of each over the dense row of its name. */
export function withSpeedups(rows: readonly Row[]): Row[] {
  return rows.map((row) => {
    const dense = rows.find(({ name, sparsity }) => name === row.name && sparsity === 0);
    if (dense === undefined || dense === row) return row;
    const speedup = row.tokensPerSecond && dense.tokensPerSecond
      ? row.tokensPerSecond.median / dense.tokensPerSecond.median
      : dense.ms!.median / row.ms!.median;
    return { ...row, speedup };
  });
}

/** Rows as a table for people. */
export function rowTable(rows: readonly Row[]): string {
  const kernels = rows.some(({ gflops, gbPerSecond }) => gflops ?? gbPerSecond);
  const methods = rows.some(({ method }) => method);
  const header = [
    "what",
    "model",
    "dtype",
    "variant",
    ...methods ? ["way"] : [],
    "sparsity",
    "measured",
    "median",
    "min",
    "max",
    "n",
    "unit",
    "speedup",
    ...kernels ? ["GFLOP/s", "GB/s"] : [],
  ];
  return formatTable([
    header,
    ...rows.map((row) => {
      const stat = row.tokensPerSecond ?? row.ms!;
      const digits = stat.median >= 10 ? 1 : stat.median >= 0.1 ? 3 : 5;
      const held = row.layersHeld === undefined ? "" : ` (${row.layersHeld} of ${row.layers} blocks)`;
      return [
        row.name + held,
        row.shape,
        row.dtype,
        row.variant,
        ...methods ? [row.method ?? ""] : [],
        String(row.sparsity),
        row.measuredSparsity?.toFixed(3) ?? "",
        ...[stat.median, stat.min, stat.max].map((value) => value.toFixed(digits)),
        String(stat.n),
        row.tokensPerSecond ? "tok/s" : "ms",
        row.speedup === undefined ? "" : `${row.speedup.toFixed(2)}x`,
        ...kernels ? [row.gflops?.median.toFixed(1) ?? "", row.gbPerSecond?.median.toFixed(1) ?? ""] : [],
      ];
    }),
  ]);
}
