/** `rsparse detokenize`: token ids to text. */
import type { Command } from "commander";
import { UsageError } from "../errors.ts";
import { addModelOption, describe, type ModelOption } from "../model_option.ts";
import { type CliContext, isArrayOf, readJsonInput } from "../output.ts";

interface DetokenizeOptions extends ModelOption {
  readonly prompt?: string;
  readonly batch?: boolean;
  readonly special: boolean;
}

const isId = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;
const isIds = (value: unknown): value is number[] => isArrayOf(value, isId);
const isIdArrays = (value: unknown): value is number[][] => isArrayOf(value, isIds);

/** Adds the command. */
export function register(program: Command, context: CliContext): void {
  const command = program.command("detokenize").description(
    "token ids to text; without -p they are read from stdin",
  );
  addModelOption(command)
    .option("-p, --prompt <ids>", "the ids, with spaces or commas between them")
    .option("--batch", "read a JSON array of id arrays from stdin")
    .option("--special", "write special tokens as their text", true)
    .option("--no-special", "leave special tokens out")
    .action(async (options: DetokenizeOptions) => {
      if (options.batch && options.prompt !== undefined) {
        throw new UsageError("Cannot take both -p and --batch: give one of them");
      }
      const lists = options.batch
        ? await readJsonInput(context, "an array of arrays of token ids", isIdArrays)
        : [readIds(options.prompt ?? await context.readStdin())];
      const { tokenizer } = await describe(context, options.model);
      for (const id of lists.flat()) {
        if (id >= tokenizer.vocabSize) {
          throw new UsageError(
            `Cannot decode token ${id}: ids of this model are below ${tokenizer.vocabSize}`,
          );
        }
      }
      const texts = lists.map((ids) => tokenizer.decode(ids, { skipSpecial: !options.special }));
      if (context.options.json) return await context.printJson(texts);
      for (const text of texts) await context.print(text);
    });
}

function readIds(text: string): number[] {
  return text.split(/[\s,[\]]+/).filter((word) => word !== "").map((word) => {
    const id = Number(word);
    if (!/^\d+$/.test(word) || !isId(id)) {
      throw new UsageError(`Cannot read ${JSON.stringify(word)} as a token id: integers wanted`);
    }
    return id;
  });
}
