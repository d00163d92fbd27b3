/** `rsparse xr list|run|compare|plot`: XRBench, a real-time workload of several models. */
import { type Command, InvalidArgumentError, Option } from "commander";
import { addRunOptions, decimal, integer } from "../model_option.ts";
import type { CliContext } from "../output.ts";
import type { ComparisonOptions } from "../xr/compare.ts";
import type { DialSweepCommandOptions } from "../xr/dial_sweep.ts";
import type { MeasureOptions } from "../xr/measure.ts";
import type { PlotOptions } from "../xr/plot.ts";
import type { RunCommandOptions } from "../xr/run.ts";

/** Seeds are what C's `srand` takes; glibc's state has no larger ones. */
const MAX_SEED = 2147483646;
const HOUR_MS = 3_600_000;

/** Adds the command and what it does. */
export function register(program: Command, context: CliContext): void {
  const command = program.command("xr")
    .description(
      "XRBench, a real-time workload of several models: the published harness to the bit, and repaired",
    );
  command.command("list")
    .description("scenarios, settings of accelerators, and models")
    .option("--hardware <file>", "accelerators and settings of your own, beside those that come with rsparse")
    .action(async (options: { readonly hardware?: string }) => {
      await (await import("../xr/list.ts")).list(context, options);
    });
  registerRun(command, context);
  registerMeasure(command, context);
  registerDial(command, context);
  addSweepOptions(
    command.command("compare")
      .argument("[files...]", "results of `rsparse xr run --json`, or of a batch")
      .description("results side by side; or what each repaired defect does to scores")
      .option("--fixes", "run every scenario on every setting with each switch alone, and compare"),
  ).action(async (files: string[], options: ComparisonOptions) => {
    await (await import("../xr/compare.ts")).compare(context, files, options);
  });
  addSweepOptions(
    command.command("plot")
      .argument("[files...]", "results of `rsparse xr run --json`, or of a batch")
      .requiredOption("--out <folder>", "where each figure goes: NAME.svg, and its numbers, NAME.csv")
      .description("scores of results side by side and a timeline of each; or the paper's figure 5")
      .option("--figure5", "run every scenario on every setting, and draw the paper's figure 5")
      .addOption(modeOption()),
  ).action(async (files: string[], options: PlotOptions) => {
    await (await import("../xr/plot.ts")).plot(context, files, options);
  });
}

function registerRun(command: Command, context: CliContext): void {
  const run = addSweepOptions(addRealOptions(
    command.command("run")
      .description("run a scenario on a setting, and score it")
      .addOption(modeOption(true))
      .option("--seed <n>", "seed of every draw (default: 1)", integer(0, MAX_SEED))
      .option(
        "--probability <p>",
        "of every model that has a dependency, instead of the scenario's",
        decimal(0, 1),
      )
      .option(
        "--switch <name>",
        "repeatable. NAME: this defect is on, and those that are not named are off. NAME=off, NAME=on: the mode's, but for this " +
          "(compat has all on, corrected none). `rsparse xr list` names them",
        (name: string, names: string[] | undefined) => [...names ?? [], name],
      )
      .addOption(
        new Option(
          "--order <name>",
          "who is served first: models by name, the least deadline, the least slack (default: name)",
        )
          .choices(["name", "edf", "slack"]),
      )
      .addOption(
        new Option(
          "--policy <name>",
          "which idle accelerator a frame goes to: fewest cycles, or least energy-delay product (default: latency)",
        ).choices(["latency", "edp"]),
      )
      .option(
        "--duration <ms>",
        "frames that arrive later are not asked for (default: the scenario's, 700)",
        above(HOUR_MS),
      )
      .option("--jitter <ms>", "width of the jitter (default: 0.01)", decimal(0, HOUR_MS))
      .option("--k <x>", "steepness of the real-time score, per ms (default: 15)", above(1e6))
      .option("--e-max <mj>", "energy at which the energy score is 0 (default: 1500)", above(1e12))
      .option(
        "--dial <policy>",
        "who chooses the sparsity of a reply's tokens, as of LM in voice_assistant: fixed:S, slack, queue, feedback, layer or plan " +
          "(default: fixed:0, dense)",
      )
      .option(
        "--levels <file>",
        "what levels take and are worth, by `rsparse xr measure` (default: SmolLM2's, which come with rsparse)",
      )
      .option("--csv <folder>", "write summary.csv and schedule.csv there, as the harness does")
      .option("--trace <file>", "write what was asked for and what jobs took, for --replay and other systems")
      .option(
        "--replay <file>",
        "run a trace again: its requests, and unless --setting is given its latencies",
      )
      .option(
        "--batch",
        "stdin: JSON array of {scenario, setting, seed, probability?, mode?, switches?}; prints an array",
      )
      .option("--suite", "the mean over scenarios of each setting, each the mean over seeds"),
  ));
  run.action(async (options: RunCommandOptions) => {
    await (await import("../xr/run.ts")).run(context, options);
  });
}

