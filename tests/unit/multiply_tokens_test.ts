/** Products of many tokens in every layout: within what their activations are rounded by, and nothing written beside what is theirs. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Arena } from "../../src/kernels/arena.ts";
import { type Kernels, padTo } from "../../src/kernels/kernels.ts";
import {
  hasRelaxedSimd,
  loadKernelModule,
  newMemory,
  noSharedMemoryReason,
} from "../../src/kernels/probe.ts";
import { Team } from "../../src/kernels/team.ts";
import { createWasmKernels } from "../../src/kernels/wasm_kernels.ts";
import type { LlamaConfig } from "../../src/model/config.ts";
import { detectPlatform } from "../../src/platform/detect.ts";
import { drain } from "../../src/runtime/forward.ts";
import { type Layout, type Matrix, packRows, placeMatrix, planMatrix } from "../../src/runtime/matrix.ts";
import { addTokens, multiplyTokens, type Outputs } from "../../src/runtime/multiply_tokens.ts";
import { MAX_TOKENS, Workspace } from "../../src/runtime/workspace.ts";
import { randomBlocks } from "../support/blocks.ts";
import { Random } from "../support/kernels.ts";

/** The widest input of the workspace, so that its buffers are filled to their ends; outputs that no panel divides. */
const N_IN = 224, N_OUT = 72, WIDEST = 256;
const GUARD = 0x2b2b2b2b;
const LAYOUTS: readonly Layout[] = [
  "channels-f32",
  "channels-bf16",
  "rows-f32",
  "rows-bf16",
  "channels-i8",
  "pairs-i8",
  "group-i4",
  "quad-i4",
];

interface Bench {
  readonly kernels: Kernels;
  readonly team: Team;
  readonly workspace: Workspace;
  readonly arena: Arena;
  /** Asserts that nothing was written behind the workspace or a part's scratch, which is its last buffer. */
  checkGuard(what: string): void;
}

async function open(build: "baseline" | "relaxed", threads: number): Promise<Bench> {
  const memory = newMemory(threads > 1), module = await loadKernelModule(build, threads > 1);
  const kernels = await createWasmKernels(module, memory), arena = new Arena(memory, kernels.heapBase());
  const config = {
    hiddenSize: WIDEST,
    intermediateSize: WIDEST,
    numAttentionHeads: 1,
    numKeyValueHeads: 1,
    headDim: 64,
    vocabSize: 64,
    ropeDim: 64,
  } as LlamaConfig;
  const workspace = new Workspace(kernels, config, arena.allocate(Workspace.size(kernels, config)));
  workspace.initialise();
  assert.equal(workspace.scratch + padTo(workspace.scratchBytes, 64), workspace.hidden + workspace.bytes);
  const guard = arena.allocate(4096), words = () => new Int32Array(memory.buffer, guard, 1024);
  words().fill(GUARD);
  const { startWorker } = await detectPlatform();
  const team = threads === 1 ? Team.alone(kernels, workspace.scratch) : await Team.start({
    kernels,
    module,
    kernelOptions: {},
    scratch: workspace.scratch,
    scratchBytes: workspace.scratchBytes,
    allocate: (bytes) => arena.allocate(bytes),
    threads,
    startWorker: startWorker!,
  });
  return {
    kernels,
    team,
    workspace,
    arena,
    checkGuard: (what) => assert.ok(words().every((word) => word === GUARD), `${what}: behind the workspace`),
  };
}

/** A random matrix in a layout, and its weights as they are before any rounding but int4's. */
function makeMatrix(
  { kernels, arena }: Bench,
  layout: Layout,
  random: Random,
): { readonly matrix: Matrix; readonly weights: Float64Array } {
  const isInt4 = layout === "group-i4" || layout === "quad-i4",
    allocate = (bytes: number) => arena.allocate(bytes);
  const plan = planMatrix(layout, N_IN, N_OUT, { mins: isInt4, isDense: layout === "quad-i4" });
  const matrix = placeMatrix(plan, allocate), { w, rowScale, nInPadded, chunk, nOutPadded } = matrix;
  if (!isInt4) {
    const weights = random.weights(N_OUT * N_IN), src = arena.allocate(4 * weights.length);
    new Float32Array(arena.memory.buffer, src, weights.length).set(weights);
    if (layout === "channels-i8") {
      const ones = arena.allocate(4 * N_IN);
      kernels.balanceScalesI8(rowScale, ones, src, N_OUT, N_IN);
      new Float32Array(arena.memory.buffer, ones, N_IN).fill(1);
      const rows = new Float32Array(arena.memory.buffer, rowScale, N_OUT);
      for (let o = 0; o < N_OUT; o++) {
        rows[o] = weights.subarray(o * N_IN, (o + 1) * N_IN).reduce((a, v) => Math.max(a, Math.abs(v)), 0) /
          127;
      }
      kernels.packChannelsI8(w, src, rowScale, ones, N_OUT, N_IN, nOutPadded);
    } else packRows(kernels, matrix, src, 0, N_OUT);
    return { matrix, weights: Float64Array.from(weights) };
  }
  const blocks = randomBlocks(random, N_OUT, N_IN / 32, true), rowBytes = N_IN / 32 * 20;
  const src = arena.allocate(blocks.bytes.length);
  new Uint8Array(arena.memory.buffer, src, blocks.bytes.length).set(blocks.bytes);
  if (layout === "quad-i4") kernels.packQuadI4(w, rowScale, src, 1, 0, N_OUT, N_IN / 32, nInPadded);
  else {
    for (let o = 0; o < nOutPadded; o += 64) {
      const count = Math.max(0, Math.min(64, N_OUT - o));
      kernels.packGroupI4(w, rowScale, src + rowBytes * o, 1, o, count, N_IN / 32, nInPadded, chunk);
    }
  }
  const weights = Float64Array.from(blocks.q, (q, i) => (q - 8) * blocks.d[i >> 5]! + blocks.min[i >> 5]!);
  return { matrix, weights };
}

