/** From a model, a text and perhaps a recipe to figures, one after the other. */
import { type FigureName, FIGURES } from "./names.ts";
import { type ProjectionName, PROJECTIONS, projectionShape } from "../model/config.ts";
import { SITES } from "../runtime/forward.ts";
import { encodeDocuments } from "../runtime/encode_text.ts";
import type { Model } from "../runtime/model.ts";
import { activationsFigure } from "./activations.ts";
import { BIAS_TOKENS, type BiasRank, biasRankFigure, type KeptInputs, measureBiasRank } from "./bias_rank.ts";
import { contributionFigure, contributionOf } from "./contribution.ts";
import type { Figure } from "../plot/figure.ts";
import { KeptChannels, keptFigure, overlapFigure } from "./kept.ts";
import { sampleLayers, shortName } from "./layers.ts";
import { Magnitudes } from "./magnitudes.ts";
import { type ChannelTest, testsOf } from "./masks.ts";
import { qualityFigure } from "./quality.ts";
import type { QualityRun } from "./quality_results.ts";
import { rhoFigure } from "./rho.ts";
import { effectiveRankFigure, measureSpectra, spectraFigure } from "./spectra.ts";
import { type SiteInput, watchText } from "./watch.ts";
import { WeightReader } from "./weights.ts";

/** A figure that can't be had, and why. */
export interface Omitted {
  /** Of {@linkcode FIGURES}. */
  readonly name: FigureName;
  /** What is missing. */
  readonly reason: string;
}

/** Settings of {@linkcode analyzeModel}. */
export interface AnalyzeOptions {
  /** What the model reads; of documents, one after the other. */
  readonly text: string | readonly string[];
  /** What to call it. */
  readonly source: string;
  /** Tokens of it, from its beginning; default 1,024, or all if the text has fewer. */
  readonly tokens?: number;
  /** Which figures; default all. */
  readonly only?: readonly FigureName[];
  /** Whose contributions are shown; default the middle one. */
  readonly layer?: number;
  /** And of which projection; default down. */
  readonly projection?: ProjectionName;
  /** Results for the figure of quality: those of this model are shown. */
  readonly quality?: readonly QualityRun[];
  /** Ends it with the signal's reason. */
  readonly signal?: AbortSignal;
  /** Called now and then. */
  readonly onProgress?: (progress: {
    readonly phase: "spectra" | "reading" | "bias vectors";
    readonly done: number;
    readonly total: number;
  }) => void;
}

/** Tokens of a sequence, and of all. */
const PIECE = 512, TOKENS = 1024;
/** Lines of the histograms, and layers whose inputs are kept: 20 MB for SmolLM2. */
const SHOWN_LAYERS = 6, BIAS_LAYERS = 3;
/** Without a recipe: the share of a site's inputs that its threshold leaves out. */
const DEFAULT_SHARE = 0.5;
const OF_THE_TEXT: readonly FigureName[] = ["contribution", "activations", "kept", "overlap", "bias-rank"];

/**
 * Analyses a model; with a recipe it reads the text sparse, as the recipe says, and the figures show the recipe's masks. The first position of each sequence
 * is left out: its activations are a hundred times those of others.
 *
 * The same bytes come out on every run; in every runtime too where the model runs on the baseline kernels (docs/analysis.md).
 *
 * @throws {RangeError} If an option is out of range or the text is too short.
 */
export async function* analyzeModel(
  model: Model,
  options: AnalyzeOptions,
): AsyncGenerator<Figure | Omitted, void> {
  const { signal, only = FIGURES, onProgress } = options, { config } = model, recipe = model.recipe?.recipe;
  const layers = config.numHiddenLayers, layer = options.layer ?? layers >> 1;
  if (!(Number.isInteger(layer) && layer >= 0 && layer < layers)) {
    throw new RangeError(`layer: ${layer} found, 0 to ${layers - 1} wanted`);
  }
  for (const name of only) {
    if (!FIGURES.includes(name)) {
      throw new RangeError(`figure ${name} found, one of ${FIGURES.join(" ")} wanted`);
    }
  }
  const wanted = (...names: readonly FigureName[]): boolean => names.some((name) => only.includes(name));
  const encode = (text: string): number[] => model.description.tokenizer.encode(text);
  const reading = wanted(...OF_THE_TEXT)
    ? new Reading(
      model,
      await encodeDocuments(encode, options.text, { most: options.tokens ?? TOKENS, signal }),
      { ...options, layer },
    )
    : null;
  const weights = await WeightReader.create(model, signal);
  if (wanted("spectra", "effective-rank")) {
    const spectra = await measureSpectra(
      weights,
      (done, total) => onProgress?.({ phase: "spectra", done, total }),
    );
    if (wanted("spectra")) yield await spectraFigure(spectra, layers);
    if (wanted("effective-rank")) yield await effectiveRankFigure(spectra, layers);
  }
  if (reading !== null) {
    await reading.run(wanted("kept", "overlap"), wanted("bias-rank"));
    yield* reading.figures(weights, only);
  }
  signal?.throwIfAborted();
  if (wanted("rho")) {
    yield (recipe === undefined ? null : await rhoFigure(recipe)) ?? {
      name: "rho",
      reason: recipe === undefined
        ? "no recipe given"
        : `the recipe has one rho everywhere, ${recipe.projections[0]!.rho}`,
    };
  }
  if (wanted("quality")) {
    const own = runsOf(model, options.quality ?? []);
    yield (own.length === 0 ? null : await qualityFigure(own)) ?? {
      name: "quality",
      reason: options.quality === undefined
        ? "no results given"
        : "no results of a recipe for this model among those given",
    };
  }
}

