/** TEAL's greedy allocation (rsparse.md section 10): a block's sparsity goes where its output suffers least. */
import type { LlamaConfig } from "../model/config.ts";
import { projectionShapes } from "../recipe/recipe.ts";
import { MAX_TOKENS } from "../runtime/workspace.ts";
import type { Evaluator } from "./evaluator.ts";
import type { Job } from "./jobs.ts";
import { KINDS, meanSparsity, MOST_SPARSITY, weightOf } from "./shares.ts";

/** Share of a sample's tokens, its last ones, on which outputs are compared. */
const COMPARED = 0.25;

/** What the steps of a block's projections count: nIn nOut / hidden^2 of the real shape, so that q and o of most models have 1. */
export function stepWeights(config: LlamaConfig): number[] {
  return projectionShapes(config).slice(0, KINDS).map((shape) => weightOf(shape) / config.hiddenSize ** 2);
}

/** What a projection's sparsity becomes by a step, or null where it would keep less than a hundredth. */
export function afterStep(sparsity: number, step: number, weight: number): number | null {
  const next = sparsity + step / weight;
  return next > MOST_SPARSITY ? null : next;
}

/**
 * The sparsities of a block's projections when its whole skips `target`: the path's points on both sides of it, on a straight line.
 *
 * @param path the kind of projection that takes each step
 */
export function alongPath(
  path: readonly number[],
  weights: readonly number[],
  step: number,
  target: number,
): number[] {
  let now: number[] = weights.map(() => 0), at = 0;
  for (const kind of path) {
    const next = [...now];
    next[kind] = next[kind]! + step / weights[kind]!;
    const reached = meanSparsity(next, weights);
    if (reached >= target) {
      const part = (target - at) / (reached - at);
      return now.map((s, i) => s + part * (next[i]! - s));
    }
    now = next;
    at = reached;
  }
  return now;
}

/** The path of one block: inputs are the dense model's, so blocks don't wait for each other. */
export async function greedyPath(
  evaluator: Evaluator,
  { layer, step, target }: Extract<Job, { kind: "greedy" }>,
  signal?: AbortSignal,
): Promise<number[]> {
  const { model, setup } = evaluator, weights = stepWeights(model.config), path: number[] = [];
  const inputs = await model.engine.inTurns(streamBefore(evaluator, layer), signal);
  const outputs = (): Promise<Float32Array[]> =>
    model.engine.inTurns(runBlock(evaluator, layer, inputs), signal);
  const dense = await outputs();
  const set = async (kind: number, sparsity: number): Promise<void> => {
    const projection = KINDS * layer + kind;
    evaluator.rules.set(
      projectionShapes(model.config)[projection]!.path,
      await evaluator.rule(projection, 1, sparsity),
    );
  };
  const now = weights.map(() => 0);
  for (let kind = 0; kind < KINDS; kind++) await set(kind, 0);
  const lengths = setup.samples.map(({ length }) => length), width = model.engine.workspace.strides.hidden;
  while (meanSparsity(now, weights) < target) {
    let least = Infinity, best = -1;
    for (let kind = 0; kind < KINDS; kind++) {
      const next = afterStep(now[kind]!, step, weights[kind]!);
      if (next === null) continue;
      await set(kind, next);
      const error = meanError(await outputs(), dense, lengths, width, model.config.hiddenSize);
      await set(kind, now[kind]!);
      if (error < least) [least, best] = [error, kind];
    }
    if (best < 0) break;
    now[best] = afterStep(now[best]!, step, weights[best]!)!;
    await set(best, now[best]!);
    path.push(best);
  }
  return path;
}

/** Mean over features of the L2 norm, over the compared tokens, of the difference. */
function meanError(
  found: readonly Float32Array[],
  wanted: readonly Float32Array[],
  lengths: readonly number[],
  width: number,
  features: number,
): number {
  const sums = new Float64Array(features);
  for (const [i, length] of lengths.entries()) {
    const a = found[i]!, b = wanted[i]!;
    for (let t = length - Math.max(1, Math.floor(length * COMPARED)); t < length; t++) {
      for (let f = 0; f < features; f++) {
        const difference = a[t * width + f]! - b[t * width + f]!;
        sums[f] = sums[f]! + difference * difference;
      }
    }
  }
  return sums.reduce((sum, square) => sum + Math.sqrt(square), 0) / features;
}

/** The dense stream of all samples before a block. */
export function* streamBefore(evaluator: Evaluator, layer: number): Generator<void, Float32Array[]> {
  const { samples } = evaluator.setup, out: Float32Array[] = [];
  for (const ids of samples) {
    out.push(
      yield* runSample(evaluator, ids.length, 0, layer, (first, count) => evaluator.embed(ids, first, count)),
    );
  }
  return out;
}

/** What a block gives for these inputs, by its rules. */
function* runBlock(
  evaluator: Evaluator,
  layer: number,
  inputs: readonly Float32Array[],
): Generator<void, Float32Array[]> {
  const width = evaluator.model.engine.workspace.strides.hidden, out: Float32Array[] = [];
  for (const rows of inputs) {
    out.push(
      yield* runSample(
        evaluator,
        rows.length / width,
        layer,
        layer + 1,
        (first, count) => evaluator.stream(count).set(rows.subarray(width * first, width * (first + count))),
      ),
    );
  }
  return out;
}

function* runSample(
  evaluator: Evaluator,
  length: number,
  from: number,
  to: number,
  load: (first: number, count: number) => void,
): Generator<void, Float32Array> {
  const width = evaluator.model.engine.workspace.strides.hidden, rows = new Float32Array(length * width);
  const cache = evaluator.cache(length);
  for (let first = 0; first < length; first += MAX_TOKENS) {
    const count = Math.min(MAX_TOKENS, length - first);
    load(first, count);
    yield* evaluator.blocks(from, to, first, count, cache);
    rows.set(evaluator.stream(count), width * first);
  }
  return rows;
}
