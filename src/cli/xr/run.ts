/** `rsparse xr run`: one run, a batch, or the suite. */
import { VERSION } from "../../version.ts";
import {
  csvOf,
  type Mode,
  parseBatch,
  parseTrace,
  readSwitches,
  type Run,
  runEntry,
  runOn,
  type RunOptions,
  runScenario,
  type Scenario,
  scoreRecorded,
  suiteOf,
  sweep,
  type Switches,
  traceOf,
  withProbability,
} from "../../xr/mod.ts";
import { UsageError } from "../errors.ts";
import { type CliContext, readJsonInput } from "../output.ts";
import { checkOutput, writeFile } from "../output_file.ts";
import { formatTable } from "../table.ts";
import { DEFAULT_SETTING, dialsOf } from "./dial.ts";
import { prepareFolder } from "./folder.ts";
import type { RealCommandOptions, RealMade } from "./real.ts";
import {
  described,
  inPieces,
  readHardware,
  readJson,
  readScenario,
  readSweep,
  refuse,
  type SweepCommandOptions,
} from "./sources.ts";

/** What was typed. */
export interface RunCommandOptions extends SweepCommandOptions, RealCommandOptions {
  readonly mode?: Mode;
  readonly seed?: number;
  readonly probability?: number;
  readonly switch?: readonly string[];
  readonly order?: "name" | "edf" | "slack";
  readonly policy?: "latency" | "edp";
  readonly duration?: number;
  readonly jitter?: number;
  readonly k?: number;
  readonly eMax?: number;
  readonly dial?: string;
  readonly levels?: string;
  readonly csv?: string;
  readonly trace?: string;
  readonly replay?: string;
  readonly batch?: boolean;
  readonly suite?: boolean;
}

/** Runs what the options ask for. */
export async function run(context: CliContext, options: RunCommandOptions): Promise<void> {
  const { batch, suite, replay } = options;
  if (Number(batch ?? false) + Number(suite ?? false) + Number(replay !== undefined) > 1) {
    throw new UsageError("Cannot take more than one of --batch, --suite and --replay");
  }
  if (options.mode !== "real") {
    const own = ["bind", "tier", "accelerators", "rate", "maxRate", "target", "model", "recipe"];
    refuse(options, own, "only --mode real has it");
  } else if (batch || suite) {
    throw new UsageError(`Cannot take --mode real with ${batch ? "--batch" : "--suite"}: it is for one run`);
  }
  if (batch) return await runBatch(context, options);
  if (suite) return await runSuite(context, options);
  refuse(options, ["seeds"], "one run has one seed: give --seed, or --suite for many");
  if (options.csv !== undefined) await prepareFolder(context.platform, options.csv, "summary.csv");
  if (options.trace !== undefined) await checkOutput(context.platform, options.trace, "the trace");
  const found = replay === undefined
    ? await runOne(context, options)
    : await runAgain(context, options, replay);
  if (found === null) return;
  const { made, scenario } = found;
  const encoder = new TextEncoder(), { csv, trace } = options;
  if (csv !== undefined) {
    const { summary, schedule } = csvOf(made);
    await writeFile(context.platform, `${csv}/summary.csv`, [encoder.encode(summary)]);
    await writeFile(context.platform, `${csv}/schedule.csv`, [encoder.encode(schedule)]);
  }
  if (trace !== undefined) {
    const { seed, durationMs, utilisation } = made.result;
    const file = found.real?.made.trace ??
      traceOf(scenario, { ...made, seed, durationMs, accelerators: utilisation.length });
    await writeFile(context.platform, trace, [encoder.encode(`${JSON.stringify(file)}\n`)]);
  }
  if (context.options.json) {
    const search = found.real?.search ?? null;
    await context.printJson({ ...documentOf(context, made), ...search !== null && { maxRate: search } });
  } else await context.print(await textOf(found));
  if (found.real?.failure) throw found.real.failure;
}

interface Made {
  readonly made: Run;
  readonly scenario: Scenario;
  /** Of a run that was real just now. */
  readonly real?: RealMade;
}

/** Null where Ctrl-C ended it. */
async function runOne(context: CliContext, options: RunCommandOptions): Promise<Made | null> {
  const { scenario: name, probability, mode } = options;
  if (name === undefined) throw missing("scenario");
  const read = await readScenario(context, name), hardware = await readHardware(context, options.hardware);
  const scenario = probability === undefined ? read : withProbability(read, probability);
  const isOwn = scenario.models.some(({ reply }) => reply !== undefined);
  // with a number of accelerators a real run asks for no table
  const counted = mode === "real" && options.accelerators !== undefined;
  const setting = options.setting ?? (isOwn && !counted ? DEFAULT_SETTING : undefined);
  if (setting === undefined && mode !== "real") throw missing("setting");
  const dials = await dialsOf(context, scenario, options);
  try {
    if (mode === "real") {
      const { runReally } = await import("./real.ts");
      const real = await runReally(context, scenario, {
        ...runOptions(options),
        dials: options.dial === undefined ? [] : dials,
      }, options);
      return real && { made: real.made, scenario, real };
    }
    return { made: runScenario(scenario, setting!, hardware, { ...runOptions(options), dials }), scenario };
  } catch (error) {
    throw described(error, setting === undefined ? scenario.id : `${scenario.id} on ${setting}`);
  }
}

