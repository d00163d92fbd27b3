/** Scores of a log, whoever left it: XRBench's, with or without its defects, and beside them what a score hides. */
import { exp } from "../runtime/exp.ts";
import type { LogEntry } from "./log.ts";
import type { Switches } from "./switches.ts";

/** What scores are made with. */
export interface ScoreOptions {
  /** Steepness of the real-time score, per millisecond. Default 15. */
  readonly k?: number;
  /** Energy at which the energy score is 0. Default 1500. */
  readonly eMaxMJ?: number;
  /** Which defects scores have. */
  readonly switches: Pick<Switches, "qoeSquared" | "unclampedEnergy" | "float32">;
}

/** Completion minus deadline, by nearest rank; negative is early. */
export interface Lateness {
  /** Half are no later. */
  readonly p50: number;
  /** 19 of 20 are no later. */
  readonly p95: number;
  /** 99 of 100 are no later. */
  readonly p99: number;
}

/** One model's scores; all but `latenessMs` from 0 to 1 or counts. */
export interface ModelScore {
  /** Mean real-time score of the frames that were executed; 0 where none was. */
  readonly rt: number;
  /** Mean energy score of them. */
  readonly energy: number;
  /** Mean accuracy of them; 1 where nothing measures it. */
  readonly accuracy: number;
  /** Share of the logged frames that were not dropped. */
  readonly qoe: number;
  /** As `scoreLog` has it. */
  readonly score: number;
  /** Frames that were executed. */
  readonly nExecuted: number;
  /** Frames that were dropped. */
  readonly nDropped: number;
  /** Executed after their deadline. */
  readonly nLate: number;
  /** Of executed frames; null where there are none. */
  readonly latenessMs: Lateness | null;
}

/** A log's scores. */
export interface Scores {
  /** 100 times the mean of the models' scores; 0 where nothing was logged. */
  readonly overall: number;
  /** In the order of each model's first line. */
  readonly models: ReadonlyMap<string, ModelScore>;
}

/** XRBench's. */
export const DEFAULT_K = 15;
/** XRBench's, mJ. */
export const DEFAULT_E_MAX_MJ = 1500;

/**
 * The real-time score of a delay: 1 / (1 + exp(k * delay)).
 *
 * @param delayMs completion minus deadline
 * @example
 * ```ts
 * import assert from "node:assert/strict";
 * assert.equal(realTimeScore(0), 0.5);
 * assert.ok(Math.abs(realTimeScore(-0.1) - 0.8176) < 1e-4);
 * ```
 */
export function realTimeScore(delayMs: number, k: number = DEFAULT_K, float32: boolean = false): number {
  if (!float32) return 1 / (1 + exp(k * delayMs));
  const { fround } = Math;
  return fround(1 / fround(1 + fround(exp(fround(k * delayMs)))));
}

/** The energy score: (eMax - energy) / eMax, in [0, 1] unless `unclamped`. */
export function energyScore(
  energyMJ: number,
  eMaxMJ: number = DEFAULT_E_MAX_MJ,
  { unclampedEnergy, float32 }: Pick<Switches, "unclampedEnergy" | "float32"> = {
    unclampedEnergy: false,
    float32: false,
  },
): number {
  const share = (eMaxMJ - energyMJ) / eMaxMJ;
  const score = unclampedEnergy ? share : Math.min(1, Math.max(0, share));
  return float32 ? Math.fround(score) : score;
}

/**
 * Scores a log.
 *
 * A model's score is the sum of Rt * En * Acc over its executed frames, divided by its lines, and with `qoeSquared` multiplied by the share that was
 * executed, a second time.
 */
export function scoreLog(log: readonly LogEntry[], options: ScoreOptions): Scores {
  const { switches: { float32 } } = options, round = float32 ? Math.fround : (x: number): number => x;
  const byModel = new Map<string, LogEntry[]>();
  for (const entry of log) {
    const entries = byModel.get(entry.model);
    if (entries === undefined) byModel.set(entry.model, [entry]);
    else entries.push(entry);
  }
  const models = new Map([...byModel].map(([name, entries]) => [name, scoreModel(entries, options)]));
  let sum = 0;
  for (const { score } of models.values()) sum = round(sum + score);
  const overall = models.size === 0 ? 0 : round(round(sum / models.size) * 100);
  return { overall, models };
}

function scoreModel(entries: readonly LogEntry[], options: ScoreOptions): ModelScore {
  const { k = DEFAULT_K, eMaxMJ = DEFAULT_E_MAX_MJ, switches } = options, { float32 } = switches;
  const round = float32 ? Math.fround : (x: number): number => x;
  const executed = entries.filter(({ dropped }) => !dropped), nExecuted = executed.length;
  const nDropped = entries.length - nExecuted;
  let sum = 0, sumRt = 0, sumEnergy = 0, sumAccuracy = 0;
  const lateness: number[] = [];
  for (const { completionMs, deadlineMs, energyMJ, accuracy = 1 } of executed) {
    const delay = round(completionMs - deadlineMs);
    const rt = realTimeScore(delay, k, float32), energy = energyScore(energyMJ, eMaxMJ, switches);
    sum = round(sum + round(round(rt * energy) * accuracy));
    sumRt += rt;
    sumEnergy += energy;
    sumAccuracy += accuracy;
    lateness.push(delay);
  }
  const mean = (total: number): number => nExecuted === 0 ? 0 : total / nExecuted;
  const qoe = round(1 - round(nDropped / entries.length)), share = round(sum / entries.length);
  return {
    rt: mean(sumRt),
    energy: mean(sumEnergy),
    accuracy: nExecuted === 0 ? 1 : sumAccuracy / nExecuted,
    qoe,
    score: switches.qoeSquared ? round(share * qoe) : share,
    nExecuted,
    nDropped,
    nLate: lateness.filter((delay) => delay > 0).length,
    latenessMs: latenessOf(lateness),
  };
}

/** Nearest ranks; null where there is nothing. */
export function latenessOf(delays: readonly number[]): Lateness | null {
  if (delays.length === 0) return null;
  const sorted = Float64Array.from(delays).sort();
  const rank = (share: number): number => sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)]!;
  return { p50: rank(0.5), p95: rank(0.95), p99: rank(0.99) };
}
