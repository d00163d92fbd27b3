/** The dial: thresholds between the points of a table, and models that run at any sparsity of one recipe. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { calibrateModel } from "../../src/calibrate/calibrate.ts";
import { ThresholdObserver } from "../../src/calibrate/threshold.ts";
import { projectionPath } from "../../src/model/config.ts";
import { checkSparsity, dialPoints, dialRange, thresholdAt } from "../../src/recipe/dial.ts";
import {
  joinRecipe,
  type LoadedRecipe,
  parseRecipe,
  serialiseRecipe,
  tableOf,
} from "../../src/recipe/recipe.ts";
import { recipeHints } from "../../src/runtime/apply_recipe.ts";
import { Model } from "../../src/runtime/model.ts";
import { UNTUNED } from "../../src/runtime/tuner.ts";
import { recipeOfThreshold } from "../support/golden.ts";
import { requireShared, skipWithout } from "../support/shared.ts";

const TINY = "golden/tiny/llama-f32.gguf";
const skip = skipWithout(TINY);

test("dialPoints: hundredths up to 0.9, and the recipe's own sparsity", () => {
  const points = dialPoints(0.3);
  assert.deepEqual([points.length, points[0], points[30], points[90]], [91, 0, 0.3, 0.9]);
  assert.deepEqual(dialPoints(0.125).slice(11, 15), [0.11, 0.12, 0.125, 0.13]);
  assert.equal(dialPoints(0.95).at(-1), 0.95);
});

test("thresholdAt: exact at the points, never descending between them", () => {
  const points = [0, 0.25, 0.5, 0.75], row = Float32Array.of(-1, 0.1, 0.7, 2);
  points.forEach((point, i) => assert.equal(thresholdAt(points, row, point), row[i]));
  assert.equal(thresholdAt(points, row, 0.625), Math.fround(row[2]! + (row[3]! - row[2]!) / 2));
  // -1 lets every channel pass at its own point only
  assert.equal(thresholdAt(points, row, 0.125), Math.fround(row[1]! / 2));
  let last = -1;
  for (let i = 0; i <= 750; i++) {
    const threshold = thresholdAt(points, row, i / 1000);
    assert.ok(threshold >= last && threshold === Math.fround(threshold), `${i}: ${threshold} after ${last}`);
    last = threshold;
  }
  assert.equal(thresholdAt([0.5], Float32Array.of(3), 0.5), 3);
});

test("checkSparsity: 0 always, what the table holds, and nothing past its end", () => {
  const of = (sparsity: number, points: number[]): Pick<LoadedRecipe, "recipe"> =>
    ({ recipe: { sparsity, points } }) as unknown as LoadedRecipe;
  const dial = of(0.5, [0.1, 0.5, 0.8]), fixed = of(0.5, []);
  assert.deepEqual([dialRange(dial.recipe), dialRange(fixed.recipe)], [[0.1, 0.8], [0.5, 0.5]]);
  for (const sparsity of [0, 0.1, 0.33, 0.8]) checkSparsity(dial, sparsity);
  for (const sparsity of [0, 0.5]) checkSparsity(fixed, sparsity);
  checkSparsity(null, 0);
  assert.throws(() => checkSparsity(dial, 0.81), { name: "RangeError", message: /goes from 0\.1 to 0\.8/ });
  assert.throws(() => checkSparsity(dial, 0.05), { name: "RangeError", message: /goes from 0\.1 to 0\.8/ });
  assert.throws(() => checkSparsity(fixed, 0.4), {
    name: "RangeError",
    message: /thresholds for 0\.5 alone/,
  });
  assert.throws(() => checkSparsity(null, 0.4), { name: "RangeError", message: /needs a recipe/ });
  for (const sparsity of [NaN, 1, -0.1, Infinity]) {
    assert.throws(() => checkSparsity(dial, sparsity), RangeError);
  }
});

test("ThresholdObserver.quantiles: what quantile gives for each share, exact and binned", () => {
  const values = Float32Array.from({ length: 999 }, (_, i) => ((i * 619) % 999 - 400) / 7);
  const shares = [0, 0.001, 0.1, 0.5, 0.999, 1];
  for (const exactLimit of [1000, 10]) {
    const observer = new ThresholdObserver({ exactLimit });
    observer.observe(values);
    assert.deepEqual([...observer.quantiles(shares)], shares.map((share) => observer.quantile(share)));
    assert.throws(() => observer.quantiles([0.5, 1.1]), RangeError);
  }
});

function open(recipe?: LoadedRecipe): Promise<Model> {
  return Model.load(requireShared(TINY), { kernels: "baseline", threads: 1, recipe, tuning: UNTUNED });
}

let made: Promise<LoadedRecipe> | null = null;
/** A calibrated recipe of {@linkcode TINY}. */
function recipe(): Promise<LoadedRecipe> {
  return made ??= open().then(async (model) => {
    const text = Array.from({ length: 400 }, (_, i) => model.detokenize([i % model.config.vocabSize])).join(
      "",
    );
    return await calibrateModel(model, {
      text,
      source: "its vocabulary",
      sparsity: 0.5,
      rho: 1,
      tokens: 256,
    });
  });
}

