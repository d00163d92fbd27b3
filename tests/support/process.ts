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
