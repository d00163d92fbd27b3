import assert from "node:assert/strict";
import {
  assertSameBits,
  assertWithin,
  type Bench,
  kernelTest,
  openBench,
  Random,
  SIZES,
} from "../support/kernels.ts";

/** Weights that quantise exactly: integers within ±127, each row with a 127, times power-of-two row and channel scales. */
function exactWeights(random: Random, nIn: number, nOut: number, withChannels: boolean) {
  const q = Int8Array.from({ length: nOut * nIn }, () => random.below(255) - 127);
  for (let o = 0; o < nOut && nIn > 0; ++o) q[o * nIn + random.below(nIn)] = o % 2 === 0 ? 127 : -127;
  const rowScale = Float32Array.from({ length: nOut }, () => 2 ** -(6 + random.below(5)));
  const channelScale = Float32Array.from(
    { length: nIn },
    () => withChannels ? 2 ** (random.below(5) - 2) : 1,
  );
  const source = Float32Array.from(q, (v, i) => v * rowScale[Math.floor(i / nIn)]! * channelScale[i % nIn]!);
  return { q, rowScale, channelScale, source };
}

/** s * rowScale * sum of q * xq over the channels, exact but for the last roundings. */
function integerProduct(
  q: Int8Array,
  xq: ArrayLike<number>,
  channels: readonly number[],
  nIn: number,
  rowScale: Float32Array,
  s: number,
): Float64Array {
  return Float64Array.from(rowScale, (scale, o) => {
    let sum = 0;
    for (const c of channels) sum += q[o * nIn + c]! * xq[c]!;
    return s * scale * sum;
  });
}

/** The bar of integer kernels: a millionth of the largest y. */
function bar(expected: Float64Array): number {
  return 1e-6 * expected.reduce((a, v) => Math.max(a, Math.abs(v)), 0);
}

kernelTest("quantizeI16: 12 bits within half a step, zeros above n, the reference's bits", async (bench) => {
  const random = new Random(41);
  const twin = await openBench("reference");
  for (const n of [...SIZES, 576, 1536]) {
    const nPadded = Math.ceil(n / 8) * 8 + 8;
    const x = random.activations(n);
    const factor = Float32Array.from({ length: n }, () => 0.5 + random.uniform());
    const run = (b: Bench) => {
      const xq = b.buffer("i16", nPadded);
      const s = b.kernels.quantizeI16(
        xq.at,
        b.buffer("f32", x).at,
        b.buffer("f32", factor).at,
        n,
        nPadded,
      );
      const result = { s, xq: xq.values.slice() };
      b.reset(`n ${n}`);
      return result;
    };
    const { s, xq } = run(bench);
    const expected = run(twin);
    assert.equal(s, expected.s, `n ${n}: s`);
    assertSameBits(xq, expected.xq, `n ${n}: xq`);
    const scaled = Float64Array.from(x, (v, c) => v * factor[c]!);
    assertWithin(Array.from(xq.subarray(0, n), (v) => v * s), scaled, s * 0.5001, `n ${n}: error`);
    assert.ok(xq.subarray(n).every((v) => v === 0), `n ${n}: above n`);
    assert.ok(xq.every((v) => Math.abs(v) <= 2047), `n ${n}: range`);
    if (n > 0) assert.ok(xq.some((v) => Math.abs(v) === 2047), `n ${n}: the largest takes all 12 bits`);
  }
});

kernelTest("quantizeI16: zeros give 0 and zeros; subnormals nothing that is seen", (bench) => {
  for (const [v, n] of [[0, 17], [-0, 8], [1e-42, 17]] as const) {
    const xq = bench.buffer("i16", 24);
    const x = bench.buffer("f32", new Float32Array(n).fill(v));
    const factor = bench.buffer("f32", new Float32Array(n).fill(1));
    const s = bench.kernels.quantizeI16(xq.at, x.at, factor.at, n, 24);
    assert.ok(s <= 1e-42 && s >= 0, `${v}: s ${s}`);
    if (Math.abs(v) === 0) assertSameBits(xq.values, new Int16Array(24), `${v}`);
    assert.ok(xq.values.subarray(n).every((q) => q === 0), `${v}: above n`);
    bench.reset();
  }
});

