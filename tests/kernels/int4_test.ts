import assert from "node:assert/strict";
import { groupBlockBytes, LIST_SPAN } from "../../src/kernels/kernels.ts";
import { roundHalfEven } from "../../src/kernels/reference/memory.ts";
import { q15 } from "../../src/kernels/reference/quad.ts";
import {
  type Blocks,
  constantBlocks,
  multiplyGroups,
  packBlocks,
  randomBlocks,
  withLargestMins,
} from "../support/blocks.ts";
import {
  assertSameBits,
  assertWithin,
  type Bench,
  type Buffer,
  kernelTest,
  openBench,
  Random,
  sumBound,
} from "../support/kernels.ts";

const HALF_ONE = { bits: 0x3c00, value: 1 };

interface Activations {
  table: Buffer<"u32">;
  count: number;
  /** What the kernel has for each channel, 0 where it is not active. */
  integers: Float64Array;
  /** Of group g and its neighbour: what an integer stands for, once brought to one scale. */
  unit(g: number): number;
  /** The sum of group g as the kernel keeps it. */
  sum(g: number): number;
  /** An integer sum of group g on the scale of both: in the relaxed build each has its own. */
  bring(g: number, sum: number): number;
}

/** Selects and quantises, then reads the integers: of the relaxed build from the list, of others through the kernel. */
function quantise(bench: Bench, x: Float32Array, scale: Float32Array, threshold: number): Activations {
  const { kernels } = bench, isRelaxed = kernels.build === "relaxed";
  const nIn = x.length;
  const table = bench.buffer("u32", nIn / 4);
  const list = bench.buffer("u8", 2 * LIST_SPAN);
  const count = kernels.selectGroupI4(
    table.at,
    list.at,
    bench.buffer("f32", x).at,
    bench.buffer("f32", scale).at,
    threshold,
    nIn,
  );
  const entry = (g: number) => new DataView(kernels.memory.buffer, table.at + 32 * g, 32);
  const unit = (g: number) => entry(g).getFloat32(8, true);
  const integers = isRelaxed ? readPairs(bench, table.at, nIn) : readThrough(bench, table.at, nIn, unit);
  return {
    table,
    count,
    integers,
    unit,
    sum: (g) => entry(g - g % 2).getInt16(12 + 2 * (g % 2), true),
    bring: (g, sum) => isRelaxed ? q15(sum, entry(g - g % 2).getInt16(20 + 2 * (g % 2), true)) : sum,
  };
}

/** Lists of the relaxed build: for two channels the offsets of their columns, and LIST_SPAN bytes on their two bytes. A missing one is 0. */
function readPairs(bench: Bench, table: number, nIn: number): Float64Array {
  const view = new DataView(bench.kernels.memory.buffer), integers = new Float64Array(nIn);
  for (let g = 0; g < nIn / 32; ++g) {
    const end = view.getUint32(table + 32 * g + 4, true);
    for (let p = view.getUint32(table + 32 * g, true); p < end; p += 8) {
      for (const i of [0, 1]) {
        integers[32 * g + view.getUint32(p + 4 * i, true) / 32]! += view.getInt8(p + LIST_SPAN + i);
      }
    }
  }
  return integers;
}

/** By 64 outputs that each see one channel of 64. */
function readThrough(bench: Bench, table: number, nIn: number, unit: (g: number) => number): Float64Array {
  const { kernels } = bench, one = constantBlocks(64, 2, 8, HALF_ONE);
  for (let o = 0; o < 64; ++o) {
    // q of 9 at output o, channel o: channel c is a low nibble where c % 32 < 16
    one.bytes[(o * 2 + (o >> 5)) * 18 + 2 + o % 16]! ^= o % 32 < 16 ? 0x01 : 0x10;
  }
  const probe = packBlocks(bench, one);
  const scratch = bench.buffer("u8", 256);
  const y = bench.buffer("f32", 64);
  const integers = new Float64Array(nIn);
  for (let pair = 0; pair < nIn; pair += 64) {
    kernels.fillZeroF32(y.at, 64);
    kernels.gemvGroupI4List(y.at, probe.w.at, table + pair, 64, 1, groupBlockBytes(false), 0, scratch.at);
    for (let c = 0; c < 64; ++c) {
      const step = unit(pair / 32);
      integers[pair + c] = step === 0 ? 0 : Math.round(y.values[c]! / 32767 / step);
    }
  }
  return integers;
}

