/**
 * Some eigenvalues and eigenvectors of a symmetric tridiagonal matrix: bisection on Sturm counts, then inverse
 * iteration (Golub and Van Loan, Matrix Computations, 8.4; LAPACK's dstebz and dstein). Only + - * / and square roots,
 * which IEEE rounds exactly, so every runtime gets the same bits.
 *
 * The matrix is `d[0 … n-1]` on the diagonal and `e[i]` between i - 1 and i; `e[0]` is not read.
 */

const EPSILON = 2 ** -52;

/** The largest row sum of absolute values, a bound on every eigenvalue. */
function boundOf(d: Float64Array, e: Float64Array): number {
  const n = d.length;
  let bound = 0;
  for (let i = 0; i < n; i++) {
    const row = Math.abs(d[i]!) + (i > 0 ? Math.abs(e[i]!) : 0) + (i + 1 < n ? Math.abs(e[i + 1]!) : 0);
    if (row > bound) bound = row;
  }
  return bound;
}

/** How many eigenvalues are below `x`. A pivot of 0 stands for one just below it: the next is then +Infinity, as in the limit. */
function countBelow(d: Float64Array, squares: Float64Array, x: number): number {
  let pivot = 1, count = 0;
  for (let i = 0; i < d.length; i++) {
    pivot = d[i]! - x - squares[i]! / pivot;
    if (pivot === 0) pivot = -Number.MIN_VALUE;
    if (pivot < 0) count++;
  }
  return count;
}

/** The `count` largest eigenvalues, descending, each to within 2^-52 of the largest magnitude. */
export function largestEigenvalues(d: Float64Array, e: Float64Array, count: number): Float64Array {
  const n = d.length, bound = boundOf(d, e);
  const squares = e.map((value, i) => i === 0 ? 0 : value * value);
  const values = new Float64Array(count);
  const least = new Float64Array(count).fill(-bound);
  let high = bound;
  for (let k = 0; k < count; k++) {
    let low = least[k]!;
    while (high - low > EPSILON * bound) {
      const middle = low + (high - low) / 2;
      if (middle === low || middle === high) break;
      const above = n - countBelow(d, squares, middle);
      // What one count says of the values further down saves two thirds of theirs.
      for (let j = k; j < Math.min(above, count); j++) least[j] = Math.max(least[j]!, middle);
      if (above > k) low = middle;
      else high = middle;
    }
    values[k] = low + (high - low) / 2;
  }
  return values;
}

/**
 * The eigenvector of `value` by inverse iteration, of length 1, orthogonal to those found before.
 *
 * @param x Takes the vector.
 * @param seed Makes the start vector; another one for each vector, or those of a repeated value come out alike.
 * @param orthogonalise Takes from `x` what it has of the vectors found before.
 */
export function tridiagonalVector(
  x: Float64Array,
  d: Float64Array,
  e: Float64Array,
  value: number,
  seed: number,
  orthogonalise: () => void,
): void {
  const factors = factorise(d, e, value, EPSILON * boundOf(d, e));
  fillRandom(x, seed);
  orthogonalise();
  normalise(x);
  // From a random start, one step leaves sqrt(n) * epsilon / gap of the neighbours, each further one squares it.
  for (let step = 0; step < 3; step++) {
    solve(factors, x);
    normalise(x);
    orthogonalise();
    normalise(x);
  }
  // In a cluster the first pass can cancel most of x, and leave what is left not orthogonal.
  orthogonalise();
  normalise(x);
}

/** P L U of the shifted matrix: three diagonals of U, L's multipliers, and which rows were exchanged. */
interface Factors {
  readonly u0: Float64Array;
  readonly u1: Float64Array;
  readonly u2: Float64Array;
  readonly multiplier: Float64Array;
  readonly exchanged: Uint8Array;
}

function factorise(d: Float64Array, e: Float64Array, shift: number, least: number): Factors {
  const n = d.length;
  const u0 = new Float64Array(n), u1 = new Float64Array(n), u2 = new Float64Array(n);
  const multiplier = new Float64Array(n), exchanged = new Uint8Array(n);
  const pivotOf = (p: number): number => Math.abs(p) < least ? (p < 0 ? -least : least) : p;
  let p = d[0]! - shift, q = n > 1 ? e[1]! : 0;
  for (let i = 0; i + 1 < n; i++) {
    const below = e[i + 1]!, diagonal = d[i + 1]! - shift, right = i + 2 < n ? e[i + 2]! : 0;
    if (Math.abs(below) > Math.abs(p)) {
      exchanged[i] = 1;
      u0[i] = pivotOf(below);
      u1[i] = diagonal;
      u2[i] = right;
      const m = multiplier[i] = p / u0[i]!;
      p = q - m * diagonal;
      q = -m * right;
    } else {
      u0[i] = pivotOf(p);
      u1[i] = q;
      const m = multiplier[i] = below / u0[i]!;
      p = diagonal - m * q;
      q = right;
    }
  }
  u0[n - 1] = pivotOf(p);
  return { u0, u1, u2, multiplier, exchanged };
}

function solve({ u0, u1, u2, multiplier, exchanged }: Factors, x: Float64Array): void {
  const n = x.length;
  for (let i = 0; i + 1 < n; i++) {
    if (exchanged[i]) {
      const top = x[i + 1]!;
      x[i + 1] = x[i]! - multiplier[i]! * top;
      x[i] = top;
    } else {
      x[i + 1] = x[i + 1]! - multiplier[i]! * x[i]!;
    }
  }
  let after = 0, next = 0;
  for (let i = n - 1; i >= 0; i--) {
    const value = (x[i]! - u1[i]! * next - u2[i]! * after) / u0[i]!;
    x[i] = value;
    after = next;
    next = value;
  }
}

/** Scales by the largest element first: its square may be past float64. */
function normalise(x: Float64Array): void {
  let largest = 0;
  for (let i = 0; i < x.length; i++) {
    const size = Math.abs(x[i]!);
    if (size > largest) largest = size;
  }
  if (largest === 0) return;
  let sum = 0;
  for (let i = 0; i < x.length; i++) {
    const part = x[i]! / largest;
    sum += part * part;
  }
  const norm = Math.sqrt(sum);
  for (let i = 0; i < x.length; i++) x[i] = x[i]! / largest / norm;
}

/** Uniform in (-1, 1) from a 32-bit generator (mulberry32): integers only. */
function fillRandom(x: Float64Array, seed: number): void {
  let state = seed + 1;
  for (let i = 0; i < x.length; i++) {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    x[i] = ((t ^ (t >>> 14)) >>> 0) / 2 ** 31 - 1 + 2 ** -33;
  }
}
