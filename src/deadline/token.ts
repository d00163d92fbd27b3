/** One token under a policy, from its first block to its last: what a simulation and a model that runs have in common. */
import { exp, log } from "../runtime/exp.ts";
import type { LatencyTable } from "./levels.ts";
import type { Policy, Situation } from "./policy.ts";

/** How a token's time and work are spread over its parts: groups of blocks, and the head. */
export interface Profile {
  /** By level, then by part: the share of the token's time, adding up to 1. */
  readonly time: readonly (readonly number[])[];
  /** By part: the share of the blocks, adding up to 1; 0 for the head, which is always dense. */
  readonly blocks: readonly number[];
}

/** A token that is not looked at between its blocks. */
export function wholeToken(levels: number): Profile {
  return { time: Array.from({ length: levels }, () => [1]), blocks: [1] };
}

/**
 * Asks the policy before each part, and tells it what came of it.
 *
 * @example
 * ```ts ignore
 * const run = new TokenRun(policy, table, profile, { leftMs, waiting });
 * for (let part = 0; part < profile.blocks.length; part++) runBlocks(part, levels[run.levelOf(part, leftMs())]!.sparsity);
 * run.end(tookMs, isInTime);
 * ```
 */
export class TokenRun {
  readonly #policy: Policy;
  readonly #table: LatencyTable;
  readonly #profile: Profile;
  #level: number;
  /** By part. */
  readonly #levels: number[] = [];

  /** Begins a token. */
  constructor(policy: Policy, table: LatencyTable, profile: Profile, situation: Situation) {
    this.#policy = policy;
    this.#table = table;
    this.#profile = profile;
    this.#level = policy.choose(situation);
  }

  /**
   * The level of a part, which begins now: parts in their order. Only `layer` looks again, and not at the head, which has no dial.
   *
   * @param leftMs from now to the deadline
   */
  levelOf(part: number, leftMs: number): number {
    const { time, blocks } = this.#profile;
    if (part > 0 && blocks[part]! > 0 && this.#policy.again !== undefined) {
      const share = sumFrom(blocks, part);
      const restMs = this.#table.levels.map(({ latencyMs }, level) =>
        latencyMs * sumFrom(time[level]!, part)
      );
      this.#level = this.#policy.again({ leftMs, restMs, share });
    }
    return this.#levels[part] = this.#level;
  }

  /** The level that most blocks ran at; of equals the sparser. */
  get level(): number {
    const shares = new Map<number, number>();
    this.#levels.forEach((level, part) =>
      shares.set(level, (shares.get(level) ?? 0) + this.#profile.blocks[part]!)
    );
    let most = -1, choice = this.#level;
    for (const [level, share] of shares) {
      if (share > most || (share === most && level > choice)) [choice, most] = [level, share];
    }
    return choice;
  }

  /** Fidelity of the token: what levels lose adds up over blocks, in logarithms; exact where one level ran. */
  get fidelity(): number {
    const { levels } = this.#table, first = this.#levels[0] ?? this.#level;
    if (this.#levels.every((level) => level === first)) return levels[first]!.fidelity;
    return exp(
      this.#levels.reduce(
        (sum, level, part) => sum + this.#profile.blocks[part]! * log(levels[level]!.fidelity),
        0,
      ),
    );
  }

  /** The mean sparsity over blocks; exact where one level ran. */
  get sparsity(): number {
    const { levels } = this.#table, first = this.#levels[0] ?? this.#level;
    if (this.#levels.every((level) => level === first)) return levels[first]!.sparsity;
    return this.#levels.reduce(
      (sum, level, part) => sum + this.#profile.blocks[part]! * levels[level]!.sparsity,
      0,
    );
  }

  /** Tells the policy. Where levels were mixed it is told what the token would have taken at the one that most blocks ran at. */
  end(latencyMs: number, isHit: boolean): void {
    const { levels } = this.#table, { level } = this, own = levels[level]!.latencyMs;
    const isMixed = this.#levels.some((other) => other !== level);
    const expectedMs = isMixed
      ? this.#levels.reduce(
        (sum, other, part) => sum + levels[other]!.latencyMs * this.#profile.time[other]![part]!,
        0,
      )
      : own;
    this.#policy.observe(level, expectedMs > 0 && isMixed ? latencyMs * own / expectedMs : latencyMs, isHit);
  }
}

function sumFrom(shares: readonly number[], from: number): number {
  let sum = 0;
  for (let i = from; i < shares.length; i++) sum += shares[i]!;
  return sum;
}
