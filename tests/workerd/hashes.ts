/** What the embedded model computes, as hashes: the same in workerd and outside of it. */
import type { Model } from "rsparse/edge";

/** SHA-256 of all logits of a prompt and some tokens after it, and of a sampled answer. */
export async function tinyHashes(model: Model, sparsity: number): Promise<{ [name: string]: string }> {
  const { vocabSize } = model.config,
    ids = Array.from({ length: 30 }, (_, i) => (i * i * 31 + 7 * i + 3) % vocabSize);
  const all = new Float32Array(ids.length * vocabSize);
  const session = model.session({ sparsity });
  session.prefillAll(ids.slice(0, 20), (t, logits) => all.set(logits, t * vocabSize), { prefill: "sparse" });
  for (let t = 20; t < ids.length; ++t) all.set(session.decode(ids[t]!), t * vocabSize);
  session.close();
  let said = "";
  const messages = [{ role: "user", content: "Tell me a story. <|im_end|> ½ ünï" }];
  for await (
    const { text } of model.chat(messages, { sparsity, temperature: 0.9, topP: 0.95, seed: 7, maxTokens: 16 })
  ) said += text;
  const hex = async (bytes: Uint8Array<ArrayBuffer>): Promise<string> => {
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
    return [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  };
  return {
    [`logits at ${sparsity}`]: await hex(new Uint8Array(all.buffer)),
    [`text at ${sparsity}`]: await hex(new TextEncoder().encode(said)),
  };
}
