/** Which plots a benchmark gets: pure, from what `latest.json` holds. */
import type { Row } from "../../src/cli/bench/rows.ts";
import { SHAPE_NAMES } from "../../src/cli/bench/shapes.ts";
import { DTYPES, SPARSITIES } from "./plan.ts";
import { ENGINES, type Results, type Run } from "./schema.ts";
import { barChart, type BarGroup } from "./bars.ts";
import { type Panel, panelChart, powers, type Series, ticks } from "./svg.ts";

/** A plot's file name, what it shows, and its text. */
export interface Chart {
  readonly file: string;
  readonly alt: string;
  readonly svg: string;
}

/** All plots that there are numbers for. */
export function chartsOf(results: Results): Chart[] {
  return [
    tokensChart(results),
    ...SHAPE_NAMES.map((shape) => speedupChart(results, shape)),
    rooflineChart(results),
  ]
    .filter((chart) => chart !== null);
}

/** Those of the files in a folder that are plots of an earlier benchmark and none of `charts`; files of other names are not ours. */
export function oldPlots(files: readonly string[], charts: readonly Pick<Chart, "file">[]): string[] {
  return files.filter((name) =>
    /^(decode|roofline|speedup-.+)\.svg$/.test(name) && !charts.some(({ file }) => file === name)
  );
}

/** An engine with the build that it ran: `deno relaxed`. */
export function engineOf({ engine, kernels }: Pick<Run, "engine" | "kernels">): string {
  return `${engine} ${kernels}`;
}

function decodeBars({ runs, peers }: Results): BarGroup[] {
  const groups: BarGroup[] = runs.filter(({ what }) => what === "decode").map((run) => ({
    label: `${engineOf(run)}, ${run.threads === 1 ? "1 thread" : `${run.threads} threads`}`,
    bars: run.rows.filter(({ tokensPerSecond }) => tokensPerSecond).map(({ sparsity, tokensPerSecond }) => ({
      name: sparsity === 0 ? "dense" : `R-Sparse ${100 * sparsity} %`,
      look: sparsity === 0 ? 0 : 1,
      value: tokensPerSecond!.median,
      low: tokensPerSecond!.min,
      high: tokensPerSecond!.max,
    })),
  }));
  for (const { name, threads, rows } of peers) {
    const decode = rows.find((row) => row.name === "tg64")?.tokensPerSecond;
    if (!decode) continue;
    const bar = { name: "others", look: 4, value: decode.median, low: decode.min, high: decode.max };
    groups.push({ label: `${name}, ${threads === 1 ? "1 thread" : `${threads} threads`}`, bars: [bar] });
  }
  return groups.filter(({ bars }) => bars.length > 0);
}

function tokensChart(results: Results): Chart | null {
  const groups = decodeBars(results);
  if (groups.length === 0) return null;
  const title = `Decode speed, ${results.settings.model}`;
  return {
    file: "decode.svg",
    alt: title,
    svg: barChart({
      title,
      subtitle: "medians, with the range of all runs; longer is better",
      unit: "tokens/s",
      groups,
    }),
  };
}

function speedupChart({ runs }: Results, shape: string): Chart | null {
  const found = runs.filter(({ what, rows }) =>
    what === "kernels" && rows.some((row) => row.shape === shape)
  );
  const panels: Panel[] = [];
  const byDtype = DTYPES.map((dtype) => ({
    dtype,
    series: found.map((run): Series => ({
      name: engineOf(run),
      look: ENGINES.indexOf(run.engine),
      dashed: run.kernels === "baseline",
      hollow: run.kernels === "baseline",
      line: true,
      points: run.rows.filter((row) =>
        row.name === "projections" && row.dtype === dtype && row.shape === shape
      )
        .map((row): [number, number] => [100 * row.sparsity, row.sparsity === 0 ? 1 : row.speedup!])
        .sort(([a], [b]) => a - b),
    })).filter(({ points }) => points.length > 1),
  })).filter(({ series }) => series.length > 0);
  for (const { dtype, series } of byDtype) {
    const marks = ticks(Math.max(1.5, ...series.flatMap(({ points }) => points.map(([, y]) => y))));
    panels.push({
      title: dtype,
      x: { label: "sparsity, %", min: -4, max: 80, ticks: SPARSITIES.map((share) => 100 * share) },
      y: { label: "times dense", min: 0, max: marks.at(-1)!, ticks: marks },
      series,
      guides: [{ points: [[-4, 1], [80, 1]] }],
    });
  }
  if (panels.length === 0) return null;
  const title = `Speed-up over sparsity, ${shape}`;
  return {
    file: `speedup-${shape}.svg`,
    alt: title,
    svg: panelChart({
      title,
      subtitle:
        "all projections of a token, against the engine's best dense kernels; above the dotted line sparse is faster",
      panels,
      columns: 2,
    }),
  };
}

