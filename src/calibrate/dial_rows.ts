/** Thresholds for every setting of the dial: from the inputs of the dense model, or from those of the model as it runs at some of the settings. */
import type { Checkpoint } from "./checkpoint.ts";
import { type Rows, streamThresholds } from "./stream.ts";
import type { ProjectionName } from "../model/config.ts";
import type { Model } from "../runtime/model.ts";

/** Settings of {@linkcode dialRows}. */
export interface DialOptions {
  /** Settings for which thresholds are wanted, ascending. */
  readonly points: readonly number[];
  /** The recipe's own, one of the points. */
  readonly sparsity: number;
  /** The text. */
  readonly ids: readonly number[];
  /** Tokens a piece. */
  readonly pieceLength: number;
  readonly stream: "sparse" | "dense";
  readonly keepDense: number;
  /** Settings at which the model runs besides the recipe's own, on the sparse stream. */
  readonly dialStreams?: readonly number[];
  /** The share of a projection's scores below its threshold at a setting. */
  readonly shareAt: (name: ProjectionName, point: number) => number;
  /** See `StreamOptions.scale`. */
  readonly scale: (path: string) => Float32Array | null;
  readonly checkpoint?: Checkpoint;
  readonly signal?: AbortSignal;
  /** Called with how many tokens' passes are done, of how many. */
  readonly onTokens?: (done: number, total: number) => void;
}

/** Where the model runs besides, unless it is said. */
export const DIAL_STREAMS: readonly number[] = [0.25, 0.5, 0.7];
/** One that is as near to the recipe's own is left out. */
const NEAR = 0.06;
/** Tokens that it reads there. */
const SAMPLE = 2048;

/**
 * The row of thresholds of each projection, f32[points].
 *
 * On the sparse stream, the whole text runs at the recipe's own sparsity, and its beginning at {@linkcode DialOptions.dialStreams} as well. Each run gives a threshold for
 * every point; those of the two runs next to a point are weighed by how near they are. What the beginning gives is first multiplied by what the
 * whole text has given over its beginning, both at the recipe's own sparsity: most of what is special about the beginning is so taken out.
 */
export async function dialRows(model: Model, options: DialOptions): Promise<Rows> {
  const { points, sparsity, ids, stream, keepDense, shareAt, scale, checkpoint, signal, onTokens } = options;
  const length = Math.min(options.pieceLength, model.engine.contextLength);
  const pieces = Array.from(
    { length: Math.ceil(ids.length / length) },
    (_, i) => ids.slice(length * i, length * (i + 1)),
  );
  const others = stream === "dense"
    ? []
    : (options.dialStreams ?? DIAL_STREAMS).filter((at) => Math.abs(at - sparsity) >= NEAR);
  const sample = pieces.slice(0, Math.ceil(SAMPLE / length));
  const sampled = sample.reduce((sum, piece) => sum + piece.length, 0);
  const total = ids.length + others.length * sampled;
  let before = 0;
  const run = async (at: number, some: readonly (readonly number[])[], sample: number) => {
    const own = stream === "dense" ? null : points.indexOf(at);
    const found = await streamThresholds(model, {
      pieces: some,
      keepDense,
      shares: (name) => points.map((point) => shareAt(name, point)),
      own,
      scale,
      sample,
      ...checkpoint === undefined
        ? {}
        : { checkpoint: { store: checkpoint, name: `stream ${own ?? "dense"}` } },
      signal,
      onTokens: (done) => onTokens?.(before + done, total),
    });
    before += some.reduce((sum, piece) => sum + piece.length, 0);
    return found;
  };
  const own = await run(sparsity, pieces, others.length > 0 && sampled < ids.length ? sample.length : 0);
  const runs = [{ at: sparsity, rows: own.rows }];
  for (const at of others) {
    const { rows } = await run(at, sample, 0);
    for (const [path, row] of rows) {
      const whole = own.rows.get(path)!, part = own.sample.get(path);
      if (part !== undefined) rows.set(path, row.map((value, i) => correct(value, whole[i]!, part[i]!)));
    }
    runs.push({ at, rows });
  }
  runs.sort((a, b) => a.at - b.at);
  return new Map(
    [...own.rows.keys()].map((path) => [
      path,
      blend(points, runs.map(({ at, rows }) => ({ at, row: rows.get(path)! }))),
    ]),
  );
}

/** A threshold from the text's beginning, by what the whole text has given over the beginning elsewhere. */
export function correct(value: number, whole: number, part: number): number {
  return value > 0 && whole > 0 && part > 0 ? value * whole / part : value;
}

/** At each point the rows of the runs next to it, weighed by how near they are; beyond the last run its own. Never descending. */
export function blend(
  points: readonly number[],
  runs: readonly { readonly at: number; readonly row: Float32Array }[],
): Float32Array {
  let last = -1;
  return Float32Array.from(points, (point, i) => {
    const next = runs.findIndex(({ at }) => at >= point);
    const above = runs[next < 0 ? runs.length - 1 : next]!, below = next > 0 ? runs[next - 1]! : above;
    const share = above === below ? 1 : (point - below.at) / (above.at - below.at);
    const [from, to] = [below.row[i]!, above.row[i]!];
    const value = share === 1 ? to : Math.max(from, 0) + share * (Math.max(to, 0) - Math.max(from, 0));
    return last = Math.max(last, from === -1 && to === -1 ? -1 : Math.fround(value));
  });
}
