/** Byte-pair merging, whatever the vocabulary: neighbours become one token, the best pair first. */

/** What two neighbours make; of several pairs the one with the best score goes first. */
export interface Merge {
  readonly id: number;
  readonly score: number;
}

/**
 * Merges neighbours in place until none can be: the best score first, the leftmost among equals. Looking for the best pair after every merge, as `run.c` does, is
 * quadratic; a heap of pairs over a linked list of tokens finds the same one. A pair that has changed since it was put on the heap is passed over.
 *
 * @param ids tokens; negative ones are none, and merge with nothing
 */
export function mergePairs(ids: number[], find: (left: number, right: number) => Merge | null): void {
  const n = ids.length;
  if (n < 2) return;
  const next = Int32Array.from(ids, (_, i) => i + 1), previous = Int32Array.from(ids, (_, i) => i - 1);
  const gone = new Uint8Array(n), heap = new PairHeap();
  const offer = (left: number, right: number) => {
    if (left < 0 || right >= n || ids[left]! < 0 || ids[right]! < 0) return;
    const merge = find(ids[left]!, ids[right]!);
    if (merge !== null) heap.push({ left, right, leftId: ids[left]!, rightId: ids[right]!, ...merge });
  };
  for (let i = 0; i + 1 < n; ++i) offer(i, i + 1);
  for (let pair = heap.pop(); pair; pair = heap.pop()) {
    const { left, right } = pair;
    if (gone[left] || gone[right] || ids[left] !== pair.leftId || ids[right] !== pair.rightId) continue;
    ids[left] = pair.id;
    gone[right] = 1;
    next[left] = next[right]!;
    if (next[left]! < n) previous[next[left]!] = left;
    offer(previous[left]!, left);
    offer(left, next[left]!);
  }
  let kept = 0;
  for (let i = 0; i < n; ++i) if (!gone[i]) ids[kept++] = ids[i]!;
  ids.length = kept;
}

/** Two neighbours by their places, the tokens they were when the pair was seen, and what they make. */
interface Pair extends Merge {
  readonly left: number;
  readonly right: number;
  readonly leftId: number;
  readonly rightId: number;
}

/** Best score first, the leftmost among equals. */
class PairHeap {
  readonly #pairs: Pair[] = [];

  push(pair: Pair): void {
    const pairs = this.#pairs;
    let i = pairs.length;
    pairs.push(pair);
    for (let parent = (i - 1) >> 1; i > 0 && before(pair, pairs[parent]!); parent = (i - 1) >> 1) {
      pairs[i] = pairs[parent]!;
      i = parent;
    }
    pairs[i] = pair;
  }

  pop(): Pair | undefined {
    const pairs = this.#pairs, best = pairs[0], last = pairs.pop();
    if (pairs.length === 0 || last === undefined) return best;
    let i = 0;
    for (;;) {
      let child = 2 * i + 1;
      if (child >= pairs.length) break;
      if (child + 1 < pairs.length && before(pairs[child + 1]!, pairs[child]!)) ++child;
      if (!before(pairs[child]!, last)) break;
      pairs[i] = pairs[child]!;
      i = child;
    }
    pairs[i] = last;
    return best;
  }
}

function before(a: Pair, b: Pair): boolean {
  return a.score > b.score || (a.score === b.score && a.left < b.left);
}
