/** How a projection's compute is split between active channels and rank. */

/** What a projection may spend on one token. */
export interface LayerBudget {
  /** Channels above the threshold, on average over tokens. */
  readonly activeChannels: number;
  /** Singular values kept. */
  readonly rank: number;
}

/** A budget by the arithmetic of the released code. */
export interface OfficialBudget extends LayerBudget {
  /** Share of the inputs below the threshold. */
  readonly targetSparsity: number;
}

/**
 * Splits a projection's compute budget between active channels and rank.
 *
 * Dense, it costs `nIn * nOut` multiply-adds a token. Of the `1 - sparsity` of
 * them that are kept, `rho` pays for channels (`nOut` each), the rest for rank
 * (`nIn + nOut` each), rounded down, as R-Sparse splits it (Zhang et al. 2025):
 *
 *     activeChannels = floor(nIn * (1 - sparsity) * rho)
 *     rank = floor((nIn * nOut * (1 - sparsity) - activeChannels * nOut) / (nIn + nOut))
 *
 * @param shape The projection's own `nIn` and `nOut`; with grouped-query heads, k and v are narrower than q.
 * @param sparsity Share of the multiply-adds to skip, in [0, 1).
 * @param rho Share of the kept compute for channels, in [0, 1].
 * @returns Both counts.
 * @throws {RangeError} If a share is outside its range, or NaN.
 * @example Half the compute, three quarters of it in channels
 * ```ts
 * import assert from "node:assert/strict";
 * const budget = planBudget({ nIn: 2048, nOut: 2048 }, 0.5, 0.75);
 * assert.deepEqual(budget, { activeChannels: 768, rank: 128 });
 * ```
 */
export function planBudget(shape: { nIn: number; nOut: number }, sparsity: number, rho: number): LayerBudget {
  checkBudget(shape, sparsity, rho);
  const { nIn, nOut } = shape;
  const activeChannels = Math.floor(nIn * (1 - sparsity) * rho);
  const rank = Math.floor((nIn * nOut * (1 - sparsity) - activeChannels * nOut) / (nIn + nOut));
  // The channels' product can round up to a whole number and the other down below it: -1 would be left.
  return { activeChannels, rank: Math.max(rank, 0) };
}

/**
 * The same split as the released code makes it (VITA-Group/R-Sparse `59e9a8e`), for `compat: "official"`.
 *
 * It takes hidden x hidden for q, k, v and o, whatever their real shape: pass that shape to get its numbers.
 *
 *     targetSparsity = 1 - (1 - sparsity) * rho
 *
 * @param shape The shape to compute with.
 * @param sparsity Share of the multiply-adds to skip, in [0, 1).
 * @param rho Share of the kept compute for channels, in [0, 1].
 * @param fromRecipeFile Each count is at least 1, as where the released code reads rho from a file.
 * @throws {RangeError} If a share is outside its range, or NaN.
 */
export function planOfficialBudget(
  shape: { nIn: number; nOut: number },
  sparsity: number,
  rho: number,
  fromRecipeFile: boolean,
): OfficialBudget {
  checkBudget(shape, sparsity, rho);
  const { nIn, nOut } = shape, least = fromRecipeFile ? 1 : 0;
  const activeChannels = Math.max(Math.trunc(nIn * (1 - sparsity) * rho), least);
  const rank = Math.trunc((nIn * nOut * (1 - sparsity) - activeChannels * nOut) / (nIn + nOut));
  return { targetSparsity: 1 - (1 - sparsity) * rho, activeChannels, rank: Math.max(rank, least) };
}

function checkBudget({ nIn, nOut }: { nIn: number; nOut: number }, sparsity: number, rho: number): void {
  for (const [name, size] of [["nIn", nIn], ["nOut", nOut]] as const) {
    if (!(Number.isSafeInteger(size) && size > 0)) {
      throw new RangeError(`${name} is ${size}, at least 1 wanted`);
    }
  }
  if (!(sparsity >= 0 && sparsity < 1)) throw new RangeError(`sparsity is ${sparsity}, [0, 1) wanted`);
  if (!(rho >= 0 && rho <= 1)) throw new RangeError(`rho is ${rho}, [0, 1] wanted`);
}
