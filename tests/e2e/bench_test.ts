import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { failure, json, rsparse, stories } from "../support/cli.ts";
import { skipWithout } from "../support/shared.ts";

interface Stat {
  readonly median: number;
  readonly min: number;
  readonly max: number;
  readonly n: number;
}

interface Row {
  readonly name: string;
  readonly shape: string;
  readonly dtype: string;
  readonly sparsity: number;
  readonly variant: string;
  readonly recipe?: string;
  readonly tokensPerSecond?: Stat;
  readonly ms?: Stat;
  readonly gflops?: Stat;
  readonly gbPerSecond?: Stat;
  readonly speedup?: number;
  readonly measuredSparsity?: number | null;
  readonly method?: string;
  readonly nOut?: number;
  readonly layersHeld?: number;
  readonly layers?: number;
}

interface Report {
  readonly engine: { readonly kernels: string } | null;
  readonly rows: readonly Row[];
}

const withStories = { skip: skipWithout("data/models/stories260K") };
const ONE_BLOCK = ["--shape", "smollm2-135m", "--layers", "1"];

function assertStat(stat: Stat | undefined, n: number): void {
  assert.ok(stat);
  assert.ok(0 < stat.min && stat.min <= stat.median && stat.median <= stat.max, JSON.stringify(stat));
  assert.equal(stat.n, n);
}

test("bench: rows with a median and its spread", withStories, async () => {
  const load = await json<Report>(["bench", "load", "-m", stories(), "--reps", "2"]);
  assert.deepEqual(Object.keys(load.rows[0]!.ms!), ["median", "min", "max", "n"]);
  const { stdout } = await rsparse(["bench", "prefill", "-m", stories(), "--reps", "2", "-n", "16"]);
  assert.match(stdout, /^what +model .*\nprefill +stories260K +f32 +dense .* 2 +tok\/s\n$/);
});

test("bench decode: a model is calibrated for each sparsity that is asked for", withStories, async () => {
  const args = ["bench", "decode", "-m", stories(), "--sparsity", "0,0.5,0.8", "--reps", "2", "-n", "8"];
  const { rows } = await json<Report>(args);
  assert.deepEqual(rows.map(({ sparsity, variant }) => [sparsity, variant]), [
    [0, "dense"],
    [0.5, "r-sparse"],
    [0.8, "r-sparse"],
  ]);
  for (const { name, shape, sparsity, tokensPerSecond, measuredSparsity } of rows) {
    assert.deepEqual([name, shape], ["decode", "stories260K"]);
    assertStat(tokensPerSecond, 2);
    if (sparsity === 0) assert.equal(measuredSparsity, null);
    else assert.ok(Math.abs(measuredSparsity! - sparsity) < 0.15, `${sparsity}: ${measuredSparsity}`);
  }
});

test("bench decode, prefill: a shape with random weights; blocks that are not held are said", async () => {
  const decode = await json<Report>(
    ["bench", "decode", ...ONE_BLOCK, "--sparsity", "0,0.5", "--reps", "2", "-n", "4"],
  );
  assert.deepEqual(
    decode.rows.map(({ name, shape, dtype, layersHeld, layers }) => [name, shape, dtype, layersHeld, layers]),
    [0, 1].map(() => ["decode", "smollm2-135m", "int4", 1, 30]),
  );
  assert.ok(Math.abs(decode.rows[1]!.measuredSparsity! - 0.5) < 0.1, `${decode.rows[1]!.measuredSparsity}`);
  const prefill = await json<Report>(
    ["bench", "prefill", ...ONE_BLOCK, "--dtype", "bf16", "--reps", "1", "-n", "5"],
  );
  assert.equal(prefill.rows.length, 1);
  assert.equal(prefill.rows[0]!.dtype, "bf16");
  assertStat(prefill.rows[0]!.tokensPerSecond, 1);
});

