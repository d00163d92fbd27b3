import {
  assertSameBits,
  assertWithin,
  type Bench,
  kernelTest,
  Random,
  SIZES,
  sumBound,
} from "../support/kernels.ts";

/** Real shapes of the models, then columns long enough for the other walk in f32, and in bf16: nIn, nOut. */
const SHAPES = [[576, 192], [1536, 576], [64, 160], [13, 1565], [14, 3085]] as const;

type Layout = "channelsF32" | "channelsBf16" | "rowsF32" | "rowsBf16";

const bits = new Uint32Array(1);
const float = new Float32Array(bits.buffer);

/** The float of these bits; past the largest comes 2^128 in place of infinity. */
function fromBits(u: number): number {
  bits[0] = u;
  return Number.isFinite(float[0]!) ? float[0]! : (u >>> 31 ? -1 : 1) * 2 ** 128;
}

/** v as bf16 to nearest even, found by trying both neighbours. */
function nearestBf16(v: number): number {
  float[0] = v;
  const low = (bits[0]! & 0xffff0000) >>> 0;
  const high = (low + 0x10000) >>> 0;
  const [below, above] = [Math.abs(v - fromBits(low)), Math.abs(fromBits(high) - v)];
  if (below === above) return fromBits((low >>> 16) % 2 === 0 ? low : high);
  return fromBits(below < above ? low : high);
}

/** Row-major weights, what the layout keeps of them, and the packed buffer: rows packed in two calls. */
function packWeights(bench: Bench, random: Random, layout: Layout, nIn: number, nOut: number) {
  const { kernels } = bench;
  const isBf16 = layout.endsWith("Bf16");
  const source = random.weights(nIn * nOut);
  const src = bench.buffer("f32", source);
  const kept = isBf16 ? source.map(nearestBf16) : source;
  const first = nOut > 8 ? 8 : nOut;
  let w;
  switch (layout) {
    case "channelsF32":
      w = bench.buffer("f32", nIn * nOut);
      kernels.packChannelsF32(w.at, src.at, 0, first, nIn, nOut);
      kernels.packChannelsF32(w.at, src.at + first * nIn * 4, first, nOut - first, nIn, nOut);
      break;
    case "channelsBf16":
      w = bench.buffer("u16", nIn * Math.ceil(nOut / 8) * 8);
      kernels.packChannelsBf16(w.at, src.at, 0, first, nIn, nOut);
      kernels.packChannelsBf16(w.at, src.at + first * nIn * 4, first, nOut - first, nIn, nOut);
      break;
    case "rowsF32":
      w = src;
      break;
    case "rowsBf16":
      w = bench.buffer("u16", nIn * nOut);
      kernels.packBf16(w.at, src.at, nIn * nOut);
      break;
  }
  return { w, kept };
}

/** y + the chosen channels of W x in float64, and the bound on it. */
function product(kept: Float32Array, x: Float32Array, channels: readonly number[], y: Float32Array) {
  const nOut = y.length;
  const nIn = x.length;
  const expected = new Float64Array(nOut);
  const bound = new Float64Array(nOut);
  for (let o = 0; o < nOut; ++o) {
    let sum = y[o]!;
    let magnitude = Math.abs(y[o]!);
    for (const c of channels) {
      const term = kept[o * nIn + c]! * x[c]!;
      sum += term;
      magnitude += Math.abs(term);
    }
    expected[o] = sum;
    bound[o] = sumBound(channels.length + 1, magnitude);
  }
  return { expected, bound };
}

