/** A worker's models are of one search or evaluation at a time, whose jobs come between those of others. */
import type { Executor, WorkJob, WorkSetup } from "./jobs.ts";

/** Whatever it works for. */
export type AnyExecutor = Executor<WorkJob, unknown>;

interface Turn {
  readonly work: string;
  readonly executor: Promise<AnyExecutor>;
  readonly jobs: Set<Promise<unknown>>;
}

/** Has the executor of one search or evaluation at a time: it is closed for another's once none of its jobs runs any more. */
export class Turns {
  readonly #open: (setup: WorkSetup) => Promise<AnyExecutor>;
  #turn: Turn | null = null;

  /** @param open makes the executor of some work */
  constructor(open: (setup: WorkSetup) => Promise<AnyExecutor>) {
    this.#open = open;
  }

  /**
   * Does something with the executor of some work.
   *
   * @param load gives what the work is, or null where it is gone
   * @returns null where the work is gone
   * @throws What opening the executor failed with, or `run`.
   */
  async use<T>(
    work: string,
    load: () => Promise<WorkSetup | null>,
    run: (executor: AnyExecutor) => Promise<T>,
  ): Promise<T | null> {
    if (this.#turn?.work !== work) {
      const setup = await load();
      if (setup === null) return null;
      // another job of the same work may have been quicker
      if (this.#turn?.work !== work) this.#begin(work, setup);
    }
    const { executor, jobs } = this.#turn!, job = executor.then(run);
    jobs.add(job);
    try {
      return await job;
    } finally {
      jobs.delete(job);
    }
  }

  /** Closes the executor when its jobs have ended. */
  async close(): Promise<void> {
    await end(this.#turn);
    this.#turn = null;
  }

  #begin(work: string, setup: WorkSetup): void {
    const before = this.#turn;
    const executor = end(before).then(() => this.#open(setup));
    this.#turn = { work, executor, jobs: new Set() };
  }
}

/** No job joins a turn that another has followed. */
async function end(turn: Turn | null): Promise<void> {
  if (turn === null) return;
  await Promise.allSettled(turn.jobs);
  await (await turn.executor.catch(() => null))?.close();
}