function registerMeasure(command: Command, context: CliContext): void {
  addRunOptions(
    command.command("measure")
      .description(
        "what tokens take at each level of sparsity here, and what they are worth: a table for --levels",
      ),
  )
    .option("--text <file>", "UTF-8 text to measure on, gzip or not; not what the recipe was made on")
    .option(
      "--sparsities <list>",
      "levels, with commas, 0 first (default: the recipe's dial in tenths)",
      sparsities,
    )
    .option(
      "--replies <n>",
      "replies of 32 tokens whose tokens are timed, at all levels in turns",
      integer(1, 10_000),
      16,
    )
    .option(
      "--pieces <n>",
      "pieces of the text, 32 tokens dense and 32 sparse, that fidelity is measured on",
      integer(1),
      64,
    )
    .option(
      "--fidelity <file>",
      "an earlier table of the same weights, recipe, text and levels: time tokens alone",
    )
    .option("--note <text>", "kept in the file, such as what else the machine did")
    .requiredOption("-o, --out <file>", "where to write the table")
    .action(async (options: MeasureOptions) => {
      await (await import("../xr/measure.ts")).measure(context, options);
    });
}

function registerDial(command: Command, context: CliContext): void {
  addRunOptions(
    command.command("dial")
      .description(
        "policies that choose sparsity by deadlines against fixed levels, on recorded tokens, under growing loads",
      ),
  )
    .option(
      "--levels <file>",
      "what levels take and are worth, by `rsparse xr measure` (default: SmolLM2's, which come with rsparse)",
    )
    .option("--seeds <n>", "runs of each load and policy (default: 20)", integer(1, 1000))
    .option("--first-seed <n>", "the first of them, the rest follow (default: 1)", integer(1, 1_000_000))
    .option("--duration <ms>", "of a run (default: 10000)", above(HOUR_MS))
    .option(
      "--real <load>",
      "by the clock: one load, RATE,BESIDE, such as 1.1,0 or 0.8,0.2, with -m and --recipe",
    )
    .option("--text <file>", "with --real: what prompts are taken from")
    .requiredOption("--out <folder>", "where dial.json, dial.svg and dial.csv go; with --real real-LOAD.json")
    .action(async (options: DialSweepCommandOptions) => {
      await (await import("../xr/dial_sweep.ts")).dialSweep(context, options);
    });
}

function sparsities(text: string): number[] {
  const found = text.split(",").map(decimal(0, 1, { below: true }));
  if (found.some((sparsity, i) => i > 0 && sparsity <= found[i - 1]!)) {
    throw new InvalidArgumentError("ascending sparsities wanted.");
  }
  return found;
}

/** What is run, where more than one thing may be. */
function addSweepOptions(command: Command): Command {
  return command
    .option("--scenario <id>", "a scenario of `rsparse xr list`, or a .json or .m file")
    .option("--setting <id>", "a setting of `rsparse xr list`")
    .option("--hardware <file>", "accelerators and settings of your own, beside those that come with rsparse")
    .option("--seeds <n>", "of many runs: seeds 1 to n (default: 20)", integer(1, 1000));
}

function modeOption(real: boolean = false): Option {
  return new Option(
    "--mode <name>",
    "compat: the harness with its defects; corrected: without" +
      `${real ? "; real: threads are accelerators and jobs really run" : ""} (default: compat)`,
  )
    .choices(["compat", "corrected", ...real ? ["real"] : []]);
}

/** Options that only `--mode real` has. */
function addRealOptions(command: Command): Command {
  return command
    .option(
      "--bind <model=kind>",
      "real mode, repeatable: what runs in a model's place. MODEL is its name, its task or * for all others; KIND is declared[:idle|:busy][:MS], " +
        "shape[:f32|:int8][:DIVISOR], real[:tokens=N][:sparsity=S][:PATH] or null",
      (binding: string, bindings: string[] | undefined) => [...bindings ?? [], binding],
    )
    .option(
      "--tier <tier>",
      "real mode: asShipped, depthwise (default), or scaled:rate=D, scaled:resolution=D or both",
    )
    .option(
      "--accelerators <n>",
      "real mode: how many threads run jobs (default: the setting's, or 1)",
      integer(1, 64),
    )
    .option("--rate <x>", "real mode: multiplies the rate of every model (default: 1)", above(1000))
    .option("--max-rate", "real mode: the largest rate at which every model keeps its hit rate")
    .option("--target <share>", "of --max-rate: the hit rate to keep (default: 0.99)", decimal(0, 1))
    .option("-m, --model <model>", "real mode: language model of bindings to real that name none")
    .option("--recipe <file>", "real mode: run it sparse as this recipe says");
}

/** Reads a number above 0. */
function above(max: number): (text: string) => number {
  return (text) => {
    const value = decimal(0, max)(text);
    if (value === 0) throw new InvalidArgumentError(`a number above 0 and at most ${max} wanted.`);
    return value;
  };
}
