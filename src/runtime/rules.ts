/** Sparse rules set and set again on a loaded model, projection by projection: what a search tries out, without loading weights anew. */
import { padTo } from "../kernels/kernels.ts";
import { type ProjectionName, projectionPath } from "../model/config.ts";
import type { Factors, Mode } from "../recipe/recipe.ts";
import { factorLayouts, FactorPacker } from "./apply_recipe.ts";
import { type Linear, type Projection, projectionsOf } from "./forward.ts";
import { planMatrix } from "./matrix.ts";
import type { Engine } from "./model.ts";

/** A rule for one projection, as a recipe would have it. */
export interface Rule {
  readonly mode: Mode;
  /** A channel is active when its score is above; -1: every one. */
  readonly threshold: number;
  /** f32[nIn], or null: every channel's is 1. */
  readonly scale: Float32Array | null;
  /** null: no low-rank part. */
  readonly factors: Factors | null;
}

/** A projection that has a matrix of its own, and what of the memory is its own. */
interface Place {
  readonly linear: Linear;
  readonly part: Projection;
  /** f32[nInPadded]; 0 until a rule has a scale. */
  scale: number;
  /** Where factors lie, and how many bytes they may take. */
  factors: { readonly at: number; readonly bytes: number };
}

/**
 * The rules of a model that was loaded with `separate`. Setting one costs the packing of its factors (rank 100 of 576 x 1,536: 3 ms) and is in force from
 * the next pass on.
 */
export class Rules {
  readonly #engine: Engine;
  readonly #places: Map<string, Place> = new Map();
  readonly #mostRank: (path: string) => number;

  /**
   * @param mostRank the largest rank that a projection's rules will have: room is made for it once
   * @throws {Error} If projections share a matrix.
   */
  constructor(engine: Engine, mostRank: (path: string) => number) {
    this.#engine = engine;
    this.#mostRank = mostRank;
    for (const [l, layer] of engine.weights.layers.entries()) {
      for (const linear of layer.sites.flat()) {
        const [part, ...others] = linear.parts as [Projection, ...Projection[]];
        if (others.length > 0) throw new Error("projections share a matrix: load the model with separate");
        const place = { linear, part, scale: 0, factors: { at: 0, bytes: 0 } };
        this.#places.set(projectionPath(l, part.name), place);
      }
    }
  }

  /** Takes all rules away: the model runs dense. */
  clear(): void {
    for (const layer of this.#engine.weights.layers) {
      for (const part of projectionsOf(layer)) part.rule = null;
    }
  }

  /** The matrix and the place of a projection, for whoever runs it alone. */
  linear(layer: number, name: ProjectionName): Linear {
    return this.#places.get(projectionPath(layer, name))!.linear;
  }

  /**
   * Gives a projection its rule.
   *
   * @throws {RangeError} If its rank is above the largest announced, or memory does not suffice.
   */
  set(path: string, rule: Rule): void {
    const place = this.#places.get(path)!, { part, linear: { matrix } } = place;
    const { memory } = this.#engine, { mode, threshold, scale, factors } = rule;
    let scaleAt = this.#engine.workspace.ones;
    if (scale !== null) {
      if (place.scale === 0) place.scale = this.#engine.allocate(4 * padTo(matrix.nIn, 64));
      scaleAt = place.scale;
      new Float32Array(memory.buffer, scaleAt, scale.length).set(scale);
    }
    const rank = factors === null ? 0 : factors.v.length / matrix.nIn;
    if (factors === null) {
      part.rule = { mode, threshold, scale: scaleAt, rank, v: null, firstRank: 0, u: null };
      return;
    }
    const packer = new FactorPacker(
      this.#engine.kernels,
      this.#room(place, path, rank),
      this.#engine.workspace.packed,
    );
    const layouts = factorLayouts(matrix.layout);
    const v = packer.rows(layouts.v, matrix.nIn, [factors.v]);
    const u = packer.columns(layouts.u, rank, part.nOut, factors.u);
    part.rule = { mode, threshold, scale: scaleAt, rank, v, firstRank: 0, u };
  }

  /** Hands out a projection's own memory from its beginning: what lay there is of the rule before. */
  #room(place: Place, path: string, rank: number): (bytes: number) => number {
    const most = this.#mostRank(path), { matrix, matrix: { layout, nIn } } = place.linear;
    if (rank > most) throw new RangeError(`${path}: rank ${rank} found, at most ${most} announced`);
    if (place.factors.bytes === 0) {
      const layouts = factorLayouts(layout), balanced = layouts.u === "pairs-i8";
      const v = planMatrix(layouts.v, nIn, most, { isFactor: true });
      const u = planMatrix(layouts.u, most, place.part.nOut, { balanced, isFactor: true });
      // each part of either begins at 64 bytes
      const bytes = padTo(v.bytes + u.bytes, 64) + 64 * 6;
      place.factors = { at: this.#engine.allocate(bytes), bytes };
    }
    // the padding of a smaller rank has to be zero
    new Uint8Array(this.#engine.memory.buffer, place.factors.at, place.factors.bytes).fill(0);
    let at = place.factors.at;
    return (bytes) => {
      const here = at;
      at = padTo(at + bytes, 64);
      if (at > place.factors.at + place.factors.bytes) {
        throw new RangeError(`${path}: no room for ${matrix.layout}`);
      }
      return here;
    };
  }
}