function runChannels(
  bench: Bench,
  random: Random,
  layout: "channelsF32" | "channelsBf16",
  nIn: number,
  nOut: number,
  share: number,
): void {
  const what = `${nIn} -> ${nOut}, ${share} active`;
  const { w, kept } = packWeights(bench, random, layout, nIn, nOut);
  const x = random.activations(nIn);
  const channels = share === 1 ? Array.from({ length: nIn }, (_, c) => c) : random.subset(nIn, share);
  const before = random.weights(nOut);
  const index = bench.buffer("u32", channels);
  const value = bench.buffer("f32", channels.map((c) => x[c]!));
  const padded = new Float32Array(layout === "channelsBf16" ? Math.ceil(nOut / 8) * 8 : nOut);
  padded.set(before);
  const y = bench.buffer("f32", padded);
  const gemv = layout === "channelsF32" ? bench.kernels.gemvChannelsF32 : bench.kernels.gemvChannelsBf16;
  // in two calls, as threads share the outputs of one matrix
  const first = nOut > 8 ? 8 : nOut, element = layout === "channelsF32" ? 4 : 2;
  const stride = layout === "channelsF32" ? nOut : padded.length;
  const rest = w.at + first * element;
  gemv(y.at, w.at, index.at, value.at, channels.length, first, stride);
  gemv(y.at + 4 * first, rest, index.at, value.at, channels.length, nOut - first, stride);
  const { expected, bound } = product(kept, x, channels, before);
  assertWithin(y.values.subarray(0, nOut), expected, bound, what);
  if (channels.length === 0) assertSameBits(y.values.slice(0, nOut), before, `${what}: y without channels`);
  if (share === 1) {
    const all = bench.buffer("f32", padded), xs = bench.buffer("f32", x);
    if (layout === "channelsF32") bench.kernels.gemvAllChannelsF32(all.at, w.at, xs.at, nIn, nOut);
    else bench.kernels.gemvAllChannelsBf16(all.at, w.at, xs.at, nIn, nOut);
    assertWithin(all.values.subarray(0, nOut), expected, bound, `${what}: gemvAllChannels`);
    // terms are added in the same order; only relaxed multiply-adds round otherwise
    if (bench.kernels.build !== "relaxed") {
      assertSameBits(all.values.slice(0, nOut), y.values.slice(0, nOut), `${what}: all channels, as a list`);
    }
  }
  bench.reset(what);
}

for (const layout of ["channelsF32", "channelsBf16"] as const) {
  const name = layout === "channelsF32" ? "gemvChannelsF32" : "gemvChannelsBf16";
  kernelTest(
    `${name}, ${name.replace("vC", "vAllC")}: add the columns, at every size around a tile`,
    (bench) => {
      const random = new Random(31);
      for (const nOut of SIZES) {
        for (const nIn of [0, 1, 3, 5, 6, 7, 8, 9, 12, 13, 16, 17]) {
          for (const share of [0, 0.5, 1]) runChannels(bench, random, layout, nIn, nOut, share);
        }
      }
    },
  );
  kernelTest(`${name}: real shapes, from no channel to all`, (bench) => {
    const random = new Random(32);
    for (const [nIn, nOut] of SHAPES) {
      for (const share of [0, 0.03, 0.5, 1]) runChannels(bench, random, layout, nIn, nOut, share);
    }
  });
}

for (const layout of ["rowsF32", "rowsBf16"] as const) {
  const name = layout === "rowsF32" ? "gemvRowsF32" : "gemvRowsBf16";
  kernelTest(`${name}: is the whole product, at every size`, (bench) => {
    const random = new Random(33);
    const shapes = [...SIZES.flatMap((nIn) => SIZES.map((nOut) => [nIn, nOut] as const)), ...SHAPES];
    for (const [nIn, nOut] of shapes) {
      const what = `${nIn} -> ${nOut}`;
      const { w, kept } = packWeights(bench, random, layout, nIn, nOut);
      const x = random.activations(nIn);
      const xs = bench.buffer("f32", x);
      const y = bench.buffer("f32", nOut);
      const gemv = layout === "rowsF32" ? bench.kernels.gemvRowsF32 : bench.kernels.gemvRowsBf16;
      gemv(y.at, w.at, xs.at, nIn, nOut, bench.buffer("f32", nIn).at);
      const { expected, bound } = product(kept, x, Array.from(x.keys()), new Float32Array(nOut));
      assertWithin(y.values, expected, bound, what);
      bench.reset(what);
    }
  });
}

