/** Messages to a prompt, by the Jinja template that a model file carries. */
import { Template } from "@huggingface/jinja";
import { ControlTokens } from "./control_tokens.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** One message of a chat. */
export interface ChatMessage {
  /** `system`, `user`, `assistant` or what else the template knows. */
  readonly role: string;
  /** Its text. */
  readonly content: string;
}

/** What a template may ask for besides the messages. */
export interface ChatOptions {
  /** Ends the prompt where the assistant's answer begins; false unless said otherwise. */
  readonly addGenerationPrompt?: boolean;
  /** The template's `bos_token`; empty unless said otherwise. */
  readonly bosToken?: string;
  /** The template's `eos_token`; empty unless said otherwise. */
  readonly eosToken?: string;
}

/**
 * Renders a chat as text. Control tokens that are written in a message come out as they are: to make ids of a chat, use
 * {@linkcode tokenizeChat}.
 *
 * @param template Jinja source, or null for a model that has none.
 * @throws {Error} If there is no template, or it cannot be parsed or rendered, or refuses the messages.
 * @example
 * ```ts
 * import assert from "node:assert/strict";
 * const template = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}\n{% endfor %}";
 * assert.equal(renderChat(template, [{ role: "user", content: "Hi" }], {}), "<|user|>Hi\n");
 * ```
 */
export function renderChat(
  template: string | null,
  messages: readonly ChatMessage[],
  options: ChatOptions = {},
): string {
  if (template === null || template === "") {
    throw new Error("Cannot render the chat: the model has no chat template: give it a plain prompt instead");
  }
  try {
    return new Template(template).render({
      messages: messages.map(({ role, content }) => ({ role, content })),
      add_generation_prompt: options.addGenerationPrompt ?? false,
      bos_token: options.bosToken ?? "",
      eos_token: options.eosToken ?? "",
    });
  } catch (cause) {
    throw new Error(`Cannot render the chat: the model's template failed: ${(cause as Error).message}`, {
      cause,
    });
  }
}

/** A piece of a rendered chat: a control token, or a text; in one that is `special` control tokens are recognised. */
export type ChatPart = number | { readonly text: string; readonly special: boolean };

/**
 * Renders a chat and makes ids of it. Control tokens are recognised where the template wrote them, never where a
 * message did: a user who types `<|im_end|>` sends those ten characters.
 *
 * BOS comes first where the tokenizer adds it; a template that has written it already gets no second one.
 *
 * @throws {Error} As {@linkcode renderChat}.
 */
export function tokenizeChat(
  tokenizer: Tokenizer,
  template: string | null,
  messages: readonly ChatMessage[],
  options: { readonly addGenerationPrompt?: boolean } = {},
): number[] {
  const ids = chatParts(tokenizer, template, messages, options).flatMap((part) =>
    typeof part === "number" ? [part] : tokenizer.encode(part.text, { special: part.special })
  );
  return withBos(tokenizer, ids);
}

/** The ids of a chat with BOS first where the tokenizer adds it, unless the template has. */
export function withBos({ addBos, bosId }: Tokenizer, ids: number[]): number[] {
  return addBos && bosId !== null && ids[0] !== bosId ? [bosId, ...ids] : ids;
}

/**
 * What {@linkcode tokenizeChat} makes ids of, for who does so piece by piece.
 *
 * To tell control tokens of the template from those of messages, a character that occurs nowhere else is put inside control-token texts of the messages before
 * they are rendered, and taken out after the control tokens have been found. Everything between two control tokens is
 * then encoded in one piece, so merges across the edge of a message are those of the whole text.
 *
 * @throws {Error} As {@linkcode renderChat}.
 */
export function chatParts(
  tokenizer: Tokenizer,
  template: string | null,
  messages: readonly ChatMessage[],
  options: { readonly addGenerationPrompt?: boolean } = {},
): ChatPart[] {
  const { bosId, stopIds } = tokenizer;
  const rendering: ChatOptions = {
    addGenerationPrompt: options.addGenerationPrompt ?? false,
    bosToken: bosId === null ? "" : tokenizer.decode([bosId]),
    eosToken: stopIds.length === 0 ? "" : tokenizer.decode([stopIds[0]!]),
  };
  const controls = controlTokens(tokenizer);
  const mark = unusedCharacter([template ?? "", ...messages.flatMap(({ role, content }) => [role, content])]);
  const marked = messages.map(({ role, content }) => ({
    role: breakControls(role, controls, mark),
    content: breakControls(content, controls, mark),
  }));
  const text = renderChat(template, marked, rendering);
  if (!text.includes(mark)) return [{ text, special: true }];
  return controls.split(text).map((part) =>
    typeof part === "number" ? part : { text: part.replaceAll(mark, ""), special: false }
  );
}

const controlsOf: WeakMap<Tokenizer, ControlTokens> = new WeakMap();

function controlTokens(tokenizer: Tokenizer): ControlTokens {
  let controls = controlsOf.get(tokenizer);
  if (!controls) {
    const tokens: [string, number][] = [];
    for (let id = 0; id < tokenizer.vocabSize; ++id) {
      if (tokenizer.isSpecial(id)) tokens.push([tokenizer.decode([id]), id]);
    }
    controls = new ControlTokens(tokens);
    controlsOf.set(tokenizer, controls);
  }
  return controls;
}

/**
 * Puts `mark` after the first character of every control-token text in `text`, also of those that `text` holds the
 * beginning or the end of, as the template could write the rest. It goes inside, not around: a template may trim messages.
 */
function breakControls(text: string, controls: ControlTokens, mark: string): string {
  const cuts = new Set<number>();
  for (const control of controls.texts()) {
    // Steps of one: texts can overlap with themselves and each other, and none may stay whole.
    for (let at = text.indexOf(control); at >= 0; at = text.indexOf(control, at + 1)) cuts.add(at + 1);
    for (let n = Math.min(control.length - 1, text.length); n > 0; --n) {
      if (text.endsWith(control.slice(0, n))) cuts.add(text.length - n + 1);
      if (text.startsWith(control.slice(-n))) cuts.add(n - 1);
    }
  }
  if (cuts.size === 0) return text;
  let result = "", start = 0;
  for (const cut of [...cuts].sort((a, b) => a - b)) {
    result += text.slice(start, cut) + mark;
    start = cut;
  }
  return result + text.slice(start);
}

/** A character of Unicode's private use area that is in none of `texts`. */
function unusedCharacter(texts: readonly string[]): string {
  const used = new Set(texts.flatMap((text) => text.match(/[\ue000-\uf8ff]/g) ?? []));
  for (let code = 0xe000; code <= 0xf8ff; ++code) {
    const char = String.fromCharCode(code);
    if (!used.has(char)) return char;
  }
  throw new Error("Cannot tokenize the chat: its messages use every private use character");
}
