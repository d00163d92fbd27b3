import assert from "node:assert/strict";
import { test } from "node:test";
import { Arena } from "../../src/kernels/arena.ts";
import { noSharedMemoryReason } from "../../src/kernels/probe.ts";
import { detectPlatform } from "../../src/platform/detect.ts";
import type { Platform } from "../../src/platform/platform.ts";
import { openKernels } from "../../src/runtime/open_kernels.ts";
import type { Workspace } from "../../src/runtime/workspace.ts";

const skip = noSharedMemoryReason() ?? false;

/** How many threads there are, and why not more, for what is asked for on `platform`. */
async function threadsOf(
  threads: number | "auto",
  platform: Platform,
): Promise<[threads: number, reason: string | null]> {
  const factory = await openKernels("baseline", threads, platform), memory = factory.newMemory();
  const kernels = await factory.create(memory, "atomic"), arena = new Arena(memory, kernels.heapBase());
  const scratch = arena.allocate(65536), workspace = { scratch, scratchBytes: 65536 } as Workspace;
  const team = await factory.startTeam(kernels, "atomic", arena, workspace);
  await team.close();
  return [team.threads, team.reason];
}

test("openKernels: auto takes a thread for each processor, at most 8", { skip }, async () => {
  const platform = await detectPlatform();
  assert.ok(platform.processors() >= 1);
  const withProcessors = (n: number) => threadsOf("auto", { ...platform, processors: () => n });
  assert.deepEqual(await withProcessors(3), [3, null]);
  assert.deepEqual(await withProcessors(64), [8, null]);
  assert.deepEqual(await withProcessors(1), [1, "there is one processor"]);
});

test("openKernels: where there are no workers there is one thread, and why", { skip }, async () => {
  const { startWorker: _, ...platform } = await detectPlatform();
  for (const threads of [2, "auto"] as const) {
    assert.deepEqual(await threadsOf(threads, { ...platform, processors: () => 2 }), [
      1,
      "this runtime has no workers",
    ]);
  }
});

test("openKernels: workers that do not start end what asked for them, but not auto", { skip }, async () => {
  const platform: Platform = {
    ...await detectPlatform(),
    processors: () => 2,
    startWorker: () => {
      throw new Error("forbidden");
    },
  };
  await assert.rejects(threadsOf(2, platform), /Cannot start thread 2 of 2: Error: forbidden/);
  const [threads, reason] = await threadsOf("auto", platform);
  assert.equal(threads, 1);
  assert.match(reason!, /Cannot start thread 2 of 2: Error: forbidden/);
});
