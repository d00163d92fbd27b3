/** `rsparse calibrate` as a person uses it, on a tiny model. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { CLI, failure, json, rsparse, stories } from "../support/cli.ts";
import { skipWithout } from "../support/shared.ts";

const withStories = { skip: skipWithout("data/models/stories260K") };
const withSignals = { skip: withStories.skip || (process.platform === "win32" && "no signals") };

test("calibrate: a recipe by which the model then runs sparse", withStories, async () => {
  const folder = mkdtempSync(join(tmpdir(), "rsparse-cli-")), recipe = join(folder, "half.safetensors");
  const made = await json<{ recipe: string; projections: Record<string, unknown>[] }>(
    ["calibrate", "-m", stories(), "--sparsity", "0.5", "--rho", "0.8", "--tokens", "600", "-o", recipe],
  );
  assert.deepEqual(Object.keys(made), ["recipe", "method", "sparsity", "seconds", "projections"]);
  assert.equal(made.recipe, recipe);
  assert.equal(made.projections.length, 5 * 7);
  assert.deepEqual(Object.keys(made.projections[0]!), [
    "path",
    "score",
    "threshold",
    "rho",
    "rank",
    "channels",
    "sparsity",
  ]);
  assert.deepEqual(readdirSync(folder), ["half.safetensors"]);
  const args = ["generate", "-m", stories(), "-p", "Once upon a time", "-n", "60", "--recipe", recipe];
  const sparse = await json(args);
  assert.equal(sparse.recipe!.sparsity, 0.5);
  assert.match(sparse.recipe!.sha256, /^[0-9a-f]{64}$/);
  assert.ok(Math.abs(sparse.measuredSparsity! - 0.5) < 0.1, `${sparse.measuredSparsity}`);
  const dense = await json([...args, "--sparsity", "0"]);
  assert.deepEqual([dense.recipe!.sparsity, dense.measuredSparsity], [0, null]);
  assert.equal(dense.output.text, (await json(args.slice(0, -2))).output.text);
  // the same recipe at any other sparsity that ranks leave room for
  for (const sparsity of [0.3, 0.755]) {
    const { recipe, measuredSparsity } = await json([...args, "--sparsity", String(sparsity)]);
    assert.equal(recipe!.sparsity, sparsity);
    assert.ok(Math.abs(measuredSparsity! - sparsity) < 0.1, `${measuredSparsity}`);
  }
  await failure(2, /half\.safetensors goes from 0 to 0\.9: give one of these, or 0/, [
    ...args,
    "--sparsity",
    "0.91",
  ]);
  const chat = ["chat", "-m", stories(), "-p", "Hi", "--recipe", recipe, "--sparsity", "0.95"];
  await failure(2, /goes from 0 to 0\.9/, chat);
  const logits = ["logits", "-m", stories(), "--tokens", "1,2,3,4", "--prefill", "sparse"];
  const at = async (...more: string[]): Promise<string> => JSON.stringify(await json([...logits, ...more]));
  const each = await Promise.all(["0", "0.3", "0.5"].map((s) => at("--recipe", recipe, "--sparsity", s)));
  assert.equal(new Set(each).size, 3);
  assert.deepEqual([each[0], each[2]], [await at(), await at("--recipe", recipe)]);
  await failure(2, /goes from 0 to 0\.9/, [...logits, "--recipe", recipe, "--sparsity", "0.99"]);
  await failure(2, /sparsity 0\.5 without a recipe/, [...logits, "--sparsity", "0.5"]);

  const bench = await json<{ rows: Record<string, unknown>[] }>(
    ["bench", "decode", "-m", stories(), "--recipe", recipe, "--sparsity", "0,0.5", "--reps", "3", "-n", "8"],
  );
  assert.deepEqual(bench.rows.map(({ variant, sparsity }) => [variant, sparsity]), [["dense", 0], [
    "r-sparse",
    0.5,
  ]]);
  for (const { tokensPerSecond } of bench.rows) {
    const { median, min, max, n } = tokensPerSecond as Record<string, number>;
    assert.ok(0 < min! && min! <= median! && median! <= max! && n === 3);
  }
  assert.ok(Number(bench.rows[1]!["speedup"]) > 0);
});

test("calibrate: by site, on the sparse stream", withStories, async () => {
  const folder = mkdtempSync(join(tmpdir(), "rsparse-cli-")), recipe = join(folder, "by-site.safetensors");
  const args = ["calibrate", "-m", stories(), "--tokens", "600"];
  const made = await json<{ method: string; projections: { path: string; sparsity: number }[] }>(
    [...args, "--sparsity", "0.5", "-o", recipe],
  );
  assert.equal(made.method, "by-site");
  assert.equal((await json<{ sparsity: number }>([...args.slice(0, 3), "--tokens", "64"])).sparsity, 0.4);
  const down = made.projections.find(({ path }) => path === "model.layers.0.mlp.down_proj");
  assert.equal(down!.sparsity, 0.65);
  const run = ["generate", "-m", stories(), "-p", "Once upon a time", "-n", "60", "--recipe", recipe];
  for (const sparsity of [0.3, 0.5]) {
    const { recipe, measuredSparsity } = await json([...run, "--sparsity", String(sparsity)]);
    assert.deepEqual([recipe!.method, recipe!.sparsity], ["by-site", sparsity]);
    assert.ok(Math.abs(measuredSparsity! - sparsity) < 0.1, `${measuredSparsity}`);
  }
  const bySite = [...args, "--method", "by-site"];
  await failure(2, /--rho with --method by-site: r-sparse alone/, [...bySite, "--rho", "0.9"]);
  await failure(2, /--thresholds with --method by-site/, [
    ...["calibrate", "-m", stories(), "--method", "by-site", "--thresholds", "x.json"],
  ]);
  await failure(2, /--compat official with --method by-site: r-sparse alone/, [
    ...bySite,
    "--compat",
    "official",
  ]);
  await failure(2, /--stream sparse with --compat official/, [
    ...args,
    "--compat",
    "official",
    "--stream",
    "sparse",
  ]);
  await failure(2, /--stream where rank is all/, [...args, "--method", "low-rank", "--stream", "dense"]);
  const dense = [["--method", "r-sparse"], ["--stream", "dense"], ["--method", "low-rank"], ["--rho", "0.9"]];
  for (const way of [...dense, ["--rho", "0"], ["--compat", "official"]]) {
    await failure(2, /Cannot take --dial-streams where thresholds are set on the dense model/, [
      ...[...args, ...way, "--dial-streams", "0.3"],
    ]);
  }
  // what r-sparse alone has means r-sparse, and is said
  for (const option of [["--rho", "1"], ["--compat", "official"]]) {
    const { code, stdout, stderr } = await rsparse([...args, ...option, "--json"]);
    assert.equal(code, 0, stderr);
    assert.equal(JSON.parse(stdout).method, "r-sparse");
    assert.match(stderr, /^method r-sparse, as the options want$/m);
  }
  const recorded = async (...more: string[]): Promise<unknown> => {
    await json([...args, ...more, "-o", recipe]);
    return (await json<{ calibration: { stream: string } }>(["inspect", recipe])).calibration.stream;
  };
  assert.deepEqual(
    [await recorded(), await recorded("--rho", "0.9"), await recorded("--rho", "0.9", "--stream", "sparse")],
    ["sparse", "dense", "sparse"],
  );
});

/** How many files a folder has that a process may be making or removing. */
function countFiles(folder: string): number {
  try {
    return readdirSync(folder).length;
  } catch {
    return 0;
  }
}

