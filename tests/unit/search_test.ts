/** The search's pure parts: operators, budgets, acceptance, paths, samples. Values worked out by hand. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { Model } from "../../src/mod.ts";
import type { LlamaConfig } from "../../src/model/config.ts";
import { projectionShapes } from "../../src/recipe/recipe.ts";
import { Random } from "../../src/runtime/random.ts";
import { fitnessOf, makeChildren, meanFitness, survivors } from "../../src/search/evolution.ts";
import { evolve, type EvolveSettings, type Generation, mostEvaluations } from "../../src/search/evolve.ts";
import { afterStep, alongPath, stepWeights } from "../../src/search/greedy.ts";
import { type EvaluationSetup, RowsEvaluator } from "../../src/search/evaluation.ts";
import { type Executor, type Job, packSetup, type Setup, unpackSetup } from "../../src/search/jobs.ts";
import { drawSamples } from "../../src/search/samples.ts";
import {
  bySiteShares,
  KINDS,
  meanSparsity,
  type Shares,
  sparsityAt,
  toBudget,
  uniformShares,
  weightOf,
} from "../../src/search/shares.ts";
import { Turns } from "../../src/search/turns.ts";
import { rootPath } from "../support/shared.ts";

/** SmolLM2's shapes, four blocks of them. */
const CONFIG: LlamaConfig = {
  architecture: "llama",
  hiddenSize: 576,
  intermediateSize: 1536,
  numHiddenLayers: 4,
  numAttentionHeads: 9,
  numKeyValueHeads: 3,
  headDim: 64,
  vocabSize: 100,
  maxPositionEmbeddings: 100,
  rmsNormEps: 1e-5,
  ropeTheta: 10000,
  ropeDim: 64,
  ropeScaling: { type: "none" },
  ropeInterleaved: false,
  tieWordEmbeddings: true,
};
const WEIGHTS = projectionShapes(CONFIG).map(weightOf);
const PROJECTIONS = KINDS * CONFIG.numHiddenLayers;

const SETTINGS: EvolveSettings = {
  step: "differential",
  pm: 0.5,
  pc: 0.5,
  population: 8,
  generations: 3,
  groupLayers: 2,
  variables: "projection",
  rhoFrom: 0,
  joint: false,
  spread: 0.2,
  accept: "better",
  sparsity: 0.5,
  seed: 1,
};

/** A stream that begins with these numbers. */
function beginning(...numbers: number[]): Random {
  const random = new Random(1);
  return { uniform: () => numbers.shift() ?? random.uniform() } as Random;
}

const near = (found: readonly number[], wanted: readonly number[]): void => {
  assert.equal(found.length, wanted.length);
  for (const [i, value] of found.entries()) {
    assert.ok(Math.abs(value - wanted[i]!) < 1e-12, `${found} found, ${wanted} wanted`);
  }
};

test("makeChildren: differential: x1 + pm (x2 - x3) where u > 1 - pc, cut to [0, 1]", () => {
  const population = [[0.1, 0.1, 0.1], [0.2, 0.9, 0.9], [0.8, 0.5, 0.9], [0.4, 0.6, 0.4]];
  // a draw of member 0 is the parent's own and drawn again; then members 1, 2, 3
  const random = beginning(0, 0.3, 0.5, 0.75, 0.76, 0.75, 0.99);
  const children = makeChildren(random, population, { step: "differential", pm: 0.5, pc: 0.25 }, [0, 0, 0]);
  assert.equal(children.length, 4);
  near(children[0]!, [0.4, 0.1, 1]);
  assert.ok(children.flat().every((value) => value >= 0 && value <= 1));
});

test("makeChildren: genetic: another's variable with chance pc, drawn anew above the least with chance pm", () => {
  const random = beginning(0.6, 0.4, 0.7, 0.6, 0.1, 0.5);
  const population = [[0.1, 0.2], [0.9, 0.8]];
  const [child] = makeChildren(random, population, { step: "genetic", pm: 0.5, pc: 0.5 }, [0, 0.6]);
  near(child!, [0.9, 0.8]);
});

