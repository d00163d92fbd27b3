/**
 * Workers on many machines, by BullMQ on Redis or Valkey. A search or an evaluation puts what its workers have to know under a key that expires when it is gone, and its jobs
 * in one queue for all; workers take jobs and find there what they belong to. What is made of the results does not depend on who computes them.
 */
import type { Job as QueueJob, Queue, QueueEvents } from "bullmq";
import type { Redis } from "ioredis";
import {
  type Executor,
  type ExecutorFactory,
  type Job,
  packSetup,
  type Setup,
  unpackSetup,
  type WorkJob,
  type WorkSetup,
} from "./jobs.ts";
import { type AnyExecutor, Turns } from "./turns.ts";

/** Where jobs wait. */
const QUEUE = "rsparse-work";
/** What a search or an evaluation left in Redis, by its id. */
const keyOf = (work: string): string => `rsparse:work:${work}`;
/** One that has not said for so long that it lives is gone: its jobs are dropped. */
const ALIVE_MS = 60_000, BEAT_MS = 10_000;
/** A job whose worker has not said for so long that it lives is given to another. */
const LOCK_MS = 10_000, STALLED_MS = 5_000;
/** How often one looks whether an event was missed, or Redis has lost a job. */
const POLL_MS = 5_000;
/** Workers that may fail with a job before it counts as the job's own fault. */
const ATTEMPTS = 3;
/** Longest wait between two tries to reach a Redis that was there before. */
const MOST_RETRY_MS = 2_000;
/** At the end a Redis that does not answer for so long is left as it is. */
const AWAY_MS = 2_500;

/** Finds out before the work whether a queue is there. @throws {Error} If nobody answers. */
export async function checkQueue(address: string): Promise<void> {
  (await connect(address)).disconnect();
}

/** What is in the queue. */
interface Entry {
  readonly work: string;
  readonly job: WorkJob;
}

/** What a worker answers: null where the work was gone. */
type Answer = readonly unknown[] | null;

/** A URL without its password, for messages. */
function shown(url: URL): string {
  return `${url.protocol}//${url.host}${url.pathname === "/" ? "" : url.pathname}`;
}

/**
 * A connection.
 *
 * @throws {Error} If the URL is none of Redis, or nobody answers there.
 */
async function connect(address: string): Promise<Redis> {
  let url: URL;
  try {
    url = new URL(address);
  } catch {
    // neither the address nor the cause, which has it too: there may be a password in it
    throw new Error("Cannot use the queue: its address is no URL: one such as redis://localhost:6379 wanted");
  }
  if (url.protocol !== "redis:" && url.protocol !== "rediss:") {
    throw new Error(`Cannot use the queue ${shown(url)}: redis:// or rediss:// wanted`);
  }
  const { Redis } = await import("ioredis");
  let reached = false, reason = "";
  const redis = new Redis(address, {
    lazyConnect: true,
    // BullMQ wants commands to wait for a connection that was lost
    maxRetriesPerRequest: null,
    retryStrategy: (times) => reached ? Math.min(100 * times, MOST_RETRY_MS) : null,
  });
  redis.on("error", (error) => reason = error.message || String((error as { code?: unknown }).code));
  try {
    await redis.connect();
    await redis.ping();
    reached = true;
  } catch (cause) {
    redis.disconnect();
    throw new Error(
      `Cannot reach ${shown(url)}: ${
        reason || (cause as Error).message
      }: start redis-server or valkey-server there, or check --queue`,
      { cause },
    );
  }
  return redis;
}

/** Waits for something that needs Redis; no longer, where Redis does not answer. */
async function unlessAway(redis: Redis, what: Promise<unknown>): Promise<void> {
  const wait = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
  let isThere = true, isDone = false;
  const done = what.catch(() => {}).then(() => {
    isDone = true;
  });
  while (isThere && !isDone) {
    isThere = false;
    const answer = redis.ping().then(() => {
      isThere = true;
      return wait(AWAY_MS / 5);
    }, () => {});
    await Promise.race([done, Promise.all([answer, wait(AWAY_MS / 5)]), wait(AWAY_MS)]);
  }
}

interface Pending {
  readonly entry: Entry;
  readonly resolve: (value: unknown[]) => void;
  readonly reject: (reason: unknown) => void;
}

/**
 * Workers that other processes are, started with {@linkcode work}.
 *
 * @param address `redis://…`
 */
