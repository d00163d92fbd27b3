/**
 * What `rsparse eval --json` left in files, read strictly: a page of results is only worth what was let into it.
 *
 * Files are called after what is in them, `dense.json`, `by-site-0.5.json`, `by-site-0.5-tasks.json`; several of one recipe are joined, task by task.
 */
import { show } from "../recipe/fields.ts";
import { isJsonObject, type JsonObject } from "../format/json.ts";
import { TASKS } from "../eval/tasks.ts";

/** Figures and their standard errors, by the name of the measure; null is what can't be told. */
export interface QualityMeasures {
  /** The figures. */
  readonly metrics: { readonly [metric: string]: number | null };
  /** Their errors. */
  readonly stderr: { readonly [metric: string]: number | null };
}

/** Sparse minus dense on the same rows. */
export interface QualityPaired {
  /** Of the measure. */
  readonly difference: number;
  /** Its standard error. */
  readonly stderr: number | null;
  /** The chance of so large a difference were there none. */
  readonly p: number;
}

/** One task's part of a file. */
export interface QualityTask extends QualityMeasures {
  /** Of the task, as `--tasks` has it. */
  readonly name: string;
  /** Rows or pieces. */
  readonly n: number;
  /** Tokens of a piece; null where it is no text. */
  readonly pieceLength: number | null;
  /** Tokens that each piece begins with which are not scored; 0 where it is no text. */
  readonly context: number;
  /** Share of positions that ran sparse. */
  readonly sparseTokens: number;
  /** Share of multiply-adds that they skipped; null where none ran sparse. */
  readonly measuredSparsity: number | null;
  /** The same rows run dense; null in a run without a recipe. */
  readonly dense: QualityMeasures | null;
  /** By measure; empty in a run without a recipe. */
  readonly paired: { readonly [metric: string]: QualityPaired };
  /** The file that it comes from. */
  readonly file: string;
}

/** What ran: a model with one recipe, or dense. */
export interface QualityRun {
  /** The model's name, size, and how its weights are kept. */
  readonly model: {
    readonly name: string;
    readonly parameters: number;
    readonly quantization: string;
    readonly dtype: string;
  };
  /** `dense` without a recipe. */
  readonly method: string;
  /** The share of multiply-adds that the recipe is to skip; 0 without one. */
  readonly sparsity: number;
  /** Whether it is what sparse runs were held against, of no file of its own: dense with matrices laid out to be skipped. */
  readonly beside: boolean;
  /** Share of the kept compute for channels; 1 without a recipe. */
  readonly rho: number;
  /** SHA-256 of the recipe; null where there is none, or it was never in a file. */
  readonly recipe: string | null;
  /** What its thresholds were set on, as `calibrate --stream` has it; null where it has none, or the file does not say. */
  readonly stream: "sparse" | "dense" | null;
  /** Which positions ran sparse. */
  readonly prefill: "dense" | "sparse" | "official";
  /** Tokens of each piece of its texts that are not scored, as `eval --context` has it: figures with and without are not comparable. */
  readonly context: number;
  /** Runtimes and builds of the kernels. */
  readonly engines: readonly string[];
  /** Its files. */
  readonly files: readonly string[];
  /** What has to be said of them, which a file may have in words as its `note`. */
  readonly notes: readonly string[];
  /** Its tasks, each once. */
  readonly tasks: readonly QualityTask[];
}

/** Measures that a task can have, and what they may be. */
const METRICS: { readonly [metric: string]: { readonly least: number; readonly most: number } } = {
  perplexity: { least: 1, most: Infinity },
  nll: { least: 0, most: Infinity },
  bitsPerByte: { least: 0, most: Infinity },
  // a mean of differences: rounding may leave it just below
  kl: { least: -1e-6, most: Infinity },
  agreement: { least: 0, most: 1 },
  acc: { least: 0, most: 1 },
  accNorm: { least: 0, most: 1 },
  rouge1: { least: 0, most: 1 },
  rouge2: { least: 0, most: 1 },
  rougeL: { least: 0, most: 1 },
};
/** What `eval --prefill` takes. */
export const PREFILLS = ["dense", "sparse", "official"] as const;

/** Reads values and says where one is that does not fit. */
class Reader {
  readonly #file: string;

  constructor(file: string) {
    this.#file = file;
  }

  fail(path: string, found: unknown, wanted: string): never {
    const at = path === "" ? "" : `${path}: `;
    throw new Error(`Cannot read ${this.#file}: ${at}${show(found)} found, ${wanted} wanted`);
  }

  object(value: unknown, path: string): JsonObject {
    return isJsonObject(value) ? value : this.fail(path, value, "an object");
  }

  text(value: unknown, path: string): string {
    return typeof value === "string" && value !== "" ? value : this.fail(path, value, "a text");
  }

