import assert from "node:assert/strict";
import { QUAD_RECORD, quadBlockBytes } from "../../src/kernels/kernels.ts";
import { quadI4Activation } from "../../src/kernels/reference/layouts.ts";
import { roundHalfEven } from "../../src/kernels/reference/memory.ts";
import { q15 } from "../../src/kernels/reference/quad.ts";
import { type Blocks, constantBlocks, packQuads, randomBlocks, withLargestMins } from "../support/blocks.ts";
import {
  assertSameBits,
  assertWithin,
  type Bench,
  type BuildName,
  kernelTest,
  openBench,
  Random,
  sumBound,
} from "../support/kernels.ts";

/** Those that have the kernels. */
const BUILDS: readonly BuildName[] = ["reference", "relaxed"];
const HALF_ONE = { bits: 0x3c00, value: 1 };
/** Rows and blocks a row: one row, tails of both, two turns of each loop, padded groups. */
const SHAPES = [[1, 1], [15, 2], [16, 2], [17, 3], [48, 4], [67, 5]] as const;

/** Quantises x and reads it back. */
function quantise(bench: Bench, x: Float32Array) {
  const records = bench.buffer("u8", x.length / 64 * QUAD_RECORD);
  new Uint8Array(bench.kernels.memory.buffer, records.at, records.values.length).fill(0);
  bench.kernels.quantizeQuadI4(records.at, bench.buffer("f32", x).at, x.length);
  const view = new DataView(bench.kernels.memory.buffer, records.at, records.values.length);
  const field = (g: number, at: number) => view.getInt16((g >> 1) * QUAD_RECORD + at + 2 * (g % 2), true);
  const integers = Float64Array.from(x, (_, c) => view.getInt8(quadI4Activation(c)));
  const steps = Float64Array.from(x, (_, c) => largestOf(x, c >> 5, 32) / 127);
  return {
    records,
    integers,
    steps,
    xhat: integers.map((v, c) => v * steps[c]!),
    start: (g: number) => field(g, 64),
    sum: (g: number) => field(g, 68),
    scale: (g: number) => view.getFloat32((g >> 1) * QUAD_RECORD + 72, true),
    share: (g: number) => field(g, 76),
  };
}

/** The largest magnitude of the nth `count` values. */
function largestOf(x: Float32Array, n: number, count: number): number {
  return x.subarray(n * count, (n + 1) * count).reduce((a, v) => Math.max(a, Math.abs(v)), 0);
}

/** i16 scale of block g (row-major number) against its row's. */
function toI16(v: number, unit: number): number {
  return roundHalfEven(Math.fround(v / unit));
}

kernelTest(
  "quantizeQuadI4: within half a step, sums and start values, the reference's bits",
  async (bench) => {
    const random = new Random(71);
    const twin = await openBench("reference");
    for (const nIn of [0, 64, 128, 576]) {
      const x = random.activations(nIn);
      const quantised = quantise(bench, x), { records, integers, steps, xhat } = quantised;
      assertWithin(xhat, x, steps.map((v) => 0.501 * v), `nIn ${nIn}`);
      for (let g = 0; g < nIn / 32; ++g) {
        const largest = largestOf(x, g >> 1, 64), share = quantised.share(g);
        assert.ok(Math.abs(quantised.scale(g) * 127 - largest) <= 1e-6 * largest, "the larger scale");
        assert.ok(Math.abs(share / 32767 * largest - largestOf(x, g, 32)) <= largest / 65000, "shares of it");
        const sum = integers.subarray(32 * g, 32 * g + 32).reduce((a, b) => a + b, 0);
        assert.equal(quantised.start(g), -8 * sum + 0);
        assert.equal(quantised.sum(g), q15(sum, share));
      }
      assertSameBits(records.values, quantise(twin, x).records.values, `nIn ${nIn}`);
      bench.reset();
      twin.reset();
    }
  },
  BUILDS,
);

kernelTest("quantizeQuadI4: vectors of zeros and of subnormals are all but nothing", (bench) => {
  for (const v of [0, 1e-42]) {
    const x = new Float32Array(128).fill(v);
    x[70] = 0;
    assertWithin(quantise(bench, x).xhat, x, 1e-41, `of ${v}`);
    bench.reset();
  }
}, BUILDS);