export function inQueue<S extends WorkSetup = Setup, J extends WorkJob = Job, V = number>(
  address: string,
): ExecutorFactory<S, J, V> {
  return async (setup) => {
    const redis = await connect(address), { Queue, QueueEvents } = await import("bullmq");
    const work = crypto.randomUUID(), packed = packSetup(setup);
    const beat = async (): Promise<void> => {
      // it may be megabytes: only where it is not there, or Redis has forgotten it
      if (await redis.pexpire(keyOf(work), ALIVE_MS) === 0) {
        await redis.set(keyOf(work), packed, "PX", ALIVE_MS);
      }
    };
    await beat();
    const queue = new Queue<Entry, Answer>(QUEUE, { connection: redis });
    const events = new QueueEvents(QUEUE, { connection: redis });
    // what goes wrong is tried again: BullMQ wants someone to listen
    queue.on("error", () => {});
    events.on("error", () => {});
    await events.waitUntilReady();
    const executor: Executor<WorkJob, unknown> = new QueueExecutor(work, redis, queue, events, beat);
    return executor as Executor<J, V>;
  };
}

class QueueExecutor implements Executor<WorkJob, unknown> {
  readonly workers: string;
  readonly #work: string;
  readonly #redis: Redis;
  readonly #queue: Queue<Entry, Answer>;
  readonly #events: QueueEvents;
  readonly #pending: Map<string, Pending> = new Map();
  readonly #timers: ReturnType<typeof setInterval>[];
  readonly #signals: WeakSet<AbortSignal> = new WeakSet();
  readonly #beat: () => Promise<void>;
  /** Jobs that are being put back. */
  readonly #again: Set<string> = new Set();
  #count = 0;

