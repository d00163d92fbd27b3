/** Threads of a real run: they are started, load what they need, run one load after the other, and end. */
import { noSharedMemoryReason } from "../../kernels/probe.ts";
import type { Platform } from "../../platform/platform.ts";
import { Board, type JobEntry } from "./board.ts";
import { gapsOf, stepOf } from "./clock.ts";
import type { Work } from "./jobs.ts";
import { Loader, type LoaderRecord, type LoaderSetup } from "./loader.ts";
import { compareByMessages, driveByMessages, type Messenger } from "./turns.ts";
import type { ClockGaps } from "../recorded.ts";

/** Shared memory, as a thread is handed it. */
interface BufferSetup {
  readonly memory: SharedArrayBuffer;
  readonly accelerators: number;
}

/** What a thread is started with. */
export type WorkerSetup =
  | {
    readonly role: "accelerator";
    readonly accelerator: number;
    /** By model. */
    readonly works: readonly Work[];
    readonly buffer: BufferSetup | null;
  }
  | {
    readonly role: "loader";
    readonly load: LoaderSetup;
    readonly buffer: BufferSetup;
    readonly patienceMs: number;
  };

/** What an accelerator says. */
export type FromAccelerator =
  | {
    readonly ready: {
      readonly expectedMs: readonly number[];
      readonly info: readonly Readonly<Record<string, unknown>>[];
    };
  }
  | { readonly time: number }
  | { readonly done: { readonly startMs: number; readonly endMs: number } }
  | { readonly failed: string };

/** What it is told where there is no shared memory. */
export type ToAccelerator = { readonly ask: true } | Omit<JobEntry, "frame">;

/** What the loader says. */
export type FromLoader = { readonly record: RunRecord } | { readonly failed: string };

/** What a run leaves. */
export interface RunRecord extends LoaderRecord {
  /** False where it was stopped. */
  readonly isWhole: boolean;
  /** Of the loader's clock. */
  readonly stepMs: number;
  /** How far clocks of two threads may be apart. */
  readonly clockErrorMs: number;
  /** Of the loader's thread. */
  readonly gaps: ClockGaps;
}

/** How a crew is made. */
export interface CrewOptions {
  readonly platform: Platform;
  /** By accelerator, then by model. */
  readonly works: readonly (readonly Work[])[];
  /** Where `rsparse/xr/worker` is. */
  readonly workerUrl: string;
  /** False: as if there were no shared memory. */
  readonly sharedMemory: boolean;
  readonly patienceMs: number;
  readonly signal?: AbortSignal;
}

/** A thread that the runtime started. */
interface Thread {
  readonly post: (message: unknown) => void;
  readonly terminate: () => Promise<void>;
}

/** Why accelerators are not what was asked for, or null. */
export function sharingReason(wanted: boolean): string | null {
  return wanted ? noSharedMemoryReason() : "shared memory was turned off";
}

/** Accelerators that are ready. */
export class Crew {
  readonly #options: CrewOptions;
  readonly #board: Board | null;
  readonly #threads: Thread[] = [];
  /** Without shared memory: what the one accelerator says. */
  readonly #messages: Messages = new Messages();
  readonly #lost: (string | null)[];
  #closed = false;
  /** By accelerator, then by model: the fastest of some runs, or what was declared. */
  readonly expectedMs: (readonly number[])[] = [];
  /** By accelerator, then by model: what runners run on. */
  readonly info: (readonly Readonly<Record<string, unknown>>[])[] = [];

  private constructor(options: CrewOptions) {
    this.#options = options;
    this.#board = options.sharedMemory ? Board.create(options.works.length) : null;
    this.#lost = options.works.map(() => null);
  }

  /**
   * Starts accelerators, one after the other: their warming up is measured.
   *
   * @throws {Error} If one of them can't start or load what it needs; the signal's reason.
   */
  static async open(options: CrewOptions): Promise<Crew> {
    const crew = new Crew(options);
    try {
      for (let i = 0; i < options.works.length; i++) await crew.#start(i);
    } catch (error) {
      await crew.close();
      throw error;
    }
    return crew;
  }

