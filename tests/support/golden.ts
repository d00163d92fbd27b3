/** Golden logits: how they are read, and how an engine's logits are held against them. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import type { LoadedRecipe, Model, Session } from "../../src/mod.ts";
import { projectionShapes } from "../../src/recipe/recipe.ts";
import { Random } from "./kernels.ts";
import { requireShared } from "./shared.ts";

/** Greedy continuation of a prompt by the reference. */
export interface GoldenGreedy {
  readonly ids: readonly number[];
  /** Best minus second logit before each of `ids`. */
  readonly gaps: readonly number[];
  readonly text?: string;
}

/** A prompt and what the float64 reference makes of it. */
export interface GoldenPrompt {
  readonly name: string;
  readonly text?: string;
  readonly ids: readonly number[];
  /** After each token the 8 best, best first. */
  readonly top8: readonly { readonly ids: readonly number[]; readonly logits: readonly number[] }[];
  /** Negative log-likelihood of the token after each, SmolLM2 only. */
  readonly nll?: readonly number[];
  /** All logits after the last token, tiny models only. */
  readonly last?: readonly number[];
  /** The file that holds them, SmolLM2 only. */
  readonly last_logits?: string;
  readonly greedy?: GoldenGreedy;
}

/** Prompts of a golden file under `shared/golden/`. */
export function readGoldenPrompts(relative: string): GoldenPrompt[] {
  return JSON.parse(readFileSync(requireShared(`golden/${relative}`), "utf8")).prompts;
}

/** Logits in a file of little-endian floats under `shared/golden/`. */
export function readGoldenLogits(relative: string): Float32Array {
  const bytes = readFileSync(requireShared(`golden/${relative}`));
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return Float32Array.from({ length: bytes.length / 4 }, (_, i) => view.getFloat32(4 * i, true));
}

/** How the logits of a prompt reach a test: all tokens together through the matrix kernels, or one by one through the vector kernels. */
export type Path = "prefill" | "decode";

/**
 * Runs `ids`, sparse where there is a recipe, and hands over the logits after each; the array is only valid during the call. `decode` takes the
 * first the way of prompts, as generation does: its activations are too large for 8 bits.
 */
export function eachLogits(
  session: Session,
  path: Path,
  ids: readonly number[],
  each: (t: number, logits: Float32Array) => void,
): void {
  if (path === "prefill") session.prefillAll(ids, each, { prefill: "sparse" });
  else {
    ids.forEach((id, t) =>
      each(t, t === 0 ? session.prefill([id], { prefill: "sparse" }) : session.decode(id))
    );
  }
}

/** The largest logit's id; the first of equals. */
export function argmax(logits: Float32Array): number {
  let best = 0;
  for (let i = 1; i < logits.length; ++i) if (logits[i]! > logits[best]!) best = i;
  return best;
}

/** Negative log-likelihood of a token, summed in float64. */
export function negativeLogLikelihood(logits: Float32Array, id: number): number {
  const top = logits[argmax(logits)]!;
  let sum = 0;
  for (const logit of logits) sum += Math.exp(logit - top);
  return Math.log(sum) + top - logits[id]!;
}

/** Largest |difference|; NaN if there is one. */
export function largestError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  assert.equal(actual.length, expected.length);
  let worst = 0;
  for (let i = 0; i < expected.length; ++i) {
    const error = Math.abs(actual[i]! - expected[i]!);
    if (!(error <= worst)) worst = error;
    if (Number.isNaN(error)) return NaN;
  }
  return worst;
}

/**
 * Holds one row of logits against its golden top 8: each within `bound`, and the same ids in the same order
 * wherever neighbours are further apart than twice the bound. Nothing else may come out above the eighth.
 *
 * @returns the largest |difference|
 */
export function assertTop8(
  logits: Float32Array,
  golden: GoldenPrompt["top8"][number],
  bound: number,
  what: string,
): number {
  const worst = largestError(golden.ids.map((id) => logits[id]!), golden.logits);
  if (!(worst <= bound)) assert.fail(`${what}: a top-8 logit is off by ${worst}, more than ${bound}`);
  const order = [...golden.ids].sort((a, b) => logits[b]! - logits[a]!);
  golden.ids.forEach((id, rank) => {
    const other = order[rank]!;
    if (other === id) return;
    const gap = Math.abs(golden.logits[rank]! - golden.logits[golden.ids.indexOf(other)]!);
    if (gap > 2 * bound) {
      assert.fail(`${what}: rank ${rank} is ${other}, expected ${id}: the reference has them ${gap} apart`);
    }
  });
  const last = Math.min(...golden.logits);
  const known = new Set(golden.ids);
  logits.forEach((logit, id) => {
    if (!known.has(id) && !(logit <= last + bound)) {
      assert.fail(`${what}: ${id} has ${logit}, above the eighth best (${last}), and is not in the top 8`);
    }
  });
  return worst;
}

/**
 * Feeds the reference's own continuation and asserts its choice wherever the gap to the second best is over `gap`.
 *
 * @param first logits after the prompt, which the session has run
 */
export function assertGreedyFed(
  session: Session,
  first: Float32Array,
  greedy: GoldenGreedy,
  gap: number,
  what: string,
): void {
  let logits = first;
  greedy.ids.forEach((id, step) => {
    const best = argmax(logits);
    if (best !== id && !(greedy.gaps[step]! <= gap)) {
      assert.fail(`${what}: step ${step} gives ${best}, expected ${id} with a gap of ${greedy.gaps[step]}`);
    }
    if (step + 1 < greedy.ids.length) logits = session.decode(id);
  });
}

/** What the model itself makes of `ids`, best token by best token, past any end of text. */
export async function generateGreedily(
  model: Model,
  ids: readonly number[],
  count: number,
): Promise<{ ids: readonly number[]; text: string }> {
  for await (const { result } of model.generate(ids, { maxTokens: count, ignoreEos: true })) {
    if (result) return { ids: result.tokens, text: result.text };
  }
  assert.fail("no result at the end of a generation");
}

/**
 * A recipe with one threshold for all projections; with 0, every channel passes that is not 0: sparse kernels, dense results.
 *
 * @param model loaded without a recipe
 * @param sparsity what the recipe claims to skip, which int8's layout is chosen by
 * @param rank of the low-rank part, of made-up factors
 */
export async function recipeOfThreshold(
  model: Model,
  threshold: number,
  sparsity = 0,
  rank = 0,
): Promise<LoadedRecipe> {
  const shapes = projectionShapes(model.config), random = new Random(7);
  const factors = new Map(
    shapes.map(({ path, nIn, nOut }) => [path, {
      u: random.weights(rank * nOut, 0.1),
      v: random.weights(rank * nIn, 0.1),
    }]),
  );
  const projections = shapes.map(({ path, nIn }) => ({
    path,
    score: "abs" as const,
    threshold,
    rho: 1,
    sparsity,
    channels: nIn,
    rank,
    mode: rank > 0 ? "r_sparse" as const : "sparse" as const,
  }));
  return {
    recipe: {
      version: 3,
      method: "teal",
      compat: "corrected",
      modelHash: await model.hash(),
      model: "under test",
      sparsity,
      points: [],
      rho: 1,
      seed: 0,
      calibration: { source: "none", tokens: 0, sha256: "" },
      keepDense: 0,
      projections,
    },
    factors: (path) => rank > 0 ? factors.get(path)! : null,
    scale: () => null,
    bias: () => null,
    gains: new Map(),
    mlpThresholds: null,
    thresholds: () => null,
  };
}
