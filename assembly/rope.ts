// Rotary position embedding. cos, sin and pow are AssemblyScript's own (musl's algorithms), so angles are the same bits in every engine.

/** frequency f64[nPairs] = theta^(-i / nPairs). */
export function rope_frequencies_f64(frequency: usize, nPairs: u32, theta: f64): void {
  for (let i: u32 = 0; i < nPairs; ++i) store<f64>(frequency + (<usize>i << 3), NativeMath.pow(theta, -<f64>i / <f64>nPairs));
}

/** cosSin f32[nPairs, 2] = (cos, sin) of position * frequency f64[nPairs], computed in float64. */
export function rope_angles_f64(cosSin: usize, frequency: usize, nPairs: u32, position: u32): void {
  for (let i: u32 = 0; i < nPairs; ++i) {
    const angle = <f64>position * load<f64>(frequency + (<usize>i << 3));
    store<f32>(cosSin + (<usize>i << 3), <f32>NativeMath.cos(angle));
    store<f32>(cosSin + (<usize>i << 3), <f32>NativeMath.sin(angle), 4);
  }
}

/**
 * Rotates x f32[nHeads, headDim] in place. The 2 * nPairs first elements of each head are turned, the rest stay.
 *
 * @param interleaved 1: pairs (2i, 2i+1), as GGUF's llama rows and llama2.c; 0: pairs (i, i + nPairs), as safetensors
 */
export function rope_f32(x: usize, cosSin: usize, nHeads: u32, headDim: u32, nPairs: u32, interleaved: u32): void {
  const step: usize = interleaved ? 8 : 4, other: usize = interleaved ? 4 : <usize>nPairs << 2;
  const sign = i32x4(<i32>0x80000000, 0, <i32>0x80000000, 0);
  for (let h: u32 = 0; h < nHeads; ++h, x += <usize>headDim << 2) {
    let p = x, a = cosSin, i: u32 = 0;
    // the same products and sums as below, so the same bits
    if (interleaved) {
      for (; i + 2 <= nPairs; i += 2, p += 16, a += 16) {
        const uv = v128.load(p), cs = v128.load(a);
        const c = v128.shuffle<i32>(cs, cs, 0, 0, 2, 2), s = v128.xor(v128.shuffle<i32>(cs, cs, 1, 1, 3, 3), sign);
        v128.store(p, f32x4.add(f32x4.mul(uv, c), f32x4.mul(v128.shuffle<i32>(uv, uv, 1, 0, 3, 2), s)));
      }
    } else {
      for (; i + 4 <= nPairs; i += 4, p += 16, a += 32) {
        const u = v128.load(p), v = v128.load(p + other), a0 = v128.load(a), a1 = v128.load(a, 16);
        const c = v128.shuffle<i32>(a0, a1, 0, 2, 4, 6), s = v128.shuffle<i32>(a0, a1, 1, 3, 5, 7);
        v128.store(p, f32x4.sub(f32x4.mul(u, c), f32x4.mul(v, s)));
        v128.store(p + other, f32x4.add(f32x4.mul(u, s), f32x4.mul(v, c)));
      }
    }
    for (; i < nPairs; ++i, p += step, a += 8) {
      const c = load<f32>(a), s = load<f32>(a, 4), u = load<f32>(p), v = load<f32>(p + other);
      store<f32>(p, u * c - v * s);
      store<f32>(p + other, u * s + v * c);
    }
  }
}
