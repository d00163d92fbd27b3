/**
 * The one interface between the runtime and arithmetic. `wasm_kernels.ts` implements it with AssemblyScript SIMD,
 * `reference_kernels.ts` with scalar loops and float64 sums, over the same memory and the same layouts.
 *
 * Pointers are byte offsets into `memory`, 16-byte aligned; sizes count elements. Output comes first. A method's name is
 * its kernel's in camelCase: `gemvChannelsF32` is `gemv_channels_f32` in `assembly/gemv_float.ts`.
 *
 * Layouts (spec: docs/numerics.md). `pad64(n)` is n rounded up to a multiple of 64:
 *
 *     channels f32    w[c*nOut + o], 4 bytes
 *     channels bf16   2 bytes; each 16 bytes hold outputs o..o+7 as u16 lanes o o+4 o+1 o+5 o+2 o+6 o+3 o+7; nOut padded to 8
 *     channels i8     1 byte; even outputs as w + 128, odd as two's complement; nOut padded to 32; a row and a channel scale
 *     pairs i8        [nOut/16][nIn/2] blocks of 32 bytes: 2 vectors h; u16 unit 2l is channel a, 2l+1 channel b (l 0..3); its
 *                     low byte is output 8h+l as w + 128, its high byte output 8h+4+l; nOut padded to 16, nIn to 32 (8 in
 *                     factors, which prefill unpacks as floats); a row scale
 *     group i4        [nOut/C][nIn/64][C/64] blocks of 64 outputs x 64 channels, groups g and g+1: 64 i16 pairs (d[o,g], d[o,g+1]); the 32
 *                     channels of g; with mins 64 pairs (m'[o,g], m'[o,g+1]); the channels of g+1. A channel is 32 bytes, 16 for each 32
 *                     outputs. Baseline: u16 unit l, bits 4k..4k+3 = output 8k+l. Relaxed: byte j, low nibble = output j + (j < 8 ? 0 : 8),
 *                     high nibble = that + 8. 2304 bytes, 2560 with mins; one row scale for d and m'. nOut and nIn padded to 64
 *     quad i4         [nOut/16][nIn/64] blocks of 16 outputs x 64 channels, groups g and g+1: 16 i16 pairs (d[o,g], d[o,g+1]); with mins
 *                     16 pairs (m'[o,g], m'[o,g+1]); 16 quads p of 2 vectors h. Byte 4l+i of a vector is channel 2p+i of g (i 0, 1) or
 *                     2p+i-2 of g+1 (i 2, 3); low nibble = output 8h+l, high = 8h+4+l. 576 bytes, 640 with mins; one row scale for
 *                     d and m'. nOut padded to 16, nIn to 64. Dense only; relaxed build (and reference)
 *     rows f32, bf16  w[o*nIn + c], plain bf16 order
 *
 * A group is 32 neighbouring channels: `weight = d*(q - 8) + m'`, m' = m + 8d; d[o,g] and m'[o,g] are rowScale[o] * i16.
 */
export interface Kernels {
  /** `baseline`, `relaxed` or `reference`. */
  readonly build: "baseline" | "relaxed" | "reference";
  readonly memory: WebAssembly.Memory;
  /** First byte that is free: static data of the module lies below. */
  heapBase(): number;

  // Vectors

  /** y[i] = 0 for n floats. */
  fillZeroF32(y: number, n: number): void;
  /** y[i] += x[i]. */
  addF32(y: number, x: number, n: number): void;
  /** y[i] += x[i] of i32, modulo 2^32. */
  addI32(y: number, x: number, n: number): void;
  /** y = x / sqrt(mean(x^2) + eps) * weight. */
  rmsNormF32(y: number, x: number, weight: number, n: number, eps: number): void;
  /** y = silu(gate) * up, silu(v) = v / (1 + e^-v). y may be gate. */
  siluMulF32(y: number, gate: number, up: number, n: number): void;
  /** cosSin f32[nPairs, 2] = cos and sin of position * frequency[i], frequency f64[nPairs]. */
  ropeAnglesF64(cosSin: number, frequency: number, nPairs: number, position: number): void;
  /** Base rotary frequencies f64[nPairs]: theta^(-2i / (2*nPairs)). */
  ropeFrequenciesF64(frequency: number, nPairs: number, theta: number): void;
  /** Rotates x f32[nHeads, headDim] in place; pairs (2i, 2i+1) if interleaved, else (i, i + nPairs). */
  ropeF32(
    x: number,
    cosSin: number,
    nHeads: number,
    headDim: number,
    nPairs: number,
    interleaved: number,
  ): void;