/** Starts it and kills it once its state has so many files; what it leaves is as if it had been left long ago. */
function killAt(args: readonly string[], state: string, files: number): Promise<void> {
  const [program, ...before] = CLI as readonly [string, ...string[]];
  const child = spawn(program, [...before, ...args], { stdio: "ignore" });
  const timer = setInterval(() => {
    if (countFiles(state) < files) return;
    clearInterval(timer);
    // false where it has just ended
    child.kill("SIGKILL");
  }, 1);
  return new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("close", () => {
      clearInterval(timer);
      const folder = dirname(state);
      for (const name of readdirSync(folder)) {
        if (/\.(lock|part)$/.test(name)) utimesSync(join(folder, name), 1, 1);
      }
      resolve();
    });
  });
}

test(
  "calibrate -o: killed again and again it goes on, and ends with the same file",
  withSignals,
  async () => {
    const folder = mkdtempSync(join(tmpdir(), "rsparse-cli-")), out = join(folder, "out.safetensors");
    const whole = join(folder, "whole.safetensors"), state = `${out}.state`;
    const inputs = join(state, "inputs.json");
    const ways = [["--sparsity", "0.5"], ["--rho", "0.8", "--stream", "sparse"], ["--rho", "0.8"]];
    let left = 0;
    for (const [i, way] of ways.entries()) {
      const args = ["calibrate", "-m", stories(), "--tokens", "4000", ...way, "-o"];
      await json([...args, whole]);
      // inputs alone; a scale and factors, or a first block; in the middle; nearly all. A busy machine may let it end before it is killed.
      for (const files of i === 0 ? [1, 2, 3] : [1, 2, 20, 37]) {
        await killAt([...args, out], state, files);
        if (existsSync(inputs)) left++;
        else rmSync(out, { force: true });
      }
      const isLeft = existsSync(inputs), { code, stderr } = await rsparse([...args, out]);
      assert.equal(code, 0, stderr);
      assert.equal(/^going on with what an earlier run left in .*\.state$/m.test(stderr), isLeft);
      assert.ok(readFileSync(out).equals(readFileSync(whole)), `${way}: another file`);
      assert.deepEqual(readdirSync(folder).sort(), ["out.safetensors", "whole.safetensors"]);
      rmSync(out);
    }
    assert.ok(left > 0, "no kill of 11 left something to go on with");
    // another run's is of no use, and is not in the way
    const args = ["calibrate", "-m", stories(), "--tokens", "2000", "--sparsity"];
    for (let i = 0; i < 10 && !existsSync(inputs); i++) await killAt([...args, "0.5", "-o", out], state, 2);
    const { code, stderr } = await rsparse([...args, "0.45", "-o", out]);
    assert.equal(code, 0, stderr);
    assert.match(stderr, /out\.safetensors\.state was of a run with another sparsity: it is gone/);
    await json([...args, "0.45", "-o", whole]);
    assert.ok(readFileSync(out).equals(readFileSync(whole)));
    writeFileSync(state, "a file of somebody's");
    await failure(1, /Cannot keep what is done in .*\.state: it is a file/, [...args, "0.5", "-o", out]);
    rmSync(state);
    mkdirSync(state);
    writeFileSync(join(state, "letter.txt"), "Dear Sir");
    await failure(1, /Cannot keep what is done in .*\.state: it is another folder/, [
      ...args,
      "0.5",
      "-o",
      out,
    ]);
    assert.equal(readFileSync(join(state, "letter.txt"), "utf8"), "Dear Sir");
  },
);