kernelTest("packChannelsBf16: lanes hold outputs 0 4 1 5 2 6 3 7, halves round to even", (bench) => {
  // one channel, eight outputs; 1 + 2^-8 is halfway to the next bf16 and goes down to the even one, 1 + 3 * 2^-8 up
  const src = bench.buffer("f32", [1, 2, 3, 4, -1, 1 + 2 ** -8, 1 + 3 * 2 ** -8, -0]);
  const w = bench.buffer("u16", 8);
  bench.kernels.packChannelsBf16(w.at, src.at, 0, 8, 1, 8);
  assertSameBits(
    w.values,
    new Uint16Array([0x3f80, 0xbf80, 0x4000, 0x3f80, 0x4040, 0x3f82, 0x4080, 0x8000]),
    "lanes",
  );
});

kernelTest("packBf16, readRowBf16: nearest even there, exact back", (bench) => {
  const random = new Random(34);
  const edges = [
    0,
    -0,
    1,
    -1,
    1 + 2 ** -8,
    1 + 3 * 2 ** -8,
    1 + 2 ** -8 + 2 ** -20,
    1e-40,
    -3e-39,
    3.4e38,
    3.3895e38,
  ];
  for (const n of [...SIZES, 576]) {
    const values = Float32Array.from(
      { length: n },
      (_, i) => i < edges.length ? edges[i]! : random.normal() * 2 ** (random.below(60) - 30),
    );
    const src = bench.buffer("f32", values);
    const w = bench.buffer("u16", n);
    const y = bench.buffer("f32", n);
    bench.kernels.packBf16(w.at, src.at, n);
    bench.kernels.readRowBf16(y.at, w.at, n);
    assertSameBits(y.values, values.map(nearestBf16), `n ${n}`);
    bench.reset(`n ${n}`);
  }
});

/** Prefill as the runtime does it: tokens packed once, then a panel of 8 outputs at a time. */
function runGemm(
  bench: Bench,
  random: Random,
  layout: Layout,
  nTokens: number,
  nIn: number,
  nOut: number,
): void {
  const { kernels } = bench;
  const what = `${layout}, ${nTokens} tokens, ${nIn} -> ${nOut}`;
  const { w, kept } = packWeights(bench, random, layout, nIn, nOut);
  const xStride = nIn + 3;
  const yStride = Math.ceil(nOut / 8) * 8 + 4;
  const rows = Math.ceil(nTokens / 4) * 4;
  const x = bench.buffer("f32", random.activations(nTokens * xStride));
  const a = bench.buffer("f32", rows * nIn);
  const panel = bench.buffer("f32", nIn * 8);
  const before = random.weights(rows * yStride);
  const y = bench.buffer("f32", before);
  kernels.packTokensF32(a.at, x.at, nTokens, xStride, nIn);
  for (let o = 0; o < nOut; o += 8) {
    switch (layout) {
      case "channelsF32":
        kernels.unpackChannelsF32(panel.at, w.at, o, nIn, nOut);
        break;
      case "channelsBf16":
        kernels.unpackChannelsBf16(panel.at, w.at, o, nIn, nOut);
        break;
      case "rowsF32":
        kernels.unpackRowsF32(panel.at, w.at, o, nIn, nOut);
        break;
      case "rowsBf16":
        kernels.unpackRowsBf16(panel.at, w.at, o, nIn, nOut);
        break;
    }
    const unpacked = Float32Array.from(
      { length: nIn * 8 },
      (_, i) => o + i % 8 < nOut ? kept[(o + i % 8) * nIn + (i >> 3)]! : 0,
    );
    assertSameBits(panel.values, unpacked, `${what}: panel from output ${o}`);
    kernels.gemmF32(y.at + o * 4, a.at, panel.at, nTokens, yStride, nIn);
  }
  for (let t = 0; t < nTokens; ++t) {
    const token = x.values.slice(t * xStride, t * xStride + nIn);
    const row = before.slice(t * yStride, (t + 1) * yStride);
    const { expected, bound } = product(kept, token, Array.from(token.keys()), row.subarray(0, nOut));
    const now = y.values.slice(t * yStride, (t + 1) * yStride);
    assertWithin(now.subarray(0, nOut), expected, bound, `${what}, token ${t}`);
    assertSameBits(now.slice(nOut), row.slice(nOut), `${what}, token ${t}: beside its outputs`);
  }
  bench.reset(what);
}

