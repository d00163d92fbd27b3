/** Programs run to their end, for tests of the command line. */
import { spawn } from "node:child_process";
import process from "node:process";

/** What a program left. */
export interface Finished {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** How to run it. */
export interface RunProgramOptions {
  readonly input?: string;
  /** Beside the variables of this process; undefined takes one away. */
  readonly env?: Readonly<Record<string, string | undefined>>;
  /** Handed a function that sends SIGINT. */
  readonly onStart?: (interrupt: () => void) => void;
  /** Handed each piece of stdout. */
  readonly onStdout?: (text: string) => void;
}

/** Runs a program with `input` on its stdin. */
export function runProgram(command: readonly string[], options: RunProgramOptions = {}): Promise<Finished> {
  const env: Record<string, string | undefined> = { ...process.env, NO_COLOR: "1", ...options.env };
  for (const name of Object.keys(env)) if (env[name] === undefined) delete env[name];
  return new Promise((resolve, reject) => {
    const [program, ...args] = command as [string, ...string[]];
    const child = spawn(program, args, { env, stdio: ["pipe", "pipe", "pipe"] });
    let stdout = "", stderr = "";
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      stdout += text;
      options.onStdout?.(text);
    });
    child.stderr.setEncoding("utf8").on("data", (text: string) => stderr += text);
    // A program that reads no input may have closed it.
    child.stdin.on("error", () => {});
    child.stdin.end(options.input ?? "");
    child.on("error", reject);
    child.on("close", (code) => resolve({ code: code ?? -1, stdout, stderr }));
    // Not child.kill: after it Deno 2.9 reports the signal, whatever the status is that the program ends with.
    options.onStart?.(() => void process.kill(child.pid!, "SIGINT"));
  });
}

/** A program that runs until it is told to end, such as a server. */
export interface RunningProgram {
  readonly pid: number;
  /** What it has said so far. */
  stdout(): string;
  stderr(): string;
  /** What a pattern finds in what it has said, as soon as it does; rejects if it ends before. */
  says(pattern: RegExp): Promise<RegExpExecArray>;
  send(signal: "SIGINT" | "SIGTERM" | "SIGKILL"): void;
  /** Its exit status; below 0 if a signal ended it. */
  readonly ended: Promise<number>;
}

/** Starts a program, with `env` beside the variables of this process. */
export function startProgram(
  command: readonly string[],
  env: Readonly<Record<string, string>> = {},
): RunningProgram {
  const [program, ...args] = command as [string, ...string[]];
  const child = spawn(program, args, { stdio: ["ignore", "pipe", "pipe"], env: { ...process.env, ...env } });
  let stdout = "", stderr = "", look = (): void => {};
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    stdout += text;
    look();
  });
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    stderr += text;
    look();
  });
  const ended = new Promise<number>((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code, signal) => resolve(code ?? (signal === null ? -1 : -2)));
  });
  // whoever waits for it comes later
  ended.catch(() => {});
  return {
    pid: child.pid!,
    stdout: () => stdout,
    stderr: () => stderr,
    says: (pattern) =>
      new Promise((resolve, reject) => {
        const before = look;
        look = () => {
          before();
          const found = pattern.exec(stderr) ?? pattern.exec(stdout);
          if (found !== null) resolve(found);
        };
        look();
        ended.then((code) => reject(new Error(`${program} ended with ${code}: ${stderr}`)), reject);
      }),
    send(signal) {
      // not child.kill: see above
      if (child.exitCode === null && child.signalCode === null) process.kill(child.pid!, signal);
    },
    ended,
  };
}
