/** Generation as a program calls it: limits, stop rules, cancellation, and what the last part says. */
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  ContextError,
  type GenerateOptions,
  type GenerateResult,
  type LoadedRecipe,
  Model,
} from "../../src/mod.ts";
import { recipeOfThreshold } from "../support/golden.ts";
import { requireShared, skipWithout } from "../support/shared.ts";

const FOLDER = "data/models/stories260K";
const TINY = "golden/tiny/llama-f32.gguf";
const skip = skipWithout(FOLDER);

/** The beginning of what stories260K tells after its BOS. */
const STORY = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park.";
const BOS = [1];

function open(source: string = FOLDER, recipe?: LoadedRecipe): Promise<Model> {
  return Model.load(requireShared(source), { kernels: "baseline", recipe, threads: 1 });
}

/** Runs a generation to its end; checks what holds of every one. */
async function run(
  model: Model,
  prompt: string | readonly number[],
  options: GenerateOptions,
): Promise<GenerateResult & { readonly pieces: readonly string[] }> {
  const pieces: string[] = [], tokens: number[] = [];
  let found: GenerateResult | undefined;
  for await (const { text, token, result } of model.generate(prompt, options)) {
    assert.equal(found, undefined, "a part came after the result");
    pieces.push(text);
    if (token !== null) tokens.push(token);
    assert.equal(token === null, result !== undefined);
    found = result;
  }
  assert.ok(found, "no result");
  assert.deepEqual(found.tokens, tokens);
  assert.equal(found.text, pieces.join(""));
  return { ...found, pieces };
}

test("generate: greedy text, its tokens, and what it took", { skip }, async () => {
  const model = await open();
  const { text, tokens, promptTokens, finishReason, ...rest } = await run(model, BOS, { maxTokens: 40 });
  assert.equal(text.slice(0, 40), STORY.slice(0, 40));
  assert.equal(tokens.length, 40);
  assert.deepEqual(promptTokens, BOS);
  assert.equal(finishReason, "length");
  assert.equal(rest.measuredSparsity, null);
  assert.equal(rest.sparseTokens, 0);
  assert.ok(rest.prefillTokensPerSecond > 0 && rest.decodeTokensPerSecond! > 0);
});

test("generate: a text is its tokens, BOS included", { skip }, async () => {
  const model = await open();
  const byText = await run(model, "Lily", { maxTokens: 8 });
  assert.deepEqual(byText.promptTokens, model.tokenize("Lily"));
  assert.equal(byText.promptTokens[0], 1);
  assert.deepEqual((await run(model, byText.promptTokens, { maxTokens: 8 })).tokens, byText.tokens);
});

test("generate: maxTokens 0 and 1", { skip }, async () => {
  const model = await open();
  const none = await run(model, BOS, { maxTokens: 0 });
  assert.deepEqual(none.tokens, []);
  assert.equal(none.text, "");
  assert.equal(none.finishReason, "length");
  assert.equal(none.decodeTokensPerSecond, null);
  const one = await run(model, BOS, { maxTokens: 1 });
  assert.equal(one.tokens.length, 1);
  assert.equal(one.decodeTokensPerSecond, null);
});

test("generate: maxTokens is 128, or the room that is left, where it is not given", { skip }, async () => {
  const model = await open();
  assert.equal((await run(model, BOS, { ignoreEos: true })).tokens.length, 128);
  const long = Array.from({ length: 500 }, () => 261);
  assert.equal((await run(model, long, { ignoreEos: true })).tokens.length, 12);
});

test("generate: what does not fit is refused before anything runs", { skip }, async () => {
  const model = await open();
  const long = Array.from({ length: 510 }, () => 261);
  await assert.rejects(run(model, long, { maxTokens: 3 }), ContextError);
  await assert.rejects(run(model, [...long, 261, 261], {}), ContextError);
  assert.equal(model.memory.kvBytes, 0);
  assert.equal((await run(model, long, { maxTokens: 2, ignoreEos: true })).tokens.length, 2);
});

