/**
 * The corrected simulator by the clock: jobs of one accelerator really run, one after the other, on this thread. Declared models spin; a language model decodes. What the simulator then
 * knows of times is what the clock said.
 */
import { TokenRun } from "../deadline/token.ts";
import type { Policy } from "../deadline/policy.ts";
import type { LatencyTable } from "../deadline/levels.ts";
import type { Profile } from "../deadline/token.ts";
import { type Executor, type Job, waitingBeside } from "./executor.ts";
import type { ReplyRunner } from "./lm.ts";

/** A language model that is run. */
export interface LiveModel {
  /** Its number in the scenario. */
  readonly model: number;
  /** What decodes. */
  readonly runner: ReplyRunner;
  /** Its levels, and what they are expected to take. */
  readonly table: LatencyTable;
  /** Over `table`. */
  readonly policy: Policy;
  /** Parts between which a policy may look again. */
  readonly profile: Profile;
  /** How many the model has. */
  readonly blocks: number;
  /** By block, the part that begins with it; absent where none does. */
  readonly partOf: ReadonlyMap<number, number>;
  /** What a prompt is expected to take. */
  readonly promptMs: number;
}

/** A token as it ran, to be run again and compared with the dense model. */
export interface LiveToken {
  /** Which reply's. */
  readonly reply: number;
  /** What came out. */
  readonly id: number;
  /** Of each block; of token 0 nothing, which came with the prompt. */
  readonly sparsities: readonly number[];
}

/**
 * One accelerator, this thread. Make it when the run begins: the clock starts then.
 *
 * @param declaredMs by model, what declared ones take
 * @param onToken is handed each token when it has ended
 */
export function liveExecutor(
  declaredMs: readonly number[],
  live: LiveModel,
  onToken: (token: LiveToken) => void,
): Executor {
  const { model, runner, table, policy, profile, blocks, partOf, promptMs } = live;
  const startMs = performance.now();
  const now = (): number => performance.now() - startMs;
  const runs = new Map<Job, TokenRun>();
  let lastEndMs = 0;
  const expectedMs = (other: number): number =>
    other === model
      ? table.levels.reduce((least, { latencyMs }) => Math.min(least, latencyMs), Infinity)
      : declaredMs[other]!;
  const spinUntil = (ms: number): void => {
    while (now() < ms);
  };
  const decode = (job: Job): { accuracy: number; sparsity: number } => {
    const { nowMs, deadlineMs, token, reply } = job;
    if (token === 0) {
      const { id } = runner.begin(reply!);
      onToken({ reply: reply!, id, sparsities: [] });
      return { accuracy: 1, sparsity: 0 };
    }
    const waiting = waitingBeside(job.waiting(), {
      model,
      nowMs,
      latencyOf: (other) => other.reply === undefined ? expectedMs(other.model) : promptMs,
    });
    const run = new TokenRun(policy, table, profile, {
      leftMs: deadlineMs - now(),
      waiting,
      gapMs: nowMs - lastEndMs,
    });
    runs.set(job, run);
    const { levels } = table, sparsities: number[] = [];
    let sparsity = levels[run.levelOf(0, deadlineMs - now())]!.sparsity;
    const first = sparsity;
    const { id } = runner.next(first, (block) => {
      const part = partOf.get(block), before = sparsity;
      if (part !== undefined && part > 0) sparsity = levels[run.levelOf(part, deadlineMs - now())]!.sparsity;
      if (block < blocks) sparsities.push(sparsity);
      return sparsity === before ? undefined : sparsity;
    });
    onToken({ reply: reply!, id, sparsities });
    return { accuracy: run.fidelity, sparsity: run.sparsity };
  };
  return {
    accelerators: 1,
    expectedMs: (other) => expectedMs(other),
    preference: () => 0,
    run(job) {
      spinUntil(job.nowMs);
      if (job.model !== model) {
        spinUntil(job.nowMs + declaredMs[job.model]!);
        return { latencyMs: now() - job.nowMs, energyMJ: 0 };
      }
      const worth = decode(job);
      // from when it should have begun: what the harness itself takes is late, too
      return { latencyMs: now() - job.nowMs, energyMJ: 0, ...worth };
    },
    ended(job, endMs) {
      if (job.model !== model) return;
      lastEndMs = endMs;
      const run = runs.get(job);
      runs.delete(job);
      run?.end(endMs - job.nowMs, endMs <= job.deadlineMs);
    },
  };
}
