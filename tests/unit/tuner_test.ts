/** The tuner: what it picks from timings, what it remembers, and that a pick never changes a result of the baseline build, nor of int8. */
import assert from "node:assert/strict";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { Model } from "../../src/mod.ts";
import { detectPlatform } from "../../src/platform/detect.ts";
import type { Platform } from "../../src/platform/platform.ts";
import {
  allDense,
  candidates,
  openStopwatch,
  readFindings,
  type Shape,
  type Stopwatch,
  tune,
  UNTUNED,
  writeFindings,
} from "../../src/runtime/tuner.ts";
import { hasRelaxedSimd, loadKernelModule, newMemory } from "../../src/kernels/probe.ts";
import { createWasmKernels } from "../../src/kernels/wasm_kernels.ts";
import type { LlamaConfig } from "../../src/model/config.ts";
import { recipeOfThreshold } from "../support/golden.ts";
import { requireShared, skipWithout } from "../support/shared.ts";

const INT4: Shape = { kind: "group-i4", mins: true, nIn: 576, nOut: 960, sparsity: 0.5 };
const INT8: Shape = { ...INT4, kind: "i8", mins: false };

/** What a clock shows that goes on by what a stopwatch measures, 1 ms a product at least. */
function fakeTime(watch: Stopwatch): { watch: Stopwatch; now: () => number } {
  let time = 0;
  return {
    watch: (shape, choice, touch) => {
      const ms = watch(shape, choice, touch);
      time += Math.max(1, ms);
      return ms;
    },
    now: () => time,
  };
}

/** Tunes from given milliseconds a product: dense, sparse with atomic touches, sparse with plain ones. */
function pick(times: readonly [number, number, number], shape: Shape = INT4): ReturnType<typeof tune> {
  const { watch, now } = fakeTime((_shape, { method }, touch) =>
    times[method === "dense" ? 0 : touch === "atomic" ? 1 : 2]
  );
  return tune([shape], "baseline", new Map(), watch, now);
}

test("tune: sparse where it is faster than dense by more than noise, else dense", () => {
  assert.deepEqual(pick([1, 0.8, 0.9]).choose(INT4), { layout: "group-i4", method: "stream" });
  assert.deepEqual(pick([1, 0.98, 2]).choose(INT4), { layout: "group-i4", method: "dense" });
  assert.deepEqual(pick([1, 1.5, 1.5]).choose(INT4), { layout: "group-i4", method: "dense" });
  assert.deepEqual(pick([1, 0.5, 1.5], INT8).choose(INT8), { layout: "channels-i8", method: "skip" });
  assert.deepEqual(pick([1, 1.1, 1.5], INT8).choose(INT8), { layout: "pairs-i8", method: "dense" });
});

test("tune: memory is touched the way that is faster over all shapes", () => {
  assert.equal(pick([1, 0.8, 0.9]).touch, "atomic");
  const plain = pick([1, 1.2, 0.7]);
  assert.equal(plain.touch, "plain");
  assert.equal(plain.choose(INT4).method, "stream");
});

test("tune: neither slow first rounds nor slow samples change anything", () => {
  let clock = () => 0;
  const { watch, now } = fakeTime((_shape, { method }) => {
    // not yet optimised for 60 ms, and dense is at its best then; later something else takes the processor for a while
    if (clock() < 60) return method === "dense" ? 0.1 : 3;
    if (clock() > 110 && clock() < 150) return method === "dense" ? 5 : 9;
    return method === "dense" ? 1 : 0.8;
  });
  clock = now;
  assert.equal(tune([INT4], "baseline", new Map(), watch, now).choose(INT4).method, "stream");
});

test("tune: what is known is not timed again", () => {
  const known = new Map<string, number[]>();
  const { watch, now } = fakeTime((_shape, { method }) => method === "dense" ? 1 : 0.5);
  tune([INT4], "baseline", known, watch, now);
  const never = (): number => assert.fail("timed again");
  assert.equal(tune([INT4], "baseline", known, never).choose(INT4).method, "stream");
  assert.equal(tune([{ ...INT4, sparsity: 0.52 }], "baseline", known, never).choose(INT4).method, "stream");
});

