/** The four builds of the kernels. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import {
  hasRelaxedSimd,
  loadKernelModule,
  newMemory,
  noSharedMemoryReason,
  withSharedMemory,
} from "../../src/kernels/probe.ts";
import { createWasmKernels } from "../../src/kernels/wasm_kernels.ts";
import { assertSameBits } from "../support/kernels.ts";
import { rootPath } from "../support/shared.ts";

const BUILDS = ["baseline", "baseline.shared", "relaxed", "relaxed.shared"];

function bytesOf(build: string): Uint8Array<ArrayBuffer> {
  return new Uint8Array(readFileSync(rootPath(`build/kernels.${build}.wasm`)));
}

test("builds: all together below 250 kB, each below 80 kB", () => {
  const sizes = BUILDS.map((build) => bytesOf(build).length);
  assert.ok(sizes.every((size) => size > 10_000 && size < 80_000), String(sizes));
  assert.ok(sizes.reduce((a, b) => a + b) < 250_000, String(sizes));
});

for (const build of ["baseline", "relaxed"] as const) {
  const skip = build === "relaxed" && !hasRelaxedSimd() ? "this runtime has no relaxed SIMD" : false;
  test(`builds: ${build} links with plain memory, its shared form with shared memory only`, {
    skip: skip || noSharedMemoryReason() || false,
  }, async () => {
    for (const shared of [false, true]) {
      const file = await WebAssembly.compile(bytesOf(shared ? `${build}.shared` : build));
      for (const module of [file, await loadKernelModule(build, shared)]) {
        assert.equal((await createWasmKernels(module, newMemory(shared))).build, build);
        await assert.rejects(createWasmKernels(module, newMemory(!shared)), WebAssembly.LinkError);
      }
    }
  });
}

test("withSharedMemory: leaves what imports no plain memory as it is", () => {
  for (const bytes of [bytesOf("baseline.shared"), new Uint8Array(8), new Uint8Array()]) {
    assertSameBits(withSharedMemory(bytes), bytes, `${bytes.length} bytes`);
  }
});
