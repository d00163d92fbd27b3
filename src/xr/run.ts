/** A run of a scenario, from its options to the document of `rsparse xr run --json`. */
import { type Dial, dialExecutor } from "./dial.ts";
import { type Executor, type Policy, tableExecutor } from "./executor.ts";
import { costsOf, type Hardware } from "./hardware.ts";
import type { Frame } from "./load.ts";
import type { LogEntry, Reason, Request } from "./log.ts";
import type { Order } from "./queues.ts";
import type { RealDetails } from "./recorded.ts";
import { type ReplyReport, reportReplies } from "./reply.ts";
import type { Scenario } from "./scenario.ts";
import {
  DEFAULT_E_MAX_MJ,
  DEFAULT_K,
  type Lateness,
  latenessOf,
  type ModelScore,
  scoreLog,
  type Scores,
} from "./scores.ts";
import { simulate } from "./simulate.ts";
import { type Mode, namesOn, type Switches, switchesOfMode, type SwitchName } from "./switches.ts";

/** XRBench's, ms. */
export const DEFAULT_MAX_JITTER_MS = 0.01;

/** How a scenario is run and scored; what is absent is XRBench's. */
export interface RunOptions {
  /** Default compat. */
  readonly mode?: Exclude<Mode, "real">;
  /** Default those of the mode. */
  readonly switches?: Switches;
  /** Default 1. */
  readonly seed?: number;
  /** Default the scenario's. */
  readonly durationMs?: number;
  /** Default by name. */
  readonly order?: Order;
  /** Default latency. */
  readonly policy?: Policy;
  /** Default 0.01. */
  readonly maxJitterMs?: number;
  /** Default 15 a millisecond. */
  readonly k?: number;
  /** Default 1500. */
  readonly eMaxMJ?: number;
  /** Drives the run instead of what is drawn: a trace's. */
  readonly frames?: readonly Frame[];
  /** Models whose sparsity a policy chooses; their latencies are the dial's, not the hardware's. */
  readonly dials?: readonly NamedDial[];
}

/** A model with a dial. */
export interface NamedDial extends Dial {
  /** Which model's. */
  readonly model: string;
  /** What its policy is called. */
  readonly name: string;
  /** What its levels are of; for the result. */
  readonly source?: unknown;
}

/** A line of the log: model, frame, accelerator, injection, dispatch, deadline and completion in ms, energy in mJ, dropped, reason. */
export type LogRow = readonly [
  model: string,
  frame: number,
  accelerator: number,
  injectionMs: number,
  dispatchMs: number,
  deadlineMs: number,
  completionMs: number,
  energyMJ: number,
  dropped: 0 | 1,
  reason: Reason,
];

/** One model of a result. */
export interface ModelResult extends ModelScore {
  /** Frames, or tokens of replies, that were asked for. */
  readonly nRequired: number;
  /** Of them executed in time. */
  readonly hitRate: number;
  /** Where its frames are replies. */
  readonly replies?: ReplyReport;
}

/** What a policy did with a model's dial. */
export interface DialReport {
  /** Which model's. */
  readonly model: string;
  /** As `createPolicy` has it. */
  readonly policy: string;
  /** What the levels' table is of; null where nobody said. */
  readonly source: unknown;
  /** The table as the run left it, and how many frames ran nearest to each level's sparsity. */
  readonly levels: readonly {
    readonly sparsity: number;
    readonly fidelity: number;
    readonly latencyMs: number;
    readonly frames: number;
  }[];
}