  constructor(
    work: string,
    redis: Redis,
    queue: Queue<Entry, Answer>,
    events: QueueEvents,
    beat: () => Promise<void>,
  ) {
    this.#work = work;
    this.#redis = redis;
    this.#queue = queue;
    this.#events = events;
    this.#beat = beat;
    this.workers = "workers of a queue";
    events.on("completed", ({ jobId, returnvalue }) => this.#settle(jobId, returnvalue));
    events.on("failed", ({ jobId, failedReason }) => this.#fail(jobId, failedReason));
    this.#timers = [
      setInterval(() => void beat().catch(() => {}), BEAT_MS),
      setInterval(() => void this.#poll().catch(() => {}), POLL_MS),
    ];
  }

  run(job: WorkJob, signal?: AbortSignal): Promise<unknown[]> {
    return new Promise((resolve, reject) => {
      if (signal?.aborted) return reject(signal.reason);
      if (signal !== undefined && !this.#signals.has(signal)) {
        this.#signals.add(signal);
        signal.addEventListener("abort", () => {
          for (const { reject } of this.#pending.values()) reject(signal.reason);
        }, { once: true });
      }
      const id = `${this.#work}_${this.#count++}`, entry: Entry = { work: this.#work, job };
      this.#pending.set(id, { entry, resolve, reject });
      this.#put(id, entry).catch((error) => {
        this.#pending.delete(id);
        reject(error);
      });
    });
  }

  async close(): Promise<void> {
    for (const timer of this.#timers) clearInterval(timer);
    const left = [...this.#pending.keys()];
    this.#pending.clear();
    await unlessAway(this.#redis, this.#leave(left));
    this.#redis.disconnect();
    // where Redis was away they still try to reach it
    for (const one of [this.#events, this.#queue]) void one.disconnect().catch(() => {});
  }

  async #leave(jobs: readonly string[]): Promise<void> {
    await this.#redis.del(keyOf(this.#work));
    for (const id of jobs) {
      // one that a worker holds can't be removed: it is dropped when it is done
      await this.#queue.remove(id).catch(() => {});
    }
    await this.#events.close();
    await this.#queue.close();
  }

  async #put(id: string, entry: Entry): Promise<void> {
    await this.#queue.add("job", entry, {
      jobId: id,
      attempts: ATTEMPTS,
      removeOnComplete: { age: 3600 },
      removeOnFail: { age: 3600 },
    });
  }

  #settle(id: string, value: unknown): void {
    const pending = this.#pending.get(id);
    if (pending === undefined) return;
    const found = typeof value === "string" ? JSON.parse(value) as unknown : value;
    // the worker found no work: Redis had lost it for a moment
    if (!Array.isArray(found)) return void this.#putBack(id, pending);
    this.#pending.delete(id);
    void this.#queue.remove(id).catch(() => {});
    pending.resolve(found);
  }

  async #putBack(id: string, { entry, reject }: Pending): Promise<void> {
    if (this.#again.has(id)) return;
    this.#again.add(id);
    try {
      await this.#beat();
      // the one that was done has its name
      await this.#queue.remove(id);
      if (this.#pending.has(id)) await this.#put(id, entry);
    } catch (error) {
      if (this.#pending.delete(id)) reject(error);
    } finally {
      this.#again.delete(id);
    }
  }

  #fail(id: string, reason: string): void {
    const pending = this.#pending.get(id);
    this.#pending.delete(id);
    pending?.reject(new Error(reason));
  }

  /** Events that were missed while the connection was lost, jobs that Redis has lost. */
  async #poll(): Promise<void> {
    for (const [id, { entry }] of [...this.#pending]) {
      const state = await this.#queue.getJobState(id);
      if (!this.#pending.has(id)) continue;
      if (state === "unknown" && !this.#again.has(id)) {
        // a worker that takes it finds the work
        await this.#beat();
        await this.#put(id, entry);
      }
      if (state !== "completed" && state !== "failed") continue;
      // only now: as it was read before it ended it would have no result
      const job = await this.#queue.getJob(id);
      if (job === undefined) continue;
      if (state === "completed") this.#settle(id, job.returnvalue);
      else this.#fail(id, job.failedReason);
    }
  }
}

/** Settings of {@linkcode work}. */
export interface WorkOptions {
  /** `redis://…` */
  readonly queue: string;
  /** Who it is, for whoever looks at the queue. */
  readonly name: string;
  /** Jobs at a time. */
  readonly count: number;
  /** Makes what does the jobs; it may put another model in the place of the one that is named. */
  readonly executor: (setup: WorkSetup, signal: AbortSignal) => Promise<AnyExecutor>;
  /** Ends it: what it holds is given back. */
  readonly signal: AbortSignal;
  /** Called when it joins a search or an evaluation, and after each job. */
  readonly onJoin?: (setup: WorkSetup) => void;
  readonly onJob?: (done: number) => void;
}

/**
 * Takes jobs until the signal is aborted.
 *
 * @returns how many jobs it has done
 * @throws {Error} If nobody answers at the address, or it can't do what is wanted: that job is given back.
 */
export async function work(
  { queue, name, count, executor, signal, onJoin, onJob }: WorkOptions,
): Promise<number> {
  const redis = await connect(queue), { DelayedError, Worker } = await import("bullmq");
  let failure: unknown = null, done = 0, end: () => void = () => {};
  const ended = new Promise<void>((resolve) => end = resolve);
  signal.addEventListener("abort", () => end(), { once: true });
  if (signal.aborted) end();
  const turns = new Turns((setup) => {
    signal.throwIfAborted();
    onJoin?.(setup);
    return executor(setup, signal);
  });
  const giveBack = async (job: QueueJob<Entry, Answer>, token: string | undefined): Promise<never> => {
    await job.moveToDelayed(Date.now(), token);
    throw new DelayedError();
  };
  const worker = new Worker<Entry, Answer>(QUEUE, async (job, token) => {
    const { work, job: wanted } = job.data;
    // also while its models are here: one that was killed leaves many jobs
    if (await redis.exists(keyOf(work)) === 0) return null;
    let isJoined = false;
    try {
      const value = await turns.use(work, async () => {
        const packed = await redis.get(keyOf(work));
        return packed === null ? null : unpackSetup(packed);
      }, (one) => {
        isJoined = true;
        return one.run(wanted, signal);
      });
      if (value !== null) onJob?.(++done);
      return value;
    } catch (error) {
      if (signal.aborted) return await giveBack(job, token);
      // something is wrong here, or with the job: this worker ends, and others try it until there were enough
      failure ??= error;
      end();
      if (!isJoined) return await giveBack(job, token);
      throw error;
    }
  }, {
    connection: redis,
    name,
    concurrency: count,
    lockDuration: LOCK_MS,
    stalledInterval: STALLED_MS,
    // every worker may die as often as it likes
    maxStalledCount: Number.MAX_SAFE_INTEGER,
  });
  worker.on("error", () => {});
  await ended;
  // waits for what it holds, which is given back at once
  await unlessAway(redis, worker.close());
  redis.disconnect();
  // where Redis was away it still tries to reach it
  void worker.disconnect().catch(() => {});
  await turns.close();
  if (failure !== null) throw failure;
  return done;
}
