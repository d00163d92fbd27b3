/** Options that say which model runs and how, and the model that they name. */
import { type Command, InvalidArgumentError, Option } from "commander";
import { type LocatedModel, locateModel } from "../hub/locate.ts";
import { DEFAULT_MODEL } from "../hub/registry.ts";
import type { LlamaDescription } from "../model/llama.ts";
import type { Tuning } from "../runtime/tuner.ts";
import type { CliContext } from "./output.ts";

/** `-m`. */
export interface ModelOption {
  readonly model: string;
}

/** `-m` and how to run it. */
export interface RunOptions extends ModelOption {
  /** Path of a recipe. */
  readonly recipe?: string;
  readonly threads: number | "auto";
  readonly kernels: "auto" | "baseline" | "relaxed";
  readonly dtype: "auto" | "f32" | "bf16" | "int8" | "int4";
  readonly kv: "f32" | "bf16";
  readonly seed?: number;
  /** How matrices run sparse, where timing must not decide it. */
  readonly tuning?: Tuning;
}

/** Adds `-m, --model`. */
export function addModelOption(command: Command): Command {
  return command.option(
    "-m, --model <model>",
    "path, URL, hf:owner/repo[/file][@revision], or a name of `rsparse models`",
    DEFAULT_MODEL,
  );
}

/** Adds what a model runs on: threads, kernels, storage. */
export function addEngineOptions(command: Command): Command {
  return command
    .addOption(
      new Option("--threads <n>", "threads; auto: one a processor, at most 8, used while they help")
        .default("auto")
        .argParser((text) => text === "auto" ? text : integer(1, 1024, " or auto")(text)),
    )
    .addOption(kernelsOption())
    .addOption(dtypeOption())
    .addOption(
      new Option("--kv <type>", "storage of keys and values; bf16 takes half the memory").choices([
        "f32",
        "bf16",
      ])
        .default("f32"),
    );
}

/** `--kernels`. */
export function kernelsOption(): Option {
  return new Option("--kernels <build>", "kernel build").choices(["auto", "baseline", "relaxed"]).default(
    "auto",
  );
}

/** `--dtype`. */
export function dtypeOption(): Option {
  return new Option(
    "--dtype <dtype>",
    "storage of the projections in memory; int4: the file's own 4-bit groups",
  ).choices(["auto", "f32", "bf16", "int8", "int4"]).default("auto");
}

/** Adds `-m` and the options of {@linkcode RunOptions}. */
export function addRunOptions(command: Command): Command {
  return addEngineOptions(addModelOption(command).option("--recipe <file>", "run sparse as this recipe says"))
    .option("--seed <n>", "seed of every random choice", integer(0, 0xffffffff));
}

/** Reads an integer in `[min, max]`; for an option's third argument. */
export function integer(
  min: number,
  max: number = Number.MAX_SAFE_INTEGER,
  or: string = "",
): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!/^-?\d+$/.test(text) || !(value >= min && value <= max)) {
      throw new InvalidArgumentError(
        `an integer from ${min}${max === Number.MAX_SAFE_INTEGER ? "" : ` to ${max}`}${or} wanted.`,
      );
    }
    return value;
  };
}

/** Reads a number in `[min, max]`, or `[min, max)` with `below`. */
export function decimal(
  min: number,
  max: number,
  options: { below?: boolean } = {},
): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (text.trim() === "" || !(value >= min && value <= max) || (options.below && value === max)) {
      throw new InvalidArgumentError(
        `a number from ${min} to ${options.below ? "below " : ""}${max} wanted.`,
      );
    }
    return value;
  };
}

/** The open files of the model that `source` names, pulled with a progress bar if need be. */
export async function locate(context: CliContext, source: string): Promise<LocatedModel> {
  try {
    return await locateModel(source, context.platform, downloadOptions(context));
  } finally {
    context.progress.end();
  }
}

/** What downloads are handed: Ctrl-C, the progress bar, notes. */
export function downloadOptions(context: CliContext): {
  signal: AbortSignal;
  onProgress: (file: string, done: number, total: number | null) => void;
  onNotice: (message: string) => void;
} {
  return {
    signal: context.signal,
    onProgress: (file, done, total) => context.progress.update(file, done, total),
    onNotice: (message) => context.note(message),
  };
}

/** The tables of the model that `source` names: no weight is read. */
export async function describe(context: CliContext, source: string): Promise<LlamaDescription> {
  const { openModel } = await import("../model/open.ts");
  const located = await locate(context, source);
  return await openModel(located.files);
}