test("generate: options that mean nothing are refused", { skip }, async () => {
  const model = await open();
  const wrong: GenerateOptions[] = [
    { maxTokens: -1 },
    { maxTokens: 1.5 },
    { maxTokens: NaN },
    { temperature: -1 },
    { topP: 0 },
    { seed: 0.5 },
    { stop: [""] },
    { sparsity: 1 },
    { sparsity: -0.1 },
    { sparsity: NaN },
    // dense: there is no recipe
    { sparsity: 0.5 },
  ];
  for (const options of wrong) {
    await assert.rejects(run(model, BOS, options), RangeError, JSON.stringify(options));
  }
  await assert.rejects(run(model, [], {}), RangeError);
  await assert.rejects(run(model, [512], {}), RangeError);
  assert.equal((await run(model, BOS, { sparsity: 0, maxTokens: 3 })).tokens.length, 3);
});

test("generate: with a recipe, says what ran sparse and how sparse", { skip }, async () => {
  const recipe = await recipeOfThreshold(await open(), 0.4);
  const model = await open(FOLDER, recipe);
  const prompt = model.tokenize("Tom had a red ball.");
  const half = await run(model, prompt, { maxTokens: 10 });
  // the first token comes from the prompt, which is dense unless it is asked for; the last is never run
  assert.equal(half.sparseTokens, 9);
  assert.ok(half.measuredSparsity! > 0.1 && half.measuredSparsity! < 0.9, String(half.measuredSparsity));
  const whole = await run(model, prompt, { maxTokens: 10, prefill: "sparse" });
  assert.equal(whole.sparseTokens, prompt.length + 9);
  const dense = await run(model, prompt, { maxTokens: 10, sparsity: 0 });
  assert.equal(dense.sparseTokens, 0);
  assert.equal(dense.measuredSparsity, null);
  assert.deepEqual(dense.tokens, (await run(await open(), prompt, { maxTokens: 10 })).tokens);
});

test("generate: a stop text ends it and is not shown, whatever tokens it lies in", { skip }, async () => {
  const model = await open();
  for (const stop of [" time", "me, th", "girl named Lily", ".", "O", "Once"]) {
    const { text, finishReason, pieces } = await run(model, BOS, { stop: [stop], maxTokens: 60 });
    assert.equal(text, STORY.slice(0, STORY.indexOf(stop)), stop);
    assert.equal(finishReason, "stop", stop);
    // what was shown before the stop text was complete is never more than the text
    assert.ok(text.startsWith(pieces.slice(0, -1).join("")), stop);
  }
});

test(
  "generate: the stop text that is complete first wins; one that never comes holds nothing back",
  { skip },
  async () => {
    const model = await open();
    const two = await run(model, BOS, { stop: ["little girl", "there was", "Lily"], maxTokens: 60 });
    assert.equal(two.text, "Once upon a time, ");
    const free = await run(model, BOS, { maxTokens: 25 });
    const held = await run(model, BOS, { stop: [free.text.slice(-3) + "never"], maxTokens: 25 });
    assert.equal(held.text, free.text);
    assert.equal(held.finishReason, "length");
  },
);

test("generate: an end-of-text token stops it, unless it is to be ignored", { skip }, async () => {
  const model = await open(TINY);
  const [end] = model.description.tokenizer.stopIds;
  assert.equal(end, 0);
  for (let seed = 1;; ++seed) {
    assert.ok(seed < 50, "no seed gave an end of text");
    const options = { temperature: 5, seed, maxTokens: 100 };
    const all = await run(model, [5], { ...options, ignoreEos: true });
    const at = all.tokens.indexOf(end);
    if (at < 1) continue;
    assert.equal(all.tokens.length, 100);
    assert.equal(all.finishReason, "length");
    const stopped = await run(model, [5], options);
    assert.deepEqual(stopped.tokens, all.tokens.slice(0, at));
    assert.equal(stopped.finishReason, "stop");
    return;
  }
});

