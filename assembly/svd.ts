// Linear algebra of the truncated SVD, in f64. One operation each; src/calibrate/svd.ts puts them together.
//
// W is read through panels. The Gram side is W's shorter one, n long; the other is cut into panels of nRows:
//
//     panel f64[nBlocks, nRows, 4]      panel[b, r, t] = W at (row r of the panel, Gram index 4 * b + t)
//
// so that a 4 x 4 tile of the Gram matrix reads two contiguous runs. nBlocks = ceil(n / 4); what is past n is 0.

/** Sum of both lanes. */
// @ts-ignore: decorator
@inline
function total(v: v128): f64 {
  return f64x2.extract_lane(v, 0) + f64x2.extract_lane(v, 1);
}

/** a · b. */
// @ts-ignore: decorator
@inline
function dot(a: usize, b: usize, n: u32): f64 {
  const bytes: usize = <usize>n << 3;
  const laneBytes: usize = bytes & ~31;
  let s0 = f64x2.splat(0);
  let s1 = f64x2.splat(0);
  let o: usize = 0;
  for (; o < laneBytes; o += 32) {
    s0 = f64x2.add(s0, f64x2.mul(v128.load(a + o), v128.load(b + o)));
    s1 = f64x2.add(s1, f64x2.mul(v128.load(a + o, 16), v128.load(b + o, 16)));
  }
  let s = total(f64x2.add(s0, s1));
  for (; o < bytes; o += 8) s += load<f64>(a + o) * load<f64>(b + o);
  return s;
}

/** y -= f · x. */
// @ts-ignore: decorator
@inline
function subtract(y: usize, x: usize, f: f64, n: u32): void {
  const bytes: usize = <usize>n << 3;
  const laneBytes: usize = bytes & ~15;
  const fs = f64x2.splat(f);
  let o: usize = 0;
  for (; o < laneBytes; o += 16) {
    v128.store(y + o, f64x2.sub(v128.load(y + o), f64x2.mul(fs, v128.load(x + o))));
  }
  for (; o < bytes; o += 8) store<f64>(y + o, load<f64>(y + o) - f * load<f64>(x + o));
}

// @ts-ignore: decorator
@inline
function addPair(at: usize, v: v128): void {
  v128.store(at, f64x2.add(v128.load(at), v));
}

/**
 * G += Pᵀ P over the rows of one panel; only the tiles on and below the diagonal.
 *
 * @param g       f64[4 * nBlocks, 4 * nBlocks], row-major, added to
 * @param panel   f64[nBlocks, nRows, 4]
 */
export function gram_panel_f64(g: usize, panel: usize, nBlocks: u32, nRows: u32): void {
  const runBytes: usize = <usize>nRows << 5;
  const rowBytes: usize = <usize>nBlocks << 5;
  for (let bi: u32 = 0; bi < nBlocks; ++bi) {
    const left = panel + <usize>bi * runBytes;
    for (let bj: u32 = 0; bj <= bi; ++bj) {
      const right = panel + <usize>bj * runBytes;
      let s00 = f64x2.splat(0), s01 = f64x2.splat(0), s10 = f64x2.splat(0), s11 = f64x2.splat(0);
      let s20 = f64x2.splat(0), s21 = f64x2.splat(0), s30 = f64x2.splat(0), s31 = f64x2.splat(0);
      for (let o: usize = 0; o < runBytes; o += 32) {
        const r0 = v128.load(right + o);
        const r1 = v128.load(right + o, 16);
        let l = v128.load64_splat(left + o);
        s00 = f64x2.add(s00, f64x2.mul(l, r0));
        s01 = f64x2.add(s01, f64x2.mul(l, r1));
        l = v128.load64_splat(left + o, 8);
        s10 = f64x2.add(s10, f64x2.mul(l, r0));
        s11 = f64x2.add(s11, f64x2.mul(l, r1));
        l = v128.load64_splat(left + o, 16);
        s20 = f64x2.add(s20, f64x2.mul(l, r0));
        s21 = f64x2.add(s21, f64x2.mul(l, r1));
        l = v128.load64_splat(left + o, 24);
        s30 = f64x2.add(s30, f64x2.mul(l, r0));
        s31 = f64x2.add(s31, f64x2.mul(l, r1));
      }
      let at = g + (<usize>bi << 2) * rowBytes + (<usize>bj << 5);
      addPair(at, s00);
      addPair(at + 16, s01);
      at += rowBytes;
      addPair(at, s10);
      addPair(at + 16, s11);
      at += rowBytes;
      addPair(at, s20);
      addPair(at + 16, s21);
      at += rowBytes;
      addPair(at, s30);
      addPair(at + 16, s31);
    }
  }
}

