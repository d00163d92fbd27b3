/** The results page's part on quality, in Markdown: pure, from what was read. */
import {
  CHOICE_METRICS,
  type QualityRun,
  type QualityTask,
  shortShare,
  taskOf,
  tasksMean,
} from "../../src/analyze/quality_results.ts";
import { methodOf, seriesOf, skippedShare } from "../../src/analyze/quality.ts";
import { SHAPES } from "../../src/cli/bench/shapes.ts";
import { type LlamaConfig, PROJECTIONS, projectionShape } from "../../src/model/config.ts";
import type { DecodeSpeed } from "./decode_results.ts";
import { number, table } from "./markdown.ts";
import { compareAll, type Compared, type PaperReference, type QualityReference } from "./references.ts";

/** What the page is made from. */
export interface QualityInput {
  /** Merged. */
  readonly runs: readonly QualityRun[];
  readonly reference: QualityReference;
  readonly paper: PaperReference;
  readonly speeds: readonly DecodeSpeed[];
  /** The plot of a group of runs, by {@linkcode groupOf}: its path in the page. */
  readonly plots: ReadonlyMap<string, string>;
}

/** Runs that stand in one table. */
export function groupOf({ model }: QualityRun): string {
  return `${model.name}, ${model.quantization} file, weights in memory ${model.dtype}`;
}

/** Both sections: our quality, and the paper's. */
export function qualityReport(input: QualityInput): string {
  const { runs, plots } = input, groups = [...new Set(runs.map(groupOf))];
  const parts = groups.length === 0
    ? [
      "Nothing measured yet: put the output of `rsparse eval --json` into `bench/results/quality/`, called after what is in it: `dense.json`, `by-site-0.5.json`.",
    ]
    : groups.flatMap((group) => {
      const own = runs.filter((run) => groupOf(run) === group), plot = plots.get(group);
      return [
        groups.length > 1 ? `### ${group}` : `${group}.`,
        ...(plot === undefined ? [] : [`![Quality against sparsity](${plot})`]),
        ...prefillTables(own, input.speeds),
        tasksTables(own),
      ];
    });
  return [
    "## Quality",
    "From the files in `bench/results/quality/`, each the output of `rsparse eval --json`, with a note where one is due ([how it is measured](evaluation.md)). `±` is a standard error; a difference is sparse minus dense on the same rows, **in bold** where sparse is worse and p < 0.05.",
    ...(groups.length === 0 ? [] : [columnsNote(runs)]),
    ...parts,
    referenceSection(input),
    originList(runs),
    paperSection(input.paper),
  ].filter((part) => part !== "").join("\n\n");
}

/** One table for each way to treat prompts, and each context that was not scored, dense on top of each. */
function prefillTables(runs: readonly QualityRun[], speeds: readonly DecodeSpeed[]): string[] {
  const tables = new Map<string, Pick<QualityRun, "prefill" | "context">>();
  const add = ({ prefill, context }: QualityRun): unknown =>
    tables.set(`${prefill} ${context}`, { prefill, context });
  runs.filter(({ method }) => method !== "dense").forEach(add);
  // dense runs stand on top of sparse ones of their context; where there are none, alone
  for (const run of runs) {
    if ([...tables.values()].every(({ context }) => context !== run.context)) add(run);
  }
  const explain = {
    sparse: "prompts sparse too",
    dense: "prompts dense, answers sparse",
    official: "the first nine tenths dense, as the paper's code",
  };
  return [...tables.values()].sort((a, b) => a.context - b.context).map(({ prefill, context }) => {
    const own = runs.filter((run) =>
      run.context === context && (run.method === "dense" || run.prefill === prefill)
    );
    const unscored = context === 0
      ? ""
      : `; of each piece of a text the first token and the ${context} after it are not scored, so nothing here compares with whole pieces`;
    return `\`prefill: ${prefill}\`, ${explain[prefill]}${unscored}:\n\n${mainTable(own, speeds)}`;
  });
}