test("sharesMask: rows that differ at one point of the table are two masks", { skip }, async () => {
  const loaded = await recipe(), q = projectionPath(0, "qProj"), k = projectionPath(0, "kProj");
  assert.equal(recipeHints(loaded).sharesMask(q, k), true);
  const table = tableOf(loaded)!, { points } = loaded.recipe;
  const last = points.length - 1;
  table[last] = table[last]! + 1;
  const changed = joinRecipe(loaded.recipe, new Map(), table);
  assert.equal(recipeHints(changed).sharesMask(q, k), false);
  assert.equal(recipeHints(changed).sharesMask(k, projectionPath(0, "vProj")), true);
});

test("Session.sparsity: the more is asked for, the more is skipped; 0 is dense", { skip }, async () => {
  const loaded = await recipe(), model = await open(loaded), plain = await open();
  const ids = Array.from({ length: 48 }, (_, i) => (7 * i + 3) % model.config.vocabSize);
  let last = 0;
  for (const sparsity of [0.1, 0.255, 0.5, 0.75, 0.9]) {
    using session = model.session({ sparsity });
    assert.equal(session.sparsity, sparsity);
    session.prefill(ids, { prefill: "sparse" });
    const { kept, dense } = session.count, measured = 1 - kept / dense;
    assert.ok(Math.abs(measured - sparsity) < 0.1, `${sparsity}: ${measured}`);
    assert.ok(measured > last, `${measured} after ${last}`);
    last = measured;
  }
  using none = model.session({ sparsity: 0 }), reference = plain.session();
  assert.deepEqual(none.prefill(ids, { prefill: "sparse" }), reference.prefill(ids));
  assert.deepEqual(none.decode(5), reference.decode(5));
  assert.deepEqual([none.count.sparseTokens, none.count.tokens], [0, 49]);
  assert.throws(() => model.session({ sparsity: 0.91 }), { name: "RangeError", message: /from 0 to 0\.9/ });
  assert.throws(() => plain.session({ sparsity: 0.5 }), { name: "RangeError", message: /needs a recipe/ });
  assert.equal(plain.session().sparsity, 0);
});

