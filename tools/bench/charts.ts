/** Which plots a benchmark gets: pure, from what `latest.json` holds. */
import type { Row } from "../../src/cli/bench/rows.ts";
import { SHAPE_NAMES } from "../../src/cli/bench/shapes.ts";
import { COLOURS, drawPlot, type Plot } from "../../src/plot/draw.ts";
import { DTYPES, SPARSITIES } from "./plan.ts";
import { ENGINES, type Results, type Run } from "./schema.ts";

/** A plot's file name, what it shows, and its text. */
export interface Chart {
  readonly file: string;
  readonly alt: string;
  readonly svg: string;
}

/** All plots that there are numbers for. */
export async function chartsOf(results: Results): Promise<Chart[]> {
  const charts: Chart[] = [];
  for (
    const chart of [
      tokensChart(results),
      ...SHAPE_NAMES.map((shape) => speedupChart(results, shape)),
      rooflineChart(results),
    ]
  ) {
    if (chart === null) continue;
    const { file, alt, plot } = chart;
    charts.push({ file, alt, svg: await drawPlot(plot, alt) });
  }
  return charts;
}

/** A chart before it is drawn. */
interface Plan extends Pick<Chart, "file" | "alt"> {
  readonly plot: Plot;
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

/** A bar of the decode chart. */
interface Bar {
  readonly group: string;
  readonly name: string;
  readonly value: number;
  readonly low: number;
  readonly high: number;
}

function decodeBars({ runs, peers }: Results): Bar[] {
  const label = (name: string, threads: number): string =>
    `${name}, ${threads === 1 ? "1 thread" : `${threads} threads`}`;
  const bars = runs.filter(({ what }) => what === "decode").flatMap((run) =>
    run.rows.filter(({ tokensPerSecond }) => tokensPerSecond).map(({ sparsity, tokensPerSecond }): Bar => ({
      group: label(engineOf(run), run.threads),
      name: sparsity === 0 ? "dense" : `R-Sparse ${100 * sparsity} %`,
      value: tokensPerSecond!.median,
      low: tokensPerSecond!.min,
      high: tokensPerSecond!.max,
    }))
  );
  for (const { name, threads, rows } of peers) {
    const decode = rows.find((row) => row.name === "tg64")?.tokensPerSecond;
    if (!decode) continue;
    const { median: value, min: low, max: high } = decode;
    bars.push({ group: label(name, threads), name: "others", value, low, high });
  }
  return bars;
}

function tokensChart(results: Results): Plan | null {
  const values = decodeBars(results);
  if (values.length === 0) return null;
  const title = `Decode speed, ${results.settings.model}`,
    names = [...new Set(values.map(({ name }) => name))];
  const others = COLOURS[4]!;
  const x = { type: "quantitative", title: "tokens/s", scale: { domainMin: 0 } } as const;
  return {
    file: "decode.svg",
    alt: title,
    plot: {
      title: { text: title, subtitle: "medians, with the range of all runs; longer is better" },
      width: 560,
      height: { step: 16 },
      data: { values },
      encoding: {
        y: {
          field: "group",
          type: "nominal",
          sort: null,
          title: null,
          axis: { labelLimit: 400, grid: false },
        },
        yOffset: { field: "name", sort: names },
      },
      layer: [
        {
          mark: "bar",
          encoding: {
            x: { field: "value", ...x },
            color: {
              field: "name",
              type: "nominal",
              sort: null,
              title: null,
              scale: {
                domain: names,
                range: names.map((name, i) => name === "others" ? others : COLOURS[i]!),
              },
              legend: { orient: "top" },
            },
          },
        },
        { mark: "rule", encoding: { x: { field: "low", ...x }, x2: { field: "high" } } },
        {
          mark: { type: "text", align: "left", dx: 5 },
          encoding: { x: { field: "high", ...x }, text: { field: "value", format: ".1f" } },
        },
      ],
    },
  };
}

function speedupChart({ runs }: Results, shape: string): Plan | null {
  const found = runs.filter(({ what, rows }) =>
    what === "kernels" && rows.some((row) => row.shape === shape)
  );
  const values = DTYPES.flatMap((dtype) =>
    found.flatMap((run) => {
      const rows = run.rows.filter((row) =>
        row.name === "projections" && row.dtype === dtype && row.shape === shape
      );
      return rows.length < 2 ? [] : rows.map((row) => ({
        dtype,
        engine: run.engine,
        build: run.kernels,
        sparsity: 100 * row.sparsity,
        times: row.sparsity === 0 ? 1 : row.speedup!,
      }));
    })
  );
  if (values.length === 0) return null;
  const title = `Speed-up over sparsity, ${shape}`;
  const engines = ENGINES.filter((engine) => values.some((value) => value.engine === engine));
  return {
    file: `speedup-${shape}.svg`,
    alt: title,
    plot: {
      title: {
        text: title,
        subtitle:
          "all projections of a token, against the engine's best dense kernels; above the dotted line sparse is faster",
      },
      data: { values },
      facet: { field: "dtype", type: "nominal", sort: [...DTYPES], title: null },
      columns: 2,
      resolve: { scale: { y: "independent" } },
      spec: {
        width: 300,
        height: 190,
        layer: [
          { mark: { type: "rule", strokeDash: [2, 3] }, encoding: { y: { datum: 1 } } },
          {
            mark: { type: "line", point: true },
            encoding: {
              x: {
                field: "sparsity",
                type: "quantitative",
                title: "sparsity, %",
                axis: { values: SPARSITIES.map((share) => 100 * share), grid: false },
                scale: { domain: [-4, 80], nice: false },
              },
              y: { field: "times", type: "quantitative", title: "times dense", scale: { domainMin: 0 } },
              color: {
                field: "engine",
                type: "nominal",
                title: null,
                scale: {
                  domain: [...engines],
                  range: engines.map((engine) => COLOURS[ENGINES.indexOf(engine) % COLOURS.length]!),
                },
              },
              strokeDash: { field: "build", type: "nominal", title: null, sort: ["relaxed", "baseline"] },
            },
          },
        ],
      },
    },
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

function rooflineChart({ runs }: Results): Plan | null {
  const points = roofPoints(runs).filter(({ row }) => row.sparsity === 0 || row.sparsity === 0.5);
  if (points.length === 0) return null;
  const marks = points.map(({ run, row, gmacs, gbPerSecond }) => ({
    panel: panelOf(runs, run.engine),
    dtype: row.dtype,
    way: row.sparsity === 0 ? "dense" : "50 %",
    intensity: gmacs / gbPerSecond,
    gmacs,
  }));
  const ends = (values: readonly number[]): [least: number, most: number] => [
    2 ** Math.floor(Math.log2(Math.min(...values))),
    2 ** Math.max(Math.floor(Math.log2(Math.min(...values))) + 1, Math.ceil(Math.log2(Math.max(...values)))),
  ];
  const [x0, x1] = ends(marks.map(({ intensity }) => intensity)),
    [y0, y1] = ends(marks.map(({ gmacs }) => gmacs)),
    // marks of the leftmost points are not to lie on the labels
    left = x0 / 1.1;
  const engines = ENGINES.filter((engine) => points.some(({ run }) => run.engine === engine));
  const roofs = engines.flatMap((engine) =>
    [...new Set(speedsOf(runs, engine))].flatMap((speed) =>
      roofLine(Number(speed), left, x1, y0, y1).map(([intensity, gmacs]) => ({
        panel: panelOf(runs, engine),
        roof: speed,
        intensity,
        gmacs,
      }))
    )
  );
  const title = "Roofline: what kernels compute and what memory gives";
  const axis = (name: string, domain: [number, number], title: string) => ({
    field: name,
    type: "quantitative" as const,
    title,
    scale: { type: "log" as const, base: 2, domain, nice: false },
    axis: { format: "~g", grid: false },
  });
  const encoding = {
    x: axis("intensity", [left, x1], "multiply-adds a byte read"),
    y: axis("gmacs", [y0, y1], "GMAC/s"),
  };
  return {
    file: "roofline.svg",
    alt: title,
    plot: {
      title: {
        text: title,
        subtitle:
          "projections of a token, all shapes; multiply-adds that are skipped do not count; dotted: memory's limit, at its slowest and fastest",
      },
      data: { values: [...marks, ...roofs] },
      facet: {
        field: "panel",
        type: "nominal",
        sort: engines.map((engine) => panelOf(runs, engine)),
        title: null,
      },
      columns: 2,
      spec: {
        width: 300,
        height: 190,
        layer: [
          {
            transform: [{ filter: "isValid(datum.roof)" }],
            mark: { type: "line", strokeDash: [2, 3], strokeWidth: 1, color: "#24292f" },
            encoding: { ...encoding, detail: { field: "roof" } },
          },
          {
            transform: [{ filter: "isValid(datum.dtype)" }],
            mark: { type: "point" },
            encoding: {
              ...encoding,
              color: { field: "dtype", type: "nominal", title: null, scale: { domain: [...DTYPES] } },
              shape: {
                field: "way",
                type: "nominal",
                title: null,
                scale: { domain: ["dense", "50 %"], range: ["circle", "cross"] },
              },
            },
          },
        ],
      },
    },
  };
}

/** Memory's slowest and fastest of an engine, GB/s as they are shown. */
function speedsOf(runs: readonly Run[], engine: string): string[] {
  return (readSpeeds(runs.filter((run) => run.engine === engine)) ?? []).map((speed) => speed.toFixed(1));
}

function panelOf(runs: readonly Run[], engine: string): string {
  const speeds = [...new Set(speedsOf(runs, engine))];
  return speeds.length === 0 ? engine : `${engine}: memory gives ${speeds.join(" to ")} GB/s`;
}

/** y = read * x, cut to the panel. */
export function roofLine(read: number, x0: number, x1: number, y0: number, y1: number): [number, number][] {
  const from = Math.max(x0, y0 / read), to = Math.min(x1, y1 / read);
  return from < to ? [[from, read * from], [to, read * to]] : [];
}