test("makeChildren: populations too small for three others", () => {
  for (const size of [1, 2, 3]) {
    const population = Array.from({ length: size }, () => [0.5]);
    assert.equal(makeChildren(new Random(3), population, SETTINGS, [0]).length, size);
  }
});

test("survivors: the best of both, parents first among equals; meanFitness", () => {
  const member = (name: number, fitness: number) => ({ genes: [name], fitness });
  const kept = survivors([member(1, 5), member(2, 7)], [member(3, 5), member(4, 6)], 3);
  assert.deepEqual(kept.map(({ genes }) => genes[0]), [1, 3, 4]);
  assert.equal(meanFitness(kept), 16 / 3);
});

test("fitnessOf: what is no number, or worse, is 1e9", () => {
  assert.deepEqual([NaN, Infinity, 2e9, 1e9, 12].map(fitnessOf), [1e9, 1e9, 1e9, 1e9, 12]);
});

test("toBudget: one number is added to all, within the bounds", () => {
  near(toBudget([0.25, 0.5], [1, 1], 0.5, 0, 0.75), [0.375, 0.625]);
  // the first stops at 0.9: 0.9 + 3 s = 4 * 0.5
  near(toBudget([0.9, 0.1], [1, 3], 0.5, 0, 0.9), [0.9, 1.1 / 3]);
  // the second stops at 0
  near(toBudget([0.9, 0.1], [1, 1], 0.25, 0, 0.9), [0.5, 0]);
  assert.throws(() => toBudget([0.5], [1], 0.95, 0, 0.9), RangeError);
});

test("sparsityAt: in proportion on both sides, so that the whole skips what the dial says", () => {
  near([0.25, 0.5, 0.75].map((point) => sparsityAt(0.7, 0.5, point)), [0.35, 0.7, 0.85]);
  const sparsity = toBudget([0.9, 0.2, 0.4], [1, 2, 3], 0.5, 0, 0.99);
  for (const point of [0, 0.3, 0.5, 0.8]) {
    near([meanSparsity(sparsity.map((own) => sparsityAt(own, 0.5, point)), [1, 2, 3])], [point]);
  }
});

test("bySiteShares: down and o above the others, the budget kept", () => {
  const { rho, sparsity } = bySiteShares(CONFIG, 0.5);
  near(sparsity.slice(0, KINDS).filter((_, i) => i === 3 || i === 6), [0.6, 0.65]);
  near([meanSparsity(sparsity, WEIGHTS)], [0.5]);
  assert.ok(rho.every((one) => one === 1));
});

test("stepWeights, afterStep, alongPath: TEAL's steps by real shapes", () => {
  near(stepWeights(CONFIG), [1, 1 / 3, 1 / 3, 1, 8 / 3, 8 / 3, 8 / 3]);
  near([afterStep(0.5, 0.05, 1 / 3)!], [0.65]);
  assert.equal(afterStep(0.9, 0.05, 1 / 3), null);
  // after the steps the whole skips 0.1 / 3, 0.2 / 3, 0.3 / 3
  const path = [0, 1, 0], weights = [1, 2];
  near(alongPath(path, weights, 0.1, 0), [0, 0]);
  near(alongPath(path, weights, 0.1, 0.05), [0.1, 0.025]);
  near(alongPath(path, weights, 0.1, 0.1), [0.2, 0.05]);
  near(alongPath(path, weights, 0.1, 0.5), [0.2, 0.05]);
});

/** Best where every rho is 0.8 and every sparsity what it should be; noted are the points asked for. */
function bowl(asked: { shares: Shares; split: number }[]) {
  return (points: readonly Shares[], split: number): Promise<number[]> => {
    for (const shares of points) asked.push({ shares, split });
    return Promise.resolve(
      points.map(({ rho, sparsity }) =>
        10 + rho.reduce((sum, r) => sum + (r - 0.8) ** 2, 0) +
        sparsity.reduce((sum, s, i) => sum + (s - (i % KINDS === 6 ? 0.6 : 0.45)) ** 2, 0)
      ),
    );
  };
}

