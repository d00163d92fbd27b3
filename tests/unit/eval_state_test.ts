/** Finished rows of an evaluation on disk. */
import assert from "node:assert/strict";
import {
  appendFileSync,
  copyFileSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { EvalState } from "../../src/cli/eval_state.ts";
import type { RowResult } from "../../src/eval/mod.ts";
import { detectPlatform } from "../../src/platform/detect.ts";

const INPUTS = { model: "abc", prefill: "sparse", files: { piqa: "1" } };

function row(score: number): RowResult {
  return {
    scores: [score, 1 / 3],
    denseScores: null,
    lengths: [1, 2],
    gold: 0,
    work: { kept: 1, dense: 2, sparse: 3, positions: 4 },
  };
}

async function inFolder(use: (path: string) => Promise<void>): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), "rsparse-eval-"));
  try {
    await use(join(folder, "out.json.rows.jsonl"));
    assert.deepEqual(readdirSync(folder).filter((name) => name.endsWith(".part")), []);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

test("EvalState: what was added is there for the next run, to the bit", () =>
  inFolder(async (path) => {
    const platform = await detectPlatform(), first = await EvalState.open(platform, path, INPUTS);
    assert.deepEqual([first.ms, first.finished("piqa")], [0, []]);
    await first.add("piqa", row(-0.1), 5);
    await first.add("sciq", row(-1e-300), 6);
    await first.add("piqa", row(-2), 7);
    // as after kill -9: not closed, its lock no longer touched
    const other = `${path}.2`, long = new Date(Date.now() - 60_000);
    copyFileSync(path, other);
    writeFileSync(`${other}.lock`, "");
    utimesSync(`${other}.lock`, long, long);
    const second = await EvalState.open(platform, other, INPUTS, { waitMs: 0 });
    assert.equal(second.ms, 18);
    assert.deepEqual(second.finished("piqa"), [row(-0.1), row(-2)]);
    assert.deepEqual(second.finished("sciq"), [row(-1e-300)]);
    await first.close();
    await second.remove();
    assert.ok(!existsSync(other) && !existsSync(`${other}.lock`));
  }));

test("EvalState: a line that was cut in the middle is left out, and the next one begins after it", () =>
  inFolder(async (path) => {
    const platform = await detectPlatform(), first = await EvalState.open(platform, path, INPUTS);
    await first.add("piqa", row(-1), 5);
    await first.close();
    appendFileSync(path, '{"task":"piqa","result":{"scor');
    const second = await EvalState.open(platform, path, INPUTS);
    assert.deepEqual(second.finished("piqa"), [row(-1)]);
    await second.add("piqa", row(-3), 5);
    await second.close();
    const third = await EvalState.open(platform, path, INPUTS);
    assert.deepEqual(third.finished("piqa"), [row(-1), row(-3)]);
    await third.add("piqa", row(-4), 5);
    await third.close();
    // rows after a broken one are not known to follow those before it
    writeFileSync(path, readFileSync(path, "utf8").replace('{"scores":[-3', '{"scores":['));
    const fourth = await EvalState.open(platform, path, INPUTS);
    assert.deepEqual(fourth.finished("piqa"), [row(-1)]);
    await fourth.close();
    // nor does a file help that was cut in its first line, or is empty
    for (const cut of [0, 10]) {
      writeFileSync(path, readFileSync(path).subarray(0, cut));
      const again = await EvalState.open(platform, path, INPUTS);
      assert.deepEqual(again.finished("piqa"), []);
      await again.close();
    }
  }));

test("EvalState: who comes second is refused, and hurts nothing", () =>
  inFolder(async (path) => {
    const platform = await detectPlatform(), first = await EvalState.open(platform, path, INPUTS);
    await first.add("piqa", row(-1), 5);
    const waits: string[] = [];
    await assert.rejects(
      EvalState.open(platform, path, INPUTS, { waitMs: 0, onWait: (path) => waits.push(path) }),
      /^Error: Cannot go on with .*rows\.jsonl: another process is at it: wait for its end, or give another -o$/,
    );
    assert.deepEqual(waits, [path]);
    await assert.rejects(
      EvalState.open(platform, path, INPUTS, { signal: AbortSignal.abort(new Error("no more")) }),
      /^Error: no more$/,
    );
    await first.add("piqa", row(-2), 5);
    await first.close();
    const second = await EvalState.open(platform, path, INPUTS, { waitMs: 0 });
    assert.deepEqual(second.finished("piqa"), [row(-1), row(-2)]);
    await second.close();
  }));

test("EvalState: rows of another run are not taken", () =>
  inFolder(async (path) => {
    const platform = await detectPlatform();
    await (await EvalState.open(platform, path, INPUTS)).close();
    await assert.rejects(
      EvalState.open(platform, path, { ...INPUTS, prefill: "dense" }),
      /Cannot go on with .*rows\.jsonl: it is of a run with another prefill: "sparse" found, "dense" wanted: remove it/,
    );
    await assert.rejects(
      EvalState.open(platform, path, { ...INPUTS, files: { piqa: "2" } }),
      /another files/,
    );
    writeFileSync(path, "null\nnull\n");
    await assert.rejects(EvalState.open(platform, path, INPUTS), /another model: nothing found/);
    writeFileSync(path, "something else\n");
    await assert.rejects(EvalState.open(platform, path, INPUTS), /another model: nothing found/);
    assert.equal(readFileSync(path, "utf8"), "something else\n");
  }));
