import assert from "node:assert/strict";
import { roundHalfEven } from "../../src/kernels/reference/memory.ts";
import { packBlocks, randomBlocks } from "../support/blocks.ts";
import {
  assertSameBits,
  assertWithin,
  type Bench,
  type Buffer,
  kernelTest,
  openBench,
  Random,
} from "../support/kernels.ts";

const TOKENS: readonly number[] = [1, 2, 3, 4, 5, 7, 8, 9];

interface Tokens {
  a: Buffer<"i16">;
  scale: Buffer<"f32">;
  sum: Buffer<"f32">;
  nTokens: number;
  nIn: number;
  /** Integer of token t, channel c. */
  integer(t: number, c: number): number;
}

function packTokens(
  bench: Bench,
  x: Float32Array,
  factor: Float32Array,
  nTokens: number,
  xStride: number,
): Tokens {
  const nIn = factor.length;
  const rows = Math.ceil(nTokens / 4) * 4;
  const a = bench.buffer("i16", rows * nIn);
  const scale = bench.buffer("f32", rows * nIn / 32);
  const sum = bench.buffer("f32", rows * nIn / 32);
  const xs = bench.buffer("f32", x);
  const factors = bench.buffer("f32", factor);
  bench.kernels.packTokensI16(a.at, scale.at, sum.at, xs.at, factors.at, nTokens, xStride, nIn);
  const integer = (t: number, c: number) =>
    a.values[(((t >> 2) * (nIn / 2) + (c >> 1)) * 4 + t % 4) * 2 + c % 2]!;
  return { a, scale, sum, nTokens, nIn, integer };
}

kernelTest("packTokensI16: 15 bits a group within half a step, the reference's bits", async (bench) => {
  const random = new Random(61);
  const twin = await openBench("reference");
  for (const nTokens of [0, ...TOKENS]) {
    for (const nIn of [32, 96, 576]) {
      const what = `${nTokens} tokens, nIn ${nIn}`;
      const xStride = nIn + 5;
      const x = random.activations(nTokens * xStride);
      // one group of zeros
      if (nIn > 32) x.fill(0, 32, Math.min(64, x.length));
      const factor = Float32Array.from({ length: nIn }, () => 0.5 + random.uniform());
      const packed = packTokens(bench, x, factor, nTokens, xStride);
      const expected = packTokens(twin, x, factor, nTokens, xStride);
      assertSameBits(packed.a.values, expected.a.values, `${what}: a`);
      assertSameBits(packed.scale.values, expected.scale.values, `${what}: scale`);
      assertSameBits(packed.sum.values, expected.sum.values, `${what}: sum`);
      for (let t = 0; t < Math.ceil(nTokens / 4) * 4; ++t) {
        for (let g = 0; g < nIn / 32; ++g) {
          const at = ((t >> 2) * (nIn / 32) + g) * 4 + t % 4;
          const [scale, sum] = [packed.scale.values[at]!, packed.sum.values[at]!];
          let total = 0;
          for (let c = g * 32; c < g * 32 + 32; ++c) {
            const q = packed.integer(t, c);
            const v = t < nTokens ? x[t * xStride + c]! * factor[c]! : 0;
            assert.ok(Math.abs(q * scale - v) <= 0.51 * scale, `${what}: token ${t}, channel ${c}`);
            assert.ok(Math.abs(q) <= 32767, `${what}: range`);
            total += q;
          }
          assert.ok(Math.abs(sum - total * scale) <= 2e-7 * Math.abs(total * scale), `${what}: sum`);
          if (t >= nTokens) assert.equal(scale, 0, `${what}: a token that is not there`);
        }
      }
      bench.reset(what);
      twin.reset(what);
    }
  }
});

/** Integer panels of outputs o.. and what they should hold. */
interface Panels {
  panels: Buffer<"i8">;
  d: Buffer<"f32">;
  m: Buffer<"f32">;
  nPanels: number;
}

function makePanels(bench: Bench, nPanels: number, nIn: number): Panels {
  return {
    panels: bench.buffer("i8", nPanels * nIn * 8),
    d: bench.buffer("f32", nPanels * nIn / 4),
    m: bench.buffer("f32", nPanels * nIn / 4),
    nPanels,
  };
}

/** What an unpacked matrix should be: integer weight, scale and min of each output. */
interface Expected {
  weight(o: number, c: number): number;
  scale(o: number, g: number): number;
  min(o: number, g: number): number;
}

