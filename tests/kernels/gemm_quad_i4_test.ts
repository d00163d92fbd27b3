import assert from "node:assert/strict";
import { QUAD_TOKENS_RECORD, quadPanelBytes } from "../../src/kernels/kernels.ts";
import { roundHalfEven } from "../../src/kernels/reference/memory.ts";
import { q15 } from "../../src/kernels/reference/quad.ts";
import {
  type Blocks,
  constantBlocks,
  packBlocks,
  packQuads,
  randomBlocks,
  withLargestMins,
} from "../support/blocks.ts";
import {
  assertSameBits,
  assertWithin,
  type Bench,
  type Buffer,
  type BuildName,
  kernelTest,
  openBench,
  Random,
} from "../support/kernels.ts";

/** Those that have the kernels. */
const BUILDS: readonly BuildName[] = ["reference", "relaxed"];
/** Around the four that go together. */
const TOKENS: readonly number[] = [1, 2, 3, 4, 5, 7, 8, 9];

interface Tokens {
  readonly a: Buffer<"u8">;
  readonly nTokens: number;
  readonly nIn: number;
  /** Integer of token t, channel c. */
  integer(t: number, c: number): number;
  /** Of token t, group g and the other of its 64 channels: the larger scale. */
  scale(t: number, g: number): number;
  /** Of token t, group g. */
  start(t: number, g: number): number;
  sum(t: number, g: number): number;
  share(t: number, g: number): number;
}

function packTokens(bench: Bench, x: Float32Array, nTokens: number, xStride: number, nIn: number): Tokens {
  const a = bench.buffer("u8", Math.ceil(nTokens / 4) * nIn / 64 * QUAD_TOKENS_RECORD);
  bench.kernels.packTokensQuadI4(a.at, bench.buffer("f32", x).at, nTokens, xStride, nIn);
  const view = () => new DataView(bench.kernels.memory.buffer, a.at);
  const record = (t: number, c: number) =>
    ((t >> 2) * nIn / 64 + Math.floor(c / 64)) * QUAD_TOKENS_RECORD + 4 * (t % 4);
  return {
    a,
    nTokens,
    nIn,
    integer: (t, c) => view().getInt8(record(t, c) + 16 * ((c % 32) >> 1) + 2 * ((c % 64) >> 5) + c % 2),
    scale: (t, g) => view().getFloat32(record(t, 32 * g) + 288, true),
    start: (t, g) => view().getInt16(record(t, 32 * g) + 256 + 2 * (g % 2), true),
    sum: (t, g) => view().getInt16(record(t, 32 * g) + 272 + 2 * (g % 2), true),
    share: (t, g) => view().getInt16(record(t, 32 * g) + 304 + 2 * (g % 2), true),
  };
}

/** The largest magnitude of `count` values from `from` on. */
function largestOf(x: Float32Array, from: number, count: number): number {
  return x.subarray(from, from + count).reduce((a, v) => Math.max(a, Math.abs(v)), 0);
}

kernelTest(
  "packTokensQuadI4: within half a step, sums, start values and shares, the reference's bits",
  async (bench) => {
    const random = new Random(81), twin = await openBench("reference");
    for (const nTokens of [0, ...TOKENS]) {
      for (const nIn of [64, 128, 576]) {
        const what = `${nTokens} tokens, nIn ${nIn}`, xStride = nIn + 4;
        const x = random.activations(nTokens * xStride);
        // 64 channels of zeros
        if (nIn > 64) x.fill(0, 64, Math.min(128, x.length));
        const tokens = packTokens(bench, x, nTokens, xStride, nIn);
        assertSameBits(tokens.a.values, packTokens(twin, x, nTokens, xStride, nIn).a.values, what);
        for (let t = 0; t < Math.ceil(nTokens / 4) * 4; ++t) {
          for (let g = 0; g < nIn / 32; ++g) {
            const at = t * xStride + 32 * g, where = `${what}: token ${t}, group ${g}`, isThere = t < nTokens;
            const both = isThere ? largestOf(x, t * xStride + 64 * (g >> 1), 64) : 0;
            const largest = isThere ? largestOf(x, at, 32) : 0, share = tokens.share(t, g);
            let sum = 0;
            for (let i = 0; i < 32; ++i) {
              const v = isThere ? x[at + i]! : 0, q = tokens.integer(t, 32 * g + i), step = largest / 127;
              assert.ok(Math.abs(q * step - v) <= 0.501 * step, `${where}, ${i}`);
              sum += q;
            }
            assert.ok(Math.abs(tokens.scale(t, g) * 127 - both) <= 1e-6 * both, `${where}: the larger scale`);
            assert.ok(Math.abs(share / 32767 * both - largest) <= both / 65000, `${where}: share`);
            assert.deepEqual([tokens.start(t, g), tokens.sum(t, g)], [-8 * sum + 0, q15(sum, share)], where);
          }
        }
        bench.reset(what);
        twin.reset(what);
      }
    }
  },
  BUILDS,
);