function missing(option: string): UsageError {
  return new UsageError(`Cannot run: --${option} is missing: \`rsparse xr list\` names what there is`);
}

/** Runs a trace: what was asked for is in it, so nothing is drawn. */
async function runAgain(context: CliContext, options: RunCommandOptions, replay: string): Promise<Made> {
  const { setting, hardware } = options;
  refuse(
    options,
    ["scenario", "seed", "probability", "jitter", "duration"],
    "a trace has what was asked for",
  );
  refuse(options, ["dial", "levels"], "a trace has what its tokens took");
  if (setting === undefined) {
    refuse(options, ["hardware", "policy"], "without --setting a trace's own latencies are taken");
  }
  const trace = parseTrace(await readJson(context, replay), replay), { recorded } = trace;
  if (recorded !== null && setting === undefined && (options.mode ?? "real") === "real") {
    refuse(
      options,
      ["order", "switch", "bind", "tier", "accelerators", "rate", "maxRate", "target", "model", "recipe"],
      "a real run's own record is scored: give --mode corrected to simulate it",
    );
    const made = scoreRecorded({ ...trace, recorded }, { k: options.k, eMaxMJ: options.eMax }, replay);
    return { made, scenario: trace.scenario };
  }
  if (options.mode === "real") {
    throw new UsageError(
      `Cannot run ${replay} in real mode: ${
        recorded === null ? "it is no real run's" : "with --setting it is simulated"
      }: give --mode corrected`,
    );
  }
  const switches = runOptions({ ...options, mode: options.mode ?? "corrected" }).switches!;
  if (switches.eventRandom || switches.injectAtEvents || switches.floorPeriods) {
    throw new UsageError(
      "Cannot run a trace with eventRandom, injectAtEvents or floorPeriods: it has its arrivals: give --mode corrected",
    );
  }
  const { scenario, frames, executor, seed } = trace;
  const again = {
    ...runOptions(options),
    mode: "corrected" as const,
    switches,
    frames,
    seed: seed ?? undefined,
  };
  try {
    if (setting !== undefined) {
      return { made: runScenario(scenario, setting, await readHardware(context, hardware), again), scenario };
    }
    if (executor === null) {
      throw new UsageError(`Cannot run ${replay}: it has no latencies: give --setting`);
    }
    return { made: runOn(scenario, executor, { ...again, setting: null }), scenario };
  } catch (error) {
    throw described(error, replay);
  }
}

function runOptions(options: RunCommandOptions): RunOptions {
  const { seed, order, policy, duration, jitter, k, eMax } = options;
  // a real run is drawn and scored as a corrected one
  const mode = options.mode === "real" ? "corrected" : options.mode ?? "compat";
  return {
    mode,
    switches: switchesOf(options),
    seed,
    order,
    policy,
    durationMs: duration,
    maxJitterMs: jitter,
    k,
    eMaxMJ: eMax,
  };
}

function switchesOf({ mode = "compat", switch: changes }: RunCommandOptions): Switches {
  try {
    return readSwitches(mode, changes ?? []);
  } catch (error) {
    throw new UsageError(`Cannot take --switch: ${(error as Error).message}`, { cause: error });
  }
}

async function runBatch(context: CliContext, options: RunCommandOptions): Promise<void> {
  const own = Object.keys(options).filter((name) => name !== "batch" && name !== "hardware");
  refuse(options, own, "each entry of a batch says it for itself");
  const value = await readJsonInput(
    context,
    "an array of {scenario, setting, seed}",
    (found): found is unknown[] => Array.isArray(found),
  );
  const hardware = await readHardware(context, options.hardware);
  let entries;
  try {
    entries = parseBatch(value, "stdin");
  } catch (error) {
    throw new UsageError((error as Error).message, { cause: error });
  }
  const scenarios = new Map<string, Scenario>();
  for (const [i, { scenario }] of entries.entries()) {
    if (scenarios.has(scenario)) continue;
    try {
      scenarios.set(scenario, await readScenario(context, scenario));
    } catch (error) {
      throw new Error(`Cannot run entry ${i} of the batch: ${(error as Error).message}`, { cause: error });
    }
  }
  const documents: object[] = [];
  const runs = function* (): Generator<Run> {
    for (const [i, entry] of entries.entries()) {
      try {
        yield runEntry(entry, scenarios.get(entry.scenario)!, hardware);
      } catch (error) {
        throw new Error(`Cannot run entry ${i} of the batch: ${(error as Error).message}`, { cause: error });
      }
    }
  };
  await inPieces(context, "batch", runs(), entries.length, (made) => {
    documents.push({ ...documentOf(context, made), ...csvOf(made) });
  });
  await context.printJson(documents);
}

