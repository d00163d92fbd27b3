/** The k-th smallest score over all calibration tokens and channels of a projection, seen once and in bounded memory. */

/** What an observer watches and how it keeps it. */
export interface ThresholdOptions {
  /** f32[nIn]: scores are `scale[c] * |x[c]|`, rounded to float32 as the kernels round them. Without it, `|x[c]|`. */
  readonly scale?: Float32Array | null;
  /** How many values will come, if known: above `exactLimit`, none is kept from the start. */
  readonly expected?: number;
  /** Values kept as they are, 4 bytes each; past that, a histogram. Default 2^20: the official 512 tokens x 1,536 are below it. */
  readonly exactLimit?: number;
}

/** Bits of a finite positive float32 below its octave (exponent): 23, of which the histogram tells the upper 12 apart. */
const OCTAVE_SHIFT = 23;
const BIN_SHIFT = 11;
const OCTAVE_BINS = 1 << (OCTAVE_SHIFT - BIN_SHIFT);
const FIRST_NOT_FINITE = 0x7f800000;
/** Slot of an octave that was not seen. */
const UNSEEN = -1;

/**
 * Collects the scores of one projection and finds their order statistics.
 *
 * Up to `exactLimit` values it is exact. Past that it counts them in 4,096 bins an octave, allocated octave by octave as
 * they are seen (16 KiB each), and places the k-th by linear interpolation: within one bin, 1/4096 of its value.
 *
 * @example
 * ```ts
 * import assert from "node:assert/strict";
 * const observer = new ThresholdObserver();
 * observer.observe(Float32Array.of(0.5, -3, 2, -1));
 * assert.equal(observer.quantile(0.5), 1);
 * ```
 */
export class ThresholdObserver {
  readonly #scale: Float32Array | null;
  readonly #exactLimit: number;
  /** Scores as bits, which sort as the floats do; null once the histogram has taken over. */
  #kept: Uint32Array | null;
  #count = 0;
  /** Where each octave's bins begin in `#bins`. */
  readonly #slots: Int32Array = new Int32Array(256).fill(UNSEEN);
  #bins: Uint32Array = new Uint32Array(0);
  #octaves = 0;
  #scaled: Float32Array = new Float32Array(0);

  /** @throws {RangeError} If a scale is negative or not finite. */
  constructor({ scale = null, expected = 0, exactLimit = 2 ** 20 }: ThresholdOptions = {}) {
    if (scale !== null && !scale.every((s) => s >= 0 && s < Infinity)) {
      throw new RangeError("a channel's scale is negative or not finite");
    }
    this.#scale = scale;
    this.#exactLimit = exactLimit;
    this.#kept = expected > exactLimit ? null : new Uint32Array(expected);
  }

  /** How many values were seen. */
  get count(): number {
    return this.#count;
  }

  /** Whether {@linkcode ThresholdObserver.kthSmallest} is exact, not interpolated in a bin. */
  get exact(): boolean {
    return this.#kept !== null;
  }

