import assert from "node:assert/strict";
import { assertSameBits, type Bench, kernelTest, Random, SIZES } from "../support/kernels.ts";

/** Channels that pass, by the definition: the product rounded to float32, strictly greater. */
function activeChannels(x: Float32Array, scale: Float32Array, threshold: number): number[] {
  return Array.from(x.keys()).filter((c) =>
    Math.fround(scale[c]! * Math.abs(x[c]!)) > Math.fround(threshold)
  );
}

/** x and scale with a quarter of the scores exactly on 0.75. */
function onThreshold(random: Random, n: number): { x: Float32Array; scale: Float32Array } {
  const x = random.activations(n);
  const scale = Float32Array.from({ length: n }, () => 0.25 + random.uniform());
  for (let c = 0; c < n; c += 4) {
    scale[c] = 0.5;
    x[c] = c % 8 === 0 ? 1.5 : -1.5;
  }
  return { x, scale };
}

function runSelect(bench: Bench, x: Float32Array, scale: Float32Array, threshold: number): void {
  const n = x.length;
  const expected = activeChannels(x, scale, threshold);
  const xs = bench.buffer("f32", x);
  const scales = bench.buffer("f32", scale);
  const index = bench.buffer("u32", n + 8);
  const value = bench.buffer("f32", n + 8);
  const what = `n ${n}, threshold ${threshold}`;
  const count = bench.kernels.selectChannelsF32(index.at, value.at, xs.at, scales.at, threshold, n);
  assert.equal(count, expected.length, what);
  assert.deepEqual(Array.from(index.values.subarray(0, count)), expected, what);
  assertSameBits(value.values.slice(0, count), Float32Array.from(expected, (c) => x[c]!), what);
  assertSameBits(xs.values, x, `${what}: x`);
  const last = expected.at(-1) ?? 0;
  assert.deepEqual(Array.from(index.values.subarray(count, count + 8)), new Array(8).fill(last), what);
  assertSameBits(value.values.slice(count, count + 8), new Float32Array(8), `${what}: padding`);

  const active = bench.buffer("f32", n);
  const rest = bench.buffer("f32", n);
  assert.equal(
    bench.kernels.maskChannelsF32(active.at, rest.at, xs.at, scales.at, threshold, n),
    expected.length,
    what,
  );
  const isActive = new Set(expected);
  assertSameBits(active.values, x.map((v, c) => isActive.has(c) ? v : 0), `${what}: active`);
  assertSameBits(rest.values, x.map((v, c) => isActive.has(c) ? 0 : v), `${what}: rest`);
  bench.reset(what);
}

kernelTest("selectChannelsF32, maskChannelsF32: all, none and those strictly above", (bench) => {
  const random = new Random(11);
  for (const n of [...SIZES, 576, 1536]) {
    const { x, scale } = onThreshold(random, n);
    for (const threshold of [-1, 0, 0.75, 1.2, 1e9]) runSelect(bench, x, scale, threshold);
  }
});

kernelTest("selectChannelsF32: a score on the threshold is not active, the next float above is", (bench) => {
  const x = new Float32Array([0.75, 0.75000006, -0.75, -0.75000006, 0.74999994, 0.75, 0.75000006]);
  const scale = new Float32Array(7).fill(1);
  assert.deepEqual(activeChannels(x, scale, 0.75), [1, 3, 6]);
  runSelect(bench, x, scale, 0.75);
});

kernelTest("selectChannelsF32: the threshold is rounded to float32", (bench) => {
  // 0.1 as float32 is above 0.1: against the float64 0.1 it would pass
  runSelect(bench, new Float32Array(9).fill(0.1), new Float32Array(9).fill(1), 0.1);
});

kernelTest("selectChannelsF32: NaN is not active, infinity is", (bench) => {
  const x = new Float32Array([NaN, 1, NaN, Infinity, 2, NaN, -Infinity]);
  const scales = bench.buffer("f32", new Float32Array(7).fill(1));
  const index = bench.buffer("u32", 15);
  const value = bench.buffer("f32", 15);
  const count = bench.kernels.selectChannelsF32(
    index.at,
    value.at,
    bench.buffer("f32", x).at,
    scales.at,
    -1,
    7,
  );
  assert.deepEqual(Array.from(index.values.subarray(0, count)), [1, 3, 4, 6]);
});

kernelTest("forceChannelsF32: takes the channels whose bit is set, and counts among n only", (bench) => {
  const random = new Random(12);
  for (const n of SIZES) {
    for (const share of [0, 0.4, 1]) {
      const x = random.activations(n);
      const chosen = new Set(random.subset(n, share));
      const mask = new Uint8Array(Math.ceil(n / 8)).fill(0);
      for (const c of chosen) mask[c >> 3]! |= 1 << (c % 8);
      // bits past n are set: they must not be counted
      if (n % 8 !== 0) mask[n >> 3]! |= 0xff << (n % 8);
      const masks = bench.buffer("u8", mask);
      const xs = bench.buffer("f32", x);
      const active = bench.buffer("f32", n);
      const rest = bench.buffer("f32", n);
      const count = bench.kernels.forceChannelsF32(active.at, rest.at, xs.at, masks.at, n);
      assert.equal(count, chosen.size, `n ${n}`);
      assertSameBits(active.values, x.map((v, c) => chosen.has(c) ? v : 0), `n ${n}: active`);
      assertSameBits(rest.values, x.map((v, c) => chosen.has(c) ? 0 : v), `n ${n}: rest`);
      bench.reset(`n ${n}`);
    }
  }
});

kernelTest("gatherF32: any order, and repeats", (bench) => {
  const random = new Random(13), x = random.activations(70), xs = bench.buffer("f32", x);
  for (const n of SIZES) {
    const padded = Math.ceil(n / 4) * 4, list = Uint32Array.from({ length: padded }, () => random.below(70));
    const out = bench.buffer("f32", padded), index = bench.buffer("u32", list);
    bench.kernels.gatherF32(out.at, xs.at, index.at, n);
    assertSameBits(out.values.slice(0, n), Float32Array.from(list.subarray(0, n), (c) => x[c]!), `n ${n}`);
    bench.checkGuards(`n ${n}`);
  }
});
