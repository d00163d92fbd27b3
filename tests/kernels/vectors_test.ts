import assert from "node:assert/strict";
import { assertSameBits, assertWithin, kernelTest, Random, SIZES, sumBound } from "../support/kernels.ts";

kernelTest("fillZeroF32: zeroes n floats and no more", (bench) => {
  for (const n of SIZES) {
    const y = bench.buffer("f32", n);
    bench.kernels.fillZeroF32(y.at, n);
    assertSameBits(y.values, new Float32Array(n), `n ${n}`);
    bench.reset(`n ${n}`);
  }
});

kernelTest("addF32: is the float32 sum", (bench) => {
  const random = new Random(1);
  for (const n of SIZES) {
    const before = random.activations(n);
    const x = bench.buffer("f32", random.activations(n));
    const y = bench.buffer("f32", before);
    bench.kernels.addF32(y.at, x.at, n);
    assertSameBits(y.values, before.map((v, i) => v + x.values[i]!), `n ${n}`);
    bench.reset(`n ${n}`);
  }
});

kernelTest("addI32: is the sum modulo 2^32", (bench) => {
  const random = new Random(3);
  for (const n of SIZES) {
    const values = () => Int32Array.from({ length: n }, () => random.below(2 ** 32));
    const before = values(), x = bench.buffer("i32", values()), y = bench.buffer("i32", before);
    bench.kernels.addI32(y.at, x.at, n);
    assertSameBits(y.values, before.map((v, i) => v + x.values[i]!), `n ${n}`);
    bench.reset(`n ${n}`);
  }
});

kernelTest("rmsNormF32: divides by the root mean square, in place too", (bench) => {
  const random = new Random(2);
  for (const n of [...SIZES, 576]) {
    for (const inPlace of [false, true]) {
      const eps = 1e-5;
      const values = random.activations(n);
      const weight = bench.buffer("f32", random.weights(n));
      const x = bench.buffer("f32", values);
      const y = inPlace ? x : bench.buffer("f32", n);
      const root = Math.sqrt(values.reduce((sum, v) => sum + v * v, 0) / n + eps);
      const expected = Float64Array.from(values, (v, i) => v / root * weight.values[i]!);
      bench.kernels.rmsNormF32(y.at, x.at, weight.at, n, eps);
      assertWithin(y.values, expected, expected.map((v) => sumBound(n / 2 + 3, Math.abs(v))), `n ${n}`);
      bench.reset(`n ${n}`);
    }
  }
});

kernelTest("rmsNormF32: eps keeps a vector of zeros at zero", (bench) => {
  const x = bench.buffer("f32", new Float32Array(8));
  const weight = bench.buffer("f32", new Float32Array(8).fill(2));
  const y = bench.buffer("f32", 8);
  bench.kernels.rmsNormF32(y.at, x.at, weight.at, 8, 1e-6);
  assertSameBits(y.values, new Float32Array(8), "zeros");
});

kernelTest("siluMulF32: is v / (1 + e^-v) * up from -1000 to 1000, in place too", (bench) => {
  const random = new Random(3);
  const edges = [0, -0, 1e-40, -1e-40, 1, -1, 20, -20, 87, -87, 88.7, -88.7, 104, -104, 1000, -1000];
  for (const n of [...SIZES, 1536]) {
    const gates = Float32Array.from(
      { length: n },
      (_, i) => i % 3 === 0 ? edges[(i / 3) % edges.length]! : random.normal() * 5,
    );
    const up = bench.buffer("f32", random.weights(n));
    const gate = bench.buffer("f32", gates);
    const y = n % 2 === 0 ? gate : bench.buffer("f32", n);
    const expected = Float64Array.from(gates, (v, i) => v / (1 + Math.exp(-v)) * up.values[i]!);
    bench.kernels.siluMulF32(y.at, gate.at, up.at, n);
    // 8 ulps; e^88 is as far as float32 goes, so what should be below 1e-35 may be anything of that size
    assertWithin(y.values, expected, expected.map((v) => 2 ** -20 * Math.abs(v) + 1e-34), `n ${n}`);
    bench.reset(`n ${n}`);
  }
});

