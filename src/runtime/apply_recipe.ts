/** A recipe's thresholds, scales, factors, biases and weights of norms into the model's memory. */
import type { Arena } from "../kernels/arena.ts";
import { type Kernels, padTo } from "../kernels/kernels.ts";
import { projectionPath } from "../model/config.ts";
import { FINAL_GAIN, gainName } from "../recipe/names.ts";
import type { LoadedRecipe, ProjectionRecipe } from "../recipe/recipe.ts";
import type { Linear, Weights } from "./layers.ts";
import { type Layout, type Matrix, type MatrixPlan, packRows, placeMatrix, planMatrix } from "./matrix.ts";
import { mlpRuleOf } from "./mlp_rule.ts";
import { NO_RECIPE, type RecipeHints } from "./plan.ts";
import { MAX_TOKENS, type Workspace } from "./workspace.ts";

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
      // at every setting of the dial: each straight line of the table has both ends in common
      return p.threshold === q.threshold && sameValues(loaded.scale(a), loaded.scale(b)) &&
        sameValues(loaded.thresholds(a), loaded.thresholds(b));
    },
  };
}

/** Column norms belong to each projection's own weights, so only plain |x| is the same for two of them, or norms that a recipe shares. */
function sameValues(a: Float32Array | null, b: Float32Array | null): boolean {
  if (a === null || b === null) return a === b;
  return a.every((v, c) => v === b[c]);
}

/**
 * Gives every projection its rule. The recipe has been checked against the model: it has one for each.
 *
 * @param workspace not in use: what prefill packs is staging here
 * @returns bytes that all of it took
 */
export function applyRecipe(
  kernels: Kernels,
  weights: Weights,
  loaded: LoadedRecipe,
  arena: Arena,
  workspace: Workspace,
): number {
  const before = arena.used, { memory } = arena;
  const packer = new FactorPacker(kernels, (bytes) => arena.allocate(bytes), workspace.packed);
  const rules = new Map(loaded.recipe.projections.map((p) => [p.path, p]));
  const place = (values: Float32Array): number => {
    const at = arena.allocate(4 * padTo(values.length, 64));
    new Float32Array(memory.buffer, at, values.length).set(values);
    return at;
  };
  const takesAll = loaded.recipe.lowRankInput === "all";
  for (const [l, { sites }] of weights.layers.entries()) {
    for (const site of sites) {
      const plans = site.map((linear) => planV(l, linear, rules));
      const packed = new Map<string, Matrix | null>();
      // the same values at one address, by which linears of a site tell that they select the same channels
      let scale: Float32Array | null = null, scaleAt = workspace.ones;
      for (const [n, { matrix, parts }] of site.entries()) {
        const { key, owners, firstRanks } = plans[n]!, layouts = factorLayouts(matrix.layout);
        if (!packed.has(key)) {
          packed.set(key, packer.rows(layouts.v, matrix.nIn, owners.map((path) => loaded.factors(path)!.v)));
        }
        const v = packed.get(key)!;
        for (const [i, p] of parts.entries()) {
          const path = projectionPath(l, p.name), { mode, threshold, rank } = rules.get(path)!;
          const factors = loaded.factors(path), bias = loaded.bias(path), own = loaded.scale(path);
          if (!sameValues(own, scale)) {
            scale = own;
            scaleAt = own === null ? workspace.ones : place(own);
          }
          p.rule = {
            mode,
            threshold,
            scale: scaleAt,
            rank: factors === null ? 0 : rank,
            v,
            firstRank: firstRanks[i]!,
            u: factors === null ? null : packer.columns(layouts.u, rank, p.nOut, factors.u),
            takesAll,
            bias: bias === null ? 0 : place(bias),
          };
        }
      }
    }
  }
  weights.mlp = mlpRuleOf(loaded, weights.config);
  if (loaded.gains.size > 0) {
    const weightOf = (name: string, own: number): number => {
      const gain = loaded.gains.get(name);
      return gain === undefined ? own : place(gain);
    };
    weights.sparseNorms = {
      attention: weights.layers.map(({ attentionNorm }, l) =>
        weightOf(gainName(l, "attention"), attentionNorm)
      ),
      mlp: weights.layers.map(({ mlpNorm }, l) => weightOf(gainName(l, "mlp"), mlpNorm)),
      final: weightOf(FINAL_GAIN, weights.finalNorm),
    };
  }
  return arena.used - before;
}

