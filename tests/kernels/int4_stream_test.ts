import { LIST_SPAN } from "../../src/kernels/kernels.ts";
import { multiplyGroups, packBlocks, randomBlocks } from "../support/blocks.ts";
import { assertSameBits, type Bench, kernelTest, openBench, Random } from "../support/kernels.ts";

/** Table of x f32[nIn] with every channel of scale * |x| above the threshold. */
function select(bench: Bench, x: Float32Array, scale: Float32Array, threshold: number): number {
  const table = bench.buffer("u32", x.length / 4);
  bench.kernels.selectGroupI4(
    table.at,
    bench.buffer("u8", 2 * LIST_SPAN).at,
    bench.buffer("f32", x).at,
    bench.buffer("f32", scale).at,
    threshold,
    x.length,
  );
  return table.at;
}

kernelTest(
  "gemvGroupI4, gemvGroupI4List: masked dense and stream have the same bits",
  async (_bench, build) => {
    for (const touch of ["atomic", "plain"] as const) {
      const bench = await openBench(build, { touch });
      const random = new Random(61);
      for (const [nIn, nOut, chunk] of [[64, 64, 64], [192, 128, 128], [576, 192, 64]] as const) {
        const packed = packBlocks(bench, randomBlocks(random, nOut, nIn / 32, false), chunk);
        // lists of every length: from none to all, and one in each half, which the touches' three forms share out
        for (const share of [0, 0.02, 0.1, 0.2, 0.3, 0.5, 0.7, 0.95, 1]) {
          const x = random.activations(nIn);
          const scale = Float32Array.from(x, () => random.uniform() < share ? 1 : 0);
          const before = random.weights(nOut);
          const dense = bench.buffer("f32", before), stream = bench.buffer("f32", before);
          const masked = x.map((v, c) => scale[c] === 1 ? v : 0);
          const ones = new Float32Array(nIn).fill(1);
          multiplyGroups(bench, "gemvGroupI4", dense.at, packed, select(bench, masked, ones, -1));
          multiplyGroups(bench, "gemvGroupI4List", stream.at, packed, select(bench, x, scale, 0));
          assertSameBits(stream.values, dense.values, `${touch}, ${nIn} -> ${nOut}, ${share} active`);
        }
        bench.reset(`${nIn} -> ${nOut}`);
      }
    }
  },
);
