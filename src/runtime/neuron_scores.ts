/** How much each neuron of an MLP did at the dense positions of one sequence, by which GRIFFIN picks those that run at the others. */

/** The scores up to a position. */
interface Mark {
  readonly length: number;
  readonly count: number;
  readonly sums: readonly Float64Array[];
}

/**
 * Sums, over dense positions, of the squares of neurons' shares of a token's activation (Dong et al. 2024): with z = silu(gate) · up of a token,
 * score[i] += z[i]² / ‖z‖². The square root of the sum, which ranks alike, is the paper's s.
 *
 * Every position that ran dense counts, whichever prompt it came with: a second prompt of a conversation adds to the first. `truncate` goes back to the
 * end of a prompt; positions that ran dense one by one after it are then not counted.
 */
export class NeuronScores {
  readonly #nNeurons: number;
  #sums: Float64Array[];
  /** Of the pass that runs: forgotten if it is given up. */
  readonly #pending: Float64Array[];
  /** Rows that were added, of all layers. */
  #count = 0;
  #pendingCount = 0;
  readonly #marks: Mark[] = [];
  /** Masks by layer, for as many neurons as was asked last; void once scores change. */
  readonly #masks: Uint8Array[] = [];
  #masksKeep = -1;

  constructor(nLayers: number, nNeurons: number) {
    const zeros = (): Float64Array[] => Array.from({ length: nLayers }, () => new Float64Array(nNeurons));
    this.#nNeurons = nNeurons;
    this.#sums = zeros();
    this.#pending = zeros();
  }

  /** Before a pass. */
  begin(): void {
    if (this.#pendingCount === 0) return;
    for (const sums of this.#pending) sums.fill(0);
    this.#pendingCount = 0;
    this.#masks.length = 0;
  }

  /** Counts a token. @param z f32[nNeurons] */
  add(layer: number, z: Float32Array): void {
    let square = 0;
    for (let i = 0; i < this.#nNeurons; i++) square += z[i]! * z[i]!;
    if (square === 0) return;
    const sums = this.#pending[layer]!;
    for (let i = 0; i < this.#nNeurons; i++) sums[i]! += z[i]! * z[i]! / square;
    this.#pendingCount++;
    this.#masks.length = 0;
  }

  /** After a pass. */
  commit(): void {
    if (this.#pendingCount === 0) return;
    for (const [l, pending] of this.#pending.entries()) {
      const sums = this.#sums[l]!;
      for (let i = 0; i < sums.length; i++) sums[i]! += pending[i]!;
      pending.fill(0);
    }
    this.#count += this.#pendingCount;
    this.#pendingCount = 0;
    this.#masks.length = 0;
  }

  /** After a prompt. @param length positions that were run */
  mark(length: number): void {
    if (this.#count === (this.#marks.at(-1)?.count ?? 0)) return;
    this.#marks.push({ length, count: this.#count, sums: this.#sums.map((sums) => sums.slice()) });
  }

  /** Forgets positions from n on. */
  truncate(n: number): void {
    while (this.#marks.length > 0 && this.#marks.at(-1)!.length > n) this.#marks.pop();
    const last = this.#marks.at(-1);
    this.#count = last?.count ?? 0;
    this.#sums = this.#sums.map((sums, l) =>
      last === undefined ? new Float64Array(sums.length) : last.sums[l]!.slice()
    );
    this.#masks.length = 0;
  }

  /** 1 for each of the `keep` neurons with the highest scores, the first of equals; null while nothing was counted. */
  mask(layer: number, keep: number): Uint8Array | null {
    if (this.#count + this.#pendingCount === 0) return null;
    if (this.#masksKeep !== keep) this.#masks.length = 0;
    this.#masksKeep = keep;
    return this.#masks[layer] ??= this.#best(layer, keep);
  }

  #best(layer: number, keep: number): Uint8Array {
    const pending = this.#pending[layer]!, scores = this.#sums[layer]!.map((sum, i) => sum + pending[i]!);
    const order = Array.from(scores, (_, i) => i).sort((a, b) => scores[b]! - scores[a]! || a - b);
    const mask = new Uint8Array(this.#nNeurons);
    for (const i of order.slice(0, keep)) mask[i] = 1;
    return mask;
  }
}
