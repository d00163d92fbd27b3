/** The search as a whole: from a model and a text to the recipe that was found. */
import { type LlamaConfig, PROJECTIONS } from "../model/config.ts";
import { type LoadedRecipe, projectionShapes } from "../recipe/recipe.ts";
import { encodeText } from "../runtime/encode_text.ts";
import type { LoadOptions, Model } from "../runtime/model.ts";
import { fitnessOf } from "./evolution.ts";
import { evolve, type EvolveSettings, type Generation, mostEvaluations } from "./evolve.ts";
import { alongPath, stepWeights } from "./greedy.ts";
import type { Executor, ExecutorFactory, Job, Setup } from "./jobs.ts";
import { LOCAL_RHOS } from "./local.ts";
import { recipeOfShares } from "./recipe.ts";
import { drawSamples } from "./samples.ts";
import { KINDS, meanSparsity, type Shares, uniformShares, weightOf } from "./shares.ts";
import { makeTables } from "./tables.ts";

/** Which search: rho by evolution; TEAL's greedy allocation of sparsity; rho and sparsity by evolution; rho of each projection alone. */
export const ALGORITHMS = ["evolutionary", "greedy", "joint", "local"] as const;
/** One of {@linkcode ALGORITHMS}. */
export type Algorithm = (typeof ALGORITHMS)[number];

/** Everything that the result depends on besides model, text and kernels. */
export interface SearchSettings extends Omit<EvolveSettings, "joint"> {
  /** See {@linkcode ALGORITHMS}. */
  readonly algorithm: Algorithm;
  /** Pieces of text that points are compared on. */
  readonly samples: number;
  /** Tokens of each. */
  readonly sampleTokens: number;
  /** Of the samples, so many tokens are read for thresholds. */
  readonly calibrationTokens: number;
  /** The first so many positions are dense. */
  readonly keepDense: number;
  /** `greedy`: what a step adds to the sparsity of a projection of hidden x hidden. */
  readonly greedyStep: number;
  /** `greedy`: the sparsity of a block at which its path ends. */
  readonly greedyTarget: number;
}

/** Population, generations and samples of a size. */
export type SearchSize = Pick<SearchSettings, "population" | "generations" | "samples" | "sampleTokens">;

/** Sizes by name (rsparse.md section 8). */
export const SIZES: { readonly [name in "paper" | "small"]: SearchSize } = {
  paper: { population: 32, generations: 5, samples: 16, sampleTokens: 2048 },
  small: { population: 8, generations: 3, samples: 4, sampleTokens: 512 },
};

/** What section 8 of rsparse.md takes where the paper is silent. */
export const DEFAULTS: Omit<SearchSettings, keyof SearchSize | "algorithm" | "sparsity"> = {
  pm: 0.5,
  pc: 0.5,
  step: "differential",
  groupLayers: 4,
  variables: "projection",
  rhoFrom: 0,
  spread: 0.2,
  accept: "better",
  seed: 0,
  calibrationTokens: 8192,
  keepDense: 1,
  greedyStep: 0.05,
  greedyTarget: 0.9,
};

/** A finished piece of the search: what a state keeps. */
export interface Finished {
  /** The point or block that it is of. */
  readonly key: string;
  /** The samples' perplexities, or what a block's job gave. */
  readonly value: readonly number[];
}

/** Settings of {@linkcode searchRecipe}. */
export interface SearchOptions {
  /** What the result depends on; {@linkcode DEFAULTS} and {@linkcode SIZES} have most of it. */
  readonly settings: SearchSettings;
  /** One text, or documents. */
  readonly documents: readonly string[];
  /** What to call the text in the recipe. */
  readonly source: string;
  /** SHA-256 of its file. */
  readonly sourceHash: string;
  /** How workers name the model. */
  readonly modelSource: string;
  /** How workers keep projections. */
  readonly dtype: NonNullable<LoadOptions["dtype"]>;
  /** Where to begin; default rho 1 and the same sparsity throughout. */
  readonly start?: Shares;
  /** Who does the work. */
  readonly executor: ExecutorFactory;
  /** What an earlier run had finished. */
  readonly finished?: ReadonlyMap<string, readonly number[]>;
  /** Called with each new piece before the search goes on. */
  readonly onFinished?: (finished: Finished, progress: Progress) => Promise<void> | void;
  /** Called after each generation. */
  readonly onGeneration?: (generation: Generation, progress: Progress) => void;
  /** Called while thresholds are taken (tokens), and the recipe is made (projections). */
  readonly onPhase?: (phase: "calibrating" | "writing", done: number, total: number) => void;
  /** Ends the search with the signal's reason. */
  readonly signal?: AbortSignal;
}

/** How far a search is. */
export interface Progress {
  /** Evaluations done, those of earlier runs included. */
  readonly done: number;
  /** The most there will be. */
  readonly total: number;
}

