/** Which channels a recipe keeps, token by token: how many, which, and how they change. */
import { type ProjectionName, projectionPath } from "../model/config.ts";
import type { LoadedRecipe } from "../recipe/recipe.ts";
import { SITES } from "../runtime/forward.ts";

/** When a channel is active: `scale[c] * |x[c]| > threshold`, in float32. */
export interface ChannelTest {
  /** Projections of one site that share it. */
  readonly names: readonly ProjectionName[];
  /** f32[nIn]; null: ones. */
  readonly scale: Float32Array | null;
  /** -1 keeps all, Infinity none. */
  readonly threshold: number;
}

/** Modes whose channels are chosen by a threshold on the input. */
const MODES: readonly string[] = ["sparse", "r_sparse", "low_rank", "dense"];

/** The recipe's tests of a site, one for all projections that share theirs; null where it chooses by other means. */
export function testsOf(loaded: LoadedRecipe, layer: number, site: number): ChannelTest[] | null {
  // neurons are chosen by what stands between gate and up and down
  if (loaded.recipe.mlp !== undefined) return null;
  const tests: ChannelTest[] = [];
  for (const name of SITES[site]!) {
    const path = projectionPath(layer, name);
    const projection = loaded.recipe.projections.find((one) => one.path === path);
    if (projection === undefined || !MODES.includes(projection.mode)) return null;
    const { mode } = projection, scale = mode === "dense" || mode === "low_rank" ? null : loaded.scale(path);
    const threshold = mode === "dense"
      ? -1
      : mode === "low_rank"
      ? Infinity
      : Math.fround(projection.threshold);
    const same = tests.findIndex((test) => test.threshold === threshold && isSame(test.scale, scale));
    if (same < 0) tests.push({ names: [name], scale, threshold });
    else tests[same] = { ...tests[same]!, names: [...tests[same]!.names, name] };
  }
  return tests;
}

function isSame(a: Float32Array | null, b: Float32Array | null): boolean {
  return a === b || (a !== null && b !== null && a.every((value, c) => value === b[c]));
}

/** Writes 1 for each active channel of a row; returns how many there are. */
export function maskOf(
  mask: Uint8Array,
  x: Float32Array,
  at: number,
  { scale, threshold }: Pick<ChannelTest, "scale" | "threshold">,
): number {
  let count = 0;
  for (let c = 0; c < mask.length; c++) {
    const size = Math.abs(x[at + c]!), score = scale === null ? size : Math.fround(scale[c]! * size);
    count += mask[c] = score > threshold ? 1 : 0;
  }
  return count;
}

/** What became of one test over a text. */
export class MaskStatistics {
  readonly test: ChannelTest;
  /** Tokens in which a channel was active, u32[nIn]. */
  readonly #active: Uint32Array;
  #mask: Uint8Array;
  #previous: Uint8Array;
  #previousCount = -1;
  #tokens = 0;
  #kept = 0;
  #pairs = 0;
  #jaccard = 0;
  #stays = 0;
  #independent = 0;

  constructor(test: ChannelTest, nIn: number) {
    this.test = test;
    this.#active = new Uint32Array(nIn);
    this.#mask = new Uint8Array(nIn);
    this.#previous = new Uint8Array(nIn);
  }

  /** A token of another sequence follows: it has no neighbour before it. */
  begin(): void {
    this.#previousCount = -1;
  }

  /** Takes a token's input; returns its active channels. */
  add(x: Float32Array, at: number): number {
    const mask = this.#mask, previous = this.#previous, active = this.#active, nIn = mask.length;
    const count = maskOf(mask, x, at, this.test), before = this.#previousCount;
    let both = 0;
    for (let c = 0; c < nIn; c++) {
      active[c] = active[c]! + mask[c]!;
      both += mask[c]! & previous[c]!;
    }
    // without a channel in either there is nothing to overlap
    if (before > 0 && count > 0) {
      const chance = before * count / nIn;
      this.#pairs++;
      this.#jaccard += both / (before + count - both);
      this.#stays += both / before;
      this.#independent += chance / (before + count - chance);
    }
    this.#tokens++;
    this.#kept += count;
    this.#mask = previous;
    this.#previous = mask;
    this.#previousCount = count;
    return count;
  }

  /** Share of channels that were active, mean over tokens. */
  get kept(): number {
    return this.#kept / (this.#tokens * this.#mask.length);
  }

  /** Of neighbouring tokens; null where no pair had active channels. */
  get overlap(): Overlap | null {
    const pairs = this.#pairs;
    if (pairs === 0) return null;
    let both = 0, either = 0;
    for (const count of this.#active) {
      const share = count / this.#tokens;
      both += share * share;
      either += share * (2 - share);
    }
    return {
      jaccard: this.#jaccard / pairs,
      stays: this.#stays / pairs,
      independent: this.#independent / pairs,
      byChannel: both / either,
      pairs,
    };
  }
}

/** How alike the active channels of neighbouring tokens are. */
export interface Overlap {
  /** Channels active in both over those active in either, mean over pairs. */
  readonly jaccard: number;
  /** Share of a token's active channels that are active in the next one too. */
  readonly stays: number;
  /** The Jaccard index that masks of the same sizes would have were they drawn at random from all channels. */
  readonly independent: number;
  /** And were each channel drawn by how often it is active: what is past this is a matter of neighbours. */
  readonly byChannel: number;
  readonly pairs: number;
}
