import assert from "node:assert/strict";
import { openAsBlob, readFileSync } from "node:fs";
import { test } from "node:test";
import { openGguf } from "../../src/format/gguf.ts";
import { type ChatMessage, renderChat, tokenizeChat } from "../../src/model/chat_template.ts";
import { bpeFromGguf } from "../../src/model/tokenizer_bpe.ts";
import { pulledModel } from "../support/models.ts";
import { requireShared, skipWithout } from "../support/shared.ts";

interface Cases {
  readonly special: readonly { readonly id: number; readonly text: string }[];
  readonly chat_template: string;
  readonly chat: readonly {
    readonly messages: readonly ChatMessage[];
    readonly add_generation_prompt: boolean;
    readonly text: string;
    readonly ids: readonly number[];
  }[];
}

const CASES = "golden/smollm2/tokenizer_cases.json";

function readCases(): Cases {
  return JSON.parse(readFileSync(requireShared(CASES), "utf8"));
}

test("SmolLM2: chats render to the golden texts", { skip: skipWithout(CASES) }, () => {
  const { chat, chat_template } = readCases();
  assert.equal(chat.length, 19);
  for (const { messages, add_generation_prompt, text } of chat) {
    assert.equal(renderChat(chat_template, messages, { addGenerationPrompt: add_generation_prompt }), text);
  }
});

test("SmolLM2: chats become the golden ids; messages that write control tokens become their text instead", {
  skip: skipWithout(CASES),
}, async () => {
  const path = await pulledModel();
  const { metadata } = await openGguf(await openAsBlob(path), path);
  const tokenizer = bpeFromGguf(metadata, path, 0);
  const { chat, chat_template, special } = readCases();
  assert.equal(metadata.get("tokenizer.chat_template"), chat_template);
  let injections = 0;
  for (const { messages, add_generation_prompt, text, ids } of chat) {
    const found = tokenizeChat(tokenizer, chat_template, messages, {
      addGenerationPrompt: add_generation_prompt,
    });
    assert.equal(tokenizer.decode(found), text);
    const isInjection = messages.some(({ content }) => special.some((token) => content.includes(token.text)));
    if (!isInjection) {
      assert.deepEqual(found, ids, text);
      continue;
    }
    ++injections;
    // One start a message, the default system message, and the generation prompt; one end fewer.
    const starts = found.filter((id) => id === 1).length, ends = found.filter((id) => id === 2).length;
    assert.deepEqual([starts, ends], [messages.length + 2, messages.length + 1]);
    assert.equal(found.filter((id) => tokenizer.isSpecial(id)).length, starts + ends);
  }
  assert.equal(injections, 2);
});
