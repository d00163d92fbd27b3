/** `rsparse template`: a conversation as the model reads it. */
import type { Command } from "commander";
import type { ChatMessage } from "../../model/chat_template.ts";
import { UsageError } from "../errors.ts";
import { addModelOption, describe, type ModelOption } from "../model_option.ts";
import { type CliContext, isArrayOf, readJsonInput } from "../output.ts";

interface TemplateOptions extends ModelOption {
  readonly addGenerationPrompt?: boolean;
}

function isMessage(value: unknown): value is ChatMessage {
  return typeof value === "object" && value !== null && "role" in value && typeof value.role === "string" &&
    "content" in value && typeof value.content === "string";
}

const isMessages = (value: unknown): value is ChatMessage[] => isArrayOf(value, isMessage);

/** Adds the command. */
export function register(program: Command, context: CliContext): void {
  const command = program.command("template")
    .description("render the JSON array of {role, content} on stdin with the model's chat template");
  addModelOption(command)
    .option("--add-generation-prompt", "end with the beginning of the assistant's turn")
    .action(async (options: TemplateOptions) => {
      const messages = await readJsonInput(context, "an array of {role, content}", isMessages);
      const { tokenizer, chatTemplate } = await describe(context, options.model);
      if (chatTemplate === null) {
        throw new UsageError(
          `Cannot render a chat for ${options.model}: the model has no chat template: use tokenize`,
        );
      }
      const { renderChat, tokenizeChat } = await import("../../model/chat_template.ts");
      const addGenerationPrompt = options.addGenerationPrompt ?? false;
      const textOf = (id: number | null | undefined): string =>
        id === null || id === undefined ? "" : tokenizer.decode([id]);
      const { bosId, stopIds } = tokenizer;
      const text = renderChat(chatTemplate, messages, {
        addGenerationPrompt,
        bosToken: textOf(bosId),
        eosToken: textOf(stopIds[0]),
      });
      const tokens = tokenizeChat(tokenizer, chatTemplate, messages, { addGenerationPrompt });
      if (context.options.json) return await context.printJson({ text, tokens });
      await context.write(text);
    });
}
