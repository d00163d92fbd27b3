/** A worker's models are of one search at a time, whose jobs come between those of others. */
import type { Executor, Setup } from "./jobs.ts";

interface Turn {
  readonly search: string;
  readonly executor: Promise<Executor>;
  readonly jobs: Set<Promise<unknown>>;
}

/** Has the executor of one search at a time: it is closed for another's once none of its jobs runs any more. */
export class Turns {
  readonly #open: (setup: Setup) => Promise<Executor>;
  #turn: Turn | null = null;

  /** @param open makes the executor of a search */
  constructor(open: (setup: Setup) => Promise<Executor>) {
    this.#open = open;
  }

  /**
   * Does something with the executor of a search.
   *
   * @param load gives what the search is, or null where it is gone
   * @returns null where the search is gone
   * @throws What opening the executor failed with, or `run`.
   */
  async use<T>(
    search: string,
    load: () => Promise<Setup | null>,
    run: (executor: Executor) => Promise<T>,
  ): Promise<T | null> {
    if (this.#turn?.search !== search) {
      const setup = await load();
      if (setup === null) return null;
      // another job of the same search may have been quicker
      if (this.#turn?.search !== search) this.#begin(search, setup);
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

  #begin(search: string, setup: Setup): void {
    const before = this.#turn;
    const executor = end(before).then(() => this.#open(setup));
    this.#turn = { search, executor, jobs: new Set() };
  }
}

/** No job joins a turn that another has followed. */
async function end(turn: Turn | null): Promise<void> {
  if (turn === null) return;
  await Promise.allSettled(turn.jobs);
  await (await turn.executor.catch(() => null))?.close();
}
