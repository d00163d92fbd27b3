/** A model made of a function, for tests of what is done with log-probabilities. */
import type { EvalSession, Subject } from "../../src/eval/likelihood.ts";
import type { Prefill } from "../../src/mod.ts";

/** A token in the cache, and whether it ran sparse. */
export interface Position {
  readonly id: number;
  readonly sparse: boolean;
}

/** Logits after the last of these positions. */
export type LogitsOf = (positions: readonly Position[]) => Float32Array;

/** A subject that notes what it was asked to run. */
export interface FakeModel extends Subject {
  /** Tokens that each session ran, in the order in which sessions were made. */
  readonly ran: Position[][];
}

/** Ids are the codes of ASCII characters. */
export const FAKE_VOCAB = 128;

/** @param keepDense null: without a recipe */
export function fakeModel(logitsOf: LogitsOf, keepDense: number | null, contextLength = 4096): FakeModel {
  const ran: Position[][] = [];
  return {
    ran,
    contextLength,
    isSparse: keepDense !== null,
    keepDense: keepDense ?? 0,
    decode: (ids) => String.fromCharCode(...ids),
    byteLength: (ids, from) => ids.length - from,
    stopIds: [3],
    encode: (text) => Array.from(text, (character) => character.charCodeAt(0)),
    session: () => fakeSession(logitsOf, ran, keepDense ?? Infinity),
  };
}

function fakeSession(logitsOf: LogitsOf, ran: Position[][], keepDense: number): EvalSession {
  const positions: Position[] = [],
    own: Position[] = [],
    count = { kept: 0, dense: 0, sparseTokens: 0, tokens: 0 };
  ran.push(own);
  const run = (id: number, prefill: Prefill | undefined): Float32Array => {
    const position = { id, sparse: typeof prefill === "number" && positions.length >= prefill };
    positions.push(position);
    own.push(position);
    count.tokens++;
    if (position.sparse) {
      count.sparseTokens++;
      count.dense += 100;
      count.kept += 60;
    }
    return logitsOf(positions);
  };
  return {
    count,
    truncate(n) {
      if (n > positions.length) throw new RangeError(`truncate(${n}) of ${positions.length}`);
      positions.length = n;
    },
    decodeAsync(id, { dense, signal } = {}) {
      signal?.throwIfAborted();
      return Promise.resolve(run(id, dense === true ? Infinity : keepDense));
    },
    prefillAsync(ids, { prefill, signal } = {}) {
      signal?.throwIfAborted();
      let last = new Float32Array(0);
      for (const id of ids) last = run(id, prefill) as Float32Array<ArrayBuffer>;
      return Promise.resolve(last);
    },
    // as in a real session, the array is only valid during the call
    prefillAll: (ids, each, { prefill } = {}) =>
      ids.forEach((id, i) => {
        const logits = run(id, prefill);
        each(i, logits);
        logits.fill(NaN);
      }),
    branchAsync(branches, each, { signal } = {}) {
      signal?.throwIfAborted();
      const before = positions.length;
      for (const [branch, { ids, from, sparseFrom }] of branches.entries()) {
        for (const [i, id] of ids.entries()) {
          const logits = run(id, sparseFrom);
          if (i >= from) each(branch, i, logits);
          logits.fill(NaN);
        }
        positions.length = before;
      }
      return Promise.resolve();
    },
    close() {},
  };
}

/** Logits that depend on every position and on how it ran: any mistake in what is in the cache shows. */
export function hashedLogits(positions: readonly Position[]): Float32Array {
  let state = 7;
  for (const { id, sparse } of positions) state = (Math.imul(state, 31) + 2 * id + Number(sparse)) >>> 0;
  return Float32Array.from(
    { length: FAKE_VOCAB },
    (_, i) => (Math.imul(state ^ i, 0x9e3779b1) >>> 8) / 2 ** 22,
  );
}

/** Logits of probabilities for some characters; the others have none. */
export function logitsFor(probabilities: Readonly<Record<string, number>>): Float32Array {
  const logits = new Float32Array(FAKE_VOCAB).fill(-Infinity);
  for (const [character, p] of Object.entries(probabilities)) logits[character.charCodeAt(0)] = Math.log(p);
  return logits;
}
