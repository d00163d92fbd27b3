/**
 * Trace files: the frames that were asked for, with arrivals and deadlines, so that any system can be driven by the same load; and what jobs took where it
 * was run, so that the run can be gone through again without the system.
 */
import { XrError } from "../errors.ts";
import { quote } from "../format/limits.ts";
import type { Executor } from "./executor.ts";
import type { Frame } from "./load.ts";
import type { LogEntry, Request } from "./log.ts";
import type { RecordedRun } from "./recorded.ts";
import type { Reply } from "./reply.ts";
import { parseScenario, type Scenario, upstreamOf } from "./scenario.ts";
import SCHEMA from "./schema/trace.json" with { type: "json" };
import { Shape } from "./schema.ts";

/** Model, frame or token, accelerator, latency in ms, energy in mJ; where they were measured accuracy and sparsity. */
export type JobRow =
  | readonly [string, number, number, number, number]
  | readonly [string, number, number, number, number, number]
  | readonly [string, number, number, number, number, number, number];

/** A trace file's content. */
export interface TraceFile {
  /** Of this file. */
  readonly format: 1;
  /** The scenario's id. */
  readonly scenario: string;
  /** What it was drawn from; null where it was not drawn. */
  readonly seed?: number | null;
  /** How long frames arrive. */
  readonly durationMs: number;
  /** As the scenario has them. */
  readonly models: readonly {
    readonly name: string;
    readonly fps: number;
    readonly probability?: number;
    readonly dependencies?: readonly string[];
    /** As the scenario has it. */
    readonly reply?: Reply;
  }[];
  /** Model, frame, arrival and deadline in ms. */
  readonly requests: readonly (readonly [string, number, number, number])[];
  /** How many there were, where jobs were recorded. */
  readonly accelerators?: number;
  /** What was executed. */
  readonly jobs?: readonly JobRow[];
  /** The whole of a real run, to be scored again. */
  readonly real?: RecordedRun;
}

/** A trace, ready to drive a simulation. */
export interface Trace {
  /** Of its models. */
  readonly scenario: Scenario;
  /** What it was drawn from; null where it was not drawn. */
  readonly seed: number | null;
  /** By arrival. */
  readonly frames: readonly Frame[];
  /** Jobs that take what was recorded, on the accelerators where they were; null where none were. */
  readonly executor: Executor | null;
  /** The whole of a real run; null where it is of none. */
  readonly recorded: RecordedRun | null;
}

/** The schema of trace files, JSON Schema 2020-12. */
export const TRACE_SCHEMA: object = SCHEMA;

const SHAPE = new Shape("trace", TRACE_SCHEMA);

/** A run as a trace file has it. */
export function traceOf(
  scenario: Scenario,
  { requests, log, seed, durationMs, accelerators }: {
    readonly requests: readonly Request[];
    readonly log: readonly LogEntry[];
    readonly seed: number | null;
    readonly durationMs: number;
    readonly accelerators: number;
  },
): TraceFile {
  return {
    format: 1,
    scenario: scenario.id,
    seed,
    durationMs,
    models: scenario.models.map(({ name, fps, probability, dependencies, reply }) => ({
      name,
      fps,
      probability,
      dependencies,
      ...(reply && { reply }),
    })),
    requests: requests.map((
      { model, frame, arrivalMs, deadlineMs },
    ) => [model, frame, arrivalMs, deadlineMs]),
    accelerators,
    jobs: log.filter(({ dropped }) => !dropped).map(jobRow),
  };
}

function jobRow(entry: LogEntry): JobRow {
  const { model, frame, accelerator, dispatchMs, completionMs, energyMJ, accuracy, sparsity } = entry;
  const row = [model, frame, accelerator, completionMs - dispatchMs, energyMJ] as const;
  if (accuracy === undefined) return row;
  return sparsity === undefined ? [...row, accuracy] : [...row, accuracy, sparsity];
}

/**
 * Reads a trace file from its JSON value.
 *
 * @param source the file, or what it is called in errors
 * @throws {XrError} If it does not fit the schema, names what it does not have, or asks for a frame whose upstream frame it does not ask for.
 */
