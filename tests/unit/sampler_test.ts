import assert from "node:assert/strict";
import { test } from "node:test";
import { Random } from "../../src/runtime/random.ts";
import {
  logProbability,
  Sampler,
  type SamplingOptions,
  topLogits,
  validateSampling,
} from "../../src/runtime/sampler.ts";

/** Logits of the given probabilities. */
function logitsOf(...probabilities: number[]): Float32Array {
  return Float32Array.from(probabilities, Math.log);
}

/** How often each token came in `count` draws. */
function draws(
  options: SamplingOptions,
  logits: Float32Array,
  count: number,
  recent: number[] = [],
): number[] {
  const sampler = new Sampler({ temperature: 1, seed: 7, ...options });
  const found = new Array<number>(logits.length).fill(0);
  for (let i = 0; i < count; ++i) ++found[sampler.sample(logits, recent)]!;
  return found;
}

/** The tokens that came at all. */
function support(options: SamplingOptions, logits: Float32Array): number[] {
  return draws(options, logits, 3000).flatMap((n, id) => n > 0 ? [id] : []);
}

function noise(count: number, seed: number): Float32Array {
  const random = new Random(seed);
  return Float32Array.from({ length: count }, () => random.uniform() * 20 - 10);
}

const SKEWED = logitsOf(0.1, 0.4, 0.05, 0.3, 0.15);

test("Random: xoshiro128** seeded by splitmix32, as computed in Python", () => {
  const first = (seed: number) => {
    const random = new Random(seed);
    return [random.bits(), random.bits(), random.bits(), random.bits()];
  };
  assert.deepEqual(first(0), [2433765259, 2825133272, 2790911032, 2671795024]);
  assert.deepEqual(first(1), [945097952, 2643433000, 102944982, 2486684552]);
  assert.deepEqual(first(2 ** 40 + 7), [554309935, 2734825212, 474172431, 1809941516]);
  const random = new Random(42);
  assert.equal(random.uniform() * 2 ** 53, 3011252880310720);
  assert.equal(random.uniform() * 2 ** 53, 618942400171765);
});

test("Random: a seed that is no integer of at least 0 is refused", () => {
  for (const seed of [-1, 0.5, NaN, 2 ** 53]) assert.throws(() => new Random(seed), RangeError);
});

test("Sampler: without a temperature the best token, the lowest id among equals", () => {
  const sampler = new Sampler();
  assert.equal(sampler.sample(Float32Array.of(1, 3, 3, 2), []), 1);
  assert.equal(sampler.sample(Float32Array.of(-Infinity, -5, -5), []), 1);
  assert.equal(new Sampler({ temperature: 0, topK: 1, minP: 1 }).sample(Float32Array.of(-0, 0), []), 0);
});

test("Sampler: frequencies are the softmax of the logits over the temperature", () => {
  const close = (found: number[], wanted: number[]) =>
    found.forEach((n, id) => assert.ok(Math.abs(n / 40_000 - wanted[id]!) < 0.01, `${found}`));
  close(draws({}, SKEWED, 40_000), [0.1, 0.4, 0.05, 0.3, 0.15]);
  const squares = [0.01, 0.16, 0.0025, 0.09, 0.0225], total = 0.285;
  close(draws({ temperature: 0.5 }, SKEWED, 40_000), squares.map((x) => x / total));
});

test("Sampler: top-k keeps the k best, the lower id among equals", () => {
  assert.deepEqual(support({ topK: 2 }, SKEWED), [1, 3]);
  assert.deepEqual(support({ topK: 99 }, SKEWED), [0, 1, 2, 3, 4]);
  assert.deepEqual(support({ topK: 2 }, Float32Array.of(1, 2, 2, 2)), [1, 2]);
});

test("Sampler: top-p keeps the fewest that reach the share", () => {
  assert.deepEqual(support({ topP: 0.39 }, SKEWED), [1]);
  assert.deepEqual(support({ topP: 0.5 }, SKEWED), [1, 3]);
  assert.deepEqual(support({ topP: 0.8 }, SKEWED), [1, 3, 4]);
  assert.deepEqual(support({ topP: 1e-9 }, SKEWED), [1]);
  assert.deepEqual(support({ topP: 1 - 2 ** -53 }, SKEWED), [0, 1, 2, 3, 4]);
});

test("Sampler: min-p keeps what has that share of the best's probability", () => {
  assert.deepEqual(support({ minP: 0.3 }, SKEWED), [1, 3, 4]);
  assert.deepEqual(support({ minP: 1 }, SKEWED), [1]);
  assert.deepEqual(support({ minP: 0.01 }, SKEWED), [0, 1, 2, 3, 4]);
});

test("Sampler: top-p counts shares of what top-k kept, before the temperature", () => {
  // Of {1: 4/7, 3: 3/7}, 0.55 is reached by token 1; of all five it takes both.
  assert.deepEqual(support({ topK: 2, topP: 0.55 }, SKEWED), [1]);
  assert.deepEqual(support({ topP: 0.55 }, SKEWED), [1, 3]);
  // A high temperature flattens the draw, not what the filters keep.
  assert.deepEqual(support({ topP: 0.39, temperature: 100 }, SKEWED), [1]);
  assert.deepEqual(support({ minP: 0.5, temperature: 100 }, SKEWED), [1, 3]);
});

