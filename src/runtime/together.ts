/** Products of one token each of several sequences: in the way of one token, to the bit, but with a matrix's memory read once for all of them. */
import type { Kernels } from "../kernels/kernels.ts";
import type { Team } from "../kernels/team.ts";
import { type Linear, type Projection } from "./layers.ts";
import { addProduct, prepareVector, runTogether, type VectorProduct } from "./matrix.ts";
import { MAX_SEGMENTS, type Workspace } from "./workspace.ts";

/** Most tokens of such a pass: a token takes 0.7 of what it takes alone with 4 of them, 0.55 to 0.65 with 8 (SmolLM2, docs/server.md). */
export const MAX_TOGETHER = 8;

/** What one of the tokens has for itself. */
export interface Slot {
  /** Its vectors: one row of every buffer. */
  readonly s: Workspace;
  /** Multiply-adds that ran, and that dense would have taken, if it runs sparse. */
  kept: number;
  dense: number;
}

/** Where inputs and outputs lie: a row a token. */
export interface Rows {
  readonly y: number;
  readonly yStride: number;
  readonly x: number;
  readonly xStride: number;
}

/**
 * y = W x of a token for each slot, for all projections of a linear, as `Forward.project` does it for one.
 *
 * @param firstSparse tokens from this one on run by the linear's rule
 * @param hasZ        whether V^T x is in the slots already
 */
export function projectTogether(
  team: Team,
  slots: readonly Slot[],
  linear: Linear,
  { y, yStride, x, xStride }: Rows,
  firstSparse: number,
  hasZ: boolean,
): void {
  const k = team.kernels, { matrix: m, parts, method } = linear, rule = parts[0]!.rule;
  const products: VectorProduct[] = [], active: number[] = [];
  for (const [t, { s }] of slots.entries()) {
    const from = x + 4 * xStride * t, to = y + 4 * yStride * t;
    const prepare = (x: number, scale: number, threshold: number): VectorProduct =>
      prepareVector(team, s, m, to, x, scale, threshold, MAX_SEGMENTS);
    if (rule === null || rule.mode === "dense" || t < firstSparse) {
      products.push(prepare(from, s.ones, -1));
      active.push(m.nIn);
    } else if (rule.mode === "low_rank") {
      k.fillZeroF32(to, m.nOutPadded);
      active.push(0);
    } else if (method === "dense") {
      active.push(k.maskChannelsF32(s.active, s.rest, from, rule.scale, rule.threshold, m.nIn));
      k.fillZeroF32(s.active + 4 * m.nIn, m.nInPadded - m.nIn);
      s.newInput();
      products.push(prepare(s.active, s.ones, -1));
      s.newInput();
    } else {
      const product = prepare(from, rule.scale, rule.threshold);
      products.push(product);
      active.push(product.active);
    }
  }
  if (products.length > 0) runTogether(team, m, products);
  if (rule !== null && firstSparse < slots.length) {
    addLowRank(team, slots, linear, { y, yStride, x, xStride }, firstSparse, hasZ);
  }
  for (const [t, slot] of slots.entries()) {
    const isSparse = t >= firstSparse;
    for (const p of parts) {
      addBias(k, p, y + 4 * yStride * t, isSparse);
      if (!isSparse || p.rule === null) continue;
      slot.kept += (active[t]! + p.rule.rank) * p.nOut;
      slot.dense += m.nIn * p.nOut;
    }
  }
}

/** y += U V^T x for the tokens that run sparse. */
function addLowRank(
  team: Team,
  slots: readonly Slot[],
  { matrix: m, parts, method }: Linear,
  { y, yStride, x, xStride }: Rows,
  firstSparse: number,
  hasZ: boolean,
): void {
  const k = team.kernels, rule = parts[0]!.rule!, { v } = rule, sparse = slots.slice(firstSparse);
  if (v === null) return;
  if (!hasZ) {
    runTogether(
      team,
      v,
      sparse.map((slot, i) => {
        const { s } = slot, from = x + 4 * xStride * (firstSparse + i);
        slot.kept += v.nIn * v.nOut;
        const takesX = rule.mode === "low_rank" || rule.takesAll === true;
        if (!takesX && method !== "dense") {
          k.maskChannelsF32(s.active, s.rest, from, rule.scale, rule.threshold, m.nIn);
        }
        return prepareVector(team, s, v, s.z, takesX ? from : s.rest, s.ones, -1, MAX_SEGMENTS);
      }),
    );
  }
  for (const { rule, offset } of parts) {
    const { u, firstRank } = rule!;
    if (u === null) continue;
    for (const [i, { s }] of sparse.entries()) {
      addProduct(team, s, u, y + 4 * yStride * (firstSparse + i) + 4 * offset, s.z + 4 * firstRank);
    }
  }
}

/** y += a projection's biases, with the recipe's if the token runs sparse. */
export function addBias(
  k: Kernels,
  { bias, rule, offset, nOut }: Projection,
  y: number,
  sparse: boolean,
): void {
  const own = sparse ? rule?.bias ?? 0 : 0;
  if (bias !== 0) k.addF32(y + 4 * offset, bias, nOut);
  if (own !== 0) k.addF32(y + 4 * offset, own, nOut);
}

/** y f32[slots, yStride] = W x of a matrix of which nothing is skipped, such as the head. */
export function multiplyTogether(
  team: Team,
  slots: readonly Slot[],
  m: Linear["matrix"],
  { y, yStride, x, xStride }: Rows,
): void {
  runTogether(
    team,
    m,
    slots.map(({ s }, t) =>
      prepareVector(team, s, m, y + 4 * yStride * t, x + 4 * xStride * t, s.ones, -1, MAX_SEGMENTS)
    ),
  );
}
