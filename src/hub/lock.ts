/** Waiting for a lock of {@linkcode Platform.tryLock}. */
import type { Platform } from "../platform/platform.ts";

/** What this process has until it releases it. */
export type Lock = NonNullable<Awaited<ReturnType<Platform["tryLock"]>>>;

/** How long to wait, and who is told. */
export interface LockWait {
  /** Between two tries. */
  readonly pollMs: number;
  /** Ends the wait with the signal's reason. */
  readonly signal?: AbortSignal;
  /** Called when the wait begins. */
  readonly onWait?: () => void;
  /** After so long it ends with `busy`'s error; default: never. A process that was killed has its lock for up to 15 s more. */
  readonly waitMs?: number;
  /** The error of a wait that was too long. */
  readonly busy?: () => Error;
}

/** Takes a lock for this process, as soon as no other has it. */
export async function waitForLock(
  platform: Platform,
  path: string,
  { pollMs, signal, onWait, waitMs = Infinity, busy }: LockWait,
): Promise<Lock> {
  const end = Date.now() + waitMs;
  let lock = await platform.tryLock(path);
  if (lock === null) onWait?.();
  while (lock === null) {
    if (Date.now() >= end) throw busy?.() ?? new Error(`Cannot lock ${path}: another process has it`);
    await new Promise((resolve) => setTimeout(resolve, pollMs));
    signal?.throwIfAborted();
    lock = await platform.tryLock(path);
  }
  return lock;
}