test("Sampler: the repeat penalty divides positive logits, multiplies others, once a token, of the last n only", () => {
  const logits = Float32Array.of(2, 1.5, -1, -1.5);
  const pick = (options: SamplingOptions, recent: number[], of: Float32Array = logits) =>
    new Sampler({ repeatPenalty: 2, ...options }).sample(of, recent);
  assert.equal(pick({}, []), 0);
  assert.equal(pick({}, [0]), 1);
  assert.equal(pick({ repeatPenalty: 1.3 }, [0, 0]), 0, "1.54, not 1.18: the token counts once");
  assert.equal(pick({}, [2], Float32Array.of(-3, -2.5, -1.1, -9)), 2);
  assert.equal(pick({}, [2], Float32Array.of(-3, -2.1, -1.1, -9)), 1);
  assert.equal(pick({ repeatLastN: 2 }, [0, 3, 3]), 0);
  assert.equal(pick({ repeatLastN: 0 }, [0]), 0);
  assert.deepEqual([...logits], [2, 1.5, -1, -1.5], "the caller's logits stay as they are");
  assert.throws(() => pick({}, [4]), RangeError);
});

test("Sampler: a seed gives the same tokens everywhere, another seed others", () => {
  const logits = noise(49_152, 1);
  const run = (seed: number, options: SamplingOptions) => {
    const sampler = new Sampler({ temperature: 0.8, seed, ...options });
    return Array.from({ length: 6 }, () => sampler.sample(logits, []));
  };
  // As a Python program of the same steps draws them.
  assert.deepEqual(run(1, {}), [10408, 992, 42802, 43023, 39289, 169]);
  assert.deepEqual(run(1, { topK: 40, topP: 0.95, minP: 0.05 }), [10365, 15866, 36114, 36114, 42633, 15866]);
  assert.deepEqual(run(1, { topP: 0.9 }), [38436, 15680, 23055, 47930, 45347, 620]);
  assert.notDeepEqual(run(2, {}), run(1, {}));
});

test("Sampler: without a seed it makes one up, and says it", () => {
  const first = new Sampler({ temperature: 1 });
  const again = new Sampler({ temperature: 1, seed: first.seed });
  const logits = noise(1000, 2);
  for (let i = 0; i < 10; ++i) assert.equal(again.sample(logits, []), first.sample(logits, []));
});

test("Sampler: logits of -Infinity are never drawn", () => {
  const logits = Float32Array.of(-Infinity, 0, -Infinity, 0, -Infinity);
  assert.deepEqual(support({}, logits), [1, 3]);
  assert.deepEqual(support({ topK: 4 }, logits), [1, 3]);
  assert.deepEqual(support({ topP: 0.99 }, logits), [1, 3]);
});

test("Sampler: NaN and infinite logits are errors, wherever they are", () => {
  for (const options of [{}, { temperature: 1 }, { temperature: 1, topK: 1 }, { repeatPenalty: 2 }]) {
    const sampler = new Sampler(options);
    for (const bad of [NaN, Infinity]) {
      for (let i = 0; i < 3; ++i) {
        const logits = Float32Array.of(1, 2, 3);
        logits[i] = bad;
        assert.throws(() => sampler.sample(logits, [0]), /^Error: Cannot sample/);
      }
    }
    assert.throws(() => sampler.sample(new Float32Array(2).fill(-Infinity), []), /^Error: Cannot sample/);
    assert.throws(() => sampler.sample(new Float32Array(0), []), RangeError);
  }
});

test("validateSampling: every option outside its range is named", () => {
  const bad: [keyof SamplingOptions, number[]][] = [
    ["temperature", [-0.1, NaN, Infinity]],
    ["topK", [-1, 1.5, NaN]],
    ["topP", [0, -1, 1.01, NaN]],
    ["minP", [-0.1, 1.1, NaN]],
    ["repeatPenalty", [0, -1, NaN, Infinity]],
    ["repeatLastN", [-1, 0.5, NaN]],
    ["seed", [-1, 0.5, NaN, 2 ** 53]],
  ];
  for (const [name, values] of bad) {
    for (const value of values) {
      assert.throws(
        () => validateSampling({ [name]: value }),
        (error: Error) =>
          error instanceof RangeError && error.message.startsWith(`sampling option ${name}: ${value} found`),
      );
      assert.throws(() => new Sampler({ [name]: value }), RangeError);
    }
  }
  validateSampling({});
  validateSampling({ temperature: 0, topK: 0, topP: 1, minP: 0, repeatPenalty: 1, repeatLastN: 0, seed: 0 });
});

test("topLogits: as a full sort has them, ties by id", () => {
  const logits = noise(5000, 3).map((x) => Math.round(x * 20) / 20);
  const sorted = [...logits].map((x, id): [number, number] => [id, x])
    .sort((a, b) => b[1] - a[1] || a[0] - b[0]);
  for (const k of [0, 1, 2, 8, 100, 4999, 5000, 6000]) {
    assert.deepEqual(topLogits(logits, k), sorted.slice(0, k));
  }
  assert.throws(() => topLogits(logits, -1), RangeError);
  assert.throws(() => topLogits(Float32Array.of(1, NaN), 1), /NaN/);
});

test("logProbability: minus the log-sum-exp, also where exp alone would overflow", () => {
  const p = [0.1, 0.4, 0.05, 0.3, 0.15];
  p.forEach((x, id) => assert.ok(Math.abs(logProbability(SKEWED, id) - Math.log(x)) < 1e-6));
  const large = Float32Array.of(1000, 1000, -1000);
  assert.ok(Math.abs(logProbability(large, 1) + Math.LN2) < 1e-15);
  assert.equal(logProbability(large, 2), -2000 - Math.LN2);
  assert.throws(() => logProbability(large, 3), RangeError);
});