/**
 * y = P z: one vector of the Gram side taken to the other side, for the rows of one panel.
 *
 * @param y       f64[nRows]
 * @param panel   f64[nBlocks, nRows, 4]
 * @param z       f64[4 * nBlocks]; what is past n is 0
 * @param work    f64[nRows, 2]
 */
export function project_panel_f64(y: usize, panel: usize, z: usize, work: usize, nBlocks: u32, nRows: u32): void {
  memory.fill(work, 0, <usize>nRows << 4);
  const runBytes: usize = <usize>nRows << 5;
  for (let b: u32 = 0; b < nBlocks; ++b) {
    const z0 = v128.load(z + (<usize>b << 5));
    const z1 = v128.load(z + (<usize>b << 5), 16);
    const run = panel + <usize>b * runBytes;
    for (let o: usize = 0; o < runBytes; o += 32) {
      const terms = f64x2.add(f64x2.mul(v128.load(run + o), z0), f64x2.mul(v128.load(run + o, 16), z1));
      addPair(work + (o >> 1), terms);
    }
  }
  for (let r: u32 = 0; r < nRows; ++r) store<f64>(y + (<usize>r << 3), total(v128.load(work + (<usize>r << 4))));
}

/**
 * Householder reduction of a symmetric matrix to tridiagonal form, from the last row up (EISPACK's tred1), with the
 * rank-2 update of one step and the matrix-vector product of the next fused into one pass over the triangle.
 * Reflector i, I - u uᵀ / h[i], is left in row i of `a`, elements 0 … i - 1; h[i] = 0 means there is none.
 *
 * @param d       f64[n], the diagonal
 * @param e       f64[n], e[i] joins i - 1 and i; e[0] = 0
 * @param h       f64[n]
 * @param a       f64[n, stride], the lower triangle is read and overwritten
 * @param work    f64[2 * stride]
 * @param stride  even, at least n
 * @param tiny    what a reflector would remove is taken as 0 if its square sum is at most this: none is made of underflow
 */
