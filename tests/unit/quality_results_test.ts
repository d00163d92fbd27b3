/** Files of quality results: what is let in, how they are joined, what the page makes of them. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { qualityFigure, seriesOf, skippedShare } from "../../src/analyze/quality.ts";
import {
  mergeQuality,
  parseQuality,
  type QualityRun,
  taskOf,
  tasksMean,
} from "../../src/analyze/quality_results.ts";
import { parseDecode } from "../../tools/bench/decode_results.ts";
import { normalP, qualityReport, sharesOf } from "../../tools/bench/quality_report.ts";
import { compareAll, type PaperReference, type QualityReference } from "../../tools/bench/references.ts";
import { type Loose, qualityDocument } from "../support/quality.ts";
import { rootPath } from "../support/shared.ts";
import { assertWellFormed } from "../support/svg.ts";

const json = <T>(path: string): T => JSON.parse(readFileSync(rootPath(path), "utf8"));
const REFERENCE = json<QualityReference>("bench/reference/quality.json");
const PAPER = json<PaperReference>("bench/reference/paper.json");

const read = (document: Loose, name = "by-site-0.5.json"): QualityRun =>
  parseQuality(JSON.stringify(document), name);
const dense = (): QualityRun => read(qualityDocument({ method: null }), "dense.json");

test("parseQuality: what rsparse eval writes", () => {
  const run = read(qualityDocument());
  assert.deepEqual([run.method, run.sparsity, run.rho, run.prefill], ["by-site", 0.5, 1, "sparse"]);
  assert.deepEqual(run.engines, ["deno 2.9.6 baseline"]);
  assert.equal(taskOf(run, "c4")!.metrics["kl"], 0.38);
  assert.equal(taskOf(run, "piqa")!.pieceLength, null);
  assert.equal(skippedShare(run), 0.49);
  assert.equal(dense().recipe, null);
  assert.equal(
    read(qualityDocument({ method: "r-sparse", rho: 0.95 }), "r-sparse-0.50-tasks.json").rho,
    0.95,
  );
});

test("parseQuality: refuses what does not fit, with its place", () => {
  const cases: [RegExp, (document: Loose) => void][] = [
    [/prefill: "some" found/, (d) => d.prefill = "some"],
    [/part: an object found, a whole evaluation/, (d) => d.part = { number: 1, of: 2 }],
    [/model: nothing found/, (d) => delete d.model],
    [/model\.parameters: -1 found/, (d) => d.model.parameters = -1],
    [/engine\.kernels: nothing found/, (d) => delete d.engine.kernels],
    [/recipe\.sparsity: 1.5 found/, (d) => d.recipe.sparsity = 1.5],
    [/recipe\.sha256: "ab" found/, (d) => d.recipe.sha256 = "ab"],
    [/recipe\.stream: "none" found, sparse, dense or nothing wanted/, (d) => d.recipe.stream = "none"],
    [/note: 1 found/, (d) => d.note = 1],
    [/recipe\.method: "Dense!" found/, (d) => d.recipe.method = "Dense!"],
    [/tasks: a list of 0 found/, (d) => d.tasks = []],
    [/tasks\.0\.name: "wikitext" found/, (d) => d.tasks[0].name = "wikitext"],
    [/tasks: "c4" found, each task once/, (d) => d.tasks[0].name = "c4"],
    [/tasks\.1\.complete: false found/, (d) => d.tasks[1].complete = false],
    [/tasks\.0\.n: 0.5 found/, (d) => d.tasks[0].n = 0.5],
    [/tasks\.0\.pieceLength: nothing found/, (d) => delete d.tasks[0].pieceLength],
    [/tasks\.0\.context: 0 found, a number from 1 to/, (d) => d.tasks[0].context = 0],
    [/tasks\.0\.context: 1023 found, a number from 1 to 1022/, (d) => d.tasks[0].context = 1023],
    [/tasks\.2\.context: 512 found, nothing but of a text/, (d) => d.tasks[2].context = 512],
    [/tasks: "context 512" found, one context of all texts/, (d) => d.tasks[1].context = 512],
    [/tasks\.0\.metrics\.perplexity: 0.5 found/, (d) => d.tasks[0].metrics.perplexity = 0.5],
    [/tasks\.0\.metrics\.perplexity: "28" found/, (d) => d.tasks[0].metrics.perplexity = "28"],
    [/tasks\.0\.metrics: "bits" found/, (d) => d.tasks[0].metrics.bits = 1],
    [/tasks\.0\.metrics: "__proto__" found/, (d) => d.tasks[0].metrics = JSON.parse('{"__proto__": 1}')],
    [/tasks\.0\.metrics: an object found, at least one/, (d) => d.tasks[0].metrics = {}],
    [/tasks\.2\.metrics\.acc: 1.1 found/, (d) => d.tasks[2].metrics.acc = 1.1],
    [/tasks\.2\.stderr\.acc: nothing found/, (d) => d.tasks[2].stderr = {}],
    [/tasks\.2\.dense: nothing found/, (d) => delete d.tasks[2].dense],
    [/tasks\.2\.paired\.acc\.p: 2 found/, (d) => d.tasks[2].paired.acc.p = 2],
    [/tasks\.2\.sparseTokens: 1.2 found/, (d) => d.tasks[2].sparseTokens = 1.2],
  ];
  for (const [wanted, break_] of cases) {
    const document = qualityDocument();
    break_(document);
    assert.throws(() => read(document), wanted);
    assert.throws(() => read(document), /^Error: Cannot read by-site-0\.5\.json: /);
  }
  assert.throws(() => parseQuality("{", "dense.json"), /Cannot read dense\.json: /);
  assert.throws(() => parseQuality("[]", "dense.json"), /a list of 0 found, an object wanted/);
});

test("parseQuality: a file is called after what is in it", () => {
  for (
    const name of [
      "teal-0.5.json",
      "by-site-0.4.json",
      "by-site.json",
      "by-site-0.5.txt",
      "dense.json",
      "by-site-50.json",
    ]
  ) {
    assert.throws(() => read(qualityDocument(), name), /by-site-0\.5\.json or by-site-0\.5-….json/, name);
  }
  assert.throws(() => read(qualityDocument({ method: null }), "by-site-0.5.json"), /dense\.json/);
  // a share that a rule came to
  const came = qualityDocument({ method: "relufication", sparsity: 0.3163896070692274 });
  assert.equal(read(came, "relufication-0.316.json").sparsity, 0.3163896070692274);
  assert.throws(() => read(came, "relufication-0.32.json"), /relufication-0\.316\.json or/);
  const half = qualityDocument({ method: null });
  half.tasks[0].paired = {};
  assert.throws(
    () => read(half, "dense.json"),
    /tasks\.0\.paired: an object found, nothing without a recipe/,
  );
});

test("mergeQuality: joins one recipe's files task by task, keeps apart what is not the same, dense first", () => {
  const part = (over: Loose, tasks: number[], name: string): QualityRun => {
    const document = qualityDocument(over);
    document.tasks = tasks.map((i) => document.tasks[i]);
    return read(document, name);
  };
  const merged = mergeQuality([
    part({}, [0, 1], "by-site-0.5.json"),
    part({ sparsity: 0.4 }, [0], "by-site-0.4.json"),
    part({}, [2], "by-site-0.5-tasks.json"),
    part({ sha256: "cd".repeat(32) }, [0], "by-site-0.5-own.json"),
    part({ prefill: "dense" }, [2], "by-site-0.5-answers.json"),
    dense(),
  ]);
  assert.deepEqual(merged.map(({ files }) => files.join()), [
    "dense.json",
    "by-site-0.4.json",
    "by-site-0.5.json,by-site-0.5-tasks.json",
    "by-site-0.5-answers.json",
    "by-site-0.5-own.json",
  ]);
  assert.deepEqual(merged[2]!.tasks.map(({ name }) => name), ["wikitext2", "c4", "piqa"]);
  assert.throws(
    () => mergeQuality([part({}, [0, 1], "by-site-0.5.json"), part({}, [1], "by-site-0.5-c4.json")]),
    /Cannot join by-site-0\.5\.json and by-site-0\.5-c4\.json: both have c4/,
  );
});

/** One text of a document, changed. */
function textOf(over: Loose, name: string, change: (task: Loose) => void = () => {}): QualityRun {
  const document = qualityDocument(over);
  document.tasks = [document.tasks[0]];
  change(document.tasks[0]);
  return read(document, name);
}

