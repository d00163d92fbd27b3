/** What runs jobs: a table of costs, latencies that were recorded, or anything that can say how long a job takes. */
import type { Waiting } from "../deadline/policies.ts";

/** A job that begins. */
export interface Job {
  /** Number of the model in the scenario's order. */
  readonly model: number;
  /** The frame's number; of a reply's token, its number among all tokens of its model. */
  readonly frame: number;
  /** Of a reply's token, which one it is, from 0; undefined for frames. */
  readonly token?: number;
  /** Of a reply's token, the reply's number. */
  readonly reply?: number;
  /** The accelerator's number. */
  readonly accelerator: number;
  /** When it begins. */
  readonly nowMs: number;
  /** When it should be done. */
  readonly deadlineMs: number;
  /** The tokens of the same reply that come after it, then the heads of all queues as they are when it begins, itself apart, models by name. */
  waiting(): readonly WaitingFrame[];
}

/** The head of a queue, or a token that comes later in the same reply. */
export interface WaitingFrame {
  /** Number of the model in the scenario's order. */
  readonly model: number;
  /** The frame's number, or the token's. */
  readonly frame: number;
  /** Of a reply's token which one it is, from 0. */
  readonly token?: number;
  /** Of a reply that has not begun, how many tokens it has, and from one's deadline to the next's. */
  readonly reply?: { readonly tokens: number; readonly periodMs: number };
  /** When it should be done. */
  readonly deadlineMs: number;
}

/**
 * What waits beside a job, as policies are told of it.
 *
 * @param model the job's own: its tokens that wait are of the same reply
 * @param latencyOf what one that waits is expected to take
 */
export function waitingBeside(
  waiting: readonly WaitingFrame[],
  { model, nowMs, latencyOf }: {
    readonly model: number;
    readonly nowMs: number;
    readonly latencyOf: (other: WaitingFrame) => number;
  },
): Waiting[] {
  return waiting.map((other) => ({
    leftMs: other.deadlineMs - nowMs,
    latencyMs: latencyOf(other),
    isSameReply: other.model === model && other.token !== undefined,
    ...(other.reply !== undefined && { reply: other.reply }),
  }));
}

/** What a job takes. */
export interface JobCost {
  /** From begin to end. */
  readonly latencyMs: number;
  /** What it takes. */
  readonly energyMJ: number;
  /** In [0, 1]; 1 where nothing measures it. */
  readonly accuracy?: number;
  /** At which it ran, or most of it, where a dial was set. */
  readonly sparsity?: number;
}

/** Accelerators and what jobs take on them. */
export interface Executor {
  /** How many there are. */
  readonly accelerators: number;
  /** What a model is expected to take on an accelerator: the order `slack` goes by it. */
  expectedMs(model: number, accelerator: number): number;
  /** A frame goes to the idle accelerator where this is least, of equals to the first; Infinity where it can't run. */
  preference(model: number, frame: number, accelerator: number): number;
  /** Called once for each job, when it begins. */
  run(job: Job): JobCost;
  /** Told when a job is over. */
  ended?(job: Job, endMs: number): void;
}

/** What one model takes on one accelerator; cycles are of 1 GHz, so a million of them are a millisecond. */
export interface ModelCost {
  /** Of 1 GHz. */
  readonly cycles: number;
  /** What it takes. */
  readonly energyNJ: number;
  /** Sum over layers of cycles times energy: what the policy `edp` goes by. */
  readonly layerEdp?: number;
}

/** Which idle accelerator a job goes to: the one with the fewest cycles, or with the least energy-delay product over its layers. */
export type Policy = "latency" | "edp";

/**
 * Jobs that take what a table says.
 *
 * @param costs by accelerator, then by model
 * @param float32 whether latency and energy are rounded as the harness does: cycles first, then their quotient
 */
export function tableExecutor(
  costs: readonly (readonly ModelCost[])[],
  policy: Policy,
  float32: boolean,
): Executor {
  const round = float32 ? Math.fround : (x: number): number => x;
  const jobs = costs.map((models) =>
    models.map(({ cycles, energyNJ }) => ({
      latencyMs: round(round(cycles) / 1e6),
      energyMJ: round(energyNJ / 1e6),
    }))
  );
  const preferences = costs.map((models) =>
    models.map(({ cycles, layerEdp }) => policy === "latency" ? cycles : layerEdp ?? 0)
  );
  return {
    accelerators: costs.length,
    expectedMs: (model, accelerator) => jobs[accelerator]![model]!.latencyMs,
    preference: (model, _, accelerator) => preferences[accelerator]![model]!,
    run: ({ model, accelerator }) => jobs[accelerator]![model]!,
  };
}