  /**
   * Takes the inputs of any number of tokens, f32[tokens, nIn] where there is a scale.
   *
   * @throws {RangeError} If a value is not finite, or `values` ends inside a token.
   */
  observe(values: Float32Array): void {
    const bits = this.#scores(values);
    const total = this.#count + bits.length;
    if (this.#kept !== null && total > this.#exactLimit) {
      const kept = this.#kept.subarray(0, this.#count);
      this.#kept = null;
      this.#addToBins(kept);
    }
    if (this.#kept !== null) this.#keep(bits, total);
    else this.#addToBins(bits);
    this.#count = total;
  }

  /**
   * The `k`-th smallest score as a float32, counted from 1; -1, below every score, for `k` = 0.
   *
   * @throws {RangeError} If `k` is not a whole number in [0, count].
   */
  kthSmallest(k: number): number {
    if (!(Number.isInteger(k) && k >= 0 && k <= this.#count)) {
      throw new RangeError(`the ${k}th smallest of ${this.#count} scores wanted`);
    }
    if (k === 0) return -1;
    return this.#kept === null ? this.#kthInBins(k) : kthOf(this.#kept.subarray(0, this.#count), k);
  }

  /**
   * The threshold that leaves a share `targetSparsity` of the scores at or below it: the k-th smallest, k = trunc(count *
   * targetSparsity), as the released code has it.
   *
   * @throws {RangeError} If the share is outside [0, 1], or nothing was seen.
   */
  quantile(targetSparsity: number): number {
    return this.kthSmallest(this.#rankOf(targetSparsity));
  }

  /**
   * The same for many shares, f32[shares].
   *
   * @throws {RangeError} If a share is outside [0, 1], or nothing was seen.
   */
  quantiles(targetSparsities: readonly number[]): Float32Array {
    const ranks = targetSparsities.map((target) => this.#rankOf(target));
    if (this.#kept === null) return this.#manyInBins(ranks);
    // 91 selections of a million scores take half a second, one sort 70 ms
    const sorted = new Float32Array(this.#kept.slice(0, this.#count).sort().buffer);
    return Float32Array.from(ranks, (k) => k === 0 ? -1 : sorted[k - 1]!);
  }

  #rankOf(targetSparsity: number): number {
    if (!(targetSparsity >= 0 && targetSparsity <= 1)) {
      throw new RangeError(`target sparsity is ${targetSparsity}, [0, 1] wanted`);
    }
    if (this.#count === 0) throw new RangeError("no calibration input was seen");
    return Math.trunc(this.#count * targetSparsity);
  }

  #scores(values: Float32Array): Uint32Array {
    const scale = this.#scale, length = values.length;
    if (this.#scaled.length < length) this.#scaled = new Float32Array(length);
    const scores = this.#scaled.subarray(0, length);
    if (scale === null) {
      scores.set(values);
    } else {
      if (length % scale.length !== 0) {
        throw new RangeError(`${length} values are not whole tokens of ${scale.length} channels`);
      }
      for (let token = 0; token < length; token += scale.length) {
        // A product of two float32s is exact in float64, so storing it rounds once, as the kernels do.
        for (let c = 0; c < scale.length; c++) scores[token + c] = values[token + c]! * scale[c]!;
      }
    }
    const bits = new Uint32Array(scores.buffer, 0, length);
    let largest = 0;
    for (let i = 0; i < length; i++) {
      const score = bits[i]! & 0x7fffffff;
      bits[i] = score;
      if (score > largest) largest = score;
    }
    if (largest >= FIRST_NOT_FINITE) throw new RangeError("a calibration input is not finite");
    return bits;
  }

  #keep(bits: Uint32Array, total: number): void {
    let kept = this.#kept!;
    if (kept.length < total) {
      const grown = new Uint32Array(Math.min(Math.max(total, 2 * kept.length), this.#exactLimit));
      grown.set(kept.subarray(0, this.#count));
      kept = this.#kept = grown;
    }
    kept.set(bits, this.#count);
  }

  #addToBins(bits: Uint32Array): void {
    const slots = this.#slots;
    let bins = this.#bins;
    for (let i = 0; i < bits.length; i++) {
      const value = bits[i]!, octave = value >>> OCTAVE_SHIFT;
      if (slots[octave] === UNSEEN) bins = this.#addOctave(octave);
      const at = slots[octave]! + ((value >>> BIN_SHIFT) & (OCTAVE_BINS - 1));
      bins[at] = bins[at]! + 1;
    }
  }

  #addOctave(octave: number): Uint32Array {
    this.#slots[octave] = this.#octaves * OCTAVE_BINS;
    this.#octaves++;
    const bins = new Uint32Array(this.#octaves * OCTAVE_BINS);
    bins.set(this.#bins);
    return this.#bins = bins;
  }

  /** In one walk through the bins where the ranks ascend: a thousand walks take 0.2 s. */
  #manyInBins(ranks: readonly number[]): Float32Array {
    const found = new Float32Array(ranks.length), walk = { octave: 0, bin: 0, below: 0 };
    let last = 0;
    for (const [i, k] of ranks.entries()) {
      if (k < last) Object.assign(walk, { octave: 0, bin: 0, below: 0 });
      found[i] = k === 0 ? -1 : this.#kthInBins(k, walk);
      last = k;
    }
    return found;
  }

  /** @param walk where to begin, below the k-th; left at the bin that holds it */
  #kthInBins(k: number, walk = { octave: 0, bin: 0, below: 0 }): number {
    let { below } = walk;
    for (let octave = walk.octave; octave < 256; octave++) {
      const slot = this.#slots[octave]!;
      if (slot === UNSEEN) continue;
      for (let bin = octave === walk.octave ? walk.bin : 0; bin < OCTAVE_BINS; bin++) {
        const inBin = this.#bins[slot + bin]!;
        if (below + inBin < k) {
          below += inBin;
          continue;
        }
        Object.assign(walk, { octave, bin, below });
        const first = (octave << OCTAVE_SHIFT) | (bin << BIN_SHIFT);
        // The bin of 0: what shares it is below 3e-42, and 0 must come out as 0.
        if (first === 0) return 0;
        const offset = Math.floor((k - below - 0.5) / inBin * (1 << BIN_SHIFT));
        return floatOf(first + offset);
      }
    }
    throw new RangeError("fewer scores in the histogram than were counted");
  }
}

/** Exact selection on the bits in two passes, the upper 16 first: linear, and no order of the values is bad for it. */
function kthOf(bits: Uint32Array, k: number): number {
  const counts = new Uint32Array(65536);
  for (let i = 0; i < bits.length; i++) counts[bits[i]! >>> 16]!++;
  const upper = binOf(counts, k);
  counts.fill(0);
  for (let i = 0; i < bits.length; i++) if (bits[i]! >>> 16 === upper.bin) counts[bits[i]! & 0xffff]!++;
  return floatOf((upper.bin << 16) | binOf(counts, upper.rest).bin);
}

function binOf(counts: Uint32Array, k: number): { bin: number; rest: number } {
  let rest = k, bin = 0;
  while (counts[bin]! < rest) rest -= counts[bin++]!;
  return { bin, rest };
}

function floatOf(bits: number): number {
  return new Float32Array(Uint32Array.of(bits).buffer)[0]!;
}
