/** A tiny model of random weights with a chat template: it says any byte at any time. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { type LoadOptions, Model } from "../../src/mod.ts";
import { requireShared } from "./shared.ts";

/** Where its weights are. */
export const CHAT_FOLDER = "golden/tiny/llama3-hf";
/** Its chat template; a system message has to be the first. */
export const CHAT_TEMPLATE: string = "{% for m in messages %}{% if m.role == 'system' and not loop.first %}" +
  "{{ raise_exception('the system message has to be the first') }}{% endif %}" +
  "<|begin|>{{ m.role }}: {{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<|begin|>assistant: {% endif %}";

/** Loads it. */
export function chatModel(options: LoadOptions = {}): Promise<Model> {
  const folder = requireShared(CHAT_FOLDER);
  const files = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"].map((
    name,
  ) => ({
    name,
    blob: new Blob([readFileSync(join(folder, name)) as Uint8Array<ArrayBuffer>]),
  }));
  const template = { name: "chat_template.jinja", blob: new Blob([CHAT_TEMPLATE]) };
  return Model.load([...files, template], { kernels: "baseline", threads: 1, ...options });
}
