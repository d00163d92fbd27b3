/** One loaded model that tries out points of a search: decompositions are made once, rules are set where points differ, and blocks that points have in common run once. */
import { createSvd, type Svd } from "../calibrate/svd.ts";
import { TensorReader } from "../calibrate/tensor_reader.ts";
import { NotFiniteError } from "../errors.ts";
import { normalise } from "../eval/divergence.ts";
import { loadKernelModule } from "../kernels/probe.ts";
import { PROJECTIONS } from "../model/config.ts";
import { planBudget } from "../recipe/budget.ts";
import { type Factors, modeOf, projectionShapes, type ShapedProjection } from "../recipe/recipe.ts";
import { exp } from "../runtime/exp.ts";
import { SITES } from "../runtime/forward.ts";
import type { KvCache } from "../runtime/kv_cache.ts";
import { readRow } from "../runtime/matrix.ts";
import { Model, type ModelSource } from "../runtime/model.ts";
import { type Rule, Rules } from "../runtime/rules.ts";
import { MAX_TOKENS } from "../runtime/workspace.ts";
import { fitnessOf } from "./evolution.ts";
import { greedyPath } from "./greedy.ts";
import type { Job, Setup } from "./jobs.ts";
import { localRhos } from "./local.ts";
import { KINDS, type Shares } from "./shares.ts";
import { thresholdOf } from "./tables.ts";

/** The most that streams of samples before the group's first block may take. */
const STREAM_BYTES = 128 << 20;

/** A sample's residual stream before a block, f32[tokens, strides.hidden]. */
interface Stream {
  /** The points' part that it depends on. */
  readonly key: string;
  readonly rows: Float32Array;
}

/** First singular triples of projections, from the file's own weights. */
export class Decompositions {
  readonly #model: Model;
  readonly #shapes: readonly ShapedProjection[];
  readonly #leastSparsity: number;
  readonly #most: number;
  readonly #kept: Map<number, Factors> = new Map();
  #tools: { readonly svd: Svd; readonly reader: TensorReader } | null = null;

  /**
   * @param leastSparsity bounds the ranks
   * @param most how many are kept
   */
  constructor(model: Model, leastSparsity: number, most: number) {
    this.#model = model;
    this.#shapes = projectionShapes(model.config);
    this.#leastSparsity = leastSparsity;
    this.#most = most;
  }