  // Attention over a paged cache: see `kvTile` for how a page holds its 64 positions

  /**
   * Writes k and v, f32[nTokens, stride] each from the first key head, to positions position …: `pages` u32[] are the pages' byte offsets, a layer's
   * tiles, one for each key head, are at + offset.
   */
  storeKvF32(
    pages: number,
    offset: number,
    k: number,
    v: number,
    nTokens: number,
    stride: number,
    position: number,
    nKvHeads: number,
    headDim: number,
  ): void;
  /** The same, rounded to bf16. */
  storeKvBf16(
    pages: number,
    offset: number,
    k: number,
    v: number,
    nTokens: number,
    stride: number,
    position: number,
    nKvHeads: number,
    headDim: number,
  ): void;
  /**
   * out f32[nTokens, outStride] = softmax(q k^T / sqrt(headDim)) v of the `group` query heads that share one key head, whose tile is at
   * + offset: queries q f32[nTokens, qStride] at positions position …, each over all positions up to its own. headDim a multiple of 4; `scratch`
   * attentionScratchBytes.
   */
  attentionF32(
    out: number,
    q: number,
    pages: number,
    offset: number,
    scratch: number,
    position: number,
    nTokens: number,
    outStride: number,
    qStride: number,
    group: number,
    headDim: number,
  ): void;
  /** The same over pages of bf16. */
  attentionBf16(
    out: number,
    q: number,
    pages: number,
    offset: number,
    scratch: number,
    position: number,
    nTokens: number,
    outStride: number,
    qStride: number,
    group: number,
    headDim: number,
  ): void;

  // Selection

  /**
   * Channels with `scale[c] * |x[c]| > threshold`, ascending: index u32[n + 8], value f32[n + 8] (x itself). Returns how many; eight more
   * entries name the last of them (0 if there is none) with value 0. scale f32[n].
   */
  selectChannelsF32(
    index: number,
    value: number,
    x: number,
    scale: number,
    threshold: number,
    n: number,
  ): number;
  /** out[i] = x[index[i]] for n entries; `out` and `index` have room for n rounded up to 4. */
  gatherF32(out: number, x: number, index: number, n: number): void;
  /** active[c] = x[c] where selected else 0; rest[c] = x[c] - active[c]. Returns how many were selected. */
  maskChannelsF32(
    active: number,
    rest: number,
    x: number,
    scale: number,
    threshold: number,
    n: number,
  ): number;
  /** The same with the mask given: bit c%8 of byte mask + (c>>3). Returns how many were set among n. */
  forceChannelsF32(active: number, rest: number, x: number, mask: number, n: number): number;

  // Float projections

