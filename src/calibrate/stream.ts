/** Thresholds from the inputs of each site, module by module: those before it run by the thresholds that were just set, or dense. */
import { type Checkpoint, concatBytes, floatsOf } from "./checkpoint.ts";
import { ThresholdObserver } from "./threshold.ts";
import { type ProjectionName, projectionPath, PROJECTIONS } from "../model/config.ts";
import { type Projection, projectionsOf, SITES, type SparseRule } from "../runtime/forward.ts";
import type { Model } from "../runtime/model.ts";
import { readRow } from "../runtime/matrix.ts";
import { MAX_TOKENS } from "../runtime/workspace.ts";

/** Settings of {@linkcode streamThresholds}. */
export interface StreamOptions {
  /** Sequences, each at most the model's context. */
  readonly pieces: readonly (readonly number[])[];
  /** The first so many positions of a piece run dense. */
  readonly keepDense: number;
  /** The shares of a projection's scores below the thresholds that are wanted. */
  readonly shares: (name: ProjectionName) => readonly number[];
  /** Which of them each projection then runs at; null: all run dense. */
  readonly own: number | null;
  /** f32[nIn] of a projection's path: scores are |x| times it. null: |x|, and one threshold for all projections of a site. */
  readonly scale?: (path: string) => Float32Array | null;
  /** How many of the first pieces are a sample, whose thresholds are wanted besides; default none. */
  readonly sample?: number;
  /** Keeps what is done after each block, under `name`. */
  readonly checkpoint?: { readonly store: Checkpoint; readonly name: string };
  /** Ends it with the signal's reason. */
  readonly signal?: AbortSignal;
  /** Called with how many of the tokens' passes through all blocks are done. */
  readonly onTokens?: (done: number) => void;
}

/** By projection path, f32[shares]. */
export type Rows = Map<string, Float32Array>;

/** What {@linkcode streamThresholds} found. */
export interface StreamThresholds {
  /** From all pieces. */
  readonly rows: Rows;
  /** From those of the sample; empty without one. */
  readonly sample: Rows;
}

/** Up to MAX_TOKENS tokens of a piece, and where their rows begin in what is kept of all tokens. */
interface Chunk {
  readonly row: number;
  readonly position: number;
  readonly count: number;
}

/** What is known between two blocks. */
interface Progress {
  /** Blocks that are done. */
  layers: number;
  /** f32[nTokens, strides.hidden]: the residual stream before the next one. */
  readonly stream: Float32Array;
  readonly found: StreamThresholds;
}

/**
 * Finds the thresholds of all projections: the inputs of a site are taken for all tokens, its thresholds are set, then its projections run by them for
 * all tokens, and what they give is the next site's input (quality.md section 3). One pass through the model in all: between two sites, rows
 * of the stream and of a site's input are kept for every token.
 *
 * @param model on its own: no other session runs meanwhile. Without a recipe, or with rules that `applyRecipe` has set, whose thresholds are replaced
 * while it runs.
 */
export async function streamThresholds(model: Model, options: StreamOptions): Promise<StreamThresholds> {
  const { engine, config } = model, parts = engine.weights.layers.flatMap(projectionsOf);
  const before = parts.map(({ rule }) => rule);
  const pieces = options.pieces, nTokens = pieces.reduce((sum, piece) => sum + piece.length, 0);
  const progress = await resume(options, model, nTokens);
  const inputs = new Float32Array(nTokens * engine.workspace.strides.widest);
  const cache = engine.newCache();
  try {
    cache.reserve(Math.max(...pieces.map(({ length }) => length)));
    if (progress.layers === 0) embed(model, pieces.flat(), progress.stream);
    while (progress.layers < config.numHiddenLayers) {
      const block = runBlock(model, options, progress, inputs, cache);
      await engine.inTurns(block, options.signal);
      progress.layers++;
      await keep(options, progress, config.numHiddenLayers);
      options.onTokens?.(Math.floor(nTokens * progress.layers / config.numHiddenLayers));
    }
    return progress.found;
  } finally {
    cache.close();
    parts.forEach((part, i) => part.rule = before[i]!);
  }
}

/** The stream before the first block. */
function embed({ engine }: Model, ids: readonly number[], stream: Float32Array): void {
  const { workspace: s, weights, kernels, memory } = engine, { hidden } = s.strides;
  for (const [t, id] of ids.entries()) {
    readRow(kernels, weights.embedding, s.hidden, id);
    stream.set(new Float32Array(memory.buffer, s.hidden, hidden), t * hidden);
  }
}