function checkPanels(unpacked: Panels, expected: Expected, o: number, nIn: number, what: string): void {
  const { panels, d, m, nPanels } = unpacked;
  const outputs = Array.from({ length: nPanels * 8 }, (_, i) => i);
  const weights = new Int8Array(nPanels * nIn * 8);
  const scales = new Float32Array(nPanels * nIn / 4);
  const mins = new Float32Array(nPanels * nIn / 4);
  for (const i of outputs) {
    for (let c = 0; c < nIn; ++c) {
      weights[(i >> 3) * nIn * 8 + (c >> 1) * 16 + (i % 8) * 2 + c % 2] = expected.weight(o + i, c);
    }
    for (let g = 0; g < nIn / 32; ++g) {
      scales[((i >> 3) * (nIn / 32) + g) * 8 + i % 8] = expected.scale(o + i, g);
      mins[((i >> 3) * (nIn / 32) + g) * 8 + i % 8] = expected.min(o + i, g);
    }
  }
  assertSameBits(panels.values, weights, `${what}: panels`);
  assertWithin(d.values, scales, 0, `${what}: d`);
  assertWithin(m.values, mins, 0, `${what}: m`);
}

/** Multiplies tokens by panels and holds y against float64 sums over the same integers. */
function checkGemm(
  bench: Bench,
  random: Random,
  tokens: Tokens,
  unpacked: Panels,
  expected: Expected,
  o: number,
  what: string,
): void {
  const { nTokens, nIn } = tokens;
  const yStride = unpacked.nPanels * 8 + 4;
  const before = random.weights(Math.ceil(nTokens / 4) * 4 * yStride);
  const y = bench.buffer("f32", before);
  for (let panel = 0; panel < unpacked.nPanels; ++panel) {
    bench.kernels.gemmI16(
      y.at + panel * 32,
      tokens.a.at,
      tokens.scale.at,
      tokens.sum.at,
      unpacked.panels.at + panel * nIn * 8,
      unpacked.d.at + panel * nIn,
      unpacked.m.at + panel * nIn,
      nTokens,
      yStride,
      nIn,
    );
  }
  for (let t = 0; t < nTokens; ++t) {
    for (let i = 0; i < yStride; ++i) {
      const at = t * yStride + i;
      if (i >= unpacked.nPanels * 8) {
        assert.equal(y.values[at], before[at], `${what}: beside the panels`);
        continue;
      }
      let sum = before[at]!;
      let magnitude = Math.abs(sum);
      for (let g = 0; g < nIn / 32; ++g) {
        let dot = 0;
        for (let c = g * 32; c < g * 32 + 32; ++c) dot += tokens.integer(t, c) * expected.weight(o + i, c);
        const token = ((t >> 2) * (nIn / 32) + g) * 4 + t % 4;
        const product = tokens.scale.values[token]! * expected.scale(o + i, g) * dot;
        const offset = tokens.sum.values[token]! * expected.min(o + i, g);
        sum += product + offset;
        magnitude += Math.abs(product) + Math.abs(offset);
      }
      const error = Math.abs(y.values[at]! - sum);
      const bound = (nIn / 16 + 4) * 2 ** -23 * magnitude + 1e-40;
      assert.ok(
        error <= bound,
        `${what}: token ${t}, output ${o + i}: ${y.values[at]} for ${sum}, over ${bound}`,
      );
    }
  }
}

kernelTest("unpackGroupI4, gemmI16: nibbles, scales and mins of the file, times the tokens", (bench) => {
  const random = new Random(62);
  const shapes = [[64, 2, 64], [67, 3, 64], [160, 18, 192]] as const;
  for (const [nRows, rowBlocks, chunk] of shapes) {
    for (const withMins of [false, true]) {
      const blocks = randomBlocks(random, nRows, rowBlocks, withMins);
      const packed = packBlocks(bench, blocks, chunk);
      const { nIn, nOut, rowScale } = packed;
      const isThere = (o: number, g: number) => o < nRows && g < rowBlocks;
      const integerScale = (values: Float32Array, unit: number, o: number, g: number) =>
        isThere(o, g) ? Math.fround(roundHalfEven(Math.fround(values[o * rowBlocks + g]! / unit)) * unit) : 0;
      const expected: Expected = {
        weight: (o, c) => isThere(o, c >> 5) ? blocks.q[o * rowBlocks * 32 + c]! - 8 : -8,
        scale: (o, g) => integerScale(blocks.d, rowScale.values[o]!, o, g),
        min: (o, g) => withMins ? integerScale(blocks.min, rowScale.values[o]!, o, g) : 0,
      };
      const unpacked = makePanels(bench, 8, nIn);
      const tokens = TOKENS.slice(0, rowBlocks > 8 ? 4 : undefined).map((nTokens) =>
        packTokens(bench, random.activations(nTokens * nIn), new Float32Array(nIn).fill(1), nTokens, nIn)
      );
      for (let o = 0; o < nOut; o += 64) {
        const what = `${rowBlocks} blocks -> ${nRows}, mins ${withMins}, output ${o}`;
        bench.kernels.unpackGroupI4(
          unpacked.panels.at,
          unpacked.d.at,
          unpacked.m.at,
          packed.w.at,
          rowScale.at,
          withMins ? 1 : 0,
          o,
          nIn,
          chunk,
        );
        checkPanels(unpacked, expected, o, nIn, what);
        for (const some of tokens) {
          checkGemm(bench, random, some, unpacked, expected, o, `${what}, ${some.nTokens} tokens`);
        }
        bench.checkGuards(what);
      }
      bench.reset();
    }
  }
}, ["reference", "baseline", "debug"]);

