import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { ColumnNorms } from "../../src/calibrate/column_norms.ts";
import { createSvd, type TruncatedSvd } from "../../src/calibrate/svd.ts";
import { largestEigenvalues, tridiagonalVector } from "../../src/calibrate/tridiagonal.ts";
import { loadKernelModule } from "../../src/kernels/probe.ts";
import { requireShared, skipWithout } from "../support/shared.ts";

const svd = await createSvd(await loadKernelModule("baseline"));

/** A generator of numbers in (-1, 1); the same seed gives the same numbers. */
function seeded(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    return state / 2 ** 31;
  };
}

function randomMatrix(nOut: number, nIn: number, seed: number): Float32Array {
  const next = seeded(seed);
  return Float32Array.from({ length: nOut * nIn }, next);
}

/** Singular values by one-sided Jacobi rotations of the columns: another algorithm, in plain loops. */
function jacobiSingularValues(w: Float32Array, nOut: number, nIn: number): number[] {
  const columns = Array.from(
    { length: nIn },
    (_, c) => Array.from({ length: nOut }, (_, o) => w[o * nIn + c]!),
  );
  const dot = (a: number[], b: number[]): number => a.reduce((sum, value, i) => sum + value * b[i]!, 0);
  for (let sweep = 0; sweep < 30; sweep++) {
    for (let i = 0; i < nIn; i++) {
      for (let j = i + 1; j < nIn; j++) {
        const a = columns[i]!, b = columns[j]!, ab = dot(a, b);
        if (ab === 0) continue;
        const zeta = (dot(b, b) - dot(a, a)) / (2 * ab);
        const tangent = (zeta < 0 ? -1 : 1) / (Math.abs(zeta) + Math.sqrt(1 + zeta * zeta));
        const cosine = 1 / Math.sqrt(1 + tangent * tangent), sine = cosine * tangent;
        for (let o = 0; o < nOut; o++) {
          const left = a[o]!, right = b[o]!;
          a[o] = cosine * left - sine * right;
          b[o] = sine * left + cosine * right;
        }
      }
    }
  }
  return columns.map((column) => Math.sqrt(dot(column, column))).sort((a, b) => b - a).slice(
    0,
    Math.min(nOut, nIn),
  );
}

/** U S Vᵀ as f64[nOut, nIn]. */
function product({ sigma, u, v }: TruncatedSvd, nOut: number, nIn: number): Float64Array {
  const out = new Float64Array(nOut * nIn);
  for (let k = 0; k < sigma.length; k++) {
    for (let o = 0; o < nOut; o++) {
      for (let c = 0; c < nIn; c++) out[o * nIn + c]! += u[k * nOut + o]! * v[k * nIn + c]!;
    }
  }
  return out;
}

function distance(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += (a[i]! - b[i]!) ** 2;
  return Math.sqrt(sum);
}

function norm(a: ArrayLike<number>): number {
  return distance(a, new Float64Array(a.length));
}

function assertNear(found: number, wanted: number, bound: number, what: string): void {
  if (!(Math.abs(found - wanted) <= bound)) {
    assert.fail(`${what}: ${found} found, ${wanted} wanted, bound ${bound}`);
  }
}

/** Values as Jacobi has them; the distance to W is what the values left out say (Eckart and Young); V orthonormal. */
function assertDecomposition(w: Float32Array, nOut: number, nIn: number, rank: number, what: string): void {
  const found = svd.truncatedSvd(w, nOut, nIn, rank);
  const exact = jacobiSingularValues(w, nOut, nIn);
  const scale = exact[0]!;
  assert.deepEqual(found.sigma, found.sigma.slice().sort().reverse(), `${what}: descending`);
  for (let k = 0; k < rank; k++) assertNear(found.sigma[k]!, exact[k]!, 1e-8 * scale, `${what}: sigma ${k}`);
  assertNear(distance(product(found, nOut, nIn), w), norm(exact.slice(rank)), 1e-6 * scale, `${what}: rest`);
  for (let k = 0; k < rank; k++) {
    for (let l = 0; l <= k; l++) {
      let vv = 0, uu = 0;
      for (let c = 0; c < nIn; c++) vv += found.v[k * nIn + c]! * found.v[l * nIn + c]!;
      for (let o = 0; o < nOut; o++) uu += found.u[k * nOut + o]! * found.u[l * nOut + o]!;
      const sigma = found.sigma[k]!;
      assertNear(vv, k === l && sigma > 0 ? 1 : 0, 1e-6, `${what}: v ${k} . v ${l}`);
      assertNear(uu, k === l ? sigma * sigma : 0, 1e-6 * scale * scale, `${what}: u ${k} . u ${l}`);
    }
  }
}

