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
  for (let h: u32 = 0; h < nHeads; ++h, x += <usize>headDim << 2) {
    let p = x, a = cosSin;
    for (let i: u32 = 0; i < nPairs; ++i, p += step, a += 8) {
      const c = load<f32>(a), s = load<f32>(a, 4), u = load<f32>(p), v = load<f32>(p + other);
      store<f32>(p, u * c - v * s);
      store<f32>(p + other, u * s + v * c);
    }
  }
}
