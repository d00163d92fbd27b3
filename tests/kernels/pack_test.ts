import assert from "node:assert/strict";
import { dequantizeReference } from "../../src/kernels/reference/dequantize.ts";
import { assertSameBits, kernelTest, openBench, Random, SIZES } from "../support/kernels.ts";

/** Bytes of a block and where its halves are. */
const TYPES = {
  F16: { bytes: 2, values: 1, halves: [0] },
  BF16: { bytes: 2, values: 1, halves: [] },
  Q8_0: { bytes: 34, values: 32, halves: [0] },
  Q4_0: { bytes: 18, values: 32, halves: [0] },
  Q4_1: { bytes: 20, values: 32, halves: [0, 2] },
  Q5_0: { bytes: 22, values: 32, halves: [0] },
  Q5_1: { bytes: 24, values: 32, halves: [0, 2] },
  Q4_K: { bytes: 144, values: 256, halves: [0, 2] },
  Q5_K: { bytes: 176, values: 256, halves: [0, 2] },
  Q6_K: { bytes: 210, values: 256, halves: [208] },
} as const;

type Type = keyof typeof TYPES;

/** Random blocks, all finite: halves of any size and sign, subnormals too. */
function finiteBlocks(random: Random, type: Type, n: number): Uint8Array<ArrayBuffer> {
  const { bytes, halves } = TYPES[type];
  const blocks = random.bytes(n * bytes);
  const view = new DataView(blocks.buffer);
  for (let block = 0; block < n; ++block) {
    for (const at of halves) {
      view.setUint16(block * bytes + at, random.below(0x7c00) | random.below(2) << 15, true);
    }
    if (type === "BF16") view.setUint16(block * 2, random.below(0x7f80) | random.below(2) << 15, true);
  }
  return blocks;
}

for (const type of Object.keys(TYPES) as Type[]) {
  kernelTest(`dequantize: ${type} bit for bit, and the first block that is not finite`, (bench) => {
    const random = new Random(71);
    const { bytes, values, halves } = TYPES[type];
    for (const n of [0, 1, 3, 4, 5, 17, 67]) {
      const blocks = finiteBlocks(random, type, n);
      const source = bench.buffer("u8", blocks);
      const y = bench.buffer("f32", n * values);
      assert.equal(bench.kernels.dequantize(type, y.at, source.at, n), -1, `${n} blocks`);
      assertSameBits(y.values, dequantizeReference(type, blocks), `${n} blocks`);
      bench.reset(`${n} blocks`);
      for (const bad of [0, 2, n - 1]) {
        if (bad < 0 || bad >= n) continue;
        for (const at of type === "BF16" ? [0] : halves) {
          const spoilt = blocks.slice();
          const view = new DataView(spoilt.buffer);
          view.setUint16(bad * bytes + at, type === "BF16" ? 0xff80 : 0x7c00, true);
          view.setUint16((n - 1) * bytes + at, type === "BF16" ? 0x7fc1 : 0xfe01, true);
          const found = bench.kernels.dequantize(
            type,
            bench.buffer("f32", n * values).at,
            bench.buffer("u8", spoilt).at,
            n,
          );
          assert.equal(found, bad, `${n} blocks, ${bad} spoilt at byte ${at}`);
          bench.reset();
        }
      }
    }
  });
}

kernelTest("findNonFiniteF32: the first NaN or infinity, or -1", (bench) => {
  const random = new Random(72);
  for (const n of SIZES) {
    const values = random.activations(n);
    if (n > 1) values[n - 2] = 3.4028234663852886e38;
    const x = bench.buffer("f32", values);
    assert.equal(bench.kernels.findNonFiniteF32(x.at, n), -1, `n ${n}`);
    for (const bad of [NaN, Infinity, -Infinity]) {
      for (let at = 0; at < n; ++at) {
        x.values.set(values);
        x.values[at] = bad;
        x.values[n - 1] = bad;
        assert.equal(bench.kernels.findNonFiniteF32(x.at, n), at, `n ${n}, ${bad} at ${at}`);
      }
    }
    bench.reset();
  }
});

kernelTest(
  "Kernels: every method of the reference is there, and heapBase leaves the module's data alone",
  async (bench) => {
    const twin = await openBench("reference");
    const kernels = bench.kernels as unknown as { readonly [name: string]: unknown };
    for (const [name, value] of Object.entries(twin.kernels)) {
      // quads are for dot products of bytes, which the baseline build has not; panels of 16 bits are for a build without them
      const missing = { baseline: /Quad/, relaxed: /^unpackGroupI4$/, reference: /^$/ }[bench.kernels.build];
      const isThere = !missing.test(name);
      if (typeof value === "function") {
        assert.equal(typeof kernels[name], isThere ? "function" : "undefined", name);
      }
    }
    assert.ok(bench.kernels.heapBase() >= 1024 && bench.kernels.heapBase() % 16 === 0);
  },
);