kernelTest("unpackPairsF32: int8 weights times the scales of their rows and channels", (bench) => {
  const random = new Random(36), { kernels } = bench;
  for (const [nIn, nOut] of [[1, 3], [5, 16], [24, 30], [41, 20]] as const) {
    const nInPadded = Math.ceil(nIn / 8) * 8, padded = Math.ceil(nOut / 16) * 16;
    const q = Int8Array.from({ length: nOut * nIn }, () => random.below(255) - 127);
    for (let o = 0; o < nOut; ++o) q[o * nIn + random.below(nIn)] = o % 2 === 0 ? 127 : -127;
    const scales = Float32Array.from({ length: nOut }, () => 2 ** -(6 + random.below(5)));
    const src = bench.buffer("f32", Float32Array.from(q, (v, i) => v * scales[Math.floor(i / nIn)]!));
    const rows = bench.buffer("f32", padded), w = bench.buffer("u8", nInPadded * padded);
    kernels.packPairsI8(w.at, rows.at, src.at, 0, nOut, nIn, nInPadded);
    const factor = bench.buffer(
      "f32",
      Float32Array.from({ length: nInPadded }, () => 0.5 + random.uniform()),
    );
    const panel = bench.buffer("f32", 8 * (nIn + nIn % 2));
    for (let o = 0; o < padded; o += 8) {
      kernels.unpackPairsF32(panel.at, w.at, rows.at, factor.at, o, nIn, nInPadded);
      const expected = Float32Array.from({ length: 8 * nIn }, (_, i) => {
        const row = o + i % 8, c = i >> 3;
        return row < nOut ? Math.fround(q[row * nIn + c]! * scales[row]!) * factor.values[c]! : 0;
      });
      const found = panel.values.slice(0, 8 * nIn);
      // 0 times a scale may be -0
      assertSameBits(found.map((v) => v + 0), expected.map((v) => v + 0), `${nIn} -> ${nOut}, output ${o}`);
    }
    bench.reset();
  }
});

for (const layout of ["channelsF32", "channelsBf16", "rowsF32", "rowsBf16"] as const) {
  kernelTest(`gemmF32: tokens by panels of ${layout}`, (bench) => {
    const random = new Random(35);
    for (const nTokens of [0, 1, 2, 3, 4, 5, 7, 8, 9]) {
      for (const [nIn, nOut] of [[0, 8], [1, 8], [3, 5], [17, 13], [64, 16]] as const) {
        runGemm(bench, random, layout, nTokens, nIn, nOut);
      }
    }
    // 515 channels: one past the block that a panel is walked in
    runGemm(bench, random, layout, 5, 515, 11);
    runGemm(bench, random, layout, 6, 64, 160);
  });
}

kernelTest("packTokensF32: four tokens side by side, zeros for the missing", (bench) => {
  const x = bench.buffer("f32", [1, 2, 99, 3, 4, 99, 5, 6, 99, 7, 8, 99, 9, 10, 99]);
  const a = bench.buffer("f32", 16);
  bench.kernels.packTokensF32(a.at, x.at, 5, 3, 2);
  assertSameBits(a.values, new Float32Array([1, 3, 5, 7, 2, 4, 6, 8, 9, 0, 0, 0, 10, 0, 0, 0]), "a");
});