export function parseTrace(value: unknown, source: string = "trace"): Trace {
  SHAPE.check(value, source);
  const { scenario: id, durationMs, models, seed, requests, jobs, accelerators, real } = value as TraceFile;
  const scenario = parseScenario({ id, durationMs, models }, source);
  const numbers = new Map(scenario.models.map(({ name }, i) => [name, i]));
  const numberOf = (name: string, path: string): number => {
    const number = numbers.get(name);
    if (number !== undefined) return number;
    throw new XrError(
      "trace",
      source,
      path,
      `no model ${quote(name)} here: one of ${[...numbers.keys()].join(", ")} wanted`,
    );
  };
  const frames = requests.map(([name, frame, injectionMs, deadlineMs], i) => ({
    model: numberOf(name, `requests[${i}][0]`),
    frame,
    injectionMs,
    deadlineMs,
  }));
  checkFrames(scenario, frames, source);
  const recorded = jobs?.map(([name, frame, accelerator, latencyMs, energyMJ, accuracy, sparsity], i) => {
    if (accelerator >= (accelerators ?? 1024)) {
      throw new XrError(
        "trace",
        source,
        `jobs[${i}][2]`,
        `${accelerator} found, below ${accelerators} wanted`,
      );
    }
    return {
      model: numberOf(name, `jobs[${i}][0]`),
      frame,
      accelerator,
      latencyMs,
      energyMJ,
      ...(accuracy !== undefined && { accuracy }),
      ...(sparsity !== undefined && { sparsity }),
    };
  });
  return {
    scenario,
    seed: seed ?? null,
    frames: frames.sort((a, b) => a.injectionMs - b.injectionMs || a.model - b.model || a.frame - b.frame),
    recorded: real ?? null,
    executor: recorded === undefined ? null : replayExecutor(scenario, recorded, accelerators, source),
  };
}

function checkFrames(scenario: Scenario, frames: readonly Frame[], source: string): void {
  const upstream = upstreamOf(scenario), known = scenario.models.map(() => new Set<number>());
  frames.forEach(({ model, frame }, i) => {
    if (known[model]!.has(frame)) {
      throw new XrError(
        "trace",
        source,
        `requests[${i}]`,
        `frame ${frame} of ${scenario.models[model]!.name} found a second time`,
      );
    }
    known[model]!.add(frame);
  });
  frames.forEach(({ model, frame }, i) => {
    const missing = upstream[model]!.find((other) => !known[other]!.has(frame));
    if (missing === undefined) return;
    const [name, other] = [model, missing].map((number) => scenario.models[number]!.name);
    throw new XrError(
      "trace",
      source,
      `requests[${i}]`,
      `${name} needs frame ${frame} of ${other}, which is not asked for`,
    );
  });
}

/** What a job took. */
export interface RecordedJob {
  readonly model: number;
  readonly frame: number;
  readonly accelerator: number;
  readonly latencyMs: number;
  readonly energyMJ: number;
  readonly accuracy?: number;
  readonly sparsity?: number;
}

/**
 * Jobs that take what was recorded, on the accelerator where they were if it is idle. One that was not recorded, because it was dropped, takes what the median
 * job of its model took.
 *
 * @param otherwise what one of a model without recorded jobs takes; absent: that is an error
 */
export function replayExecutor(
  { models }: Scenario,
  jobs: readonly RecordedJob[],
  accelerators: number | undefined,
  source: string,
  otherwise?: (model: number) => number,
): Executor {
  const byFrame = models.map(() => new Map<number, RecordedJob>());
  for (const job of jobs) byFrame[job.model]!.set(job.frame, job);
  const medians = byFrame.map((recorded) => {
    const sorted = [...recorded.values()].sort((a, b) => a.latencyMs - b.latencyMs);
    return sorted[Math.floor(sorted.length / 2)];
  });
  return {
    accelerators: accelerators ?? jobs.reduce((most, { accelerator }) => Math.max(most, accelerator), 0) + 1,
    expectedMs: (model) => medians[model]?.latencyMs ?? 0,
    preference: (model, frame, accelerator) =>
      byFrame[model]!.get(frame)?.accelerator === accelerator ? 0 : 1,
    run: ({ model, frame }) => {
      const job = byFrame[model]!.get(frame) ?? medians[model];
      if (job !== undefined) return job;
      if (otherwise !== undefined) return { latencyMs: otherwise(model), energyMJ: 0 };
      const detail = `no job of ${
        models[model]!.name
      } found, whose frame ${frame} would run: run it on a setting`;
      throw new XrError("trace", source, "jobs", detail);
    },
  };
}
