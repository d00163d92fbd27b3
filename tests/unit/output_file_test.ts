/** Files that `-o` names. */
import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { checkOutput } from "../../src/cli/output_file.ts";
import { detectPlatform } from "../../src/platform/detect.ts";

test("checkOutput: what a process that died left of the same output goes, nothing else", async () => {
  const folder = mkdtempSync(join(tmpdir(), "rsparse-output-"));
  const old = crypto.randomUUID(), fresh = crypto.randomUUID(), long = Date.now() / 1000 - 120;
  const kept = [`out.json.${fresh}.part`, `other.out.json.${old}.part`, `out.json.x.${old}.part`];
  kept.push("out.json.mine.part", "out.json", `out.json.${old}.part.txt`);
  for (const name of [...kept, `out.json.${old}.part`]) {
    writeFileSync(join(folder, name), "some");
    if (!name.includes(fresh)) utimesSync(join(folder, name), long, long);
  }
  await checkOutput(await detectPlatform(), join(folder, "out.json"), "the results");
  assert.deepEqual(readdirSync(folder).sort(), kept.sort());
});