function mainTable(runs: readonly QualityRun[], speeds: readonly DecodeSpeed[]): string {
  const rows = runs.map((run) => {
    const wikitext = taskOf(run, "wikitext2"),
      c4 = taskOf(run, "c4"),
      lambada = taskOf(run, "lambada_openai");
    const mean = tasksMean(run), skipped = skippedShare(run), shares = sharesOf(run.model.parameters);
    return [
      methodOf(run),
      String(shortShare(run.sparsity)),
      withError(wikitext, "perplexity") + ofPieces(runs, wikitext),
      withError(c4, "perplexity") + ofPieces(runs, c4),
      withError(c4, "kl"),
      withError(c4, "agreement"),
      mean === null ? "" : `${percent(mean.mean)} of ${mean.tasks.length}`,
      mean?.difference == null
        ? ""
        : difference(mean.difference, mean.stderr, normalP(mean.difference, mean.stderr)),
      lambada === undefined ? "" : percent(lambada.metrics["acc"] ?? null),
      sparseShare(run),
      skipped === null ? "" : percent(1 - skipped),
      skipped === null || shares === null
        ? ""
        : percent((shares.blocks * (1 - skipped) + shares.head) / (shares.blocks + shares.head)),
      speedOf(run, speeds),
    ];
  });
  return table([
    "method",
    "sparsity",
    "WikiText-2 perplexity",
    "C4 perplexity",
    "C4 KL",
    "same token",
    "tasks, %",
    "difference, p",
    "LAMBADA, %",
    "sparse tokens, %",
    "block weights read, %",
    "all weights read, %",
    "decode",
  ], rows);
}

/** What the columns of the main tables are, once for all of them. */
function columnsNote(runs: readonly QualityRun[]): string {
  const q41 = runs.some(({ model }) => model.quantization === "Q4_1")
    ? "; in a Q4_1 file, where a block's weight has 5 bits and one of the output matrix 8.5, the latter is 31 % of the bytes of a dense token"
    : "";
  return `*Dense, beside recipes*: what sparse runs were held against, matrices laid out to be skipped ([which positions are sparse](evaluation.md#which-positions-are-sparse)). *Tasks*: mean accuracy (OpenBookQA, HellaSwag and ARC-Challenge by length) over those that were run; the error of its difference adds the tasks' up, p is that of a normal distribution. *Block weights read*: share of the blocks' weights that a sparse token's products touch, factors included, as measured (of WikiText-2 where it was run); *all weights* counts the output matrix too, which stays dense. Where both are kept in one type these are shares of bytes as well${q41}. *Decode*: tokens/s of this very recipe on one thread, and times dense, which took turns with it in one process (\`rsparse bench decode\`, files in \`bench/results/decode/\`); this machine is shared, so compare the ratios.`;
}

/** Each task of several choices, LAMBADA and XSum, with what sparsity did to it. */
function tasksTables(runs: readonly QualityRun[]): string {
  const names = [...Object.keys(CHOICE_METRICS), "lambada_openai", "xsum"].filter((name) =>
    runs.some((run) => taskOf(run, name) !== undefined)
  );
  if (names.length === 0) return "";
  const rows = runs.filter((run) => names.some((name) => taskOf(run, name) !== undefined)).map((run) => [
    seriesOf(run),
    String(shortShare(run.sparsity)),
    ...names.map((name) => {
      const task = taskOf(run, name), metric = CHOICE_METRICS[name] ?? (name === "xsum" ? "rougeL" : "acc");
      const value = task?.metrics[metric];
      if (task === undefined || value == null) return "";
      const pair = task.paired[metric];
      return `${percent(value)}${
        pair === undefined ? "" : ` (${difference(pair.difference, pair.stderr, pair.p)})`
      }`;
    }),
  ]);
  return `Task by task, % (difference ± its error, p of McNemar's exact test, of XSum's ROUGE-L of a sign-flip test); rows: ${
    names.map((name) => {
      const sizes = [...new Set(runs.flatMap((run) => taskOf(run, name)?.n ?? []))];
      return `${name} ${sizes.join(" or ")}`;
    }).join(", ")
  }:\n\n${table(["method", "sparsity", ...names], rows)}`;
}

