import assert from "node:assert/strict";
import { attentionScratchBytes, kvTile } from "../../src/kernels/kernels.ts";
import { assertSameBits, assertWithin, type Bench, bf16, kernelTest, Random } from "../support/kernels.ts";

interface Case {
  /** The first query's position, and how many there are. */
  position: number;
  nTokens: number;
  group: number;
  nKvHeads: number;
  headDim: number;
  /** Standard deviation of q: 1 mixes positions, 60 makes one of them win by more than e^88. */
  spread: number;
  type: "f32" | "bf16";
}

/** Plain softmax attention of one query in float64, and what a float32 one may be off. */
function plainAttention(
  q: Float32Array,
  k: (p: number, i: number) => number,
  v: (p: number, i: number) => number,
  nPositions: number,
): { out: Float64Array; bound: Float64Array } {
  const headDim = q.length, out = new Float64Array(headDim), bound = new Float64Array(headDim);
  let scoreError = 0;
  const scores = Array.from({ length: nPositions }, (_, p) => {
    let dot = 0, magnitude = 0;
    for (let i = 0; i < headDim; ++i) {
      const term = q[i]! * k(p, i);
      dot += term;
      magnitude += Math.abs(term);
    }
    scoreError = Math.max(scoreError, sumOf(headDim + 3, magnitude) / Math.sqrt(headDim));
    return dot / Math.sqrt(headDim);
  });
  const largest = Math.max(...scores), weights = scores.map((score) => Math.exp(score - largest));
  const total = weights.reduce((a, b) => a + b, 0);
  for (let i = 0; i < headDim; ++i) {
    let magnitude = 0;
    for (let p = 0; p < nPositions; ++p) {
      out[i]! += weights[p]! / total * v(p, i);
      magnitude += weights[p]! / total * Math.abs(v(p, i));
    }
    // scores err by scoreError in the exponent, above and below the line; exp by 2 ulps, the two sums by n
    bound[i] = (4 * scoreError + (2 * nPositions + 24) * 2 ** -23) * magnitude + 1e-30;
  }
  return { out, bound };
}

function sumOf(n: number, magnitude: number): number {
  return (n + 1) * 2 ** -23 * magnitude;
}

interface Cache {
  readonly table: number;
  readonly offset: number;
  readonly tileBytes: number;
}

/** Pages that hold k and v f32[n, kv] from position 0, stored `step` tokens at a time. */
function fill(bench: Bench, at: Case, k: Float32Array, v: Float32Array, step: number): Cache {
  const { nKvHeads, headDim, type } = at, { kernels } = bench, kv = nKvHeads * headDim, n = k.length / kv;
  const tileBytes = (type === "f32" ? 4 : 2) * kvTile(headDim).length, layerBytes = nKvHeads * tileBytes;
  // three layers a page, the second one used; pages lie in memory in reverse; what is not stored stays NaN
  const pages = Array.from({ length: Math.ceil(n / 64) }, () => bench.buffer("u8", 3 * layerBytes)).reverse();
  const table = bench.buffer("u32", pages.map((page) => page.at)).at;
  const ks = bench.buffer("f32", k), vs = bench.buffer("f32", v);
  const store = type === "f32" ? kernels.storeKvF32 : kernels.storeKvBf16;
  for (let t = 0; t < n; t += step) {
    const count = Math.min(step, n - t), from = 4 * t * kv;
    store(table, layerBytes, ks.at + from, vs.at + from, count, kv, t, nKvHeads, headDim);
  }
  return { table, offset: layerBytes, tileBytes };
}

function runAttention(bench: Bench, random: Random, at: Case): void {
  const { position, nTokens, group, nKvHeads, headDim, type } = at, what = JSON.stringify(at);
  const { kernels } = bench, n = position + nTokens, kv = nKvHeads * headDim, row = group * kv;
  const k = random.weights(n * kv),
    v = random.activations(n * kv),
    qs = random.weights(nTokens * row, at.spread);
  const cache = fill(bench, at, k, v, 5);
  // rows of q and of the results have strides of their own
  const q = bench.buffer("f32", new Float32Array(nTokens * (row + 4)));
  for (let t = 0; t < nTokens; ++t) q.values.set(qs.subarray(t * row, (t + 1) * row), t * (row + 4));
  const out = bench.buffer("f32", nTokens * (row + 8));
  const scratch = bench.buffer("u8", attentionScratchBytes(nTokens, group, headDim));
  const attend = type === "f32" ? kernels.attentionF32 : kernels.attentionBf16;
  for (let head = 0; head < nKvHeads; ++head) {
    const first = 4 * head * group * headDim, offset = cache.offset + head * cache.tileBytes;
    attend(
      out.at + first,
      q.at + first,
      cache.table,
      offset,
      scratch.at,
      position,
      nTokens,
      row + 8,
      row + 4,
      group,
      headDim,
    );
  }
  const kept = type === "f32" ? (x: number): number => x : bf16;
  for (let t = 0; t < nTokens; ++t) {
    for (let head = 0; head < group * nKvHeads; ++head) {
      const first = Math.floor(head / group) * headDim;
      const { out: wanted, bound } = plainAttention(
        qs.subarray(t * row + head * headDim, t * row + (head + 1) * headDim),
        (p, i) => kept(k[p * kv + first + i]!),
        (p, i) => kept(v[p * kv + first + i]!),
        position + t + 1,
      );
      const from = t * (row + 8) + head * headDim;
      assertWithin(
        out.values.subarray(from, from + headDim),
        wanted,
        bound,
        `${what}, token ${t}, head ${head}`,
      );
    }
  }
  bench.reset(what);
}

const ONE: Case = { position: 0, nTokens: 1, group: 3, nKvHeads: 1, headDim: 16, spread: 1, type: "f32" };