/** Sizes of the quantised steps, one for each group, by the definition. */
function quantiseSteps(bench: Bench, x: Float32Array, isActive: (c: number) => boolean): number[] {
  const steps: number[] = [];
  for (let pair = 0; pair < x.length; pair += 64) {
    const sizes = Array.from(x.subarray(pair, pair + 64), (v, i) => isActive(pair + i) ? Math.abs(v) : 0);
    const l1 = (begin: number) => sizes.slice(begin, begin + 32).reduce((a, b) => a + b, 0);
    if (bench.kernels.build === "relaxed") {
      for (const begin of [0, 32]) steps.push(Math.max(...sizes.slice(begin, begin + 32)) / 127);
    } else {
      const step = Math.max(l1(0), l1(32)) / 4079;
      steps.push(step, step);
    }
  }
  return steps;
}

/** Three quarters of a threshold's scores around it, one quarter exactly on it. */
function makeScale(random: Random, x: Float32Array): Float32Array {
  const scale = Float32Array.from({ length: x.length }, () => 0.5 + random.uniform());
  for (let c = 0; c < x.length; c += 4) {
    x[c] = c % 8 === 0 ? 1.5 : -1.5;
    scale[c] = 0.5;
  }
  return scale;
}

kernelTest(
  "selectGroupI4: takes what is strictly above, within half a step, and sums each group",
  (bench) => {
    const random = new Random(51);
    for (const nIn of [64, 128, 576, 1536]) {
      for (const threshold of [-1, 0, 0.75, 1.9, 1e9]) {
        const what = `nIn ${nIn}, threshold ${threshold}`;
        const x = random.activations(nIn);
        const scale = makeScale(random, x);
        const isActive = (c: number) => Math.fround(scale[c]! * Math.abs(x[c]!)) > Math.fround(threshold);
        const { count, integers, unit, sum, bring } = quantise(bench, x, scale, threshold);
        assert.equal(count, x.filter((_, c) => isActive(c)).length, what);
        const steps = quantiseSteps(bench, x, isActive);
        assertWithin(
          integers.map((v, c) => v * steps[c >> 5]!),
          x.map((v, c) => isActive(c) ? v : 0),
          x.map((_, c) => isActive(c) ? 0.501 * steps[c >> 5]! : 0),
          what,
        );
        for (let g = 0; g < nIn / 32; ++g) {
          const step = Math.max(steps[g]!, steps[g ^ 1]!);
          assert.ok(Math.abs(unit(g) - step) <= 1e-6 * step, `${what}: scale of group ${g}`);
          const total = integers.subarray(g * 32, g * 32 + 32).reduce((a, b) => a + b, 0);
          assert.equal(sum(g), bring(g, total), `${what}: sum of group ${g}`);
          // sums of a group are brought to the larger scale
          const share = steps[g]! / step;
          assert.ok(
            step === 0 || Math.abs(bring(g, 32000) - 32000 * share) <= 2,
            `${what}: share of group ${g}`,
          );
        }
        bench.reset(what);
      }
    }
  },
);

kernelTest("selectGroupI4: vectors of zeros and of subnormals give nothing", (bench) => {
  for (const [v, threshold] of [[0, -1], [0, 0], [1e-42, -1], [1e-42, 0]] as const) {
    const x = new Float32Array(128).fill(v);
    const { count, integers, unit } = quantise(bench, x, new Float32Array(128).fill(1), threshold);
    assert.equal(count, v > threshold ? 128 : 0);
    const xhat = integers.map((q, c) => q * unit(c >> 5));
    assertWithin(xhat, new Float64Array(128), 1e-34, `${v} above ${threshold}`);
    bench.reset();
  }
});