test("truncatedSvd: agrees with Jacobi rotations at every rank of small matrices of each shape", () => {
  const shapes: [number, number][] = [[1, 1], [1, 7], [7, 1], [2, 2], [3, 5], [5, 3], [4, 4], [9, 16], [
    16,
    9,
  ], [17, 17]];
  for (const [nOut, nIn] of shapes) {
    const w = randomMatrix(nOut, nIn, nOut * 100 + nIn);
    for (let rank = 0; rank <= Math.min(nOut, nIn); rank++) {
      assertDecomposition(w, nOut, nIn, rank, `${nOut} x ${nIn} rank ${rank}`);
    }
  }
});

test("truncatedSvd: agrees with Jacobi rotations where the long side is over one panel", () => {
  assertDecomposition(randomMatrix(300, 21, 1), 300, 21, 12, "300 x 21");
  assertDecomposition(randomMatrix(22, 257, 2), 22, 257, 12, "22 x 257");
});

test("truncatedSvd: repeated singular values each have their own vectors", () => {
  const diagonal = (values: number[]): Float32Array => {
    const w = new Float32Array(values.length ** 2);
    values.forEach((value, i) => w[i * values.length + i] = value);
    return w;
  };
  assertDecomposition(diagonal(Array(12).fill(1)), 12, 12, 7, "identity");
  assertDecomposition(diagonal([1, 5, 2, 5, 5, 2, 0, 5, 1, 3]), 10, 10, 6, "diagonal");
  // Two copies of one block on the diagonal: every value twice, nothing on the axes.
  const block = randomMatrix(9, 7, 3), w = new Float32Array(18 * 14);
  for (let o = 0; o < 9; o++) {
    for (let c = 0; c < 7; c++) w[o * 14 + c] = w[(o + 9) * 14 + c + 7] = block[o * 7 + c]!;
  }
  for (const rank of [1, 2, 5, 6, 14]) assertDecomposition(w, 18, 14, rank, `two blocks, rank ${rank}`);
});

test("truncatedSvd: past the numerical rank every triple is zero", () => {
  // Whole numbers keep the matrix of rank 3 exact in float32.
  const left = randomMatrix(11, 3, 4).map((x) => Math.round(x * 8));
  const right = randomMatrix(3, 13, 5).map((x) => Math.round(x * 8));
  const w = new Float32Array(11 * 13);
  for (let o = 0; o < 11; o++) {
    for (let c = 0; c < 13; c++) {
      for (let k = 0; k < 3; k++) w[o * 13 + c]! += left[o * 3 + k]! * right[k * 13 + c]!;
    }
  }
  assertDecomposition(w, 11, 13, 8, "rank 3");
  const found = svd.truncatedSvd(w, 11, 13, 8);
  assert.deepEqual([...found.sigma.subarray(3)], [0, 0, 0, 0, 0]);
  assert.ok(found.u.subarray(33).every((x) => x === 0) && found.v.subarray(39).every((x) => x === 0));
  const zero = svd.truncatedSvd(new Float32Array(12), 3, 4, 3);
  assert.ok([...zero.sigma, ...zero.u, ...zero.v].every((x) => x === 0));
});

test("truncatedSvd: weights of 1e-30 and of 1e30 lose nothing to underflow or overflow", () => {
  const w = randomMatrix(20, 15, 6), exact = svd.truncatedSvd(w, 20, 15, 4);
  for (const factor of [2 ** -100, 2 ** 100]) {
    const scaled = svd.truncatedSvd(w.map((x) => x * factor), 20, 15, 4);
    assert.deepEqual([...scaled.sigma], [...exact.sigma].map((x) => x * factor));
    assert.deepEqual(scaled.v, exact.v);
  }
});

test("truncatedSvd: neighbours a ten-thousandth apart are not mixed across the cut", () => {
  // W = H D with H a product of two reflections: column c is a singular vector, its value is D[c] to float32's rounding.
  const n = 64, w = new Float32Array(n * n), next = seeded(7);
  const a = Float64Array.from({ length: n }, next), b = Float64Array.from({ length: n }, next);
  const reflect = (x: Float64Array, by: Float64Array): void => {
    const length = norm(by) ** 2, along = x.reduce((sum, value, i) => sum + value * by[i]!, 0);
    x.forEach((_, i) => x[i]! -= 2 * along / length * by[i]!);
  };
  for (let c = 0; c < n; c++) {
    const column = new Float64Array(n);
    column[c] = 1 + 1e-4 * (n - c);
    reflect(column, a);
    reflect(column, b);
    column.forEach((value, o) => w[o * n + c] = value);
  }
  const found = svd.truncatedSvd(w, n, n, 20);
  for (let k = 0; k < 20; k++) {
    const own = found.v.subarray(k * n, k * n + n);
    // float32 rounding of W mixes neighbours by about 6e-8 / 1e-4.
    if (!(Math.abs(own[k]!) > 0.99999)) assert.fail(`vector ${k} has ${own[k]} of its own column`);
  }
});

