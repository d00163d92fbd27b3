/** Thresholds on the sparse stream: each is set from what the projections before it, already sparse, hand on. */
import { ThresholdObserver } from "./threshold.ts";
import { type ProjectionName, projectionPath } from "../model/config.ts";
import { projectionsOf, SITES, type SparseRule } from "../runtime/forward.ts";
import type { Model } from "../runtime/model.ts";
import { readRow } from "../runtime/matrix.ts";
import { MAX_TOKENS } from "../runtime/workspace.ts";

/** Settings of {@linkcode streamThresholds}. */
export interface StreamOptions {
  /** Sequences, each at most the model's context. */
  readonly pieces: readonly (readonly number[])[];
  /** The first so many positions of a piece run dense. */
  readonly keepDense: number;
  /** The shares of a projection's channels below the thresholds that are wanted, and which of them it then runs at. */
  readonly targets: (name: ProjectionName) => { readonly shares: readonly number[]; readonly own: number };
  /** Ends it with the signal's reason. */
  readonly signal?: AbortSignal;
  /** Called with how many of the tokens' passes through all blocks are done. */
  readonly onTokens?: (done: number) => void;
}

/** Up to MAX_TOKENS tokens of a piece, and where their rows begin in what is kept of all tokens. */
interface Chunk {
  readonly row: number;
  readonly position: number;
  readonly count: number;
}

/**
 * Thresholds on |x|, one mask a site, module by module: the inputs of a site are taken for all tokens, its threshold is set, then its projections run by
 * it for all tokens, and what they give is the next site's input (quality.md section 3). One pass through the model in all: between two sites, rows
 * of the stream and of a site's input are kept for every token.
 *
 * @param model without a recipe, on its own: no other session runs meanwhile
 * @returns by projection path, f32[shares]
 */
export async function streamThresholds(
  model: Model,
  options: StreamOptions,
): Promise<Map<string, Float32Array>> {
  const { engine } = model, parts = engine.weights.layers.flatMap(projectionsOf);
  const before = parts.map(({ rule }) => rule);
  try {
    return await engine.inTurns(run(model, options), options.signal);
  } finally {
    parts.forEach((part, i) => part.rule = before[i]!);
  }
}

function* run(
  { engine, config }: Model,
  { pieces, keepDense, targets, onTokens }: StreamOptions,
): Generator<void, Map<string, Float32Array>> {
  const { forward, workspace: s, weights, team, kernels } = engine, { strides } = s;
  const all = chunksOf(pieces), found = new Map<string, Float32Array>();
  const nTokens = pieces.reduce((sum, piece) => sum + piece.length, 0);
  /** f32[nTokens, strides.hidden] and f32[nTokens, widest input], in the pieces' order. */
  const stream = new Float32Array(nTokens * strides.hidden),
    inputs = new Float32Array(nTokens * strides.widest);
  const cache = engine.newCache(), longest = Math.max(...pieces.map(({ length }) => length));
  const view = (at: number, length: number): Float32Array =>
    new Float32Array(engine.memory.buffer, at, length);
  const keep = (chunk: Chunk): void =>
    stream.set(view(s.hidden, chunk.count * strides.hidden), chunk.row * strides.hidden);
  const load = ({ row, count }: Chunk): void =>
    view(s.hidden, count * strides.hidden).set(
      stream.subarray(row * strides.hidden, (row + count) * strides.hidden),
    );
  try {
    cache.reserve(longest);
    const ids = pieces.flat();
    for (const chunk of all) {
      for (let t = 0; t < chunk.count; t++) {
        readRow(kernels, weights.embedding, s.hidden + 4 * strides.hidden * t, ids[chunk.row + t]!);
      }
      keep(chunk);
    }
    for (let l = 0; l < config.numHiddenLayers; l++) {
      for (const [site, names] of SITES.entries()) {
        const linears = weights.layers[l]!.sites[site]!, nIn = linears[0]!.matrix.nIn;
        const { x, stride } = forward.inputOf(site), { shares, own } = targets(names[0]);
        const observer = new ThresholdObserver({ expected: nTokens * nIn });
        // o and down: what attention, or gate and up, have left of all tokens; the others: the stream, normalised
        const isKept = site === 1 || site === 3;
        for (const chunk of all) {
          const { row, count } = chunk;
          if (!isKept) {
            load(chunk);
            forward.prepare(l, site, count);
          }
          const seen = new Float32Array(count * nIn), rows = isKept ? null : view(x, count * stride);
          for (let t = 0; t < count; t++) {
            seen.set(
              rows === null
                ? inputs.subarray((row + t) * strides.widest, (row + t) * strides.widest + nIn)
                : rows.subarray(t * stride, t * stride + nIn),
              t * nIn,
            );
          }
          observer.observe(seen);
          yield;
        }
        const thresholds = observer.quantiles(shares);
        const rule: SparseRule = {
          mode: "sparse",
          threshold: thresholds[own]!,
          scale: s.ones,
          rank: 0,
          v: null,
          firstRank: 0,
          u: null,
        };
        for (const { parts } of linears) for (const part of parts) part.rule = { ...rule };
        for (const name of names) found.set(projectionPath(l, name), thresholds);
        for (const chunk of all) {
          const { row, position, count } = chunk;
          load(chunk);
          if (isKept) {
            for (let t = 0; t < count; t++) {
              const from = (row + t) * strides.widest;
              view(x + 4 * stride * t, nIn).set(inputs.subarray(from, from + nIn));
            }
          }
          // units that differ in kind would say nothing about threads: they are begun and not ended
          team.begin("prefill", count);
          forward.angles(position, count);
          forward.prepare(l, site, count);
          yield* forward.finish(l, site, position, count, cache, {
            sparseFrom: keepDense,
            exactFirst: position === 0,
          });
          if (isKept) keep(chunk);
          else {
            const next = forward.inputOf(site + 1),
              width = weights.layers[l]!.sites[site + 1]![0]!.matrix.nIn;
            for (let t = 0; t < count; t++) {
              inputs.set(view(next.x + 4 * next.stride * t, width), (row + t) * strides.widest);
            }
          }
        }
      }
      onTokens?.(Math.floor(nTokens * (l + 1) / config.numHiddenLayers));
    }
    return found;
  } finally {
    cache.close();
  }
}

function chunksOf(pieces: readonly (readonly number[])[]): Chunk[] {
  const chunks: Chunk[] = [];
  let row = 0;
  for (const { length } of pieces) {
    for (let position = 0; position < length; position += MAX_TOKENS) {
      const count = Math.min(MAX_TOKENS, length - position);
      chunks.push({ row, position, count });
      row += count;
    }
  }
  return chunks;
}