  /**
   * y f32[nOut] += sum over a of value[a] * w[index[a], :]. Layout channels f32; w is output o0 of channel 0, and `stride` counts outputs from
   * one channel to the next, so that threads can share the outputs.
   */
  gemvChannelsF32(
    y: number,
    w: number,
    index: number,
    value: number,
    nActive: number,
    nOut: number,
    stride: number,
  ): void;
  /** The same, channels bf16; o0 a multiple of 8, y has room for nOut padded to 8, stride is padded to 8. */
  gemvChannelsBf16(
    y: number,
    w: number,
    index: number,
    value: number,
    nActive: number,
    nOut: number,
    stride: number,
  ): void;
  /** y f32[nOut] += w x over all channels. Layout channels f32. */
  gemvAllChannelsF32(y: number, w: number, x: number, nIn: number, nOut: number): void;
  /** The same, channels bf16; y has room for nOut padded to 8. */
  gemvAllChannelsBf16(y: number, w: number, x: number, nIn: number, nOut: number): void;
  /** y[o] = w[o, :] . x. Layout rows f32. */
  gemvRowsF32(y: number, w: number, x: number, nIn: number, nOut: number): void;
  /** y[o] = w[o, :] . x. Layout rows bf16, widened exactly; `scratch` f32[nIn]. */
  gemvRowsBf16(y: number, w: number, x: number, nIn: number, nOut: number, scratch: number): void;

  // int8 projections

  /**
   * 12-bit activations, one scale: xq i16[nPadded] = round(x * factor / s), zeros above n. |xq| <= limit, which is 2047 up to 8,259 channels,
   * floor(16909320 / n) above, so that sums fit i32.
   * factor f32[n] is the channel scale of the weights. Returns s; 0 if all x are 0.
   */
  quantizeI16(xq: number, x: number, factor: number, n: number, nPadded: number): number;
  /**
   * acc i32[nOut], in the kernel's own order, += selected columns: index u32[nActive], xq i16[nActive] already gathered, both
   * padded to a multiple of 8 with xq = 0 and any valid index. Layout channels i8, nOut a multiple of 32; w and stride as in
   * `gemvChannelsF32`, o0 a multiple of 32.
   */
  gemvChannelsI8(
    acc: number,
    w: number,
    index: number,
    xq: number,
    nActive: number,
    nOut: number,
    stride: number,
  ): void;
  /** y[o] = s * rowScale[o] * sum, from acc and sumX = sum of all xq that went into it; undoes acc's order. */
  finishChannelsI8(y: number, acc: number, rowScale: number, s: number, sumX: number, nOut: number): void;
  /** Sum of i16[n], n a multiple of 8. */
  sumI16(x: number, n: number): number;
  /** y[o] = s * rowScale[o] * (w[o, :] . xq). Layout pairs i8; nIn a multiple of 8, nOut of 16. */
  gemvPairsI8(
    y: number,
    w: number,
    xq: number,
    rowScale: number,
    s: number,
    sumX: number,
    nIn: number,
    nOut: number,
  ): void;

  // int4 projections: lists and tables are the kernels' own; table 32 bytes a group, list 2 * LIST_SPAN bytes

  /**
   * Selects (as selectChannelsF32; threshold -1 takes every channel), quantises and compacts x f32[nIn], nIn a multiple of 64, for
   * `gemvGroupI4` and `gemvGroupI4List`. Returns how many were selected.
   */
  selectGroupI4(
    table: number,
    list: number,
    x: number,
    scale: number,
    threshold: number,
    nIn: number,
  ): number;
  /**
   * y f32[64 * nBlocks] += sum of ((q - 8) * d + m') / rowScale * x over a list made with threshold -1: neighbouring blocks of one chunk, y and w at
   * the first, w in the chunk's first pair of groups. pairBytes = groupBlockBytes(withMins) * C / 64 is from one pair to the next. `scratch` 256 bytes.
   */
  gemvGroupI4(
    y: number,
    w: number,
    table: number,
    nIn: number,
    nBlocks: number,
    pairBytes: number,
    withMins: number,
    scratch: number,
  ): void;
  /** The same for any list, reading only its channels' arithmetic and touching memory ahead (stream). */
  gemvGroupI4List(
    y: number,
    w: number,
    table: number,
    nIn: number,
    nBlocks: number,
    pairBytes: number,
    withMins: number,
    scratch: number,
  ): void;
  /** y[o] = rowScale[o] * y[o]. */
  scaleRowsF32(y: number, rowScale: number, nOut: number): void;

  // int4 on quads of channels, dense: methods of the relaxed build and the reference only

