/** From logits to the next token. Every step is the same in every engine, so a seed gives the same text everywhere. */
import { exp, log } from "./exp.ts";
import { Random } from "./random.ts";

/** How a token is drawn. Each filter that is left out lets everything pass; without a temperature the best token is taken. */
export interface SamplingOptions {
  /** Logits are divided by it before the draw; 0 (the default) takes the best token, and then no other filter matters. */
  readonly temperature?: number;
  /** Keeps the `topK` best; 0 (the default) keeps all. */
  readonly topK?: number;
  /** Keeps the fewest best whose probabilities reach `topP`, in (0, 1]; 1 (the default) keeps all. */
  readonly topP?: number;
  /** Keeps what is at least `minP` times as probable as the best, in [0, 1]; 0 (the default) keeps all. */
  readonly minP?: number;
  /** Divides a positive logit of a recent token, multiplies a negative one; 1 (the default) changes nothing. */
  readonly repeatPenalty?: number;
  /** How many recent tokens the penalty looks at: 64, 0 for none. */
  readonly repeatLastN?: number;
  /** An integer in [0, 2 ** 53); one is made up where it is left out, see {@linkcode Sampler.seed}. */
  readonly seed?: number;
}

const RULES: readonly [keyof SamplingOptions, (x: number) => boolean, string][] = [
  ["temperature", (x) => x >= 0 && x < Infinity, "a finite number of at least 0"],
  ["topK", isCount, "an integer of at least 0"],
  ["topP", (x) => x > 0 && x <= 1, "above 0 and at most 1"],
  ["minP", (x) => x >= 0 && x <= 1, "from 0 to 1"],
  ["repeatPenalty", (x) => x > 0 && x < Infinity, "a finite number above 0"],
  ["repeatLastN", isCount, "an integer of at least 0"],
  ["seed", isCount, `an integer from 0 to ${Number.MAX_SAFE_INTEGER}`],
];

function isCount(x: number): boolean {
  return Number.isSafeInteger(x) && x >= 0;
}

/**
 * Refuses sampling options that mean nothing.
 *
 * @throws {RangeError} If a value is NaN or outside its range; the message names the option, the value and the range.
 */
export function validateSampling(options: SamplingOptions): void {
  for (const [name, isRight, wanted] of RULES) {
    const value = options[name];
    if (value === undefined) continue;
    if (typeof value !== "number" || !isRight(value)) {
      throw new RangeError(`sampling option ${name}: ${value} found, it must be ${wanted}`);
    }
  }
}

/**
 * Draws tokens. Steps, meanings and order are those of llama.cpp: repeat penalty, top-k, top-p, min-p,
 * then temperature, which sharpens or flattens what the filters kept.
 *
 * @example Greedy
 * ```ts
 * import assert from "node:assert/strict";
 * const sampler = new Sampler({ temperature: 0 });
 * assert.equal(sampler.sample(Float32Array.of(0.5, 2, 1), []), 1);
 * ```
 */
export class Sampler {
  /** What seeded the draws: the option, or the number made up for it. Give it again to repeat a run. */
  readonly seed: number;
  readonly #options: Required<Omit<SamplingOptions, "seed">>;
  readonly #random: Random;
  #penalised: Float32Array = new Float32Array(0);

  /**
   * A sampler with its own random numbers.
   *
   * @throws {RangeError} As {@linkcode validateSampling}.
   */
  constructor(options: SamplingOptions = {}) {
    validateSampling(options);
    this.seed = options.seed ?? crypto.getRandomValues(new Uint32Array(1))[0]!;
    this.#random = new Random(this.seed);
    this.#options = {
      temperature: options.temperature ?? 0,
      topK: options.topK ?? 0,
      topP: options.topP ?? 1,
      minP: options.minP ?? 0,
      repeatPenalty: options.repeatPenalty ?? 1,
      repeatLastN: options.repeatLastN ?? 64,
    };
  }

  /**
   * The next token.
   *
   * @param logits One a token; not changed.
   * @param recent The tokens so far, oldest first; only the repeat penalty looks at them.
   * @throws {RangeError} If there are no logits.
   * @throws {Error} If a logit is NaN or Infinity, or all are -Infinity.
   */
  sample(logits: Float32Array, recent: readonly number[]): number {
    const { temperature, topK, topP, minP } = this.#options;
    const scores = this.#penalise(logits, recent);
    const best = argmax(scores);
    if (temperature === 0) return best;
    let kept: number[] | null = topK > 0 && topK < scores.length ? new BestFirst(scores).take(topK) : null;
    if (topP < 1) kept = topShare(scores, kept, topP, best);
    const least = minP > 0 ? scores[best]! + log(minP) : -Infinity;
    const candidates: number[] = [];
    for (let i = 0, n = kept?.length ?? scores.length; i < n; ++i) {
      const id = kept ? kept[i]! : i;
      if (scores[id]! >= least) candidates.push(id);
    }
    return this.#draw(scores, candidates, temperature, best);
  }

  #penalise(logits: Float32Array, recent: readonly number[]): Float32Array {
    const { repeatPenalty, repeatLastN } = this.#options;
    if (repeatPenalty === 1 || repeatLastN === 0 || recent.length === 0) return logits;
    if (this.#penalised.length !== logits.length) this.#penalised = new Float32Array(logits.length);
    this.#penalised.set(logits);
    for (const id of recent.slice(-repeatLastN)) {
      const logit = logits[id];
      if (logit === undefined) throw new RangeError(`recent token ${id}: there are ${logits.length} logits`);
      this.#penalised[id] = logit > 0 ? logit / repeatPenalty : logit * repeatPenalty;
    }
    return this.#penalised;
  }

  /** Inverts the cumulative distribution over `candidates` in their order. */
  #draw(scores: Float32Array, candidates: readonly number[], temperature: number, best: number): number {
    const top = scores[best]!;
    const weights = candidates.map((id) => exp((scores[id]! - top) / temperature));
    let total = 0;
    for (const weight of weights) total += weight;
    let left = this.#random.uniform() * total;
    let last = best;
    for (let i = 0; i < candidates.length; ++i) {
      if (weights[i]! === 0) continue;
      last = candidates[i]!;
      left -= weights[i]!;
      if (left < 0) return last;
    }
    // Rounding of the running difference can leave a remainder: the last candidate that has any weight has it.
    return last;
  }
}

