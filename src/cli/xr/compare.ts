/** `rsparse xr compare`: results side by side, or what each repaired defect does. */
import { compareResults, type FixEffect, fixEffects, parseResults, type RunResult } from "../../xr/mod.ts";
import { UsageError } from "../errors.ts";
import type { CliContext } from "../output.ts";
import { formatTable } from "../table.ts";
import { baseName } from "../text_file.ts";
import { inPieces, readJson, readSweep, refuse, type SweepCommandOptions } from "./sources.ts";

/** What was typed. */
export interface ComparisonOptions extends SweepCommandOptions {
  readonly fixes?: boolean;
}

/** A result and what it is called: its file, and where the file has several its number. */
export interface NamedRun {
  readonly name: string;
  readonly result: RunResult;
}

/** Compares. */
export async function compare(
  context: CliContext,
  files: readonly string[],
  options: ComparisonOptions,
): Promise<void> {
  if (options.fixes) {
    if (files.length > 0) throw new UsageError("Cannot take both files and --fixes");
    return await compareFixes(context, options);
  }
  refuse(
    options,
    ["scenario", "setting", "hardware", "seeds"],
    "files have what was run: it belongs to --fixes",
  );
  const runs = await readRuns(context, files);
  const rows = compareResults(runs.map(({ result }) => result));
  if (context.options.json) {
    return await context.printJson({
      runs: runs.map(({ name, result: { log: _, ...result } }) => ({ name, ...result })),
      rows,
    });
  }
  const show = (value: number | null): string => value === null ? "" : value.toFixed(4);
  await context.print(formatTable([
    ["", "", ...runs.map(({ name }) => name)],
    ...rows.map(({ model, what, values }) => [model ?? "", what, ...values.map(show)]),
  ]));
}

/** The results in some files. */
export async function readRuns(context: CliContext, files: readonly string[]): Promise<NamedRun[]> {
  if (files.length === 0) {
    throw new UsageError("Cannot go on without results: name files of `rsparse xr run --json`");
  }
  const runs: NamedRun[] = [];
  for (const file of files) {
    const results = parseResults(await readJson(context, file), file),
      name = baseName(file).replace(/\.json$/, "");
    results.forEach((result, i) => runs.push({ name: results.length === 1 ? name : `${name}-${i}`, result }));
  }
  // the same name from two folders: their order tells them apart
  return runs.map((run, i) => {
    const before = runs.slice(0, i).filter(({ name }) => name === run.name).length;
    return before === 0 ? run : { ...run, name: `${run.name} (${before + 1})` };
  });
}

async function compareFixes(context: CliContext, options: ComparisonOptions): Promise<void> {
  const { scenarios, settings, hardware, seeds } = await readSweep(context, options);
  const effects: FixEffect[] = [];
  const total = scenarios.length * settings.length;
  await inPieces(
    context,
    "fixes",
    fixEffects({ scenarios, settings, hardware, seeds }),
    30 * total,
    (effect) => {
      if (effect !== null) effects.push(effect);
    },
  );
  if (effects.length === 0) return;
  const runs = total * seeds.length;
  if (context.options.json) return await context.printJson({ runs, seeds: seeds.length, effects });
  const show = ({ mean, least, most, changed }: FixEffect["repaired"]): string[] => [
    signed(mean),
    signed(least),
    signed(most),
    `${changed}`,
  ];
  await context.print(formatTable([
    [
      "switch",
      "harness, repaired",
      "least",
      "most",
      "changed",
      "corrected, with it",
      "least",
      "most",
      "changed",
    ],
    ...effects.map(({ name, repaired, broken }) => [name, ...show(repaired), ...show(broken)]),
  ]));
  context.note(
    `differences of scores over ${runs} runs: every scenario on every setting, seeds 1 to ${seeds.length}`,
  );
}

function signed(x: number): string {
  const text = x.toFixed(2);
  return x >= 0.005 ? `+${text}` : text.replace(/^-0\.00$/, "0.00");
}