test("mergeQuality: figures with a context apart, what is no text in the file as without", () => {
  const half = { prefill: "dense", context: 512 };
  const both = qualityDocument(half);
  both.tasks = [both.tasks[2], both.tasks[3], both.tasks[0]];
  const runs = mergeQuality([
    read(both, "by-site-0.5-context.json"),
    textOf({ prefill: "dense" }, "by-site-0.5.json"),
    textOf({ method: null }, "dense.json"),
    textOf({ method: null, context: 512 }, "dense-context.json"),
    textOf({ method: null, context: 256 }, "dense-other.json"),
  ]);
  assert.deepEqual(
    runs.filter(({ beside }) => !beside).map(({ method, context, tasks }) =>
      `${method} ${context} ${tasks.map(({ name }) => name)}`
    ),
    [
      "dense 0 wikitext2",
      "dense 512 wikitext2",
      "dense 256 wikitext2",
      "by-site 512 wikitext2",
      "by-site 0 piqa,boolq,wikitext2",
    ],
  );
  const again = qualityDocument({ prefill: "dense" });
  again.tasks = [again.tasks[2]];
  assert.throws(
    () => mergeQuality([read(both, "by-site-0.5-context.json"), read(again, "by-site-0.5-piqa.json")]),
    /by-site-0\.5-context\.json and by-site-0\.5-piqa\.json: both have piqa/,
  );
});