  /**
   * xq: a record of 80 bytes for each 64 channels of x f32[nIn], groups g and g+1: i8[16, 4] in the order of the quads, scale = max / 127 per
   * group; i16[2] start values, -8 times the groups' sums; i16[2] those sums times shares / 2^15, rounded; f32 the larger scale; i16[2] shares: a
   * group's scale over the larger one, times 32767. nIn a multiple of 64.
   */
  quantizeQuadI4(xq: number, x: number, nIn: number): void;
  /** y f32[nOut] = W x, overwritten, row scales and mins included. Layout quad i4: w, rowScale and y from any 16 outputs on. */
  gemvQuadI4(
    y: number,
    w: number,
    rowScale: number,
    xq: number,
    nIn: number,
    nOut: number,
    withMins: number,
  ): void;

  // Prefill: y f32[nTokens, yStride] += x w. Weights are unpacked, 64 outputs (or fewer) at a time, into panels of 8 outputs

  /** a f32[ceil(nTokens/4), nIn, 4] from x f32[nTokens, xStride]; missing tokens are 0. */
  packTokensF32(a: number, x: number, nTokens: number, xStride: number, nIn: number): void;
  /** panel f32[nIn, 8]: outputs o..o+7 of each layout; outputs at or past nOut are 0. */
  unpackChannelsF32(panel: number, w: number, o: number, nIn: number, nOut: number): void;
  unpackChannelsBf16(panel: number, w: number, o: number, nIn: number, nOut: number): void;
  unpackRowsF32(panel: number, w: number, o: number, nIn: number, nOut: number): void;
  unpackRowsBf16(panel: number, w: number, o: number, nIn: number, nOut: number): void;
  /** The same of pairs i8, o a multiple of 8: weights times their rowScale and channelScale f32[nIn]; nInPadded is the layout's. The panel has room for nIn rounded up to 2. */
  unpackPairsF32(
    panel: number,
    w: number,
    rowScale: number,
    channelScale: number,
    o: number,
    nIn: number,
    nInPadded: number,
  ): void;
  /** y[t, 0..7] += a panel, y at the panel's first output, for all tokens (y has room for nTokens rounded up to 4). */
  gemmF32(y: number, a: number, panel: number, nTokens: number, yStride: number, nIn: number): void;

  /**
   * a i16[ceil(nTokens/4), nIn/2, 4, 2]; per token and group of 32 channels a scale and the sum of the quantised x in x's units:
   * scale, sum f32[ceil(nTokens/4), nIn/32, 4]. |a| <= 32767. nIn a multiple of 32. factor f32[nIn] multiplies x first.
   */
  packTokensI16(
    a: number,
    scale: number,
    sum: number,
    x: number,
    factor: number,
    nTokens: number,
    xStride: number,
    nIn: number,
  ): void;
  /**
   * panels i8[nPanels, nIn/2, 8, 2], d and m f32[nPanels, nIn/32, 8]: 64 outputs (8 panels) from output o, a multiple of 64. Baseline build and
   * reference only, as the order of nibbles is theirs.
   */
  unpackGroupI4(
    panels: number,
    d: number,
    m: number,
    w: number,
    rowScale: number,
    withMins: number,
    o: number,
    nIn: number,
    chunk: number,
  ): void;
  /** 32 outputs (4 panels) from output o, a multiple of 32; d is the row scale, m is 0. nOut is the padded one. */
  unpackChannelsI8(
    panels: number,
    d: number,
    m: number,
    w: number,
    rowScale: number,
    o: number,
    nIn: number,
    nOut: number,
  ): void;
  /** 16 outputs (2 panels) from output o, a multiple of 16. */
  unpackPairsI8(
    panels: number,
    d: number,
    m: number,
    w: number,
    rowScale: number,
    o: number,
    nIn: number,
  ): void;
  /** y[t, 0..7] += sum over g of scale[t,g] * d[g,o] * (a panel) + sum[t,g] * m[g,o]. y has room for nTokens rounded up to 4. */
  gemmI16(
    y: number,
    a: number,
    scale: number,
    sum: number,
    panel: number,
    d: number,
    m: number,
    nTokens: number,
    yStride: number,
    nIn: number,
  ): void;