/** Multiplies and holds y against float64 sums over the kernel's own quantised x and scales. */
function runProduct(bench: Bench, blocks: Blocks, x: Float32Array): void {
  const { nRows, rowBlocks, withMins, q, d, min } = blocks;
  const what = `${rowBlocks * 32} -> ${nRows}, mins ${withMins}`;
  const { w, rowScale, nIn, nOut } = packQuads(bench, blocks);
  const padded = new Float32Array(nIn);
  padded.set(x);
  const quantised = quantise(bench, padded), { records, integers } = quantised;
  const y = bench.buffer("f32", nOut);
  bench.kernels.gemvQuadI4(y.at, w.at, rowScale.at, records.at, nIn, nOut, withMins ? 1 : 0);
  const expected = new Float64Array(nOut);
  const bound = new Float64Array(nOut);
  for (let o = 0; o < nOut; ++o) {
    const unit = rowScale.values[o]!;
    let magnitude = 0;
    for (let g = 0; o < nRows && g < rowBlocks; ++g) {
      let dot = 0;
      for (let c = 32 * g; c < 32 * g + 32; ++c) dot += (q[o * rowBlocks * 32 + c]! - 8) * integers[c]!;
      const product = toI16(d[o * rowBlocks + g]!, unit) * q15(dot, quantised.share(g));
      const offset = toI16(min[o * rowBlocks + g]!, unit) * quantised.sum(g),
        scale = unit * quantised.scale(g);
      expected[o]! += scale * (product + offset);
      magnitude += scale * (Math.abs(product) + Math.abs(offset));
    }
    bound[o] = sumBound(nIn / 64 + 4, magnitude);
  }
  assertWithin(y.values, expected, bound, what);
  bench.reset(what);
}

kernelTest("gemvQuadI4: the product with the quantised x, mins included", (bench) => {
  const random = new Random(72);
  for (const [nRows, rowBlocks] of [...SHAPES, [192, 18], [64, 48]] as const) {
    for (const withMins of [false, true]) {
      const x = random.activations(rowBlocks * 32);
      runProduct(bench, randomBlocks(random, nRows, rowBlocks, withMins), x);
    }
  }
}, BUILDS);

kernelTest("gemvQuadI4: sums at the ends of the range do not wrap", (bench) => {
  for (const q of [0, 8, 15]) {
    for (const half of [HALF_ONE, { bits: 0xbc00, value: -1 }]) {
      const blocks = constantBlocks(16, 4, q, half);
      for (const v of [3, -3]) {
        const x = new Float32Array(128).fill(v);
        const opposed = x.map((value, c) => c % 64 < 32 ? value : -value);
        for (const values of [x, opposed]) {
          runProduct(bench, blocks, values);
          for (const times of [-7, -9]) runProduct(bench, withLargestMins(blocks, times), values);
        }
      }
    }
  }
}, BUILDS);

kernelTest("gemvQuadI4: the same bits in one call and in calls of 16 outputs", (bench) => {
  const random = new Random(73);
  for (const withMins of [false, true]) {
    const { w, rowScale, nIn, nOut } = packQuads(bench, randomBlocks(random, 67, 6, withMins));
    const { records } = quantise(bench, random.activations(nIn));
    const whole = bench.buffer("f32", nOut);
    const parts = bench.buffer("f32", nOut);
    bench.kernels.gemvQuadI4(whole.at, w.at, rowScale.at, records.at, nIn, nOut, withMins ? 1 : 0);
    for (let o = 0; o < nOut; o += 16) {
      const from = w.at + o / 16 * (nIn / 64) * quadBlockBytes(withMins);
      bench.kernels.gemvQuadI4(
        parts.at + 4 * o,
        from,
        rowScale.at + 4 * o,
        records.at,
        nIn,
        16,
        withMins ? 1 : 0,
      );
    }
    assertSameBits(parts.values, whole.values, `mins ${withMins}`);
    bench.reset();
  }
}, BUILDS);

kernelTest(
  "gemvQuadI4: within 5e-4 of the largest y of the file's weights, 3e-3 with large mins, and 2.5 % of its rms",
  (bench) => {
    const random = new Random(74);
    for (const [nRows, rowBlocks] of [[192, 18], [576, 48]] as const) {
      for (const withMins of [false, true]) {
        const blocks = randomBlocks(random, nRows, rowBlocks, withMins);
        const { q, d, min } = blocks;
        const x = random.activations(rowBlocks * 32);
        const { w, rowScale, nIn, nOut } = packQuads(bench, blocks);
        const { records, xhat } = quantise(bench, x);
        const y = bench.buffer("f32", nOut);
        bench.kernels.gemvQuadI4(y.at, w.at, rowScale.at, records.at, nIn, nOut, withMins ? 1 : 0);
        const product = (values: ArrayLike<number>) =>
          Float64Array.from({ length: nRows }, (_, o) => {
            let sum = 0;
            for (let c = 0; c < nIn; ++c) {
              const g = o * rowBlocks + (c >> 5);
              sum += ((q[g * 32 + c % 32]! - 8) * d[g]! + min[g]!) * values[c]!;
            }
            return sum;
          });
        const expected = product(xhat);
        const largest = expected.reduce((a, v) => Math.max(a, Math.abs(v)), 0);
        // mins of these blocks are up to 16 times a scale, which makes much of half a unit of a sum
        const bound = (withMins ? 3e-3 : 5e-4) * largest;
        assertWithin(y.values, expected, bound, `${nIn} -> ${nRows}, mins ${withMins}`);
        const exact = product(x);
        const error = Math.sqrt(exact.reduce((a, v, o) => a + (y.values[o]! - v) ** 2, 0));
        const size = Math.sqrt(exact.reduce((a, v) => a + v ** 2, 0));
        assert.ok(error / size <= 2.5e-2, `${nIn} -> ${nRows}, mins ${withMins}: error ${error / size}`);
        bench.reset();
      }
    }
  },
  BUILDS,
);

