/** `rsparse chat`: one answer, or a conversation at the terminal. */
import type { Command } from "commander";
import process from "node:process";
import { createInterface, type Interface } from "node:readline";
import type { ChatMessage } from "../../model/chat_template.ts";
import type { GenerateOptions } from "../../runtime/generate.ts";
import type { Model } from "../../runtime/model.ts";
import { EXIT, UsageError } from "../errors.ts";
import {
  addGenerationOptions,
  emptyPrompt,
  generateOptions,
  type GenerationOptions,
  printRun,
  readPrompt,
  stream,
  timingLine,
  withDial,
} from "../generation.ts";
import type { CliContext } from "../output.ts";

interface ChatOptions extends GenerationOptions {
  readonly system?: string;
}

/** Answers are at most this long unless -n says otherwise; SmolLM2's own end after 50 to 400 tokens. */
const DEFAULT_TOKENS = 512;
/** Share of the context from which a conversation is told that it fills. */
const NEARLY_FULL = 0.8;

/** Adds the command. */
export function register(program: Command, context: CliContext): void {
  const command = program.command("chat")
    .description("talk with a model: one turn with -p or stdin, else a conversation at the terminal");
  addGenerationOptions(command)
    .option("--system <text>", "the system message; without it the model's own")
    .action(async (options: ChatOptions) => {
      const generation = await generateOptions(options);
      const interactive = options.prompt === undefined && context.stdinIsTerminal;
      if (interactive && context.options.json) {
        throw new UsageError(
          "Cannot hold a conversation with --json: give one turn with -p TEXT or on stdin",
        );
      }
      const prompt = interactive ? null : await readPrompt(context, options.prompt);
      if (prompt === "") throw emptyPrompt(options.prompt);
      await withDial(context, options, async (model) => {
        if (model.description.chatTemplate === null) {
          throw new UsageError(
            `Cannot chat with ${options.model}: the model has no chat template: use generate`,
          );
        }
        const conversation = new Conversation(context, model, options, generation);
        if (prompt === null) await converse(context, conversation);
        else await conversation.answerOnce(prompt);
      });
    });
}

/** Messages so far, and the next answer. */
class Conversation {
  readonly #context: CliContext;
  readonly #model: Model;
  readonly #options: ChatOptions;
  readonly #generation: GenerateOptions;
  #messages: ChatMessage[] = [];

  constructor(context: CliContext, model: Model, options: ChatOptions, generation: GenerateOptions) {
    this.#context = context;
    this.#model = model;
    this.#options = options;
    this.#generation = generation;
    this.clear();
  }

  /** Forgets all but the system message. */
  clear(): void {
    const { system } = this.#options;
    this.#messages = system === undefined ? [] : [{ role: "system", content: system }];
  }

  async answerOnce(content: string): Promise<void> {
    const messages = [...this.#messages, { role: "user", content }];
    const settings = await this.#settings(messages, this.#context.signal);
    await printRun(this.#context, this.#model, this.#model.chat(messages, settings), settings);
  }

  /** Streams the answer to a message; both stay in the conversation, an answer that was stopped as far as it came. */
  async answer(content: string, signal: AbortSignal): Promise<void> {
    const context = this.#context, model = this.#model;
    const messages = [...this.#messages, { role: "user", content }],
      settings = await this.#settings(messages, signal);
    const run = await stream(context, model.chat(messages, settings), (text) => context.write(text));
    await context.write("\n");
    const { text, finishReason, promptTokens, tokens } = run.result;
    this.#messages = [...messages, { role: "assistant", content: text }];
    // Counted from the start of the process: it would say when the question was typed.
    context.note(timingLine(model, { ...run, firstTokenMs: null }, settings));
    if (finishReason === "length") {
      context.note(`the answer was cut after ${tokens.length} tokens: -n N allows more`);
    }
    const used = promptTokens.length + tokens.length, limit = model.engine.contextLength;
    if (used > NEARLY_FULL * limit) {
      context.note(
        `warning: the context is nearly full, ${used} of ${limit} tokens: /clear begins a new conversation`,
      );
    }
  }

  /** Without -n, an answer may be as long as the context still allows. */
  async #settings(messages: readonly ChatMessage[], signal: AbortSignal): Promise<GenerateOptions> {
    const { tokenizeChat } = await import("../../model/chat_template.ts");
    const { tokenizer, chatTemplate } = this.#model.description, { maxTokens } = this.#options;
    const used = tokenizeChat(tokenizer, chatTemplate, messages, { addGenerationPrompt: true }).length;
    const room = Math.max(1, this.#model.engine.contextLength - used);
    return { ...this.#generation, maxTokens: maxTokens ?? Math.min(DEFAULT_TOKENS, room), signal };
  }
}

/**
 * Reads lines and answers them, until Ctrl-D, `/exit`, or Ctrl-C twice. Ctrl-C once stops the answer that is being
 * written, or clears the line. A terminal that is read by `readline` sends Ctrl-C as a key, not as a signal; where
 * a signal comes all the same, as from `kill -INT`, it means the same.
 */
async function converse(context: CliContext, conversation: Conversation): Promise<void> {
  const output = process.stderr.isTTY ? process.stderr : process.stdout;
  const reader = createInterface({ input: process.stdin, output, prompt: "> ", historySize: 200 });
  const lines = new LineQueue(reader);
  let answering: AbortController | null = null, presses = 0;
  const interrupt = (): void => {
    if (answering === null && reader.line !== "") {
      presses = 0;
      reader.write(null, { ctrl: true, name: "u" });
      return;
    }
    // What was asked for by the first press hasn't happened yet, or there was nothing to stop: now they want out.
    if (++presses > 1) {
      reader.close();
      process.stderr.write("\n");
      process.exit(EXIT.interrupted);
    }
    if (answering !== null) return answering.abort();
    context.note("\npress Ctrl-C again, Ctrl-D or type /exit to leave");
    reader.prompt();
  };
  const before = process.listeners("SIGINT");
  process.removeAllListeners("SIGINT").on("SIGINT", interrupt);
  reader.on("SIGINT", interrupt);
  context.note("/exit or Ctrl-D leaves, /clear begins anew, Ctrl-C stops an answer");
  try {
    for (;;) {
      reader.prompt();
      const line = await lines.next();
      if (line === null || line.trim() === "/exit") break;
      presses = 0;
      if (line.trim() === "") continue;
      if (line.trim() === "/clear") {
        conversation.clear();
        continue;
      }
      answering = new AbortController();
      try {
        await conversation.answer(line, answering.signal);
      } catch (error) {
        // Too long for the context: the conversation stays as it was before this message.
        if (!(error instanceof Error) || error.name !== "ContextError") throw error;
        context.note(`${error.message}, or /clear`);
      }
      answering = null;
      presses = 0;
    }
  } finally {
    reader.close();
    process.removeListener("SIGINT", interrupt);
    for (const listener of before) process.on("SIGINT", listener);
  }
}

/** Lines as they were typed, also those that came while an answer was being written. */
class LineQueue {
  readonly #lines: string[] = [];
  #closed = false;
  #wake: (() => void) | null = null;

  constructor(reader: Interface) {
    reader.on("line", (line) => {
      this.#lines.push(line);
      this.#wake?.();
    });
    reader.on("close", () => {
      this.#closed = true;
      this.#wake?.();
    });
  }

  /** The next line; null when there will be none. */
  async next(): Promise<string | null> {
    if (this.#lines.length === 0 && !this.#closed) await new Promise<void>((resolve) => this.#wake = resolve);
    return this.#lines.shift() ?? null;
  }
}