/** Those of the model with the weights in memory of which there are most. */
function runsOf({ description }: Model, runs: readonly QualityRun[]): QualityRun[] {
  const own = runs.filter(({ model }) =>
    model.name === description.name && model.parameters === description.parameters
  );
  const groups = [...new Set(own.map(({ model }) => model.dtype))].map((dtype) =>
    own.filter(({ model }) => model.dtype === dtype)
  );
  return groups.sort((a, b) => b.length - a.length)[0] ?? [];
}

/** What the model is given while it reads the text, and the figures of that. */
class Reading {
  readonly #model: Model;
  readonly #options: AnalyzeOptions & { readonly layer: number };
  readonly #pieces: readonly (readonly number[])[];
  readonly #tokens: number;
  /** Positions left out of each piece. */
  readonly #skip: number;
  /** [layer][site]. */
  readonly #magnitudes: readonly (readonly Magnitudes[])[];
  /** The recipe's; null without one, or where it chooses by other means than thresholds on inputs. */
  readonly #tests: readonly (readonly (readonly ChannelTest[])[])[] | null;
  readonly #biasLayers: readonly number[];
  /** By layer and site: rows of the first tokens. */
  readonly #inputs = new Map<string, { readonly x: Float32Array; tokens: number }>();
  #kept: KeptChannels | null = null;