kernelTest("packQuadI4: bytes of a block, by hand", (bench) => {
  // row 0 is 1 * (q - 8), row 13 is -0.5 * (q - 8); channel 3 of row 0 is 5, channel 52 of row 13 is 12, all else 8
  const blocks = constantBlocks(16, 2, 8, { bits: 0, value: 0 });
  const view = new DataView(blocks.bytes.buffer);
  view.setUint16(0, 0x3c00, true);
  view.setUint16(13 * 36, 0xb800, true);
  view.setUint16(13 * 36 + 18, 0x3400, true);
  blocks.bytes[2 + 3] = 0x85;
  blocks.bytes[13 * 36 + 18 + 2 + 4] = 0xc8;
  const { w, rowScale } = packQuads(bench, blocks);
  const scales = new Int16Array(32);
  scales.set([32767, 0]);
  scales.set([-32767, 16384], 26);
  assertSameBits(w.values.slice(0, 64), scales, "scales");
  assert.equal(rowScale.values[0], Math.fround(1 / 32767));
  assert.equal(rowScale.values[13], Math.fround(0.5 / 32767));
  assert.equal(rowScale.values[1], 1, "a row of zeros");
  const nibbles = new Uint8Array(512).fill(0x88);
  // quad 1, vector 0, lane 0, second channel of g: the low nibble is output 0
  nibbles[32 + 1] = 0x85;
  // channel 20 of g+1: quad 10, vector 1, lane 1, first channel of g+1: the high nibble is output 13
  nibbles[10 * 32 + 16 + 4 + 2] = 0xc8;
  assertSameBits(w.values.slice(64), nibbles, "nibbles");
}, BUILDS);

kernelTest("packQuadI4: mins against the row's largest of both", (bench) => {
  // d = 1, m = -11: m' = -3
  const blocks = constantBlocks(1, 1, 8, HALF_ONE);
  const bytes = new Uint8Array(20);
  bytes.set([0x00, 0x3c, 0x80, 0xc9]);
  const { w, rowScale } = packQuads(bench, { ...blocks, withMins: true, bytes });
  assert.equal(rowScale.values[0], Math.fround(3 / 29356));
  const scales = new Int16Array(w.values.slice(0, 128).buffer);
  assert.deepEqual([scales[0], scales[1], scales[32], scales[33]], [9785, 0, -29356, 0]);
}, BUILDS);

kernelTest("packQuadI4: the reference's bits, in one call and in several", async (bench) => {
  const random = new Random(75);
  const twin = await openBench("reference");
  for (const [nRows, rowBlocks] of [...SHAPES, [160, 18]] as const) {
    for (const withMins of [false, true]) {
      const blocks = randomBlocks(random, nRows, rowBlocks, withMins);
      const expected = packQuads(twin, blocks);
      for (const rowsACall of [nRows, 16, 32]) {
        const { w, rowScale } = packQuads(bench, blocks, rowsACall);
        const what = `${nRows} rows of ${rowBlocks}, ${rowsACall} a call, mins ${withMins}`;
        assertSameBits(w.values, expected.w.values, what);
        assertSameBits(rowScale.values, expected.rowScale.values, `${what}: row scales`);
        bench.reset(what);
      }
      twin.reset();
    }
  }
}, BUILDS);

kernelTest("packQuadI4: tells the first block whose scale or min is not finite", (bench) => {
  const random = new Random(76);
  for (const withMins of [false, true]) {
    const blockBytes = withMins ? 20 : 18;
    for (const [bits, at] of [[0x7c00, 0], [0xfc00, 0], [0x7e00, 0], [0x7c00, 2], [0xffff, 2]] as const) {
      if (at === 2 && !withMins) continue;
      for (const [row, block] of [[0, 0], [2, 1], [36, 2]] as const) {
        const { bytes } = randomBlocks(random, 37, 3, withMins);
        const view = new DataView(bytes.buffer);
        view.setUint16((row * 3 + block) * blockBytes + at, bits, true);
        view.setUint16((36 * 3 + 2) * blockBytes, 0x7c00, true);
        const found = bench.kernels.packQuadI4(
          bench.buffer("u8", 3 * 2 * quadBlockBytes(withMins)).at,
          bench.buffer("f32", 48).at,
          bench.buffer("u8", bytes).at,
          withMins ? 1 : 0,
          0,
          37,
          3,
          128,
        );
        assert.equal(found, row * 3 + block, `bits ${bits} at ${at}, mins ${withMins}`);
        bench.reset();
      }
    }
  }
}, BUILDS);