  number(value: unknown, path: string, least: number, most: number): number {
    if (typeof value === "number" && Number.isFinite(value) && value >= least && value <= most) return value;
    return this.fail(path, value, `a number from ${least}${most === Infinity ? " on" : ` to ${most}`}`);
  }

  numberOrNull(value: unknown, path: string, least: number, most: number): number | null {
    return value === null ? null : this.number(value, path, least, most);
  }

  count(value: unknown, path: string): number {
    return Number.isInteger(value) ? this.number(value, path, 1, 2 ** 53) : this.fail(path, value, "a count");
  }

  /** At least one token of a piece is scored, past its first. */
  context(value: unknown, path: string, pieceLength: number | null): number {
    if (value === undefined) return 0;
    if (pieceLength === null) return this.fail(path, value, "nothing but of a text");
    return this.number(this.count(value, path), path, 1, pieceLength - 2);
  }

  measures(value: JsonObject, path: string): QualityMeasures {
    const metrics: Record<string, number | null> = {}, stderr: Record<string, number | null> = {};
    const found = this.object(value["metrics"], `${path}metrics`),
      errors = this.object(value["stderr"], `${path}stderr`);
    for (const [name, figure] of Object.entries(found)) {
      const range = Object.hasOwn(METRICS, name) ? METRICS[name] : undefined;
      if (range === undefined) {
        this.fail(`${path}metrics`, name, `names out of ${Object.keys(METRICS).join(" ")}`);
      }
      metrics[name] = this.numberOrNull(figure, `${path}metrics.${name}`, range.least, range.most);
      stderr[name] = this.numberOrNull(errors[name], `${path}stderr.${name}`, 0, Infinity);
    }
    if (Object.keys(metrics).length === 0) this.fail(`${path}metrics`, found, "at least one measure");
    return { metrics, stderr };
  }

  task(value: unknown, path: string, sparse: boolean): QualityTask {
    const task = this.object(value, path), at = `${path}.`;
    const name = this.text(task["name"], `${at}name`), known = TASKS.find((one) => one.name === name);
    if (!name.startsWith("text:") && (known === undefined || known.file === null)) {
      this.fail(`${at}name`, name, "a task of rsparse eval");
    }
    if (task["complete"] !== true) {
      this.fail(`${at}complete`, task["complete"], "true, a run that was not cut short,");
    }
    const paired: Record<string, QualityPaired> = {};
    const isText = known === undefined || known.kind === "text" || known.kind === "documents";
    if (sparse) {
      for (const [metric, one] of Object.entries(this.object(task["paired"], `${at}paired`))) {
        const pair = this.object(one, `${at}paired.${metric}`), where = `${at}paired.${metric}.`;
        paired[metric] = {
          difference: this.number(pair["difference"], `${where}difference`, -Infinity, Infinity),
          stderr: this.numberOrNull(pair["stderr"], `${where}stderr`, 0, Infinity),
          p: this.number(pair["p"], `${where}p`, 0, 1),
        };
      }
    } else if (task["paired"] !== undefined || task["dense"] !== undefined) {
      this.fail(`${at}paired`, task["paired"] ?? task["dense"], "nothing without a recipe");
    }
    const pieceLength = isText ? this.count(task["pieceLength"], `${at}pieceLength`) : null;
    return {
      name,
      n: this.count(task["n"], `${at}n`),
      pieceLength,
      context: this.context(task["context"], `${at}context`, pieceLength),
      sparseTokens: this.number(task["sparseTokens"], `${at}sparseTokens`, 0, sparse ? 1 : 0),
      measuredSparsity: this.numberOrNull(task["measuredSparsity"], `${at}measuredSparsity`, -1, 1),
      ...this.measures(task, at),
      dense: sparse ? this.measures(this.object(task["dense"], `${at}dense`), `${at}dense.`) : null,
      paired,
      file: this.#file,
    };
  }
}

/** A share as files and tables have it: what a rule came to, not what was asked for, has 16 digits, of which three will do. */
export function shortShare(share: number): number {
  return Number(share.toFixed(3));
}

/**
 * Reads one file.
 *
 * @param name The file's name without its folder: it must be that of what is in it.
 * @throws {Error} If anything does not fit, with its place.
 */