/** Integers within ±127 and power-of-two row scales: they quantise to themselves. */
function exactRows(random: Random, nRows: number, nIn: number) {
  const q = Int8Array.from({ length: nRows * nIn }, () => random.below(255) - 127);
  for (let o = 0; o < nRows; ++o) q[o * nIn + random.below(nIn)] = o % 2 === 0 ? 127 : -127;
  const rowScale = Float32Array.from({ length: nRows }, () => 2 ** -(6 + random.below(5)));
  return { q, rowScale, source: Float32Array.from(q, (v, i) => v * rowScale[Math.floor(i / nIn)]!) };
}

kernelTest("unpackChannelsI8, unpackPairsI8, gemmI16: int8 weights, times the tokens", (bench) => {
  const random = new Random(63);
  for (const [nIn, nOut] of [[32, 32], [96, 64], [576, 96], [64, 160]] as const) {
    const { q, rowScale, source } = exactRows(random, nOut, nIn);
    const src = bench.buffer("f32", source);
    const rows = bench.buffer("f32", rowScale);
    const pairRows = bench.buffer("f32", nOut);
    const ones = bench.buffer("f32", new Float32Array(nIn).fill(1));
    const channels = bench.buffer("u8", nIn * nOut);
    const pairs = bench.buffer("u8", nIn * nOut);
    bench.kernels.packChannelsI8(channels.at, src.at, rows.at, ones.at, nOut, nIn, nOut);
    bench.kernels.packPairsI8(pairs.at, pairRows.at, src.at, 0, nOut, nIn, nIn);
    const expected: Expected = {
      weight: (o, c) => q[o * nIn + c]!,
      scale: (o) => rowScale[o]!,
      min: () => 0,
    };
    const factor = Float32Array.from({ length: nIn }, () => 0.5 + random.uniform());
    const tokens = TOKENS.slice(0, nIn > 100 ? 4 : undefined).map((nTokens) =>
      packTokens(bench, random.activations(nTokens * nIn), factor, nTokens, nIn)
    );
    const four = makePanels(bench, 4, nIn);
    for (let o = 0; o < nOut; o += 32) {
      const what = `channels, ${nIn} -> ${nOut}, output ${o}`;
      bench.kernels.unpackChannelsI8(
        four.panels.at,
        four.d.at,
        four.m.at,
        channels.at,
        rows.at,
        o,
        nIn,
        nOut,
      );
      checkPanels(four, expected, o, nIn, what);
      for (const some of tokens) {
        checkGemm(bench, random, some, four, expected, o, `${what}, ${some.nTokens} tokens`);
      }
    }
    const two = makePanels(bench, 2, nIn);
    for (let o = 0; o < nOut; o += 16) {
      const what = `pairs, ${nIn} -> ${nOut}, output ${o}`;
      bench.kernels.unpackPairsI8(two.panels.at, two.d.at, two.m.at, pairs.at, pairRows.at, o, nIn);
      checkPanels(two, expected, o, nIn, what);
      for (const some of tokens) {
        checkGemm(bench, random, some, two, expected, o, `${what}, ${some.nTokens} tokens`);
      }
    }
    bench.reset();
  }
});

kernelTest("gemmI16: groups at the ends of the range stay exact", (bench) => {
  const random = new Random(64);
  const nIn = 64;
  for (const sign of [1, -1]) {
    const tokens = packTokens(
      bench,
      new Float32Array(5 * nIn).fill(sign),
      new Float32Array(nIn).fill(1),
      5,
      nIn,
    );
    assert.equal(tokens.integer(0, 0), sign * 32767);
    const panels: Panels = {
      panels: bench.buffer("i8", new Int8Array(8 * nIn).map((_, i) => (i >> 1) % 2 === 0 ? -128 : 127)),
      d: bench.buffer("f32", new Float32Array(nIn / 4).fill(1)),
      m: bench.buffer("f32", new Float32Array(nIn / 4)),
      nPanels: 1,
    };
    const expected: Expected = { weight: (o) => o % 2 === 0 ? -128 : 127, scale: () => 1, min: () => 0 };
    checkGemm(bench, random, tokens, panels, expected, 0, `sign ${sign}`);
    bench.reset();
  }
});
