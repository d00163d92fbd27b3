/** `rsparse pack`, and what knows packs; the embedded model by its name. */
import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { failure, json, rsparse, type RunDocument, stories } from "../support/cli.ts";
import { skipWithout } from "../support/shared.ts";

const withStories = { skip: skipWithout("data/models/stories260K") };
const folder = mkdtempSync(join(tmpdir(), "rsparse-pack-"));
after(() => rmSync(folder, { recursive: true, force: true }));
const at = (name: string): string => join(folder, name);

test("pack: one file with model, tokenizer and recipe, that runs as its parts do", withStories, async () => {
  const recipe = at("r.safetensors"), pack = at("s.rsparse"), card = at("card.md");
  writeFileSync(card, "# Stories\n\nA story teller.\n");
  await json([
    "calibrate",
    "-m",
    stories(),
    "--dtype",
    "int8",
    "--tokens",
    "256",
    "-o",
    recipe,
  ]);
  const made = await json<{ path: string; bytes: number; sections: { name: string; bytes: number }[] }>(
    [
      "pack",
      "-m",
      stories(),
      "--recipe",
      recipe,
      "--dtype",
      "int8",
      "-o",
      pack,
      "--license",
      "MIT",
      "--name",
      "told",
      "--card",
      card,
    ],
  );
  assert.deepEqual([made.path, made.bytes], [pack, statSync(pack).size]);
  assert.deepEqual(made.sections.map(({ name }) => name), ["header", "tokenizer", "recipe", "weights"]);
  assert.equal(made.sections.reduce((sum, { bytes }) => sum + bytes, 0), made.bytes);
  assert.equal(made.sections[2]!.bytes, statSync(recipe).size);
  assert.deepEqual(readdirSync(folder).filter((name) => name.endsWith(".part")), []);

  const shown = await json<Record<string, unknown>>(["inspect", pack]);
  assert.deepEqual(
    [shown["format"], shown["name"], shown["license"], shown["card"], shown["quantization"]],
    ["pack", "told", "MIT", readFileSync(card, "utf8"), "I8"],
  );
  assert.deepEqual((shown["recipe"] as { sparsity: number; to: number }).sparsity, 0.4);

  const run = (...more: string[]) =>
    json<RunDocument>([
      "generate",
      "-p",
      "Once upon a time",
      "-n",
      "24",
      "--kernels",
      "baseline",
      "--threads",
      "1",
      ...more,
    ]);
  const whole = ["-m", stories(), "--dtype", "int8"];
  const [dense, own, sparse, ownSparse] = [
    await run(...whole),
    await run("-m", pack),
    await run(...whole, "--recipe", recipe, "--sparsity", "0.3"),
    await run("-m", pack, "--sparsity", "0.3"),
  ];
  assert.deepEqual(own.output, dense.output);
  assert.equal(own.recipe, null);
  assert.deepEqual(ownSparse.recipe, sparse.recipe);
  // the tuner may have taken another kernel for the whole model, which in the baseline build changes no bit
  assert.deepEqual(ownSparse.output, sparse.output);
  assert.notDeepEqual(ownSparse.output.tokens, own.output.tokens);
  await failure(2, /goes from 0 to 0\.9/, ["generate", "-m", pack, "-p", "a", "--sparsity", "0.95"]);
});

test("pack: what cannot be packed is said before anything is written", withStories, async () => {
  const out = at("x.rsparse"), other = at("other.safetensors");
  writeFileSync(other, "no recipe");
  await failure(1, /Cannot read .*other\.safetensors/, [
    "pack",
    "-m",
    stories(),
    "--recipe",
    other,
    "-o",
    out,
  ]);
  await failure(1, /there is no folder/, ["pack", "-m", stories(), "-o", at("none/x.rsparse")]);
  await failure(2, /required option '-o/, ["pack", "-m", stories()]);
  await failure(2, /Allowed choices/, ["pack", "-m", stories(), "--dtype", "int3", "-o", out]);
  assert.ok(!readdirSync(folder).includes("x.rsparse"));
  writeFileSync(out, "89");
  await failure(1, /Cannot read .*x\.rsparse: at byte 0: no pack/, ["generate", "-m", out, "-p", "a"]);
});

test("tiny: the embedded model is what runs when none is named", async () => {
  const [listed] = await json<{ name: string; source: string; bytes: number; cached: boolean }[]>(["models"]);
  assert.deepEqual([listed!.name, listed!.source, listed!.cached], ["tiny", "embedded", true]);
  const pulled = await json<{ path: string; bytes: number; from: string }>(["pull", "tiny"]);
  assert.deepEqual([pulled.bytes, pulled.from], [listed!.bytes, "package"]);
  assert.ok(listed!.bytes <= 2 ** 24, `${listed!.bytes} bytes are more than 16 MiB`);
  // nothing that it would download from is there
  const env = { RSPARSE_HOME: at("home"), HF_ENDPOINT: "http://127.0.0.1:9" };
  const named = await json(["generate", "-m", "tiny", "-p", "Hello", "-n", "8", "--ignore-eos"], { env });
  const prompt = ["-p", "Hello", "-n", "8", "--ignore-eos"],
    unnamed = await json(["generate", ...prompt], { env });
  assert.equal(unnamed.output.count, 8);
  assert.deepEqual(unnamed.output, named.output);
  const sparse = await json(["generate", ...prompt, "--sparsity", "0.5"], { env });
  assert.ok(Math.abs(sparse.measuredSparsity! - 0.5) < 0.15, `${sparse.measuredSparsity}`);
});

test("demo: the same prompt dense and at 50 % on the embedded model", async () => {
  const { code, stdout } = await rsparse(["demo", "-n", "12", "--quiet"], {
    env: { RSPARSE_HOME: at("home") },
  });
  assert.equal(code, 0);
  assert.match(
    stdout,
    /^> .*\n\ndense:\n[\s\S]*\n\[\d+ tokens[\s\S]*sparse, 50 % of the multiply-adds skipped:\n[\s\S]*measured sparsity 0\.\d+\]/,
  );
});
