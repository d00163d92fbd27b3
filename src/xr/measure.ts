/** What tokens of a model take at each level of sparsity, part by part. */
import { best, type LmModel, type LmSession } from "./lm.ts";
import type { Reply } from "./reply.ts";

/** Rounded to microseconds, which is what clocks give. */
function rounded(ms: number): number {
  return Math.round(1000 * ms) / 1000;
}

/** Token ids to measure on. */
export interface MeasuredText {
  /** Prompt and tokens of one reply after the other; as many as there are. */
  readonly ids: readonly number[];
  /** Blocks that the model has. */
  readonly blocks: number;
}

/** Times of tokens. */
export interface TokenTimes {
  /** What each prompt took. */
  readonly promptMs: number[];
  /** Blocks in each part of a token; 0 for the head. */
  readonly blocks: number[];
  /** By token, by level, by part. */
  readonly tokenMs: number[][][];
}

/** Parts that a token's blocks are cut in, at most: a policy looks again between them. */
const MAX_PARTS = 6;

/** How many blocks each part has: as even as can be, and the head. */
export function partsOf(blocks: number): number[] {
  const parts = Math.min(MAX_PARTS, blocks);
  const at = (part: number): number => Math.floor(blocks * part / parts);
  return [...Array.from({ length: parts }, (_, part) => at(part + 1) - at(part)), 0];
}

/**
 * Measures what tokens take at each level, in replies over a text: at each token all levels take turns, each beginning in its turn, so that what the machine does meanwhile
 * is in all of them. Yields after each token.
 */
export function* measureTokens(
  model: LmModel,
  { ids, blocks }: MeasuredText,
  { prompt, tokens }: Pick<Reply, "prompt" | "tokens">,
  levels: readonly number[],
): Generator<TokenTimes, void> {
  const parts = partsOf(blocks), firsts = new Map<number, number>();
  let first = 0;
  parts.forEach((count, part) => {
    firsts.set(first, part);
    first += count;
  });
  const times: TokenTimes = { promptMs: [], blocks: parts, tokenMs: [] };
  let turn = 0;
  for (let at = 0; at + prompt + tokens <= ids.length; at += prompt + tokens) {
    const session = model.session();
    try {
      const began = performance.now();
      best(session.prefill(ids.slice(at, at + prompt)));
      times.promptMs.push(rounded(performance.now() - began));
      for (let token = 1; token < tokens; token++, turn++) {
        const row: number[][] = [], { length } = session;
        for (let i = 0; i < levels.length; i++) {
          const level = (i + turn) % levels.length;
          session.truncate(length);
          row[level] = timeToken(
            session,
            ids[at + prompt + token - 1]!,
            levels[level]!,
            firsts,
            parts.length,
          );
        }
        times.tokenMs.push(row);
        yield times;
      }
    } finally {
      session.close();
    }
  }
}

/** Decodes one token, and returns what its parts took. */
function timeToken(
  session: LmSession,
  id: number,
  sparsity: number,
  firsts: ReadonlyMap<number, number>,
  parts: number,
): number[] {
  const marks: number[] = [performance.now()];
  session.sparsity = sparsity;
  best(session.decode(id, {
    beforeBlock: (block) => {
      const part = firsts.get(block);
      if (part !== undefined && part > 0) marks[part] = performance.now();
      return undefined;
    },
  }));
  marks[parts] = performance.now();
  return Array.from({ length: parts }, (_, part) => rounded(marks[part + 1]! - marks[part]!));
}
