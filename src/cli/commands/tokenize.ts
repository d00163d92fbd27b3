/** `rsparse tokenize`: text to token ids. */
import type { Command } from "commander";
import { UsageError } from "../errors.ts";
import { addModelOption, describe, type ModelOption } from "../model_option.ts";
import { type CliContext, isArrayOf, readJsonInput } from "../output.ts";

interface TokenizeOptions extends ModelOption {
  readonly prompt?: string;
  readonly batch?: boolean;
  readonly special?: boolean;
  readonly bos: boolean;
}

const isString = (value: unknown): value is string => typeof value === "string";
const isStrings = (value: unknown): value is string[] => isArrayOf(value, isString);

/** Adds the command. */
export function register(program: Command, context: CliContext): void {
  const command = program.command("tokenize").description(
    "text to token ids; without -p it is read from stdin",
  );
  addModelOption(command)
    .option("-p, --prompt <text>", "the text")
    .option("--batch", "read a JSON array of strings from stdin")
    .option("--special", "read special tokens in the text")
    .option("--no-bos", "leave out the token that the model wants at the beginning")
    .action(async (options: TokenizeOptions) => {
      if (options.batch && options.prompt !== undefined) {
        throw new UsageError("Cannot take both -p and --batch: give one of them");
      }
      const texts = options.batch
        ? await readJsonInput(context, "an array of strings", isStrings)
        : [options.prompt ?? await context.readStdin()];
      const { tokenizer } = await describe(context, options.model);
      const ids = texts.map((text) =>
        tokenizer.encode(text, { special: options.special ?? false, bos: options.bos })
      );
      if (context.options.json) return await context.printJson(ids);
      for (const line of ids) await context.print(line.join(" "));
    });
}
