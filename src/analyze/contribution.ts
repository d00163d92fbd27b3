/**
 * Figure: what each input channel and each singular component contribute to a projection's output.
 *
 * With W = Σ sigma_i u_i v_iᵀ, S[i,c] = sigma_i · x_c · V[c,i] (the paper's Figs 1 and 3); shown is the mean of |S| over tokens, which is
 * sigma_i · |V[c,i]| · mean |x_c|. Any matrix of numbers looks concentrated once its rows and columns are sorted by their sums, so both orders are given, and
 * the shares as numbers.
 */
import { drawPlot, type Plot } from "../plot/draw.ts";
import type { TruncatedSvd } from "../calibrate/svd.ts";
import { type Cell, csv } from "../plot/csv.ts";
import type { Figure } from "../plot/figure.ts";

/** Cells along each side of a heatmap, and points of a curve. */
const CELLS = 48, POINTS = 64;

/** Mean |S| of a projection, by component and channel. */
export interface Contribution {
  readonly nIn: number;
  readonly rank: number;
  /** f64[rank, nIn]. */
  readonly s: Float64Array;
  /** f64[rank]. */
  readonly sigma: Float64Array;
  /** f64[nIn]: mean |x_c|. */
  readonly means: Float64Array;
}

/** @param means f64[nIn], mean |x_c| over tokens */
export function contributionOf(
  { sigma, v }: Pick<TruncatedSvd, "sigma" | "v">,
  means: Float64Array,
): Contribution {
  const rank = sigma.length, nIn = means.length, s = new Float64Array(rank * nIn);
  for (let i = 0; i < rank; i++) {
    for (let c = 0; c < nIn; c++) s[i * nIn + c] = sigma[i]! * Math.abs(v[i * nIn + c]!) * means[c]!;
  }
  return { nIn, rank, s, sigma, means };
}

/** Sums over components by channel, and over channels by component. */
export function marginsOf({ s, nIn, rank }: Pick<Contribution, "s" | "nIn" | "rank">): {
  readonly channels: Float64Array;
  readonly components: Float64Array;
} {
  const channels = new Float64Array(nIn), components = new Float64Array(rank);
  for (let i = 0; i < rank; i++) {
    for (let c = 0; c < nIn; c++) {
      channels[c] = channels[c]! + s[i * nIn + c]!;
      components[i] = components[i]! + s[i * nIn + c]!;
    }
  }
  return { channels, components };
}

/** Numbers of `values`, the largest first, the earlier of two equal ones first. */
export function largestFirst(values: ArrayLike<number>): number[] {
  return Array.from(values, (_, i) => i).sort((a, b) => values[b]! - values[a]! || a - b);
}

/** Share of the sum that the largest k of n values hold, at up to {@linkcode POINTS} k from 0 to n. */
export function cumulativeShares(values: Float64Array): { readonly k: number; readonly share: number }[] {
  const sorted = values.slice().sort().reverse(),
    n = sorted.length,
    total = sorted.reduce((a, b) => a + b, 0);
  const steps = Math.min(POINTS, n), points = [{ k: 0, share: 0 }];
  let sum = 0, at = 0;
  for (let step = 1; step <= steps; step++) {
    // closer to each other at the beginning, where the curve bends
    const k = Math.max(at + 1, Math.round(n * (step / steps) ** 2));
    while (at < k) sum += sorted[at++]!;
    points.push({ k, share: total === 0 ? k / n : sum / total });
  }
  return points;
}

/** Means of |S| in cells, over the mean of all: 1 is the average. Rows and columns in these orders. */
function cellsOf({ s, nIn, rank }: Contribution, rows: readonly number[], columns: readonly number[]) {
  const down = Math.min(CELLS, rank), across = Math.min(CELLS, nIn);
  const sums = new Float64Array(down * across), counts = new Float64Array(down * across);
  let total = 0;
  rows.forEach((i, row) => {
    const y = Math.floor(row * down / rank) * across;
    columns.forEach((c, column) => {
      const cell = y + Math.floor(column * across / nIn), value = s[i * nIn + c]!;
      sums[cell] = sums[cell]! + value;
      counts[cell] = counts[cell]! + 1;
      total += value;
    });
  });
  const mean = total / (rank * nIn);
  return Array.from(sums, (sum, cell) => {
    const y = Math.floor(cell / across), x = cell % across;
    return {
      x0: Math.ceil(x * nIn / across),
      x1: Math.ceil((x + 1) * nIn / across),
      y0: Math.ceil(y * rank / down),
      y1: Math.ceil((y + 1) * rank / down),
      value: mean === 0 ? 0 : sum / counts[cell]! / mean,
    };
  });
}