test("mergeQuality: what no dense run has is what sparse ones were held against, for each model and context", () => {
  const dense = (perplexity: number, n: number) => (task: Loose): void => {
    task.dense.metrics.perplexity = perplexity;
    task.n = n;
  };
  const noted = qualityDocument({ sparsity: 0.4 });
  noted.tasks = [noted.tasks[0], noted.tasks[2]];
  noted.note = "in two parts";
  noted.engine.runtime = "node 24";
  noted.tasks[0].dense = { metrics: { perplexity: 26 }, stderr: { perplexity: 0.125 } };
  const runs = [
    textOf({ sparsity: 0.3 }, "by-site-0.3.json", dense(11, 8)),
    read(noted, "by-site-0.4.json"),
    textOf({ sparsity: 0.5 }, "by-site-0.5.json", dense(27, 261)),
    textOf({ sparsity: 0.6 }, "by-site-0.6.json", dense(12, 32)),
    // the most pieces, but of another length than most
    textOf({ sparsity: 0.7 }, "by-site-0.7.json", (task) => {
      dense(31, 522)(task);
      task.pieceLength = 512;
    }),
    textOf({ prefill: "dense", context: 512 }, "by-site-0.5-context.json", dense(21.9, 261)),
  ];
  const made = mergeQuality(runs).filter(({ beside }) => beside);
  assert.deepEqual(mergeQuality(runs).slice(0, 2), made, "first");
  assert.deepEqual(
    made.map((run) => [run.method, run.context, taskOf(run, "wikitext2")!.metrics["perplexity"]]),
    [["dense", 0, 26], ["dense", 512, 21.9]],
  );
  const [whole] = made as [QualityRun];
  assert.deepEqual([whole.files, whole.notes, whole.engines], [["by-site-0.4.json"], ["in two parts"], [
    "node 24 baseline",
  ]]);
  assert.equal(taskOf(whole, "wikitext2")!.stderr["perplexity"], 0.125);
  const { sparseTokens, measuredSparsity, paired } = taskOf(whole, "piqa")!;
  assert.deepEqual([sparseTokens, measuredSparsity, paired], [0, null, {}]);
  // a dense run of one task takes nothing else away, and is not held to be one of another model's
  const some = textOf({ method: null }, "dense.json"), other = qualityDocument({ sparsity: 0.4 });
  other.model.dtype = "int4";
  const merged = mergeQuality([some, ...runs, read(other, "by-site-0.4-int4.json")]);
  assert.deepEqual(
    merged.filter(({ method }) => method === "dense").map(({ model, beside, context, tasks }) =>
      `${model.dtype} ${beside ? "beside" : "own"} ${context} ${tasks.map(({ name }) => name)}`
    ),
    [
      "f32 own 0 wikitext2",
      "f32 beside 0 piqa",
      "int4 beside 0 wikitext2,c4,piqa,boolq",
      "f32 beside 512 wikitext2",
    ],
  );
});

