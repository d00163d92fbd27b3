/**
 * Which channels a token used, for the picture. A look makes 98,000 comparisons for SmolLM2, so only some tokens are looked at: between looks there is
 * no observer, and decoding is as without one.
 */
import type { Model } from "../../../src/mod.ts";
import { projectionShape } from "../../../src/model/config.ts";
import { SITES as SITE_NAMES } from "../../../src/runtime/forward.ts";
import type { PassOptions } from "../../../src/runtime/forward.ts";
import { type Activity, BINS, SITES } from "./protocol.ts";

/** A rule's test of one channel, as the kernels make it: in float32, equal is not active. */
interface Test {
  /** f32[nIn], in the model's memory; null: ones, or everything is active. */
  readonly scale: number | null;
  readonly threshold: number;
}

const ALL: Test = { scale: null, threshold: -1 };

/** Looks at a token at most so often. */
export class ActivityProbe {
  readonly #model: Model;
  readonly #intervalMs: number;
  readonly #show: (activity: Activity) => void;
  #last = -Infinity;

  /**
   * @param intervalMs between two looks
   * @param show is handed what a look found, in arrays of its own
   */
  constructor(model: Model, intervalMs: number, show: (activity: Activity) => void) {
    this.#model = model;
    this.#intervalMs = intervalMs;
    this.#show = show;
  }

  /** The observer of the next token, at `position`, if it is time for a look. */
  begin(sparsity: number, position: number): PassOptions["observe"] {
    const now = performance.now();
    if (now - this.#last < this.#intervalMs) return undefined;
    this.#last = now;
    const { config, recipe, engine } = this.#model, layers = config.numHiddenLayers;
    const isSparse = sparsity > 0 && recipe !== null && position >= recipe.recipe.keepDense;
    const activity: Activity = {
      cells: new Uint8Array(layers * SITES * BINS),
      shares: new Float32Array(layers * SITES),
      layers,
    };
    return (layer, names, x) => {
      const site = SITE_NAMES.findIndex((each) => each[0] === names[0]);
      const { nIn } = projectionShape(config, names[0]!), { buffer } = engine.memory;
      const test = isSparse ? testOf(this.#model, layer, site) : ALL;
      const at = layer * SITES + site;
      activity.shares[at] = fillCells(
        activity.cells.subarray(at * BINS, (at + 1) * BINS),
        new Float32Array(buffer, x, nIn),
        test.scale === null ? null : new Float32Array(buffer, test.scale, nIn),
        test.threshold,
      );
      if (at === layers * SITES - 1) this.#show(activity);
    };
  }
}

/** The test of a site's first projection, as the dial stands now. */
function testOf({ engine }: Model, layer: number, site: number): Test {
  const rule = engine.weights.layers[layer]!.sites[site]![0]!.parts[0]!.rule;
  if (rule === null || rule.mode === "dense") return ALL;
  if (rule.mode === "low_rank") return { scale: null, threshold: Infinity };
  return { scale: rule.scale === engine.workspace.ones ? null : rule.scale, threshold: rule.threshold };
}

/**
 * Writes the share of active channels of each bin, 255 for all; returns that of all channels.
 *
 * @param cells u8[bins]; an input with fewer channels than bins shows each of them in several
 * @param x f32[nIn]
 * @param scale f32[nIn], or null: ones
 */
export function fillCells(
  cells: Uint8Array,
  x: Float32Array,
  scale: Float32Array | null,
  threshold: number,
): number {
  const bins = cells.length, nIn = x.length;
  let total = 0;
  for (let bin = 0; bin < bins; bin++) {
    const from = Math.floor((nIn * bin) / bins),
      to = Math.max(from + 1, Math.floor((nIn * (bin + 1)) / bins));
    const active = countActive(x, scale, threshold, from, to);
    cells[bin] = Math.round((255 * active) / (to - from));
    total += active;
  }
  return (nIn >= bins ? total : countActive(x, scale, threshold, 0, nIn)) / nIn;
}

/** Two loops, as the one without scales takes a third of the time. */
function countActive(
  x: Float32Array,
  scale: Float32Array | null,
  threshold: number,
  from: number,
  to: number,
): number {
  let active = 0;
  if (scale === null) {
    for (let c = from; c < to; c++) active += Math.abs(x[c]!) > threshold ? 1 : 0;
  } else {
    for (let c = from; c < to; c++) {
      active += Math.fround(scale[c]! * Math.abs(x[c]!)) > threshold ? 1 : 0;
    }
  }
  return active;
}
