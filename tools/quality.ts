/**
 * `deno task quality`: recipes of several methods and sparsities, and what each is worth on the tasks, into `bench/results/quality/`, from which
 * `deno task results` writes its tables. Work is shared by as many processes as there are processors; what is done is kept under `build/quality/`, so that a run
 * that was cut short goes on.
 */
import { spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, statSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { parseArgs } from "node:util";
import { cliCommand, thisRuntime } from "../tests/support/runtimes.ts";
import { PREFILLS } from "../src/analyze/quality_results.ts";
import { VERSION } from "../src/version.ts";
import { prepare, ROOT } from "./prepare.ts";
import {
  calibrationOf,
  type Cell,
  DEFAULT_CELLS,
  evaluationOf,
  nameOf,
  parseCells,
  type Settings,
  workKey,
} from "./quality/plan.ts";

const HELP = `Usage: deno task quality --data DIR [options]

  --data DIR          folder with the tasks' files (or RSPARSE_DATA)
  --cells LIST        METHOD:SPARSITY:SPARSITY,…, dense, relufication; default:
                      ${DEFAULT_CELLS}
  --tasks LIST        as of rsparse eval; default: wikitext2,c4
  --limit N           rows or pieces of each task; default: all (c4: 64)
  --prefill HOW       sparse (default), dense, official
  --context N         tokens of each piece that are not scored; default: none
  --stream HOW        what thresholds are set on: sparse (default), dense
  --calibration FILE  text or .jsonl.gz that recipes are calibrated on
  --model MODEL       default: smollm2
  --dtype DTYPE       default: auto
  --jobs N            processes at a time; default: one a processor
  --out DIR           default: bench/results/quality
  --suffix NAME       file names end in -NAME: other tasks of the same cells
`;

const OPTIONS = {
  data: { type: "string" },
  cells: { type: "string", default: DEFAULT_CELLS },
  tasks: { type: "string", default: "wikitext2,c4" },
  limit: { type: "string" },
  prefill: { type: "string", default: "sparse" },
  context: { type: "string" },
  stream: { type: "string", default: "sparse" },
  calibration: { type: "string" },
  model: { type: "string", default: "smollm2" },
  dtype: { type: "string", default: "auto" },
  jobs: { type: "string", default: String(availableParallelism()) },
  out: { type: "string", default: join(ROOT, "bench", "results", "quality") },
  suffix: { type: "string" },
  help: { type: "boolean", short: "h" },
} as const;

const LEARNED = join(ROOT, "models", "smollm2-135m-instruct-learned.safetensors");

/** The last commit of what computes, with what was changed since, and the contents of files that are read. */
function madeFrom({ data, calibration }: Settings): string[] {
  const git = (...args: string[]): string =>
    spawnSync("git", args, { cwd: ROOT, encoding: "utf8" }).stdout ?? "";
  const hash = (path: string): string => createHash("sha256").update(readFileSync(path)).digest("hex");
  const folder = existsSync(join(data, "eval")) ? join(data, "eval") : data;
  const files = readdirSync(folder).sort().map((name) => join(folder, name)).filter((path) =>
    statSync(path).isFile()
  );
  return [
    VERSION,
    ...[
      git("log", "-1", "--format=%H", "--", "src", "assembly"),
      git("diff", "HEAD", "--", "src", "assembly"),
    ],
    ...[LEARNED, ...(calibration === null ? [] : [calibration]), ...files].map(hash),
  ];
}

function usage(message: string): never {
  console.error(`error: ${message}: see deno task quality --help`);
  process.exit(2);
}

function whole(name: string, text: string): number {
  const value = Number(text);
  return Number.isSafeInteger(value) && value > 0
    ? value
    : usage(`--${name}: ${text} found, a whole number from 1 wanted`);
}

/** Runs a command of rsparse; its errors are shown. */
function rsparse(args: readonly string[]): Promise<void> {
  const [program, ...first] = cliCommand(thisRuntime());
  return new Promise((resolve, reject) => {
    const child = spawn(program!, [...first, ...args], { stdio: ["ignore", "ignore", "inherit"] });
    child.on("error", reject);
    child.on("close", (code) => {
      if (code === 0) resolve();
      else reject(new Error(`rsparse ${args.join(" ")}: exit status ${code}`));
    });
  });
}

/** Runs all, so many at a time, in order; the first failure ends it when what runs has ended. */
async function inParallel(jobs: number, work: readonly (() => Promise<void>)[]): Promise<void> {
  let next = 0, failed = false;
  await Promise.all(Array.from({ length: Math.min(jobs, work.length) }, async () => {
    while (next < work.length && !failed) {
      await work[next++]!().catch((error: unknown) => {
        failed = true;
        throw error;
      });
    }
  }));
}

async function measure(
  cells: readonly Cell[],
  settings: Settings,
  jobs: number,
  folder: string,
  suffix: string,
): Promise<void> {
  const work = join(
    ROOT,
    "build",
    "quality",
    createHash("sha256").update(workKey(settings, madeFrom(settings))).digest("hex").slice(0, 12),
  );
  mkdirSync(work, { recursive: true });
  mkdirSync(folder, { recursive: true });
  const recipeOf = (cell: Cell): string | null =>
    cell.method === "dense"
      ? null
      : cell.method === "learned"
      ? LEARNED
      : join(work, `${nameOf(cell)}.safetensors`);
  const partOf = (cell: Cell, part: number): string => join(work, `${nameOf(cell)}.${part}.json`);
  await inParallel(
    jobs,
    cells.flatMap((cell) => {
      const recipe = recipeOf(cell), args = recipe === null ? null : calibrationOf(cell, settings, recipe);
      if (args === null || existsSync(recipe!)) return [];
      return [async () => {
        await rsparse(args);
        console.error(`${nameOf(cell)}: calibrated`);
      }];
    }),
  );
  const parts = Array.from({ length: settings.parts }, (_, i) => i + 1);
  await inParallel(
    jobs,
    cells.flatMap((cell) =>
      parts.filter((part) => !existsSync(partOf(cell, part))).map((part) => async () => {
        await rsparse(evaluationOf(cell, settings, recipeOf(cell), part, partOf(cell, part)));
        console.error(`${nameOf(cell)}: part ${part} of ${settings.parts}`);
      })
    ),
  );
  for (const cell of cells) {
    const whole = join(work, `${nameOf(cell)}.json`);
    await rsparse(["eval", "--join", ...parts.map((part) => partOf(cell, part)), "--quiet", "-o", whole]);
    const came = JSON.parse(readFileSync(whole, "utf8")).recipe?.sparsity ?? null;
    const file = join(folder, `${nameOf(cell, came)}${suffix}.json`);
    copyFileSync(whole, file);
    console.log(file);
  }
}

function readOptions() {
  try {
    return parseArgs({ options: OPTIONS, strict: true }).values;
  } catch (error) {
    return usage((error as Error).message);
  }
}

/** Pieces have 1,024 tokens here, and at least one of them past the first is scored. */
function contextOf(text: string | undefined): number {
  const context = text === undefined ? 0 : whole("context", text);
  return context <= 1022 ? context : usage(`--context: ${context} found, at most 1022 wanted`);
}

const values = readOptions();
if (values.help) {
  console.log(HELP);
  process.exit(0);
}
const data = values.data ?? process.env["RSPARSE_DATA"] ?? usage("--data: nothing found, a folder wanted");
const jobs = whole("jobs", values.jobs);
const stream = (["sparse", "dense"] as const).find((one) => one === values.stream) ??
  usage(`--stream: ${values.stream} found, sparse or dense wanted`);
if (PREFILLS.every((one) => one !== values.prefill)) {
  usage(`--prefill: ${values.prefill} found, one of ${PREFILLS.join(" ")} wanted`);
}
const context = contextOf(values.context);
if (values.suffix === undefined && (context > 0 || stream === "dense" || values.prefill !== "sparse")) {
  usage("--suffix: nothing found, a name for files of what is not the usual way wanted");
}
for (const path of [data, ...(values.calibration === undefined ? [] : [values.calibration])]) {
  if (!existsSync(path)) usage(`${path}: there is no such file or folder`);
}
try {
  const cells = parseCells(values.cells);
  await prepare();
  await measure(
    cells,
    {
      model: values.model,
      data,
      tasks: values.tasks,
      limit: values.limit === undefined ? null : whole("limit", values.limit),
      prefill: values.prefill,
      context,
      stream,
      dtype: values.dtype,
      parts: jobs,
      calibration: values.calibration ?? null,
    },
    jobs,
    values.out,
    values.suffix === undefined ? "" : `-${values.suffix}`,
  );
} catch (error) {
  if (error instanceof RangeError) usage(error.message);
  console.error(`error: ${(error as Error).message}`);
  process.exit(1);
}