test("evolve: group by group, only for the better; the same seed gives the same points", async () => {
  const asked: { shares: Shares; split: number }[] = [], history: Generation[] = [];
  const start = uniformShares(PROJECTIONS, 1, 0.5);
  const { shares, fitness } = await evolve(CONFIG, start, SETTINGS, bowl(asked), (one) => history.push(one));
  // the start, then two groups of a first population and three of children
  assert.equal(asked.length, 1 + 2 * 4 * 8);
  assert.equal(mostEvaluations(CONFIG, SETTINGS), asked.length);
  assert.deepEqual(history.map(({ generation, layers }) => [generation, ...layers]), [
    ...[0, 1, 2, 3].map((g) => [g, 0, 2]),
    ...[4, 5, 6, 7].map((g) => [g, 2, 4]),
  ]);
  assert.ok(history.every(({ best, mean }) => best <= mean));
  const first = asked.slice(1, 33), second = asked.slice(33), half = PROJECTIONS / 2;
  assert.deepEqual(first[0]!.shares, start);
  assert.ok(first.every(({ split, shares }) => split === 0 && shares.rho.slice(half).every((r) => r === 1)));
  assert.ok(second.every(({ split }) => split === 2));
  for (const { shares: { rho } } of second) assert.deepEqual(rho.slice(0, half), shares.rho.slice(0, half));
  assert.ok(asked.every(({ shares: { sparsity } }) => sparsity.every((s) => s === 0.5)));
  const [before] = await bowl([])([start], 0);
  assert.ok(fitness < before!);
  assert.deepEqual(await bowl([])([shares], 0), [fitness]);

  const again: { shares: Shares; split: number }[] = [], other: typeof again = [];
  await evolve(CONFIG, start, SETTINGS, bowl(again));
  assert.deepEqual(again, asked);
  await evolve(CONFIG, start, { ...SETTINGS, seed: 2 }, bowl(other));
  assert.notDeepEqual(other, asked);
});

test("evolve: what is never better is not taken, unless it always is", async () => {
  const start = uniformShares(PROJECTIONS, 0.9, 0.5);
  let count = 0;
  const worse = (points: readonly Shares[]): Promise<number[]> => Promise.resolve(points.map(() => ++count));
  assert.deepEqual(await evolve(CONFIG, start, SETTINGS, worse), { shares: start, fitness: 1 });
  count = 0;
  // member 0 of each group is the start and comes first, so it stays the best
  const always = await evolve(CONFIG, start, { ...SETTINGS, accept: "always" }, worse);
  assert.deepEqual(always.shares, start);
  assert.ok(always.fitness > 1);
});

test("evolve: no generations evaluate the start alone", async () => {
  const asked: { shares: Shares; split: number }[] = [], start = uniformShares(PROJECTIONS, 0.9, 0.5);
  const settings = { ...SETTINGS, generations: 0 };
  assert.deepEqual((await evolve(CONFIG, start, settings, bowl(asked))).shares, start);
  assert.equal(asked.length, 1);
  assert.equal(mostEvaluations(CONFIG, settings), 1);
});

test("evolve joint: every point costs the same bytes, group by group", async () => {
  const asked: { shares: Shares; split: number }[] = [], start = uniformShares(PROJECTIONS, 1, 0.5);
  const settings = { ...SETTINGS, joint: true, rhoFrom: 0.7 };
  const { fitness } = await evolve(CONFIG, start, settings, bowl(asked));
  const half = PROJECTIONS / 2;
  for (const { shares: { rho, sparsity } } of asked) {
    near([meanSparsity(sparsity.slice(0, half), WEIGHTS.slice(0, half))], [0.5]);
    near([meanSparsity(sparsity.slice(half), WEIGHTS.slice(half))], [0.5]);
    assert.ok(sparsity.every((s) => s >= 0 && s <= 0.99) && rho.every((r) => r >= 0 && r <= 1));
  }
  // the first group's third member is by-site
  near(asked[3]!.shares.sparsity.slice(0, half), bySiteShares(CONFIG, 0.5).sparsity.slice(0, half));
  const [before] = await bowl([])([start], 0);
  assert.ok(fitness < before!);
});