/**
 * ln of the probability that `logits` give to token `id`: its logit minus the log-sum-exp of all.
 *
 * @throws {RangeError} If `id` is no index of `logits`.
 * @throws {Error} If a logit is NaN or Infinity, or all are -Infinity.
 */
export function logProbability(logits: Float32Array, id: number): number {
  const logit = logits[id];
  if (logit === undefined) throw new RangeError(`token ${id}: there are ${logits.length} logits`);
  const top = logits[argmax(logits)]!;
  return logit - top - log(sumExp(logits, top));
}

/**
 * The `k` best tokens and their logits, best first, the lower id first among equals; all of them if there are fewer.
 *
 * @throws {RangeError} If `k` is not an integer of at least 0, or there are no logits.
 * @throws {Error} If a logit is NaN or Infinity, or all are -Infinity.
 */
export function topLogits(logits: Float32Array, k: number): [id: number, logit: number][] {
  if (!isCount(k)) throw new RangeError(`k is ${k}: it must be an integer of at least 0`);
  argmax(logits);
  return new BestFirst(logits).take(k).map((id) => [id, logits[id]!]);
}

/** The best id, the lowest among equals; the one place where logits are checked. */
function argmax(logits: Float32Array): number {
  let best = 0, top = -Infinity;
  for (let id = 0; id < logits.length; ++id) {
    const logit = logits[id]!;
    if (logit > top) {
      top = logit;
      best = id;
    } else if (logit !== logit) {
      throw new Error(`Cannot sample: the logit of token ${id} is NaN: the weights or a kernel are at fault`);
    }
  }
  if (logits.length === 0) throw new RangeError("Cannot sample: there are no logits");
  if (Math.abs(top) === Infinity) {
    throw new Error(`Cannot sample: the largest logit is ${top}: the weights or a kernel are at fault`);
  }
  return best;
}

function sumExp(logits: Float32Array, top: number): number {
  let total = 0;
  for (let id = 0; id < logits.length; ++id) total += exp(logits[id]! - top);
  return total;
}

/** The fewest best of `kept` (all tokens if null) that have `share` of its probability, best first. */
function topShare(
  scores: Float32Array,
  kept: readonly number[] | null,
  share: number,
  best: number,
): number[] {
  const top = scores[best]!;
  let total = 0;
  if (kept) { for (const id of kept) total += exp(scores[id]! - top); }
  else total = sumExp(scores, top);
  const heap = kept ? null : new BestFirst(scores);
  const result: number[] = [];
  const limit = kept?.length ?? scores.length;
  for (let reached = 0; reached < share * total && result.length < limit;) {
    const id = kept ? kept[result.length]! : heap!.pop();
    result.push(id);
    reached += exp(scores[id]! - top);
  }
  return result;
}

/**
 * Token ids in order of their scores, best first, the lower id first among equals; only what is taken gets sorted.
 * A heap over all ids costs O(n) to build and O(log n) a token; sorting 49,152 logits would cost more than the
 * rest of sampling.
 */
class BestFirst {
  readonly #scores: Float32Array;
  readonly #ids: Uint32Array;
  #size: number;

  constructor(scores: Float32Array) {
    this.#scores = scores;
    this.#size = scores.length;
    this.#ids = new Uint32Array(this.#size);
    for (let id = 0; id < this.#size; ++id) this.#ids[id] = id;
    for (let i = (this.#size >> 1) - 1; i >= 0; --i) this.#sink(i);
  }

  take(k: number): number[] {
    const result: number[] = [];
    while (result.length < k && this.#size > 0) result.push(this.pop());
    return result;
  }

  /** The best of what is left, which must not be nothing. */
  pop(): number {
    const ids = this.#ids, best = ids[0]!;
    ids[0] = ids[--this.#size]!;
    this.#sink(0);
    return best;
  }

  #sink(i: number): void {
    const ids = this.#ids, scores = this.#scores, size = this.#size;
    const id = ids[i]!, score = scores[id]!;
    for (;;) {
      let child = 2 * i + 1;
      if (child >= size) break;
      let childId = ids[child]!, childScore = scores[childId]!;
      if (child + 1 < size) {
        const otherId = ids[child + 1]!, otherScore = scores[otherId]!;
        if (otherScore > childScore || (otherScore === childScore && otherId < childId)) {
          ++child;
          childId = otherId;
          childScore = otherScore;
        }
      }
      if (!(childScore > score || (childScore === score && childId < id))) break;
      ids[i] = childId;
      i = child;
    }
    ids[i] = id;
  }
}
