/** What `rsparse xr` reads: scenarios by id or file, hardware, JSON; and how it lets the event loop have its turn. */
import { FormatError } from "../../errors.ts";
import {
  builtinHardware,
  builtinScenario,
  builtinScenarios,
  type Hardware,
  parseHardware,
  parseScenario,
  readMScenario,
  type Scenario,
} from "../../xr/mod.ts";
import { UsageError } from "../errors.ts";
import type { CliContext } from "../output.ts";
import { readText } from "../text_file.ts";

/** What is run, where more than one thing may be. */
export interface SweepCommandOptions {
  readonly scenario?: string;
  readonly setting?: string;
  readonly hardware?: string;
  readonly seeds?: number;
}

/** Work is done in pieces of about so long, between which Ctrl-C is heard. */
const PIECE_MS = 20;

/** A JSON file's value. @throws {FormatError} If it is not JSON. */
export async function readJson(context: CliContext, path: string): Promise<unknown> {
  const text = await readText(context.platform, path);
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new FormatError(path, 0, `JSON that cannot be parsed: ${(cause as Error).message}`, { cause });
  }
}

/** A scenario that comes with rsparse, or one of a file: JSON, or in XRBench's own form. */
export async function readScenario(context: CliContext, name: string): Promise<Scenario> {
  if (/\.m$/.test(name)) {
    return parseScenario(readMScenario(await readText(context.platform, name), name), name);
  }
  if (/\.json$/.test(name)) return parseScenario(await readJson(context, name), name);
  return await builtinScenario(name);
}

/** What comes with rsparse, and what a file adds to it. */
export async function readHardware(context: CliContext, path: string | undefined): Promise<Hardware> {
  const builtin = await builtinHardware();
  return path === undefined ? builtin : parseHardware(await readJson(context, path), path, builtin);
}

/** The scenarios, settings and seeds that options name; all where they name none. */
export async function readSweep(context: CliContext, options: SweepCommandOptions): Promise<{
  readonly scenarios: readonly Scenario[];
  readonly settings: readonly string[];
  readonly hardware: Hardware;
  readonly seeds: readonly number[];
}> {
  const { scenario, setting } = options, hardware = await readHardware(context, options.hardware);
  return {
    scenarios: scenario === undefined ? await builtinScenarios() : [await readScenario(context, scenario)],
    settings: setting === undefined ? [...hardware.settings.keys()] : [setting],
    hardware,
    seeds: Array.from({ length: options.seeds ?? 20 }, (_, i) => i + 1),
  };
}

/** Goes through a generator's values in pieces; ends early after Ctrl-C. Faults of values that only show when they are used together are told with `what`. */
export async function inPieces<T>(
  { signal, progress }: CliContext,
  what: string,
  values: Iterable<T>,
  total: number,
  each: (value: T) => void,
): Promise<void> {
  let began = performance.now(), done = 0;
  try {
    for (const value of values) {
      each(value);
      progress.update(what, ++done, total, "runs");
      if (performance.now() - began < PIECE_MS) continue;
      await new Promise((resolve) => setTimeout(resolve, 0));
      if (signal.aborted) return;
      began = performance.now();
    }
  } catch (error) {
    throw described(error, what);
  } finally {
    progress.end();
  }
}

/** An error of the library's arguments, such as rates that don't go together, as the program says it. */
export function described(error: unknown, what: string): unknown {
  if (!(error instanceof RangeError) || error.name !== "RangeError") return error;
  return new Error(`Cannot run ${what}: ${error.message}`, { cause: error });
}

/** Refuses options that say nothing here. */
export function refuse(options: object, names: readonly string[], why: string): void {
  const given = names.find((name) => (options as Record<string, unknown>)[name] !== undefined);
  if (given === undefined) return;
  throw new UsageError(`Cannot take --${given.replace(/[A-Z]/g, (c) => `-${c.toLowerCase()}`)}: ${why}`);
}
