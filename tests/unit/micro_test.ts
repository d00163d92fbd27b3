/** Micro-benchmarks: every kernel has one, and each can run. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { type Exports, microCases, microMemory } from "../../bench/micro/cases.ts";
import { resultOf, timeCases } from "../../bench/micro/own.ts";
import { hasRelaxedSimd, loadKernelModule } from "../../src/kernels/probe.ts";

for (const build of ["baseline", "relaxed"] as const) {
  const skip = build === "relaxed" && !hasRelaxedSimd() ? "this runtime has no relaxed SIMD" : false;
  test(`microCases: every export of the ${build} build has a case, and each runs`, { skip }, async () => {
    const module = await loadKernelModule(build), memory = microMemory();
    const { exports } = await WebAssembly.instantiate(module, { env: { memory } });
    const cases = microCases(exports as unknown as Exports, memory);
    const kernels = WebAssembly.Module.exports(module).filter(({ kind }) => kind === "function").map((
      { name },
    ) => name);
    const without = kernels.filter((name) => !cases.some(({ kernel }) => kernel === name));
    assert.deepEqual(without, [], "exports without a micro-benchmark: add them to bench/micro/cases.ts");
    assert.equal(new Set(cases.map(({ name }) => name)).size, cases.length, "names differ");
    for (const { run } of cases) run();
    assert.equal(memory.buffer.byteLength, microMemory().buffer.byteLength, "nothing grew the memory");
  });
}

test("timeCases: calls are counted, and rates follow from the median", () => {
  let calls = 0;
  const one = { group: "g", name: "n", kernel: "k", run: () => void calls++, macs: 1000, bytes: 500 };
  const [result] = timeCases([one], 3);
  assert.equal(result!.ms.n, 3);
  assert.ok(calls > 100, `${calls}`);
  const stat = { median: 0.5, min: 0.25, max: 1, n: 4 };
  assert.deepEqual(resultOf(one, stat, 2.5), {
    group: "g",
    name: "n",
    kernel: "k",
    ms: stat,
    margin: 2.5,
    gmacs: 0.002,
    gbPerSecond: 0.001,
  });
  const { macs: _, bytes: __, ...bare } = one;
  assert.deepEqual(Object.keys(resultOf(bare, stat)), ["group", "name", "kernel", "ms"]);
});
