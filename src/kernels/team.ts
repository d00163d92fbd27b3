/** Threads that compute the parts of a step together. */
import type { Kernels } from "./kernels.ts";
import { Pace } from "./pace.ts";
import { type PartKernels, Recorder } from "./recorder.ts";
import { CONTROL, WORKER_CODE, type WorkerStart } from "./team_worker.ts";
import type { WasmKernelOptions, WasmKernels } from "./wasm_kernels.ts";

/** A worker that the runtime started. */
export interface WorkerHandle {
  /** Resolves when it has ended, where the runtime can tell. */
  terminate(): Promise<void>;
}

/** Starts a worker: `Platform.startWorker`. */
export type StartWorker = (
  code: string,
  data: unknown,
  events: { message(message: unknown): void; end(reason: string): void },
) => WorkerHandle;

/** What a team is made of. */
export interface TeamOptions {
  readonly kernels: WasmKernels;
  /** Kernels of `kernels`; its memory is shared. */
  readonly module: WebAssembly.Module;
  /** Hands out memory: `Arena.allocate`. */
  readonly allocate: (bytes: number) => number;
  /** Scratch of the caller, and how many bytes of it a part may use: other threads get as many. */
  readonly scratch: number;
  readonly scratchBytes: number;
  /** 2 to MAX_THREADS, the caller included. */
  readonly threads: number;
  /** Those of `kernels`. */
  readonly kernelOptions: WasmKernelOptions;
  readonly startWorker: StartWorker;
  /** How long workers may take to start. */
  readonly startMs?: number;
  /** How many waits of {@linkcode SLICE_MS} without a finished part mean that a thread is gone. */
  readonly patience?: number;
}

/** Kinds of work that gain differently from threads: a token, a block of a prompt, a token of each of so many sequences, one site of a block in calibration. */
export type Pass = "decode" | "prefill" | `together ${number}` | `site ${number}`;

/** Parts a thread: more even out what a thread loses when another program takes its core, and cost 0.1 µs each. */
const PARTS_PER_THREAD = 4;
/** A step has at most 255 parts. */
export const MAX_THREADS = 63;
/** Calls of a step: prefill's largest take some 100 words a part. */
const JOB_BYTES = 65536;
/** How long a thread looks for the next step before it sleeps: waking takes 30 µs, and what lies between two steps of a token is shorter. */
const SPIN_MS = 0.1;
/** The caller sleeps in slices. Slices are counted and not time, which jumps where a process is stopped or a machine sleeps. */
const SLICE_MS = 20;
const PATIENCE = 500;
const START_MS = 10_000;

/** A step's work from `from` to `to`, with the kernels given and scratch from there. Threads run it in any order. */
export type Part = (k: PartKernels, from: number, to: number, scratch: number) => void;

/** One or more threads. Results do not depend on how many there are where each part has outputs of its own. */
export class Team {
  /** The caller's kernels. */
  readonly kernels: Kernels;
  /** The caller's own scratch. */
  readonly scratch: number;
  readonly #crew: Crew | null;
  readonly #paces: Map<Pass, Pace> = new Map();
  #pace: Pace = this.#paceOf("decode");
  #work = 0;
  #ms = 0;
  #together: boolean;
  readonly #reason: string | null;

  private constructor(kernels: Kernels, scratch: number, crew: Crew | null, reason: string | null) {
    this.kernels = kernels;
    this.scratch = scratch;
    this.#crew = crew;
    this.#reason = reason;
    this.#together = crew !== null;
  }

  /** A team of the caller only; `reason` says why, where more were wanted. */
  static alone(kernels: Kernels, scratch: number, reason: string | null = null): Team {
    return new Team(kernels, scratch, null, reason);
  }

  /** Starts workers. @throws {Error} If one does not start; none runs then. */
  static async start(options: TeamOptions): Promise<Team> {
    const crew = await Crew.start(options);
    return new Team(options.kernels, options.scratch, crew, null);
  }

  /** Threads there are. */
  get threads(): number {
    return this.#crew?.threads ?? 1;
  }

  /** Why there are not as many as wanted, or null. */
  get reason(): string | null {
    return this.#crew?.lost ?? this.#reason;
  }