export function tridiagonalise_f64(
  d: usize, e: usize, h: usize, a: usize, work: usize, n: u32, stride: u32, tiny: f64,
): void {
  const rowBytes: usize = <usize>stride << 3;
  let q = work; // of the reflector before, still to be applied: A -= u qᵀ + q uᵀ
  let p = work + rowBytes; // A u of this step, becomes its q
  memory.fill(work, 0, rowBytes << 1);
  let u = a; // with q = 0, any row does
  for (let i: u32 = n; i-- > 0;) {
    const v = a + <usize>i * rowBytes;
    const last = <usize>i << 3;
    const ui = load<f64>(u + last);
    const qi = load<f64>(q + last);
    for (let o: usize = 0; o <= last; o += 8) {
      store<f64>(v + o, load<f64>(v + o) - (ui * load<f64>(q + o) + qi * load<f64>(u + o)));
    }
    store<f64>(d + last, load<f64>(v + last));
    if (i == 0) {
      store<f64>(e, 0);
      store<f64>(h, 0);
      return;
    }

    // The reflector that leaves of row i only its last element before the diagonal.
    const rest = dot(v, v, i - 1);
    const f = load<f64>(v + last - 8);
    let hi: f64 = 0;
    if (rest <= tiny) {
      store<f64>(e + last, f);
      memory.fill(v, 0, last);
    } else {
      const square = rest + f * f;
      const g = f >= 0 ? -sqrt(square) : sqrt(square);
      store<f64>(e + last, g);
      hi = square - f * g;
      store<f64>(v + last - 8, f - g);
    }
    store<f64>(h + last, hi);

    // Pairs of rows below i: bring them up to date, and take A v from them while they are in registers.
    memory.fill(p, 0, last);
    let j: u32 = 0;
    for (; j + 2 <= i; j += 2) {
      const row0 = a + <usize>j * rowBytes;
      const row1 = row0 + rowBytes;
      const end = <usize>j << 3;
      const u0 = load<f64>(u + end), u1 = load<f64>(u + end, 8);
      const q0 = load<f64>(q + end), q1 = load<f64>(q + end, 8);
      const v0 = load<f64>(v + end), v1 = load<f64>(v + end, 8);
      const u0s = f64x2.splat(u0), u1s = f64x2.splat(u1);
      const q0s = f64x2.splat(q0), q1s = f64x2.splat(q1);
      const v0s = f64x2.splat(v0), v1s = f64x2.splat(v1);
      let s0 = f64x2.splat(0), s1 = f64x2.splat(0);
      for (let o: usize = 0; o < end; o += 16) {
        const us = v128.load(u + o);
        const qs = v128.load(q + o);
        const vs = v128.load(v + o);
        const a0 = f64x2.sub(v128.load(row0 + o), f64x2.add(f64x2.mul(u0s, qs), f64x2.mul(q0s, us)));
        const a1 = f64x2.sub(v128.load(row1 + o), f64x2.add(f64x2.mul(u1s, qs), f64x2.mul(q1s, us)));
        v128.store(row0 + o, a0);
        v128.store(row1 + o, a1);
        s0 = f64x2.add(s0, f64x2.mul(a0, vs));
        s1 = f64x2.add(s1, f64x2.mul(a1, vs));
        addPair(p + o, f64x2.add(f64x2.mul(v0s, a0), f64x2.mul(v1s, a1)));
      }
      const a00 = load<f64>(row0 + end) - (u0 * q0 + q0 * u0);
      const a10 = load<f64>(row1 + end) - (u1 * q0 + q1 * u0);
      const a11 = load<f64>(row1 + end, 8) - (u1 * q1 + q1 * u1);
      store<f64>(row0 + end, a00);
      store<f64>(row1 + end, a10);
      store<f64>(row1 + end, a11, 8);
      store<f64>(p + end, total(s0) + a00 * v0 + a10 * v1);
      store<f64>(p + end, total(s1) + a10 * v0 + a11 * v1, 8);
    }
    if (j < i) {
      const row = a + <usize>j * rowBytes;
      const end = <usize>j << 3;
      const uj = load<f64>(u + end), qj = load<f64>(q + end), vj = load<f64>(v + end);
      let s: f64 = 0;
      for (let o: usize = 0; o < end; o += 8) {
        const x = load<f64>(row + o) - (uj * load<f64>(q + o) + qj * load<f64>(u + o));
        store<f64>(row + o, x);
        s += x * load<f64>(v + o);
        store<f64>(p + o, load<f64>(p + o) + vj * x);
      }
      const x = load<f64>(row + end) - (uj * qj + qj * uj);
      store<f64>(row + end, x);
      store<f64>(p + end, s + x * vj);
    }

    // Without a reflector v is 0, and so is p.
    if (hi != 0) {
      // q = p / h - (vᵀ p / 2h²) v
      const k = dot(v, p, i) / (hi + hi);
      for (let o: usize = 0; o < last; o += 8) {
        store<f64>(p + o, (load<f64>(p + o) - k * load<f64>(v + o)) / hi);
      }
    }
    u = v;
    const swap = q;
    q = p;
    p = swap;
  }
}

/**
 * Takes from x what it has of earlier vectors, one after the other (modified Gram-Schmidt).
 *
 * @param x       f64[n]
 * @param basis   f64[nVectors, stride], orthonormal
 */
export function orthogonalise_f64(x: usize, basis: usize, nVectors: u32, n: u32, stride: u32): void {
  for (let k: u32 = 0; k < nVectors; ++k) {
    const b = basis + ((<usize>k * <usize>stride) << 3);
    subtract(x, b, dot(x, b, n), n);
  }
}

/**
 * Takes eigenvectors of the tridiagonal matrix back to those of the symmetric one it was made of.
 *
 * @param z       f64[nVectors, stride], in place
 * @param a       f64[n, stride], the reflectors of {@linkcode tridiagonalise_f64}
 * @param h       f64[n]
 */
export function back_transform_f64(z: usize, a: usize, h: usize, nVectors: u32, n: u32, stride: u32): void {
  const rowBytes: usize = <usize>stride << 3;
  for (let i: u32 = 1; i < n; ++i) {
    const hi = load<f64>(h + (<usize>i << 3));
    if (hi == 0) continue;
    const u = a + <usize>i * rowBytes;
    for (let k: u32 = 0; k < nVectors; ++k) {
      const x = z + <usize>k * rowBytes;
      subtract(x, u, dot(x, u, i) / hi, i);
    }
  }
}
