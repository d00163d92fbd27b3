/** The order of models' names: that of their UTF-8 bytes, as C++ compares strings. */

/** Negative, 0 or positive as `a` comes before, with or after `b`. UTF-8 sorts as code points do, which JavaScript's own comparison does not beyond U+FFFF. */
export function compareNames(a: string, b: string): number {
  const left = [...a], right = [...b];
  for (let i = 0; i < left.length && i < right.length; ++i) {
    const difference = left[i]!.codePointAt(0)! - right[i]!.codePointAt(0)!;
    if (difference !== 0) return difference;
  }
  return left.length - right.length;
}