test("bench kernels: every matrix of a token and of a prompt, selection and memory", async () => {
  for (const dtype of ["int4", "int8", "bf16", "f32"]) {
    const { rows, engine } = await json<Report>(
      [
        "bench",
        "kernels",
        ...ONE_BLOCK,
        "--vocab",
        "300",
        "--dtype",
        dtype,
        "--sparsity",
        "0,0.7",
        "--reps",
        "3",
      ],
    );
    assert.match(engine!.kernels, /^(baseline|relaxed)$/);
    for (const name of ["o", "gate_up", "down", "projections", "head", "prefill down", "select", "read"]) {
      const found = rows.filter((row) => row.name === name);
      assert.equal(found.length, ["o", "gate_up", "down", "projections"].includes(name) ? 2 : 1, name);
      for (const row of found) {
        assertStat(row.ms, 3);
        assert.deepEqual([row.shape, row.dtype], ["smollm2-135m", dtype]);
        if (row.sparsity === 0.7) {
          assert.ok(row.speedup! > 0);
          // a share of the channels, rounded up to what a kernel takes at a time, or all of them
          assert.ok(
            [0, 0.7].some((share) => Math.abs(row.measuredSparsity! - share) < 0.1),
            `${row.measuredSparsity}`,
          );
          if (name !== "projections") assert.match(row.method!, /^(dense|skip|stream)$/);
        } else assert.equal(row.method, undefined);
        if (row.sparsity === 0 && name !== "read") assertStat(row.gflops, 3);
      }
    }
    assert.ok(rows.some(({ name }) => name.startsWith("q")));
    assertStat(rows.find(({ name }) => name === "read")!.gbPerSecond, 3);
    assert.equal(rows.find(({ name }) => name === "projections")!.layersHeld, 1);
    assert.equal(rows.find(({ name }) => name === "head")!.nOut, 300);
  }
});

test("bench decode --recipe: dense beside it, or alone", withStories, async () => {
  const folder = mkdtempSync(join(tmpdir(), "rsparse-bench-")), recipe = join(folder, "half.safetensors");
  try {
    await json([
      "calibrate",
      "-m",
      stories(),
      "--sparsity",
      "0.5",
      "--rho",
      "1",
      "--tokens",
      "64",
      "-o",
      recipe,
    ]);
    const args = ["bench", "decode", "-m", stories(), "--recipe", recipe, "--reps", "1", "-n", "4"];
    const { rows } = await json<Report>(args);
    assert.deepEqual(rows.map(({ variant, sparsity }) => [variant, sparsity]), [["dense", 0], [
      "r-sparse",
      0.5,
    ]]);
    assert.deepEqual(rows.map(({ measuredSparsity }) => measuredSparsity === null), [true, false]);
    const sha256 = createHash("sha256").update(readFileSync(recipe)).digest("hex");
    assert.deepEqual(rows.map((row) => row.recipe), [undefined, sha256]);
    assert.equal((await json<Report>([...args, "--sparsity", "0"])).rows.length, 1);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

test("bench: Ctrl-C prints what there is", async () => {
  const args = ["bench", "decode", ...ONE_BLOCK, "--reps", "1000", "-n", "50", "--json"];
  const { code, stdout } = await rsparse(args, { onStart: (interrupt) => setTimeout(interrupt, 3000) });
  assert.equal(code, 130);
  // none where a slow machine was still loading
  for (const { tokensPerSecond } of (JSON.parse(stdout) as Report).rows) {
    assert.ok(tokensPerSecond!.n < 1000, `${tokensPerSecond!.n}`);
  }
});

test("bench: what makes no sense is exit status 2", withStories, async () => {
  const shape = ["--shape", "smollm2-135m"];
  await failure(2, /Allowed choices are decode, prefill, kernels, load/, ["bench", "everything"]);
  await failure(2, /Allowed choices are smollm2-135m/, ["bench", "decode", "--shape", "gpt5"]);
  await failure(2, /both --shape and --model/, ["bench", "decode", ...shape, "-m", stories()]);
  await failure(2, /--recipe belongs to a model/, ["bench", "decode", ...shape, "--recipe", "r"]);
  await failure(2, /--layers is of --shape/, ["bench", "decode", "-m", stories(), "--layers", "2"]);
  await failure(2, /--layers 31: smollm2-135m has 30/, ["bench", "decode", ...shape, "--layers", "31"]);
  await failure(2, /--vocab is of kernels/, ["bench", "decode", ...shape, "--vocab", "300"]);
  await failure(2, /--vocab 50000: smollm2-135m has 49152/, [
    "bench",
    "kernels",
    ...shape,
    "--vocab",
    "50000",
  ]);
  await failure(2, /--shape has no file to load/, ["bench", "load", ...shape]);
  await failure(2, /loading has no tokens/, ["bench", "load", "-m", stories(), "-n", "3"]);
  await failure(2, /it takes no --sparsity/, ["bench", "load", "-m", stories(), "--sparsity", "0.5"]);
  await failure(2, /leave out --recipe/, ["bench", "kernels", "--recipe", "r"]);
  await failure(2, /-n of at least 2/, ["bench", "decode", ...shape, "-n", "1"]);
  await failure(2, /at most 128 tokens/, ["bench", "kernels", ...shape, "-n", "129"]);
  await failure(2, /more than the context of smollm2-135m, 8192/, [
    "bench",
    "prefill",
    ...shape,
    "-n",
    "9000",
  ]);
  await failure(2, /different numbers/, ["bench", "decode", "--sparsity", "0.5,0.5"]);
  await failure(2, /from 0 to below 1/, ["bench", "decode", "--sparsity", "0,1"]);
});
