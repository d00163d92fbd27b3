/** Logits as probabilities: log-softmax, and how far two of them are apart. */
import { NotFiniteError } from "../errors.ts";
import { exp, log } from "../runtime/exp.ts";

/** What turns logits into log-probabilities. */
export interface Normaliser {
  /** The best token, the first among equals: what greedy decoding takes. */
  readonly best: number;
  /** ln of the sum of e^logit: a token's log-probability is its logit minus this. */
  readonly logSum: number;
}

/**
 * Sums in float64. `exp` and `log` are the runtime's own, so that the same logits give the same figures in every JavaScript engine.
 *
 * @throws {NotFiniteError} If a logit is NaN, or the largest is infinite.
 */
export function normalise(logits: Float32Array): Normaliser {
  let best = 0, top = -Infinity;
  for (let id = 0; id < logits.length; id++) {
    const logit = logits[id]!;
    if (logit > top) {
      top = logit;
      best = id;
    } else if (logit !== logit) throw notNumbers(id, logit);
  }
  if (!Number.isFinite(top)) throw notNumbers(best, top);
  let sum = 0;
  for (let id = 0; id < logits.length; id++) sum += exp(logits[id]! - top);
  return { best, logSum: top + log(sum) };
}

function notNumbers(id: number, logit: number): NotFiniteError {
  return new NotFiniteError(
    `Cannot evaluate: the logit of token ${id} is ${logit}: the weights, the recipe or a kernel are at fault`,
  );
}

/**
 * Kullback-Leibler divergence of the second run from the first, in nats:
 *
 *     KL(p || q) = sum(p * (ln p - ln q))
 *
 * Rounding can leave it a little below 0 where both are the same.
 */
export function divergence(
  p: Float32Array,
  pNormaliser: Normaliser,
  q: Float32Array,
  qNormaliser: Normaliser,
): number {
  let sum = 0;
  for (let id = 0; id < p.length; id++) {
    const weight = exp(p[id]! - pNormaliser.logSum);
    // what can't be adds nothing, even where it can't be in q either
    if (weight > 0) sum += weight * (p[id]! - q[id]!);
  }
  return sum + qNormaliser.logSum - pNormaliser.logSum;
}