test("truncatedSvd: the columns of V diag(S) have the norms of W's columns", () => {
  const nOut = 31, nIn = 23, w = randomMatrix(nOut, nIn, 8);
  const { sigma, v } = svd.truncatedSvd(w, nOut, nIn, nIn);
  const norms = new ColumnNorms(nIn);
  norms.add(w.subarray(0, 7 * nIn));
  norms.add(w.subarray(7 * nIn));
  norms.finish().forEach((wanted, c) => {
    let sum = 0;
    for (let k = 0; k < nIn; k++) sum += (sigma[k]! * v[k * nIn + c]!) ** 2;
    assertNear(Math.sqrt(sum), wanted, 1e-6 * wanted, `column ${c}`);
  });
});

test("truncatedSvd: identities I1 and I2, W x_A + U S Vᵀ (x - x_A) = (W - U S Vᵀ) x_A + U S Vᵀ x", () => {
  const nOut = 24, nIn = 40, rank = 5, w = randomMatrix(nOut, nIn, 9), x = randomMatrix(1, nIn, 10);
  const found = svd.truncatedSvd(w, nOut, nIn, rank), low = product(found, nOut, nIn);
  const active = x.map((value) => Math.abs(value) > 0.5 ? value : 0);
  const times = (m: ArrayLike<number>, by: ArrayLike<number>): Float64Array => {
    const y = new Float64Array(nOut);
    for (let o = 0; o < nOut; o++) for (let c = 0; c < nIn; c++) y[o]! += m[o * nIn + c]! * by[c]!;
    return y;
  };
  const plain = times(w, active), rest = times(low, x.map((value, c) => value - active[c]!));
  const wanted = plain.map((value, o) => value + rest[o]!);
  const changed = times(Float64Array.from(w, (value, i) => value - low[i]!), active), whole = times(low, x);
  assert.ok(distance(changed.map((value, o) => value + whole[o]!), wanted) <= 1e-12 * norm(wanted));
  // I2: the columns of U are extra channels, always active, whose inputs are z = Vᵀ (x - x_A); u has S in it.
  const extra = Float64Array.from(plain);
  for (let k = 0; k < rank; k++) {
    let z = 0;
    for (let c = 0; c < nIn; c++) z += found.v[k * nIn + c]! * (x[c]! - active[c]!);
    for (let o = 0; o < nOut; o++) extra[o]! += found.u[k * nOut + o]! * z;
  }
  assert.ok(distance(extra, wanted) <= 1e-12 * norm(wanted));
});

test("truncatedSvd: a smaller rank is the beginning of a larger one, and a call leaves nothing behind", () => {
  const w = randomMatrix(40, 30, 11), large = svd.truncatedSvd(w, 40, 30, 20);
  svd.truncatedSvd(randomMatrix(90, 80, 12), 90, 80, 30);
  const small = svd.truncatedSvd(w, 40, 30, 6);
  assert.deepEqual(small.sigma, large.sigma.slice(0, 6));
  assert.deepEqual(small.u, large.u.slice(0, 6 * 40));
  assert.deepEqual(small.v, large.v.slice(0, 6 * 30));
});

test("singularValues: all of them, as Jacobi rotations find them; 0 past the numerical rank", () => {
  for (const [nOut, nIn] of [[1, 1], [3, 7], [40, 30], [65, 65], [20, 130]] as const) {
    const w = randomMatrix(nOut, nIn, nOut), found = svd.singularValues(w, nOut, nIn);
    const wanted = jacobiSingularValues(w, nOut, nIn);
    assert.equal(found.length, Math.min(nOut, nIn));
    wanted.forEach((value, k) =>
      assert.ok(
        Math.abs(found[k]! - value) <= 1e-7 * wanted[0]!,
        `${nOut} x ${nIn}, ${k}: ${found[k]}, ${value}`,
      )
    );
  }
  const one = Float32Array.from({ length: 12 }, (_, i) => (1 + i % 4) * (1 + Math.floor(i / 4)));
  const [first, ...rest] = svd.singularValues(one, 3, 4);
  assert.ok(Math.abs(first! - Math.sqrt(30 * 14)) < 1e-9);
  assert.deepEqual(rest, [0, 0]);
  assert.deepEqual(svd.singularValues(new Float32Array(6), 2, 3), new Float64Array(2));
  assert.throws(() => svd.singularValues(one, 3, 5), RangeError);
  assert.throws(() => svd.singularValues(one.map((x, i) => i === 5 ? NaN : x), 3, 4), /not finite/);
});

