/** What evaluation says of SmolLM2, against float64 likelihoods of the same weights. */
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { scoreRequests, subjectOf } from "../../src/eval/likelihood.ts";
import { measurePiece } from "../../src/eval/perplexity.ts";
import { parseRows, READERS, readText } from "../../src/eval/rows.ts";
import { findTaskFile, TASKS } from "../../src/eval/tasks.ts";
import { Model } from "../../src/mod.ts";
import { readGoldenPrompts } from "../support/golden.ts";
import { pulledModel } from "../support/models.ts";
import { requireShared, skipWithout } from "../support/shared.ts";

/** The baseline build's bits are the same in all runtimes (tests/parity), so are likelihoods made of them: they are held against the reference in one. */
const skip = skipWithout("golden/smollm2/logits.json") ||
  ("Deno" in globalThis ? false : "the bits of the baseline build are those of Deno");
/** Of the mean over all prompts, as `logits_test.ts` has it for int4 in the baseline build. */
const MEAN_BAR = 0.01;

test("SmolLM2: a text's pieces and continuations have the reference's likelihoods", { skip }, async () => {
  const options = { kernels: "baseline", threads: 1, contextLength: 512 } as const;
  const model = await Model.load(await pulledModel(), options);
  const subject = subjectOf(model), own = subject.session();
  let pieces = 0, continuations = 0, positions = 0, scored = 0;
  for (const { ids, nll } of readGoldenPrompts("smollm2/logits.json")) {
    const found = await measurePiece(subject, { own, dense: own }, ids, { prefill: "sparse" });
    assert.equal(found.tokens, nll!.length);
    // a character may begin in the first token and end in the second
    const text = subject.decode(ids), bytes = new TextEncoder().encode(text).length;
    assert.equal(subject.byteLength(ids, 0), bytes, text);
    assert.equal(found.bytes, bytes - subject.byteLength(ids.slice(0, 1), 0));
    pieces += found.nll - nll!.reduce((sum, value) => sum + value, 0);
    positions += found.tokens;
    const start = Math.ceil(ids.length / 2);
    const [score] = await scoreRequests(own, [{ ids, start, sparseFrom: Infinity }]);
    continuations += -score!.logProbability - nll!.slice(start - 1).reduce((sum, value) => sum + value, 0);
    scored += ids.length - start;
  }
  await model.close();
  assert.ok(Math.abs(pieces / positions) <= MEAN_BAR, `pieces are off by ${pieces / positions} a token`);
  const mean = continuations / scored;
  assert.ok(Math.abs(mean) <= 2 * MEAN_BAR, `continuations are off by ${mean} a token`);
});

test("the tasks' files are read to their last rows", { skip: skipWithout("data/eval") }, async () => {
  const folder = requireShared("data/eval"), names = readdirSync(folder);
  for (const task of TASKS) {
    if (task.file === null || task.kind === "text") continue;
    const name = findTaskFile(task, names);
    assert.ok(name !== null, task.name);
    const text = await readText(new Blob([new Uint8Array(readFileSync(join(folder, name)))]), name);
    const rows = parseRows<unknown>(text, name, READERS[task.kind]);
    assert.equal(rows.length, text.trimEnd().split("\n").length, name);
  }
});