kernelTest("sumI16: is exact at the ends of the range", (bench) => {
  const random = new Random(42);
  for (const n of [0, 8, 16, 24, 576, 8192]) {
    for (const fill of [32767, -32768, null]) {
      const values = Int16Array.from({ length: n }, () => fill ?? random.below(65536) - 32768);
      const x = bench.buffer("i16", values);
      assert.equal(bench.kernels.sumI16(x.at, n), values.reduce((a, b) => a + b, 0), `n ${n}`);
      bench.reset();
    }
  }
});

function runChannels(
  bench: Bench,
  random: Random,
  nIn: number,
  nOut: number,
  share: number,
  nRows = nOut,
): void {
  const { kernels } = bench;
  const what = `${nIn} -> ${nOut}, ${share} active`;
  const { q, rowScale, channelScale, source } = exactWeights(random, nIn, nRows, true);
  const src = bench.buffer("f32", source);
  const rows = bench.buffer("f32", Float32Array.from({ length: nOut }, (_, o) => rowScale[o] ?? 1));
  const channelScales = bench.buffer("f32", channelScale);
  const w = bench.buffer("u8", nIn * nOut);
  kernels.packChannelsI8(w.at, src.at, rows.at, channelScales.at, nRows, nIn, nOut);

  const channels = share === 1 ? Array.from({ length: nIn }, (_, c) => c) : random.subset(nIn, share);
  const padding = (8 - channels.length % 8) % 8;
  const xq = Int16Array.from({ length: nIn }, () => random.below(4095) - 2047);
  const index = bench.buffer("u32", [...channels, ...new Array<number>(padding).fill(nIn - 1)]);
  const gathered = bench.buffer("i16", [
    ...channels.map((c) => xq[c]!),
    ...new Array<number>(padding).fill(0),
  ]);
  const sumX = kernels.sumI16(gathered.at, channels.length + padding);
  const acc = bench.buffer("i32", new Int32Array(nOut));
  const y = bench.buffer("f32", nOut);
  const s = 0.0037;
  // in two calls, as threads share the outputs of one matrix
  const length = channels.length + padding;
  kernels.gemvChannelsI8(acc.at, w.at, index.at, gathered.at, length, 32, nOut);
  kernels.gemvChannelsI8(acc.at + 128, w.at + 32, index.at, gathered.at, length, nOut - 32, nOut);
  kernels.finishChannelsI8(y.at, acc.at, rows.at, Math.fround(s), sumX, nOut);
  const expected = integerProduct(q, xq, channels, nIn, rowScale, Math.fround(s));
  assertWithin(y.values.subarray(0, nRows), expected, bar(expected), what);
  assert.ok(y.values.subarray(nRows).every((v) => v === 0), `${what}: rows that are not there`);
  bench.reset(what);
}

function runAllChannels(bench: Bench): void {
  const random = new Random(43);
  for (const nOut of [32, 64, 96]) {
    for (const nIn of [1, 3, 4, 5, 15, 16, 17, 63, 64, 67]) {
      for (const share of [0, 0.5, 1]) runChannels(bench, random, nIn, nOut, share);
    }
  }
  for (const [nIn, nOut] of [[576, 192], [1536, 576], [64, 160]] as const) {
    for (const share of [0.5, 1]) runChannels(bench, random, nIn, nOut, share);
  }
  runChannels(bench, random, 17, 64, 1, 49);
}

kernelTest("gemvChannelsI8, finishChannelsI8: the integer product of the active channels", runAllChannels);

kernelTest(
  "gemvChannelsI8: six channels at a time, for engines short of registers",
  async (_bench, build) => runAllChannels(await openBench(build, { touch: "plain" })),
  ["baseline", "relaxed", "debug"],
);

