/** Executors of this machine: in this thread, and threads with a model each. */
import { detectPlatform } from "../platform/detect.ts";
import type { ModelSource } from "../runtime/model.ts";
import { Evaluator } from "./evaluator.ts";
import type { Executor, ExecutorFactory, Job, Setup, WorkJob, WorkSetup } from "./jobs.ts";

/** Where a thread's code is: an entry point of the package, whether that is sources or a bundle. */
const WORKER = "rsparse/search/worker";

/**
 * One model in this thread; jobs wait for one another.
 *
 * @param source instead of what the search names
 */
export function inThisThread(source?: ModelSource): ExecutorFactory {
  return async (setup, signal) => {
    const evaluator = await Evaluator.open(setup, source, signal);
    let last: Promise<unknown> = Promise.resolve();
    return {
      workers: "this thread",
      run(job, signal) {
        const next = last.then(() => evaluator.run(job, signal));
        last = next.catch(() => {});
        return next;
      },
      async close() {
        await last;
        await evaluator.close();
      },
    };
  };
}

/** What a thread says. */
export type FromThread =
  | { readonly ready: true }
  | { readonly done: number; readonly value: readonly unknown[] }
  | { readonly failed: number | null; readonly name: string; readonly message: string };

/** What a thread is told. */
export interface ToThread {
  readonly id: number;
  readonly job: WorkJob;
}

interface Waiting {
  readonly job: WorkJob;
  readonly resolve: (value: unknown[]) => void;
  readonly reject: (reason: unknown) => void;
}

interface Thread {
  readonly post: (message: unknown) => void;
  readonly terminate: () => Promise<void>;
  busy: Waiting | null;
}

/**
 * Threads that load the model each and take jobs as they become free.
 *
 * @param count how many
 * @throws {Error} If there are no threads here, or one can't load the model; the signal's reason, if it is aborted before all have.
 */
export function inThreads<S extends WorkSetup = Setup, J extends WorkJob = Job, V = number>(
  count: number,
): ExecutorFactory<S, J, V> {
  return async (setup: S, signal?: AbortSignal): Promise<Executor<J, V>> => {
    const platform = await detectPlatform(), { startThread } = platform;
    if (startThread === undefined) throw new Error(`Cannot work on threads: ${platform.runtime} has none`);
    const url = import.meta.resolve(WORKER), waiting: Waiting[] = [], threads: Thread[] = [];
    const signals = new WeakSet<AbortSignal>();
    let ended: Error | null = null;
    const fail = (error: Error): void => {
      ended ??= error;
      for (const { reject } of waiting.splice(0)) reject(ended);
      for (const { busy } of threads) busy?.reject(ended);
    };
    const hand = (thread: Thread): void => {
      thread.busy = waiting.shift() ?? null;
      if (thread.busy !== null) thread.post({ id: 0, job: thread.busy.job } satisfies ToThread);
    };
    const start = (): Promise<void> =>
      new Promise((resolve, reject) => {
        const { post, terminate } = startThread(url, setup, {
          message(message) {
            const said = message as FromThread;
            if ("ready" in said) return resolve();
            const error = "failed" in said ? errorOf(said) : null;
            if (error !== null && "failed" in said && said.failed === null) {
              fail(error);
              return reject(error);
            }
            const busy = thread.busy;
            if ("done" in said) busy?.resolve([...said.value]);
            else busy?.reject(error);
            hand(thread);
          },
          end(reason) {
            const error = new Error(`Cannot go on: one of the threads ended: ${reason}`);
            fail(error);
            reject(error);
          },
        });
        const thread: Thread = { post, terminate, busy: null };
        threads.push(thread);
      });
    const close = async (): Promise<void> => {
      ended ??= new Error("the work has ended");
      await Promise.all(threads.map(({ terminate }) => terminate()));
    };
    signal?.throwIfAborted();
    let stop: () => void = () => {};
    try {
      const stopped = new Promise<never>((_, reject) => stop = () => reject(signal!.reason));
      signal?.addEventListener("abort", stop, { once: true });
      await Promise.race([stopped, Promise.all(Array.from({ length: count }, start))]);
    } catch (error) {
      await close();
      throw error;
    } finally {
      signal?.removeEventListener("abort", stop);
    }
    return {
      workers: `${count} thread${count === 1 ? "" : "s"}`,
      close,
      run: (job, signal) =>
        new Promise((resolve, reject) => {
          if (ended !== null) return reject(ended);
          if (signal?.aborted) return reject(signal.reason);
          if (signal !== undefined && !signals.has(signal)) {
            signals.add(signal);
            // what runs can't be stopped but by ending the threads, which whoever aborts does next
            signal.addEventListener("abort", () => fail(signal.reason), { once: true });
          }
          waiting.push({ job, resolve: (value) => resolve(value as V[]), reject });
          const free = threads.find(({ busy }) => busy === null);
          if (free !== undefined) hand(free);
        }),
    };
  };
}

function errorOf({ name, message }: Extract<FromThread, { failed: unknown }>): Error {
  const error = new Error(message);
  error.name = name;
  return error;
}
