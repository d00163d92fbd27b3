/** What a benchmark runs: options of the command line become requests, in the order in which they run. No `node:` here, tests run it in pages. */
import { layerWeights, SHAPE_NAMES, type ShapeName, SHAPES } from "../../src/cli/bench/shapes.ts";
import { BYTES, layersToHold, LEAST_BYTES } from "../../src/cli/bench/variants.ts";
import type { Row } from "../../src/cli/bench/rows.ts";
import type { Dtype } from "../../src/runtime/matrix.ts";
import {
  type EngineName,
  ENGINES,
  minuteNow,
  type Missing,
  type Request,
  type Run,
  type Suite,
  SUITES,
} from "./schema.ts";

/** Options of `deno task bench`. */
export interface Options {
  readonly model: string;
  readonly suites: readonly Suite[];
  readonly engines: readonly EngineName[];
  readonly quick: boolean;
  /** Runs that count; null: as many as each kind needs. */
  readonly reps: number | null;
  /** Folder of the results; null: the checkout's own. */
  readonly out: string | null;
}

/** Wrong use: exit status 2. */
export class UsageError extends Error {}

/** What `parseArgs` is to find. */
export const OPTIONS = {
  model: { type: "string", short: "m", default: "smollm2" },
  only: { type: "string" },
  runtime: { type: "string" },
  reps: { type: "string" },
  quick: { type: "boolean", default: false },
  peers: { type: "boolean", default: false },
  out: { type: "string" },
  help: { type: "boolean", default: false },
} as const;

/** For `--help`. */
export const HELP: string =
  `deno task bench [options]: writes bench/results/latest.json and latest.md, with plots

  -m, --model MODEL   for decode, prefill and load (smollm2)
  --only LIST         of ${SUITES.join(", ")}; without it all but peers
  --runtime LIST      of ${ENGINES.join(", ")}; without it all that are there
  --reps N            runs of each variant that count
  --quick             fewer shapes, builds and runs: under 10 minutes on a quiet machine
  --peers             wllama and node-llama-cpp on the same file too; npm installs them when first asked for
  --out FOLDER        instead of bench/results
`;

/** Checks values of the command line. @throws {UsageError} */
export function readOptions(
  values: {
    readonly model: string;
    readonly only?: string;
    readonly runtime?: string;
    readonly reps?: string;
    readonly quick: boolean;
    readonly peers: boolean;
    readonly out?: string;
  },
): Options {
  const suites = namesOf("--only", values.only, SUITES) ?? SUITES.filter((suite) => suite !== "peers");
  const reps = values.reps === undefined ? null : Number(values.reps);
  if (reps !== null && !(Number.isInteger(reps) && reps >= 1 && reps <= 1000)) {
    throw new UsageError(`Cannot bench: --reps ${values.reps} found, an integer from 1 to 1000 wanted`);
  }
  const peers = values.peers || suites.includes("peers");
  return {
    model: values.model,
    suites: SUITES.filter((suite) => suite === "peers" ? peers : suites.includes(suite)),
    engines: namesOf("--runtime", values.runtime, ENGINES) ?? ENGINES,
    quick: values.quick,
    reps,
    out: values.out ?? null,
  };
}

function namesOf<T extends string>(option: string, text: string | undefined, all: readonly T[]): T[] | null {
  if (text === undefined) return null;
  const wanted = text.split(",").map((name) => name.trim());
  const unknown = wanted.find((name) => !all.some((known) => known === name));
  if (unknown !== undefined) {
    throw new UsageError(`Cannot bench: ${option} ${unknown} found, one or more of ${all.join(",")} wanted`);
  }
  return all.filter((name) => wanted.includes(name));
}

/** Dtypes of kernels, the widest first. */
export const DTYPES: readonly Dtype[] = ["f32", "bf16", "int8", "int4"];
/** Sparsities of kernels. */
export const SPARSITIES: readonly number[] = [0, 0.3, 0.5, 0.7];
/** Of the recipe that whole tokens run with. */
export const TOKEN_SPARSITY = 0.5;
/** Tokens of the prompts that prefill is measured on. */
export const PROMPTS = [128, 512] as const;
/** Words that are held where the head is not what is measured: loading then takes half the time. */
const VOCAB = 1024;