/** The document of a run, without what only the program knows. */
export interface RunResult {
  /** Of this document. */
  readonly format: 1;
  /** How it was run. */
  readonly mode: Mode;
  /** Those that are on. */
  readonly switches: readonly SwitchName[];
  /** The scenario's id. */
  readonly scenario: string;
  /** A setting's name; what models were bound to in real mode; null where latencies were read from a file. */
  readonly setting: string | Readonly<Record<string, string>> | null;
  /** Null where nothing was drawn. */
  readonly seed: number | null;
  /** Frames that would arrive later were not asked for. */
  readonly durationMs: number;
  /** Default 15 a millisecond. */
  readonly k: number;
  /** Default 1500. */
  readonly eMaxMJ: number;
  /** Default by name. */
  readonly order: Order;
  /** Default latency. */
  readonly policy: Policy;
  /** Default 0.01. */
  readonly maxJitterMs: number;
  /** From 0 to 100. */
  readonly overall: number;
  /** Frames executed in time, of all that were asked for. */
  readonly hitRate: number;
  /** Frames dropped, of all that were asked for. */
  readonly dropRate: number;
  /** Over all executed frames. */
  readonly latenessMs: Lateness | null;
  /** Models of which no frame was asked for. */
  readonly notRequired: readonly string[];
  /** By name, in the scenario's order. */
  readonly models: Readonly<Record<string, ModelResult>>;
  /** Share of the time that each accelerator was busy, until the last job ended. */
  readonly utilisation: readonly number[];
  /** Where a policy chose the sparsity of a model. */
  readonly dials?: readonly DialReport[];
  /** In the order in which frames were executed to their end or dropped. */
  readonly log: readonly LogRow[];
  /** Largest difference of completions from a simulation with the measured latencies; null where nothing was measured. */
  readonly replayDifferenceMs: number | null;
  /** What only a real run has. */
  readonly real?: RealDetails;
}

/** What a run came to. */
export interface Run {
  /** The document. */
  readonly result: RunResult;
  /** The same, by name. */
  readonly scores: Scores;
  /** In the order in which frames were executed to their end or dropped. */
  readonly log: readonly LogEntry[];
  /** What entered. */
  readonly requests: readonly Request[];
}

/** Runs a scenario on a setting of some hardware. */
export function runScenario(
  scenario: Scenario,
  setting: string,
  hardware: Hardware,
  options: RunOptions = {},
): Run {
  const { mode = "compat", switches = switchesOfMode(mode), policy = "latency", dials = [] } = options;
  const costs = costsOf(scenario, setting, hardware, new Set(dials.map(({ model }) => model)));
  const executor = tableExecutor(costs, policy, switches.float32);
  return runOn(scenario, executor, { ...options, setting });
}

/**
 * Runs a scenario on whatever executes its jobs.
 *
 * @throws {RangeError} If a dial is of a model that there is not.
 */
export function runOn(
  scenario: Scenario,
  inner: Executor,
  options: RunOptions & { readonly setting: RunResult["setting"] },
): Run {
  const {
    mode = "compat",
    switches = switchesOfMode(mode),
    durationMs = scenario.durationMs,
    order = "name",
  } = options;
  const { maxJitterMs = DEFAULT_MAX_JITTER_MS, frames, dials = [] } = options, seed = options.seed ?? 1;
  const executor = dials.length === 0 ? inner : dialExecutor(inner, numbered(scenario, dials));
  const { log, requests } = simulate(scenario, executor, {
    seed,
    durationMs,
    maxJitterMs,
    switches,
    order,
    frames,
  });
  return resultOf(scenario, { log, requests, accelerators: executor.accelerators }, {
    ...options,
    mode,
    switches,
    durationMs,
    order,
    maxJitterMs,
    seed: frames === undefined ? seed : options.seed ?? null,
  });
}

function numbered({ models }: Scenario, dials: readonly NamedDial[]): Map<number, Dial> {
  return new Map(dials.map((dial) => {
    const number = models.findIndex(({ name }) => name === dial.model);
    if (number >= 0) return [number, dial];
    const known = models.map(({ name }) => name).join(", ");
    throw new RangeError(`dial: no model ${JSON.stringify(dial.model)} here: one of ${known} wanted`);
  }));
}