kernelTest("gemvChannelsI8: adds to what earlier channels left", (bench) => {
  const { kernels } = bench;
  const random = new Random(44);
  const [nIn, nOut] = [48, 32];
  const { q, rowScale, channelScale, source } = exactWeights(random, nIn, nOut, false);
  const rows = bench.buffer("f32", rowScale);
  const w = bench.buffer("u8", nIn * nOut);
  kernels.packChannelsI8(
    w.at,
    bench.buffer("f32", source).at,
    rows.at,
    bench.buffer("f32", channelScale).at,
    nOut,
    nIn,
    nOut,
  );
  const xq = Int16Array.from({ length: nIn }, () => random.below(4095) - 2047);
  const index = bench.buffer("u32", xq.map((_, c) => c));
  const values = bench.buffer("i16", xq);
  const acc = bench.buffer("i32", new Int32Array(nOut));
  const y = bench.buffer("f32", nOut);
  kernels.gemvChannelsI8(acc.at, w.at, index.at, values.at, 16, nOut, nOut);
  kernels.gemvChannelsI8(acc.at, w.at, index.at + 64, values.at + 32, 32, nOut, nOut);
  kernels.finishChannelsI8(y.at, acc.at, rows.at, 1, kernels.sumI16(values.at, nIn), nOut);
  const expected = integerProduct(q, xq, Array.from(xq.keys()), nIn, rowScale, 1);
  assertWithin(y.values, expected, bar(expected), "two calls");
});

kernelTest("gemvChannelsI8, gemvPairsI8: 8,256 channels at the ends of the range stay exact", (bench) => {
  const { kernels } = bench;
  const [nIn, nOut] = [8256, 32];
  for (const sign of [1, -1]) {
    // 8,256 * 2,047 * 127 is just below 2^31; the even outputs' unmasked sums wrap many times over
    const source = Float32Array.from(
      { length: nIn * nOut },
      (_, i) => Math.floor(i / nIn) % 3 === 0 ? -127 : 127,
    );
    const src = bench.buffer("f32", source);
    const ones = bench.buffer("f32", new Float32Array(nIn).fill(1));
    const w = bench.buffer("u8", nIn * nOut);
    const index = bench.buffer("u32", Uint32Array.from({ length: nIn }, (_, c) => c));
    const xq = bench.buffer("i16", new Int16Array(nIn).fill(sign * 2047));
    const acc = bench.buffer("i32", new Int32Array(nOut));
    const y = bench.buffer("f32", nOut);
    const expected = Float64Array.from(
      { length: nOut },
      (_, o) => (o % 3 === 0 ? -127 : 127) * sign * 2047 * nIn,
    );
    const sumX = kernels.sumI16(xq.at, nIn);
    kernels.packChannelsI8(w.at, src.at, ones.at, ones.at, nOut, nIn, nOut);
    kernels.gemvChannelsI8(acc.at, w.at, index.at, xq.at, nIn, nOut, nOut);
    kernels.finishChannelsI8(y.at, acc.at, ones.at, 1, sumX, nOut);
    assertWithin(y.values, expected, bar(expected), "channels");

    const rowScale = bench.buffer("f32", nOut);
    kernels.packPairsI8(w.at, rowScale.at, src.at, 0, nOut, nIn, nIn);
    kernels.gemvPairsI8(y.at, w.at, xq.at, rowScale.at, 1, sumX, nIn, nOut);
    assertWithin(y.values, expected, bar(expected), "pairs");
    bench.reset();
  }
});

/** Packs rows in two calls, the second from row 16 where there is one; weights pad channels to 32, factors to 8. */
function packPairs(bench: Bench, source: Float32Array, nIn: number, nRows: number, padding = 32) {
  const nInPadded = Math.ceil(nIn / padding) * padding;
  const nOut = Math.ceil(nRows / 16) * 16;
  const src = bench.buffer("f32", source);
  const w = bench.buffer("u8", nInPadded * nOut);
  const rowScale = bench.buffer("f32", nOut);
  const first = Math.min(nRows, 16);
  bench.kernels.packPairsI8(w.at, rowScale.at, src.at, 0, first, nIn, nInPadded);
  if (nRows > first) {
    bench.kernels.packPairsI8(
      w.at,
      rowScale.at,
      src.at + first * nIn * 4,
      first,
      nRows - first,
      nIn,
      nInPadded,
    );
  }
  return { w, rowScale, nInPadded, nOut };
}

