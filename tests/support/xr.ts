/** Golden cases of XRBench under `shared/golden/xrbench`, and how they are run. */
import { readFileSync } from "node:fs";
import {
  builtinHardware,
  builtinScenario,
  costsOf,
  type LogEntry,
  type Mode,
  type Order,
  parseScenario,
  type Policy,
  readSwitches,
  scoreLog,
  type Scores,
  simulate,
  type Simulation,
  type Switches,
  tableExecutor,
  withProbability,
} from "../../src/xr/mod.ts";
import { requireShared } from "./shared.ts";

/** A small case, as `microcases.json` and its like have it. */
export interface GoldenCase {
  readonly name: string;
  readonly seed: number;
  readonly ms: number;
  readonly policy: Policy;
  readonly order?: Order;
  readonly maxJitterMs?: number;
  readonly models: readonly {
    readonly name: string;
    readonly fps: number;
    readonly prob: number;
    readonly deps: readonly string[];
  }[];
  readonly cost: readonly Readonly<
    Record<string, { readonly cycles: number; readonly energy_nJ: number; readonly edp: number }>
  >[];
  readonly log: readonly (readonly (string | number)[])[];
  readonly scores: Readonly<Record<string, Readonly<Record<string, number>>>>;
  readonly overall: number;
}

/** A run of one of the seven scenarios. */
export interface GoldenRun {
  readonly scenario: string;
  readonly setting: string;
  readonly seed: number;
  readonly probability?: number | null;
  readonly order?: Order;
  readonly maxJitterMs?: number;
  readonly summary: string;
  readonly schedule: string;
  readonly required: number;
  readonly models: Readonly<Record<string, Readonly<Record<string, number>>>>;
  readonly overall: number;
}

/** What a run came to. */
export interface Outcome extends Simulation {
  readonly scores: Scores;
}

/** A JSON file. */
export function readGolden<T>(name: string): T {
  return JSON.parse(readFileSync(requireShared(`golden/xrbench/${name}`), "utf8"));
}

/** The lines of a gzipped file of JSON lines. */
export async function readGoldenLines<T>(name: string): Promise<T[]> {
  const bytes = readFileSync(requireShared(`golden/xrbench/${name}`)) as Uint8Array<ArrayBuffer>;
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return (await new Response(stream).text()).trim().split("\n").map((line) => JSON.parse(line));
}

/** Runs a small case. */
export function runCase(golden: GoldenCase, mode: Mode): Outcome {
  const { seed, ms, policy, order = "name", maxJitterMs = 0.01, cost } = golden;
  const models = golden.models.map(({ name, fps, prob, deps }) => ({
    name,
    fps,
    probability: prob,
    dependencies: deps,
  }));
  const switches = readSwitches(mode, []);
  const costs = cost.map((accelerator) =>
    models.map(({ name }) => {
      const { cycles, energy_nJ, edp } = accelerator[name]!;
      return { cycles, energyNJ: energy_nJ, layerEdp: edp };
    })
  );
  const run = simulate(parseScenario({ models }), tableExecutor(costs, policy, switches.float32), {
    seed,
    durationMs: ms,
    maxJitterMs,
    switches,
    order,
  });
  return { ...run, scores: scoreLog(run.log, { switches }) };
}

/** Runs one of the seven scenarios on one of the 26 settings. */
export async function runGolden(
  { scenario, setting, seed, probability = null, order = "name", maxJitterMs = 0.01 }: Omit<
    GoldenRun,
    "summary" | "schedule" | "required" | "models" | "overall"
  >,
  switches: Switches,
): Promise<Outcome> {
  const builtin = await builtinScenario(scenario);
  const asked = probability === null ? builtin : withProbability(builtin, probability);
  const costs = costsOf(asked, setting, await builtinHardware());
  const run = simulate(asked, tableExecutor(costs, "latency", switches.float32), {
    seed,
    durationMs: asked.durationMs,
    maxJitterMs,
    switches,
    order,
  });
  return { ...run, scores: scoreLog(run.log, { switches }) };
}

/** A line of a log as golden files have it; frames that were dropped are on accelerator `none`. */
export function goldenRow(entry: LogEntry, none: 0 | -1): (string | number)[] {
  return [
    entry.model,
    entry.frame,
    entry.dropped ? none : entry.accelerator,
    entry.injectionMs,
    entry.dispatchMs,
    entry.deadlineMs,
    entry.completionMs,
    entry.energyMJ,
    Number(entry.dropped),
  ];
}
