/**
 * Continues a text, and answers a question, as both come.
 *
 *     deno run -A examples/generate.ts
 */
import process from "node:process";
import { Model } from "../src/mod.ts";

const model = await Model.load("smollm2");

for await (const part of model.generate("The capital of France is", { maxTokens: 16 })) {
  process.stdout.write(part.text);
}
process.stdout.write("\n\n");

const messages = [{ role: "user", content: "Give me three tips for staying healthy." }];
for await (const part of model.chat(messages, { maxTokens: 96, temperature: 0.7, topP: 0.9, seed: 1 })) {
  process.stdout.write(part.text);
  if (part.result) {
    const { tokens, finishReason, decodeTokensPerSecond } = part.result;
    const speed = decodeTokensPerSecond?.toFixed(1) ?? "-";
    console.error(
      `\n${tokens.length} tokens, ended by ${finishReason}, ${speed} tok/s on ${model.info.runtime}`,
    );
  }
}
await model.close();
