/** Attention of some tokens of one layer, over what the cache holds. */
import type { PartKernels } from "../kernels/recorder.ts";
import type { Team } from "../kernels/team.ts";
import type { LlamaConfig } from "../model/config.ts";
import type { KvCache } from "./kv_cache.ts";
import { YIELD_AFTER } from "./multiply_tokens.ts";
import type { Workspace } from "./workspace.ts";

/** Tokens of a head that a part attends for. */
const ATTENTION_TOKENS = 32;

/** Does the same for each of n tokens; of one at once, since it is less work than handing it out. */
export function eachToken(team: Team, n: number, row: (k: PartKernels, t: number) => void): void {
  if (n === 1) return row(team.kernels, 0);
  team.each(n, (k, from, to) => {
    for (let t = from; t < to; t++) row(k, t);
  });
}

/** Turns q and k, stores k and v, and attends: [q | k | v] to `attended`. */
export function* attend(
  team: Team,
  s: Workspace,
  config: LlamaConfig,
  l: number,
  position: number,
  n: number,
  cache: KvCache,
): Generator<void, void> {
  const k = team.kernels, { strides } = s;
  const { numAttentionHeads, numKeyValueHeads, headDim, ropeDim, ropeInterleaved } = config;
  const nPairs = ropeDim / 2, interleaved = ropeInterleaved ? 1 : 0, keys = s.qkv + 4 * strides.q;
  eachToken(team, n, (k, t) => {
    const angles = s.cosSin + 8 * nPairs * t, row = 4 * strides.qkv * t;
    k.ropeF32(s.qkv + row, angles, numAttentionHeads, headDim, nPairs, interleaved);
    k.ropeF32(keys + row, angles, numKeyValueHeads, headDim, nPairs, interleaved);
  });
  const isF32 = cache.type === "f32", group = numAttentionHeads / numKeyValueHeads;
  (isF32 ? k.storeKvF32 : k.storeKvBf16)(
    cache.table,
    cache.tile(l, 0),
    keys,
    keys + 4 * strides.kv,
    n,
    strides.qkv,
    position,
    numKeyValueHeads,
    headDim,
  );
  // a result depends on its own query only, so tokens too can be shared out; 128 of them at 8,000 positions take SmolLM2 10 ms a head
  const blocks = Math.ceil(n / ATTENTION_TOKENS), work = 2 * n * (position + n) * group * headDim;
  const step = Math.max(team.threads, Math.floor(YIELD_AFTER / work));
  for (let first = 0; first < numKeyValueHeads; first += step) {
    team.each(blocks * Math.min(step, numKeyValueHeads - first), (k, from, to, scratch) => {
      const attend = isF32 ? k.attentionF32 : k.attentionBf16;
      for (let i = from; i < to; i++) {
        const head = first + Math.floor(i / blocks), t = ATTENTION_TOKENS * (i % blocks);
        const at = 4 * head * group * headDim, count = Math.min(ATTENTION_TOKENS, n - t);
        attend(
          s.attended + at + 4 * strides.q * t,
          s.qkv + at + 4 * strides.qkv * t,
          cache.table,
          cache.tile(l, head),
          scratch,
          position + t,
          count,
          strides.q,
          strides.qkv,
          group,
          headDim,
        );
      }
    });
    if (n > 1) yield;
  }
}
