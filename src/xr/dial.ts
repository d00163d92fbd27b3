/** Models whose sparsity is chosen frame by frame, so that they meet their deadlines: an executor around another. */
import type { LatencyTable } from "../deadline/levels.ts";
import type { Policy } from "../deadline/policy.ts";
import type { Executor, Job } from "./executor.ts";

/** A model with a dial. */
export interface Dial {
  /** Its levels, and what they are expected to take. */
  readonly table: LatencyTable;
  /** Over `table`. */
  readonly policy: Policy;
  /** By level, what frames took where it was recorded; frame i takes the i-th, and those after the last from the first on. */
  readonly latencies: readonly (readonly number[])[];
  /** By level; 0 where it is absent. */
  readonly energyMJ?: readonly number[];
}

/**
 * Lets policies choose the level of some models' frames; the rest is another executor's.
 *
 * @param dials by the model's number in the scenario
 * @throws {RangeError} If a level has no latencies.
 */
export function dialExecutor(inner: Executor, dials: ReadonlyMap<number, Dial>): Executor {
  for (const [model, { table, latencies }] of dials) {
    const missing = table.levels.findIndex((_, i) => (latencies[i]?.length ?? 0) === 0);
    if (missing >= 0) {
      throw new RangeError(
        `latencies: none of level ${missing} of model ${model} found, at least one wanted`,
      );
    }
  }
  const levels = new Map<Job, number>();
  const expectedMs = (model: number, accelerator: number): number => {
    const dial = dials.get(model);
    if (dial === undefined) return inner.expectedMs(model, accelerator);
    return dial.table.levels.reduce((least, { latencyMs }) => Math.min(least, latencyMs), Infinity);
  };
  return {
    accelerators: inner.accelerators,
    expectedMs,
    preference: (model, frame, accelerator) =>
      dials.has(model) ? 0 : inner.preference(model, frame, accelerator),
    run(job) {
      const { model, frame, accelerator, nowMs, deadlineMs } = job, dial = dials.get(model);
      if (dial === undefined) return inner.run(job);
      const waiting = job.waiting().map((other) => ({
        leftMs: other.deadlineMs - nowMs,
        latencyMs: expectedMs(other.model, accelerator),
      }));
      const level = dial.policy.choose({ leftMs: deadlineMs - nowMs, waiting }), own = dial.latencies[level]!;
      levels.set(job, level);
      return {
        latencyMs: own[frame % own.length]!,
        energyMJ: dial.energyMJ?.[level] ?? 0,
        accuracy: dial.table.levels[level]!.fidelity,
      };
    },
    ended(job, endMs) {
      const level = levels.get(job);
      if (level === undefined) return inner.ended?.(job, endMs);
      levels.delete(job);
      dials.get(job.model)!.policy.observe(level, endMs - job.nowMs, endMs <= job.deadlineMs);
    },
  };
}
