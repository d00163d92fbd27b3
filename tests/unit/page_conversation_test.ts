/** What the page's worker does with a model: answers in turns, the dial, the picture, the comparison. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ActivityProbe, fillCells } from "../../examples/browser/worker/activity.ts";
import {
  type AnswerOptions,
  Conversation,
  REPEAT_PENALTY,
} from "../../examples/browser/worker/conversation.ts";
import { duel } from "../../examples/browser/worker/duel.ts";
import {
  type Activity,
  type Answer,
  BINS,
  type Comparison,
  type SideToken,
  SITES,
  type TokenEvent,
} from "../../examples/browser/worker/protocol.ts";
import { calibrateModel } from "../../src/calibrate/mod.ts";
import { type LoadedRecipe, Model, Sampler } from "../../src/mod.ts";
import { projectionShape } from "../../src/model/config.ts";
import { SITES as SITE_NAMES } from "../../src/runtime/forward.ts";
import { requireShared, skipWithout } from "../support/shared.ts";

const FOLDER = "data/models/stories260K";
const skip = skipWithout(FOLDER);
const TEXT = "Once upon a time there was a little girl named Lily. She loved to play outside in the park. "
  .repeat(12);

let made: Promise<LoadedRecipe> | null = null;

async function sparseModel(): Promise<Model> {
  made ??= (async () => {
    const dense = await Model.load(requireShared(FOLDER), { kernels: "baseline" });
    const recipe = await calibrateModel(dense, {
      text: TEXT,
      source: "a test",
      tokens: 128,
      sparsity: 0.4,
      dialStreams: [],
    });
    await dense.close();
    return recipe;
  })();
  return await Model.load(requireShared(FOLDER), { kernels: "baseline", recipe: await made });
}

async function answer(
  conversation: Conversation,
  prompt: readonly number[],
  options: Partial<AnswerOptions> = {},
  onToken: (event: TokenEvent) => void = () => {},
): Promise<Answer & { readonly events: readonly TokenEvent[] }> {
  const events: TokenEvent[] = [];
  const tokens = conversation.answer(prompt, {
    maxTokens: 20,
    temperature: 0,
    seed: 3,
    dial: () => 0,
    ...options,
  });
  for (;;) {
    const { done, value } = await tokens.next();
    if (done) return { ...value, events };
    events.push(value);
    onToken(value);
  }
}

test(
  "Conversation: the text of model.generate, and the next turn runs only what is new",
  { skip },
  async () => {
    await using model = await sparseModel();
    const conversation = new Conversation(model), prompt = model.tokenize("Once upon a time");
    const sampling = { temperature: 0.9, topP: 0.9, repeatPenalty: REPEAT_PENALTY, seed: 8 };
    let text = "";
    for await (const part of model.generate(prompt, { ...sampling, maxTokens: 20, sparsity: 0 })) {
      text += part.text;
    }
    const first = await answer(conversation, prompt, sampling);
    assert.equal(first.text, text);
    assert.equal(first.events.map((event) => event.text).join(""), text);
    assert.deepEqual(
      [first.tokens, first.promptTokens, first.reusedTokens, first.finishReason, first.seed],
      [20, prompt.length, 0, "length", 8],
    );
    assert.equal(first.measuredSparsity, 0);

    const longer = model.tokenize("Once upon a time Tom had a dog");
    const second = await answer(conversation, longer);
    assert.equal(second.reusedTokens, model.tokenize("Once upon a time").length);
    assert.equal(second.text, (await answer(new Conversation(model), longer)).text);
    // the same prompt again still has to give logits
    assert.equal((await answer(conversation, longer)).text, second.text);
  },
);

test("Conversation: the dial is asked before each token and acts on the next one", { skip }, async () => {
  await using model = await sparseModel();
  const prompt = model.tokenize("Once upon a time");
  let dial = 0.3;
  const { events, dial: changes, tokens } = await answer(new Conversation(model), prompt, {
    dial: () => dial,
  }, ({ count }) => {
    if (count === 7) dial = 0.7;
    if (count === 12) dial = 0;
  });
  assert.deepEqual(changes, [{ from: 2, sparsity: 0.3 }, { from: 8, sparsity: 0.7 }, {
    from: 13,
    sparsity: 0,
  }]);
  // the token after the seventh is the first of the new setting
  const at = (count: number): number => events[count - 1]!.sparsity;
  assert.deepEqual([1, 2, 7, 8, 12, 13, tokens].map(at), [0, 0.3, 0.3, 0.7, 0.7, 0, 0]);
  assert.ok(events[6]!.skipped > 0.15 && events[6]!.skipped < 0.45, String(events[6]!.skipped));
  assert.ok(events[7]!.skipped > 0.55, String(events[7]!.skipped));
  assert.equal(events[12]!.skipped, 0);

  // the same tokens by hand
  const session = model.session(),
    sampler = new Sampler({ repeatPenalty: REPEAT_PENALTY }),
    ids: number[] = [];
  let logits = session.prefill(prompt);
  for (let count = 1; count <= tokens; count++) {
    ids.push(sampler.sample(logits, [...prompt, ...ids]));
    session.sparsity = count < 7 ? 0.3 : count < 12 ? 0.7 : 0;
    if (count < tokens) logits = session.decode(ids.at(-1)!);
  }
  assert.equal(
    model.detokenize([...prompt, ...ids]),
    model.detokenize(prompt) + events.map(({ text }) => text).join(""),
  );
});

test("Conversation: after a stop no token comes, and the next answer is whole", { skip }, async () => {
  await using model = await sparseModel();
  const conversation = new Conversation(model), prompt = model.tokenize("Once upon a time");
  const controller = new AbortController();
  const stopped = await answer(conversation, prompt, { signal: controller.signal }, ({ count }) => {
    if (count === 5) controller.abort();
  });
  assert.deepEqual([stopped.tokens, stopped.events.length, stopped.finishReason], [5, 5, "cancelled"]);
  const before = new AbortController();
  before.abort();
  assert.equal((await answer(conversation, prompt, { signal: before.signal })).tokens, 0);
  assert.equal(
    (await answer(conversation, prompt)).text,
    (await answer(new Conversation(model), prompt)).text,
  );
});

test("Conversation: refuses what does not fit before it runs, and an empty prompt", { skip }, async () => {
  await using model = await sparseModel();
  const conversation = new Conversation(model), long = Array.from({ length: 512 }, () => 5);
  await assert.rejects(answer(conversation, long), { name: "ContextError" });
  await assert.rejects(answer(conversation, []), /the prompt is empty/);
  // up to the last place of the context
  assert.equal((await answer(conversation, long.slice(0, 510))).tokens, 2);
});

test("ActivityProbe: a look is the mask of its token, and looks keep their distance", { skip }, async () => {
  await using model = await sparseModel();
  const { config } = model, seen: Activity[] = [];
  const prompt = model.tokenize("Once upon a time");
  const probe = new ActivityProbe(model, 0, (activity) => seen.push(activity));
  const { events } = await answer(new Conversation(model), prompt, { dial: () => 0.5, probe });
  assert.equal(seen.length, events.length - 1, "every token but the first, which the prompt gives");
  for (const [i, { shares, cells, layers }] of seen.entries()) {
    assert.deepEqual([shares.length, cells.length, layers], [5 * SITES, 5 * SITES * BINS, 5]);
    let kept = 0, all = 0;
    for (let layer = 0; layer < layers; layer++) {
      for (const [site, names] of SITE_NAMES.entries()) {
        for (const name of names) {
          const { nIn, nOut } = projectionShape(config, name);
          kept += Math.round(shares[layer * SITES + site]! * nIn) * nOut;
          all += nIn * nOut;
        }
      }
    }
    assert.ok(Math.abs(1 - kept / all - events[i + 1]!.skipped) < 1e-9, `token ${i + 2}`);
  }
  assert.equal((await answer(new Conversation(model), prompt, { dial: () => 0, probe })).tokens, 20);
  assert.ok(
    seen.at(-1)!.shares.every((share) => share === 1) && seen.at(-1)!.cells.every((cell) => cell === 255),
  );

  const rare: Activity[] = [];
  const slow = new ActivityProbe(model, 1e9, (activity) => rare.push(activity));
  await answer(new Conversation(model), prompt, { dial: () => 0.5, probe: slow });
  assert.equal(rare.length, 1);
});

test("fillCells: equal is not active, scales weigh, and narrow inputs fill every cell", () => {
  const cells = new Uint8Array(4), x = Float32Array.of(1, -2, 2.5, 0, -3, 3, 2, 2);
  assert.equal(fillCells(cells, x, null, 2), 3 / 8);
  assert.deepEqual([...cells], [0, 128, 255, 0]);
  assert.equal(fillCells(cells, x, Float32Array.of(3, 1, 0, 9, 0, 0, 0, 2), 2), 2 / 8);
  assert.deepEqual([...cells], [128, 0, 0, 128]);
  assert.equal(fillCells(cells, x, null, -1), 1);
  assert.equal(fillCells(cells, x, null, Infinity), 0);
  assert.equal(fillCells(cells, Float32Array.of(5, 1), null, 2), 1 / 2);
  assert.deepEqual([...cells], [255, 255, 0, 0]);
});

async function compare(
  options: Parameters<typeof duel>[0],
  onToken: (token: SideToken) => void = () => {},
): Promise<Comparison & { tokens: SideToken[] }> {
  const tokens: SideToken[] = [], sides = duel(options);
  for (;;) {
    const { done, value } = await sides.next();
    if (done) return { ...value, tokens };
    tokens.push(value);
    onToken(value);
  }
}

test("duel: both sides take turns, who begins changes, and at 0 they write the same", { skip }, async () => {
  await using sparse = await sparseModel();
  await using dense = await Model.load(requireShared(FOLDER), { kernels: "baseline" });
  const prompt = sparse.tokenize("Once upon a time");
  const same = await compare({ dense, sparse, prompt, maxTokens: 12, dial: () => 0 });
  assert.deepEqual([same.same, same.timed, same.dense.tokens, same.sparse.tokens], [12, 11, 12, 12]);
  assert.equal(same.sparse.measuredSparsity, null);
  assert.ok(same.ownCopy && same.denseTokensPerSecond! > 0 && same.sparseTokensPerSecond! > 0);
  const order = same.tokens.map(({ side }) => side[0]).join("");
  assert.equal(order, "ds" + "dssd".repeat(5) + "ds");

  const apart = await compare({ dense, sparse, prompt, maxTokens: 40, dial: () => 0.8 });
  assert.ok(apart.same >= 1 && apart.same < 40, String(apart.same));
  assert.ok(apart.sparse.measuredSparsity! > 0.6);
  assert.equal(apart.dense.measuredSparsity, null);

  const controller = new AbortController();
  const stopped = await compare(
    { dense, sparse, prompt, maxTokens: 40, dial: () => 0.5, signal: controller.signal },
    ({ side, count }) => side === "dense" && count === 3 && controller.abort(),
  );
  assert.deepEqual([stopped.dense.finishReason, stopped.sparse.finishReason], ["cancelled", "cancelled"]);
  assert.ok(stopped.dense.tokens === 3 && stopped.sparse.tokens <= 3);
  assert.equal(
    (await compare({ dense: sparse, sparse, prompt, maxTokens: 2, dial: () => 0 })).ownCopy,
    false,
  );
});
