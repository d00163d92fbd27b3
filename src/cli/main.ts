#!/usr/bin/env node
/**
 * The command line program.
 *
 * A command is a file in `commands/` that exports `register(program, context)`: it adds its command and options to
 * `program`. It is loaded at every start, so it imports at its top only what is light (this folder, types, errors);
 * the action itself does `await import()` of what it needs. The action prints its result with `context.print…`, or with
 * `context.options.json` one document with `context.printJson`; it throws what went wrong, `UsageError` for exit status 2.
 * After Ctrl-C (`context.signal`) it prints what there is and returns.
 */
import process from "node:process";
import { Command, CommanderError } from "commander";
import { detectPlatform } from "../platform/detect.ts";
import { VERSION } from "../version.ts";
import * as analyze from "./commands/analyze.ts";
import * as bench from "./commands/bench.ts";
import * as calibrate from "./commands/calibrate.ts";
import * as chat from "./commands/chat.ts";
import * as demo from "./commands/demo.ts";
import * as detokenize from "./commands/detokenize.ts";
import * as evaluate from "./commands/eval.ts";
import * as generate from "./commands/generate.ts";
import * as inspect from "./commands/inspect.ts";
import * as logits from "./commands/logits.ts";
import * as models from "./commands/models.ts";
import * as pack from "./commands/pack.ts";
import * as pull from "./commands/pull.ts";
import * as search from "./commands/search.ts";
import * as serve from "./commands/serve.ts";
import * as template from "./commands/template.ts";
import * as tokenize from "./commands/tokenize.ts";
import * as worker from "./commands/worker.ts";
import * as xr from "./commands/xr.ts";
import { describeError, EXIT, exitStatusOf } from "./errors.ts";
import { type CliContext, createContext } from "./output.ts";

const COMMANDS: readonly { register(program: Command, context: CliContext): void }[] = [
  models,
  pull,
  inspect,
  tokenize,
  detokenize,
  template,
  generate,
  chat,
  logits,
  calibrate,
  evaluate,
  search,
  worker,
  analyze,
  bench,
  pack,
  serve,
  xr,
  demo,
];

/** Runs the program with these arguments; resolves to the exit status. */
async function main(args: readonly string[]): Promise<number> {
  const interrupt = new AbortController();
  process.on("SIGINT", () => {
    // The second one is from someone who does not want to wait for the end of a token.
    if (interrupt.signal.aborted) process.exit(EXIT.interrupted);
    interrupt.abort();
  });
  const options = { json: false, quiet: false, debug: args.includes("--debug") };
  const context = createContext(await detectPlatform(), interrupt.signal, options);

  const program = new Command("rsparse")
    .description(
      "Language models on a CPU in any JavaScript runtime: WebAssembly SIMD with activation sparsity",
    )
    .version(VERSION, "-V, --version")
    .option("--json", "one JSON document on stdout, nothing else")
    .option("--quiet", "nothing but errors on stderr")
    .option("--debug", "errors with their stack")
    .configureHelp({ showGlobalOptions: true })
    .configureOutput({ outputError: (text, write) => write(text) })
    .exitOverride()
    .hook("preAction", () => void Object.assign(options, program.opts()));
  for (const command of COMMANDS) command.register(program, context);

  try {
    if (args.length === 0) program.help({ error: true });
    await program.parseAsync(args, { from: "user" });
    return interrupt.signal.aborted ? EXIT.interrupted : EXIT.success;
  } catch (error) {
    // Commander has printed its own message, and throws for `--help` and `--version` too.
    if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT.success : EXIT.usage;
    context.progress.end();
    process.stderr.write(`${describeError(error, options.debug)}\n`);
    return interrupt.signal.aborted ? EXIT.interrupted : exitStatusOf(error);
  }
}

const status = await main(process.argv.slice(2));
// Waits for what is still on its way to a slow reader: exit would cut it. Not for long after a failure: Deno never
// calls back where stdout itself had failed.
await new Promise((resolve) => {
  process.stdout.write("", resolve);
  if (status !== EXIT.success) setTimeout(resolve, 1000);
});
process.exit(status);