kernelTest("restQuadI4: with what packTokensQuadI4 keeps, x again", (bench) => {
  const random = new Random(82);
  for (const nIn of [0, 64, 576]) {
    const x = random.activations(nIn), rest = bench.buffer("f32", nIn);
    bench.kernels.restQuadI4(rest.at, bench.buffer("f32", x).at, nIn);
    const kept = keptOf(packTokens(bench, x, 1, nIn, nIn), x);
    assertWithin(
      Float64Array.from(rest.values, (v, c) => v + kept[c]!),
      x,
      Float64Array.from(x, (v) => 2 ** -22 * Math.abs(v) + 1e-44),
      `nIn ${nIn}`,
    );
    // and a second rounding keeps another 7 bits
    const left = rest.values.slice(), again = keptOf(packTokens(bench, left, 1, nIn, nIn), left);
    const both = Float64Array.from(x, (_, c) => kept[c]! + again[c]!);
    const steps = Float64Array.from(x, (_, c) => largestOf(x, c - c % 32, 32) / 127 / 127 * 0.26 + 1e-38);
    assertWithin(both, x, steps, `nIn ${nIn}, rounded twice`);
    bench.reset();
  }
}, BUILDS);

/** What tokens hold of the one that was packed. */
function keptOf(tokens: Tokens, x: Float32Array): Float64Array {
  return Float64Array.from(
    x,
    (_, c) => tokens.integer(0, c) * Math.fround(largestOf(x, c - c % 32, 32) / 127),
  );
}

/** What panels should hold of a matrix: the integers of its scales and mins, and its nibbles. */
function expectedPanels(
  blocks: Blocks,
  rowScale: Float32Array,
  o: number,
  count: number,
  nIn: number,
): Uint8Array {
  const { nRows, rowBlocks, q, d, min, withMins } = blocks;
  const bytes = new Uint8Array(count / 8 * quadPanelBytes(nIn)), view = new DataView(bytes.buffer);
  for (let j = 0; j < count; ++j) {
    const row = o + j, unit = rowScale[row]!, panel = (j >> 3) * quadPanelBytes(nIn);
    const toI16 = (v: number) => roundHalfEven(Math.fround(v / unit));
    view.setFloat32(panel + 4 * (j % 8), unit, true);
    if (row >= nRows) continue;
    for (let g = 0; g < rowBlocks; ++g) {
      const block = panel + 32 + 576 * (g >> 1), scales = block + 4 * (j % 8) + 2 * (g % 2);
      view.setInt16(scales, toI16(d[row * rowBlocks + g]!), true);
      if (withMins) view.setInt16(scales + 32, toI16(min[row * rowBlocks + g]!), true);
      for (let i = 0; i < 32; ++i) {
        bytes[block + 64 + 32 * (i >> 1) + 4 * (j % 8) + 2 * (g % 2) + i % 2] =
          q[(row * rowBlocks + g) * 32 + i]!;
      }
    }
  }
  return bytes;
}

/** Multiplies tokens by panels and holds y against float64 sums over the same integers. */
function checkProduct(
  bench: Bench,
  random: Random,
  tokens: Tokens,
  panels: Buffer<"u8">,
  nOut: number,
  add: 0 | 1,
  what: string,
): void {
  const { nTokens, nIn } = tokens, yStride = nOut + 4;
  const before = random.weights(Math.ceil(nTokens / 4) * 4 * yStride);
  const y = bench.buffer("f32", before);
  bench.kernels.gemmQuadI4(y.at, tokens.a.at, panels.at, nTokens, yStride, nIn, nOut, add);
  const bytes = panels.values, view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  for (let t = 0; t < nTokens; ++t) {
    for (let o = 0; o < yStride; ++o) {
      const at = t * yStride + o;
      if (o >= nOut) {
        assert.equal(y.values[at], before[at], `${what}: beside the panels`);
        continue;
      }
      const panel = (o >> 3) * quadPanelBytes(nIn), unit = view.getFloat32(panel + 4 * (o % 8), true);
      let sum = add ? before[at]! : 0, magnitude = Math.abs(sum);
      for (let g = 0; g < nIn / 32; ++g) {
        const block = panel + 32 + 576 * (g >> 1), scales = block + 4 * (o % 8) + 2 * (g % 2);
        let dot = 0;
        for (let i = 0; i < 32; ++i) {
          const weight = bytes[block + 64 + 32 * (i >> 1) + 4 * (o % 8) + 2 * (g % 2) + i % 2]! - 8;
          dot += tokens.integer(t, 32 * g + i) * weight;
        }
        const scale = unit * tokens.scale(t, g), brought = q15(dot, tokens.share(t, g));
        const product = scale * view.getInt16(scales, true) * brought;
        const offset = scale * view.getInt16(scales + 32, true) * tokens.sum(t, g);
        sum += product + offset;
        magnitude += Math.abs(product) + Math.abs(offset);
      }
      const error = Math.abs(y.values[at]! - sum), bound = (nIn / 16 + 4) * 2 ** -23 * magnitude + 1e-40;
      assert.ok(
        error <= bound,
        `${what}: token ${t}, output ${o}: ${y.values[at]} for ${sum}, over ${bound}`,
      );
    }
  }
}

