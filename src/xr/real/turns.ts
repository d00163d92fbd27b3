/** Keeps the schedule without shared memory: in the caller's thread, by timers and messages, with one accelerator. */
import type { Comparison } from "./clock.ts";
import { type Clock, offsetOf, ROUNDS } from "./clock.ts";
import type { JobEntry } from "./board.ts";
import type { Ended, Loader } from "./loader.ts";

/** The one accelerator, by messages. */
export interface Messenger {
  /** Hands over a job. */
  send(job: JobEntry): void;
  /** Asks for the time there. */
  ask(): Promise<number>;
  /** Jobs that have ended since it was last asked, by the accelerator's clock. */
  takeDone(): Omit<Ended, "accelerator">[];
  /** Why it is no more, or null. */
  loss(): string | null;
  /** Resolves when there is something to take, or an end. */
  changed(): Promise<void>;
}

/** Timers of pages end up to some milliseconds late; the rest is waited in turns of the event loop. */
const TURNS_MS = 6;

/** Compares clocks by messages. */
export async function compareByMessages(
  messenger: Messenger,
  now: Clock,
): Promise<ReturnType<typeof offsetOf>> {
  const comparisons: Comparison[] = [];
  for (let round = 0; round < ROUNDS; round++) {
    const askedMs = now(), otherMs = await messenger.ask();
    comparisons.push({ askedMs, otherMs, answeredMs: now() });
  }
  return offsetOf(comparisons);
}

/** As `drive` in `drive.ts`. @throws The signal's reason. */
export async function driveByMessages(
  loader: Loader,
  messenger: Messenger,
  now: Clock,
  { offsetMs, patienceMs, signal }: {
    readonly offsetMs: number;
    readonly patienceMs: number;
    readonly signal?: AbortSignal;
  },
): Promise<{ readonly originMs: number }> {
  const originMs = now() + TURNS_MS, turn = turns();
  let told = false;
  try {
    for (;;) {
      signal?.throwIfAborted();
      const nowMs = now() - originMs;
      // what it may still end after it was given up counts no more
      const ended = (told ? [] : messenger.takeDone()).map(({ startMs, endMs }) => ({
        accelerator: 0,
        startMs: startMs + offsetMs - originMs,
        endMs: endMs + offsetMs - originMs,
      }));
      const loss = messenger.loss() ??
        (loader.runningMs(0, nowMs) > patienceMs ? `its job took more than ${patienceMs / 1000} s` : null);
      const lost = loss !== null && !told ? [{ accelerator: 0, reason: loss }] : [];
      told ||= loss !== null;
      if (ended.length > 0 || lost.length > 0 || loader.nextMs <= nowMs) loader.step(nowMs, ended, lost);
      if (loader.isOver) return { originMs };
      const leftMs = loader.nextMs - (now() - originMs);
      if (leftMs > TURNS_MS) await asleep(messenger, Math.min(leftMs - TURNS_MS, 50));
      else await turn.next();
    }
  } finally {
    turn.close();
  }
}

async function asleep(messenger: Messenger, ms: number): Promise<void> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  await Promise.race([messenger.changed(), new Promise((resolve) => timer = setTimeout(resolve, ms))]);
  clearTimeout(timer);
}

/** Turns of the event loop that no timer slows. */
function turns(): { next(): Promise<void>; close(): void } {
  const { port1, port2 } = new MessageChannel();
  return {
    next: () =>
      new Promise((resolve) => {
        port1.onmessage = () => resolve();
        port2.postMessage(0);
      }),
    close() {
      port1.close();
      port2.close();
    },
  };
}