test("truncatedSvd: the same bits in every runtime", () => {
  const { sigma, u, v } = svd.truncatedSvd(randomMatrix(70, 90, 13), 70, 90, 25);
  const hash = [sigma, u, v].map((values) => {
    // FNV-1a; the numbers below are what Deno 2.9 on x64 gave.
    let state = 0x811c9dc5;
    for (const byte of new Uint8Array(values.buffer)) state = Math.imul(state ^ byte, 0x01000193);
    return state >>> 0;
  });
  assert.deepEqual(hash, [1016830631, 993059117, 786583424]);
});

test("truncatedSvd: refuses wrong sizes and weights that are not finite", () => {
  const w = new Float32Array(12).fill(1);
  assert.throws(() => svd.truncatedSvd(w, 3, 5, 1), RangeError);
  assert.throws(() => svd.truncatedSvd(w, 3, 4, 4), RangeError);
  assert.throws(() => svd.truncatedSvd(w, 3, 4, 1.5), RangeError);
  assert.throws(() => svd.truncatedSvd(w, 3, 4, -1), RangeError);
  for (const bad of [NaN, Infinity, -Infinity]) {
    const broken = w.slice();
    broken[7] = bad;
    assert.throws(() => svd.truncatedSvd(broken, 3, 4, 1), /not finite/);
  }
});

test("truncatedSvd: a refused matrix leaves no NaN behind in the memory", () => {
  const w = randomMatrix(7, 5, 14), before = svd.truncatedSvd(w, 7, 5, 3);
  assert.throws(() => svd.truncatedSvd(new Float32Array(800).fill(NaN), 200, 4, 1), /not finite/);
  assert.deepEqual(svd.truncatedSvd(w, 7, 5, 3), before);
});

test("largestEigenvalues, tridiagonalVector: the second difference has 2 - 2 cos(k pi / (n + 1))", () => {
  const n = 50, d = new Float64Array(n).fill(2), e = new Float64Array(n).fill(-1);
  const values = largestEigenvalues(d, e, n), x = new Float64Array(n);
  values.forEach((value, k) => {
    const angle = (n - k) * Math.PI / (n + 1);
    assertNear(value, 2 - 2 * Math.cos(angle), 2e-15, `value ${k}`);
    tridiagonalVector(x, d, e, value, k, () => {});
    const wanted = Float64Array.from(
      { length: n },
      (_, i) => Math.sin((i + 1) * angle) * Math.sqrt(2 / (n + 1)),
    );
    const sign = x[0]! * wanted[0]! < 0 ? -1 : 1;
    assert.ok(distance(x, wanted.map((value) => value * sign)) < 1e-12, `vector ${k}`);
  });
});

test("largestEigenvalues: a value that bisection hits exactly, between rows that are not joined", () => {
  const values = largestEigenvalues(Float64Array.of(0, -1, 1), new Float64Array(3), 3);
  values.forEach((value, k) => assertNear(value, 1 - k, 1e-15, `value ${k}`));
});

interface GoldenLayer {
  name: string;
  nIn: number;
  nOut: number;
  tokens: number;
  w: string;
  x: string;
  modes: { mode: string; rank: number; rho: number; active: string[] | null; y: number[][] }[];
}

test("truncatedSvd: golden layers, the low-rank part within 1e-5 of float64", {
  skip: skipWithout("golden/rsparse"),
}, () => {
  const floats = (name: string): Float32Array => {
    const bytes = readFileSync(requireShared(`golden/rsparse/${name}`));
    return new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
  };
  const layers = JSON.parse(
    readFileSync(requireShared("golden/rsparse/layers.json"), "utf8"),
  ) as GoldenLayer[];
  for (const { name, nIn, nOut, tokens, modes, ...files } of layers) {
    const w = floats(files.w), x = floats(files.x);
    for (const { mode, rank, rho, active, y } of modes) {
      if (mode === "sparse") continue;
      const { u, v } = svd.truncatedSvd(w, nOut, nIn, rank);
      for (let t = 0; t < tokens; t++) {
        const found = new Float64Array(nOut), xt = x.subarray(t * nIn, (t + 1) * nIn);
        const kept = (c: number): boolean => active?.[t]?.[c] === "1";
        for (let o = 0; o < nOut; o++) {
          for (let c = 0; c < nIn; c++) if (kept(c)) found[o]! += w[o * nIn + c]! * xt[c]!;
        }
        for (let k = 0; k < rank; k++) {
          let z = 0;
          for (let c = 0; c < nIn; c++) if (!kept(c)) z += v[k * nIn + c]! * xt[c]!;
          for (let o = 0; o < nOut; o++) found[o]! += u[k * nOut + o]! * z;
        }
        const error = distance(found, y[t]!) / norm(y[t]!);
        if (!(error <= 1e-6)) {
          assert.fail(`${name} rho ${rho} rank ${rank} token ${t}: relative error ${error}`);
        }
      }
    }
  }
});
