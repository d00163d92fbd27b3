/** Tokens of a request's prompt, made in turns with what else runs. */
import { type ChatMessage, chatParts, withBos } from "../model/chat_template.ts";
import { encodeText } from "../runtime/encode_text.ts";
import type { Model } from "../runtime/model.ts";
import { ApiError, invalidField } from "./errors.ts";

/** Characters of a prompt for each token of the context: a longer one is counted before its tokens are made. Texts have 2 to 6 a token. */
const CHARACTERS_A_TOKEN = 8;
/** Characters of such a prompt that are counted at once. */
const COUNT_AT_ONCE = 8192;

/**
 * The tokens of a chat, its answer's beginning included.
 *
 * @throws {ApiError} If the model has no template, or it refuses the messages, or they are far too long.
 */
export async function chatTokens(
  model: Model,
  messages: readonly ChatMessage[],
  signal: AbortSignal,
): Promise<number[]> {
  const { tokenizer, chatTemplate } = model.description;
  if (chatTemplate === null || chatTemplate === "") {
    throw invalidField("messages", "the model has no chat template: use /v1/completions", "unsupported");
  }
  await checkLength(model, messages.map(({ content }) => content), "messages", signal);
  let parts: ReturnType<typeof chatParts>;
  try {
    parts = chatParts(tokenizer, chatTemplate, messages, { addGenerationPrompt: true });
  } catch (cause) {
    // such as two messages of one role in a row
    throw new ApiError(400, "invalid_value", (cause as Error).message, { param: "messages", cause });
  }
  const ids: number[] = [];
  for (const part of parts) {
    if (typeof part === "number") {
      ids.push(part);
      continue;
    }
    const { text, special } = part;
    for (const id of await encodeText((text) => tokenizer.encode(text, { special }), text, { signal })) {
      ids.push(id);
    }
  }
  return withBos(tokenizer, ids);
}

/**
 * The tokens of a text; or tokens, as they are.
 *
 * @throws {ApiError} If a token is not the model's, or the text is far too long.
 */
export async function textTokens(
  model: Model,
  prompt: string | readonly number[],
  signal: AbortSignal,
): Promise<readonly number[]> {
  const { tokenizer } = model.description;
  if (typeof prompt !== "string") {
    const wrong = prompt.find((id) => id < 0 || id >= tokenizer.vocabSize);
    if (wrong === undefined) return prompt;
    throw invalidField(
      "prompt",
      `token ${wrong} found, ids of this model are 0 to ${tokenizer.vocabSize - 1}`,
    );
  }
  await checkLength(model, [prompt], "prompt", signal);
  if (prompt.length <= COUNT_AT_ONCE) return tokenizer.encode(prompt, { bos: true });
  return withBos(tokenizer, await encodeText((text) => tokenizer.encode(text), prompt, { signal }));
}

/** Refuses texts that are far too long without making all their tokens at once: a text without spaces is tokenised as a whole. */
async function checkLength(
  model: Model,
  texts: readonly string[],
  param: string,
  signal: AbortSignal,
): Promise<void> {
  const { contextLength } = model.engine, { tokenizer } = model.description;
  const characters = texts.reduce((sum, text) => sum + text.length, 0);
  if (characters <= CHARACTERS_A_TOKEN * contextLength) return;
  let count = 0;
  for (const text of texts) {
    for (let at = 0; at < text.length; at += COUNT_AT_ONCE) {
      const piece = text.slice(at, at + COUNT_AT_ONCE);
      count += (await encodeText((text) => tokenizer.encode(text), piece, { signal })).length;
    }
  }
  if (count >= contextLength) throw tooLong(count, contextLength, "the context", param, "about ");
}

/** The error for a prompt of `found` tokens where `limit` are what `what` is; `about`: where both are guessed. */
export function tooLong(
  found: number,
  limit: number,
  what: string,
  param: string,
  about: "" | "about " = "",
): ApiError {
  return new ApiError(
    400,
    "context_length_exceeded",
    `the prompt is too long: ${about}${found} tokens, ${about}${
      found - limit
    } more than ${what} of ${limit}: shorten it`,
    { param },
  );
}