/** y f32[nTokens, stride] of a product, with guards beside each row. */
function multiply(
  bench: Bench,
  m: Matrix,
  x: Float32Array,
  nTokens: number,
  exactFirst: boolean,
  ranges: readonly Outputs[] = [{ from: 0, to: padTo(m.nOutPadded, 8) }],
): Float32Array {
  const { team, workspace: s, arena } = bench, stride = padTo(N_OUT, 64) + 64, rows = padTo(nTokens, 4);
  const { buffer } = arena.memory, xStride = s.strides.widest;
  const input = new Float32Array(buffer, s.active, MAX_TOKENS * xStride).fill(0);
  for (let t = 0; t < nTokens; t++) input.set(x.subarray(t * N_IN, (t + 1) * N_IN), t * xStride);
  const y = arena.allocate(4 * (rows + 1) * stride);
  new Int32Array(arena.memory.buffer, y, (rows + 1) * stride).fill(GUARD);
  for (const range of ranges) {
    drain(multiplyTokens(team, s, m, y, stride, s.active, xStride, nTokens, exactFirst, range));
  }
  const words = new Int32Array(arena.memory.buffer, y, (rows + 1) * stride),
    what = `${m.layout}, ${nTokens} tokens`;
  for (let t = 0; t <= rows; t++) {
    for (let o = 0; o < stride; o++) {
      if (t < rows && ranges.some(({ from, to }) => o >= from && o < Math.min(to, padTo(m.nOutPadded, 8)))) {
        continue;
      }
      assert.equal(words[t * stride + o], GUARD, `${what}: row ${t}, ${o}`);
    }
  }
  bench.checkGuard(what);
  return Float32Array.from(
    { length: nTokens * N_OUT },
    (_, i) => new Float32Array(arena.memory.buffer, y)[Math.floor(i / N_OUT) * stride + i % N_OUT]!,
  );
}

/** Root mean square of the difference over that of the exact product, token by token. */
function errors(y: Float32Array, weights: Float64Array, x: Float32Array, nTokens: number): number[] {
  return Array.from({ length: nTokens }, (_, t) => {
    let difference = 0, size = 0;
    for (let o = 0; o < N_OUT; o++) {
      let exact = 0;
      for (let c = 0; c < N_IN; c++) exact += weights[o * N_IN + c]! * x[t * N_IN + c]!;
      difference += (y[t * N_OUT + o]! - exact) ** 2;
      size += exact ** 2;
    }
    return Math.sqrt(difference / size);
  });
}

/** What weights and, with integer weights, activations may be rounded by. */
function bound(layout: Layout, build: string): number {
  if (layout.endsWith("f32")) return 1e-5;
  if (layout.endsWith("bf16")) return 4e-3;
  if (layout.endsWith("i8")) return 1.2e-2;
  // mins of these blocks are up to 16 times a scale: sums that are brought to one scale are rounded to half a unit
  return build === "relaxed" ? 5e-2 : 1e-3;
}

for (const build of ["baseline", "relaxed"] as const) {
  const skip = build === "relaxed" && !hasRelaxedSimd() ? "this runtime has no relaxed SIMD" : false;
  test(`multiplyTokens: every layout, within its rounding, beside nothing (${build})`, { skip }, async () => {
    const random = new Random(91);
    for (const layout of LAYOUTS) {
      if (layout === "quad-i4" && build === "baseline") continue;
      const bench = await open(build, 1), { matrix, weights } = makeMatrix(bench, layout, random);
      for (const nTokens of [1, 3, 4, 5, MAX_TOKENS]) {
        const x = random.activations(nTokens * N_IN);
        const found = errors(multiply(bench, matrix, x, nTokens, false), weights, x, nTokens);
        const largest = Math.max(...found);
        assert.ok(largest <= bound(layout, build), `${layout}, ${nTokens} tokens: ${largest}`);
      }
    }
  });
}