  // Prefill on bytes: int4 in the relaxed build (and the reference)

  /**
   * a: for each four tokens and 64 channels of x f32[nTokens, xStride] a record of 320 bytes: i8[16 quads, 4 tokens, 4]; then what ends a record of
   * quantizeQuadI4, for four tokens each: i16[4, 2] start values, i16[4, 2] sums, f32[4] scales, i16[4, 2] shares. Missing tokens are 0. nIn a multiple
   * of 64.
   */
  packTokensQuadI4(a: number, x: number, nTokens: number, xStride: number, nIn: number): void;
  /** y f32[nIn] = x minus what packTokensQuadI4 keeps of one token. */
  restQuadI4(y: number, x: number, nIn: number): void;
  /**
   * 2 panels, 16 outputs, from output o, a multiple of 16. A panel is `quadPanelBytes(nIn)`: f32[8] row scales; for each 64 channels 8 i16 pairs
   * (d[o,g], d[o,g+1]), 8 pairs of m' (0 without mins), u8[16 quads, 8 outputs, 4].
   */
  unpackQuadI4(panels: number, w: number, rowScale: number, withMins: number, o: number, nIn: number): void;
  /** 8 such panels, 64 outputs, from output o, a multiple of 64, of group i4 in the relaxed order (the reference: its own). */
  unpackGroupQuadI4(
    panels: number,
    w: number,
    rowScale: number,
    withMins: number,
    o: number,
    nIn: number,
    chunk: number,
  ): void;
  /** y[t, 0..nOut-1] = a panels, or with `add` 1 += that; nOut a multiple of 8. y has room for nTokens rounded up to 4. */
  gemmQuadI4(
    y: number,
    a: number,
    panels: number,
    nTokens: number,
    yStride: number,
    nIn: number,
    nOut: number,
    add: number,
  ): void;

  // Loading

  /** f32 from `n` blocks (values, for f16 and bf16); the index of the first block with a non-finite value, or -1. */
  dequantize(
    type: "F16" | "BF16" | "Q8_0" | "Q4_0" | "Q4_1" | "Q5_0" | "Q5_1" | "Q4_K" | "Q5_K" | "Q6_K",
    y: number,
    blocks: number,
    n: number,
  ): number;
  /** Index of the first x that is NaN or infinite, or -1. */
  findNonFiniteF32(x: number, n: number): number;
  /** Rows o0..o0+nRows-1 of channels f32 from src f32[nRows, nIn]. */
  packChannelsF32(w: number, src: number, o0: number, nRows: number, nIn: number, nOut: number): void;
  /** The same, rounded to nearest even; o0 a multiple of 8, nOut padded to 8. */
  packChannelsBf16(w: number, src: number, o0: number, nRows: number, nIn: number, nOut: number): void;
  /** Plain bf16 from f32, rounded to nearest even. */
  packBf16(w: number, src: number, n: number): void;
  /** rowScale f32[nRows] and channelScale f32[nIn] such that |src| <= 127 * rowScale * channelScale: 4 alternating passes of maxima. */
  balanceScalesI8(rowScale: number, channelScale: number, src: number, nRows: number, nIn: number): void;
  /** Channels i8: round(src / (rowScale[row] * channelScale[c])); rows past nRows up to nOut (padded to 32) are 0. All rows at once. */
  packChannelsI8(
    w: number,
    src: number,
    rowScale: number,
    channelScale: number,
    nRows: number,
    nIn: number,
    nOut: number,
  ): void;
  /** Rows o0.. of pairs i8 (o0 and, but for the last call, nRows multiples of 16); writes their rowScale, channel scale is 1. nInPadded a multiple of 8. */
  packPairsI8(
    w: number,
    rowScale: number,
    src: number,
    o0: number,
    nRows: number,
    nIn: number,
    nInPadded: number,
  ): void;
  /** Pairs i8 of channels i8 that lie `stride` bytes apart: the same weights. nIn even, nOut a multiple of 16. */
  pairsOfChannelsI8(w: number, channels: number, nIn: number, nOut: number, stride: number): void;
  /** y f32[nIn] = row o of pairs i8. */
  readRowPairsI8(y: number, w: number, rowScale: number, o: number, nIn: number, nInPadded: number): void;
  /** y f32[n] from plain bf16. */
  readRowBf16(y: number, w: number, n: number): void;
  /**
   * Rows o0..o0+63 of group i4 from raw Q4_0 (withMins 0) or Q4_1 (1) blocks, row-major, rowBlocks blocks a row. Rows at or past
   * nRows (of this call, up to 64) are zero. Writes rowScale. nIn is the padded one.
   * Returns the number (row * rowBlocks + block) of the first block with a non-finite scale or min, or -1.
   */
  packGroupI4(
    w: number,
    rowScale: number,
    blocks: number,
    withMins: number,
    o0: number,
    nRows: number,
    rowBlocks: number,
    nIn: number,
    chunk: number,
  ): number;
  /**
   * Rows o0.. (a multiple of 16) of quad i4 from the same blocks; rows past nRows up to a multiple of 16 become zero. Relaxed build and
   * reference only. Returns what packGroupI4 does.
   */
  packQuadI4(
    w: number,
    rowScale: number,
    blocks: number,
    withMins: number,
    o0: number,
    nRows: number,
    rowBlocks: number,
    nIn: number,
  ): number;
}