/** Adds one product to y and holds it against float64 sums over the kernel's own quantised x. */
function runProduct(
  bench: Bench,
  blocks: Blocks,
  x: Float32Array,
  options: { share: number; chunk: number; random: Random },
): void {
  const { share, chunk, random } = options;
  const { nRows, rowBlocks, q, d, min, withMins } = blocks;
  const what = `${rowBlocks * 32} -> ${nRows}, chunk ${chunk}, ${share} active, mins ${withMins}`;
  const packed = packBlocks(bench, blocks, chunk), { rowScale, nIn, nOut } = packed;
  const padded = new Float32Array(nIn);
  padded.set(x);
  const scale = Float32Array.from(padded, () => random.uniform() < share ? 1 : 0);
  const { table, integers, unit, sum, bring } = quantise(bench, padded, scale, share === 1 ? -1 : 0);
  const before = random.weights(nOut);
  const expected = Float64Array.from(before);
  const bound = new Float64Array(nOut);
  for (let o = 0; o < nOut; ++o) {
    let magnitude = Math.abs(before[o]!);
    for (let g = 0; o < nRows && g < rowBlocks; ++g) {
      const toI16 = (v: number) => roundHalfEven(Math.fround(v / rowScale.values[o]!));
      let dot = 0;
      for (let c = 32 * g; c < 32 * g + 32; ++c) dot += (q[o * rowBlocks * 32 + c]! - 8) * integers[c]!;
      const term = unit(g) * toI16(d[o * rowBlocks + g]!) * bring(g, dot);
      const minTerm = withMins ? unit(g) * toI16(min[o * rowBlocks + g]!) * sum(g) : 0;
      expected[o]! += term + minTerm;
      magnitude += Math.abs(term) + Math.abs(minTerm);
    }
    bound[o] = sumBound(nIn / 64 + 4, magnitude);
  }
  for (
    const kind of share === 1 ? ["gemvGroupI4", "gemvGroupI4List"] as const : ["gemvGroupI4List"] as const
  ) {
    const y = bench.buffer("f32", before);
    multiplyGroups(bench, kind, y.at, packed, table.at);
    assertWithin(y.values, expected, bound, `${kind}, ${what}`);
    for (const blocksACall of [1, 2]) {
      const part = bench.buffer("f32", before);
      multiplyGroups(bench, kind, part.at, packed, table.at, blocksACall);
      assertSameBits(part.values, y.values, `${kind}, ${what}, ${blocksACall} blocks a call`);
    }
  }
  bench.reset(what);
}

kernelTest("gemvGroupI4, gemvGroupI4List: the product with the quantised x, dense and sparse", (bench) => {
  const random = new Random(52);
  for (
    const [nRows, rowBlocks, chunk] of [[1, 1, 64], [64, 2, 64], [67, 3, 64], [160, 2, 192], [
      192,
      4,
      64,
    ]] as const
  ) {
    for (const share of [0, 0.05, 0.5, 0.95, 1]) {
      for (const withMins of [false, true]) {
        const x = random.activations(rowBlocks * 32);
        runProduct(bench, randomBlocks(random, nRows, rowBlocks, withMins), x, { share, chunk, random });
      }
    }
  }
});

kernelTest("gemvGroupI4, gemvGroupI4List: real shapes", (bench) => {
  const random = new Random(53);
  for (const [nIn, nOut, chunk] of [[576, 192, 192], [1536, 576, 192], [64, 160, 64]] as const) {
    for (const share of [0.5, 1]) {
      const blocks = randomBlocks(random, nOut, nIn / 32, true);
      runProduct(bench, blocks, random.activations(nIn), { share, chunk, random });
    }
  }
});

kernelTest(
  "gemvGroupI4List: both touches read at most 4,096 bytes past the weights",
  async (_bench, build) => {
    const run = async (touch: "atomic" | "plain") => {
      const bench = await openBench(build, { touch });
      const { kernels } = bench;
      const random = new Random(53);
      const { w, nIn, nOut, chunk, withMins } = packBlocks(bench, randomBlocks(random, 192, 6, true), 64);
      const { table } = quantise(bench, random.activations(nIn), new Float32Array(nIn).fill(1), -1);
      const y = bench.buffer("f32", new Float32Array(nOut));
      // what Arena keeps free behind its last range
      const end = kernels.memory.buffer.byteLength - 4096;
      const last = end - w.values.length;
      assert.ok(last > y.at + 4 * nOut);
      new Uint8Array(kernels.memory.buffer).copyWithin(last, w.at, w.at + w.values.length);
      multiplyGroups(
        bench,
        "gemvGroupI4List",
        y.at,
        { w: { at: last }, nIn, nOut, chunk, withMins },
        table.at,
      );
      const result = y.values.slice();
      bench.reset();
      return result;
    };
    assertSameBits(await run("plain"), await run("atomic"), "plain against atomic");
  },
);

kernelTest("gemvGroupI4: sums at the ends of the range do not wrap", (bench) => {
  const random = new Random(54);
  for (const q of [0, 8, 15]) {
    for (const half of [HALF_ONE, { bits: 0xbc00, value: -1 }]) {
      for (const v of [3, -3]) {
        const spike = new Float32Array(128);
        spike[17] = v;
        spike[95] = -v;
        const equal = new Float32Array(128).fill(v), opposed = equal.map((u, c) => c % 64 < 32 ? u : -u);
        const blocks = constantBlocks(64, 4, q, half);
        // 32 equal values put the whole L1 norm on one side; a spike puts it on one channel
        for (const x of [equal, opposed, spike]) {
          for (const some of [blocks, withLargestMins(blocks, -7), withLargestMins(blocks, -9)]) {
            runProduct(bench, some, x, { share: 1, chunk: 64, random });
          }
        }
      }
    }
  }
});