kernelTest("unpackQuadI4, gemmQuadI4: nibbles, scales and mins of the file, times the tokens", (bench) => {
  const random = new Random(83);
  // one row, tails of both, two turns of each loop, more than the 1,024 channels after which tokens take turns
  for (const [nRows, rowBlocks] of [[1, 1], [15, 2], [17, 3], [48, 4], [19, 34]] as const) {
    for (const withMins of [false, true]) {
      const blocks = randomBlocks(random, nRows, rowBlocks, withMins);
      const { w, rowScale, nIn, nOut } = packQuads(bench, blocks);
      const panels = bench.buffer("u8", nOut / 8 * quadPanelBytes(nIn));
      for (let o = 0; o < nOut; o += 16) {
        const at = panels.at + o / 8 * quadPanelBytes(nIn);
        bench.kernels.unpackQuadI4(at, w.at, rowScale.at, withMins ? 1 : 0, o, nIn);
      }
      const what = `${nRows} rows of ${rowBlocks}, mins ${withMins}`;
      assertSameBits(panels.values, expectedPanels(blocks, rowScale.values, 0, nOut, nIn), `${what}: panels`);
      for (const nTokens of rowBlocks > 8 ? [1, 9] : TOKENS) {
        const tokens = packTokens(bench, random.activations(nTokens * nIn), nTokens, nIn, nIn);
        for (const add of [0, 1] as const) {
          checkProduct(bench, random, tokens, panels, nOut, add, `${what}, ${nTokens} tokens, add ${add}`);
        }
      }
      bench.reset(what);
    }
  }
}, BUILDS);

kernelTest("unpackGroupQuadI4: the same panels from group i4", (bench) => {
  const random = new Random(84);
  for (const [nRows, rowBlocks, chunk] of [[64, 2, 64], [67, 3, 64], [160, 18, 192]] as const) {
    for (const withMins of [false, true]) {
      const blocks = randomBlocks(random, nRows, rowBlocks, withMins);
      const { w, rowScale, nIn, nOut } = packBlocks(bench, blocks, chunk);
      for (let o = 0; o < nOut; o += 64) {
        const panels = bench.buffer("u8", 8 * quadPanelBytes(nIn));
        bench.kernels.unpackGroupQuadI4(panels.at, w.at, rowScale.at, withMins ? 1 : 0, o, nIn, chunk);
        const what = `${nRows} rows of ${rowBlocks}, chunks of ${chunk}, mins ${withMins}, output ${o}`;
        assertSameBits(panels.values, expectedPanels(blocks, rowScale.values, o, 64, nIn), what);
      }
      bench.reset();
    }
  }
}, BUILDS);

kernelTest("gemmQuadI4: groups at the ends of the range stay exact", (bench) => {
  const random = new Random(85), nIn = 128;
  for (const [sign, q, times] of [[1, 15, 1], [1, 0, -1], [-1, 15, -1], [-1, 0, 1]] as const) {
    const plain = constantBlocks(16, 4, q, { bits: 0x3c00, value: 1 });
    for (const blocks of [plain, withLargestMins(plain, times > 0 ? -7 : -9)]) {
      const { w, rowScale } = packQuads(bench, blocks);
      const panels = bench.buffer("u8", 2 * quadPanelBytes(nIn));
      bench.kernels.unpackQuadI4(panels.at, w.at, rowScale.at, blocks.withMins ? 1 : 0, 0, nIn);
      const tokens = packTokens(bench, new Float32Array(5 * nIn).fill(sign), 5, nIn, nIn);
      assert.equal(tokens.integer(4, 100), 127 * sign);
      checkProduct(bench, random, tokens, panels, 16, 0, `sign ${sign}, q ${q}, mins ${blocks.withMins}`);
      bench.reset();
    }
  }
}, BUILDS);
