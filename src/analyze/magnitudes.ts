/** How large a site's inputs are: a histogram of |x|, and the mean of each channel. */

/** Bits of a float32 below its upper six of the mantissa: 64 bins an octave. */
const SHIFT = 17;
const BINS = 1 << (31 - SHIFT);

/** Counts of |x| in 64 bins an octave, in 64 KiB whatever comes, and sums by channel. */
export class Magnitudes {
  /** Values in each bin; the first holds 0. */
  readonly #bins = new Uint32Array(BINS);
  /** Sums of |x|, f64[nIn]. */
  readonly sums: Float64Array;
  #rows = 0;

  constructor(nIn: number) {
    this.sums = new Float64Array(nIn);
  }

  /** Values that were seen. */
  get count(): number {
    return this.#rows * this.sums.length;
  }

  /** Tokens that were seen. */
  get rows(): number {
    return this.#rows;
  }

  /** Takes one token's input, f32[nIn] at `at`. @throws {RangeError} If a value is not finite. */
  add(x: Float32Array, at: number): void {
    const { sums } = this, nIn = sums.length, bins = this.#bins;
    const bits = new Uint32Array(x.buffer, x.byteOffset + 4 * at, nIn);
    for (let c = 0; c < nIn; c++) {
      const bin = (bits[c]! & 0x7fffffff) >>> SHIFT;
      if (bin >= 0x7f800000 >>> SHIFT) throw new RangeError("an input of a projection is not finite");
      bins[bin] = bins[bin]! + 1;
      sums[c] = sums[c]! + Math.abs(x[at + c]!);
    }
    this.#rows++;
  }

  /** A threshold that leaves this share of the values at or below it, within a bin: 1/64 of it. */
  quantile(share: number): number {
    const wanted = share * this.count;
    let below = 0;
    for (let bin = 0; bin < BINS; bin++) {
      const inBin = this.#bins[bin]!;
      if (below + inBin < wanted) {
        below += inBin;
        continue;
      }
      if (bin === 0) return 0;
      const low = edgeOf(bin), high = edgeOf(bin + 1);
      return Math.fround(low + (high - low) * (inBin === 0 ? 0 : (wanted - below) / inBin));
    }
    return Infinity;
  }

  /** The histogram by quarters of an octave: lower edges, ascending, and counts; bins without values between others are there. */
  quarters(): {
    readonly zeros: number;
    readonly low: readonly number[];
    readonly counts: readonly number[];
  } {
    const counts: number[] = [], low: number[] = [];
    const seen = this.#bins.findIndex((count, bin) => bin > 0 && count > 0);
    const last = this.#bins.findLastIndex((count) => count > 0);
    if (seen > 0) {
      for (let bin = seen & ~15; bin <= last; bin += 16) {
        low.push(edgeOf(bin));
        counts.push(this.#bins.subarray(Math.max(bin, 1), bin + 16).reduce((sum, count) => sum + count, 0));
      }
    }
    return { zeros: this.#bins[0]!, low, counts };
  }
}

function edgeOf(bin: number): number {
  return new Float32Array(Uint32Array.of(bin << SHIFT).buffer)[0]!;
}
