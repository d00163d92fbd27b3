import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { fromBase64 } from "../../src/format/base64.ts";
import { BLOCK, type BlockType as AnyType } from "../../src/format/checkpoint.ts";
import { dequantizeReference } from "../../src/kernels/reference/dequantize.ts";
import { type Bench, kernelTest, openBench, Random, SIZES } from "../support/kernels.ts";
import { requireShared, skipWithout } from "../support/shared.ts";

type BlockType = Exclude<AnyType, "F32">;
interface Case {
  name: string;
  type: BlockType;
  raw: string;
  f32: string;
}

const GOLDEN = "golden/gguf/dequant.json";
const TYPES = Object.keys(BLOCK).filter((type) => type !== "F32") as BlockType[];
/** Where a block's float16 scales and minima are. */
const HALVES: { readonly [type in BlockType]: readonly number[] } = {
  F16: [0],
  BF16: [],
  Q8_0: [0],
  Q4_0: [0],
  Q4_1: [0, 2],
  Q5_0: [0],
  Q5_1: [0, 2],
  Q4_K: [0, 2],
  Q5_K: [0, 2],
  Q6_K: [208],
};

const cases = (): Case[] => JSON.parse(readFileSync(requireShared(GOLDEN), "utf8")).cases;
const floatsOf = (base64: string): Float32Array => new Float32Array(fromBase64(base64).buffer);

/** The same bits; any NaN for a NaN, since engines differ in which. */
function assertSameNumbers(found: Float32Array, wanted: Float32Array, name: string): void {
  assert.equal(found.length, wanted.length, name);
  for (let i = 0; i < wanted.length; ++i) {
    assert.ok(Object.is(found[i], wanted[i]), `${name}: value ${i} is ${found[i]}, wanted ${wanted[i]}`);
  }
}

function firstBadBlock(values: Float32Array, type: BlockType): number {
  return Math.floor(values.findIndex((value) => !Number.isFinite(value)) / BLOCK[type].values);
}

/** Runs the kernel on blocks at an odd address, as rows in the middle of a slice are. */
function runKernel(
  bench: Bench,
  type: BlockType,
  raw: Uint8Array,
  what: string,
): { y: Float32Array; bad: number } {
  const n = raw.length / BLOCK[type].bytes;
  const y = bench.buffer("f32", n * BLOCK[type].values);
  const blocks = bench.buffer("u8", [0, ...raw]);
  const bad = bench.kernels.dequantize(type, y.at, blocks.at + 1, n);
  const values = y.values.slice();
  bench.reset(what);
  return { y: values, bad };
}

test("dequantizeReference: equals ggml bit for bit", { skip: skipWithout(GOLDEN) }, () => {
  assert.equal(cases().length, 118);
  for (const { name, type, raw, f32 } of cases()) {
    assertSameNumbers(dequantizeReference(type, fromBase64(raw)), floatsOf(f32), name);
  }
});

test("dequantizeReference: refuses part of a block", () => {
  assert.throws(() => dequantizeReference("Q4_1", new Uint8Array(21)), RangeError);
});

for (const build of ["baseline", "debug"] as const) {
  test(`dequantize: equals ggml bit for bit (${build})`, { skip: skipWithout(GOLDEN) }, async () => {
    const bench = await openBench(build);
    for (const { name, type, raw, f32 } of cases()) {
      const { y, bad } = runKernel(bench, type, fromBase64(raw), name);
      assertSameNumbers(y, floatsOf(f32), name);
      assert.equal(bad, firstBadBlock(floatsOf(f32), type), name);
    }
  });
}

kernelTest(
  "dequantize: equals the reference on random blocks, and names the first that is not finite",
  (bench) => {
    const random = new Random(1);
    for (const type of TYPES) {
      for (const n of SIZES) {
        const raw = random.bytes(n * BLOCK[type].bytes), what = `${type} x ${n}`;
        const wanted = dequantizeReference(type, raw);
        const { y, bad } = runKernel(bench, type, raw, what);
        assertSameNumbers(y, wanted, what);
        assert.equal(bad, firstBadBlock(wanted, type), what);
      }
    }
  },
);

kernelTest("dequantize: a NaN or infinite scale or minimum is noticed in any block", (bench) => {
  for (const type of TYPES) {
    for (const offset of HALVES[type]) {
      for (const bits of [0x7c00, 0xfc00, 0x7e00, 0x7c01]) {
        for (const block of [0, 1, 4]) {
          const raw = new Uint8Array(5 * BLOCK[type].bytes),
            what = `${type} byte ${offset} ${bits.toString(16)}`;
          new DataView(raw.buffer).setUint16(block * BLOCK[type].bytes + offset, bits, true);
          assert.equal(runKernel(bench, type, raw, what).bad, block, what);
        }
      }
    }
  }
});

kernelTest("findNonFiniteF32: the first NaN or infinity, in the lanes and in the tail", (bench) => {
  for (const n of SIZES) {
    const x = bench.buffer("f32", new Float32Array(n + 1).fill(-3.4e38).fill(NaN, n)); // a NaN just past the end
    assert.equal(bench.kernels.findNonFiniteF32(x.at, n), -1);
    for (let i = 0; i < n; ++i) {
      for (const bad of [NaN, Infinity, -Infinity]) {
        x.values.fill(1, 0, n);
        x.values[n - 1] = Infinity;
        x.values[i] = bad;
        assert.equal(bench.kernels.findNonFiniteF32(x.at, n), i);
      }
    }
    bench.reset(`n ${n}`);
  }
});