test("seriesOf: a method with what is not usual of it; dense is dense, however prompts would have run", () => {
  assert.equal(seriesOf(read(qualityDocument())), "by-site");
  assert.equal(seriesOf(read(qualityDocument({ prefill: "dense" }))), "by-site, prefill dense");
  assert.equal(seriesOf(read(qualityDocument({ method: null, prefill: "dense" }), "dense.json")), "dense");
  assert.equal(
    seriesOf(read(qualityDocument({ method: "r-sparse", rho: 0.95 }), "r-sparse-0.5.json")),
    "r-sparse, rho 0.95",
  );
  const other = qualityDocument();
  other.recipe.stream = "dense";
  assert.equal(seriesOf(read(other)), "by-site, dense stream");
  assert.equal(
    seriesOf(read(qualityDocument({ prefill: "dense", context: 512 }))),
    "by-site, prefill dense, context 512",
  );
});

test("tasksMean: the mean of shares, and of paired differences with their error", () => {
  const mean = tasksMean(read(qualityDocument()))!;
  assert.deepEqual(mean.tasks, ["piqa", "boolq"]);
  assert.ok(Math.abs(mean.mean - (0.62 + 0.47) / 2) < 1e-12);
  assert.ok(Math.abs(mean.difference! - (-0.04 + 0.06) / 2) < 1e-12);
  assert.ok(Math.abs(mean.stderr! - Math.sqrt(2) * 0.01 / 2) < 1e-12);
  assert.equal(tasksMean(dense())!.difference, null);
});

test("normalP, sharesOf: by hand", () => {
  assert.ok(Math.abs(normalP(1.959964, 1)! - 0.05) < 1e-6);
  assert.ok(Math.abs(normalP(-3, 1)! - 0.0026998) < 1e-6);
  assert.deepEqual([normalP(0, 1)!.toFixed(6), normalP(1, 0), normalP(1, null)], ["1.000000", null, null]);
  // rsparse.md section 3
  assert.deepEqual(sharesOf(134_515_008), { blocks: 106_168_320, head: 28_311_552 });
  assert.equal(sharesOf(134_515_009), null);
});

test("compareAll: a ratio where as much was measured, the reason where not, nothing of another model", () => {
  const compared = compareAll([dense(), read(qualityDocument())], REFERENCE);
  const of = (method: string, figure: string, section: string) =>
    compared.find(({ run, reference, figure: name }) =>
      run.method === method && name === figure && reference.section === section
    )!;
  assert.ok(Math.abs(of("by-site", "wikitext2.perplexity", "3").ratio! - 34.813 / 34.7) < 1e-9);
  assert.ok(Math.abs(of("by-site", "touched", "3").ours - 0.51) < 1e-12);
  assert.match(of("by-site", "tasks.mean8", "3, tasks").reason!, /^winogrande, sciq, .* not run$/);
  assert.equal(of("dense", "c4.perplexity", "2").theirs, 32.042);
  // 21.84 of the second halves of pieces is no counterpart of a whole text's
  assert.deepEqual(compared.filter(({ reference }) => reference.protocol !== undefined), []);
  // thresholds that were set on one stream are beside such, those that were given beside such
  const from = (stream: string | undefined, method = "teal"): (string | null)[] => {
    const document = qualityDocument({ method });
    document.recipe.stream = stream;
    const found = compareAll([read(document, `${method}-0.5.json`)], REFERENCE);
    return [...new Set(found.map(({ reference }) => reference.calibration))];
  };
  assert.deepEqual([from("sparse"), from("dense"), from(undefined)], [
    ["sparse stream"],
    ["dense stream"],
    [],
  ]);
  assert.deepEqual(from(undefined, "by-site"), ["recipe files"]);
  const onlyText = qualityDocument();
  onlyText.tasks.splice(1, 1);
  const touched = compareAll([read(onlyText)], REFERENCE).filter(({ figure }) => figure === "touched");
  assert.deepEqual(touched, [], "the reference's share is of C4");
  const few = qualityDocument();
  few.tasks[0].n = 8;
  const some = compareAll([read(few)], REFERENCE).find(({ figure }) => figure === "wikitext2.perplexity")!;
  assert.deepEqual([some.ratio, some.reason], [null, "8 of 261 pieces"]);
  const other = qualityDocument();
  other.model.parameters = 1;
  assert.deepEqual(compareAll([read(other)], REFERENCE), []);
  assert.deepEqual(compareAll([read(qualityDocument({ prefill: "official" }))], REFERENCE), []);
});