test("calibrate: Ctrl-C keeps what is done, exit status 130", withSignals, async () => {
  const folder = mkdtempSync(join(tmpdir(), "rsparse-cli-")), out = join(folder, "out.safetensors");
  let interrupt = (): void => {};
  const timer = setInterval(() => {
    if (countFiles(`${out}.state`) < 3) return;
    clearInterval(timer);
    interrupt();
  }, 1);
  const args = ["calibrate", "-m", stories(), "--tokens", "4000", "--rho", "0.8", "-o", out];
  const { code, stdout, stderr } = await rsparse(args, { onStart: (send) => interrupt = send });
  clearInterval(timer);
  assert.equal(code, 130, stderr);
  assert.equal(stdout, "");
  assert.match(
    stderr,
    /^what is done is kept in .*out\.safetensors\.state: the same command goes on from there$/m,
  );
  assert.ok(!existsSync(out));
  const again = await rsparse(args);
  assert.equal(again.code, 0, again.stderr);
  assert.match(again.stderr, /^going on with/m);
});

test("calibrate: thresholds are taken as they are given", withStories, async () => {
  const folder = mkdtempSync(join(tmpdir(), "rsparse-cli-")), recipe = join(folder, "given.safetensors");
  const given = join(folder, "given.json"), made = join(folder, "made.safetensors");
  const { projections } = await json<{ projections: { path: string; channels: number }[] }>(
    ["calibrate", "-m", stories(), "--tokens", "64", "-o", made],
  );
  const modules = projections.map(({ path, channels }, i) => [path, 0.125 + i, channels, 0]);
  writeFileSync(given, JSON.stringify({ sparsity: 0.5, rho: 1, modules }));
  const result = await json<{ projections: { threshold: number }[] }>(
    ["calibrate", "-m", stories(), "--thresholds", given, "-o", recipe],
  );
  assert.deepEqual(
    result.projections.map(({ threshold }) => threshold),
    modules.map(([, threshold]) => threshold),
  );
  const run = ["generate", "-m", stories(), "-p", "Hi", "-n", "2", "--recipe", recipe, "--sparsity"];
  await failure(2, /given\.safetensors has thresholds for 0\.5 alone: give 0 or 0\.5/, [...run, "0.4"]);
  writeFileSync(given, "{");
  await failure(1, /Cannot read .*given\.json: /, [
    "calibrate",
    "-m",
    stories(),
    "--thresholds",
    given,
    "-o",
    recipe,
  ]);
  const both = ["calibrate", "--thresholds", given, "--rho", "1", "-o", recipe];
  await failure(2, /both --thresholds and --rho/, both);
});