/** Scores a log, whoever left it, and makes the document of it. */
export function resultOf(
  scenario: Scenario,
  { log, requests, accelerators }: {
    readonly log: readonly LogEntry[];
    readonly requests: readonly Request[];
    readonly accelerators: number;
  },
  options: Omit<RunOptions, "mode" | "seed" | "frames"> & {
    readonly mode: Mode;
    readonly switches: Switches;
    readonly seed: number | null;
    readonly setting: RunResult["setting"];
  },
): Run {
  const { mode, switches, k = DEFAULT_K, eMaxMJ = DEFAULT_E_MAX_MJ } = options;
  const durationMs = options.durationMs ?? scenario.durationMs;
  const scores = scoreLog(log, { k, eMaxMJ, switches });
  const asked = new Map<string, number>();
  for (const { model } of requests) asked.set(model, (asked.get(model) ?? 0) + 1);
  const models = scenario.models.flatMap(({ name, reply }): [string, ModelResult][] => {
    const score = scores.models.get(name), count = asked.get(name) ?? 0;
    if (score === undefined) return [];
    const nRequired = count * (reply?.tokens ?? 1), hitRate = (score.nExecuted - score.nLate) / nRequired;
    if (reply === undefined) return [[name, { ...score, nRequired, hitRate }]];
    const replies = reportReplies(reply, log.filter(({ model }) => model === name), count);
    return [[name, { ...score, nRequired, hitRate, replies }]];
  });
  const total = models.reduce((sum, [, { nRequired }]) => sum + nRequired, 0) +
    requests.filter(({ model }) => !scores.models.has(model)).length;
  const sum = (of: (model: ModelResult) => number): number =>
    models.reduce((total, [, model]) => total + of(model), 0);
  const share = (count: number): number => total === 0 ? 0 : count / total;
  const executed = log.filter(({ dropped }) => !dropped);
  const endMs = executed.reduce((end, { completionMs }) => Math.max(end, completionMs), durationMs);
  const busyMs = Array.from({ length: accelerators }, () => 0);
  for (const { accelerator, dispatchMs, completionMs } of executed) {
    busyMs[accelerator]! += completionMs - dispatchMs;
  }
  return {
    scores,
    log,
    requests,
    result: {
      format: 1,
      mode,
      switches: namesOn(switches),
      scenario: scenario.id,
      setting: options.setting,
      seed: options.seed,
      durationMs,
      k,
      eMaxMJ,
      order: options.order ?? "name",
      policy: options.policy ?? "latency",
      maxJitterMs: options.maxJitterMs ?? DEFAULT_MAX_JITTER_MS,
      overall: scores.overall,
      hitRate: share(sum(({ nExecuted, nLate }) => nExecuted - nLate)),
      dropRate: share(sum(({ nDropped }) => nDropped)),
      latenessMs: latenessOf(executed.map(({ completionMs, deadlineMs }) => completionMs - deadlineMs)),
      notRequired: switches.silentAbsent
        ? []
        : scenario.models.map(({ name }) => name).filter((name) => !scores.models.has(name)),
      models: Object.fromEntries(models),
      utilisation: busyMs.map((ms) => ms / endMs),
      ...(options.dials !== undefined && options.dials.length > 0 &&
        { dials: options.dials.map((dial) => reportDial(dial, log)) }),
      log: log.map((entry) => rowOf(entry, mode)),
      replayDifferenceMs: null,
    },
  };
}

function reportDial({ model, name, table, source = null }: NamedDial, log: readonly LogEntry[]): DialReport {
  const counts = table.levels.map(() => 0);
  for (const entry of log) {
    if (entry.model !== model || entry.sparsity === undefined) continue;
    const { sparsity } = entry;
    const distance = table.levels.map((level) => Math.abs(level.sparsity - sparsity));
    counts[distance.indexOf(Math.min(...distance))]!++;
  }
  return {
    model,
    policy: name,
    source,
    levels: table.levels.map(({ sparsity, fidelity, latencyMs }, i) => ({
      sparsity,
      fidelity,
      latencyMs,
      frames: counts[i]!,
    })),
  };
}

/** The harness has dropped frames on accelerator 0. */
function rowOf(entry: LogEntry, mode: Mode): LogRow {
  const { model, frame, dropped, injectionMs, dispatchMs, deadlineMs, completionMs, energyMJ, reason } =
    entry;
  const accelerator = dropped && mode === "compat" ? 0 : entry.accelerator;
  return [
    model,
    frame,
    accelerator,
    injectionMs,
    dispatchMs,
    deadlineMs,
    completionMs,
    energyMJ,
    dropped ? 1 : 0,
    reason,
  ];
}
