/** The text that points are compared on, as token ids. */
import { Random } from "../runtime/random.ts";

/** Draws that find no document long enough before documents are joined. */
const MOST_DRAWS = 100_000;

/**
 * Pieces of `length` tokens. Of documents, one is drawn for each piece among those that are longer, and the piece's place in it, as the paper's code draws from
 * C4; where none is longer, or there is one text alone, pieces begin at a random place of each of `count` equal parts of all tokens.
 *
 * @param encode text to ids, without BOS
 * @param separator stands between documents that are joined
 * @throws {RangeError} If all of it is shorter than a piece.
 */
export async function drawSamples(
  documents: readonly string[],
  encode: (text: string) => Promise<number[]>,
  separator: number,
  { count, length, seed }: { readonly count: number; readonly length: number; readonly seed: number },
): Promise<number[][]> {
  const random = new Random(seed), ids = new Map<number, number[]>();
  const encoded = async (i: number): Promise<number[]> => {
    const known = ids.get(i);
    if (known !== undefined) return known;
    const found = await encode(documents[i]!);
    ids.set(i, found);
    return found;
  };
  // a token is at least a byte, a UTF-16 unit at most three: most short documents need not be encoded
  const candidates = documents.length === 1
    ? []
    : documents.map((_, i) => i).filter((i) => 3 * documents[i]!.length > length);
  let isAnyLonger = false;
  for (const i of candidates) {
    isAnyLonger = (await encoded(i)).length > length;
    if (isAnyLonger) break;
  }
  if (isAnyLonger) {
    const samples: number[][] = [];
    for (let draws = 0; samples.length < count && draws < MOST_DRAWS; draws++) {
      const drawn = await encoded(candidates[Math.floor(random.uniform() * candidates.length)]!);
      if (drawn.length <= length) continue;
      const start = Math.floor(random.uniform() * (drawn.length - length));
      samples.push(drawn.slice(start, start + length));
    }
    if (samples.length === count) return samples;
  }
  const all: number[] = [];
  for (const i of documents.keys()) {
    for (const id of await encoded(i)) all.push(id);
    if (documents.length > 1) all.push(separator);
  }
  if (all.length < length) {
    throw new RangeError(
      `the text has ${all.length} tokens, at least ${length} wanted for a sample: give more text, or shorter samples`,
    );
  }
  return Array.from({ length: count }, (_, i) => {
    const start = Math.floor((i + random.uniform()) * (all.length - length) / count);
    return all.slice(start, start + length);
  });
}