test("evolve by kind: projections of a kind share their variable", async () => {
  const asked: { shares: Shares; split: number }[] = [];
  const settings = { ...SETTINGS, joint: true, variables: "kind" as const, groupLayers: 4 };
  await evolve(CONFIG, uniformShares(PROJECTIONS, 1, 0.5), settings, bowl(asked));
  for (const { shares: { rho, sparsity } } of asked) {
    for (let i = KINDS; i < PROJECTIONS; i++) {
      assert.deepEqual([rho[i], sparsity[i]], [rho[i % KINDS], sparsity[i % KINDS]]);
    }
    near([meanSparsity(sparsity, WEIGHTS)], [0.5]);
  }
});

const encode = (text: string): Promise<number[]> =>
  Promise.resolve(Array.from(text, (character) => character.charCodeAt(0)));

test("drawSamples: of documents, pieces of those that are longer", async () => {
  const documents = ["short", "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "tiny"];
  const options = { count: 20, length: 10, seed: 5 };
  const samples = await drawSamples(documents, encode, 0, options);
  const texts = samples.map((ids) => String.fromCharCode(...ids));
  assert.equal(texts.length, 20);
  assert.ok(
    texts.every((text) => text.length === 10 && documents.some((document) => document.includes(text))),
  );
  assert.ok(new Set(texts).size > 5);
  assert.deepEqual(await drawSamples(documents, encode, 0, options), samples);
  assert.notDeepEqual(await drawSamples(documents, encode, 0, { ...options, seed: 6 }), samples);
});

test("drawSamples: of one text, or where documents are short, places in equal parts of all", async () => {
  const text = Array.from({ length: 100 }, (_, i) => String.fromCharCode(i + 1)).join("");
  for (const sample of await drawSamples([text], encode, 0, { count: 1, length: 100, seed: 1 })) {
    assert.deepEqual(sample, await encode(text));
  }
  const starts = (await drawSamples([text], encode, 0, { count: 4, length: 20, seed: 1 })).map((ids) =>
    ids[0]! - 1
  );
  assert.ok(starts.every((start, i) => start >= 20 * i && start < 20 * (i + 1)), String(starts));
  const [joined] = await drawSamples(["ab", "cd"], encode, 0, { count: 1, length: 6, seed: 1 });
  assert.deepEqual(joined, [97, 98, 0, 99, 100, 0]);
  await assert.rejects(
    drawSamples(["ab"], encode, 0, { count: 1, length: 3, seed: 1 }),
    /^RangeError: the text has 2 tokens, at least 3 wanted/,
  );
});

test("unpackSetup: what packSetup made, tables to the bit", () => {
  const floats = (...values: number[]): Float32Array => Float32Array.of(...values);
  const setup: Setup = {
    model: "smollm2",
    modelHash: "ab",
    kernels: "baseline",
    dtype: "auto",
    samples: [[1, 2], [3]],
    tables: {
      abs: floats(-1, 0.1, 3e38),
      columnNorm: floats(1e-45, -0),
      norms: new Float32Array(40_000).fill(0.3),
    },
    keepDense: 1,
    leastSparsity: 0.5,
    keptFactors: 7,
  };
  const found = unpackSetup(packSetup(setup)) as Setup;
  assert.deepEqual(found, setup);
  assert.ok(Object.is(found.tables.columnNorm[1], -0));
});

test("unpackSetup: an evaluation's, files to the byte", () => {
  const setup: EvaluationSetup = {
    ...{ model: "smollm2", modelHash: "ab", kernels: "relaxed", dtype: "int8", kv: "bf16", prefill: "dense" },
    recipe: Uint8Array.from({ length: 70_000 }, (_, i) => i * 7),
    tasks: [{ name: "piqa", file: "a/piqa.jsonl", bytes: Uint8Array.of(0, 255, 10) }],
    limit: 3,
  };
  assert.deepEqual(unpackSetup(packSetup(setup)), setup);
  assert.deepEqual(unpackSetup(packSetup({ ...setup, recipe: null })), { ...setup, recipe: null });
});

test("RowsEvaluator: a pack runs by its own recipe at a sparsity alone, as where the evaluation was begun", async () => {
  const setup: Omit<EvaluationSetup, "modelHash"> = {
    ...{ model: "models/tiny.rsparse", kernels: "baseline", dtype: "auto", kv: "f32", prefill: "sparse" },
    recipe: null,
    tasks: [],
  };
  const pack = new Blob([readFileSync(rootPath(setup.model))]);
  await using model = await Model.load(pack, { kernels: "baseline", threads: 1 });
  assert.notEqual(model.recipe, null);
  const modelHash = await model.hash();
  for (const [sparsity, wanted] of [[undefined, null], [0, null], [0.5, "by-site"]] as const) {
    const evaluator = await RowsEvaluator.open({ ...setup, modelHash, sparsity }, pack);
    assert.equal(evaluator.model.recipe?.recipe.method ?? null, wanted, String(sparsity));
    await evaluator.close();
  }
});

/** An executor whose jobs end when they are told to, in a list of what has happened. */
function slow(name: string, said: string[], ends: (() => void)[]): Executor {
  let isOpen = true;
  said.push(`open ${name}`);
  return {
    workers: name,
    run: () =>
      new Promise((resolve, reject) =>
        ends.push(() => isOpen ? resolve([1]) : reject(new Error(`${name} is closed`)))
      ),
    close() {
      isOpen = false;
      said.push(`close ${name}`);
      return Promise.resolve();
    },
  };
}

test("Turns: another search waits for the jobs that run, and comes then", async () => {
  const said: string[] = [], ends: (() => void)[] = [], settle = () => new Promise((r) => setTimeout(r));
  const turns = new Turns((setup) => Promise.resolve(slow(setup.model, said, ends)));
  const use = (search: string) =>
    turns.use(
      search,
      () => Promise.resolve({ model: search } as Setup),
      (executor) => executor.run({} as Job),
    );
  const first = [use("a"), use("a")];
  await settle();
  const second = [use("b"), use("b")];
  await settle();
  ends.shift()!();
  await settle();
  assert.deepEqual([said, ends.length], [["open a"], 1]);
  ends.shift()!();
  assert.deepEqual(await Promise.all(first), [[1], [1]]);
  await settle();
  assert.deepEqual([said, ends.length], [["open a", "close a", "open b"], 2]);
  // one that comes back waits likewise
  const third = use("a");
  ends.splice(0).forEach((end) => end());
  assert.deepEqual(await Promise.all(second), [[1], [1]]);
  await settle();
  ends.shift()!();
  assert.deepEqual(await third, [1]);
  assert.equal(await turns.use("gone", () => Promise.resolve(null), () => Promise.resolve([2])), null);
  await turns.close();
  assert.deepEqual(said.slice(2), ["open b", "close b", "open a", "close a"]);
});

test("Turns: an executor that can't be opened fails its own jobs alone", async () => {
  const said: string[] = [], ends: (() => void)[] = [];
  const turns = new Turns(({ model }) =>
    model === "bad" ? Promise.reject(new Error("bad")) : Promise.resolve(slow(model, said, ends))
  );
  const use = (search: string) =>
    turns.use(
      search,
      () => Promise.resolve({ model: search } as Setup),
      (executor) => executor.run({} as Job),
    );
  await assert.rejects(use("bad"), /^Error: bad$/);
  const good = use("good");
  await new Promise((resolve) => setTimeout(resolve));
  ends.shift()!();
  assert.deepEqual(await good, [1]);
  await turns.close();
});