export function parseQuality(text: string, name: string): QualityRun {
  const r: Reader = new Reader(name);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new Error(`Cannot read ${name}: ${(cause as Error).message}`, { cause });
  }
  const file = r.object(value, ""), model = r.object(file["model"], "model");
  const engine = r.object(file["engine"], "engine");
  const prefill = PREFILLS.find((one) => one === file["prefill"]) ??
    r.fail("prefill", file["prefill"], `one of ${PREFILLS.join(" ")}`);
  const recipe = file["recipe"] === null ? null : r.object(file["recipe"], "recipe");
  if (file["part"] !== undefined) {
    r.fail("part", file["part"], "a whole evaluation, such as eval --join gives,");
  }
  const list = file["tasks"];
  if (!Array.isArray(list) || list.length === 0) r.fail("tasks", list, "a list of tasks");
  const tasks = list.map((task, i) => r.task(task, `tasks.${i}`, recipe !== null));
  const twice = tasks.find((task, i) => tasks.findIndex((other) => other.name === task.name) < i);
  if (twice !== undefined) r.fail("tasks", twice.name, "each task once");
  const texts = tasks.filter(({ pieceLength }) => pieceLength !== null);
  const other = texts.find(({ context }) => context !== texts[0]!.context);
  if (other !== undefined) r.fail("tasks", `context ${other.context}`, "one context of all texts");
  const run = {
    beside: false,
    model: {
      name: r.text(model["name"], "model.name"),
      parameters: r.count(model["parameters"], "model.parameters"),
      quantization: r.text(model["quantization"], "model.quantization"),
      dtype: r.text(model["dtype"], "model.dtype"),
    },
    prefill,
    context: tasks.reduce((most, task) => Math.max(most, task.context), 0),
    engines: [
      `${r.text(engine["runtime"], "engine.runtime")} ${r.text(engine["kernels"], "engine.kernels")}`,
    ],
    files: [name],
    notes: file["note"] === undefined ? [] : [r.text(file["note"], "note")],
    tasks,
  };
  if (recipe === null) {
    if (!/^dense(-[\w.-]+)?\.json$/.test(name)) {
      r.fail("", name, "dense.json or dense-….json as name of a run without recipe");
    }
    return { ...run, method: "dense", sparsity: 0, rho: 1, recipe: null, stream: null };
  }
  const method = r.text(recipe["method"], "recipe.method"),
    sparsity = r.number(recipe["sparsity"], "recipe.sparsity", 0, 1);
  if (!/^[a-z][a-z0-9-]*$/.test(method) || method === "dense") {
    r.fail("recipe.method", method, "a method's name");
  }
  const named = /^([a-z][a-z0-9-]*?)-(\d(?:\.\d+)?)(?:-[\w.-]+)?\.json$/.exec(name);
  const short = shortShare(sparsity);
  if (named === null || named[1] !== method || ![sparsity, short].includes(Number(named[2]))) {
    r.fail("", name, `${method}-${short}.json or ${method}-${short}-….json, after what is in it,`);
  }
  const sha256 = recipe["sha256"];
  if (sha256 !== null && !(typeof sha256 === "string" && /^[0-9a-f]{64}$/.test(sha256))) {
    r.fail("recipe.sha256", sha256, "64 hex digits or null");
  }
  const stream = recipe["stream"] ?? null;
  if (stream !== null && stream !== "sparse" && stream !== "dense") {
    r.fail("recipe.stream", stream, "sparse, dense or nothing");
  }
  const rho = r.number(recipe["rho"], "recipe.rho", 0, 1);
  return { ...run, method, sparsity, rho, recipe: sha256, stream };
}

/**
 * Joins what is of one model, recipe, sparsity, prefill and context; dense first, then by method and sparsity. What no dense run of a model and context has, the
 * figures that sparse ones were held against make one of.
 *
 * @throws {Error} If two files of one recipe have the same task.
 */
export function mergeQuality(runs: readonly QualityRun[]): QualityRun[] {
  const merged = new Map<string, QualityRun>();
  for (const run of runs.flatMap(byContext)) {
    const { model, method, sparsity, rho, recipe, stream, prefill, context } = run;
    // nothing is sparse in a dense run, whatever its option says
    const key = JSON.stringify([
      model,
      method,
      sparsity,
      rho,
      recipe,
      stream,
      method === "dense" ? "" : prefill,
      context,
    ]);
    const before = merged.get(key);
    if (before === undefined) {
      merged.set(key, run);
      continue;
    }
    for (const task of run.tasks) {
      const same = before.tasks.find(({ name }) => name === task.name);
      if (same === undefined) continue;
      throw new Error(
        `Cannot join ${same.file} and ${task.file}: both have ${task.name} of one recipe: take one away`,
      );
    }
    merged.set(key, {
      ...before,
      engines: [...new Set([...before.engines, ...run.engines])],
      files: [...before.files, ...run.files],
      notes: [...new Set([...before.notes, ...run.notes])],
      tasks: [...before.tasks, ...run.tasks],
    });
  }
  const order = ({ method, sparsity, rho, recipe }: QualityRun): string =>
    `${method === "dense" ? " " : method} ${sparsity.toFixed(6)} ${rho.toFixed(6)} ${recipe}`;
  const sorted = (runs: readonly QualityRun[]): QualityRun[] =>
    [...runs].sort((a, b) => order(a) < order(b) ? -1 : order(a) > order(b) ? 1 : 0);
  const own = sorted([...merged.values()]);
  return sorted([...own, ...densesBeside(own)]);
}

