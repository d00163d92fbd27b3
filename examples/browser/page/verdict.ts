/** What a comparison comes to. */
import type { Comparison } from "../worker/protocol.ts";
import { percent } from "./words.ts";

/** What a comparison says, losses as plainly as gains. */
export function verdictOf(found: Comparison): string {
  const { denseTokensPerSecond: dense, sparseTokensPerSecond: sparse, timed, same, ownCopy } = found;
  if (dense === null || sparse === null) return "Too few tokens to compare.";
  const ratio = sparse / dense, skipped = found.sparse.measuredSparsity ?? 0;
  const words = ratio > 1.02 ? "faster" : ratio < 0.98 ? "slower" : "just as fast";
  const speedText = words === "just as fast"
    ? "Sparse was just as fast as dense"
    : `Sparse ran at ${ratio.toFixed(2)} times the speed of dense, so it was ${words}`;
  const most = Math.min(found.dense.tokens, found.sparse.tokens);
  const sameText = same >= most
    ? `The texts are the same for all ${most} tokens.`
    : `The texts are the same for the first ${same} ${same === 1 ? "token" : "tokens"}.`;
  const copy = ownCopy
    ? ""
    : " Memory did not suffice for a second copy of the weights: dense ran on those that are packed for skipping, which can be slower.";
  return `${speedText}, over ${timed} ${timed === 1 ? "token" : "tokens"} that both ran in turns, with ${
    percent(skipped, 1)
  } of the multiply-adds skipped. ${sameText}${copy}`;
}