  constructor(
    model: Model,
    ids: readonly number[],
    options: AnalyzeOptions & { readonly layer: number },
  ) {
    const { config } = model;
    this.#model = model;
    this.#options = options;
    this.#skip = Math.max(1, model.recipe?.recipe.keepDense ?? 1);
    const length = Math.min(PIECE, model.engine.contextLength);
    this.#pieces = Array.from(
      { length: Math.ceil(ids.length / length) },
      (_, i) => ids.slice(length * i, length * (i + 1)),
    );
    this.#tokens = this.#pieces.reduce((sum, piece) => sum + Math.max(0, piece.length - this.#skip), 0);
    if (this.#tokens < 2) {
      throw new RangeError(`the text has ${ids.length} tokens, at least ${this.#skip + 2} wanted`);
    }
    this.#magnitudes = Array.from(
      { length: config.numHiddenLayers },
      () => SITES.map((names) => new Magnitudes(projectionShape(config, names[0]).nIn)),
    );
    const { recipe } = model;
    const tests = recipe === null
      ? null
      : Array.from({ length: config.numHiddenLayers }, (_, layer) =>
        SITES.map((_, site) => testsOf(recipe, layer, site)));
    this.#tests = tests?.flat().includes(null) ? null : tests as ChannelTest[][][] | null;
    this.#biasLayers = sampleLayers(config.numHiddenLayers, BIAS_LAYERS);
  }

  /** Whether there are masks to look at. */
  get #hasMasks(): boolean {
    return this.#tests !== null || this.#model.recipe === null;
  }

  /** Reads the text; twice where masks are wanted whose thresholds the first time has to tell. */
  async run(masks: boolean, inputs: boolean): Promise<void> {
    const known = this.#tests !== null, twice = masks && this.#model.recipe === null;
    if (masks && known) this.#kept = new KeptChannels(this.#model.config, this.#tests!, this.#skip);
    const passes = twice ? 2 : 1;
    await this.#read(0, passes, (input) => {
      this.#measure(input);
      if (inputs) this.#keep(input);
      this.#kept?.look(input);
    });
    if (!twice) return;
    const kept = this.#kept = new KeptChannels(this.#model.config, this.#ownTests(), this.#skip);
    await this.#read(1, passes, (input) => kept.look(input));
  }

  async #read(pass: number, passes: number, look: (input: SiteInput) => void): Promise<void> {
    const { signal, onProgress } = this.#options, length = this.#pieces.flat().length;
    await watchText(this.#model, {
      pieces: this.#pieces,
      signal,
      onTokens: (done) =>
        onProgress?.({ phase: "reading", done: pass * length + done, total: passes * length }),
    }, look);
  }

  #measure({ layer, site, x, stride, nTokens, position }: SiteInput): void {
    const magnitudes = this.#magnitudes[layer]![site]!;
    for (let t = Math.max(0, this.#skip - position); t < nTokens; t++) magnitudes.add(x, t * stride);
  }

  #keep({ layer, site, x, stride, nIn, nTokens, position }: SiteInput): void {
    if (!this.#biasLayers.includes(layer)) return;
    const key = `${layer} ${site}`, most = Math.min(BIAS_TOKENS, this.#tokens);
    const rows = this.#inputs.get(key) ?? { x: new Float32Array(most * nIn), tokens: 0 };
    this.#inputs.set(key, rows);
    for (let t = Math.max(0, this.#skip - position); t < nTokens && rows.tokens < most; t++) {
      rows.x.set(x.subarray(t * stride, t * stride + nIn), rows.tokens++ * nIn);
    }
  }

  /** Without a recipe: the same share of each site's inputs. */
  #ownTests(): ChannelTest[][][] {
    return this.#magnitudes.map((sites) =>
      sites.map((magnitudes, site) => [{
        names: SITES[site]!,
        scale: null,
        threshold: magnitudes.quantile(DEFAULT_SHARE),
      }])
    );
  }

  /** What is said of the text and of how it was read. */
  #about(masks: boolean): string[] {
    const { recipe } = this.#model, { source } = this.#options;
    const run = recipe === null
      ? `dense${masks ? `, thresholds that leave out ${100 * DEFAULT_SHARE} % of each site's inputs` : ""}`
      : `sparse, by ${recipe.recipe.method} for sparsity ${recipe.recipe.sparsity}`;
    const left = this.#skip === 1 ? "position" : `${this.#skip} positions`;
    return [`${this.#tokens} tokens of ${source}, the first ${left} of each sequence left out`, run];
  }

  async *figures(weights: WeightReader, only: readonly FigureName[]): AsyncGenerator<Figure | Omitted, void> {
    const { layer, projection = "downProj", signal } = this.#options, { config, recipe } = this.#model;
    const reason =
      `${recipe?.recipe.method} chooses channels by other means than a threshold on a projection's input`;
    if (only.includes("contribution")) {
      const { nIn, nOut } = projectionShape(config, projection), w = await weights.read(layer, projection);
      const svd = weights.svd.truncatedSvd(w, nOut, nIn, Math.min(nIn, nOut));
      const { sums, rows } = this.#magnitudes[layer]![
        SITES.findIndex((names) => (names as readonly ProjectionName[]).includes(projection))
      ]!;
      const contribution = contributionOf(
        svd,
        sums.map((sum) => sum / rows),
      );
      yield await contributionFigure(contribution, {
        layer,
        projection: shortName(projection),
        about: this.#about(false),
      });
    }
    if (only.includes("activations")) {
      const tests = this.#tests ??
        (recipe === null ? null : this.#magnitudes.map((sites) => sites.map(() => [])));
      const shown = sampleLayers(config.numHiddenLayers, SHOWN_LAYERS);
      yield await activationsFigure(this.#magnitudes, shown, tests, this.#about(false));
    }
    signal?.throwIfAborted();
    if (only.includes("kept")) {
      yield this.#kept === null ? { name: "kept", reason } : await keptFigure(this.#kept, this.#about(true));
    }
    if (only.includes("overlap")) {
      const figure = this.#kept === null ? null : await overlapFigure(this.#kept, this.#about(true));
      yield figure ?? {
        name: "overlap",
        reason: this.#kept === null ? reason : "no two neighbouring tokens have active channels",
      };
    }
    if (only.includes("bias-rank")) {
      yield this.#hasMasks ? await this.#biasRanks(weights) : { name: "bias-rank", reason };
    }
  }

  async #biasRanks(weights: WeightReader): Promise<Figure> {
    const { config } = this.#model, tests = this.#tests ?? this.#ownTests(), ranks: BiasRank[] = [];
    for (const layer of this.#biasLayers) {
      for (const name of PROJECTIONS) {
        const site = SITES.findIndex((names) => (names as readonly ProjectionName[]).includes(name));
        const test = tests[layer]![site]!.find(({ names }) => names.includes(name))!;
        const inputs: KeptInputs = { ...this.#inputs.get(`${layer} ${site}`)!, test };
        ranks.push(await measureBiasRank(weights, layer, name, inputs));
        this.#options.onProgress?.({
          phase: "bias vectors",
          done: ranks.length,
          total: this.#biasLayers.length * PROJECTIONS.length,
        });
      }
    }
    return await biasRankFigure(ranks, config.numHiddenLayers, this.#about(true));
  }
}
