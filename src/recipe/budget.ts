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

/** What sets a projection's share apart in the allocation by site. */
const DOWN_OFFSET = 0.15, O_OFFSETS = [0.05, 0.1] as const;
/** From where on the offset of down is whole, and that of o begins and ends to grow. */
const FIRST_OFFSET = 0.4, LAST_OFFSET = 0.5;
/** A projection keeps at least a hundredth. */
const MOST_SHARE = 0.99;

/**
 * Shares of channels to skip when down and o skip more than the others, which bear it worse, and the whole still skips `sparsity` of the multiply-adds
 * (quality.md section 3): down takes sparsity + 0.15; o + 0.05 up to 0.4, + 0.1 from 0.5 on; q, k, v, gate and up the rest. Below 0.4 offsets shrink with the
 * sparsity; no share is above 0.99.
 *
 * @param sizes Multiply-adds of a block's projections: of down, of o, and of the others together.
 * @param sparsity Share of the multiply-adds to skip, in [0, 1).
 * @throws {RangeError} If the share is outside its range, or NaN.
 * @example SmolLM2 at half
 * ```ts
 * import assert from "node:assert/strict";
 * const shares = siteShares({ down: 24, o: 9, others: 63 }, 0.5);
 * assert.deepEqual([shares.down, shares.o, Number(shares.others.toFixed(4))], [0.65, 0.6, 0.4286]);
 * ```
 */
export function siteShares(
  sizes: { readonly down: number; readonly o: number; readonly others: number },
  sparsity: number,
): { readonly down: number; readonly o: number; readonly others: number } {
  if (!(sparsity >= 0 && sparsity < 1)) throw new RangeError(`sparsity is ${sparsity}, [0, 1) wanted`);
  const least = Math.min(1, sparsity / FIRST_OFFSET), [from, to] = O_OFFSETS;
  const grown = Math.min(1, Math.max(0, (sparsity - FIRST_OFFSET) / (LAST_OFFSET - FIRST_OFFSET)));
  const down = Math.min(sparsity + DOWN_OFFSET * least, MOST_SHARE);
  const o = Math.min(sparsity + (from * least + (to - from) * grown), MOST_SHARE);
  const rest = sparsity * (sizes.down + sizes.o + sizes.others) - down * sizes.down - o * sizes.o;
  return { down, o, others: Math.min(Math.max(rest / sizes.others, 0), MOST_SHARE) };
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
