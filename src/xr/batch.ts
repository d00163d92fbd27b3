/** Batches: many runs from one JSON value. */
import type { Policy } from "./executor.ts";
import { type Run, type RunOptions, runScenario } from "./run.ts";
import { scheduleCsv, summaryCsv } from "./csv.ts";
import type { Hardware } from "./hardware.ts";
import { type Scenario, withProbability } from "./scenario.ts";
import SCHEMA from "./schema/batch.json" with { type: "json" };
import { Shape } from "./schema.ts";
import type { Order } from "./queues.ts";
import { readSwitches } from "./switches.ts";

/** One run that is asked for; null is the same as absent. */
export interface BatchEntry {
  /** Id of the scenario, or its file. */
  readonly scenario: string;
  /** The setting's name. */
  readonly setting: string;
  /** From 0 to 2147483646. */
  readonly seed: number;
  /** Of every model that has a dependency. */
  readonly probability?: number | null;
  /** Default compat. */
  readonly mode?: "compat" | "corrected" | null;
  /** As `readSwitches` has them, or names with true or false, which change those of the mode. */
  readonly switches?: readonly string[] | Readonly<Record<string, boolean>> | null;
  /** Default by name. */
  readonly order?: Order | null;
  /** Default latency. */
  readonly policy?: Policy | null;
  /** Default the scenario's. */
  readonly durationMs?: number | null;
  /** Default 0.01. */
  readonly maxJitterMs?: number | null;
  /** Default 15 a millisecond. */
  readonly k?: number | null;
  /** Default 1500. */
  readonly eMaxMJ?: number | null;
}

const SHAPE = new Shape("batch", SCHEMA);

/**
 * Reads a batch from its JSON value.
 *
 * @param source the file, or what it is called in errors
 * @throws {XrError} If it does not fit the schema.
 */
export function parseBatch(value: unknown, source: string = "batch"): readonly BatchEntry[] {
  SHAPE.check(value, source);
  return value as readonly BatchEntry[];
}

/** Runs an entry on its scenario. */
export function runEntry(entry: BatchEntry, scenario: Scenario, hardware: Hardware): Run {
  const { setting, seed, probability, switches } = entry, mode = entry.mode ?? "compat";
  const changes = Array.isArray(switches) || switches == null
    ? switches ?? []
    : Object.entries(switches).map(([name, on]) => `${name}=${on ? "on" : "off"}`);
  const options: RunOptions = {
    mode,
    switches: readSwitches(mode, changes),
    seed,
    order: entry.order ?? undefined,
    policy: entry.policy ?? undefined,
    durationMs: entry.durationMs ?? undefined,
    maxJitterMs: entry.maxJitterMs ?? undefined,
    k: entry.k ?? undefined,
    eMaxMJ: entry.eMaxMJ ?? undefined,
  };
  const asked = probability == null ? scenario : withProbability(scenario, probability);
  return runScenario(asked, setting, hardware, options);
}

/** A run's two files. */
export function csvOf({ scores, log, result }: Run): { readonly summary: string; readonly schedule: string } {
  return {
    summary: summaryCsv(scores),
    schedule: scheduleCsv(log, {
      float32: result.switches.includes("float32"),
      reasons: result.mode !== "compat",
    }),
  };
}