test("generate: a seed gives the same tokens again, another one others", { skip }, async () => {
  const model = await open();
  const sample = async (seed: number): Promise<readonly number[]> =>
    (await run(model, BOS, { temperature: 1.2, topK: 50, topP: 0.95, seed, maxTokens: 40 })).tokens;
  const first = await sample(7);
  assert.deepEqual(await sample(7), first);
  assert.notDeepEqual(await sample(8), first);
});

test("generate: a signal cancels it, before and between tokens", { skip }, async () => {
  const model = await open();
  const before = await run(model, BOS, { signal: AbortSignal.abort(), maxTokens: 20 });
  assert.equal(before.finishReason, "cancelled");
  assert.deepEqual(before.tokens, []);
  const abort = new AbortController();
  const tokens: number[] = [];
  let reason = "";
  for await (const { token, result } of model.generate(BOS, { signal: abort.signal, maxTokens: 200 })) {
    if (token !== null) tokens.push(token);
    if (tokens.length === 5) abort.abort();
    if (result) {
      reason = result.finishReason;
      assert.equal(result.text, model.description.tokenizer.decode(tokens).trimStart());
    }
  }
  assert.equal(tokens.length, 5);
  assert.equal(reason, "cancelled");
});

test("generate: timers get their turn while it runs", { skip }, async () => {
  const model = await open();
  let turns = 0;
  const timer = setInterval(() => ++turns, 1);
  for (let i = 0; i < 100 && turns === 0; ++i) await run(model, BOS, { maxTokens: 200, ignoreEos: true });
  clearInterval(timer);
  assert.ok(turns > 0);
});

test("generate: two at a time are each as they are alone", { skip }, async () => {
  const model = await open();
  const options = { temperature: 0.9, seed: 3, maxTokens: 60 };
  const prompts = [BOS, model.tokenize("Tom had a red ball.")];
  const alone = [];
  for (const prompt of prompts) alone.push((await run(model, prompt, options)).text);
  const together = await Promise.all(prompts.map((prompt) => run(model, prompt, options)));
  assert.deepEqual(together.map(({ text }) => text), alone);
});

test("generate: one that is left early gives its cache back", { skip }, async () => {
  const model = await open();
  for (let i = 0; i < 10; ++i) {
    for await (const { token } of model.generate(BOS, { maxTokens: 50 })) if (token !== null) break;
  }
  await run(model, BOS, { maxTokens: 5 });
  // 5 layers, keys and values, 4 heads of 8 floats, one page
  assert.equal(model.memory.kvBytes, 64 * (5 * 2 * 4 * 8 * 4));
});

test("generate: a model that is closed ends it at the next token", { skip }, async () => {
  const model = await open();
  const parts = model.generate(BOS, { maxTokens: 50 });
  await parts.next();
  await model.close();
  await assert.rejects(parts.next(), /the model is closed/);
});

test("generate: a signal cancels it inside a long prompt", { skip }, async () => {
  await using model = await open();
  const prompt = Array.from({ length: 400 }, (_, i) => 4 + i % 300), reason = new Error("enough");
  // asked for before each piece of work, many in a chunk of 128 tokens: once the first chunk is done, it is aborted in the second one
  const isDone = (): boolean => model.engine.forward.count.tokens >= 128;
  const signal = {
    reason,
    get aborted(): boolean {
      return isDone();
    },
    throwIfAborted(): void {
      if (isDone()) throw reason;
    },
  } as AbortSignal;
  const parts = [];
  for await (const part of model.generate(prompt, { maxTokens: 4, signal })) parts.push(part);
  assert.equal(parts.length, 1);
  assert.equal(parts[0]!.result?.finishReason, "cancelled");
  assert.deepEqual(parts[0]!.result?.tokens, []);
  // one chunk of the prompt was done, not all of them
  assert.equal(model.engine.forward.count.tokens, 128);
});
