/** One look at what a model's projections are given while it reads a text. */
import { projectionShape } from "../model/config.ts";
import { SITES } from "../runtime/forward.ts";
import type { Model } from "../runtime/model.ts";

/** Rows of a site's input: those of one chunk of a piece. */
export interface SiteInput {
  readonly layer: number;
  /** Index of {@linkcode SITES}. */
  readonly site: number;
  /** f32, in the model's memory: valid during the call. */
  readonly x: Float32Array;
  /** Floats from one token's row to the next. */
  readonly stride: number;
  readonly nIn: number;
  readonly nTokens: number;
  /** Of the first row in its piece. */
  readonly position: number;
  /** Which piece of the text it is of. */
  readonly piece: number;
}

/** Settings of {@linkcode watchText}. */
export interface WatchOptions {
  /** Ids, in pieces that each begin a sequence. */
  readonly pieces: readonly (readonly number[])[];
  readonly signal?: AbortSignal;
  /** Called with how many tokens are done. */
  readonly onTokens?: (done: number) => void;
}

/** What to call the sites. */
export const SITE_NAMES = ["q, k, v", "o", "gate, up", "down"] as const;

/** Has the model read the pieces, sparse where it has a recipe, and shows each site's inputs. @throws The signal's reason. */
export async function watchText(
  model: Model,
  { pieces, signal, onTokens }: WatchOptions,
  look: (input: SiteInput) => void,
): Promise<void> {
  const { engine, config } = model;
  let before = 0;
  for (const [piece, ids] of pieces.entries()) {
    const session = model.session();
    let position = 0;
    try {
      await session.prefillAsync(ids, {
        prefill: "sparse",
        signal,
        observe(layer, names, at, stride, nTokens) {
          const { nIn } = projectionShape(config, names[0]!);
          const site = SITES.findIndex((site) => site[0] === names[0]);
          const x = new Float32Array(engine.memory.buffer, at, (nTokens - 1) * stride + nIn);
          look({ layer, site, x, stride, nIn, nTokens, position, piece });
        },
        onChunk(done) {
          position = done;
          onTokens?.(before + done);
        },
      });
    } finally {
      session.close();
    }
    before += ids.length;
  }
}