test("addTokens: a factor of few channels adds to what is there, and reads nothing that lies beside them", async () => {
  const random = new Random(94), xStride = 128, stride = padTo(N_OUT, 64) + 64;
  for (const layout of ["channels-f32", "channels-bf16", "pairs-i8"] as const) {
    for (const rank of [1, 5, 32, 40]) {
      const bench = await open("baseline", 1), { kernels, arena, team, workspace } = bench;
      const balanced = layout === "pairs-i8",
        plan = planMatrix(layout, rank, N_OUT, { balanced, isFactor: true });
      const matrix = placeMatrix(plan, (bytes) => arena.allocate(bytes)),
        weights = random.weights(N_OUT * rank);
      const src = arena.allocate(4 * weights.length), floats = () => new Float32Array(arena.memory.buffer);
      floats().set(weights, src / 4);
      packRows(kernels, matrix, src, 0, N_OUT);
      if (balanced) floats().fill(1, matrix.channelScale / 4, matrix.channelScale / 4 + rank);
      for (const nTokens of [1, 6, MAX_TOKENS]) {
        const rows = padTo(nTokens, 4), x = random.activations(nTokens * xStride);
        for (let t = 0; t < nTokens; t++) x.fill(1e6, t * xStride + rank, (t + 1) * xStride);
        const before = random.activations(rows * stride);
        const xAt = arena.allocate(4 * x.length), y = arena.allocate(4 * before.length);
        floats().set(x, xAt / 4);
        floats().set(before, y / 4);
        drain(addTokens(team, workspace, matrix, y, stride, xAt, xStride, nTokens));
        bench.checkGuard(layout);
        for (let t = 0; t < rows; t++) {
          const what = `${layout}, rank ${rank}, token ${t} of ${nTokens}`;
          const after = floats().slice(y / 4 + t * stride, y / 4 + (t + 1) * stride);
          const expected = Array.from(after, (_, o) => {
            let sum = before[t * stride + o]!;
            if (o >= N_OUT || t >= nTokens) return sum;
            for (let r = 0; r < rank; r++) sum += weights[o * rank + r]! * x[t * xStride + r]!;
            return sum;
          });
          const error = Math.hypot(...after.map((v, o) => v - expected[o]!)) / Math.hypot(...expected);
          assert.ok(error <= bound(layout, "baseline"), `${what}: ${error}`);
          for (let o = N_OUT; o < stride; o++) {
            assert.equal(after[o], before[t * stride + o], `${what}: beside it`);
          }
        }
      }
    }
  }
});

test("multiplyTokens: some outputs have the bits of the whole product, and no other is written", async () => {
  const random = new Random(93),
    builds = hasRelaxedSimd() ? ["baseline", "relaxed"] as const : ["baseline"] as const;
  for (const build of builds) {
    for (const layout of LAYOUTS) {
      if (layout === "quad-i4" && build === "baseline") continue;
      const bench = await open(build, 1), { matrix } = makeMatrix(bench, layout, random);
      for (const nTokens of [1, 5]) {
        const x = random.activations(nTokens * N_IN), whole = multiply(bench, matrix, x, nTokens, true);
        const parts = [{ from: 64, to: 128 }, { from: 0, to: 64 }].map((range) =>
          multiply(bench, matrix, x, nTokens, true, [range])
        );
        const joined = whole.map((_, i) => parts[i % N_OUT < 64 ? 1 : 0]![i]!);
        assert.deepEqual(joined, whole, `${layout} ${build}`);
      }
    }
  }
});

test(
  "multiplyTokens: exactFirst takes most of its error from the first token alone, by itself and among others",
  { skip: hasRelaxedSimd() ? false : "this runtime has no relaxed SIMD" },
  async () => {
    const random = new Random(92);
    for (const layout of ["group-i4", "quad-i4"] as const) {
      const bench = await open("relaxed", 1), { matrix, weights } = makeMatrix(bench, layout, random);
      for (const nTokens of [1, 2, 5]) {
        const x = random.activations(nTokens * N_IN);
        const [rough, ...before] = errors(multiply(bench, matrix, x, nTokens, false), weights, x, nTokens);
        const [first, ...others] = errors(multiply(bench, matrix, x, nTokens, true), weights, x, nTokens);
        assert.ok(first! < rough! / 2, `${layout}, ${nTokens} tokens: ${rough}, ${first}`);
        assert.deepEqual(others, before, `${layout}, ${nTokens} tokens: the others`);
      }
    }
  },
);

for (const build of ["baseline", "relaxed"] as const) {
  const skip = noSharedMemoryReason() ??
    (build === "relaxed" && !hasRelaxedSimd() ? "this runtime has no relaxed SIMD" : false);
  test(`multiplyTokens: the same bits with three threads (${build})`, { skip }, async () => {
    for (const layout of LAYOUTS) {
      if (layout === "quad-i4" && build === "baseline") continue;
      const results = [];
      for (const threads of [1, 3]) {
        const random = new Random(93), bench = await open(build, threads);
        const { matrix } = makeMatrix(bench, layout, random);
        results.push(multiply(bench, matrix, random.activations(37 * N_IN), 37, true));
        await bench.team.close();
      }
      assert.deepEqual(results[1], results[0], layout);
    }
  });
}
