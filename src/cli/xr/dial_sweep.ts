/** `rsparse xr dial`: the dial against fixed levels, simulated on recorded tokens; and a few cells by the clock. */
import { VERSION } from "../../version.ts";
import {
  compareDial,
  DIAL_LOADS,
  type DialCell,
  type DialComparison,
  type DialLoad,
  type DialOutcome,
  type Estimate,
  estimate,
  nameOfLoad,
  sweepDial,
} from "../../xr/mod.ts";
import { UsageError } from "../errors.ts";
import type { RunOptions } from "../model_option.ts";
import type { CliContext } from "../output.ts";
import { writeFile } from "../output_file.ts";
import { formatTable } from "../table.ts";
import { type Levels, readLevels } from "./dial.ts";
import { prepareFolder } from "./folder.ts";
import { inPieces } from "./sources.ts";

/** What was typed. */
export interface DialSweepCommandOptions extends RunOptions {
  readonly levels?: string;
  readonly seeds?: number;
  readonly firstSeed?: number;
  readonly duration?: number;
  readonly real?: string;
  readonly text?: string;
  readonly out: string;
}

/** Beside fixed levels. */
const POLICIES = ["slack", "queue", "feedback", "layer", "plan"];

/** A cell as the document has it: means with intervals, and of policies what they gain. */
interface CellDocument extends DialLoad {
  readonly policy: string;
  readonly hitRate: Estimate;
  readonly fidelity: Estimate;
  readonly score: Estimate;
  readonly allHitRate: Estimate;
  readonly overall: Estimate;
  readonly gain: DialComparison | null;
  readonly runs: readonly DialOutcome[];
}

/** Runs everything, prints the gains, and writes `dial.json`, `dial.svg` and `dial.csv`. */
export async function dialSweep(context: CliContext, options: DialSweepCommandOptions): Promise<void> {
  const { platform, signal } = context, { seeds: count = 20, firstSeed = 1 } = options;
  const out = options.out.replace(/(?<=.)[/\\]$/, "");
  await prepareFolder(platform, out, "dial.json");
  const levels = await readLevels(context, options.levels);
  const seeds = Array.from({ length: count }, (_, i) => firstSeed + i);
  if (options.real !== undefined) return await runReal(context, options, levels, seeds, out);
  const cells: DialCell[] = [], total = DIAL_LOADS.length * (levels.file.levels.length + POLICIES.length);
  const choices = {
    levels: levels.file,
    loads: DIAL_LOADS,
    policies: POLICIES,
    seeds,
    durationMs: options.duration,
  };
  await inPieces(context, "dial", sweepDial(choices), total, (cell) => cells.push(cell));
  if (signal.aborted) return;
  const documents = cells.map((cell) => documentOf(cell, cells));
  const { dialFigure } = await import("../../xr/plots.ts");
  const { model, recipe, machine, runtime } = levels.source as Record<
    string,
    Record<string, unknown> | undefined
  >;
  const note = `${model?.["name"] ?? "a model"} in ${model?.["dtype"] ?? "?"}, ${
    recipe?.["method"] ?? "no recipe"
  }, ${runtime?.["name"] ?? "?"} on ${machine?.["cpu"] ?? "?"}; ${count} runs a point`;
  const figure = await dialFigure(cells, note);
  const document = {
    format: 1,
    rsparse: VERSION,
    levels: levels.source,
    table: levels.file.levels,
    seeds,
    durationMs: options.duration ?? 10_000,
    cells: documents,
  };
  const encoder = new TextEncoder();
  await writeFile(platform, `${out}/dial.json`, [encoder.encode(`${JSON.stringify(document)}\n`)]);
  await writeFile(platform, `${out}/dial.csv`, [encoder.encode(figure.csv)]);
  await writeFile(platform, `${out}/dial.svg`, [encoder.encode(figure.svg)]);
  if (context.options.json) await context.printJson(document);
  else await context.print(tableOf(documents));
}

function documentOf(cell: DialCell, cells: readonly DialCell[]): CellDocument {
  const isFixed = (other: DialCell): boolean => other.policy.startsWith("fixed:");
  const of = (measure: keyof DialOutcome): Estimate => estimate(cell.runs.map((run) => run[measure]));
  return {
    ...cell.load,
    policy: cell.policy,
    hitRate: of("hitRate"),
    fidelity: of("fidelity"),
    score: of("score"),
    allHitRate: of("allHitRate"),
    overall: of("overall"),
    gain: isFixed(cell)
      ? null
      : compareDial(cell, cells.filter((other) => other.load === cell.load && isFixed(other))),
    runs: cell.runs.map(rounded),
  };
}

/** Six digits are enough to go on with. */
function rounded(run: DialOutcome): DialOutcome {
  return Object.fromEntries(
    Object.entries(run).map(([name, value]) => [name, Number((value as number).toPrecision(6))]),
  ) as unknown as DialOutcome;
}

function tableOf(cells: readonly CellDocument[]): string {
  const show = ({ mean, low, high }: Estimate): string =>
    `${mean >= 0 ? "+" : ""}${mean.toFixed(3)} (${low.toFixed(3)} to ${high.toFixed(3)})`;
  return formatTable([
    [
      "load",
      "policy",
      "hit rate",
      "fidelity",
      "score",
      "hit rate at equal fidelity",
      "score at equal hit rate",
      "score to the best level's",
    ],
    ...cells.map((cell) => [
      nameOfLoad(cell),
      cell.policy,
      ...[cell.hitRate, cell.fidelity, cell.score].map(({ mean }) => mean.toFixed(3)),
      ...cell.gain === null ? ["", "", ""] : [
        show(cell.gain.hitRate),
        cell.gain.score === null ? "no level hits as often" : show(cell.gain.score),
        show(cell.gain.bestScore),
      ],
    ]),
  ]);
}

/** Runs by the clock what `--real` names: `RATE,BESIDE` of one load, all levels and policies on the same requests. */
async function runReal(
  context: CliContext,
  options: DialSweepCommandOptions,
  levels: Levels,
  seeds: readonly number[],
  out: string,
): Promise<void> {
  const [rate, beside, ...rest] = options.real!.split(",").map(Number);
  if (!(rate! > 0) || !(beside! >= 0 && beside! < 1) || rest.length > 0) {
    throw new UsageError(
      `Cannot take --real ${options.real}: a load such as 1.1,0 or 0.8,0.2 wanted: rate, and share beside`,
    );
  }
  if (options.text === undefined) {
    throw new UsageError("Cannot run for real without prompts: give --text FILE");
  }
  const { realDial } = await import("./dial_real.ts");
  await realDial(context, options, {
    load: { rate: rate!, probability: 0.25, beside: beside! },
    levels,
    seeds,
    out,
  });
}
