/** The scale of every channel: the L2 norm of its column of W, which is also that of its row of V diag(S). */

/**
 * Square sums of W's columns, taken from rows as they come, in float64.
 *
 * @example
 * ```ts
 * import assert from "node:assert/strict";
 * const norms = new ColumnNorms(2);
 * norms.add(Float32Array.of(3, 1));
 * norms.add(Float32Array.of(4, 0, 0, 0));
 * assert.deepEqual(norms.finish(), Float32Array.of(5, 1));
 * ```
 */
export class ColumnNorms {
  readonly #sums: Float64Array;

  /** `nIn` is the number of columns. */
  constructor(nIn: number) {
    this.#sums = new Float64Array(nIn);
  }

  /**
   * Adds whole rows, f32[any, nIn].
   *
   * @throws {RangeError} If `rows` ends inside a row.
   */
  add(rows: Float32Array): void {
    const sums = this.#sums, nIn = sums.length;
    if (rows.length % nIn !== 0) throw new RangeError(`${rows.length} values are not whole rows of ${nIn}`);
    for (let row = 0; row < rows.length; row += nIn) {
      for (let c = 0; c < nIn; c++) {
        const value = rows[row + c]!;
        sums[c] = sums[c]! + value * value;
      }
    }
  }

  /** The norms so far, f32[nIn]. */
  finish(): Float32Array {
    return Float32Array.from(this.#sums, Math.sqrt);
  }
}