test("calibrate: wrong usage and files that can't be had", withStories, async () => {
  const folder = mkdtempSync(join(tmpdir(), "rsparse-cli-"));
  const args = ["calibrate", "-m", stories(), "-o", join(folder, "no", "such", "folder.safetensors")];
  const alone = await rsparse(["calibrate", "-m", stories(), "--tokens", "32", "--json"]);
  assert.equal((JSON.parse(alone.stdout) as { recipe: unknown }).recipe, null);
  await failure(2, /Cannot take --stream with --rho search/, [
    ...["calibrate", "-m", stories(), "--rho", "search", "--stream", "sparse"],
  ]);
  await failure(2, /Cannot take --kv bf16 with --rho search/, [
    ...["calibrate", "-m", stories(), "--rho", "search", "--kv", "bf16"],
  ]);
  await failure(2, /Allowed choices are by-site/, [...args, "--method", "magic"]);
  await failure(1, /Cannot read \/none\.txt: there is no such file/, [
    "calibrate",
    "-m",
    stories(),
    "--data",
    "/none.txt",
  ]);
  await failure(1, /Cannot write .*: it is a folder/, ["calibrate", "-m", stories(), "-o", folder]);
  await failure(1, /Cannot write .*folder\.safetensors: there is no folder .*such/, [
    ...args,
    "--tokens",
    "32",
  ]);
  const lines = join(folder, "documents.jsonl"), made = join(folder, "made.safetensors");
  writeFileSync(lines, '{"text":"Once upon a time"}\n{"text":"Lily ran."}\n');
  await json(["calibrate", "-m", stories(), "--data", lines, "-o", made]);
  const { calibration } = await json<{ calibration: { source: string; tokens: number } }>(["inspect", made]);
  const tokens = await json<number[][]>(["tokenize", "-m", stories(), "--batch"], {
    input: JSON.stringify(["Once upon a time", "Lily ran."]),
  });
  // each of them followed by one; tokenize puts BOS first, calibration does not
  assert.deepEqual([calibration.source, calibration.tokens], ["documents.jsonl", tokens.flat().length]);
  writeFileSync(lines, '{"text":"Once upon a time"}\n{"txt":"Lily ran."}\n');
  await failure(1, /documents\.jsonl: at byte \d+: line 2: text: nothing found/, [
    ...["calibrate", "-m", stories(), "--data", lines],
  ]);
  writeFileSync(join(folder, "latin1.txt"), new Uint8Array([0x63, 0x61, 0x66, 0xe9]));
  await failure(1, /latin1\.txt: it is not UTF-8/, [
    "calibrate",
    "-m",
    stories(),
    "--data",
    join(folder, "latin1.txt"),
  ]);
});
