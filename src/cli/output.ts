/** What commands are handed: results to stdout, everything else to stderr, input, interruption. */
import process from "node:process";
import type { Platform } from "../platform/platform.ts";
import { EXIT, UsageError } from "./errors.ts";

/** Options that every command has. */
export interface GlobalOptions {
  /** One JSON document on stdout. */
  readonly json: boolean;
  /** Nothing but errors on stderr. */
  readonly quiet: boolean;
  /** Errors with their stack. */
  readonly debug: boolean;
}

/** A line on stderr that is written over and over; nothing where stderr is no terminal. */
export interface Progress {
  /** `total` is null where it isn't known. Both are bytes, or counts of `unit`. */
  update(label: string, done: number, total: number | null, unit?: string): void;
  /** Takes the line away. */
  end(): void;
}

/** One run of the program. */
export interface CliContext {
  readonly platform: Platform;
  /** Aborted by Ctrl-C. A command then prints what it has and returns; the exit status is 130. */
  readonly signal: AbortSignal;
  /** Set before a command's action runs. */
  readonly options: GlobalOptions;
  readonly progress: Progress;
  /** Text to stdout, as it is; resolves when it is written. */
  write(text: string): Promise<void>;
  /** A line to stdout. */
  print(line: string): Promise<void>;
  /** The one document of `--json`. */
  printJson(value: unknown): Promise<void>;
  /** A line to stderr, unless `--quiet`. */
  note(line: string): void;
  /** All of stdin as text. */
  readStdin(): Promise<string>;
  readonly stdinIsTerminal: boolean;
  readonly stdoutIsTerminal: boolean;
}

/** Bytes given to stdout at a time: a result of many megabytes is not held twice. */
const WRITE_CHUNK = 1 << 16;
/** The line of progress is drawn at most this often. */
const PROGRESS_MS = 100;

/** The context of this process. `options` is read when something is printed, so that it may be filled in later. */
export function createContext(platform: Platform, signal: AbortSignal, options: GlobalOptions): CliContext {
  const { stdout, stderr, stdin } = process;
  // The reader has gone, as with `| head`: that is its good right, and nobody is left to tell.
  stdout.on("error", (error: Error) => {
    if ("code" in error && error.code === "EPIPE") process.exit(EXIT.success);
    stderr.write(`error: Cannot write to stdout: ${error.message}\n`);
    process.exit(EXIT.failure);
  });
  stderr.on("error", () => {});
  const progress = createProgress(
    () => Boolean(stderr.isTTY) && !options.quiet,
    (text) => void stderr.write(text),
  );

  const writeChunk = (text: string): Promise<void> =>
    new Promise((resolve, reject) => stdout.write(text, (error) => error ? reject(error) : resolve()));
  const write = async (text: string): Promise<void> => {
    progress.end();
    for (let at = 0; at < text.length;) {
      let end = Math.min(at + WRITE_CHUNK, text.length);
      // Not between the two halves of a character beyond U+FFFF.
      if (end < text.length && /[\uD800-\uDBFF]/.test(text[end - 1]!)) end++;
      await writeChunk(text.slice(at, end));
      at = end;
    }
  };
  return {
    platform,
    signal,
    options,
    progress,
    write,
    print: (line) => write(`${line}\n`),
    printJson: (value) => write(`${JSON.stringify(value)}\n`),
    note(line) {
      if (options.quiet) return;
      progress.end();
      stderr.write(`${line}\n`);
    },
    async readStdin() {
      const chunks: Uint8Array[] = [];
      for await (const chunk of stdin) chunks.push(chunk as Uint8Array);
      return new TextDecoder().decode(concat(chunks));
    },
    stdinIsTerminal: Boolean(stdin.isTTY),
    stdoutIsTerminal: Boolean(stdout.isTTY),
  };
}

function concat(chunks: readonly Uint8Array[]): Uint8Array {
  const all = new Uint8Array(chunks.reduce((sum, chunk) => sum + chunk.length, 0));
  let at = 0;
  for (const chunk of chunks) {
    all.set(chunk, at);
    at += chunk.length;
  }
  return all;
}

function createProgress(shown: () => boolean, write: (text: string) => void): Progress {
  let drawn = false, last = -Infinity;
  return {
    update(label, done, total, unit) {
      const now = performance.now();
      if (!shown() || (now - last < PROGRESS_MS && done !== total)) return;
      last = now;
      drawn = true;
      const width = 24, filled = total ? Math.round(width * Math.min(1, done / total)) : 0;
      const bar = total ? ` [${"#".repeat(filled)}${".".repeat(width - filled)}]` : "";
      const show = (n: number): string => unit === undefined ? formatBytes(n) : String(n);
      const end = unit === undefined ? "" : ` ${unit}`;
      write(`\r\x1b[K${label}${bar} ${show(done)}${total ? ` of ${show(total)}` : ""}${end}`);
    },
    end() {
      if (drawn) write("\r\x1b[K");
      drawn = false;
    },
  };
}

/** `98362432` as `98.4 MB`. */
export function formatBytes(bytes: number): string {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let value = bytes, unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  return `${unit === 0 ? value : value.toFixed(1)} ${units[unit]}`;
}

/**
 * The JSON document on stdin, held against `check`.
 *
 * @throws {UsageError} If it is not JSON, or `check` refuses it; `wanted` says what it should be.
 */
export async function readJsonInput<T>(
  context: CliContext,
  wanted: string,
  check: (value: unknown) => value is T,
): Promise<T> {
  const text = await context.readStdin();
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new UsageError(`Cannot read stdin: ${(error as Error).message}: ${wanted} wanted`, {
      cause: error,
    });
  }
  if (!check(value)) throw new UsageError(`Cannot read stdin: it is JSON, but not ${wanted}`);
  return value;
}

/** Whether `value` is an array whose every element passes `check`. */
export function isArrayOf<T>(value: unknown, check: (element: unknown) => element is T): value is T[] {
  return Array.isArray(value) && value.every(check);
}