/** Bytes between a list's offsets and its values; four bytes a channel, so lists hold 32,768 channels. */
export const LIST_SPAN = 131072;
/** Most channels that a list takes: the last stores of an array reach a little past its end. */
export const MAX_LIST_CHANNELS = 32000;
/** Channels a group of the int4 layout. */
export const GROUP = 32;
/** Bytes of one block of group i4, 64 outputs x 64 channels. */
export function groupBlockBytes(withMins: boolean): number {
  return withMins ? 2560 : 2304;
}
/** Bytes of one block of quad i4, 16 outputs x 64 channels. */
export function quadBlockBytes(withMins: boolean): number {
  return withMins ? 640 : 576;
}
/** Bytes of 64 activations as quantizeQuadI4 writes them. */
export const QUAD_RECORD = 80;
/** Bytes of four tokens' 64 activations as packTokensQuadI4 writes them. */
export const QUAD_TOKENS_RECORD = 320;
/** Bytes of a panel of 8 outputs as unpackQuadI4 writes it. */
export function quadPanelBytes(nIn: number): number {
  return 32 + 9 * nIn;
}
/** Positions a page of the key-value cache. */
export const PAGE_POSITIONS = 64;

/**
 * How many numbers a page holds for one key head, and where v begins among them. With width = headDim rounded up to 8:
 *
 *     k [8 panels][headDim][8 positions] in 64 * width numbers, v [width / 8 panels][64 positions][8 numbers]
 *
 * In bf16 each 8 are u16 lanes 0 4 1 5 2 6 3 7, so that a shift gives the first four and a mask the others.
 */
export function kvTile(headDim: number): { readonly length: number; readonly v: number } {
  const part = PAGE_POSITIONS * padTo(headDim, 8);
  return { length: 2 * part, v: part };
}

/** Bytes of attention's scratch: the scores of a page, and four rows a tile of queries, results and state. */
export function attentionScratchBytes(nTokens: number, group: number, headDim: number): number {
  return 16 * PAGE_POSITIONS + Math.ceil(nTokens * group / 4) * (16 * (headDim + padTo(headDim, 8)) + 48);
}

/** n rounded up to a multiple of m. */
export function padTo(n: number, m: number): number {
  return Math.ceil(n / m) * m;
}