function referenceSection({ runs, reference }: QualityInput): string {
  const compared = compareAll(runs, reference);
  const tableOf = (protocol: string | undefined): string => {
    const rows = compared.filter((one) => one.reference.protocol === protocol).map(comparedCells);
    if (rows.length === 0) return "None of the figures above has a counterpart there.";
    const header = [
      "method",
      "sparsity",
      "ours in",
      "theirs calibrated on",
      "figure",
      "ours",
      "theirs",
      "ratio",
      "section",
    ];
    return table(header, rows);
  };
  return [
    "### Beside an independent implementation",
    `${reference.source}. Only rows of one method, sparsity and rho stand beside each other, and a ratio only where as many rows or pieces were run; and thresholds that were set on one stream beside such. Bars are those of section 10, for activations in float32 or 12 bits: with weights in int4 the relaxed build takes 8 bits of them, in groups, which costs a dense model 0.25 % ([numerics](numerics.md)).`,
    tableOf(undefined),
    ...Object.entries(reference.protocols).flatMap(([name, { text, prefill, context }]) => [
      `In another way: ${text} (\`rsparse eval --context ${context} --prefill ${prefill}\`).`,
      tableOf(name),
    ]),
    notRun(compared, reference),
  ].filter((part) => part !== "").join("\n\n");
}

function comparedCells({ run, reference, figure, ours, theirs, ratio, reason }: Compared): string[] {
  return [
    methodOf(run),
    String(shortShare(run.sparsity)),
    run.model.dtype,
    reference.calibration ?? "",
    figure,
    fourDigits(ours),
    String(theirs),
    // no bar is of a dense model in whatever storage its sparse self has
    ratio === null
      ? `not comparable: ${reason}`
      : verdict(ratio, run.beside ? undefined : reference.tolerance),
    reference.section,
  ];
}

/** What the reference has and no file here, figure by figure, so that its absence is seen. */
function notRun(compared: readonly Compared[], reference: QualityReference): string {
  const rows = reference.rows.flatMap((row) => {
    const missing = Object.entries(row.figures).filter(([figure]) =>
      !compared.some((one) => one.reference === row && one.figure === figure && one.ratio !== null)
    );
    const { sparsity, calibration, section } = row;
    return missing.length === 0 ? [] : [[
      // its stream has a column
      methodOf({ ...row, beside: false, stream: null }),
      String(shortShare(sparsity)),
      calibration ?? "",
      section,
      missing.map(([figure, theirs]) => `${figure} ${theirs}`).join(", "),
    ]];
  });
  return rows.length === 0
    ? ""
    : `Theirs, with nothing comparable in files here:\n\n${
      table(["method", "sparsity", "calibrated on", "section", "theirs"], rows)
    }`;
}

function verdict(ratio: number, tolerance: number | undefined): string {
  const shown = ratio.toFixed(3);
  if (tolerance === undefined) return shown;
  const met = Math.abs(ratio - 1) <= tolerance;
  const bar = `within ${Number((100 * tolerance).toPrecision(3))} %`;
  return met ? `${shown}, ${bar}` : `**${shown}, not ${bar}**`;
}

function originList(runs: readonly QualityRun[]): string {
  if (runs.length === 0) return "";
  return `Where the figures come from:\n\n${
    runs.map((run) => {
      const recipe = run.recipe === null ? "" : `, recipe ${run.recipe.slice(0, 12)}`;
      return `- ${seriesOf(run)} ${
        run.method === "dense" ? "" : `${shortShare(run.sparsity)} `
      }(${run.model.dtype}${recipe}): ${run.files.map((file) => `\`${file}\``).join(", ")}; ${
        run.engines.join(", ")
      }${run.notes.map((note) => `; ${note}`).join("")}`;
    }).join("\n")
  }`;
}