  /** Why it can compute no longer, or null. */
  get failure(): string | null {
    return this.#crew?.failure ?? null;
  }

  /** Begins a unit of work of one kind, such as a token: by units it is found out whether threads help. One that was not ended counts for nothing. */
  begin(pass: Pass, work: number): void {
    if (this.#crew === null) return;
    this.#pace = this.#paceOf(pass);
    this.#work = work;
    this.#ms = 0;
    this.#together = this.#pace.together && this.#crew.threads > 1;
  }

  #paceOf(pass: Pass): Pace {
    const pace = this.#paces.get(pass) ?? new Pace();
    this.#paces.set(pass, pace);
    return pace;
  }

  /** Ends the unit. */
  end(): void {
    if (this.#work > 0 && this.threads > 1) this.#pace.note(this.#ms, this.#work);
    this.#work = 0;
  }

  /**
   * Runs `body` over 0 to n - 1: at once, or in ranges on several threads. A body only calls kernels, on memory that no other range of
   * this step writes.
   *
   * @throws {Error} If a thread fails; the team is of no use from then on.
   */
  each(n: number, body: Part): void {
    if (this.#crew === null) return void body(this.kernels, 0, n, this.scratch);
    const began = performance.now();
    if (this.#together && n > 1) this.#crew.run(n, body);
    else body(this.kernels, 0, n, this.scratch);
    this.#ms += performance.now() - began;
  }

  /** Ends the workers. */
  async close(): Promise<void> {
    await this.#crew?.close();
  }
}

/** Workers and what they read. */
class Crew {
  readonly #scratch: number;
  readonly #kernels: WasmKernels;
  readonly #control: number;
  readonly #job: number;
  readonly #words: Int32Array;
  readonly #recorder: Recorder;
  readonly #spins: number;
  readonly #patience: number;
  readonly #canWait: boolean;
  readonly #workers: WorkerHandle[] = [];
  /** Threads that it began with. */
  readonly #size: number;
  #alive = 0;
  #failure: string | null = null;
  #closed = false;
  /** What became of workers that are no longer there. */
  lost: string | null = null;

  private constructor(options: TeamOptions) {
    const { kernels, allocate } = options;
    this.#kernels = kernels;
    this.#scratch = options.scratch;
    this.#size = options.threads;
    this.#control = allocate(CONTROL.ranges + 64 * options.threads);
    this.#job = allocate(JOB_BYTES);
    this.#words = new Int32Array(kernels.memory.buffer, this.#control, CONTROL.ranges / 4);
    this.#recorder = new Recorder(kernels.memory, this.#job, JOB_BYTES, options.kernelOptions);
    this.#spins = countSpins(kernels, this.#control + CONTROL.stop);
    this.#patience = options.patience ?? PATIENCE;
    this.#canWait = canWait(this.#words);
  }

  static async start(options: TeamOptions): Promise<Crew> {
    const { module, kernels: { memory }, allocate, threads, startWorker, startMs = START_MS } = options;
    const crew = new Crew(options);
    const started = Array.from({ length: threads - 1 }, (_, i) =>
      new Promise<void>((resolve, reject) => {
        const thread = i + 1;
        const start: WorkerStart = {
          module,
          memory,
          control: crew.#control,
          job: crew.#job,
          scratch: allocate(options.scratchBytes),
          spins: crew.#spins,
          thread,
          threads,
        };
        const fail = (reason: string): void => {
          clearTimeout(timer);
          reject(new Error(`Cannot start thread ${thread + 1} of ${threads}: ${reason}`));
        };
        const timer = setTimeout(() => fail(`it did not answer within ${startMs / 1000} s`), startMs);
        let ready = false;
        const message = (text: unknown): void => {
          if (text !== "ready") return fail(String(text));
          clearTimeout(timer);
          ready = true;
          crew.#alive++;
          resolve();
        };
        try {
          crew.#workers.push(
            startWorker(WORKER_CODE, start, {
              message,
              end: (reason) => ready ? crew.#lose(thread, reason) : fail(reason),
            }),
          );
        } catch (error) {
          fail(String(error));
        }
      }));
    try {
      await Promise.all(started);
    } catch (error) {
      await crew.close();
      throw error;
    }
    return crew;
  }

  /** Threads that are left. */
  get threads(): number {
    return 1 + this.#alive;
  }

  get failure(): string | null {
    return this.#failure;
  }

  run(n: number, body: Part): void {
    if (this.#failure !== null) throw failureError(this.#failure);
    const recorder = this.#recorder, parts = Math.min(n, this.#size * PARTS_PER_THREAD);
    recorder.begin(parts);
    for (let part = 0; part < parts; part++) {
      recorder.beginPart(part);
      body(
        recorder.kernels,
        Math.floor((n * part) / parts),
        Math.floor((n * (part + 1)) / parts),
        0,
      );
      recorder.endPart();
    }
    let done: number;
    try {
      done = this.#kernels.teamRun(this.#control, this.#size, this.#job, parts, this.#scratch, this.#spins);
    } catch (error) {
      // other threads may still be in the middle of this step
      this.#failure = String(error);
      throw error;
    }
    if (done !== parts) this.#wait(parts, done);
  }

  /** Waits for parts that other threads have taken. */
  #wait(parts: number, done: number): void {
    const words = this.#words, at = CONTROL.done / 4;
    for (let slices = 0; done !== parts; slices++) {
      if (words[CONTROL.failed / 4] !== 0) this.#fail(this.#failureText());
      if (slices > this.#patience) this.#fail("a thread does not go on with its part");
      const before = done;
      if (this.#canWait) {
        Atomics.store(words, CONTROL.callerSleeps / 4, 1);
        Atomics.wait(words, at, done, SLICE_MS);
        Atomics.store(words, CONTROL.callerSleeps / 4, 0);
        done = Atomics.load(words, at);
      } else {
        done = this.#kernels.teamWait(this.#control, parts, this.#spins * (SLICE_MS / SPIN_MS));
      }
      if (done !== before) slices = 0;
    }
  }

  #failureText(): string {
    const { buffer } = this.#kernels.memory, thread = this.#words[CONTROL.failed / 4];
    // decoders take no shared memory
    const text = new Uint8Array(
      buffer,
      this.#control + CONTROL.failure,
      this.#words[CONTROL.failureBytes / 4],
    )
      .slice();
    return `thread ${thread! + 1}: ${new TextDecoder().decode(text)}`;
  }

  #fail(reason: string): never {
    this.#failure = reason;
    this.#stop();
    throw failureError(reason);
  }

  #lose(thread: number, reason: string): void {
    if (this.#closed || this.#failure !== null) return;
    this.#alive--;
    this.lost = `thread ${thread + 1} ended: ${reason}`;
  }

  #stop(): void {
    Atomics.store(this.#words, CONTROL.stop / 4, 1);
    // another ticket, so that a worker that is about to sleep on this one does not
    Atomics.add(this.#words, CONTROL.ticket / 4, 1 << 16);
    Atomics.notify(this.#words, CONTROL.ticket / 4);
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#failure ??= "its threads have ended";
    this.#stop();
    await Promise.all(this.#workers.map((worker) => worker.terminate()));
  }
}

function failureError(reason: string): Error {
  return new Error(`Cannot compute on: ${reason}: load the model again, with one thread if this recurs`);
}

/** Reads of a word that take SPIN_MS, by the fastest of some rounds: the first ones run unoptimised. */
function countSpins(kernels: WasmKernels, word: number): number {
  const reads = 20_000;
  let fastest = Infinity;
  for (let round = 0; round < 10; round++) {
    const began = performance.now();
    kernels.teamSpin(word, 0, reads);
    const ms = performance.now() - began;
    // a coarse clock may see no time pass
    if (ms > 0) fastest = Math.min(fastest, ms);
  }
  return Math.ceil(reads * Math.min(SPIN_MS / fastest, 10) || reads);
}

/** Whether this thread may sleep: the main thread of a browser's page may not. */
function canWait(words: Int32Array): boolean {
  try {
    Atomics.wait(words, CONTROL.done / 4, -1, 0);
    return true;
  } catch {
    return false;
  }
}