/** What V of a linear holds. */
interface PlanOfV {
  /** The same for linears of one site whose V have the same rows and layout. */
  readonly key: string;
  /** Paths of the projections whose rows it has, in their order. */
  readonly owners: readonly string[];
  /** Each part's first row; 0 where it has no factors. */
  readonly firstRanks: readonly number[];
}

function planV(l: number, { matrix, parts }: Linear, rules: ReadonlyMap<string, ProjectionRecipe>): PlanOfV {
  const firstOf = new Map<string, number>(), firstRanks: number[] = [];
  let ranks = 0;
  for (const { name } of parts) {
    const path = projectionPath(l, name), { rank, sharedV } = rules.get(path)!, owner = sharedV ?? path;
    if (rank > 0 && !firstOf.has(owner)) {
      firstOf.set(owner, ranks);
      ranks += rank;
    }
    firstRanks.push(rank > 0 ? firstOf.get(owner)! : 0);
  }
  const owners = [...firstOf.keys()];
  return { key: [factorLayouts(matrix.layout).v, ...owners].join(" "), owners, firstRanks };
}

/** What factors are kept as beside weights of a layout. */
export function factorLayouts(weights: Layout): { readonly v: Layout; readonly u: Layout } {
  if (weights === "channels-f32") return { v: "rows-f32", u: "channels-f32" };
  if (weights === "channels-bf16") return { v: "rows-bf16", u: "channels-bf16" };
  return { v: "pairs-i8", u: "pairs-i8" };
}

/** Rows that are staged together: a multiple of every layout's tile, and what the workspace has room for. */
const STAGED = MAX_TOKENS;

/** Packs factors a slice of rows at a time. */
export class FactorPacker {
  readonly #k: Kernels;
  readonly #allocate: (bytes: number) => number;
  readonly #staging: number;

  /**
   * @param allocate gives so many bytes of the model's memory
   * @param staging f32[STAGED, widest input]
   */
  constructor(kernels: Kernels, allocate: (bytes: number) => number, staging: number) {
    this.#k = kernels;
    this.#allocate = allocate;
    this.#staging = staging;
  }

  /** The rows of all of them, f32[ranks, nIn] each, as one matrix; null if there are none. */
  rows(layout: Layout, nIn: number, all: readonly Float32Array[]): Matrix | null {
    const rows = all.flatMap((v) =>
      Array.from({ length: v.length / nIn }, (_, r) => v.subarray(nIn * r, nIn * (r + 1)))
    );
    if (rows.length === 0) return null;
    const m = this.#place(planMatrix(layout, nIn, rows.length, { isFactor: true }));
    this.#pack(m, (staged, o, count) => {
      for (let r = 0; r < count; r++) staged.set(rows[o + r]!, nIn * r);
    });
    return m;
  }

  /**
   * The matrix whose columns u f32[rank, nOut] has as rows. Their sizes, singular values that span orders of magnitude, are the scales of its
   * channels, so that each column has all of int8's steps.
   */
  columns(layout: Layout, rank: number, nOut: number, u: Float32Array): Matrix {
    const balanced = layout === "pairs-i8";
    const m = this.#place(planMatrix(layout, rank, nOut, { balanced, isFactor: true }));
    const scales = new Float32Array(rank).fill(1);
    if (balanced) {
      for (let r = 0; r < rank; r++) scales[r] = norm(u.subarray(nOut * r, nOut * (r + 1)));
      new Float32Array(this.#k.memory.buffer, m.channelScale, rank).set(scales);
    }
    this.#pack(m, (staged, o, count) => {
      for (let r = 0; r < rank; r++) {
        for (let i = 0; i < count; i++) staged[rank * i + r] = u[nOut * r + o + i]! / scales[r]!;
      }
    });
    return m;
  }

  #place(plan: MatrixPlan): Matrix {
    return placeMatrix(plan, this.#allocate);
  }

  #pack(m: Matrix, stage: (staged: Float32Array, o: number, count: number) => void): void {
    for (let o = 0; o < m.nOut; o += STAGED) {
      const count = Math.min(STAGED, m.nOut - o);
      stage(new Float32Array(this.#k.memory.buffer, this.#staging, m.nIn * count), o, count);
      packRows(this.#k, m, this.#staging, o, count);
    }
  }
}

/** Length of a vector; 1 if it is 0. */
function norm(values: Float32Array): number {
  return Math.sqrt(values.reduce((sum, v) => sum + v * v, 0)) || 1;
}