kernelTest("gemvPairsI8: the integer product, with rows and channels padded", (bench) => {
  const random = new Random(45);
  const weights = [[1, 1], [31, 15], [32, 16], [33, 17], [64, 32], [96, 48], [576, 192], [1536, 576], [
    64,
    160,
  ]] as [number, number][];
  const factors = [[1, 1], [3, 15], [5, 16], [8, 17], [9, 64], [24, 33], [37, 67]] as [number, number][];
  const shapes = [...weights.map((shape) => [...shape, 32]), ...factors.map((shape) => [...shape, 8])];
  for (const [nIn, nRows, padding] of shapes as [number, number, number][]) {
    const what = `${nIn} padded to ${padding} -> ${nRows}`;
    const { q, rowScale, source } = exactWeights(random, nIn, nRows, false);
    const packed = packPairs(bench, source, nIn, nRows, padding);
    assertSameBits(packed.rowScale.values.slice(0, nRows), rowScale, `${what}: row scales`);
    const xq = new Int16Array(packed.nInPadded);
    for (let c = 0; c < nIn; ++c) xq[c] = random.below(4095) - 2047;
    const xs = bench.buffer("i16", xq);
    const y = bench.buffer("f32", packed.nOut);
    const s = Math.fround(0.0021);
    const sumX = bench.kernels.sumI16(xs.at, packed.nInPadded);
    bench.kernels.gemvPairsI8(
      y.at,
      packed.w.at,
      xs.at,
      packed.rowScale.at,
      s,
      sumX,
      packed.nInPadded,
      packed.nOut,
    );
    const expected = integerProduct(q, xq, Array.from(xq.keys()).slice(0, nIn), nIn, rowScale, s);
    assertWithin(y.values.subarray(0, nRows), expected, bar(expected), what);
    assert.ok(y.values.subarray(nRows).every((v) => v === 0), `${what}: rows that are not there`);
    bench.reset(what);
  }
});

kernelTest("readRowPairsI8: gives back each row as it was quantised", (bench) => {
  const random = new Random(46);
  for (const [nIn, nRows] of [[5, 3], [32, 16], [67, 37]] as const) {
    const { source } = exactWeights(random, nIn, nRows, false);
    const { w, rowScale, nInPadded } = packPairs(bench, source, nIn, nRows);
    const y = bench.buffer("f32", nIn);
    for (let o = 0; o < nRows; ++o) {
      bench.kernels.readRowPairsI8(y.at, w.at, rowScale.at, o, nIn, nInPadded);
      assertWithin(y.values, source.slice(o * nIn, (o + 1) * nIn), 0, `row ${o} of ${nRows}`);
    }
    bench.reset();
  }
});

kernelTest("packChannelsI8: even outputs as w + 128, odd as two's complement", (bench) => {
  const source = new Float32Array(32);
  source.set([1, 1, -1, -1, 127, 127, -127, -127]);
  const ones = bench.buffer("f32", new Float32Array(32).fill(1));
  const w = bench.buffer("u8", 32);
  bench.kernels.packChannelsI8(w.at, bench.buffer("f32", source).at, ones.at, ones.at, 8, 1, 32);
  const expected = Uint8Array.from({ length: 32 }, (_, o) => o % 2 === 0 ? 128 : 0);
  expected.set([129, 1, 127, 255, 255, 127, 1, 129]);
  assertSameBits(w.values, expected, "bytes");
});

kernelTest("packPairsI8: units alternate channels, low bytes as w + 128", (bench) => {
  // weight of output o and channel c is o + 1 for channel 0, -(o + 1) for channel 1; 127 elsewhere keeps the scale at 1
  const source = Float32Array.from({ length: 16 * 32 }, (_, i) => {
    const o = i >> 5;
    return i % 32 === 0 ? o + 1 : i % 32 === 1 ? -o - 1 : 127;
  });
  const w = bench.buffer("u8", 16 * 32);
  const rowScale = bench.buffer("f32", 16);
  bench.kernels.packPairsI8(w.at, rowScale.at, bench.buffer("f32", source).at, 0, 16, 32, 32);
  const expected = [0, 1].flatMap((h) =>
    [0, 1, 2, 3].flatMap((l) =>
      [1, -1].flatMap((sign) => [128 + sign * (8 * h + l + 1), (256 + sign * (8 * h + 4 + l + 1)) % 256])
    )
  );
  assertSameBits(w.values.slice(0, 32), Uint8Array.from(expected), "first block");
});

