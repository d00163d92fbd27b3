/** What a calibration has done, on disk. */
import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { CalibrateState } from "../../src/cli/calibrate_state.ts";
import { detectPlatform } from "../../src/platform/detect.ts";
import type { Platform } from "../../src/platform/platform.ts";

const platform = await detectPlatform();
const BYTES = Uint8Array.of(1, 2, 3);

/** A platform whose process dies in its `last`-th removal: of a folder then what says whose it is alone is gone, since no order is promised. */
function dying(last: number): Platform {
  let count = 0;
  return {
    ...platform,
    async remove(path) {
      if (++count < last) return await platform.remove(path);
      if (path.endsWith(".state")) rmSync(join(path, "inputs.json"));
      throw new Error("killed");
    },
  };
}

test("CalibrateState: killed while it is removed, the next run goes on", async () => {
  // three files and the folder
  for (const isOther of [false, true]) {
    for (let last = 1; last <= 4; last++) {
      const path = join(mkdtempSync(join(tmpdir(), "rsparse-state-")), "out.state");
      const made = await CalibrateState.open(platform, path, { sparsity: 0.5 });
      for (const name of ["a factor", "stream 1", "z factor"]) await made.put(name, BYTES);
      await made.close();
      if (isOther) {
        await assert.rejects(CalibrateState.open(dying(last), path, { sparsity: 0.4 }), /killed/);
      } else {
        const state = await CalibrateState.open(dying(last), path, { sparsity: 0.5 });
        await assert.rejects(state.remove(), /killed/);
        await state.close();
      }
      const next = await CalibrateState.open(platform, path, { sparsity: 0.5 });
      assert.equal(next.isResumed, last < 4);
      assert.deepEqual(await next.get("a factor"), last < 2 ? BYTES : null);
      assert.deepEqual(await next.get("z factor"), last < 4 ? BYTES : null);
      await next.put("a factor", BYTES);
      await next.remove();
      await next.close();
      assert.ok(!existsSync(path));
    }
  }
});

test("CalibrateState: one process at a time", async () => {
  const home = mkdtempSync(join(tmpdir(), "rsparse-state-")), path = join(home, "out.state");
  const first = await CalibrateState.open(platform, path, {});
  await first.put("factor", BYTES);
  let waits = 0;
  const abort = new AbortController();
  const onWait = (): void => {
    waits++;
    abort.abort();
  };
  await assert.rejects(CalibrateState.open(platform, path, {}, { signal: abort.signal, onWait }), {
    name: "AbortError",
  });
  // nothing of another's is touched, whatever its inputs
  const sleep = globalThis.setTimeout;
  globalThis.setTimeout = ((call: () => void) => sleep(call, 0)) as typeof setTimeout;
  try {
    await assert.rejects(
      CalibrateState.open(platform, path, { sparsity: 0.4 }, { onWait: () => waits++ }),
      /^Error: Cannot keep what is done in .*out\.state: another process is at work on the same file/,
    );
  } finally {
    globalThis.setTimeout = sleep;
  }
  assert.equal(waits, 2);
  assert.deepEqual(await first.get("factor"), null, "a run that began has nothing of an earlier one");
  await first.close();
  const second = await CalibrateState.open(platform, path, {});
  assert.deepEqual(await second.get("factor"), BYTES);
  await second.close();
  // one that fails keeps nobody out
  rmSync(path, { recursive: true });
  writeFileSync(path, "a file of somebody's");
  await assert.rejects(CalibrateState.open(platform, path, {}), /it is a file/);
  assert.deepEqual(readdirSync(home), ["out.state"]);
});
