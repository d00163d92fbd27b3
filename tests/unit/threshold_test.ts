import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { ColumnNorms } from "../../src/calibrate/column_norms.ts";
import { ThresholdObserver } from "../../src/calibrate/threshold.ts";
import { requireShared, skipWithout } from "../support/shared.ts";

/** Values with signs, over many octaves, some of them equal. */
function heavyTailed(count: number, seed: number): Float32Array {
  let state = seed;
  const next = (): number => {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    return state / 2 ** 31;
  };
  return Float32Array.from({ length: count }, () => {
    const x = next();
    return x * x * x * 2 ** Math.round(6 * next());
  });
}

/** Ascending scores, by the definition. */
function sortedScores(values: Float32Array, scale?: Float32Array): Float32Array {
  return values.map((x, i) => Math.abs(x) * (scale ? scale[i % scale.length]! : 1)).sort();
}

test("kthSmallest: exact below the limit, over slices of any size", () => {
  const values = heavyTailed(5000, 1), sorted = sortedScores(values);
  const observer = new ThresholdObserver();
  for (let at = 0, size = 1; at < values.length; at += size, size = 1 + (size * 7) % 911) {
    observer.observe(values.subarray(at, at + size));
  }
  assert.equal(observer.count, 5000);
  assert.equal(observer.exact, true);
  for (const k of [1, 2, 17, 2500, 4999, 5000]) {
    assert.equal(observer.kthSmallest(k), sorted[k - 1], `k = ${k}`);
  }
});

test("kthSmallest: with a scale, the float32 product", () => {
  const values = heavyTailed(700, 2),
    scale = heavyTailed(7, 3).map(Math.abs),
    sorted = sortedScores(values, scale);
  const observer = new ThresholdObserver({ scale, expected: 700 });
  observer.observe(values.subarray(0, 70));
  observer.observe(values.subarray(70));
  for (const k of [1, 333, 700]) assert.equal(observer.kthSmallest(k), sorted[k - 1], `k = ${k}`);
  assert.throws(() => observer.observe(values.subarray(0, 8)), /whole tokens/);
});

test("kthSmallest: past the limit within 1/4096 of the exact value, whenever the histogram began", () => {
  const values = heavyTailed(50000, 4), sorted = sortedScores(values);
  const late = new ThresholdObserver({ exactLimit: 20000 });
  const early = new ThresholdObserver({ exactLimit: 20000, expected: 50000 });
  assert.equal(early.exact, false);
  for (let at = 0; at < values.length; at += 1000) {
    late.observe(values.subarray(at, at + 1000));
    early.observe(values.subarray(at, at + 1000));
  }
  assert.equal(late.exact, false);
  assert.equal(late.count, 50000);
  for (const k of [1, 2, 100, 12345, 25000, 49000, 49999, 50000]) {
    const found = late.kthSmallest(k), wanted = sorted[k - 1]!;
    if (!(Math.abs(found - wanted) <= wanted / 4096)) {
      assert.fail(`k = ${k}: ${found} found, ${wanted} wanted`);
    }
    assert.equal(early.kthSmallest(k), found);
  }
});

test("kthSmallest: zeros stay 0, exact and in the histogram; the largest float32 has its bin", () => {
  const largest = 3.4028234663852886e38;
  for (const exactLimit of [100, 1]) {
    const observer = new ThresholdObserver({ exactLimit });
    observer.observe(Float32Array.of(0, -0, 0, 1, -largest));
    assert.equal(observer.kthSmallest(3), 0);
    assert.ok(observer.kthSmallest(4) >= 1 && observer.kthSmallest(4) < 1 + 1 / 4096);
    assert.ok(observer.kthSmallest(5) <= largest && observer.kthSmallest(5) > largest * (1 - 1 / 4096));
  }
});

test("quantile: k = trunc(count * share); k = 0 is -1, below every score", () => {
  const observer = new ThresholdObserver();
  observer.observe(Float32Array.of(5, -4, 3, -2, 1));
  assert.equal(observer.quantile(0.1), -1);
  assert.equal(observer.quantile(0.2), 1);
  assert.equal(observer.quantile(0.59), 2);
  assert.equal(observer.quantile(0.6), 3);
  assert.equal(observer.quantile(1), 5);
  for (const share of [-0.1, 1.1, NaN]) assert.throws(() => observer.quantile(share), RangeError);
  for (const k of [-1, 6, 1.5, NaN]) assert.throws(() => observer.kthSmallest(k), RangeError);
  assert.throws(() => new ThresholdObserver().quantile(0.5), /no calibration input/);
});

test("observe: refuses values and scales that are not finite, and counts none of them", () => {
  const observer = new ThresholdObserver();
  for (const bad of [NaN, -NaN, Infinity, -Infinity]) {
    assert.throws(() => observer.observe(Float32Array.of(1, bad)), /not finite/);
  }
  assert.equal(observer.count, 0);
  for (const bad of [NaN, -1, Infinity]) {
    assert.throws(() => new ThresholdObserver({ scale: Float32Array.of(bad) }), RangeError);
  }
});

test("observe: leaves its input as it was and keeps no reference to it", () => {
  const values = Float32Array.of(-3, 1, -2), observer = new ThresholdObserver();
  observer.observe(values);
  assert.deepEqual(values, Float32Array.of(-3, 1, -2));
  values.fill(9);
  observer.observe(Float32Array.of(7, 8, 9));
  assert.equal(observer.kthSmallest(3), 3);
});

test(
  "quantile: golden layers' thresholds to the last bit but one",
  { skip: skipWithout("golden/rsparse") },
  () => {
    const floats = (name: string): Float32Array => {
      const bytes = readFileSync(requireShared(`golden/rsparse/${name}`));
      return new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
    };
    const layers = JSON.parse(readFileSync(requireShared("golden/rsparse/layers.json"), "utf8")) as {
      name: string;
      nIn: number;
      w: string;
      calibration: string;
      modes: { rho: number; scaled: boolean; targetSparsity: number; threshold: number | null }[];
    }[];
    let compared = 0;
    for (const { name, nIn, w, calibration, modes } of layers) {
      const norms = new ColumnNorms(nIn);
      norms.add(floats(w));
      const scale = norms.finish(), inputs = floats(calibration);
      for (const { rho, scaled, targetSparsity, threshold } of modes) {
        if (threshold === null) continue;
        const observer = new ThresholdObserver({ scale: scaled ? scale : null });
        observer.observe(inputs);
        const found = observer.quantile(targetSparsity);
        // The reference multiplies in float64 by a float64 norm; both are rounded to float32 here.
        const bound = scaled ? threshold * 2 ** -23 : 0;
        if (!(Math.abs(found - threshold) <= bound)) {
          assert.fail(
            `${name} rho ${rho}: ${found} found, ${threshold} wanted`,
          );
        }
        compared++;
      }
    }
    assert.equal(compared, 15);
  },
);