test(
  "Session.sparsity: after any change, the same bits as a session that began there",
  { skip },
  async () => {
    const loaded = await recipe(), model = await open(loaded), prompt = [1, 9, 17, 4], id = 6;
    const fresh = (sparsity: number): Float32Array => {
      using session = model.session({ sparsity });
      session.prefill(prompt);
      return session.decode(id);
    };
    using session = model.session(), other = model.session({ sparsity: 0.9 });
    assert.equal(session.sparsity, 0.5);
    session.prefill(prompt);
    other.prefill(prompt);
    const own = session.decode(id), seen = new Set([own.join()]);
    assert.deepEqual(own, fresh(0.5));
    for (const sparsity of [0.3, 0.605, 0, 0.9, 0.5, 0.1]) {
      session.truncate(prompt.length);
      session.sparsity = sparsity;
      // another session's dial in between is not this one's
      other.decode(id);
      const logits = session.decode(id);
      assert.deepEqual(logits, fresh(sparsity), String(sparsity));
      seen.add(logits.join());
    }
    assert.equal(seen.size, 6);
    assert.throws(() => session.sparsity = 0.95, RangeError);
    assert.equal(session.sparsity, 0.1);
    // and a model whose recipe was made to stand there runs the same
    const { recipe: numbers } = loaded, at = numbers.points.indexOf(0.3);
    const projections = numbers.projections.map((p) => ({
      ...p,
      threshold: loaded.thresholds(p.path)![at]!,
    }));
    const there = joinRecipe({ ...numbers, sparsity: 0.3, projections }, new Map(), tableOf(loaded));
    using wanted = (await open(there)).session();
    wanted.prefill(prompt);
    assert.deepEqual(wanted.decode(id), fresh(0.3));
  },
);

test("decode beforeBlock: the dial turns within a token, and only from that block on", { skip }, async () => {
  const loaded = await recipe(), model = await open(loaded), prompt = [1, 9, 17, 4], id = 6;
  const blocks = model.config.numHiddenLayers;
  assert.ok(blocks > 1);
  using session = model.session();
  session.prefill(prompt);
  const decode = (sparsity: number, beforeBlock?: (block: number) => number | undefined): string => {
    session.truncate(prompt.length);
    session.sparsity = sparsity;
    return session.decode(id, { beforeBlock }).join();
  };
  const plain = new Map([0, 0.3, 0.9].map((sparsity) => [sparsity, decode(sparsity)]));
  const seen: number[] = [];
  assert.equal(decode(0.3, (block) => void seen.push(block)), plain.get(0.3), "asked, and left as it is");
  assert.deepEqual(seen, Array.from({ length: blocks + 1 }, (_, block) => block));
  for (const from of plain.keys()) {
    for (const to of plain.keys()) {
      const turnsAt = (at: number): string => decode(from, (block) => block === at ? to : undefined);
      assert.equal(turnsAt(0), plain.get(to), `${from} to ${to} at the first block`);
      assert.equal(turnsAt(blocks), plain.get(from), "the head has no dial");
      if (from === to) continue;
      const mixed = turnsAt(blocks - 1);
      assert.ok(mixed !== plain.get(from) && mixed !== plain.get(to), `${from} to ${to} at the last block`);
      assert.equal(turnsAt(blocks - 1), mixed);
    }
  }
  // what was turned within a token holds for it alone
  assert.equal(session.sparsity, 0.9);
  assert.equal(decode(0.3), plain.get(0.3));
  assert.throws(() => decode(0.3, () => 0.95), { name: "RangeError", message: /from 0 to 0\.9/ });
  assert.equal(decode(0.3), plain.get(0.3));
  await model.close();
});

test("generate: turns the dial of a recipe that was written and read again", { skip }, async () => {
  const loaded = await recipe();
  const blob = new Blob(serialiseRecipe(loaded.recipe, new Map(), tableOf(loaded)) as BlobPart[]);
  const model = await open(await parseRecipe(blob, "recipe")), measured: number[] = [];
  for (const sparsity of [0.2, 0.8]) {
    for await (const { result } of model.generate([1, 9], { sparsity, maxTokens: 24, ignoreEos: true })) {
      if (result) measured.push(result.measuredSparsity!);
    }
  }
  assert.ok(Math.abs(measured[0]! - 0.2) < 0.12 && Math.abs(measured[1]! - 0.8) < 0.12, String(measured));
  await assert.rejects(model.generate([1, 9], { sparsity: 0.91 }).next(), RangeError);
});

test("generate: a recipe without a table has its own sparsity alone", { skip }, async () => {
  const model = await open(await recipeOfThreshold(await open(), 0.4, 0.5));
  await model.generate([1], { sparsity: 0.5, maxTokens: 2 }).next();
  await assert.rejects(model.generate([1], { sparsity: 0.4 }).next(), /thresholds for 0\.5 alone/);
});
