/** The random numbers of XRBench's load generator: those that glibc's `rand()` gives after `srand(seed)`. */

const MODULUS = 2147483647;
/** Outputs begin here: the first 310 of the recurrence are thrown away (glibc, `stdlib/random_r.c`, `__srandom_r`). */
const FIRST = 344;
/** Exclusive, as glibc's state has it: 2147483647 would be 0 in it. */
export const SEEDS = 2147483647;

/**
 * glibc's additive feedback generator: r[i] = r[i-31] + r[i-3] mod 2 ** 32, whose outputs are r[i] >> 1.
 *
 * @example Seed 1, as C programs have it that never call `srand`
 * ```ts
 * import assert from "node:assert/strict";
 * const random = new LibcRandom(1);
 * assert.deepEqual([random.next(), random.next(), random.next()], [1804289383, 846930886, 1681692777]);
 * ```
 */
export class LibcRandom {
  /** r[i-31] to r[i-1], at i modulo 31. */
  readonly #state: Uint32Array = new Uint32Array(31);
  #at = FIRST;

  /**
   * As `srand` begins it.
   *
   * @param seed An integer from 0 to 2147483646; 0 gives what 1 gives.
   * @throws {RangeError} If it is not.
   */
  constructor(seed: number) {
    if (!Number.isInteger(seed) || seed < 0 || seed >= SEEDS) {
      throw new RangeError(`seed: ${seed} found, an integer from 0 to ${SEEDS - 1} wanted`);
    }
    const state = this.#state;
    let word = seed === 0 ? 1 : seed;
    for (let i = 0; i < 31; ++i) {
      state[i] = word;
      word = (16807 * word) % MODULUS;
    }
    // r[31] to r[33] repeat r[0] to r[2], which is where they already lie
    for (let i = 34; i < FIRST; ++i) this.#step(i);
  }

  #step(i: number): number {
    const state = this.#state, at = i % 31;
    return state[at] = state[at]! + state[(i + 28) % 31]!;
  }

  /** The next integer from 0 to 2147483647. */
  next(): number {
    const at = this.#at++;
    this.#step(at);
    return this.#state[at % 31]! >>> 1;
  }

  /** The next number in [0, 1): `rand() / 2 ** 31`. */
  unit(): number {
    return this.next() / 2147483648;
  }

  /** The next number in [0, 1] as the harness has it, `(float) rand() / RAND_MAX` in single precision: 1 for the 64 largest values. */
  unitFloat(): number {
    return Math.fround(this.next()) / 2147483648;
  }
}
