/** What thresholds are read from during a search: quantiles of every projection's scores, taken once while the model runs dense. */
import { ColumnNorms } from "../calibrate/column_norms.ts";
import { TensorReader } from "../calibrate/tensor_reader.ts";
import { ThresholdObserver } from "../calibrate/threshold.ts";
import { loadKernelModule } from "../kernels/probe.ts";
import { type ProjectionName, projectionPath, PROJECTIONS, projectionShape } from "../model/config.ts";
import { thresholdAt } from "../recipe/dial.ts";
import type { Score } from "../recipe/recipe.ts";
import { SITES } from "../runtime/forward.ts";
import type { Model } from "../runtime/model.ts";
import { nextTurn } from "../runtime/turn.ts";

/** Steps of a table: every thousandth of the scores. */
const STEPS = 1000;
const POINTS: readonly number[] = Array.from({ length: STEPS + 1 }, (_, i) => i / STEPS);
/** Tokens between two looks at the signal. */
const CHUNK = 128;

/** Quantiles and scales of all projections, in the model's order. */
export interface Tables {
  /** f32[projections, 1001]: quantiles of |x|. */
  readonly abs: Float32Array;
  /** f32[projections, 1001]: quantiles of |x| times the norm of the column. */
  readonly columnNorm: Float32Array;
  /** The norms of the columns, one projection after the other. */
  readonly norms: Float32Array;
}

/** The threshold that leaves a share of a projection's scores at or below it. */
export function thresholdOf(tables: Tables, projection: number, score: Score, share: number): number {
  const row = tables[score].subarray(POINTS.length * projection, POINTS.length * (projection + 1));
  return thresholdAt(POINTS, row, share);
}

/**
 * Runs the model dense over pieces of text.
 *
 * @param onProgress tokens done
 * @throws The signal's reason, once it is aborted.
 */
export async function makeTables(
  model: Model,
  pieces: readonly (readonly number[])[],
  { signal, onProgress }: {
    readonly signal?: AbortSignal;
    readonly onProgress?: (done: number, total: number) => void;
  } = {},
): Promise<Tables> {
  const { config, description } = model, layers = config.numHiddenLayers, total = pieces.flat().length;
  const reader = await TensorReader.create(await loadKernelModule("baseline"));
  const scales = new Map<string, Float32Array>(), observers = new Map<string, ThresholdObserver>();
  for (let layer = 0; layer < layers; layer++) {
    signal?.throwIfAborted();
    for (const site of SITES) {
      const { nIn } = projectionShape(config, site[0]);
      const shared = new ThresholdObserver({ expected: total * nIn });
      for (const name of site) {
        const norms = new ColumnNorms(nIn), path = projectionPath(layer, name);
        norms.add(await reader.read(description.layers[layer]!.projections[name]));
        const scale = norms.finish();
        scales.set(path, scale);
        observers.set(`${path} abs`, shared);
        observers.set(`${path} columnNorm`, new ThresholdObserver({ scale, expected: total * nIn }));
      }
    }
    await nextTurn();
  }
  await watch(
    model,
    pieces,
    (layer, site, values) => {
      const seen = new Set(
        site.flatMap((name) =>
          ["abs", "columnNorm"].map((score) => observers.get(`${projectionPath(layer, name)} ${score}`)!)
        ),
      );
      for (const observer of seen) observer.observe(values);
    },
    signal,
    (done) => onProgress?.(done, total),
  );
  const paths = Array.from(
    { length: layers },
    (_, layer) => PROJECTIONS.map((name) => projectionPath(layer, name)),
  )
    .flat();
  const rows = (score: Score): Float32Array => {
    const table = new Float32Array(paths.length * POINTS.length),
      done = new Map<ThresholdObserver, Float32Array>();
    for (const [i, path] of paths.entries()) {
      const observer = observers.get(`${path} ${score}`)!,
        row = done.get(observer) ?? observer.quantiles(POINTS);
      done.set(observer, row);
      table.set(row, POINTS.length * i);
    }
    return table;
  };
  const norms = new Float32Array(paths.reduce((sum, path) => sum + scales.get(path)!.length, 0));
  let at = 0;
  for (const path of paths) {
    norms.set(scales.get(path)!, at);
    at += scales.get(path)!.length;
  }
  return { abs: rows("abs"), columnNorm: rows("columnNorm"), norms };
}

async function watch(
  model: Model,
  pieces: readonly (readonly number[])[],
  look: (layer: number, site: readonly ProjectionName[], values: Float32Array) => void,
  signal: AbortSignal | undefined,
  onTokens: (done: number) => void,
): Promise<void> {
  const { memory } = model.engine;
  using session = model.session();
  let done = 0;
  for (const piece of pieces) {
    session.truncate(0);
    for (let at = 0; at < piece.length; at += CHUNK) {
      const chunk = piece.slice(at, at + CHUNK);
      session.advance(chunk, {
        observe(layer, site, x, stride, nTokens) {
          const { nIn } = projectionShape(model.config, site[0]!), values = new Float32Array(nTokens * nIn);
          const all = new Float32Array(memory.buffer, x, nTokens * stride);
          for (let t = 0; t < nTokens; t++) values.set(all.subarray(t * stride, t * stride + nIn), t * nIn);
          look(layer, site, values);
        },
      });
      onTokens(done += chunk.length);
      await nextTurn();
      signal?.throwIfAborted();
    }
  }
}
