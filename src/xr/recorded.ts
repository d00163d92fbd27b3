/** What a real run leaves beside its log, and its scores again from a trace file, without what was run. */
import { XrError } from "../errors.ts";
import type { LogEntry, Reason } from "./log.ts";
import type { Order } from "./queues.ts";
import { tokenNumber } from "./reply.ts";
import { type LogRow, resultOf, type Run } from "./run.ts";
import type { Scenario } from "./scenario.ts";
import { switchesOfMode } from "./switches.ts";
import type { Trace } from "./trace.ts";

/** Percentiles of times in ms, by nearest rank. */
export interface TimeSpread {
  /** Half are no larger. */
  readonly p50: number;
  /** 19 of 20 are no larger. */
  readonly p95: number;
  /** 99 of 100 are no larger. */
  readonly p99: number;
  /** The largest. */
  readonly max: number;
}

/** Gaps of over 0.1 ms and a step of the clock in a loop of 0.2 s that only read the clock, in the loader's thread before the run. */
export interface ClockGaps {
  /** How many. */
  readonly perSecond: number;
  /** Share of the time that was lost in them. */
  readonly share: number;
  /** The longest, ms. */
  readonly longestMs: number;
}

/** What a model was bound to. */
export interface BoundModel {
  /** As `--bind` has it. */
  readonly binding: string;
  /** Multiply-adds of a frame; null where its work is not products. */
  readonly macs: number | null;
  /** By accelerator: what was declared, or the fastest of some runs before the first frame. */
  readonly expectedMs: readonly number[];
  /** What it ran on, as the first accelerator tells. */
  readonly info: Readonly<Record<string, unknown>>;
}

/** One accelerator of a real run. */
export interface RealAccelerator {
  /** Jobs that it ended. */
  readonly jobs: number;
  /** From their begin to their end. */
  readonly busyMs: number;
  /** When and why it was lost, and what ran on it then; null where it was not. */
  readonly lost: {
    readonly atMs: number;
    readonly reason: string;
    readonly job: { readonly model: string; readonly frame: number } | null;
  } | null;
}

/** A job: model, frame, accelerator, then in ms when it was to enter, entered, was handed over, began, ended and was known to have; the sparsity that was chosen. */
export type RealJobRow = readonly [
  model: string,
  frame: number,
  accelerator: number,
  arrivalMs: number,
  injectionMs: number,
  dispatchMs: number,
  startMs: number,
  endMs: number,
  noticedMs: number,
  sparsity: number | null,
];

/** What only a real run has. */
export interface RealDetails {
  /** What was asked for, as `--tier` has it. */
  readonly tier: string;
  /** Multiplies every rate. */
  readonly rate: number;
  /** The setting whose table declared lengths are from; null where none was given. */
  readonly hardware: string | null;
  /** Null; or why there was none, and so one accelerator that is driven by messages. */
  readonly noSharedMemory: string | null;
  /** What energy scores mean. */
  readonly energy: string;
  /** Least step of the clock. */
  readonly clockStepMs: number;
  /** How far clocks of two threads may be apart. */
  readonly clockErrorMs: number;
  /** What the machine takes from a thread that only reads the clock: the floor of schedule errors. */
  readonly clockGaps: ClockGaps;
  /** By model. */
  readonly bindings: Readonly<Record<string, BoundModel>>;
  /** By number. */
  readonly accelerators: readonly RealAccelerator[];
  /** Injection minus arrival of all frames: how well the schedule was kept. */
  readonly scheduleErrorMs: TimeSpread | null;
  /** From hand-over to begin. */
  readonly handoverMs: TimeSpread | null;
  /** From end to when the loader knew. */
  readonly noticeMs: TimeSpread | null;
  /** Against the corrected simulator with the measured latencies: differences of completions, and frames that only one of both executed. Null where an accelerator was lost. */
  readonly replay: { readonly differenceMs: TimeSpread | null; readonly otherFrames: number } | null;
  /** In the order in which the loader knew of their end. */
  readonly jobs: readonly RealJobRow[];
}

/** A real run in a trace file. */
export interface RecordedRun {
  /** Who was served first. */
  readonly order: Order;
  /** Of the real-time score. */
  readonly k: number;
  /** Of the energy score. */
  readonly eMaxMJ: number;
  /** Width of the jitter. */
  readonly maxJitterMs: number;
  /** By model. */
  readonly setting: Readonly<Record<string, string>>;
  /** The result's, and the accuracy of frames where it is not 1. */
  readonly log: readonly (readonly [...LogRow, accuracy?: number, sparsity?: number])[];
  /** The result's. */
  readonly replayDifferenceMs: number | null;
  /** The result's `real`. */
  readonly details: RealDetails;
}