kernelTest("balanceScalesI8: nothing is clipped, and outlier channels cost others little", (bench) => {
  const random = new Random(47);
  for (const [nRows, nIn] of [[1, 1], [3, 5], [17, 16], [64, 67], [160, 64]] as const) {
    const source = random.weights(nRows * nIn);
    for (let row = 0; row < nRows; ++row) source[row * nIn + nIn - 1]! *= 40;
    if (nRows > 2) source.fill(0, nIn, 2 * nIn);
    if (nIn > 4) { for (let row = 0; row < nRows; ++row) source[row * nIn + 2] = 0; }
    const rowScale = bench.buffer("f32", nRows);
    const channelScale = bench.buffer("f32", nIn);
    bench.kernels.balanceScalesI8(rowScale.at, channelScale.at, bench.buffer("f32", source).at, nRows, nIn);
    const largest = source.map((v, i) =>
      Math.abs(v) / (rowScale.values[Math.floor(i / nIn)]! * channelScale.values[i % nIn]!)
    );
    assert.ok(largest.every((v) => v <= 127.0001), `${nRows} x ${nIn}: clipped`);
    assert.ok(
      [...rowScale.values, ...channelScale.values].every((v) => v > 0),
      `${nRows} x ${nIn}: a scale of 0`,
    );
    if (nRows >= 64) {
      const mean = largest.reduce((a, b) => a + b, 0) / largest.length;
      // row scales alone would leave 4
      assert.ok(mean > 10, `${nRows} x ${nIn}: weights use ${mean} of 127 steps`);
    }
    bench.reset();
  }
});

kernelTest(
  "balanceScalesI8, packChannelsI8, packPairsI8, pairsOfChannelsI8: the reference's bits",
  async (bench) => {
    const random = new Random(48);
    const twin = await openBench("reference");
    for (const [nRows, nIn] of [[1, 1], [3, 5], [17, 16], [64, 67], [160, 64], [37, 576]] as const) {
      const source = random.activations(nRows * nIn);
      if (nRows > 2) source.fill(0, nIn, 2 * nIn);
      const run = (b: Bench) => {
        const nOut = Math.ceil(nRows / 32) * 32;
        const src = b.buffer("f32", source);
        const rowScale = b.buffer("f32", nRows);
        const channelScale = b.buffer("f32", nIn);
        const w = b.buffer("u8", nOut * nIn);
        b.kernels.balanceScalesI8(rowScale.at, channelScale.at, src.at, nRows, nIn);
        b.kernels.packChannelsI8(w.at, src.at, rowScale.at, channelScale.at, nRows, nIn, nOut);
        const pairs = packPairs(b, source, nIn, nRows);
        const moved = b.buffer("u8", nOut * (nIn & ~1)), n = nOut - 16;
        b.kernels.pairsOfChannelsI8(moved.at, w.at, nIn & ~1, n, nOut);
        const results = [rowScale, channelScale, w, pairs.w, pairs.rowScale, moved].map(({ values }) =>
          values.slice()
        );
        b.reset();
        return results;
      };
      const expected = run(twin);
      run(bench).forEach((values, i) => {
        assertSameBits(
          values,
          expected[i]!,
          `${nRows} x ${nIn}: ${["row", "channel", "w", "pairs", "pair rows", "moved"][i]}`,
        );
      });
    }
  },
  ["baseline", "relaxed", "debug"],
);