  /** The largest rank that a projection can be given. */
  mostRank(projection: number): number {
    return planBudget(this.#shapes[projection]!, this.#leastSparsity, 0).rank;
  }

  /**
   * The first `rank` triples of a projection: the beginning of the same decomposition whatever the rank is.
   *
   * @throws {RangeError} If there are not so many.
   */
  async factors(projection: number, rank: number): Promise<Factors> {
    const { nIn, nOut, path } = this.#shapes[projection]!, most = this.mostRank(projection);
    if (rank > most) throw new RangeError(`${path}: rank ${rank} found, at most ${most} wanted`);
    let found = this.#kept.get(projection);
    if (found === undefined) {
      const module = await loadKernelModule("baseline");
      this.#tools ??= { svd: await createSvd(module), reader: await TensorReader.create(module) };
      const { svd, reader } = this.#tools;
      const layer = this.#model.description.layers[Math.floor(projection / KINDS)]!;
      const w = await reader.read(layer.projections[PROJECTIONS[projection % KINDS]!]);
      found = svd.truncatedSvd(w, nOut, nIn, most);
    }
    // the one that was used last is the last to go
    this.#kept.delete(projection);
    this.#kept.set(projection, found);
    for (const oldest of this.#kept.keys()) {
      if (this.#kept.size <= this.#most) break;
      this.#kept.delete(oldest);
    }
    return { u: found.u.subarray(0, rank * nOut), v: found.v.subarray(0, rank * nIn) };
  }
}

/** Does the jobs of a search on a model of its own. */
export class Evaluator {
  readonly model: Model;
  readonly rules: Rules;
  readonly setup: Setup;
  readonly #shapes: readonly ShapedProjection[];
  readonly #decompositions: Decompositions;
  readonly #scales: readonly Float32Array[];
  /** What the rules stand at, by projection: rho and sparsity. */
  readonly #set: (readonly [number, number] | null)[];
  readonly #streams: Map<number, Stream> = new Map();
  #cache: KvCache | null = null;
  #vectors: { readonly x: number; readonly y: number } | null = null;

  private constructor(model: Model, setup: Setup) {
    this.model = model;
    this.setup = setup;
    this.#shapes = projectionShapes(model.config);
    this.#decompositions = new Decompositions(model, setup.leastSparsity, setup.keptFactors);
    const index = new Map(this.#shapes.map(({ path }, i) => [path, i]));
    this.rules = new Rules(model.engine, (path) => this.#decompositions.mostRank(index.get(path)!));
    this.#set = this.#shapes.map(() => null);
    let at = 0;
    this.#scales = this.#shapes.map(({ nIn }) => setup.tables.norms.subarray(at, at += nIn));
  }

  /**
   * Loads the model.
   *
   * @param source instead of what the setup names
   * @throws {Error} If it is not the model of the setup.
   */
  static async open(
    setup: Setup,
    source: ModelSource = setup.model,
    signal?: AbortSignal,
  ): Promise<Evaluator> {
    const { kernels, dtype, modelHash } = setup;
    const model = await Model.load(source, { kernels, dtype, threads: 1, separate: true, signal });
    const hash = await model.hash();
    if (hash === modelHash) return new Evaluator(model, setup);
    await model.close();
    throw new Error(
      `Cannot search with ${
        String(source)
      }: its SHA-256 is ${hash}, the search is of ${modelHash}: give the same model with -m`,
    );
  }

  close(): Promise<void> {
    return this.model.close();
  }

  /** @throws The signal's reason, once it is aborted. */
  async run(job: Job, signal?: AbortSignal): Promise<number[]> {
    switch (job.kind) {
      case "perplexity": {
        await this.apply(job.shares);
        const found: number[] = [];
        for (const sample of job.samples) {
          found.push(await this.#perplexity(sample, job.shares, job.split, signal));
        }
        return found;
      }
      case "greedy":
        this.clear();
        return await greedyPath(this, job, signal);
      case "local":
        this.clear();
        return await localRhos(this, job, signal);
    }
  }

  /** No projection has a rule any more. */
  clear(): void {
    this.rules.clear();
    this.#set.fill(null);
  }

  /** Gives projections the rules of a point, where they have others. */
  async apply({ rho, sparsity }: Shares): Promise<void> {
    for (const [i, { path }] of this.#shapes.entries()) {
      const now = this.#set[i], r = rho[i]!, s = sparsity[i]!;
      if (now !== null && now![0] === r && now![1] === s) continue;
      this.rules.set(path, await this.rule(i, r, s));
      this.#set[i] = [r, s];
    }
  }

  /** The rule of a projection (rsparse.md sections 2 to 5). */
  async rule(projection: number, rho: number, sparsity: number): Promise<Rule> {
    const { rank } = rho === 1 ? { rank: 0 } : planBudget(this.#shapes[projection]!, sparsity, rho);
    const score = rho === 1 ? "abs" : "columnNorm", mode = modeOf(rho);
    return {
      mode,
      threshold: mode === "low_rank"
        ? -1
        : thresholdOf(this.setup.tables, projection, score, 1 - (1 - sparsity) * rho),
      scale: mode === "r_sparse" ? this.#scales[projection]! : null,
      factors: rank === 0 ? null : await this.#decompositions.factors(projection, rank),
    };
  }

  /** One cache for all sequences, of one at a time. */
  cache(positions: number): KvCache {
    this.#cache ??= this.model.engine.newCache();
    this.#cache.reserve(positions);
    return this.#cache;
  }

  /** An input f32[widest] and an output as wide as a site's, for projections that run alone. */
  vectors(): { readonly x: number; readonly y: number } {
    const { engine } = this.model, { hidden, qkv, gateUp, widest } = engine.workspace.strides;
    return this.#vectors ??= {
      x: engine.allocate(4 * widest),
      y: engine.allocate(4 * Math.max(hidden, qkv, gateUp)),
    };
  }

  /** The stream of chunk tokens before block 0 in the workspace. */
  embed(ids: readonly number[], first: number, count: number): void {
    const { kernels, weights, workspace: s } = this.model.engine;
    for (let t = 0; t < count; t++) {
      readRow(kernels, weights.embedding, s.hidden + 4 * s.strides.hidden * t, ids[first + t]!);
    }
  }

  /** Takes the chunk in the workspace through some blocks; the rules decide what is sparse from `sparseFrom` on. */
  *blocks(
    from: number,
    to: number,
    position: number,
    count: number,
    cache: KvCache,
    sparseFrom: number = this.setup.keepDense,
  ): Generator<void, void> {
    const { forward, team } = this.model.engine;
    forward.angles(position, count);
    for (let l = from; l < to; l++) {
      team.begin("prefill", count);
      for (let site = 0; site < SITES.length; site++) {
        forward.prepare(l, site, count);
        yield* forward.finish(l, site, position, count, cache, { sparseFrom, exactFirst: position === 0 });
      }
      team.end();
    }
  }

  /** The chunk's stream in the workspace, f32[count, strides.hidden]. */
  stream(count: number): Float32Array {
    const { memory, workspace: s } = this.model.engine;
    return new Float32Array(memory.buffer, s.hidden, count * s.strides.hidden);
  }

  async #perplexity(sample: number, shares: Shares, split: number, signal?: AbortSignal): Promise<number> {
    try {
      return fitnessOf(await this.model.engine.inTurns(this.#score(sample, shares, split), signal));
    } catch (error) {
      if (!(error instanceof NotFiniteError)) throw error;
      return fitnessOf(NaN);
    }
  }

  /** Every token of a sample but its first is scored, given those before it. */
  *#score(sample: number, shares: Shares, split: number): Generator<void, number> {
    const { engine, config } = this.model, { forward, memory } = engine, layers = config.numHiddenLayers;
    const ids = this.setup.samples[sample]!,
      cache = this.cache(ids.length),
      width = engine.workspace.strides.hidden;
    const before = this.#streams.get(sample), key = JSON.stringify([split, headOf(shares, KINDS * split)]);
    const known = split > 0 && before?.key === key ? before.rows : null;
    const kept =
      split > 0 && known === null && 4 * ids.length * width * this.setup.samples.length <= STREAM_BYTES
        ? new Float32Array(ids.length * width)
        : null;
    const block = engine.logitsBlock();
    let nll = 0;
    for (let first = 0; first < ids.length; first += MAX_TOKENS) {
      const count = Math.min(MAX_TOKENS, ids.length - first),
        rows = [width * first, width * (first + count)] as const;
      if (known !== null) this.stream(count).set(known.subarray(...rows));
      else {
        this.embed(ids, first, count);
        yield* this.blocks(0, split, first, count, cache);
        kept?.set(this.stream(count), rows[0]);
      }
      yield* this.blocks(split, layers, first, count, cache);
      for (let t = 0; t < count; t += block.rows) {
        const n = Math.min(block.rows, count - t), stride = forward.logitsOfMany(t, n, block.at);
        for (let i = 0; i < n && first + t + i + 1 < ids.length; i++) {
          const logits = new Float32Array(memory.buffer, block.at + 4 * stride * i, config.vocabSize);
          nll += normalise(logits).logSum - logits[ids[first + t + i + 1]!]!;
        }
        yield;
      }
    }
    if (kept !== null) this.#streams.set(sample, { key, rows: kept });
    return exp(nll / (ids.length - 1));
  }
}

function headOf({ rho, sparsity }: Shares, count: number): readonly number[][] {
  return [rho.slice(0, count), sparsity.slice(0, count)];
}