/** Nearest ranks; null where there is nothing. */
export function percentilesOf(values: readonly number[]): TimeSpread | null {
  if (values.length === 0) return null;
  const sorted = Float64Array.from(values).sort();
  const rank = (share: number): number => sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)]!;
  return { p50: rank(0.5), p95: rank(0.95), p99: rank(0.99), max: rank(1) };
}

/** A run as a trace file keeps it. */
export function recordRun({ result, log }: Run, details: RealDetails): RecordedRun {
  const { order, k, eMaxMJ, maxJitterMs, setting, replayDifferenceMs } = result;
  return {
    order,
    k,
    eMaxMJ,
    maxJitterMs,
    setting: setting as Readonly<Record<string, string>>,
    log: log.map(({ accuracy, sparsity }, i) =>
      accuracy === undefined
        ? result.log[i]!
        : sparsity === undefined
        ? [...result.log[i]!, accuracy] as const
        : [...result.log[i]!, accuracy, sparsity] as const
    ),
    replayDifferenceMs,
    details,
  };
}

/**
 * Scores a recorded run again: the same result, byte for byte, but for another `k` or energy limit.
 *
 * @param source what the trace is called in errors
 * @throws {XrError} If the log is not of the frames that were asked for, each once.
 */
export function scoreRecorded(
  { scenario, frames, seed, recorded }: Trace & { readonly recorded: RecordedRun },
  options: { readonly k?: number; readonly eMaxMJ?: number } = {},
  source: string = "trace",
): Run {
  const log = entriesOf(scenario, frames, recorded, source);
  const { order, setting, maxJitterMs, replayDifferenceMs, details } = recorded;
  const requests = frames.map(({ model, frame, injectionMs, deadlineMs }) => ({
    model: scenario.models[model]!.name,
    frame,
    arrivalMs: injectionMs,
    deadlineMs,
  }));
  const run = resultOf(scenario, { log, requests, accelerators: details.accelerators.length }, {
    mode: "real",
    switches: switchesOfMode("real"),
    durationMs: scenario.durationMs,
    seed,
    order,
    maxJitterMs,
    setting,
    k: options.k ?? recorded.k,
    eMaxMJ: options.eMaxMJ ?? recorded.eMaxMJ,
  });
  return { ...run, result: { ...run.result, replayDifferenceMs, real: details } };
}

function entriesOf(
  { models }: Scenario,
  frames: Trace["frames"],
  { log, details }: RecordedRun,
  source: string,
): LogEntry[] {
  const left = new Map(frames.flatMap(({ model, frame, deadlineMs }): [string, number | null][] => {
    const { name, reply } = models[model]!;
    if (reply === undefined) return [[`${frame} of ${name}`, deadlineMs]];
    // deadlines of tokens count from when the reply was ready, which only the run knows
    return Array.from(
      { length: reply.tokens },
      (_, i) => [`${tokenNumber(reply, frame, i)} of ${name}`, null],
    );
  }));
  const fault = (i: number, detail: string): XrError =>
    new XrError("trace", source, `real.log[${i}]`, detail);
  const entries = log.map((row, i): LogEntry => {
    const [model, frame, accelerator, injectionMs, dispatchMs, deadlineMs, completionMs, energyMJ] = row;
    const [, , , , , , , , dropped, reason, accuracy, sparsity] = row, key = `${frame} of ${model}`;
    const wanted = left.get(key);
    if (wanted === undefined || (wanted !== null && wanted !== deadlineMs)) {
      throw fault(i, `frame ${key} at ${deadlineMs} ms found, one that was asked for wanted, each once`);
    }
    left.delete(key);
    if (!dropped && !(accelerator >= 0 && accelerator < details.accelerators.length)) {
      throw fault(i, `accelerator ${accelerator} found, below ${details.accelerators.length} wanted`);
    }
    return {
      model,
      frame,
      accelerator,
      injectionMs,
      dispatchMs,
      deadlineMs,
      completionMs,
      energyMJ,
      dropped: dropped === 1,
      reason: reason as Reason,
      ...(accuracy !== undefined && { accuracy }),
      ...(sparsity !== undefined && { sparsity }),
    };
  });
  const missing = left.keys().next();
  if (!missing.done) {
    throw new XrError("trace", source, "real.log", `frame ${missing.value} is missing, which was asked for`);
  }
  return entries;
}
