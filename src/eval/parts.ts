/** A task in parts, that several processes or machines evaluate: which rows are whose. */

/** One of several parts: rows that follow one another. */
export interface Part {
  /** From 1. */
  readonly number: number;
  /** How many there are. */
  readonly of: number;
}

/** @throws {RangeError} If there is no such part. */
export function checkPart({ number, of }: Part): void {
  if (Number.isSafeInteger(of) && Number.isInteger(number) && number >= 1 && number <= of) return;
  throw new RangeError(`part: ${number} of ${of} found, 1 to the number of parts wanted`);
}

/** Where a part of `total` rows begins and ends; parts differ by one row at most, and together are all. */
export function rangeOfPart(total: number, { number, of }: Part): readonly [from: number, to: number] {
  return [Math.floor(total * (number - 1) / of), Math.floor(total * number / of)];
}