  /** Ends an accelerator as if it had died, once it has been handed so many jobs, if it is. */
  async kill(accelerator: number, jobs: number): Promise<void> {
    for (const least = this.#handed(accelerator) + jobs; this.#handed(accelerator) < least;) {
      if (this.#closed) return;
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    await this.#threads[accelerator]!.terminate();
    // pages are not told that a worker has ended
    this.#lose(accelerator, "it was terminated");
  }

  /** Runs a load. @throws The signal's reason. */
  async run(load: LoaderSetup, signal?: AbortSignal): Promise<RunRecord> {
    signal?.throwIfAborted();
    const gone = this.#lost.findIndex((reason) => reason !== null);
    if (gone >= 0) throw new Error(`Cannot run: accelerator ${gone} is no more: ${this.#lost[gone]}`);
    return this.#board === null
      ? await this.#runByMessages(load, signal)
      : await this.#runShared(load, signal);
  }

  /** Ends all threads. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#board?.stop();
    await Promise.all(this.#threads.map(({ terminate }) => terminate()));
  }

  /** Jobs and other questions that it was handed. */
  #handed(accelerator: number): number {
    return this.#board?.jobsSent(accelerator) ?? this.#messages.handed;
  }

  #start(accelerator: number): Promise<void> {
    const { works, signal } = this.#options;
    return new Promise((resolve, reject) => {
      const fail = (reason: string): void => {
        this.#lose(accelerator, reason);
        // nothing to be told of once it is ready
        reject(new Error(`Cannot start accelerator ${accelerator}: ${reason}`));
      };
      const stop = (): void => reject(signal!.reason);
      if (signal?.aborted) return stop();
      signal?.addEventListener("abort", stop, { once: true });
      const setup = { role: "accelerator", accelerator, works: works[accelerator]!, buffer: this.#buffer() };
      this.#threads.push(this.#thread(setup as WorkerSetup, (message) => {
        const said = message as FromAccelerator;
        if ("failed" in said) return fail(said.failed);
        if (!("ready" in said)) return this.#messages.take(said);
        signal?.removeEventListener("abort", stop);
        this.expectedMs[accelerator] = said.ready.expectedMs;
        this.info[accelerator] = said.ready.info;
        resolve();
      }, fail));
    });
  }

  #thread(
    setup: WorkerSetup,
    message: (message: unknown) => void,
    end: (reason: string) => void,
  ): Thread {
    const { platform: { startThread, runtime }, workerUrl } = this.#options;
    if (startThread === undefined) throw new Error(`Cannot run on threads: ${runtime} has none`);
    return startThread(workerUrl, setup, { message, end });
  }

  #buffer(): BufferSetup | null {
    return this.#board && { memory: this.#board.buffer, accelerators: this.#board.accelerators };
  }

  #lose(accelerator: number, reason: string): void {
    if (this.#closed) return;
    this.#lost[accelerator] ??= reason;
    this.#board?.lose(accelerator, reason);
    if (this.#board === null) this.#messages.lose(reason);
  }

  async #runShared(load: LoaderSetup, signal?: AbortSignal): Promise<RunRecord> {
    const { patienceMs } = this.#options, buffer = this.#buffer()!;
    let thread: Thread | null = null, stop: (() => void) | null = null;
    try {
      return await new Promise<RunRecord>((resolve, reject) => {
        stop = () => reject(signal!.reason);
        signal?.addEventListener("abort", stop, { once: true });
        const fail = (reason: string): void => reject(new Error(`Cannot run: the loader ended: ${reason}`));
        thread = this.#thread({ role: "loader", load, buffer, patienceMs }, (message) => {
          const said = message as FromLoader;
          if ("record" in said) resolve(said.record);
          else fail(said.failed);
        }, fail);
      });
    } finally {
      if (stop !== null) signal?.removeEventListener("abort", stop);
      await (thread as Thread | null)?.terminate();
    }
  }

  async #runByMessages(load: LoaderSetup, signal?: AbortSignal): Promise<RunRecord> {
    const messages = this.#messages, thread = this.#threads[0]!, { patienceMs } = this.#options;
    const messenger: Messenger = {
      send({ model, sparsity, token }) {
        messages.handed++;
        thread.post({ model, sparsity, token } satisfies ToAccelerator);
      },
      ask() {
        messages.handed++;
        return messages.ask(() => thread.post({ ask: true } satisfies ToAccelerator));
      },
      takeDone: () => messages.takeDone(),
      loss: () => this.#lost[0]!,
      changed: () => messages.changed(),
    };
    const now = (): number => performance.now(), stepMs = stepOf(now), gaps = gapsOf(now, stepMs);
    const offset = await compareByMessages(messenger, now);
    const loader = new Loader(load, (_, job) => messenger.send(job));
    await driveByMessages(loader, messenger, now, { offsetMs: offset.offsetMs, patienceMs, signal });
    return { ...loader.record, isWhole: true, stepMs, clockErrorMs: offset.errorMs, gaps };
  }
}

/** What the one accelerator says, until someone takes it. */
class Messages {
  /** What was sent to it. */
  handed = 0;
  #done: { readonly startMs: number; readonly endMs: number }[] = [];
  #asked: { resolve(time: number): void; reject(reason: Error): void } | null = null;
  #waiting: (() => void)[] = [];

  take(said: FromAccelerator): void {
    if ("done" in said) this.#done.push(said.done);
    if ("time" in said) this.#asked?.resolve(said.time);
    this.#wake();
  }

  lose(reason: string): void {
    this.#asked?.reject(new Error(`Cannot run: the accelerator ended: ${reason}`));
    this.#wake();
  }

  ask(post: () => void): Promise<number> {
    return new Promise((resolve, reject) => {
      this.#asked = { resolve, reject };
      post();
    });
  }

  takeDone(): { readonly startMs: number; readonly endMs: number }[] {
    return this.#done.splice(0);
  }

  changed(): Promise<void> {
    if (this.#done.length > 0) return Promise.resolve();
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  #wake(): void {
    for (const resolve of this.#waiting.splice(0)) resolve();
  }
}