test("compareAll: second halves of pieces beside such alone, a rule's own share beside what it came to there", () => {
  const half = (method: string, sparsity: number, over: Loose = {}): QualityRun => {
    const document = qualityDocument({ method, sparsity, prefill: "dense", context: 512, ...over });
    document.recipe.stream = undefined;
    document.tasks = [document.tasks[0]];
    return read(document, `${method}-${sparsity}.json`);
  };
  const theirs = (run: QualityRun): (number | string | null)[] =>
    compareAll([run], REFERENCE).map(({ theirs, reason }) => reason ?? theirs);
  assert.deepEqual(theirs(half("cats", 0.3)), [34.88]);
  assert.deepEqual(theirs(half("relufication", 0.3199)), [7155, 0.678]);
  // a share that was asked for is that one
  assert.deepEqual(theirs(half("griffin", 0.304)), []);
  assert.deepEqual(theirs(half("cats", 0.3, { context: 256 })), []);
  assert.deepEqual(theirs(half("cats", 0.3, { context: undefined })), []);
  assert.deepEqual(theirs(half("cats", 0.3, { prefill: "sparse" })), []);
  const [beside] = mergeQuality([half("cats", 0.3)]);
  assert.deepEqual(theirs(beside!), [21.84], "dense of section 6, not 25.777");
  // whatever the option of a dense run said
  assert.deepEqual(theirs(textOf({ method: null, prefill: "sparse", context: 512 }, "dense.json")), [21.84]);
});

/** As `rsparse bench decode --recipe FILE --sparsity 0,0.5 --json` prints it. */
function decodeDocument(): Loose {
  const stat = (median: number) => ({ median, min: median - 1, max: median + 1, n: 5 });
  const about = { name: "decode", shape: "Smollm2 135M 8k Lc100K Mix1 Ep2", dtype: "f32" };
  return {
    engine: { runtime: "deno 2.9.6", kernels: "baseline", threads: 1 },
    rows: [
      { ...about, sparsity: 0, variant: "dense", tokensPerSecond: stat(100) },
      {
        ...{ ...about, sparsity: 0.5, variant: "by-site", recipe: "ab".repeat(32) },
        ...{ tokensPerSecond: stat(123.45), speedup: 1.2345 },
      },
    ],
  };
}

test("parseDecode: what rsparse bench decode writes; refuses what is not, with its place", () => {
  const [dense, sparse] = parseDecode(JSON.stringify(decodeDocument()));
  assert.deepEqual([dense!.recipe, dense!.speedup, dense!.engine], [null, null, "deno 2.9.6 baseline"]);
  assert.deepEqual([sparse!.recipe, sparse!.median, sparse!.speedup], ["ab".repeat(32), 123.45, 1.2345]);
  const cases: [RegExp, (document: Loose) => void][] = [
    [/^Error: engine: an object wanted/, (d) => delete d.engine],
    [/engine: runtime and kernels wanted/, (d) => delete d.engine.kernels],
    [/engine\.threads: 1 wanted/, (d) => d.engine.threads = 2],
    [/rows: a list wanted/, (d) => d.rows = {}],
    [/rows\.0: an object wanted/, (d) => d.rows[0] = null],
    [/rows\.0\.name: decode wanted/, (d) => d.rows[0].name = "prefill"],
    [/rows\.0\.recipe: /, (d) => d.rows[0].recipe = "ab".repeat(32)],
    [/rows\.1\.recipe: the SHA-256/, (d) => delete d.rows[1].recipe],
    [/rows\.1\.sparsity: /, (d) => d.rows[1].sparsity = 1],
    [/rows\.1\.tokensPerSecond\.median: a speed/, (d) => d.rows[1].tokensPerSecond.median = 0],
    [/rows\.1\.speedup: a number/, (d) => d.rows[1].speedup = "1"],
  ];
  for (const [wanted, break_] of cases) {
    const document = decodeDocument();
    break_(document);
    assert.throws(() => parseDecode(JSON.stringify(document)), wanted);
  }
});