kernelTest("pairsOfChannelsI8: the same product, to the bit", (bench) => {
  const { kernels } = bench, random = new Random(50);
  for (const [nIn, nOut] of [[32, 32], [96, 64], [576, 160]] as const) {
    const src = bench.buffer("f32", random.weights(nIn * nOut)), rowScale = bench.buffer("f32", nOut);
    const channelScale = bench.buffer("f32", nIn), x = bench.buffer("f32", random.activations(nIn));
    const channels = bench.buffer("u8", nIn * nOut), pairs = bench.buffer("u8", nIn * nOut);
    kernels.balanceScalesI8(rowScale.at, channelScale.at, src.at, nOut, nIn);
    kernels.packChannelsI8(channels.at, src.at, rowScale.at, channelScale.at, nOut, nIn, nOut);
    kernels.pairsOfChannelsI8(pairs.at, channels.at, nIn, nOut, nOut);
    const xq = bench.buffer("i16", nIn), y = bench.buffer("f32", nOut), z = bench.buffer("f32", nOut);
    const s = kernels.quantizeI16(xq.at, x.at, channelScale.at, nIn, nIn), sum = kernels.sumI16(xq.at, nIn);
    const acc = bench.buffer("i32", new Int32Array(nOut)),
      index = bench.buffer("u32", x.values.map((_, c) => c));
    kernels.gemvChannelsI8(acc.at, channels.at, index.at, xq.at, nIn, nOut, nOut);
    kernels.finishChannelsI8(y.at, acc.at, rowScale.at, s, sum, nOut);
    kernels.gemvPairsI8(z.at, pairs.at, xq.at, rowScale.at, s, sum, nIn, nOut);
    assertSameBits(z.values, y.values, `${nIn} -> ${nOut}`);
    assert.ok(y.values.some((v) => v !== 0));
    bench.reset();
  }
});

kernelTest("gemvChannelsI8: balanced weights and 12-bit x are within 1.5 % of the float product", (bench) => {
  const { kernels } = bench;
  const random = new Random(49);
  const [nIn, nOut] = [576, 192];
  const source = random.weights(nIn * nOut);
  const x = random.activations(nIn);
  const src = bench.buffer("f32", source);
  const rowScale = bench.buffer("f32", nOut);
  const channelScale = bench.buffer("f32", nIn);
  const w = bench.buffer("u8", nIn * nOut);
  kernels.balanceScalesI8(rowScale.at, channelScale.at, src.at, nOut, nIn);
  kernels.packChannelsI8(w.at, src.at, rowScale.at, channelScale.at, nOut, nIn, nOut);
  const xq = bench.buffer("i16", nIn);
  const s = kernels.quantizeI16(xq.at, bench.buffer("f32", x).at, channelScale.at, nIn, nIn);
  const acc = bench.buffer("i32", new Int32Array(nOut));
  const index = bench.buffer("u32", x.map((_, c) => c));
  const y = bench.buffer("f32", nOut);
  kernels.gemvChannelsI8(acc.at, w.at, index.at, xq.at, nIn, nOut, nOut);
  kernels.finishChannelsI8(y.at, acc.at, rowScale.at, s, kernels.sumI16(xq.at, nIn), nOut);
  let error = 0;
  let size = 0;
  for (let o = 0; o < nOut; ++o) {
    let sum = 0;
    for (let c = 0; c < nIn; ++c) sum += source[o * nIn + c]! * x[c]!;
    error += (y.values[o]! - sum) ** 2;
    size += sum ** 2;
  }
  const relative = Math.sqrt(error / size);
  assert.ok(relative <= 0.015, `error ${relative}`);
});

kernelTest("quantizeI16: above 8,259 channels x has fewer bits, so that sums fit i32", (bench) => {
  const { kernels } = bench;
  for (const nIn of [8256, 8288, 11008, 16384]) {
    const ones = bench.buffer("f32", new Float32Array(nIn).fill(1)), xq = bench.buffer("i16", nIn);
    const s = kernels.quantizeI16(xq.at, ones.at, ones.at, nIn, nIn);
    const wanted = nIn > 8259 ? Math.floor(16909320 / nIn) : 2047;
    assert.ok(xq.values.every((v) => v === wanted), `${nIn}: ${xq.values[0]}, ${wanted} wanted`);
    const w = bench.buffer("u8", 16 * nIn), rowScale = bench.buffer("f32", 16), y = bench.buffer("f32", 16);
    const rows = bench.buffer("f32", new Float32Array(16 * nIn).fill(1));
    kernels.packPairsI8(w.at, rowScale.at, rows.at, 0, 16, nIn, nIn);
    kernels.gemvPairsI8(y.at, w.at, xq.at, rowScale.at, s, kernels.sumI16(xq.at, nIn), nIn, 16);
    for (const v of y.values) assert.ok(Math.abs(v / nIn - 1) < 1e-5, `${nIn}: the sum is ${v}`);
    bench.reset();
  }
});
