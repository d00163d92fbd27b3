/** What a calibration has done so far, on disk: one that was cut short, even by kill -9, goes on from there. */
import type { Checkpoint } from "../calibrate/checkpoint.ts";
import { type Lock, waitForLock } from "../hub/lock.ts";
import type { Platform } from "../platform/platform.ts";
import { differingInput, parse } from "./journal.ts";
import { writeFile } from "./output_file.ts";

/** The file that says whose state it is. */
const INPUTS = "inputs.json";
/** A process that was killed counts as dead after 15 s of silence (`Platform.tryLock`): so long it is not known whether one is at work. */
const LOCK_WAIT_MS = 20_000, LOCK_POLL_MS = 250;

/**
 * A folder with a file for each name: each is written beside its name and renamed, so that it is whole whenever the process ends. A lock beside the folder
 * keeps other processes out until it is closed.
 */
export class CalibrateState implements Checkpoint {
  readonly #platform: Platform;
  readonly #path: string;
  readonly #lock: Lock;
  /** Whether an earlier run with the same inputs has left something. */
  readonly isResumed: boolean;
  /** What another run had left there, which is gone, differed in; null: there was none. */
  readonly replaced: string | null;

  private constructor(
    platform: Platform,
    path: string,
    lock: Lock,
    isResumed: boolean,
    replaced: string | null,
  ) {
    this.#platform = platform;
    this.#path = path;
    this.#lock = lock;
    this.isResumed = isResumed;
    this.replaced = replaced;
  }

  /**
   * Opens what an earlier run left, or begins. What a run with other inputs left is taken away: to do its work again is a matter of minutes.
   *
   * @param inputs everything that the result depends on
   * @param waiting `onWait` is called if another process has the lock, or had it when it was killed; `signal` ends the wait
   * @throws {Error} If something else is at `path`, it can't be written, or another process is at work on it.
   */
  static async open(
    platform: Platform,
    path: string,
    inputs: Readonly<Record<string, unknown>>,
    waiting: { readonly signal?: AbortSignal; readonly onWait?: () => void } = {},
  ): Promise<CalibrateState> {
    const lock = await takeLock(platform, path, waiting);
    try {
      return await CalibrateState.#open(platform, path, lock, inputs);
    } catch (error) {
      await lock.release();
      throw error;
    }
  }

  static async #open(
    platform: Platform,
    path: string,
    lock: Lock,
    inputs: Readonly<Record<string, unknown>>,
  ): Promise<CalibrateState> {
    const found = await platform.stat(path), text = JSON.stringify(inputs);
    if (found?.kind === "file") {
      throw new Error(`Cannot keep what is done in ${path}: it is a file: move it, or give another -o`);
    }
    const before = found === null ? null : await readText(platform, `${path}/${INPUTS}`);
    if (before === text) return new CalibrateState(platform, path, lock, true, null);
    if (
      before === null && found !== null && (await platform.list(path)).some((name) => !name.endsWith(".part"))
    ) {
      throw new Error(
        `Cannot keep what is done in ${path}: it is another folder: move it, or give another -o`,
      );
    }
    await removeFolder(platform, path);
    await platform.makeDir(path);
    await writeFile(platform, `${path}/${INPUTS}`, [new TextEncoder().encode(text)]);
    return new CalibrateState(
      platform,
      path,
      lock,
      false,
      before === null
        ? null
        : differingInput(parse(before) as Record<string, unknown> | null, inputs) ?? "settings",
    );
  }

  async get(name: string): Promise<Uint8Array | null> {
    const path = this.#fileOf(name);
    if (!this.isResumed || (await this.#platform.stat(path))?.kind !== "file") return null;
    return new Uint8Array(await (await this.#platform.openBlob(path)).arrayBuffer());
  }

  put(name: string, bytes: Uint8Array): Promise<void> {
    return writeFile(this.#platform, this.#fileOf(name), [bytes]);
  }

  /** Takes the folder away: the result is written. */
  remove(): Promise<void> {
    return removeFolder(this.#platform, this.#path);
  }

  /** Leaves what there is to another process. */
  close(): Promise<void> {
    return this.#lock.release();
  }

  #fileOf(name: string): string {
    return `${this.#path}/${name.replaceAll(" ", "-")}`;
  }
}

async function takeLock(
  platform: Platform,
  path: string,
  waiting: { readonly signal?: AbortSignal; readonly onWait?: () => void },
): Promise<Lock> {
  return await waitForLock(platform, `${path}.lock`, {
    ...waiting,
    pollMs: LOCK_POLL_MS,
    waitMs: LOCK_WAIT_MS,
    busy: () =>
      new Error(
        `Cannot keep what is done in ${path}: another process is at work on the same file: wait for its end, or give another -o`,
      ),
  });
}

/** What says whose it is goes last: whenever the process ends, what is left is still known as a state, and a state that lacks files is one. */
async function removeFolder(platform: Platform, path: string): Promise<void> {
  if (await platform.stat(path) === null) return;
  for (const name of await platform.list(path)) if (name !== INPUTS) await platform.remove(`${path}/${name}`);
  await platform.remove(path);
}

async function readText(platform: Platform, path: string): Promise<string | null> {
  if ((await platform.stat(path))?.kind !== "file") return null;
  return new TextDecoder().decode(await (await platform.openBlob(path)).arrayBuffer());
}