test("qualityReport: figures, losses, shares read, references, origins, the paper's tables with their marks", () => {
  const runs = mergeQuality([
    dense(),
    read({ ...qualityDocument(), note: "in two parts" }),
    read(qualityDocument({ prefill: "dense" }), "by-site-0.5-answers.json"),
  ]);
  const text = qualityReport({
    runs,
    reference: REFERENCE,
    paper: PAPER,
    speeds: parseDecode(JSON.stringify(decodeDocument())),
    plots: new Map([["Smollm2 135M 8k Lc100K Mix1 Ep2, Q4_1 file, weights in memory f32", "p.svg"]]),
  });
  for (
    const part of [
      "![Quality against sparsity](p.svg)",
      "`prefill: sparse`, prompts sparse too:",
      "`prefill: dense`, prompts dense, answers sparse:",
      // 1 - 0.49 of the blocks, and (106.2 * 0.51 + 28.3) / 134.5 of all
      "| by-site | 0.5 | 34.81 ± 0.50 | 34.81 ± 0.50 | 0.3800 ± 0.010 | 0.6600 ± 0.0040 | 54.5 of 2 | +1.0 ± 0.7, p 0.16 |  | 99.9–100.0 | 51.0 | 61.3 | baseline 123, 1.23x |",
      "| dense | 0 | 25.79 ± 0.50 |",
      "62.0 (**−4.0 ± 1.0, p 0.010**)",
      "47.0 (+6.0 ± 1.0, p 0.40)",
      "| wikitext2.perplexity | 34.81 | 34.7 | 1.003 | 3 |",
      "not comparable: winogrande",
      "`by-site-0.5.json`; deno 2.9.6 baseline; in two parts\n",
      "recipe abababababab",
      "Llama-2-7B, uniform rho against searched, mean of OBQA, ArcE, ArcC and BoolQ, % [paper]",
      "[second hand]",
      "[independent re-test]",
    ]
  ) assert.ok(text.includes(part), `${part}\nin\n${text}`);
  const given = qualityDocument({ method: "griffin", prefill: "dense", context: 512 });
  delete given.recipe.stream;
  const two = qualityReport({
    runs: mergeQuality([
      read(given, "griffin-0.5.json"),
      read(qualityDocument({ prefill: "dense", context: 512 }), "by-site-0.5-context.json"),
      read(qualityDocument()),
      read(qualityDocument({ sparsity: 0.6 }), "by-site-0.6.json"),
      textOf({ sparsity: 0.4 }, "by-site-0.4.json", (task) => task.n = 32),
      textOf({ method: null, context: 256 }, "dense-other.json"),
    ]),
    reference: REFERENCE,
    paper: PAPER,
    speeds: [],
    plots: new Map(),
  });
  const namesOf = (caption: string): string[] =>
    two.split(caption)[1]!.split("\n\n")[1]!.split("\n").slice(2).map((row) =>
      row.split(" | ").slice(0, 2).join(" ")
    );
  const unscored = "of each piece of a text the first token and the";
  const captions = [
    "`prefill: sparse`, prompts sparse too:",
    `\`prefill: sparse\`, prompts sparse too; ${unscored} 256 after`,
    `\`prefill: dense\`, prompts dense, answers sparse; ${unscored} 512 after`,
  ];
  assert.deepEqual(
    captions.map((caption) => two.indexOf(caption)).toSorted((a, b) => a - b),
    captions.map((caption) => two.indexOf(caption)),
  );
  assert.deepEqual(captions.map(namesOf), [
    ["| dense, beside recipes 0", "| by-site 0.4", "| by-site 0.5", "| by-site 0.6"],
    ["| dense 0"],
    ["| dense, beside recipes 0", "| by-site 0.5", "| griffin 0.5"],
  ]);
  for (
    const part of [
      "| by-site | 0.4 | 34.81 ± 0.50, 32 of 261 pieces |",
      "| by-site | 0.5 | 34.81 ± 0.50 |",
      "In another way: the first 512 tokens of each piece of 1,024 dense, the second half scored (`rsparse eval --context 512 --prefill dense`).",
      "| griffin | 0.5 | f32 | prompt | wikitext2.perplexity | 34.81 | 308 | 0.113 | 6 |",
      // a dense model in its sparse self's storage is held against no bar
      "| dense, beside recipes | 0 | f32 |  | wikitext2.perplexity | 25.79 | 25.777 | 1.001 | 10 |",
      "| griffin | 0.4 | prompt | 6 | wikitext2.perplexity 101.9 |",
      "| by-site | 0.4 | sparse stream | 3 | wikitext2.perplexity 28.47, c4.perplexity 35.13, c4.kl 0.179, c4.agreement 0.762, touched 0.601 |",
      "- dense, beside recipes, context 512 (f32): `by-site-0.5-context.json`",
    ]
  ) assert.ok(two.includes(part), `${part}\nin\n${two}`);
  const worse = qualityDocument();
  worse.tasks[0].metrics.perplexity = 40;
  // as of thresholds that were given, which bars are of
  delete worse.recipe.stream;
  const lost = qualityReport({
    runs: [read(worse)],
    reference: REFERENCE,
    paper: PAPER,
    speeds: [],
    plots: new Map(),
  });
  assert.ok(lost.includes("| 40.00 | 34.7 | **1.153, not within 1 %** | 10 |"), lost);
  const none = qualityReport({
    runs: [],
    reference: REFERENCE,
    paper: PAPER,
    speeds: [],
    plots: new Map(),
  });
  assert.ok(none.includes("Nothing measured yet") && none.includes("## Large models, by others"));
});

