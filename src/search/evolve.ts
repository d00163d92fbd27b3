/** The evolutionary search: a group of neighbouring blocks at a time, the rest fixed. */
import type { LlamaConfig } from "../model/config.ts";
import { projectionShapes } from "../recipe/recipe.ts";
import { Random } from "../runtime/random.ts";
import { makeChildren, meanFitness, type Member, type StepSettings, survivors } from "./evolution.ts";
import {
  bySiteShares,
  KINDS,
  meanSparsity,
  MOST_SPARSITY,
  type Shares,
  toBudget,
  uniformShares,
  weightOf,
} from "./shares.ts";

/** Settings of {@linkcode evolve}. */
export interface EvolveSettings extends StepSettings {
  /** Members of a population. */
  readonly population: number;
  /** Times that it has children; 0: nothing is drawn, the start alone is evaluated. */
  readonly generations: number;
  /** Blocks whose projections are varied together. */
  readonly groupLayers: number;
  /** A variable for each projection of the group, or one for all of a kind (q, k, …) in it. */
  readonly variables: "projection" | "kind";
  /** The least rho that is drawn for the first population. */
  readonly rhoFrom: number;
  /** Whether sparsities are varied too, at the bytes that the group has: `joint`. */
  readonly joint: boolean;
  /** `joint`: how far from its own a sparsity is drawn for the first population. */
  readonly spread: number;
  /** `better`: a group changes only if its best is below what it had; `always`: it takes the best of its last population. */
  readonly accept: "better" | "always";
  /** Share of the multiply-adds to skip. */
  readonly sparsity: number;
  /** Of every draw. */
  readonly seed: number;
}

/** What became of a generation. */
export interface Generation {
  /** Counted over all groups; a group's first population is one too. */
  readonly generation: number;
  /** The group's first block, and the one after its last. */
  readonly layers: readonly [number, number];
  /** Perplexity of the best member. */
  readonly best: number;
  /** Mean of the population. */
  readonly mean: number;
}

/** How good points are: their perplexities. `split`: blocks before it are as in the points asked for last. */
export type Evaluate = (points: readonly Shares[], split: number) => Promise<number[]>;

/** How many evaluations there are at most; points that come twice are evaluated once. */
export function mostEvaluations(
  config: LlamaConfig,
  { population, generations, groupLayers }: EvolveSettings,
): number {
  return generations === 0
    ? 1
    : 1 + Math.ceil(config.numHiddenLayers / groupLayers) * population * (generations + 1);
}

/**
 * The paper's Algorithm 1 as rsparse.md section 8 fills it in. Member 0 of a group's first population is what it has, member 1 rho = 1 throughout, with `joint`
 * member 2 the allocation by site; the others are drawn. The same seed and perplexities give the same result, whoever computes them.
 *
 * @returns the best point and its perplexity
 */
export async function evolve(
  config: LlamaConfig,
  start: Shares,
  settings: EvolveSettings,
  evaluate: Evaluate,
  onGeneration: (generation: Generation) => void = () => {},
): Promise<{ readonly shares: Shares; readonly fitness: number }> {
  const random = new Random(settings.seed), layers = config.numHiddenLayers;
  let shares = start, [fitness] = await evaluate([shares], 0) as [number], generation = 0;
  if (settings.generations === 0) return { shares, fitness: fitness! };
  for (let first = 0; first < layers; first += settings.groupLayers) {
    const end = Math.min(layers, first + settings.groupLayers);
    const group = new Group(config, shares, first, end, settings);
    let population: Member[] = [];
    for (let g = 0; g <= settings.generations; g++) {
      const genes = g === 0
        ? group.first(random)
        : makeChildren(random, population.map((member) => member.genes), settings, group.least).map((child) =>
          group.repair(child)
        );
      const found = await evaluate(genes.map((one) => group.shares(one)), first);
      const members = genes.map((one, i): Member => ({ genes: one, fitness: found[i]! }));
      population = g === 0
        ? survivors(members, [], members.length)
        : survivors(population, members, settings.population);
      const best = population[0]!.fitness;
      onGeneration({ generation: generation++, layers: [first, end], best, mean: meanFitness(population) });
    }
    const best = population[0]!;
    if (best.fitness < fitness || settings.accept === "always") {
      shares = group.shares(best.genes);
      fitness = best.fitness;
    }
  }
  return { shares, fitness };
}

/** Variables of some blocks: rho, and with `joint` sparsity, of each projection or of each kind. */
class Group {
  /** The least that is drawn, by variable. */
  readonly least: readonly number[];
  readonly #config: LlamaConfig;
  readonly #base: Shares;
  readonly #settings: EvolveSettings;
  readonly #first: number;
  readonly #count: number;
  readonly #variables: number;
  readonly #weights: readonly number[];
  /** What the group skips, whatever its variables are. */
  readonly #target: number;

  constructor(config: LlamaConfig, base: Shares, first: number, end: number, settings: EvolveSettings) {
    this.#config = config;
    this.#base = base;
    this.#settings = settings;
    this.#first = KINDS * first;
    this.#count = KINDS * (end - first);
    this.#variables = settings.variables === "kind" ? KINDS : this.#count;
    const weights = projectionShapes(config).slice(this.#first, this.#first + this.#count).map(weightOf);
    this.#target = meanSparsity(base.sparsity.slice(this.#first, this.#first + this.#count), weights);
    this.#weights = settings.variables === "kind" ? weights.slice(0, KINDS) : weights;
    this.least = [
      ...Array(this.#variables).fill(settings.rhoFrom),
      ...Array(settings.joint ? this.#variables : 0).fill(0),
    ];
  }

  first(random: Random): number[][] {
    const { population, joint, spread, rhoFrom, sparsity } = this.#settings;
    const all = this.#base.rho.length, own = this.#genes(this.#base);
    const given = [own, this.#genes({ ...this.#base, rho: uniformShares(all, 1, sparsity).rho })];
    if (joint) given.push(this.#genes(bySiteShares(this.#config, this.#target)));
    return Array.from({ length: population }, (_, i) => {
      if (i < given.length) return this.repair(given[i]!);
      return this.repair(
        own.map((value, j) =>
          j < this.#variables
            ? rhoFrom + random.uniform() * (1 - rhoFrom)
            : value + (2 * random.uniform() - 1) * spread
        ),
      );
    });
  }

  /** Genes within their bounds, their sparsities at the group's bytes. */
  repair(genes: readonly number[]): number[] {
    const n = this.#variables, rho = genes.slice(0, n), sparsity = genes.slice(n);
    if (sparsity.length === 0) return rho;
    return [...rho, ...toBudget(sparsity, this.#weights, this.#target, 0, MOST_SPARSITY)];
  }

  /** The whole model with these genes in the group. */
  shares(genes: readonly number[]): Shares {
    const rho = [...this.#base.rho], sparsity = [...this.#base.sparsity], n = this.#variables;
    for (let i = 0; i < this.#count; i++) {
      rho[this.#first + i] = genes[i % n]!;
      if (this.#settings.joint) sparsity[this.#first + i] = genes[n + i % n]!;
    }
    return { rho, sparsity };
  }

  #genes({ rho, sparsity }: Shares): number[] {
    const to = this.#first + this.#variables;
    return [...rho.slice(this.#first, to), ...(this.#settings.joint ? sparsity.slice(this.#first, to) : [])];
  }
}
