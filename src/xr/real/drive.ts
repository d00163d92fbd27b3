/** Keeps the schedule: sleeps until something is due, spins the last part, and lets the loader decide. In a thread that may sleep, on shared memory. */
import { type Board, COMPARE } from "./board.ts";
import { type Clock, type Comparison, offsetOf, ROUNDS } from "./clock.ts";
import type { Ended, Loader } from "./loader.ts";

/** How a run is driven. */
export interface DriveOptions {
  /** What to add to each accelerator's times. */
  readonly offsetsMs: readonly number[];
  /** A job that takes longer has an accelerator that is gone, where the runtime does not tell. */
  readonly patienceMs: number;
}

/** A thread that sleeps looks so often whether someone wants it to end. */
const SLICE_MS = 50;
/** The part that is spun, at least and at most: how late sleep ends differs between machines, and with what else they do. */
const LEAST_SPIN_MS = 0.15;
const MOST_SPIN_MS = 2;
/** Frames that are due so soon after another enter before anything is handed over, which takes about as long: models of one rate arrive together but for their jitter. */
const GATHER_MS = 0.03;
/** From now to the first arrival at 0. */
const LEAD_MS = 5;

/**
 * Compares clocks with an accelerator, by question and answer through its rings. Null where it is no more, which the run will find.
 *
 * @throws {Error} If it does not answer within `patienceMs`.
 */
export function compareClocks(board: Board, accelerator: number, now: Clock, patienceMs: number): {
  readonly offsetMs: number;
  readonly errorMs: number;
} | null {
  const comparisons: Comparison[] = [];
  for (let round = 0; round < ROUNDS; round++) {
    const askedMs = now();
    board.send(accelerator, { model: COMPARE, frame: round, sparsity: NaN, token: -1 });
    for (let looks = 0;; looks++) {
      const seen = board.changes, answer = board.takeDone(accelerator), answeredMs = now();
      if (answer !== null) {
        comparisons.push({ askedMs, otherMs: answer.startMs, answeredMs });
        break;
      }
      if (board.lossOf(accelerator) !== null) return null;
      if (answeredMs - askedMs > patienceMs) {
        throw new Error(`accelerator ${accelerator} did not answer within ${patienceMs / 1000} s`);
      }
      // on fewer cores than threads the other one has to be let run
      if (looks > 2000) board.waitForChange(seen, 1);
    }
  }
  return offsetOf(comparisons);
}

/** Goes through a load without clock or accelerators, so that engines have compiled what the run is made of. */
export function rehearse(loader: Loader, accelerators: number): void {
  for (let t = 0; !loader.isOver; t = Math.min(loader.nextMs, t + 1)) {
    const ended: Ended[] = [];
    for (let accelerator = 0; accelerator < accelerators; accelerator++) {
      if (loader.runningMs(accelerator, t + 1) > 0) ended.push({ accelerator, startMs: t, endMs: t });
    }
    loader.step(t, ended, []);
  }
}

/**
 * Runs a load to its end.
 *
 * @returns whether it came to its end: false where someone stopped it
 */
export function drive(
  loader: Loader,
  board: Board,
  now: Clock,
  options: DriveOptions,
): { readonly isWhole: boolean; readonly originMs: number } {
  const originMs = now() + LEAD_MS, { offsetsMs, patienceMs } = options;
  const time = (): number => now() - originMs;
  const told = offsetsMs.map(() => false);
  let spinMs = 2 * LEAST_SPIN_MS;
  for (;;) {
    if (board.isStopped) return { isWhole: false, originMs };
    const seen = board.changes, ended: Ended[] = [], lost: { accelerator: number; reason: string }[] = [];
    let nowMs = time();
    for (loader.enter(nowMs); loader.nextMs - nowMs < GATHER_MS; loader.enter(nowMs)) nowMs = time();
    for (let accelerator = 0; accelerator < offsetsMs.length; accelerator++) {
      // what it may still end after it was given up counts no more
      if (told[accelerator]) continue;
      const offset = offsetsMs[accelerator]! - originMs;
      for (let done = board.takeDone(accelerator); done !== null; done = board.takeDone(accelerator)) {
        // an answer of one that was lost as clocks were compared, which nobody waited for any more
        if (done.model === COMPARE) continue;
        ended.push({ accelerator, startMs: done.startMs + offset, endMs: done.endMs + offset });
      }
      if (loader.runningMs(accelerator, nowMs) > patienceMs) {
        board.lose(accelerator, `its job took more than ${patienceMs / 1000} s`);
      }
      const reason = board.lossOf(accelerator);
      if (reason === null) continue;
      told[accelerator] = true;
      lost.push({ accelerator, reason });
    }
    if (ended.length > 0 || lost.length > 0 || loader.hasEntered) loader.step(nowMs, ended, lost);
    if (loader.isOver) return { isWhole: true, originMs };
    const leftMs = loader.nextMs - time();
    if (leftMs > spinMs) {
      const asleepMs = Math.min(leftMs - spinMs, SLICE_MS), began = time();
      board.waitForChange(seen, asleepMs);
      // late by how much, where nobody woke it: the next sleeps end earlier by it
      if (board.changes === seen) {
        const overMs = time() - began - asleepMs;
        spinMs = Math.min(MOST_SPIN_MS, Math.max(LEAST_SPIN_MS, 1.5 * overMs, 0.95 * spinMs));
      }
    } else while (board.changes === seen && time() < loader.nextMs);
  }
}