/** One block: site by site, thresholds first, then the products. */
function* runBlock(
  { engine }: Model,
  { pieces, keepDense, shares, own, scale, sample = 0 }: StreamOptions,
  { layers: l, stream, found }: Progress,
  inputs: Float32Array,
  cache: ReturnType<Model["engine"]["newCache"]>,
): Generator<void, void> {
  const { forward, workspace: s, weights, team } = engine, { strides } = s;
  const all = chunksOf(pieces), nTokens = stream.length / strides.hidden;
  const sampled = pieces.slice(0, sample).reduce((sum, piece) => sum + piece.length, 0);
  const view = (at: number, length: number): Float32Array =>
    new Float32Array(engine.memory.buffer, at, length);
  const load = ({ row, count }: Chunk): void =>
    view(s.hidden, count * strides.hidden).set(
      stream.subarray(row * strides.hidden, (row + count) * strides.hidden),
    );
  for (const [site, names] of SITES.entries()) {
    const linears = weights.layers[l]!.sites[site]!, nIn = linears[0]!.matrix.nIn;
    const { x, stride } = forward.inputOf(site);
    // o and down: what attention, or gate and up, have left of all tokens; the others: the stream, normalised
    const isKept = site === 1 || site === 3;
    const observers = new SiteObservers(names, l, { scale, nTokens, sampled, nIn });
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
      observers.observe(seen, row < sampled);
      yield;
    }
    observers.finish(shares, found);
    for (const part of linears.flatMap(({ parts }) => parts)) {
      const row = found.rows.get(projectionPath(l, part.name))!;
      part.rule = own === null ? null : ruleAt(part, row[own]!, s.ones);
    }
    for (const chunk of all) {
      const { row, position, count } = chunk;
      load(chunk);
      if (isKept) {
        for (let t = 0; t < count; t++) {
          const from = (row + t) * strides.widest;
          view(x + 4 * stride * t, nIn).set(inputs.subarray(from, from + nIn));
        }
      }
      team.begin(`site ${site}`, count);
      forward.angles(position, count);
      forward.prepare(l, site, count);
      yield* forward.finish(l, site, position, count, cache, {
        sparseFrom: keepDense,
        exactFirst: position === 0,
      });
      team.end();
      if (isKept) stream.set(view(s.hidden, count * strides.hidden), row * strides.hidden);
      else {
        const next = forward.inputOf(site + 1),
          width = weights.layers[l]!.sites[site + 1]![0]!.matrix.nIn;
        for (let t = 0; t < count; t++) {
          inputs.set(view(next.x + 4 * next.stride * t, width), (row + t) * strides.widest);
        }
      }
    }
  }
}

/** The rule that a recipe has given a projection, with another threshold; plain |x| where there is none. */
function ruleAt({ rule }: Projection, threshold: number, ones: number): SparseRule {
  return rule === null
    ? { mode: "sparse", threshold, scale: ones, rank: 0, v: null, firstRank: 0, u: null }
    : { ...rule, threshold };
}

/** The scores of a site's projections: one observer for all of them that score by |x|. */
class SiteObservers {
  readonly #paths: readonly { readonly name: ProjectionName; readonly path: string; readonly of: Scores }[];
  readonly #all: readonly Scores[];

  constructor(
    names: readonly ProjectionName[],
    layer: number,
    { scale, nTokens, sampled, nIn }: {
      readonly scale: StreamOptions["scale"];
      readonly nTokens: number;
      readonly sampled: number;
      readonly nIn: number;
    },
  ) {
    const make = (scale: Float32Array | null): Scores => ({
      all: new ThresholdObserver({ scale, expected: nTokens * nIn }),
      sample: sampled === 0 ? null : new ThresholdObserver({ scale, expected: sampled * nIn }),
    });
    let plain: Scores | null = null;
    this.#paths = names.map((name) => {
      const path = projectionPath(layer, name), own = scale?.(path) ?? null;
      return { name, path, of: own === null ? plain ??= make(null) : make(own) };
    });
    this.#all = [...new Set(this.#paths.map(({ of }) => of))];
  }

  observe(values: Float32Array, inSample: boolean): void {
    for (const { all, sample } of this.#all) {
      all.observe(values);
      if (inSample) sample?.observe(values);
    }
  }

  finish(shares: StreamOptions["shares"], found: StreamThresholds): void {
    const done = new Map<Scores, [Float32Array, Float32Array | null]>();
    for (const { name, path, of } of this.#paths) {
      const wanted = shares(name);
      const [rows, sample] = done.get(of) ??
        [of.all.quantiles(wanted), of.sample?.quantiles(wanted) ?? null];
      done.set(of, [rows, sample]);
      found.rows.set(path, rows);
      if (sample !== null) found.sample.set(path, sample);
    }
  }
}

interface Scores {
  readonly all: ThresholdObserver;
  readonly sample: ThresholdObserver | null;
}

/** Where an earlier run was: u32 blocks done, their rows, then the sample's, and the stream, unless it was the last block. */
async function resume(options: StreamOptions, { config, engine }: Model, nTokens: number): Promise<Progress> {
  const stream = new Float32Array(nTokens * engine.workspace.strides.hidden);
  const progress: Progress = { layers: 0, stream, found: { rows: new Map(), sample: new Map() } };
  const { checkpoint, shares } = options, bytes = await checkpoint?.store.get(checkpoint.name) ?? null;
  if (bytes === null || bytes.length < 4) return progress;
  const layers = new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true);
  const tables = (options.sample ?? 0) > 0
    ? [progress.found.rows, progress.found.sample]
    : [progress.found.rows];
  const width = PROJECTIONS.reduce((sum, name) => sum + shares(name).length, 0);
  const isLast = layers === config.numHiddenLayers;
  const wanted = tables.length * layers * width + (isLast ? 0 : stream.length);
  // what another version wrote, or a disk lost
  if (layers > config.numHiddenLayers || bytes.length !== 4 + 4 * wanted) return progress;
  const values = floatsOf(bytes.subarray(4));
  let at = 0;
  for (const rows of tables) {
    for (let l = 0; l < layers; l++) {
      for (const name of SITES.flat()) {
        const { length } = shares(name);
        rows.set(projectionPath(l, name), values.slice(at, at += length));
      }
    }
  }
  if (!isLast) stream.set(values.subarray(at));
  return { ...progress, layers };
}

async function keep(
  { checkpoint, sample = 0 }: StreamOptions,
  { layers, stream, found }: Progress,
  all: number,
): Promise<void> {
  if (checkpoint === undefined) return;
  const header = Uint32Array.of(layers), tables = sample > 0 ? [found.rows, found.sample] : [found.rows];
  await checkpoint.store.put(
    checkpoint.name,
    concatBytes([header, ...tables.flatMap((rows) => [...rows.values()]), ...(layers < all ? [stream] : [])]),
  );
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