function paperSection({ source, marks, tables }: PaperReference): string {
  return [
    "## Large models, by others",
    `None of this was measured here. ${source}. Marks: ${
      Object.entries(marks).map(([mark, text]) => `*${mark}*, ${text}`).join("; ")
    }. Their perplexities are of other models, texts and lengths: compare within a table only.`,
    ...tables.map(({ title, mark, header, rows, notes }) =>
      [`${title} [${mark}]`, table(header, rows), ...notes].join("\n\n")
    ),
  ].join("\n\n");
}

/** Weights of a model's blocks' projections and of its output matrix; null where no shape with so many parameters is known. */
export function sharesOf(parameters: number): { readonly blocks: number; readonly head: number } | null {
  for (const config of Object.values(SHAPES)) {
    const blocks = config.numHiddenLayers * PROJECTIONS.reduce((sum, name) => {
      const { nIn, nOut } = projectionShape(config, name);
      return sum + nIn * nOut;
    }, 0);
    const head = config.vocabSize * config.hiddenSize;
    if (parameters === blocks + head * (config.tieWordEmbeddings ? 1 : 2) + normsOf(config)) {
      return { blocks, head };
    }
  }
  return null;
}

function normsOf({ numHiddenLayers, hiddenSize }: LlamaConfig): number {
  return (2 * numHiddenLayers + 1) * hiddenSize;
}

function speedOf({ model, recipe, sparsity }: QualityRun, speeds: readonly DecodeSpeed[]): string {
  if (recipe === null) return "";
  return speeds.filter((speed) =>
    speed.model === model.name && speed.dtype === model.dtype && speed.recipe === recipe &&
    Math.abs(speed.sparsity - sparsity) < 1e-9
  ).map(({ engine, median, speedup }) =>
    `${engine.split(" ").at(-1)} ${number(median)}${speedup === null ? "" : `, ${speedup.toFixed(2)}x`}`
  ).join("; ");
}

function sparseShare(run: QualityRun): string {
  const shares = run.tasks.map(({ sparseTokens }) => percent(sparseTokens));
  const ends = [...new Set(shares)].sort((a, b) => Number(a) - Number(b));
  return ends.length > 2 ? `${ends[0]}–${ends.at(-1)}` : ends.join("–");
}

function withError(task: QualityTask | undefined, metric: string): string {
  const value = task?.metrics[metric];
  if (value == null) return "";
  const error = task!.stderr[metric];
  return error == null
    ? fourDigits(value)
    : `${fourDigits(value)} ± ${error >= 10 ? error.toFixed(0) : error.toPrecision(2)}`;
}

/** Of how many pieces a figure is, where others of its table are of more. */
function ofPieces(runs: readonly QualityRun[], task: QualityTask | undefined): string {
  if (task === undefined) return "";
  const most = Math.max(...runs.map((run) => taskOf(run, task.name)?.n ?? 0));
  return task.n < most ? `, ${task.n} of ${most} pieces` : "";
}

/** Never in powers of ten. */
function fourDigits(value: number): string {
  return Math.abs(value) >= 1000 ? value.toFixed(0) : value.toPrecision(4);
}

function percent(share: number | null): string {
  return share === null ? "" : (100 * share).toFixed(1);
}

/** In points of a hundred; bold where it is a loss that chance does not explain. */
function difference(value: number, stderr: number | null, p: number | null): string {
  const sign = value >= 0 ? "+" : "−", error = stderr === null ? "" : ` ± ${(100 * stderr).toFixed(1)}`;
  const shown = `${sign}${Math.abs(100 * value).toFixed(1)}${error}${
    p === null ? "" : `, p ${probability(p)}`
  }`;
  return value < 0 && p !== null && p < 0.05 ? `**${shown}**` : shown;
}

function probability(p: number): string {
  return p < 0.001 ? "< 0.001" : p.toFixed(p < 0.1 ? 3 : 2);
}

/** Two-sided, of a normal distribution: Abramowitz and Stegun 7.1.26, within 1.5e-7. */
export function normalP(value: number, stderr: number | null): number | null {
  if (stderr === null || stderr === 0) return null;
  const x = Math.abs(value) / stderr / Math.SQRT2, t = 1 / (1 + 0.3275911 * x);
  const series = t *
    (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
  return series * Math.exp(-x * x);
}