kernelTest("scaleRowsF32: multiplies each output by its row's scale", (bench) => {
  const random = new Random(55);
  for (const nOut of [0, 4, 16, 64, 192]) {
    const before = random.weights(nOut);
    const rowScale = bench.buffer("f32", random.weights(nOut));
    const y = bench.buffer("f32", before);
    bench.kernels.scaleRowsF32(y.at, rowScale.at, nOut);
    assertSameBits(y.values, before.map((v, o) => v * rowScale.values[o]!), `nOut ${nOut}`);
    bench.reset(`nOut ${nOut}`);
  }
});

/** A whole int4 projection as a decoder runs it, against exact float64 products of the file's weights. */
function runProjection(bench: Bench, blocks: Blocks, x: Float32Array, exactX: boolean) {
  const { kernels } = bench;
  const { nRows, rowBlocks, q, d, min } = blocks;
  const packed = packBlocks(bench, blocks, 192), { rowScale, nIn, nOut } = packed;
  const scale = new Float32Array(nIn).fill(1);
  const { table, integers } = quantise(bench, x, scale, -1), steps = quantiseSteps(bench, x, () => true);
  const y = bench.buffer("f32", new Float32Array(nOut));
  multiplyGroups(bench, "gemvGroupI4", y.at, packed, table.at);
  kernels.scaleRowsF32(y.at, rowScale.at, nOut);
  const expected = Float64Array.from({ length: nRows }, (_, o) => {
    let sum = 0;
    for (let c = 0; c < rowBlocks * 32; ++c) {
      const g = o * rowBlocks + (c >> 5);
      sum += ((q[g * 32 + c % 32]! - 8) * d[g]! + min[g]!) * (exactX ? x[c]! : integers[c]! * steps[c >> 5]!);
    }
    return sum;
  });
  const actual = y.values.slice(0, nRows);
  bench.reset();
  return { actual, expected };
}

kernelTest(
  "gemvGroupI4, scaleRowsF32: within 5e-4 of the largest y for the quantised x, 3e-3 with large mins (relaxed)",
  (bench) => {
    const random = new Random(57);
    for (const [nIn, nOut] of [[576, 192], [1536, 576]] as const) {
      for (const withMins of [false, true]) {
        const blocks = randomBlocks(random, nOut, nIn / 32, withMins);
        const { actual, expected } = runProjection(bench, blocks, random.activations(nIn), false);
        const largest = expected.reduce((a, v) => Math.max(a, Math.abs(v)), 0);
        // mins of these blocks are up to 16 times a scale, which makes much of half a unit of a sum
        const bound = withMins && bench.kernels.build === "relaxed" ? 3e-3 : 5e-4;
        assertWithin(actual, expected, bound * largest, `${nIn} -> ${nOut}, mins ${withMins}`);
      }
    }
  },
);

kernelTest("selectGroupI4: quantising x costs 0.25 % of y's rms, 2.5 % with 8 bits (relaxed)", (bench) => {
  const random = new Random(58);
  const blocks = randomBlocks(random, 576, 18, true);
  const { actual, expected } = runProjection(bench, blocks, random.activations(576), true);
  const error = Math.sqrt(expected.reduce((a, v, o) => a + (actual[o]! - v) ** 2, 0));
  const size = Math.sqrt(expected.reduce((a, v) => a + v ** 2, 0));
  const limit = bench.kernels.build === "relaxed" ? 2.5e-2 : 2.5e-3;
  assert.ok(error / size <= limit, `error ${error / size}`);
});

kernelTest("packGroupI4: bytes of a block, by hand", (bench) => {
  // row 0 is 1 * (q - 8), row 9 is -0.5 * (q - 8); channel 3 of row 0 is 5, channel 20 of row 9 is 12, all else 8
  const blocks = constantBlocks(64, 2, 8, { bits: 0, value: 0 });
  const view = new DataView(blocks.bytes.buffer);
  view.setUint16(0, 0x3c00, true);
  view.setUint16(9 * 36, 0xb800, true);
  view.setUint16(9 * 36 + 18, 0x3400, true);
  blocks.bytes[2 + 3] = 0x85;
  blocks.bytes[9 * 36 + 2 + 4] = 0xc8;
  const { w, rowScale } = packBlocks(bench, blocks);
  const scales = new Int16Array(128);
  scales.set([32767, 0]);
  scales.set([-32767, 16384], 18);
  assertSameBits(w.values.slice(0, 256), scales, "scales");
  assert.equal(rowScale.values[0], Math.fround(1 / 32767));
  assert.equal(rowScale.values[9], Math.fround(0.5 / 32767));
  assert.equal(rowScale.values[1], 1, "a row of zeros");
  // output 9 is nibble 1 of unit 1 in the baseline order, and the high nibble of byte 1 in the relaxed one
  const channels = new Uint8Array(2048).fill(0x88);
  channels[3 * 32] = 0x85;
  channels[20 * 32 + (bench.kernels.build === "relaxed" ? 1 : 2)] = 0xc8;
  assertSameBits(w.values.slice(256), channels, "nibbles");
});