async function runSuite(context: CliContext, options: RunCommandOptions): Promise<void> {
  refuse(options, ["seed", "csv", "trace", "probability"], "the suite is of many runs");
  refuse(options, ["dial", "levels"], "the suite is XRBench's, which has no replies");
  const { scenarios, settings, hardware, seeds } = await readSweep(context, options);
  const choices = runOptions(options);
  const cells: Parameters<typeof suiteOf>[0][number][] = [];
  await inPieces(
    context,
    "suite",
    sweep({ ...choices, scenarios, settings, hardware, seeds }),
    scenarios.length * settings.length,
    (cell) => cells.push(cell),
  );
  if (context.signal.aborted) return;
  const rows = settings.map((setting) => ({
    setting,
    style: hardware.settings.get(setting)?.style ?? null,
    suite: 100 * suiteOf(cells, setting).overall,
    scenarios: Object.fromEntries(
      cells.filter((cell) => cell.setting === setting).map(({ scenario, overall, least, most }) => [
        scenario,
        { mean: 100 * overall, min: 100 * least, max: 100 * most },
      ]),
    ),
  }));
  if (context.options.json) {
    const { mode, switches } = choices,
      on = Object.entries(switches!).filter(([, value]) => value).map(([name]) => name);
    return await context.printJson({ format: 1, mode, switches: on, seeds: seeds.length, settings: rows });
  }
  await context.print(formatTable([
    ["setting", "style", "suite", ...scenarios.map(({ id }) => id)],
    ...rows.map(({ setting, style, suite, scenarios: found }) => [
      setting,
      style ?? "",
      suite.toFixed(2),
      ...scenarios.map(({ id }) => found[id]!.mean.toFixed(2)),
    ]),
  ]));
  context.note(`means over seeds 1 to ${seeds.length}`);
}

/** The document, with what ran it. */
function documentOf({ platform }: CliContext, { result }: Run): object {
  return {
    ...result,
    machine: { cpu: platform.cpu(), processors: platform.processors() },
    runtime: { name: platform.runtime, rsparse: VERSION },
  };
}

/** What became of replies, and of their dials. */
function repliesText({ models, dials = [] }: Run["result"]): string[] {
  const spread = (found: { readonly p50: number; readonly p95: number } | null): string =>
    found === null ? "none" : `p50 ${found.p50.toFixed(1)} p95 ${found.p95.toFixed(1)} ms`;
  const replies = Object.entries(models).flatMap(([name, { replies: found, accuracy }]) =>
    found === undefined ? [] : [
      `${name}: ${found.finished} of ${found.replies} replies to their end, ${
        (100 * found.onTime).toFixed(1)
      } % of tokens on time; first token ${spread(found.timeToFirstTokenMs)}, then ${
        found.tokensPerSecond?.toFixed(1) ?? "no"
      } tokens/s; replies ${spread(found.replyMs)}; fidelity ${accuracy.toFixed(4)}`,
    ]
  );
  return [
    ...replies,
    ...dials.map(({ model, policy, levels }) =>
      `${model}'s dial, ${policy}: ${
        levels.map(({ sparsity, frames }) => `${frames} at ${sparsity}`).join(", ")
      }`
    ),
  ];
}

async function textOf({ made, real }: Made): Promise<string> {
  const { result } = made;
  const percent = (share: number): string => `${(100 * share).toFixed(1)} %`;
  const { models, overall, hitRate, dropRate, notRequired, utilisation, latenessMs } = result;
  const rows = Object.entries(models).map(([name, model]) => [
    name,
    ...[model.rt, model.energy, model.qoe, model.score].map((score) => score.toFixed(4)),
    String(model.nRequired),
    String(model.nExecuted),
    String(model.nDropped),
    String(model.nLate),
    model.latenessMs === null ? "" : model.latenessMs.p95.toFixed(3),
  ]);
  return [
    formatTable([
      [
        "model",
        "real time",
        "energy",
        "experience",
        "score",
        "required",
        "executed",
        "dropped",
        "late",
        "p95 lateness ms",
      ],
      ...rows,
    ]),
    "",
    ...repliesText(result),
    `score ${overall.toFixed(4)}; hit rate ${percent(hitRate)}, dropped ${percent(dropRate)}` +
    (latenessMs === null
      ? ""
      : `, lateness p50 ${latenessMs.p50.toFixed(3)} p99 ${latenessMs.p99.toFixed(3)} ms`) +
    `; accelerators busy ${utilisation.map(percent).join(", ")}`,
    ...notRequired.length > 0 ? [`not required: ${notRequired.join(", ")}`] : [],
    ...result.real === undefined
      ? []
      : (await import("./real.ts")).realLines(result.real, real?.search ?? null),
  ].join("\n");
}