/** What was found. */
export interface SearchResult {
  /** As calibration would have made it. */
  readonly recipe: LoadedRecipe;
  /** The point that it is of. */
  readonly shares: Shares;
  /** Perplexity of the recipe on the samples. */
  readonly best: number;
  /** Perplexity of what the search began with. */
  readonly start: number;
  /** All generations; none of `greedy` and `local`. */
  readonly history: readonly Generation[];
  /** Points or blocks that were evaluated, each once. */
  readonly evaluations: number;
}

/** Jobs that an evaluation is cut into: more than one, so that workers end a generation together. */
const JOBS_EACH = 4;

/** The samples of a search. */
export function samplesOf(
  model: Model,
  documents: readonly string[],
  settings: SearchSettings,
  signal?: AbortSignal,
): Promise<number[][]> {
  const { tokenizer } = model.description,
    length = Math.min(settings.sampleTokens, model.config.maxPositionEmbeddings);
  const separator = tokenizer.stopIds[0] ?? 0;
  const { samples: count, seed } = settings;
  const encode = (text: string): Promise<number[]> =>
    encodeText((part) => tokenizer.encode(part), text, { signal });
  return drawSamples(documents, encode, separator, { count, length, seed });
}

/**
 * Searches a recipe (rsparse.md sections 8 and 10).
 *
 * @param model any dtype, without a recipe: it is read for thresholds and is closed before workers load theirs
 * @throws {RangeError} If a setting is out of range or the text too short; what workers fail with; the signal's reason, once it is aborted.
 */
export async function searchRecipe(model: Model, options: SearchOptions): Promise<SearchResult> {
  const { settings, signal, onPhase } = options, { algorithm, sparsity } = settings;
  checkSettings(settings);
  const samples = await samplesOf(model, options.documents, settings, signal),
    shapes = projectionShapes(model.config);
  const tables = await makeTables(model, firstTokens(samples, settings.calibrationTokens), {
    signal,
    onProgress: (done, total) => onPhase?.("calibrating", done, total),
  });
  const start = options.start ?? uniformShares(shapes.length, 1, sparsity);
  // ranks are bounded by it: of `local` they are those of the sparsity asked for, whatever it begins with
  const leastSparsity = algorithm === "joint" || algorithm === "greedy"
    ? 0
    : Math.min(sparsity, ...start.sparsity);
  const group = KINDS * (algorithm === "local" || algorithm === "greedy" ? 1 : settings.groupLayers);
  const setup: Setup = {
    model: options.modelSource,
    modelHash: await model.hash(),
    kernels: model.info.kernels,
    dtype: options.dtype,
    samples,
    tables,
    keepDense: settings.keepDense,
    leastSparsity,
    keptFactors: 2 * group,
  };
  await model.close();
  const executor = await options.executor(setup, signal);
  try {
    const run = new Run(model.config, executor, setup, options);
    const history: Generation[] = [];
    const found = algorithm === "greedy"
      ? await run.greedy(start)
      : algorithm === "local"
      ? await run.local(start)
      : await run.evolve(start, history);
    const recipe = await recipeOfShares(model, {
      shares: found.shares,
      tables,
      sparsity: meanOf(found.shares, sparsity, shapes.map(weightOf)),
      sparsityAt: found.sparsityAt,
      leastSparsity,
      method: algorithm === "greedy" ? "teal" : "r-sparse",
      keepDense: settings.keepDense,
      seed: settings.seed,
      source: {
        source: options.source,
        tokens: firstTokens(samples, settings.calibrationTokens).flat().length,
        sha256: options.sourceHash,
      },
    }, { signal, onProgress: (done, total) => onPhase?.("writing", done, total) });
    const { shares, fitness, first } = found;
    return { recipe, shares, best: fitness, start: first, history, evaluations: run.done };
  } finally {
    await executor.close();
  }
}

/** The sparsity asked for, or what a start from a file skips in all. */
function meanOf({ sparsity }: Shares, wanted: number, weights: readonly number[]): number {
  const mean = meanSparsity(sparsity, weights);
  return Math.abs(mean - wanted) < 1e-6 ? wanted : mean;
}

function checkSettings(settings: SearchSettings): void {
  const whole = (name: keyof SearchSettings, least: number): void => {
    const value = settings[name];
    if (!Number.isSafeInteger(value) || (value as number) < least) {
      throw new RangeError(`${name}: ${value} found, a whole number from ${least} wanted`);
    }
  };
  const share = (name: keyof SearchSettings, most: number = 1): void => {
    const value = settings[name] as number;
    if (!(value >= 0 && value <= most)) throw new RangeError(`${name}: ${value} found, 0 to ${most} wanted`);
  };
  for (const name of ["population", "groupLayers", "samples", "calibrationTokens"] as const) whole(name, 1);
  for (const name of ["generations", "keepDense", "seed"] as const) whole(name, 0);
  whole("sampleTokens", 2);
  for (const name of ["pc", "rhoFrom", "spread", "greedyTarget"] as const) share(name);
  share("pm", settings.step === "genetic" ? 1 : 2);
  share("sparsity", 0.9);
  if (!(settings.greedyStep > 0 && settings.greedyStep <= 0.5)) {
    throw new RangeError(`greedyStep: ${settings.greedyStep} found, above 0 to 0.5 wanted`);
  }
}

