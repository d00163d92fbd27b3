/** A recipe's thresholds, scales and factors into the model's memory. */
import type { Arena } from "../kernels/arena.ts";
import { padTo } from "../kernels/kernels.ts";
import { projectionPath } from "../model/config.ts";
import type { LoadedRecipe } from "../recipe/recipe.ts";
import type { Weights } from "./forward.ts";
import { NO_RECIPE, type RecipeHints } from "./plan.ts";

/** What loading has to know of a recipe. */
export function recipeHints(loaded: LoadedRecipe | null): RecipeHints {
  if (loaded === null) return NO_RECIPE;
  const rules = new Map(loaded.recipe.projections.map((p) => [p.path, p]));
  return {
    sparsityOf: (path) => rules.get(path)!.sparsity,
    skips: (path) => !["dense", "low_rank"].includes(rules.get(path)!.mode),
    sharesMask: (a, b) => {
      const p = rules.get(a)!, q = rules.get(b)!;
      if (p.mode === "dense" || p.mode === "low_rank" || q.mode === "dense" || q.mode === "low_rank") {
        return p.mode === q.mode;
      }
      return p.threshold === q.threshold && sameScale(loaded.scale(a), loaded.scale(b));
    },
  };
}

/** Column norms belong to each projection's own weights, so only plain |x| is the same for two of them, or norms that a recipe shares. */
function sameScale(a: Float32Array | null, b: Float32Array | null): boolean {
  if (a === null || b === null) return a === b;
  return a.every((v, c) => v === b[c]);
}

/**
 * Gives every projection its rule. The recipe has been checked against the model: it has one for each.
 *
 * @param ones f32 ones, at least as many as the widest input has channels
 * @returns bytes that scales and factors took
 */
export function applyRecipe(weights: Weights, loaded: LoadedRecipe, arena: Arena, ones: number): number {
  const before = arena.used, { memory } = arena;
  const rules = new Map(loaded.recipe.projections.map((p) => [p.path, p]));
  for (const [l, { sites }] of weights.layers.entries()) {
    for (const { matrix, parts } of sites.flat()) {
      const paths = parts.map(({ name }) => projectionPath(l, name));
      const scale = loaded.scale(paths[0]!);
      let scaleAt = ones;
      if (scale !== null) {
        scaleAt = arena.allocate(4 * padTo(matrix.nIn, 64));
        new Float32Array(memory.buffer, scaleAt, scale.length).set(scale);
      }
      const ranks = paths.map((path) => loaded.factors(path) === null ? 0 : rules.get(path)!.rank);
      const kind = matrix.layout === "channels-f32" ? "f32" : "bf16", bytes = kind === "f32" ? 4 : 2;
      const first = arena.allocate(bytes * matrix.nIn * ranks.reduce((sum, rank) => sum + rank));
      let v = first;
      for (const [i, p] of parts.entries()) {
        const factors = loaded.factors(paths[i]!), { mode, threshold, rank } = rules.get(paths[i]!)!;
        let u = 0;
        if (factors !== null) {
          u = arena.allocate(bytes * rank * padTo(p.nOut, 8));
          if (kind === "f32") {
            new Float32Array(memory.buffer, u, factors.u.length).set(factors.u);
            new Float32Array(memory.buffer, v, factors.v.length).set(factors.v);
          } else {
            writeChannelsBf16(
              new Uint16Array(memory.buffer, u, rank * padTo(p.nOut, 8)),
              factors.u,
              rank,
              p.nOut,
            );
            new Uint16Array(memory.buffer, v, factors.v.length).set(roundBf16(factors.v));
          }
        }
        p.rule = { mode, threshold, scale: scaleAt, rank, factors: kind, u, v };
        v += bytes * matrix.nIn * ranks[i]!;
      }
    }
  }
  return arena.used - before;
}

/** Bits of each value in bf16, to nearest even. */
function roundBf16(values: Float32Array): Uint16Array {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  return Uint16Array.from(bits, (b) => (b + 0x7fff + ((b >>> 16) & 1)) >>> 16);
}

/** Layout channels bf16 from f32[nIn, nOut]. */
function writeChannelsBf16(w: Uint16Array, src: Float32Array, nIn: number, nOut: number): void {
  const rounded = roundBf16(src), stride = padTo(nOut, 8);
  for (let c = 0; c < nIn; c++) {
    for (let o = 0; o < nOut; o++) {
      const within = o % 8;
      w[c * stride + o - within + 2 * (within % 4) + (within >> 2)] = rounded[c * nOut + o]!;
    }
  }
}