/** A context is one of texts: what else is in a file with one is as in a file without. */
function byContext(run: QualityRun): QualityRun[] {
  const texts = run.tasks.filter(({ pieceLength }) => pieceLength !== null);
  if (run.context === 0 || texts.length === run.tasks.length) return [run];
  const others = run.tasks.filter(({ pieceLength }) => pieceLength === null);
  return [{ ...run, tasks: texts }, { ...run, context: 0, tasks: others }];
}

/** For each model and context, dense figures of tasks that no dense run has, from the runs that they stand beside. */
function densesBeside(runs: readonly QualityRun[]): QualityRun[] {
  const groups = new Map<string, QualityRun[]>();
  for (const run of runs) {
    const key = JSON.stringify([run.model, run.context]);
    groups.set(key, [...(groups.get(key) ?? []), run]);
  }
  return [...groups.values()].flatMap((own) => {
    const sparse = own.filter(({ method }) => method !== "dense");
    const names = new Set(sparse.flatMap(({ tasks }) => tasks.map(({ name }) => name)));
    const found = [...names].filter((name) =>
      own.every((run) => run.method !== "dense" || taskOf(run, name) === undefined)
    ).map((name) => mostMeasured(sparse, name));
    if (found.length === 0) return [];
    const { model, prefill, context } = sparse[0]!;
    return [{
      ...{ model, method: "dense", sparsity: 0, rho: 1, recipe: null, stream: null, prefill, context },
      beside: true,
      engines: [...new Set(found.flatMap(({ run }) => run.engines))],
      files: [...new Set(found.map(({ task }) => task.file))],
      notes: [...new Set(found.flatMap(({ run }) => run.notes))],
      tasks: found.map(({ task }) => (
        { ...task, ...task.dense!, sparseTokens: 0, measuredSparsity: null, dense: null, paired: {} }
      )),
    }];
  });
}

/** The task of this name in pieces as long as most runs', of the most rows, of the first run that has them. */
function mostMeasured(
  runs: readonly QualityRun[],
  name: string,
): { readonly run: QualityRun; readonly task: QualityTask } {
  const all = runs.flatMap((run) => run.tasks.map((task) => ({ run, task }))).filter(({ task }) =>
    task.name === name
  );
  const howMany = (length: number | null): number =>
    all.filter(({ task }) => task.pieceLength === length).length;
  const most = all.reduce((a, { task }) => Math.max(a, howMany(task.pieceLength)), 0);
  return all.filter(({ task }) => howMany(task.pieceLength) === most).reduce((a, b) =>
    b.task.n > a.task.n ? b : a
  );
}

/** The task of this name, if the run has it. */
export function taskOf(run: QualityRun, name: string): QualityTask | undefined {
  return run.tasks.find((task) => task.name === name);
}

/** The measure by which each task of several choices counts in a mean (quality.md section 2). */
export const CHOICE_METRICS: { readonly [task: string]: "acc" | "accNorm" } = {
  winogrande: "acc",
  piqa: "acc",
  boolq: "acc",
  sciq: "acc",
  arc_easy: "acc",
  openbookqa: "accNorm",
  hellaswag: "accNorm",
  arc_challenge: "accNorm",
};

/** The mean over tasks of several choices. */
export interface TasksMean {
  /** Tasks in it. */
  readonly tasks: readonly string[];
  /** Of the shares. */
  readonly mean: number;
  /** Sparse minus dense, mean over the tasks; null in a dense run. */
  readonly difference: number | null;
  /** Of the difference: tasks have different rows, so their squares add up; null where one of them can't be told. */
  readonly stderr: number | null;
}

/** @returns null where the run has no such task */
export function tasksMean(run: QualityRun): TasksMean | null {
  const some = Object.entries(CHOICE_METRICS).flatMap(([name, metric]) => {
    const task = taskOf(run, name), share = task?.metrics[metric];
    return task === undefined || share == null ? [] : [{ name, share, pair: task.paired[metric] }];
  });
  if (some.length === 0) return null;
  const n = some.length, mean = some.reduce((sum, { share }) => sum + share, 0) / n;
  const tasks = some.map(({ name }) => name);
  if (some.some(({ pair }) => pair === undefined)) return { tasks, mean, difference: null, stderr: null };
  const difference = some.reduce((sum, { pair }) => sum + pair!.difference, 0) / n;
  const errors = some.map(({ pair }) => pair!.stderr);
  const stderr = errors.includes(null)
    ? null
    : Math.sqrt(errors.reduce<number>((sum, error) => sum + error! * error!, 0)) / n;
  return { tasks, mean, difference, stderr };
}
