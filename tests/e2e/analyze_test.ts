/** `rsparse analyze` as a person uses it. */
import assert from "node:assert/strict";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { after, test } from "node:test";
import { babbler, failure, json, rsparse, stories } from "../support/cli.ts";
import { qualityDocument } from "../support/quality.ts";
import { skipWithout } from "../support/shared.ts";
import { assertWellFormed } from "../support/svg.ts";

const skip = skipWithout("data/models"), skipSignals = process.platform === "win32" ? "no SIGINT" : skip;
const folder = mkdtempSync(join(tmpdir(), "rsparse-analyze-"));
after(() => rmSync(folder, { recursive: true, force: true }));

interface Document {
  readonly figures: readonly { readonly name: string; readonly path: string; readonly csv: string }[];
  readonly omitted: readonly { readonly name: string; readonly reason: string }[];
}

/** A figure is whole: SVG from its first to its last tag, CSV with as many cells in each line. */
function assertWhole({ path, csv }: Document["figures"][number]): void {
  const svg = readFileSync(path, "utf8"), lines = readFileSync(csv, "utf8").trimEnd().split("\n");
  assert.ok(svg.startsWith("<svg ") && svg.endsWith("</svg>\n"), path);
  assertWellFormed(svg);
  const cells = lines.map((line) => line.replace(/"[^"]*"/g, "").split(",").length);
  assert.deepEqual([...new Set(cells)].length, 1, csv);
}

test(
  "analyze: every figure with its numbers; the same files again; what is left out, and why",
  { skip },
  async () => {
    const out = join(folder, "all"), again = join(folder, "again/below");
    const args = ["analyze", "-m", stories(), "--tokens", "200", "--out"];
    const { figures, omitted } = await json<Document>([...args, out]);
    assert.deepEqual(figures.map(({ name }) => name), [
      "spectra",
      "effective-rank",
      "contribution",
      "activations",
      "kept",
      "overlap",
      "bias-rank",
    ]);
    assert.deepEqual(omitted, [
      { name: "rho", reason: "no recipe given" },
      { name: "quality", reason: "no results given" },
    ]);
    for (const figure of figures) assertWhole(figure);
    assert.equal(readdirSync(out).length, 2 * figures.length);
    await json<Document>([...args, `${again}/`, "--threads", "1"]);
    for (const name of readdirSync(out)) {
      assert.equal(readFileSync(join(again, name), "utf8"), readFileSync(join(out, name), "utf8"), name);
    }
  },
);

test("analyze: a recipe, some figures, another layer and projection, results of eval", { skip }, async () => {
  const recipe = join(folder, "half.safetensors"),
    out = join(folder, "some"),
    results = join(folder, "results");
  await json([
    "calibrate",
    "-m",
    stories(),
    "--sparsity",
    "0.5",
    "--rho",
    "0.9",
    "--tokens",
    "300",
    "-o",
    recipe,
  ]);
  mkdirSync(results);
  const rows = join(folder, "piqa.jsonl"), story = join(folder, "story.txt");
  writeFileSync(story, "Once upon a time there was a little girl. ".repeat(20));
  writeFileSync(
    rows,
    [0, 1, 0].map((gold) => `${JSON.stringify({ ctx: "She was", choices: ["happy.", "sad."], gold })}\n`)
      .join(""),
  );
  const evaluate = ["eval", "-m", stories(), "--tasks", `piqa:${rows},text:${story}`, "--piece-length", "64"];
  const sparse = await json([...evaluate, "--recipe", recipe]), dense = await json(evaluate);
  writeFileSync(join(results, "r-sparse-0.5.json"), JSON.stringify(sparse));
  writeFileSync(join(results, "dense.json"), JSON.stringify(dense));
  writeFileSync(join(results, "teal-0.5.json"), JSON.stringify(qualityDocument({ method: "teal" })));
  const args = [
    "analyze",
    "-m",
    stories(),
    "--tokens",
    "200",
    "--recipe",
    recipe,
    "--out",
    out,
    "--results",
    results,
  ];
  const { figures, omitted } = await json<Document>([
    ...args,
    ...["--only", "quality,kept, contribution,rho", "--layer", "1", "--projection", "q_proj"],
  ]);
  assert.deepEqual(figures.map(({ name }) => name), ["contribution", "kept", "quality"]);
  assert.deepEqual(omitted, [{ name: "rho", reason: "the recipe has one rho everywhere, 0.9" }]);
  figures.forEach(assertWhole);
  assert.match(readFileSync(join(out, "contribution.svg"), "utf8"), /layer 1, q_proj/);
  assert.match(readFileSync(join(out, "kept.svg"), "utf8"), /sparse, by r-sparse for sparsity 0\.5/);
  // results of another model are not shown
  const numbers = readFileSync(join(out, "quality.csv"), "utf8");
  assert.ok(
    numbers.includes("r-sparse, rho 0.9") && numbers.includes(",dense,") && !numbers.includes("teal"),
    numbers,
  );
});

test("analyze: wrong usage, files that can't be", { skip }, async () => {
  const args = ["analyze", "-m", babbler()], out = join(folder, "none"), file = join(folder, "file");
  writeFileSync(file, "");
  await failure(2, /required option '--out <folder>'/, args);
  await failure(2, /Cannot write figures: --out is empty/, [...args, "--out", ""]);
  await failure(2, /--only <names>.*some of spectra, /, [...args, "--out", out, "--only", "colours"]);
  await failure(2, /--projection <name>/, [...args, "--out", out, "--projection", "lm_head"]);
  await failure(1, /Cannot write figures to .*file: it is a file/, [...args, "--out", file]);
  await failure(1, /Cannot make the folder .*file/, [...args, "--out", join(file, "below")]);
  await failure(1, /Cannot read .*none\.txt: there is no such file/, [
    ...args,
    "--out",
    out,
    "--data",
    "none.txt",
  ]);
  await failure(1, /Cannot analyze: layer: 99 found, 0 to \d+ wanted/, [
    ...args,
    "--out",
    out,
    "--layer",
    "99",
  ]);
  await failure(1, /Cannot analyze: the text has 1 tokens, at least 3 wanted/, [
    ...args,
    "--out",
    out,
    "--data",
    short(),
  ]);
  await failure(1, /Cannot read .*nowhere: there is no such folder: check --results/, [
    ...args,
    ...["--out", out, "--results", join(folder, "nowhere")],
  ]);
  const broken = join(folder, "broken");
  mkdirSync(broken);
  writeFileSync(join(broken, "teal-0.5.json"), "{}");
  await failure(1, /Cannot read teal-0\.5\.json: model: nothing found, an object wanted/, [
    ...args,
    ...["--out", out, "--results", broken],
  ]);
  assert.ok(!existsSync(out) || readdirSync(out).length === 0);
});

/** A text of one character. */
function short(): string {
  const path = join(folder, "short.txt");
  writeFileSync(path, "a");
  return path;
}

test("analyze: Ctrl-C leaves whole figures only, exit status 130", { skip: skipSignals }, async () => {
  const out = join(folder, "interrupted");
  let interrupt = (): void => {};
  const timer = setInterval(() => {
    if (!existsSync(join(out, "effective-rank.csv"))) return;
    clearInterval(timer);
    interrupt();
  }, 5);
  const args = ["analyze", "-m", stories(), "--tokens", "3000", "--out", out, "--json"];
  const { code, stdout, stderr } = await rsparse(args, { onStart: (send) => interrupt = send });
  clearInterval(timer);
  assert.equal(code, 130, stderr);
  const { figures } = JSON.parse(stdout) as Document;
  assert.ok(figures.length >= 1 && figures.length < 7, stdout);
  figures.forEach(assertWhole);
  assert.deepEqual(readdirSync(out).filter((name) => !/\.(svg|csv)$/.test(name)), []);
});
