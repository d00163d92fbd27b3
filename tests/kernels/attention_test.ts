import { assertSameBits, assertWithin, type Bench, kernelTest, Random } from "../support/kernels.ts";

interface Case {
  nPositions: number;
  nHeads: number;
  nKvHeads: number;
  headDim: number;
  /** Standard deviation of q: 1 mixes positions, 60 makes one of them win by more than e^88. */
  spread: number;
}

/** Plain softmax attention in float64, and what a float32 one may be off. */
function plainAttention(q: Float32Array, k: Float32Array, v: Float32Array, at: Case) {
  const { nPositions, nHeads, nKvHeads, headDim } = at;
  const out = new Float64Array(nHeads * headDim);
  const bound = new Float64Array(nHeads * headDim);
  for (let head = 0; head < nHeads; ++head) {
    const kvHead = Math.floor(head * nKvHeads / nHeads);
    const row = (p: number) => (p * nKvHeads + kvHead) * headDim;
    let scoreError = 0;
    const scores = Array.from({ length: nPositions }, (_, p) => {
      let dot = 0;
      let magnitude = 0;
      for (let d = 0; d < headDim; ++d) {
        const term = q[head * headDim + d]! * k[row(p) + d]!;
        dot += term;
        magnitude += Math.abs(term);
      }
      scoreError = Math.max(scoreError, sumOf(headDim + 3, magnitude) / Math.sqrt(headDim));
      return dot / Math.sqrt(headDim);
    });
    const largest = Math.max(...scores);
    const weights = scores.map((score) => Math.exp(score - largest));
    const total = weights.reduce((a, b) => a + b, 0);
    for (let d = 0; d < headDim; ++d) {
      let magnitude = 0;
      for (let p = 0; p < nPositions; ++p) {
        out[head * headDim + d]! += weights[p]! / total * v[row(p) + d]!;
        magnitude += weights[p]! / total * Math.abs(v[row(p) + d]!);
      }
      // scores err by scoreError in the exponent, above and below the line; exp by 2 ulps, the two sums by n
      bound[head * headDim + d] = (4 * scoreError + (2 * nPositions + 16) * 2 ** -23) * magnitude + 1e-30;
    }
  }
  return { out, bound };
}

function sumOf(n: number, magnitude: number): number {
  return (n + 1) * 2 ** -23 * magnitude;
}

function runAttention(bench: Bench, random: Random, at: Case): void {
  const { nPositions, nHeads, nKvHeads, headDim } = at;
  const what = JSON.stringify(at);
  const { kernels } = bench;
  const kv = nKvHeads * headDim;
  const k = random.weights(nPositions * kv);
  const v = random.activations(nPositions * kv);
  const qs = random.weights(nHeads * headDim, at.spread);

  // three layers a page, the second one used; pages lie in memory in reverse; what is not stored stays NaN
  const part = 64 * kv * 4;
  const nPages = Math.ceil(nPositions / 64);
  const pages = Array.from({ length: nPages }, () => bench.buffer("f32", 6 * part / 4)).reverse();
  const table = bench.buffer("u32", pages.map((page) => page.at));
  const [kOffset, vOffset] = [2 * part, 3 * part];
  const kRow = bench.buffer("f32", kv);
  const vRow = bench.buffer("f32", kv);
  for (let p = 0; p < nPositions; ++p) {
    kRow.values.set(k.subarray(p * kv, (p + 1) * kv));
    vRow.values.set(v.subarray(p * kv, (p + 1) * kv));
    const page = pages[p >> 6]!.at;
    kernels.storeKvF32(page + kOffset, page + vOffset, kRow.at, vRow.at, nKvHeads, headDim, p % 64);
  }
  const q = bench.buffer("f32", qs);
  const out = bench.buffer("f32", nHeads * headDim);
  const scores = bench.buffer("f32", nPages * 64);
  kernels.attentionPagedF32(
    out.at,
    q.at,
    table.at,
    kOffset,
    vOffset,
    scores.at,
    nPositions,
    nHeads,
    nKvHeads,
    headDim,
  );
  const expected = plainAttention(qs, k, v, at);
  assertWithin(out.values, expected.out, expected.bound, what);
  assertSameBits(q.values, qs, `${what}: q`);
  bench.reset(what);
}

kernelTest("attentionPagedF32: is softmax(q k^T / sqrt(d)) v across page boundaries", (bench) => {
  const random = new Random(21);
  for (const nPositions of [1, 2, 3, 4, 5, 15, 17, 63, 64, 65, 67, 127, 128, 129]) {
    runAttention(bench, random, { nPositions, nHeads: 3, nKvHeads: 1, headDim: 16, spread: 1 });
  }
});

kernelTest("attentionPagedF32: head sizes and groups of 1, 3 and 4 query heads", (bench) => {
  const random = new Random(22);
  for (const headDim of [4, 8, 12, 16, 20, 64, 72, 128]) {
    for (const [nHeads, nKvHeads] of [[1, 1], [2, 2], [9, 3], [4, 1], [8, 2]] as const) {
      runAttention(bench, random, { nPositions: 67, nHeads, nKvHeads, headDim, spread: 1 });
    }
  }
});

kernelTest("attentionPagedF32: scores hundreds apart neither overflow nor leak", (bench) => {
  const random = new Random(23);
  for (const nPositions of [1, 5, 66]) {
    runAttention(bench, random, { nPositions, nHeads: 3, nKvHeads: 3, headDim: 64, spread: 60 });
  }
});

kernelTest("storeKvF32: writes one slot of each head and nothing beside it", (bench) => {
  const random = new Random(24);
  const [nKvHeads, headDim] = [3, 8];
  for (const slot of [0, 1, 63]) {
    const k = random.weights(nKvHeads * headDim);
    const v = random.weights(nKvHeads * headDim);
    const kPage = bench.buffer("f32", new Float32Array(nKvHeads * 64 * headDim).fill(5));
    const vPage = bench.buffer("f32", new Float32Array(nKvHeads * 64 * headDim).fill(6));
    const [ks, vs] = [bench.buffer("f32", k), bench.buffer("f32", v)];
    bench.kernels.storeKvF32(kPage.at, vPage.at, ks.at, vs.at, nKvHeads, headDim, slot);
    const expected = (row: Float32Array, old: number) => {
      const page = new Float32Array(nKvHeads * 64 * headDim).fill(old);
      for (let head = 0; head < nKvHeads; ++head) {
        page.set(row.subarray(head * headDim, (head + 1) * headDim), (head * 64 + slot) * headDim);
      }
      return page;
    };
    assertSameBits(kPage.values, expected(k, 5), `k, slot ${slot}`);
    assertSameBits(vPage.values, expected(v, 6), `v, slot ${slot}`);
    bench.reset();
  }
});
