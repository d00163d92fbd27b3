/** What the workers of a team run. */

/** Byte offsets in a team's control block; the first four and `ranges` are those of `assembly/team.ts`. */
export const CONTROL = {
  ticket: 0,
  done: 64,
  sleepers: 128,
  callerSleeps: 192,
  /** Not 0: workers end. */
  stop: 256,
  /** The thread that failed, or 0. */
  failed: 260,
  /** Why: bytes of UTF-8 text, and the text. */
  failureBytes: 264,
  failure: 320,
  /** 64 bytes a thread. */
  ranges: 1024,
} as const;

/** What a worker is started with. */
export interface WorkerStart {
  readonly module: WebAssembly.Module;
  readonly memory: WebAssembly.Memory;
  readonly control: number;
  readonly job: number;
  /** This thread's own scratch. */
  readonly scratch: number;
  /** Reads of the ticket before the worker sleeps. */
  readonly spins: number;
  /** 1 for the first worker: the caller is thread 0. */
  readonly thread: number;
  readonly threads: number;
}

/**
 * A worker's code: a function of a {@linkcode WorkerStart} and of what sends a message. It is text and not a module because bundlers keep no
 * file that nothing imports, and needs nothing but what every kind of worker has.
 *
 * It sends `"ready"` or what went wrong. What goes wrong later is written into the control block, for the caller may be waiting where no
 * message reaches it. A worker sleeps for a second at most, so that one whose waking was lost is late and not gone.
 */
export const WORKER_CODE: string =
  `({ module, memory, control, job, scratch, spins, thread, threads }, send) => {
  const at = ${JSON.stringify(CONTROL)}, words = new Int32Array(memory.buffer, control, at.ranges / 4);
  let help;
  try {
    help = new WebAssembly.Instance(module, { env: { memory } }).exports.team_help;
  } catch (error) {
    return send(String(error));
  }
  send("ready");
  try {
    for (;;) {
      const ticket = help(control, thread, threads, job, scratch, spins);
      if (Atomics.load(words, at.stop / 4) !== 0) return;
      Atomics.add(words, at.sleepers / 4, 1);
      Atomics.wait(words, at.ticket / 4, ticket, 1000);
      Atomics.sub(words, at.sleepers / 4, 1);
    }
  } catch (error) {
    const text = new TextEncoder().encode(String(error)).subarray(0, at.ranges - at.failure);
    new Uint8Array(memory.buffer, control + at.failure, text.length).set(text);
    Atomics.store(words, at.failureBytes / 4, text.length);
    Atomics.store(words, at.failed / 4, thread);
    Atomics.notify(words, at.done / 4);
  }
}`;
