/** Models whose sparsity is chosen frame by frame, or token by token, so that they meet their deadlines: an executor around another. */
import type { LatencyTable } from "../deadline/levels.ts";
import type { Policy } from "../deadline/policy.ts";
import { type Profile, TokenRun, wholeToken } from "../deadline/token.ts";
import { type Executor, type Job, waitingBeside } from "./executor.ts";

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
  /** Of replies: what prompts took. Token 0 of reply i comes with the i-th, which runs dense: no policy is asked. */
  readonly prompts?: readonly number[];
  /** What parts of tokens took, for policies that look again between blocks. */
  readonly parts?: {
    readonly profile: Profile;
    /** By level, by frame as `latencies`, by part. */
    readonly ms: readonly (readonly (readonly number[])[])[];
  };
}

/**
 * Lets policies choose the level of some models' frames; the rest is another executor's.
 *
 * @param dials by the model's number in the scenario
 * @throws {RangeError} If a level has no latencies.
 */
export function dialExecutor(inner: Executor, dials: ReadonlyMap<number, Dial>): Executor {
  const profiles = new Map<number, Profile>(), promptMs = new Map<number, number>();
  for (const [model, { table, latencies, parts, prompts }] of dials) {
    const missing = table.levels.findIndex((_, i) => (latencies[i]?.length ?? 0) === 0);
    if (missing >= 0) {
      throw new RangeError(
        `latencies: none of level ${missing} of model ${model} found, at least one wanted`,
      );
    }
    profiles.set(model, parts?.profile ?? wholeToken(table.levels.length));
    if (prompts !== undefined && prompts.length > 0) {
      promptMs.set(model, Float64Array.from(prompts).sort()[Math.floor(prompts.length / 2)]!);
    }
  }
  const runs = new Map<Job, TokenRun>();
  /** When the last token of a model ended. */
  const ends = new Map<number, { readonly frame: number; readonly endMs: number }>();
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
      const { model, frame, accelerator, nowMs, deadlineMs, token } = job, dial = dials.get(model);
      if (dial === undefined) return inner.run(job);
      const { prompts, energyMJ } = dial;
      if (token === 0 && prompts !== undefined && prompts.length > 0) {
        const latencyMs = prompts[job.reply! % prompts.length]!;
        return { latencyMs, energyMJ: energyMJ?.[0] ?? 0, accuracy: 1, sparsity: 0 };
      }
      const waiting = waitingBeside(job.waiting(), {
        model,
        nowMs,
        latencyOf: (other) =>
          other.token === undefined && promptMs.has(other.model)
            ? promptMs.get(other.model)!
            : expectedMs(other.model, accelerator),
      });
      const before = ends.get(model);
      const run = new TokenRun(dial.policy, dial.table, profiles.get(model)!, {
        leftMs: deadlineMs - nowMs,
        waiting,
        ...(before !== undefined && token !== undefined && before.frame === frame - 1 && token > 0 &&
          { gapMs: nowMs - before.endMs }),
      });
      runs.set(job, run);
      const latencyMs = timeOf(dial, run, frame, deadlineMs - nowMs);
      return {
        latencyMs,
        energyMJ: energyMJ?.[run.level] ?? 0,
        accuracy: run.fidelity,
        sparsity: run.sparsity,
      };
    },
    ended(job, endMs) {
      const run = runs.get(job);
      if (job.token !== undefined) ends.set(job.model, { frame: job.frame, endMs });
      if (run === undefined) return inner.ended?.(job, endMs);
      runs.delete(job);
      run.end(endMs - job.nowMs, endMs <= job.deadlineMs);
    },
  };
}

/** What a frame takes: the recorded whole, or part by part where a policy looks again. */
function timeOf({ policy, latencies, parts }: Dial, run: TokenRun, frame: number, leftMs: number): number {
  if (parts === undefined || policy.again === undefined) {
    const own = latencies[run.levelOf(0, leftMs)]!;
    return own[frame % own.length]!;
  }
  let ms = 0;
  for (let part = 0; part < parts.profile.blocks.length; part++) {
    const own = parts.ms[run.levelOf(part, leftMs - ms)]!;
    ms += own[frame % own.length]![part]!;
  }
  return ms;
}
