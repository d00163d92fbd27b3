/** Hashes of what the baseline build computes, to be held against those of another runtime or another run. */
import { type LoadOptions, Model } from "../../src/mod.ts";
import { UNTUNED } from "../../src/runtime/tuner.ts";
import { recipeOfThreshold } from "../support/golden.ts";
import { pulledModel } from "../support/models.ts";
import { requireShared, rootPath } from "../support/shared.ts";

const PROMPT_TOKENS = 40;
const DECODE_STEPS = 12;

/** Tiny models of every family and storage. */
export const TINY: readonly string[] = [
  "llama-f32.gguf",
  "llama-mixed.gguf",
  "llama3-untied-f16.gguf",
  "llama3-hf",
  "qwen2-hf",
  "mistral-hf",
];

type Dtype = NonNullable<LoadOptions["dtype"]>;

/** They skip 35 % of a tiny model's multiply-adds, and 64 % of SmolLM2's. */
export const TINY_THRESHOLD = 0.3;
export const SMOL_THRESHOLD = 0.1;

/** SHA-256 by case: all logits' bits of a prompt and of decode steps, and a sampled text with its ids. */
export async function parityHashes(): Promise<{ [name: string]: string }> {
  const hashes: { [name: string]: string } = {};
  /** With a recipe: one of a threshold, or one that lies in a file. */
  const add = async (name: string, source: string, dtype: Dtype, sparse?: number | string): Promise<void> => {
    const options = { kernels: "baseline", dtype, contextLength: 256, threads: 1 } as const;
    const recipe = typeof sparse === "number"
      ? await recipeOfThreshold(await Model.load(source, options), sparse, 0.8)
      : sparse;
    // what a tuner picks is not the same in all engines
    await using model = await Model.load(source, { ...options, recipe, tuning: UNTUNED });
    const what = sparse === undefined ? "" : typeof sparse === "number" ? ", sparse" : ", learned";
    hashes[`${name}, ${dtype}${what}: logits`] = await hash(logitsOf(model));
    hashes[`${name}, ${dtype}${what}: sampled text`] = await hash(await sampledBy(model));
  };
  for (const name of TINY) {
    const path = requireShared(`golden/tiny/${name}`);
    for (const dtype of ["f32", "bf16", "int8", "int4"] as const) {
      await add(name, path, dtype);
      await add(name, path, dtype, TINY_THRESHOLD);
    }
  }
  await add("stories260K", requireShared("data/models/stories260K"), "f32");
  const smol = await pulledModel();
  for (const dtype of ["int4", "int8"] as const) {
    await add("SmolLM2", smol, dtype);
    await add("SmolLM2", smol, dtype, SMOL_THRESHOLD);
  }
  await add("SmolLM2", smol, "int4", rootPath("models/smollm2-135m-instruct-learned.safetensors"));
  await add("SmolLM2", smol, "bf16");
  await add("SmolLM2", smol, "f32");
  return hashes;
}

/** The bits of the logits after each token of a prompt and of decode steps. */
export function logitsOf(model: Model): Uint8Array<ArrayBuffer> {
  const { vocabSize } = model.config;
  const all = new Float32Array((PROMPT_TOKENS + DECODE_STEPS) * vocabSize);
  const ids = Array.from(
    { length: PROMPT_TOKENS + DECODE_STEPS },
    (_, i) => (i * i * 31 + 7 * i + 3) % vocabSize,
  );
  using session = model.session();
  session.prefillAll(ids.slice(0, PROMPT_TOKENS), (t, logits) => all.set(logits, t * vocabSize), {
    prefill: "sparse",
  });
  for (let t = PROMPT_TOKENS; t < ids.length; ++t) all.set(session.decode(ids[t]!), t * vocabSize);
  return new Uint8Array(all.buffer);
}

/** Ids and text of a generation that passes every filter of the sampler. */
async function sampledBy(model: Model): Promise<Uint8Array<ArrayBuffer>> {
  const options = { temperature: 0.9, topK: 60, topP: 0.97, minP: 0.01, repeatPenalty: 1.1, seed: 42 };
  const ids = [5, 80, 41, 200];
  for await (const { result } of model.generate(ids, { ...options, maxTokens: 24, ignoreEos: true })) {
    if (result) return new TextEncoder().encode(JSON.stringify([result.tokens, result.text]));
  }
  throw new Error("no result at the end of a generation");
}

async function hash(bytes: Uint8Array<ArrayBuffer>): Promise<string> {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
