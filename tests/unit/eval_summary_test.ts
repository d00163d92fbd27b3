/** Summaries: ROUGE by hand, and greedy writing on a model whose choices are known. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { evaluateTask, parseTasks } from "../../src/eval/mod.ts";
import { rouge, scoreSummary, type SummaryRow } from "../../src/eval/summary.ts";
import { fakeModel, logitsFor, type Position } from "../support/fake_model.ts";

function assertNear(actual: number | null | undefined, expected: number): void {
  assert.ok(typeof actual === "number" && Math.abs(actual - expected) < 1e-12, `${actual}, not ${expected}`);
}

test("rouge: F1 of words, pairs and the longest common subsequence", () => {
  // 3 of 4 words and of 5; pairs: "the cat" of 3 and of 4; subsequence "the cat mat"
  const found = rouge("The cat ate mat.", "the cat sat on mat");
  assertNear(found.rouge1, 2 * (3 / 4) * (3 / 5) / (3 / 4 + 3 / 5));
  assertNear(found.rouge2, 2 * (1 / 3) * (1 / 4) / (1 / 3 + 1 / 4));
  assertNear(found.rougeL, 2 * (3 / 4) * (3 / 5) / (3 / 4 + 3 / 5));
  // words of several sentences, in another order: the subsequence is one over the whole text
  const swapped = rouge("Dogs bark. Cats purr.", "Cats purr. Dogs bark.");
  assertNear(swapped.rouge1, 1);
  assertNear(swapped.rouge2, 2 / 3);
  assertNear(swapped.rougeL, 0.5);
  // a word counts as often as it is in both
  assertNear(rouge("the the the", "the end").rouge1, 2 * (1 / 3) * (1 / 2) / (1 / 3 + 1 / 2));
  const none = { rouge1: 0, rouge2: 0, rougeL: 0 };
  for (const [a, b] of [["", "x"], ["x", ""], ["!?", "x"], [" ", " "], ["a", "b"]] as const) {
    assert.deepEqual(rouge(a, b), none);
  }
  assert.deepEqual(rouge("one", "one"), { rouge1: 1, rouge2: 0, rougeL: 1 });
});

/** Writes `text` after the prompt's line break, as many characters as it has; sparse positions make it write `sparse` instead. */
function writer(text: string, sparse = text): (positions: readonly Position[]) => Float32Array {
  return (positions) => {
    const start = positions.findLastIndex(({ id }) => id === 10) + 1, at = positions.length - start;
    return logitsFor({ [(positions.at(-1)!.sparse ? sparse : text)[at] ?? "\x03"]: 1 });
  };
}

const ROW: SummaryRow = { article: "Cats purr.", summary: "cats purr" };
const PROMPT = "###\nArticle: Cats purr.\n\nSummarize the above article in 1 sentence.\n";

test("scoreSummary: ends at the stop text, at an end token, or after 64 tokens", async () => {
  for (
    const [written, text] of [["Cats purr### x", "Cats purr"], ["dogs", "dogs"], [
      "a".repeat(80),
      "a".repeat(64),
    ]] as const
  ) {
    const model = fakeModel(writer(written), null);
    const found = await scoreSummary(model, model.session(), ROW, "sparse");
    assert.equal(found.text, text);
    assert.equal(found.dense, null);
    assert.equal(found.rouge1, text === "Cats purr" ? 1 : 0);
    const asked = String.fromCharCode(...model.ran[0]!.map(({ id }) => id)).slice(0, PROMPT.length);
    assert.equal(asked, PROMPT);
    assert.equal(found.work.positions, model.ran[0]!.length);
  }
});

test("scoreSummary: beside the dense one; a dense prompt runs once", async () => {
  const run = async (prefill: "dense" | "sparse" | "official") => {
    const model = fakeModel(writer("cats", "dogs"), 1);
    return { found: await scoreSummary(model, model.session(), ROW, prefill), ran: model.ran[0]! };
  };
  const n = PROMPT.length,
    sparse = await run("sparse"),
    dense = await run("dense"),
    official = await run("official");
  assert.deepEqual([sparse.found.text, sparse.found.dense!.text], ["dogs", "cats"]);
  // the first token comes from the dense prompt
  assert.deepEqual([dense.found.text, dense.found.dense!.text], ["cogs", "cats"]);
  assert.equal(official.found.text, "dogs");
  assert.deepEqual([sparse.ran.length, dense.ran.length, official.ran.length], [2 * n + 8, n + 8, 2 * n + 8]);
  assert.deepEqual([sparse, dense, official].map(({ found: { work } }) => [work.positions, work.sparse]), [
    [n + 4, n + 3],
    [n + 4, 4],
    [n + 4, n + 4 - Math.trunc(n * 0.9)],
  ]);
  for (const { found, ran } of [sparse, dense, official]) {
    assert.equal(ran.filter(({ sparse }) => sparse).length, found.work.sparse);
    assert.equal(found.work.dense, 100 * found.work.sparse);
  }
});

test("evaluateTask: xsum's means, errors and paired test", async () => {
  const [{ task, name }] = parseTasks("xsum") as [ReturnType<typeof parseTasks>[0]];
  const text = [ROW, { article: "x", summary: "dogs" }].map((row) => JSON.stringify(row)).join("\n");
  const input = { task, name, blob: new Blob([text]), file: "xsum.jsonl" };
  const { result } = await evaluateTask(fakeModel(writer("cats purr", "dogs"), 1), input, {
    prefill: "sparse",
  });
  assert.deepEqual(result.metrics, { rouge1: 0.5, rouge2: 0, rougeL: 0.5 });
  assert.deepEqual(result.stderr, { rouge1: 0.5, rouge2: 0, rougeL: 0.5 });
  assert.deepEqual(result.dense!.metrics, { rouge1: 0.5, rouge2: 0.5, rougeL: 0.5 });
  const { difference, p, test } = result.paired!["rouge1"]!;
  assert.deepEqual([difference, p, test], [0, 1, "sign-flip"]);
  assert.equal(result.paired!["rouge2"]!.difference, -0.5);
  await assert.rejects(
    evaluateTask(fakeModel(writer(""), null), { ...input, blob: new Blob(['{"article":"x"}']) }),
    /line 1: summary: nothing found/,
  );
});