kernelTest("attentionF32, attentionBf16: one query is softmax(q k^T / sqrt(d)) v across pages", (bench) => {
  const random = new Random(21);
  for (const nPositions of [1, 2, 3, 7, 8, 9, 15, 17, 63, 64, 65, 72, 127, 128, 129]) {
    for (const type of ["f32", "bf16"] as const) {
      runAttention(bench, random, { ...ONE, position: nPositions - 1, type });
    }
  }
});

kernelTest("attentionF32, attentionBf16: head sizes, and groups of 1 to 8 query heads", (bench) => {
  const random = new Random(22);
  for (const headDim of [4, 8, 12, 16, 20, 64, 72, 128]) {
    for (const [group, nKvHeads] of [[1, 1], [1, 2], [3, 2], [4, 1], [5, 1], [8, 1]] as const) {
      const type = headDim % 3 === 0 ? "bf16" : "f32";
      runAttention(bench, random, { ...ONE, position: 66, group, nKvHeads, headDim, type });
    }
  }
});

kernelTest(
  "attentionF32, attentionBf16: many queries each see what is before them and themselves",
  (bench) => {
    const random = new Random(25);
    for (
      const [position, nTokens] of [[0, 2], [0, 5], [0, 64], [0, 65], [3, 4], [61, 7], [64, 3], [
        130,
        9,
      ]] as const
    ) {
      for (const group of [1, 3, 4]) {
        for (const type of ["f32", "bf16"] as const) {
          runAttention(bench, random, { ...ONE, position, nTokens, group, nKvHeads: 2, headDim: 12, type });
        }
      }
    }
  },
);

kernelTest("attentionF32: scores hundreds apart neither overflow nor leak", (bench) => {
  const random = new Random(23);
  for (const position of [0, 4, 65, 200]) {
    runAttention(bench, random, {
      ...ONE,
      position,
      nTokens: 3,
      nKvHeads: 3,
      group: 1,
      headDim: 64,
      spread: 60,
    });
  }
});

kernelTest(
  "attentionF32, attentionBf16: a NaN among the keys shows in every query that sees it, in no other",
  (bench) => {
    const random = new Random(27), { kernels } = bench, n = 70;
    for (const type of ["f32", "bf16"] as const) {
      for (const [nan, first, count] of [[3, 0, n], [66, 0, n], [3, n - 1, 1]] as const) {
        const at = { ...ONE, headDim: 8, type }, k = random.weights(n * 8).fill(NaN, nan * 8, nan * 8 + 1);
        const cache = fill(bench, at, k, random.weights(n * 8), n);
        const q = bench.buffer("f32", random.weights(count * 24)), out = bench.buffer("f32", count * 24);
        const scratch = bench.buffer("u8", attentionScratchBytes(count, 3, 8));
        const attend = type === "f32" ? kernels.attentionF32 : kernels.attentionBf16;
        attend(out.at, q.at, cache.table, cache.offset, scratch.at, first, count, 24, 24, 3, 8);
        const found = Array.from(out.values, (x) => Number.isNaN(x));
        assert.deepEqual(found, found.map((_, i) => first + Math.floor(i / 24) >= nan), `${type}, ${nan}`);
        bench.reset();
      }
    }
  },
);

kernelTest(
  "attentionF32: a query's result does not depend on the others of its call, bit for bit",
  (bench) => {
    const random = new Random(26), at = { ...ONE, headDim: 64 }, { kernels } = bench;
    const n = 140, group = 3, row = group * 64, k = random.weights(n * 64), v = random.activations(n * 64);
    const cache = fill(bench, at, k, v, n), q = bench.buffer("f32", random.weights(n * row));
    const scratch = bench.buffer("u8", attentionScratchBytes(n, group, 64));
    const run = (first: number, count: number): Float32Array => {
      const out = bench.buffer("f32", count * row), from = q.at + 4 * row * first;
      kernels.attentionF32(
        out.at,
        from,
        cache.table,
        cache.offset,
        scratch.at,
        first,
        count,
        row,
        row,
        group,
        64,
      );
      return out.values.slice();
    };
    const whole = run(0, n);
    for (const [first, count] of [[0, 1], [0, 63], [50, 31], [63, 2], [139, 1]] as const) {
      assertSameBits(
        run(first, count),
        whole.subarray(first * row, (first + count) * row),
        `${first}, ${count}`,
      );
    }
    bench.reset();
  },
);

kernelTest("storeKvF32, storeKvBf16: write the slots of their positions and nothing beside them", (bench) => {
  const random = new Random(24), nKvHeads = 2, headDim = 12, kv = nKvHeads * headDim;
  for (const type of ["f32", "bf16"] as const) {
    const tile = kvTile(headDim).length,
      store = type === "f32" ? bench.kernels.storeKvF32 : bench.kernels.storeKvBf16;
    const pages = [0, 1].map(() =>
      bench.buffer(type === "f32" ? "u32" : "u16", new Uint32Array(nKvHeads * tile).fill(7))
    );
    const table = bench.buffer("u32", pages.map(({ at }) => at));
    const k = bench.buffer("f32", random.weights(5 * kv)), v = bench.buffer("f32", random.weights(5 * kv));
    store(table.at, 0, k.at, v.at, 5, kv, 62, nKvHeads, headDim);
    // positions 62 and 63 on the first page, 0, 1, 2 on the second; v is padded to 16 numbers with zeros
    for (const [i, slots] of [2, 3].entries()) {
      const written = Array.from(pages[i]!.values).filter((word) => word !== 7).length;
      const wanted = slots * nKvHeads * (headDim + 16);
      if (written !== wanted) {
        throw new Error(`${type}: ${written} numbers written on page ${i}, ${wanted} wanted`);
      }
    }
    bench.reset(type);
  }
});