/** Draws it for one projection. */
export async function contributionFigure(
  contribution: Contribution,
  where: { readonly layer: number; readonly projection: string; readonly about: readonly string[] },
): Promise<Figure> {
  const { nIn, rank, s, sigma, means } = contribution, { channels, components } = marginsOf(contribution);
  const natural = cellsOf(
    contribution,
    Array.from({ length: rank }, (_, i) => i),
    Array.from({ length: nIn }, (_, c) => c),
  );
  const sorted = cellsOf(contribution, largestFirst(components), largestFirst(channels));
  const curves = ([["channels", channels], ["components", components], ["channel x component", s]] as const)
    .flatMap(([of, values]) =>
      cumulativeShares(values).map(({ k, share }) => ({ of, k, part: k / values.length, share }))
    );
  const positive = [...natural, ...sorted].map(({ value }) => value).filter((value) => value > 0);
  const domain = positive.length === 0
    ? [0.5, 2]
    : [positive.reduce((a, b) => Math.min(a, b)), positive.reduce((a, b) => Math.max(a, b))];
  if (domain[0] === domain[1]) domain[1] = 2 * domain[0]!;
  const heatmap = (title: string, cells: typeof natural, x: string, y: string): Plot => ({
    title: { text: title, fontSize: 12 },
    // whole pixels a cell
    width: 6 * CELLS,
    height: 5 * CELLS,
    data: { values: cells.filter(({ value }) => value > 0) },
    mark: { type: "rect" },
    encoding: {
      x: {
        field: "x0",
        type: "quantitative",
        title: x,
        scale: { domain: [0, nIn], nice: false },
        axis: { grid: false, tickCount: 5 },
      },
      x2: { field: "x1" },
      y: {
        field: "y0",
        type: "quantitative",
        title: y,
        scale: { domain: [0, rank], nice: false, reverse: true },
        axis: { grid: false, tickCount: 5 },
      },
      y2: { field: "y1" },
      color: {
        field: "value",
        type: "quantitative",
        title: "times the mean",
        scale: { type: "log", scheme: "viridis", domain },
        legend: { format: "~g", tickCount: 4 },
      },
    },
  });
  const title = `Contribution by channel and component, layer ${where.layer}, ${where.projection}`;
  const plot = {
    title: {
      text: title,
      subtitle: [
        `mean over tokens of |σᵢ · x_c · V[c,i]|, in cells of about ${Math.ceil(nIn / CELLS)} x ${
          Math.ceil(rank / CELLS)
        } values, over the mean of all`,
        ...where.about,
      ],
    },
    resolve: { scale: { color: "independent" as const } },
    vconcat: [
      {
        resolve: { scale: { color: "shared" as const } },
        hconcat: [
          heatmap("as they are", natural, "channel, in the model's order", "component, by σ, largest first"),
          heatmap(
            "sorted",
            sorted,
            "channel, by its own sum, largest first",
            "component, by its own sum, largest first",
          ),
        ],
      },
      {
        title: { text: "share of the sum that the largest hold", fontSize: 12 },
        width: 300,
        height: 220,
        layer: [
          {
            data: { values: [{ part: 0, share: 0 }, { part: 1, share: 1 }] },
            mark: { type: "line" as const, strokeDash: [2, 3], strokeWidth: 1, color: "#24292f" },
            encoding: curveEncoding(),
          },
          {
            data: { values: curves },
            mark: { type: "line" as const },
            encoding: {
              ...curveEncoding(),
              color: { field: "of", type: "nominal" as const, title: "dotted: all alike", sort: null },
            },
          },
        ],
      },
    ],
  } as Plot;
  const rows: Cell[][] = [
    ...Array.from(channels, (sum, c): Cell[] => ["channel", c, null, sum, means[c]!]),
    ...Array.from(components, (sum, i): Cell[] => ["component", null, i, sum, sigma[i]!]),
    ...([["cell as they are", natural], ["cell sorted", sorted]] as const).flatMap(([part, cells]) =>
      cells.map(({ x0, y0, value }): Cell[] => [part, x0, y0, value, null])
    ),
    ...curves.map(({ of, k, share }): Cell[] => [`largest ${of}`, k, null, share, null]),
  ];
  return {
    name: "contribution",
    title,
    svg: await drawPlot(plot, title),
    csv: csv(["part", "channel_or_count", "component", "value", "mean_abs_x_or_sigma"], rows),
    notes: [],
  };
}

function curveEncoding() {
  return {
    x: { field: "part", type: "quantitative" as const, title: "share of them", axis: { format: ".0%" } },
    y: { field: "share", type: "quantitative" as const, title: "share of the sum", axis: { format: ".0%" } },
  };
}
