/** The command line program as tests run it. */
import assert from "node:assert/strict";
import { type Finished, runProgram, type RunProgramOptions } from "./process.ts";
import { cliCommand, thisRuntime } from "./runtimes.ts";
import { requireShared } from "./shared.ts";

/** What starts it on this runtime. */
export const CLI: readonly string[] = cliCommand(thisRuntime());

/** The document of `generate --json`, as far as tests look into it. */
export interface RunDocument {
  readonly engine: { readonly threads: number; readonly threadsReason: string | null };
  readonly recipe: { readonly method: string; readonly sparsity: number; readonly sha256: string } | null;
  readonly prompt: { readonly tokens: number[]; readonly count: number };
  readonly output: {
    readonly text: string;
    readonly tokens: number[];
    readonly count: number;
    readonly finishReason: string;
  };
  readonly timings: Readonly<Record<string, number>>;
  readonly measuredSparsity: number | null;
}

/** A story teller of 260,000 parameters: quick, and its text is text. */
export function stories(): string {
  return requireShared("data/models/stories260K/stories260K.bin");
}

/** Random weights: it says any byte at any time. */
export function babbler(): string {
  return requireShared("golden/tiny/llama-f32.gguf");
}

/** Runs it to its end. */
export function rsparse(args: readonly string[], options: RunProgramOptions = {}): Promise<Finished> {
  return runProgram([...CLI, ...args], options);
}

/** The one document on stdout of a run that went well. */
export async function json<T = RunDocument>(
  args: readonly string[],
  options: RunProgramOptions = {},
): Promise<T> {
  const { code, stdout, stderr } = await rsparse([...args, "--json"], options);
  assert.equal(code, 0, stderr);
  assert.equal(stdout.indexOf("\n"), stdout.length - 1, "one line on stdout");
  return JSON.parse(stdout);
}

/** A run that fails before anything is printed: one or two lines on stderr, no stack trace. */
export async function failure(
  code: number,
  pattern: RegExp,
  args: readonly string[],
  options: RunProgramOptions = {},
): Promise<void> {
  const { stderr, stdout, code: found } = await rsparse([...args, "--quiet"], options);
  assert.equal(found, code, `${args.join(" ")}: ${stderr}`);
  assert.equal(stdout, "");
  assert.match(stderr, pattern);
  assert.ok(stderr.trimEnd().split("\n").length <= 2, stderr);
  assert.doesNotMatch(stderr, /^\s+at /m);
}