kernelTest(
  "packGroupI4: mins lie before the second group's channels, against the row's largest of both",
  (bench) => {
    // row 0 is d * (q - 8) + m' with d 1 and -0.25, m' = m + 8d of 2 (the row's largest) and 0; row 40 has m' of -0.25 in its first group
    const blocks = constantBlocks(64, 2, 8, { bits: 0, value: 0 });
    const bytes = new Uint8Array(64 * 40);
    const view = new DataView(bytes.buffer);
    for (let block = 0; block < 128; ++block) bytes.fill(0x88, block * 20 + 4, block * 20 + 20);
    // 1 and -6, -0.25 and 2, 0 and -0.25 as halves
    for (
      const [at, bits] of [[0, 0x3c00], [2, 0xc600], [20, 0xb400], [22, 0x4000], [
        40 * 40 + 2,
        0xb400,
      ]] as const
    ) {
      view.setUint16(at, bits, true);
    }
    bytes[20 + 4] = 0x83;
    const { w, rowScale } = packBlocks(bench, { ...blocks, withMins: true, bytes });
    const scales = new Int16Array(128), mins = new Int16Array(128);
    scales.set([14567, -3642]);
    mins.set([29134, 0]);
    mins.set([-29134, 0], 80);
    assertSameBits(w.values.slice(0, 256), scales, "scales");
    assertSameBits(w.values.slice(1280, 1536), mins, "mins");
    assert.equal(rowScale.values[0], Math.fround(2 / 29134));
    assert.equal(rowScale.values[40], Math.fround(0.25 / 29134));
    const first = new Uint8Array(1024).fill(0x88), second = first.slice();
    second[0] = 0x83;
    assertSameBits(w.values.slice(256, 1280), first, "channels of the first group");
    assertSameBits(w.values.slice(1536), second, "channels of the second");
  },
);

kernelTest("packGroupI4: tells the first block whose scale or min is not finite", (bench) => {
  const random = new Random(59);
  for (const withMins of [false, true]) {
    const blockBytes = withMins ? 20 : 18;
    for (const [bits, at] of [[0x7c00, 0], [0xfc00, 0], [0x7e00, 0], [0x7c00, 2], [0xffff, 2]] as const) {
      if (at === 2 && !withMins) continue;
      for (const [row, block] of [[0, 0], [2, 1], [36, 2]] as const) {
        const { bytes } = randomBlocks(random, 37, 3, withMins);
        const view = new DataView(bytes.buffer);
        view.setUint16((row * 3 + block) * blockBytes + at, bits, true);
        view.setUint16((36 * 3 + 2) * blockBytes, 0x7c00, true);
        const found = bench.kernels.packGroupI4(
          bench.buffer("u8", 2 * groupBlockBytes(withMins)).at,
          bench.buffer("f32", 64).at,
          bench.buffer("u8", bytes).at,
          withMins ? 1 : 0,
          0,
          37,
          3,
          128,
          64,
        );
        assert.equal(found, row * 3 + block, `bits ${bits} at ${at}, mins ${withMins}`);
        bench.reset();
      }
    }
  }
});

kernelTest(
  "packGroupI4: the reference's bits",
  async (bench) => {
    const random = new Random(60);
    const twin = await openBench("reference");
    for (
      const [nRows, rowBlocks, chunk] of [[1, 1, 64], [37, 3, 64], [64, 2, 64], [160, 18, 192], [
        130,
        5,
        64,
      ]] as const
    ) {
      for (const withMins of [false, true]) {
        const blocks = randomBlocks(random, nRows, rowBlocks, withMins);
        const run = (b: Bench) => {
          const { w, rowScale } = packBlocks(b, blocks, chunk);
          const results = [w, rowScale].map(({ values }) => values.slice());
          b.reset();
          return results;
        };
        const expected = run(twin);
        run(bench).forEach((values, i) => {
          assertSameBits(
            values,
            expected[i]!,
            `${nRows} rows of ${rowBlocks}: ${["w", "rows"][i]}`,
          );
        });
      }
    }
  },
  ["baseline", "debug"],
);
