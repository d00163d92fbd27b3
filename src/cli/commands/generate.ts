/** `rsparse generate`: continues a text. */
import type { Command } from "commander";
import {
  addGenerationOptions,
  emptyPrompt,
  generateOptions,
  type GenerationOptions,
  printRun,
  readPrompt,
  withDial,
} from "../generation.ts";
import type { CliContext } from "../output.ts";

/** Adds the command. */
export function register(program: Command, context: CliContext): void {
  const command = program.command("generate")
    .description("continue a text; it streams to stdout, the speed goes to stderr");
  addGenerationOptions(command).action(async (options: GenerationOptions) => {
    const generation = await generateOptions(options);
    const prompt = await readPrompt(context, options.prompt);
    const settings = { ...generation, maxTokens: options.maxTokens, signal: context.signal };
    await withDial(context, options, async (model) => {
      // a model that puts BOS first can begin with nothing
      const ids = model.tokenize(prompt);
      if (ids.length === 0) throw emptyPrompt(options.prompt);
      await printRun(context, model, model.generate(ids, settings), settings);
    });
  });
}
