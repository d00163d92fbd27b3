/**
 * A seeded stream of uniform numbers for sampling: xoshiro128** (Blackman and Vigna 2018), its state filled by
 * splitmix32. It is all 32-bit integer arithmetic, which JavaScript has exactly (`Math.imul`), so a seed gives the
 * same stream in every engine; `Math.random` takes no seed.
 */
export class Random {
  readonly #state: Uint32Array = new Uint32Array(4);

  /**
   * @param seed An integer in [0, 2 ** 53); every one starts another stream.
   * @throws {RangeError} If it is not.
   */
  constructor(seed: number) {
    if (!Number.isSafeInteger(seed) || seed < 0) {
      throw new RangeError(`seed ${seed}: it must be an integer from 0 to ${Number.MAX_SAFE_INTEGER}`);
    }
    let low = seed >>> 0;
    const high = Math.floor(seed / 4294967296);
    for (let i = 0; i < 4; ++i) {
      low = (low + 0x9e3779b9) | 0;
      this.#state[i] = mix(low) ^ mix(high + i * 0x85ebca6b);
    }
  }

  /** 32 random bits, as an integer in [0, 2 ** 32). */
  bits(): number {
    const s = this.#state;
    const result = Math.imul(rotate(Math.imul(s[1]!, 5), 7), 9) >>> 0;
    const shifted = s[1]! << 9;
    s[2] = s[2]! ^ s[0]!;
    s[3] = s[3]! ^ s[1]!;
    s[1] = s[1]! ^ s[2]!;
    s[0] = s[0]! ^ s[3]!;
    s[2] = s[2]! ^ shifted;
    s[3] = rotate(s[3]!, 11);
    return result;
  }

  /** A double in [0, 1), uniform over the multiples of 2 ** -53. */
  uniform(): number {
    const high = this.bits() >>> 5, low = this.bits() >>> 6;
    return (high * 67108864 + low) / 9007199254740992;
  }
}

function rotate(x: number, by: number): number {
  return (x << by) | (x >>> (32 - by));
}

function mix(x: number): number {
  x = Math.imul(x ^ (x >>> 16), 0x21f0aaad);
  x = Math.imul(x ^ (x >>> 15), 0x735a2d97);
  return x ^ (x >>> 15);
}
