/** `rsparse xr plot`: pictures of results, or the paper's figure 5. */
import { type Cell, sweep } from "../../xr/mod.ts";
import { type Figure, figure5, scoresFigure, timelineFigure } from "../../xr/plots.ts";
import { UsageError } from "../errors.ts";
import type { CliContext } from "../output.ts";
import { writeFile } from "../output_file.ts";
import { formatTable } from "../table.ts";
import { readRuns } from "./compare.ts";
import { prepareFolder } from "./folder.ts";
import { inPieces, readSweep, refuse, type SweepCommandOptions } from "./sources.ts";

/** What was typed. */
export interface PlotOptions extends SweepCommandOptions {
  readonly out: string;
  readonly figure5?: boolean;
  readonly mode?: "compat" | "corrected";
}

/** Draws each figure and writes it when it is done. */
export async function plot(
  context: CliContext,
  files: readonly string[],
  options: PlotOptions,
): Promise<void> {
  const { platform, signal } = context,
    out = options.out.replace(/(?<=.)[/\\]$/, ""),
    encoder = new TextEncoder();
  const figures = options.figure5
    ? await drawFigure5(context, files, options)
    : await drawRuns(context, files, options);
  await prepareFolder(platform, out, "figure.svg");
  const written: { name: string; path: string; csv: string; title: string }[] = [];
  for await (const { name, title, svg, csv } of figures) {
    if (signal.aborted) break;
    const path = `${out}/${name}.svg`, numbers = `${out}/${name}.csv`;
    await writeFile(platform, numbers, [encoder.encode(csv)]);
    await writeFile(platform, path, [encoder.encode(svg)]);
    written.push({ name, path, csv: numbers, title });
  }
  if (context.options.json) await context.printJson({ figures: written });
  else {await context.print(
      formatTable([["figure", "file"], ...written.map(({ name, path }) => [name, path])]),
    );}
}

async function drawRuns(
  context: CliContext,
  files: readonly string[],
  options: PlotOptions,
): Promise<AsyncIterable<Figure>> {
  refuse(
    options,
    ["scenario", "setting", "hardware", "seeds", "mode"],
    "files have what was run: it belongs to --figure5",
  );
  const runs = await readRuns(context, files);
  return (async function* () {
    yield await scoresFigure(runs);
    for (const { name, result } of runs) {
      const figure = await timelineFigure(result, name);
      yield { ...figure, name: `${figure.name}-${name.replace(/[^\w.-]+/g, "_")}` };
    }
  })();
}

async function drawFigure5(
  context: CliContext,
  files: readonly string[],
  options: PlotOptions,
): Promise<AsyncIterable<Figure>> {
  if (files.length > 0) throw new UsageError("Cannot take both files and --figure5");
  const { scenarios, settings, hardware, seeds } = await readSweep(context, options);
  const cells: Cell[] = [], { mode } = options;
  await inPieces(
    context,
    "figure 5",
    sweep({ mode, scenarios, settings, hardware, seeds }),
    scenarios.length * settings.length,
    (cell) => cells.push(cell),
  );
  return (async function* () {
    if (!context.signal.aborted) {
      yield await figure5(
        cells,
        scenarios,
        hardware,
        `${mode ?? "compat"}, means over seeds 1 to ${seeds.length}`,
      );
    }
  })();
}