kernelTest("siluMulF32: a NaN stays a NaN", (bench) => {
  const gate = bench.buffer("f32", [1, NaN, 2, 3, NaN]);
  const up = bench.buffer("f32", [1, 1, 1, NaN, 1]);
  bench.kernels.siluMulF32(gate.at, gate.at, up.at, 5);
  assert.deepEqual(Array.from(gate.values, Number.isNaN), [false, true, false, true, true]);
});

kernelTest("ropeFrequenciesF64: is theta^(-i/nPairs) within 4e-16 of itself", (bench) => {
  for (const theta of [10000, 100000, 500000]) {
    for (const nPairs of [0, 1, 3, 4, 24, 32, 64]) {
      const frequency = bench.buffer("f64", nPairs);
      bench.kernels.ropeFrequenciesF64(frequency.at, nPairs, theta);
      const expected = Float64Array.from({ length: nPairs }, (_, i) => Math.pow(theta, -i / nPairs));
      assertWithin(frequency.values, expected, expected.map((v) => 4e-16 * v), `theta ${theta}, ${nPairs}`);
      bench.reset();
    }
  }
});

kernelTest("ropeAnglesF64: cos and sin within half a float32 step, at positions up to 131071", (bench) => {
  for (const position of [0, 1, 2, 63, 2047, 8191, 131071]) {
    for (const nPairs of [0, 1, 3, 4, 32]) {
      const frequencies = Array.from({ length: nPairs }, (_, i) => Math.pow(10000, -i / nPairs));
      const frequency = bench.buffer("f64", frequencies);
      const cosSin = bench.buffer("f32", 2 * nPairs);
      bench.kernels.ropeAnglesF64(cosSin.at, frequency.at, nPairs, position);
      const expected = frequencies.flatMap((f) => [Math.cos(position * f), Math.sin(position * f)]);
      assertWithin(
        cosSin.values,
        expected,
        expected.map((v) => 2 ** -24 * Math.abs(v) + 1e-14),
        `position ${position}`,
      );
      bench.reset(`position ${position}`);
    }
  }
});

kernelTest("ropeF32: turns pairs of both orders and leaves the rest of a head", (bench) => {
  const random = new Random(4);
  for (const interleaved of [0, 1]) {
    for (
      const [nHeads, headDim, nPairs] of [[1, 2, 1], [3, 8, 4], [3, 8, 3], [2, 14, 5], [2, 20, 9], [
        9,
        64,
        32,
      ], [2, 12, 0]] as const
    ) {
      const angles = Array.from({ length: nPairs }, (_, i) => 0.7 * i + 0.3);
      const before = random.activations(nHeads * headDim);
      const cosSin = bench.buffer("f32", angles.flatMap((angle) => [Math.cos(angle), Math.sin(angle)]));
      const x = bench.buffer("f32", before);
      bench.kernels.ropeF32(x.at, cosSin.at, nHeads, headDim, nPairs, interleaved);
      const expected = Float64Array.from(before);
      const bound = new Float64Array(before.length);
      for (let head = 0; head < nHeads; ++head) {
        for (let i = 0; i < nPairs; ++i) {
          const first = head * headDim + (interleaved ? 2 * i : i);
          const second = interleaved ? first + 1 : first + nPairs;
          const [cos, sin] = [cosSin.values[2 * i]!, cosSin.values[2 * i + 1]!];
          const [a, b] = [before[first]!, before[second]!];
          expected[first] = cos * a - sin * b;
          expected[second] = sin * a + cos * b;
          bound[first] = sumBound(2, Math.abs(cos * a) + Math.abs(sin * b));
          bound[second] = sumBound(2, Math.abs(sin * a) + Math.abs(cos * b));
        }
      }
      assertWithin(
        x.values,
        expected,
        bound,
        `${nHeads} heads of ${headDim}, ${nPairs} pairs, ${interleaved}`,
      );
      bench.reset();
    }
  }
});
