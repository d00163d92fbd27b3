/** Policies by name, with what they have to remember: one for all tokens of a run. */
import { type LatencyTable } from "./levels.ts";
import { createPlan } from "./plan.ts";
import {
  DEFAULT_FEEDBACK,
  DEFAULT_K,
  type FeedbackRule,
  feedbackStep,
  layerLevel,
  queueLevel,
  slackLevel,
  type Waiting,
} from "./policies.ts";

/** What a policy looks at when a token, or a job, begins. */
export interface Situation {
  /** From now to the deadline. */
  readonly leftMs: number;
  /** Others that wait, in the order in which they will run. */
  readonly waiting: readonly Waiting[];
  /** Of a token, what it waited since the one before it in its reply ended; absent of the first. */
  readonly gapMs?: number;
}

/** What a policy looks at between two blocks of a token. */
export interface Interim {
  /** From now to the deadline. */
  readonly leftMs: number;
  /** By level, what the rest of the token is expected to take. */
  readonly restMs: readonly number[];
  /** Share of its blocks that are left, in (0, 1). */
  readonly share: number;
}

/** Chooses levels of a table. */
export interface Policy {
  /** The number of the level to run at. */
  choose(situation: Situation): number;
  /** The number of the level for the rest of a token; absent where a policy does not look again. */
  again?(interim: Interim): number;
  /** Told what a choice came to. */
  observe(level: number, latencyMs: number, isHit: boolean): void;
}

/** Names of policies, as `--dial` has them; `fixed:0.5` says at which sparsity. */
export const POLICIES = ["fixed", "slack", "queue", "feedback", "layer", "plan"] as const;

/** How policies decide. */
export interface PolicyOptions {
  /** Default 15 per ms. */
  readonly k?: number;
  /** Default 95 % of 20. */
  readonly feedback?: FeedbackRule;
  /**
   * `slack` and `queue`: when the level below the choice was not measured for long, try it once, so that the choice goes back when the machine has time again. Default
   * false: it costs a late token in 64 where nothing has changed.
   */
  readonly explore?: boolean;
}

/**
 * A policy over a table, which it keeps up to date.
 *
 * @param name `fixed:SPARSITY`, `slack`, `queue`, `feedback`, `layer` or `plan`
 * @throws {RangeError} If it is none of them, or the sparsity is no level.
 */
export function createPolicy(name: string, table: LatencyTable, options: PolicyOptions = {}): Policy {
  const { k = DEFAULT_K, feedback = DEFAULT_FEEDBACK, explore = false } = options;
  const note = (level: number, latencyMs: number): void => table.note(level, latencyMs);
  const tried = (choice: number): number =>
    explore && choice > 0 && table.isOld(choice - 1) ? choice - 1 : choice;
  const [kind, value] = name.split(":");
  if (kind === "fixed" && value !== undefined) {
    const level = table.indexOf(Number(value));
    if (level >= 0 && value.trim() !== "") return { choose: () => level, observe: note };
  }
  if (name === "slack") {
    return { choose: ({ leftMs }) => tried(slackLevel(table.levels, leftMs, k)), observe: note };
  }
  if (name === "queue") {
    return {
      choose: ({ leftMs, waiting }) => tried(queueLevel(table.levels, leftMs, waiting, k)),
      observe: note,
    };
  }
  if (name === "plan") return createPlan(table, k);
  if (name === "layer") {
    return {
      choose: ({ leftMs }) => tried(slackLevel(table.levels, leftMs, k)),
      again: ({ leftMs, restMs, share }) => layerLevel(table.levels, leftMs, restMs, share, k),
      observe: note,
    };
  }
  if (name === "feedback") {
    let state = { level: 0, seen: 0, hits: 0 };
    return {
      choose: () => state.level,
      observe(level, latencyMs, isHit) {
        note(level, latencyMs);
        state = feedbackStep(state, isHit, table.levels.length, feedback);
      },
    };
  }
  const sparsities = table.levels.map(({ sparsity }) => sparsity).join(", ");
  throw new RangeError(
    `policy: ${
      JSON.stringify(name)
    } found, fixed:S with S one of ${sparsities}, slack, queue, feedback, layer or plan wanted`,
  );
}
