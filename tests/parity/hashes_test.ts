/** The baseline build computes the same bits in every runtime, so one run's logits and texts are every run's. */
import assert from "node:assert/strict";
import process from "node:process";
import { test } from "node:test";
import { runInChromium, skipWithoutChromium } from "../support/chromium.ts";
import { runProgram } from "../support/process.ts";
import { runtimes, scriptCommand, thisRuntime } from "../support/runtimes.ts";
import { skipWithout } from "../support/shared.ts";
import { parityHashes } from "./hashes.ts";

type Hashes = { [name: string]: string };

// One runtime compares all of them: Deno, which `deno task test` always has.
const skip = skipWithout("golden/tiny") ||
  (thisRuntime().name === "deno" ? false : "Deno's run compares all runtimes");

let here: Promise<Hashes> | null = null;

function hashesHere(): Promise<Hashes> {
  return here ??= parityHashes();
}

/** What kinds of projections and sources there are, and that hashes tell them apart. */
test("parity: the cases are what they are said to be", { skip }, async () => {
  const hashes = await hashesHere();
  assert.equal(Object.keys(hashes).length, 2 * (6 * 4 * 2 + 1 + 7));
  for (const [name, hash] of Object.entries(hashes)) {
    assert.match(hash, /^[0-9a-f]{64}$/);
    if (name.endsWith("sparse: logits")) assert.notEqual(hash, hashes[name.replace(", sparse", "")], name);
    if (name.includes(" int8") && name.endsWith("logits")) {
      assert.notEqual(hash, hashes[name.replace(" int8", " f32")], name);
    }
  }
});

// Deno once more, in a process of its own: a run must equal the run before it too.
for (const name of ["deno", "node-20", "node-24", "bun"] as const) {
  const runtime = runtimes().find((found) => found.name === name);
  test(`parity: ${name} computes the bits of this run`, {
    skip: skip || (runtime || process.env["CI"] ? false : `${name} is not there`),
  }, async () => {
    assert.ok(runtime, `${name} is not there`);
    const { code, stdout, stderr } = await runProgram(
      scriptCommand(runtime, "tests/parity/hashes_script.ts"),
    );
    assert.equal(code, 0, stderr);
    await compareWithHere(name, JSON.parse(stdout));
  });
}

test("parity: chromium computes the bits of this run", { skip: skip || skipWithoutChromium() }, async () => {
  const source = `
import { parityHashes } from "./parity/hashes.ts";
export const main = () => parityHashes();
`;
  const hashes = await runInChromium<Hashes>({ source }, { paths: true, timeoutMs: 10 * 60_000 });
  await compareWithHere("chromium", hashes);
});

async function compareWithHere(name: string, found: Hashes): Promise<void> {
  const expected = await hashesHere();
  const different = Object.keys(expected).filter((key) => found[key] !== expected[key]);
  assert.deepEqual(different, [], `${name} differs in these of ${Object.keys(expected).length} cases`);
  assert.deepEqual(Object.keys(found), Object.keys(expected));
}