/** Whole tokens, dense and with a recipe, and loading. */
export function tokenRequests(
  { quick, reps, suites }: Pick<Options, "quick" | "reps" | "suites">,
  kernels: "auto" | "baseline",
  model: string,
  recipe: string,
): Request[] {
  const common = { kernels, model, reps: reps ?? (quick ? 3 : 7) }, tokens = quick ? 16 : 64;
  const sparsity = [0, TOKEN_SPARSITY], [short, long] = PROMPTS;
  const requests: Request[] = [{ ...common, what: "decode", threads: 1, recipe, sparsity, tokens }];
  if (quick && kernels === "baseline") requests.length = 0;
  else {
    requests.push(
      { ...common, what: "decode", threads: 2, recipe, sparsity, tokens },
      { ...common, what: "prefill", threads: 1, tokens: short },
      { ...common, what: "prefill", threads: 2, tokens: short },
      { ...common, what: "load", threads: 1 },
    );
  }
  if (!quick) requests.push({ ...common, what: "prefill", threads: 1, tokens: long });
  return requests.filter(({ what }) => suites.includes(what));
}

/** Shapes that a quick run measures beside SmolLM2's, on one engine of each kind: V8 and JavaScriptCore. */
const QUICK: readonly { readonly shape: ShapeName; readonly dtypes: readonly Dtype[] }[] = [
  { shape: "tinyllama-1.1b", dtypes: ["bf16", "int4"] },
  { shape: "llama2-7b", dtypes: ["int4"] },
];
const QUICK_ENGINES: readonly EngineName[] = ["deno", "bun"];

/** Every matrix of a token, for each shape and dtype. */
export function kernelRequests(
  { quick, reps }: Pick<Options, "quick" | "reps">,
  kernels: "auto" | "baseline",
  engine: EngineName,
): Request[] {
  const request = (shape: ShapeName, dtype: Dtype): Request => ({
    what: "kernels",
    kernels,
    threads: 1,
    shape,
    dtype,
    sparsity: SPARSITIES,
    vocab: VOCAB,
    reps: reps ?? (quick ? 5 : 21),
    ...quick ? { layers: fewestLayers(shape, dtype), tokens: 32 } : {},
  });
  if (!quick) return SHAPE_NAMES.flatMap((shape) => DTYPES.map((dtype) => request(shape, dtype)));
  // the relaxed build changes integer kernels only
  if (kernels === "baseline") return [request("smollm2-135m", "int4")];
  const larger = QUICK_ENGINES.includes(engine) ? QUICK : [];
  return [
    ...DTYPES.map((dtype) => request("smollm2-135m", dtype)),
    ...larger.flatMap(({ shape, dtypes }) => dtypes.map((dtype) => request(shape, dtype))),
  ];
}

/** As few blocks as no cache holds. */
export function fewestLayers(shape: ShapeName, dtype: Dtype): number {
  const bytes = layerWeights(SHAPES[shape]) * BYTES[dtype];
  return Math.min(layersToHold(shape, dtype), Math.ceil(LEAST_BYTES / bytes));
}

/** The command line of a request. */
export function argumentsOf(request: Request): string[] {
  const { what, sparsity, ...rest } = request, args = ["bench", what];
  for (const [name, value] of Object.entries(rest)) args.push(`--${name}`, String(value));
  if (sparsity !== undefined) args.push("--sparsity", sparsity.join(","));
  return args;
}

/** A request in a few words. */
export function describeRequest({ what, model, shape, dtype, kernels, threads, tokens }: Request): string {
  const parts = [
    what,
    shape ?? (model === undefined ? "" : "model"),
    dtype ?? "",
    what === "kernels" || tokens === undefined ? "" : `${tokens} tokens`,
    kernels,
    threads > 1 ? `${threads} threads` : "",
  ];
  return parts.filter((part) => part !== "").join(" ");
}

/** Engines that are not there, in each suite that would have run on them; other programs say for themselves what they lack. */
export function missingEverywhere(
  gone: readonly Omit<Missing, "suite">[],
  suites: readonly Suite[],
): Missing[] {
  return gone.flatMap((each) =>
    suites.filter((suite) => suite !== "peers").map((suite) => ({ suite, ...each }))
  );
}

/** What `rsparse bench --json` prints, or a page returns. */
export interface Answer {
  readonly engine: {
    readonly kernels: string;
    readonly threads: number;
    readonly threadsReason: string | null;
  };
  readonly rows: readonly Row[];
}

/** A request that `engine` has just answered, as results keep it. */
export function runOf(engine: EngineName, request: Request, answer: Answer, seconds: number): Run {
  const { engine: { kernels, threads, threadsReason }, rows } = answer;
  return {
    engine,
    what: request.what,
    kernels,
    threads,
    threadsReason: threads < request.threads ? threadsReason : null,
    ...request.tokens === undefined ? {} : { tokens: request.tokens },
    at: minuteNow(),
    seconds,
    rows,
  };
}