/** One point of the roofline. */
export interface RoofPoint {
  readonly run: Run;
  readonly row: Row;
  /** 10^9 multiply-adds a second that were done, those skipped not counted. */
  readonly gmacs: number;
  readonly gbPerSecond: number;
}

/** All projections of a token, dense and sparse, with what they do and what they read. */
export function roofPoints(runs: readonly Run[]): RoofPoint[] {
  return runs.filter(({ what }) => what === "kernels").flatMap((run) =>
    run.rows.filter(({ name, gflops, gbPerSecond }) => name === "projections" && gflops && gbPerSecond).map((
      row,
    ) => ({
      run,
      row,
      gmacs: row.gflops!.median / 2 * (1 - (row.sparsity === 0 ? 0 : row.measuredSparsity ?? 0)),
      gbPerSecond: row.gbPerSecond!.median,
    }))
  );
}

/** GB/s of memory read in order, the least and the most of an engine's runs: the machine's speed moves. */
export function readSpeeds(runs: readonly Run[]): [least: number, most: number] | null {
  const found = runs.flatMap(({ rows }) => rows).filter(({ name }) => name === "read").map((row) =>
    row.gbPerSecond!.median
  );
  return found.length === 0 ? null : [Math.min(...found), Math.max(...found)];
}

function rooflineChart({ runs }: Results): Chart | null {
  const points = roofPoints(runs).filter(({ row }) => row.sparsity === 0 || row.sparsity === 0.5);
  if (points.length === 0) return null;
  const intensity = ({ gmacs, gbPerSecond }: RoofPoint): number => gmacs / gbPerSecond;
  const xs = powers(Math.min(...points.map(intensity)), Math.max(...points.map(intensity)));
  const ys = powers(
    Math.min(...points.map(({ gmacs }) => gmacs)),
    Math.max(...points.map(({ gmacs }) => gmacs)),
  );
  // markers of the leftmost points are not to lie on the labels
  const left = xs[0]! / 1.1;
  const panels = ENGINES.filter((engine) => points.some(({ run }) => run.engine === engine)).map(
    (engine): Panel => {
      const own = points.filter(({ run }) => run.engine === engine),
        read = readSpeeds(runs.filter((run) => run.engine === engine));
      const ends = [...new Set((read ?? []).map((speed) => speed.toFixed(1)))];
      const roofs = ends.map((speed) => roofLine(Number(speed), left, xs.at(-1)!, ys[0]!, ys.at(-1)!));
      return {
        title: read === null ? engine : `${engine}: memory gives ${ends.join(" to ")} GB/s`,
        x: { label: "multiply-adds a byte read", min: left, max: xs.at(-1)!, ticks: xs, log: true },
        y: { label: "GMAC/s", min: ys[0]!, max: ys.at(-1)!, ticks: ys, log: true },
        guides: roofs.filter((roof) => roof.length > 1).map((points) => ({ points })),
        series: DTYPES.flatMap((dtype, look) =>
          [0, 0.5].map((sparsity): Series => ({
            name: `${dtype} ${sparsity === 0 ? "dense" : "50 %"}`,
            look,
            hollow: sparsity > 0,
            line: false,
            points: own.filter(({ row }) => row.dtype === dtype && row.sparsity === sparsity)
              .map((point): [number, number] => [intensity(point), point.gmacs]),
          })).filter((series) => series.points.length > 0)
        ),
      };
    },
  );
  const title = "Roofline: what kernels compute and what memory gives";
  return {
    file: "roofline.svg",
    alt: title,
    svg: panelChart({
      title,
      subtitle:
        "projections of a token, all shapes; multiply-adds that are skipped do not count; dotted: memory's limit, at its slowest and fastest",
      panels,
      columns: 2,
    }),
  };
}

/** y = read * x, cut to the panel. */
export function roofLine(read: number, x0: number, x1: number, y0: number, y1: number): [number, number][] {
  const from = Math.max(x0, y0 / read), to = Math.min(x1, y1 / read);
  return from < to ? [[from, read * from], [to, read * to]] : [];
}
