/** What a calibration has done so far, on disk: one that was cut short, even by kill -9, goes on from there. */
import type { Checkpoint } from "../calibrate/checkpoint.ts";
import type { Platform } from "../platform/platform.ts";
import { writeFile } from "./output_file.ts";

/** The file that says whose state it is. */
const INPUTS = "inputs.json";

/** A folder with a file for each name: each is written beside its name and renamed, so that it is whole whenever the process ends. */
export class CalibrateState implements Checkpoint {
  readonly #platform: Platform;
  readonly #path: string;
  /** Whether an earlier run with the same inputs has left something. */
  readonly isResumed: boolean;
  /** What another run had left there, which is gone, differed in; null: there was none. */
  readonly replaced: string | null;

  private constructor(platform: Platform, path: string, isResumed: boolean, replaced: string | null) {
    this.#platform = platform;
    this.#path = path;
    this.isResumed = isResumed;
    this.replaced = replaced;
  }

  /**
   * Opens what an earlier run left, or begins. What a run with other inputs left is taken away: to do its work again is a matter of minutes.
   *
   * @param inputs everything that the result depends on
   * @throws {Error} If something else is at `path`, or it can't be written.
   */
  static async open(
    platform: Platform,
    path: string,
    inputs: Readonly<Record<string, unknown>>,
  ): Promise<CalibrateState> {
    const found = await platform.stat(path), text = JSON.stringify(inputs);
    if (found?.kind === "file") {
      throw new Error(`Cannot keep what is done in ${path}: it is a file: move it, or give another -o`);
    }
    const before = found === null ? null : await readText(platform, `${path}/${INPUTS}`);
    if (before === text) return new CalibrateState(platform, path, true, null);
    if (
      before === null && found !== null && (await platform.list(path)).some((name) => !name.endsWith(".part"))
    ) {
      throw new Error(
        `Cannot keep what is done in ${path}: it is another folder: move it, or give another -o`,
      );
    }
    await platform.remove(path);
    await platform.makeDir(path);
    await writeFile(platform, `${path}/${INPUTS}`, [new TextEncoder().encode(text)]);
    return new CalibrateState(platform, path, false, before === null ? null : difference(before, inputs));
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
    return this.#platform.remove(this.#path);
  }

  #fileOf(name: string): string {
    return `${this.#path}/${name.replaceAll(" ", "-")}`;
  }
}

async function readText(platform: Platform, path: string): Promise<string | null> {
  if ((await platform.stat(path))?.kind !== "file") return null;
  return new TextDecoder().decode(await (await platform.openBlob(path)).arrayBuffer());
}

/** The first input that is another. */
function difference(before: string, inputs: Readonly<Record<string, unknown>>): string {
  let found: Record<string, unknown> | null = null;
  try {
    found = JSON.parse(before);
  } catch {
    // as if it had none of them
  }
  return Object.keys(inputs).find((name) => JSON.stringify(found?.[name]) !== JSON.stringify(inputs[name])) ??
    "settings";
}