test("qualityFigure: a line a method, its numbers beside it; nothing where there is only dense", async () => {
  const runs = mergeQuality([
    dense(),
    read(qualityDocument()),
    read(qualityDocument({ sparsity: 0.4 }), "by-site-0.4.json"),
  ]);
  const figure = (await qualityFigure(runs))!;
  assertWellFormed(figure.svg);
  for (const shown of [">by-site<", ">WikiText-2, perplexity<", ">skipped<"]) {
    assert.ok(figure.svg.includes(shown), shown);
  }
  assert.ok(!figure.svg.includes("LAMBADA"));
  const lines = figure.csv.split("\n");
  assert.equal(lines[0], "measure,method,sparsity_asked,skipped_measured,value,recipe_sha256");
  assert.ok(
    lines.includes(`"C4, KL from dense, nats a token",by-site,0.5,0.49,0.38,${"ab".repeat(32)}`),
    figure.csv,
  );
  assert.equal(await qualityFigure([dense()]), null);
  // after a context perplexity is another one: a panel of its own
  const half = read(qualityDocument({ prefill: "dense", context: 512 }), "by-site-0.5-context.json");
  const both = (await qualityFigure(mergeQuality([dense(), read(qualityDocument()), half])))!;
  const ofPanel = (panel: string): (string | undefined)[] =>
    both.csv.split("\n").filter((line) => line.startsWith(`"${panel}"`)).map((line) =>
      line.split(/,(?! )/)[1]
    );
  assert.deepEqual(ofPanel("WikiText-2, perplexity"), ["dense", "by-site"]);
  assert.deepEqual(ofPanel("WikiText-2 after an unscored context, perplexity"), ["dense", "by-site"]);
  assert.deepEqual(ofPanel("C4, perplexity"), ["dense", "by-site"]);
  // 20 times the least and more: in the numbers, not in the plot nor in its legend
  const far = textOf({ method: "low-rank", sparsity: 0.4 }, "low-rank-0.4.json", (task) => {
    task.metrics.perplexity = 1e8;
  });
  const clipped = (await qualityFigure(mergeQuality([dense(), read(qualityDocument()), far])))!;
  assert.ok(clipped.csv.includes("low-rank") && !clipped.svg.includes("low-rank"));
});
