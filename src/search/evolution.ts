/** The evolutionary search's operators: pure functions of numbers in [0, 1] and a seeded stream. */
import type { Random } from "../runtime/random.ts";

/** How children are made of a population. */
export type Step = "differential" | "genetic";

/** Settings of {@linkcode makeChildren}. */
export interface StepSettings {
  /** `differential`: a mutant is x1 + pm (x2 - x3). `genetic`: the child takes another member's variables and draws some anew. */
  readonly step: Step;
  /** `differential`: the weight of the difference; `genetic`: the chance that a variable is drawn anew. */
  readonly pm: number;
  /** The chance that a variable comes from the mutant, or from the other member. */
  readonly pc: number;
}

/** A member of a population. */
export interface Member {
  readonly genes: readonly number[];
  /** Its perplexity. */
  readonly fitness: number;
}

/**
 * A child of every member (rsparse.md section 8): differential evolution, rand/1/bin. The child takes the mutant's variable where u > 1 - pc, else the
 * parent's. x1, x2 and x3 are members other than the parent and each other, where there are as many.
 *
 * @param least the smallest value of each variable that is drawn anew
 */
export function makeChildren(
  random: Random,
  population: readonly (readonly number[])[],
  { step, pm, pc }: StepSettings,
  least: readonly number[],
): number[][] {
  return population.map((parent, p) => {
    if (step === "genetic") {
      const [other] = otherMembers(random, population, p, 1) as [readonly number[]];
      return parent.map((value, i) => {
        const taken = random.uniform() < pc ? other[i]! : value;
        return random.uniform() < pm ? least[i]! + random.uniform() * (1 - least[i]!) : taken;
      });
    }
    const [x1, x2, x3] = otherMembers(random, population, p, 3) as [number[], number[], number[]];
    return parent.map((value, i) =>
      random.uniform() > 1 - pc ? Math.min(Math.max(x1[i]! + pm * (x2[i]! - x3[i]!), 0), 1) : value
    );
  });
}

/** Members at random: other ones than the parent and each other, unless there are too few. */
function otherMembers(
  random: Random,
  population: readonly (readonly number[])[],
  parent: number,
  count: number,
): (readonly number[])[] {
  const draw = (): number => Math.floor(random.uniform() * population.length);
  if (population.length <= count) return Array.from({ length: count }, () => population[draw()]!);
  const taken = [parent];
  while (taken.length <= count) {
    const next = draw();
    if (!taken.includes(next)) taken.push(next);
  }
  return taken.slice(1).map((i) => population[i]!);
}

/** The best of parents and children, best first; among equals those that came first. */
export function survivors(parents: readonly Member[], children: readonly Member[], size: number): Member[] {
  return [...parents, ...children].sort((a, b) => a.fitness - b.fitness).slice(0, size);
}

/** A NaN or infinite perplexity, and every larger one: the released code's number for a broken candidate. */
export const WORST = 1e9;

/** A perplexity as the search compares it: what is no number, or worse, counts as {@linkcode WORST}. */
export function fitnessOf(perplexity: number): number {
  return perplexity < WORST ? perplexity : WORST;
}

/** Mean of a population. */
export function meanFitness(population: readonly Member[]): number {
  return population.reduce((sum, { fitness }) => sum + fitness, 0) / population.length;
}