/** Samples up to so many tokens in all. */
function firstTokens(samples: readonly (readonly number[])[], most: number): number[][] {
  const out: number[][] = [];
  let left = most;
  for (const sample of samples) {
    if (left < 1) break;
    out.push(sample.slice(0, left));
    left -= sample.length;
  }
  return out;
}

interface Found {
  readonly shares: Shares;
  readonly fitness: number;
  readonly first: number;
  readonly sparsityAt?: (projection: number, point: number) => number;
}

/** Evaluations of one search: each once, here or in an earlier run. */
class Run {
  /** Evaluations so far. */
  done = 0;
  #total = 0;
  readonly #config: LlamaConfig;
  readonly #executor: Executor;
  readonly #setup: Setup;
  readonly #options: SearchOptions;
  readonly #known: Map<string, Promise<readonly number[]>> = new Map();

  constructor(config: LlamaConfig, executor: Executor, setup: Setup, options: SearchOptions) {
    this.#config = config;
    this.#executor = executor;
    this.#setup = setup;
    this.#options = options;
  }

  async evolve(start: Shares, history: Generation[]): Promise<Found> {
    const { settings, onGeneration } = this.#options,
      all = { ...settings, joint: settings.algorithm === "joint" };
    this.#total = mostEvaluations(this.#config, all);
    let first = 0;
    const { shares, fitness } = await evolve(this.#config, start, all, async (points, split) => {
      const found = await this.#each(points, (shares) => this.#perplexity(shares, split));
      if (first === 0) first = found[0]!;
      return found;
    }, (generation) => {
      history.push(generation);
      onGeneration?.(generation, this.#progress);
    });
    return { shares, fitness, first };
  }

  async greedy(start: Shares): Promise<Found> {
    const { sparsity, greedyStep: step, greedyTarget } = this.#options.settings, layers = this.#layers();
    const target = Math.max(greedyTarget, sparsity), weights = stepWeights(this.#config);
    this.#total = layers.length + 2;
    const first = await this.#perplexity(start, 0);
    const paths = await this.#each(
      layers,
      (layer) => this.#once(`greedy ${layer}`, [{ kind: "greedy", layer, step, target }]),
    );
    const at = (layer: number, point: number): number[] => alongPath(paths[layer]!, weights, step, point);
    const shares: Shares = {
      rho: start.rho.map(() => 1),
      sparsity: layers.flatMap((layer) => at(layer, sparsity)),
    };
    return {
      shares,
      first,
      fitness: await this.#perplexity(shares, 0),
      sparsityAt: (projection, point) =>
        at(Math.floor(projection / KINDS), Math.min(point, target))[projection % KINDS]!,
    };
  }

  async local(start: Shares): Promise<Found> {
    const { sparsity } = this.#options.settings, layers = this.#layers();
    this.#total = layers.length + 2;
    const first = await this.#perplexity(start, 0);
    const found = await this.#each(
      layers,
      (layer) => this.#once(`local ${layer}`, [{ kind: "local", layer, sparsity, rhos: LOCAL_RHOS }]),
    );
    const shares: Shares = {
      rho: found.flat(),
      sparsity: layers.flatMap(() => PROJECTIONS.map(() => sparsity)),
    };
    return { shares, first, fitness: await this.#perplexity(shares, 0) };
  }

  #layers(): number[] {
    return Array.from({ length: this.#config.numHiddenLayers }, (_, layer) => layer);
  }

  get #progress(): Progress {
    return { done: this.done, total: this.#total };
  }

  /** All at once; the first that fails ends them all. */
  #each<T, R>(items: readonly T[], one: (item: T) => Promise<R>): Promise<R[]> {
    return Promise.all(items.map(one));
  }

  /** Mean over the samples of their perplexities. */
  async #perplexity(shares: Shares, split: number): Promise<number> {
    const { samples } = this.#setup, each = Math.ceil(samples.length / JOBS_EACH), jobs: Job[] = [];
    for (let from = 0; from < samples.length; from += each) {
      const part = samples.map((_, i) => i).slice(from, from + each);
      jobs.push({ kind: "perplexity", shares, split, samples: part });
    }
    const found = await this.#once(JSON.stringify(shares), jobs);
    return fitnessOf(found.reduce((sum, value) => sum + value, 0) / found.length);
  }

  #once(key: string, jobs: readonly Job[]): Promise<readonly number[]> {
    const known = this.#known.get(key);
    if (known !== undefined) return known;
    const found = this.#compute(key, jobs);
    this.#known.set(key, found);
    return found;
  }

  async #compute(key: string, jobs: readonly Job[]): Promise<readonly number[]> {
    const { finished, onFinished, signal } = this.#options, before = finished?.get(key);
    if (before !== undefined) {
      this.done++;
      return before;
    }
    signal?.throwIfAborted();
    const value = (await Promise.all(jobs.map((job) => this.#executor.run(job, signal)))).flat();
    this.done++;
    await onFinished?.({ key, value }, this.#progress);
    return value;
  }
}