test("tune: a way to touch memory that is far behind is not timed further", () => {
  let atomic = 0, plain = 0;
  const { watch, now } = fakeTime((_shape, { method }, touch) => {
    if (method === "dense") return 1;
    if (touch === "atomic") atomic++;
    else plain++;
    return touch === "atomic" ? 5 : 0.7;
  });
  const tuning = tune([INT4], "baseline", new Map(), watch, now);
  assert.equal(tuning.touch, "plain");
  assert.equal(tuning.choose(INT4).method, "stream");
  assert.ok(plain >= atomic + 3, `${atomic} atomic, ${plain} plain samples`);
});

test("tune: where time does not suffice, an even choice is timed and others run as the nearest sparsity", () => {
  const shapes = Array.from({ length: 9 }, (_, i) => ({ ...INT4, sparsity: (i + 1) / 10 }));
  const timed = new Set<number>();
  const { watch, now } = fakeTime(({ sparsity }, { method }) => {
    timed.add(sparsity);
    return method === "dense" ? 3 : sparsity > 0.45 ? 1.5 : 4;
  });
  const known = new Map<string, number[]>(), tuning = tune(shapes, "baseline", known, watch, now);
  assert.ok(now() <= 300, `${now()} ms`);
  assert.ok(now() > 200, "more than half of them would fit otherwise");
  assert.equal(tuning.choose({ ...INT4, sparsity: 0.1 }).method, "dense");
  assert.equal(tuning.choose({ ...INT4, sparsity: 0.9 }).method, "stream");
  assert.equal(tuning.choose({ ...INT4, nIn: 1536 }).method, "dense", "a size that was never timed");
  // the next load finds all of them, and picks the same
  const again = tune(shapes, "baseline", known, () => assert.fail("timed again"), now);
  for (const shape of shapes) assert.deepEqual(again.choose(shape), tuning.choose(shape));
});

test("tune: what went before counts, as do many shapes, and all of it is 300 ms", () => {
  const sizes = [[576, 960], [576, 576], [576, 3072], [1536, 576]] as const;
  const shapes = sizes.flatMap(([nIn, nOut]) =>
    Array.from({ length: 11 }, (_, i) => ({ ...INT4, nIn, nOut, sparsity: i / 10 }))
  );
  for (const [spent, count] of [[0, 4], [50, 4], [100, 4], [0, 44], [50, 44]] as const) {
    // products of less than a sample's 1.5 ms
    const { watch, now } = fakeTime((_shape, { method }) => method === "dense" ? 1.6 : 1.5),
      known = new Map();
    const some = Array.from({ length: count }, (_, i) => shapes[i * shapes.length / count]!);
    tune(some, "baseline", known, watch, now, -spent);
    const what = `${spent} ms before, ${count} shapes: ${now()} ms, ${known.size} timed`;
    assert.ok(spent + now() <= 300 && spent + now() > 270, what);
    assert.ok(known.size >= Math.min(count, 8), what);
  }
});

test("candidates: dense comes first, and the relaxed build's int4 dense is the quad", () => {
  for (const kind of ["channels-f32", "channels-bf16", "i8", "group-i4"] as const) {
    for (const build of ["baseline", "relaxed", "reference"] as const) {
      assert.deepEqual(candidates(kind, build).map(({ method }) => method === "dense"), [true, false]);
    }
  }
  assert.equal(candidates("group-i4", "relaxed")[0]!.layout, "quad-i4");
  assert.equal(candidates("group-i4", "baseline")[0]!.layout, "group-i4");
  assert.equal(UNTUNED.choose(INT4).method, "stream");
});

/** A stopwatch for a model that is so wide. */
async function stopwatch(hiddenSize: number, intermediateSize: number): Promise<Stopwatch> {
  const config = {
    hiddenSize,
    intermediateSize,
    numAttentionHeads: hiddenSize / 64,
    numKeyValueHeads: hiddenSize / 64,
    headDim: 64,
    vocabSize: 64,
    ropeDim: 64,
  } as LlamaConfig;
  const module = await loadKernelModule("baseline");
  return await openStopwatch(config, {
    newMemory: () => newMemory(false),
    create: (memory, touch) => createWasmKernels(module, memory, { touch }),
  });
}

test("openStopwatch: a matrix larger than the made-up weights gets as many as it has", async () => {
  const watch = await stopwatch(4096, 7168);
  for (const choice of candidates("channels-bf16", "baseline")) {
    // 117 MB
    const shape = { ...INT4, kind: "channels-bf16", mins: false, nIn: 4096, nOut: 14336 } as const;
    assert.ok(watch(shape, choice, "atomic") > 0);
  }
});

test("openStopwatch: every candidate of the baseline build takes some time", async () => {
  const watch = await stopwatch(576, 1536);
  for (const kind of ["channels-f32", "channels-bf16", "i8", "group-i4"] as const) {
    for (const choice of candidates(kind, "baseline")) {
      const ms = watch({ ...INT4, kind, mins: kind === "group-i4" }, choice, "atomic");
      assert.ok(ms > 0 && ms < 1000, `${kind} ${choice.method}: ${ms}`);
    }
  }
});

/** This runtime's platform with a cache folder of its own. */
async function withCache(use: (platform: Platform, file: string) => Promise<void>): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), "rsparse-tuning-"));
  try {
    await use({ ...await detectPlatform(), cacheDir: () => folder }, join(folder, "tuning.json"));
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

test("findings: kept for each engine and build, and whatever is broken is measured again", async () => {
  await withCache(async (platform, file) => {
    const found = new Map([["a", [1, 2, 3]]]);
    assert.equal((await readFindings(platform, "baseline")).size, 0);
    await writeFindings(platform, "baseline", found);
    await writeFindings({ ...platform, runtime: "other 1" }, "baseline", new Map([["b", [4]]]));
    assert.deepEqual(await readFindings(platform, "baseline"), found);
    assert.equal((await readFindings(platform, "relaxed")).size, 0);
    assert.equal((await readFindings({ ...platform, cpu: () => "another" }, "baseline")).size, 0);
    const whole = await readFile(file, "utf8");
    for (
      const text of [
        "",
        "null",
        "[]",
        "{",
        whole.slice(0, 40),
        whole.replace("1,", '"x",'),
        whole.replace("1,", "-1,"),
      ]
    ) {
      await writeFile(file, text);
      assert.equal((await readFindings(platform, "baseline")).size, 0, text);
    }
    await writeFindings(platform, "baseline", found);
    assert.deepEqual(await readFindings(platform, "baseline"), found);
  });
});

test("findings: a folder that cannot be written is no error", async () => {
  const platform = { ...await detectPlatform(), cacheDir: () => "/dev/null/no" };
  await writeFindings(platform, "baseline", new Map([["a", [1]]]));
  assert.equal((await readFindings(platform, "baseline")).size, 0);
});

for (
  const [file, dtype, kernels] of [
    ["llama-mixed.gguf", "int4", "baseline"],
    ["llama-f32.gguf", "int8", "baseline"],
    ["llama-f32.gguf", "int8", "relaxed"],
    ["llama-f32.gguf", "f32", "baseline"],
    ["llama-f32.gguf", "bf16", "baseline"],
  ] as const
) {
  const path = `golden/tiny/${file}`;
  test(`Tuning: sparse logits in ${dtype}, ${kernels}, are the same bits whatever was picked`, {
    skip: skipWithout(path) ||
      (kernels === "relaxed" && !hasRelaxedSimd() && "this runtime has no relaxed SIMD"),
  }, async () => {
    const options = { kernels, dtype, threads: 1 } as const;
    await using dense = await Model.load(requireShared(path), options);
    const recipe = await recipeOfThreshold(dense, 0.4, 0.5);
    const ids = [5, 77, 130, 9, 200, 31], logits: Float32Array[][] = [];
    for (const tuning of [allDense(kernels), UNTUNED]) {
      await using model = await Model.load(requireShared(path), { ...options, recipe, tuning });
      using session = model.session();
      logits.push(ids.map((id) => session.decode(id)));
    }
    assert.deepEqual(logits[0], logits[1]);
  });
}
