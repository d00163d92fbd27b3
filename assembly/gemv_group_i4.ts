// int4 matrix-vector products on the file's own groups of 32 channels, dense and over lists, from one layout (group i4).
//
// A block is 64 outputs x 64 channels, groups g and g+1: 256 bytes of i16 pairs (d[o,g], d[o,g+1]), 32 bytes for each channel of g; with mins 256
// bytes of pairs (m'[o,g], m'[o,g+1]); 32 bytes for each channel of g+1. Baseline: a u16 unit holds four nibbles of one channel, A_k =
// sum (v >> 4k) * x, nibble k's sum = A_k - 16 * A_(k+1): exact modulo 2^16, one shift a nibble and no mask. The offset -8 * sum x is in the
// start values. Relaxed: bytes of two channels interleaved, relaxed_dot of pairs.
//
// Mins lie where they do because memory must stream: both of a block's headers in front of its channels left the dense kernel 7 of 23 GB/s, both
// behind 10, one in front of each group 23 (Zen 5, which prefetches past a hole of four lines). A pass of their own took 8 to 10 %.
//
// Order: pair of groups, block, group, channel; a call takes neighbouring blocks of one chunk, so that threads can share a chunk. A group's list
// is the same for all blocks, so its loop exit is predicted; with blocks outside and groups inside every exit is a misprediction (62 against 45 Gweights/s hot at 70 %). The sums of both
// groups wait in `scratch` (L1), so that one i16 dot with the scale pairs serves both: 27 operations for 64 weights.
import { K_LOW4, madd } from "./lanes";

const SPAN: usize = 131072;
/** Bytes of the scales, of the mins. */
const HEADER: usize = 256;
/** Bytes of a group's channels. */
const CHANNELS: usize = 1024;

/**
 * Bytes ahead of the block that the stream touches (512 to 1536 measured alike; 256 too near, 4096 a tenth slower).
 *
 * Touches are what keeps memory streaming while arithmetic jumps over channels: they must reach every line, in order, at an even rate.
 * Llama-2-7B's shapes at 50 %, Zen 5, Deno: 2,304 bytes spread evenly over the block's channels 28 GB/s; one line a channel and the rest of
 * the block's lines in a burst after it 17 to 21; none 20 (70 %: 10); lines left out (a stride above 64) 11.
 */
const AHEAD: usize = 512;

// @ts-ignore: decorator
@inline
function step(sum: v128, v: v128, x: v128): v128 { return i16x8.add(sum, i16x8.mul(v, x)); }
// @ts-ignore: decorator
@inline
function step8(sum: v128, v: v128, x: v128): v128 { return i16x8.add(sum, i16x8.relaxed_dot_i8x16_i7x16_s(x, v)); }
// @ts-ignore: decorator
@inline
function low8(a: v128, b: v128): v128 { return v128.shuffle<i8>(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23); }
// @ts-ignore: decorator
@inline
function high8(a: v128, b: v128): v128 { return v128.shuffle<i8>(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31); }

/** Sums of g and of g+1; in the relaxed build brought to one scale (quads.ts). */
// @ts-ignore: decorator
@inline
function pairs_of(sums: v128, shares: v128): v128 { return ASC_FEATURE_RELAXED_SIMD ? i16x8.relaxed_q15mulr_s(sums, shares) : sums; }

/** y[0..63] += unit * ((sums of g, sums of g+1) . (d pairs) + (sums of x) . (m' pairs)), from the 256 bytes of scratch. */
// @ts-ignore: decorator
@inline
function apply_scales(y: usize, block: usize, scratch: usize, unit: v128, xSums: v128, shares: v128, withMins: u32): void {
  for (let k: usize = 0; k < 128; k += 16) {
    const a = v128.load(scratch + k), b = v128.load(scratch + k, 128), q = y + (k << 1), d = block + (k << 1);
    let u = i32x4.dot_i16x8_s(pairs_of(v128.shuffle<i16>(a, b, 0, 8, 1, 9, 2, 10, 3, 11), shares), v128.load(d));
    let v = i32x4.dot_i16x8_s(pairs_of(v128.shuffle<i16>(a, b, 4, 12, 5, 13, 6, 14, 7, 15), shares), v128.load(d, 16));
    if (withMins) {
      u = i32x4.add(u, i32x4.dot_i16x8_s(xSums, v128.load(d, HEADER + CHANNELS)));
      v = i32x4.add(v, i32x4.dot_i16x8_s(xSums, v128.load(d, HEADER + CHANNELS + 16)));
    }
    v128.store(q, madd(f32x4.convert_i32x4_s(u), unit, v128.load(q)));
    v128.store(q, madd(f32x4.convert_i32x4_s(v), unit, v128.load(q, 16)), 16);
  }
}

// @ts-ignore: decorator
@inline
function touch(p: usize, kind: i32): void { if (kind == 1) atomic.load<u8>(p); else load<u8>(p); }
/** `touches` (2, 4 or 8) touches, written out: the compiler unrolls nothing, and a loop here cost 12 %. Returns where the next one goes. */
// @ts-ignore: decorator
@inline
function touch_ahead(p: usize, stride: usize, kind: i32, touches: i32): usize {
  if (touches >= 2) { touch(p, kind); p += stride; touch(p, kind); p += stride; }
  if (touches >= 4) { touch(p, kind); p += stride; touch(p, kind); p += stride; }
  if (touches >= 8) { touch(p, kind); p += stride; touch(p, kind); p += stride; touch(p, kind); p += stride; touch(p, kind); p += stride; }
  return p;
}

/**
 * The blocks of one pair of groups.
 *
 * @param kind    0: every channel in order; 1: a list, touching ahead with atomic loads; 2: a list, touching with plain loads
 * @param touches touches a step, `stride` bytes apart
 */
// @ts-ignore: decorator
@inline
function run_pair(y: usize, yEnd: usize, block: usize, pair: usize, scratch: usize, withMins: u32, kind: i32, touches: i32, stride: usize): void {
  const low4 = i8x16.splat(<i8>K_LOW4), unit = v128.load32_splat(pair, 8), xSums = v128.load32_splat(pair, 12), shares = v128.load32_splat(pair, 20);
  const groupBytes: usize = withMins ? CHANNELS + HEADER : CHANNELS, blockBytes = HEADER + CHANNELS + groupBytes;
  for (; y < yEnd; y += 256, block += blockBytes) {
    let column = block + HEADER, ahead = block + AHEAD;
    const aheadEnd = ahead + blockBytes;
    for (let half: usize = 0; half < 2; ++half, column += groupBytes) {
      const t = pair + (half << 5), out = scratch + (half << 7);
      let p: usize = load<u32>(t), end: usize = load<u32>(t, 4);
      if (ASC_FEATURE_RELAXED_SIMD) {
        let a0 = v128.load32_splat(t, 16), a1 = a0, a2 = a0, a3 = a0, a4 = a0, a5 = a0, a6 = a0, a7 = a0, c = column;
        for (; p < end; p += 8) {
          ahead = touch_ahead(ahead, stride, kind, touches);
          const x = v128.load32_splat(p, SPAN);
          let d: usize;
          if (kind == 0) { d = c + 32; } else { c = column + load<u32>(p); d = column + load<u32>(p, 4); }
          const c0 = v128.load(c), d0 = v128.load(d);
          let e = low8(c0, d0); a0 = step8(a0, v128.and(e, low4), x); a1 = step8(a1, v128.and(i16x8.shr_u(e, 4), low4), x);
          e = high8(c0, d0); a2 = step8(a2, v128.and(e, low4), x); a3 = step8(a3, v128.and(i16x8.shr_u(e, 4), low4), x);
          const c1 = v128.load(c, 16), d1 = v128.load(d, 16);
          e = low8(c1, d1); a4 = step8(a4, v128.and(e, low4), x); a5 = step8(a5, v128.and(i16x8.shr_u(e, 4), low4), x);
          e = high8(c1, d1); a6 = step8(a6, v128.and(e, low4), x); a7 = step8(a7, v128.and(i16x8.shr_u(e, 4), low4), x);
          if (kind == 0) c += 64;
        }
        v128.store(out, a0); v128.store(out, a1, 16); v128.store(out, a2, 32); v128.store(out, a3, 48);
        v128.store(out, a4, 64); v128.store(out, a5, 80); v128.store(out, a6, 96); v128.store(out, a7, 112);
      } else {
        let a0 = v128.load32_splat(t, 16), a1 = v128.load32_splat(t, 20), a2 = v128.load32_splat(t, 24), a3 = v128.load32_splat(t, 28);
        let a4 = a0, a5 = a1, a6 = a2, a7 = a3, c = column;
        for (; p < end; p += 4) {
          ahead = touch_ahead(ahead, stride, kind, touches);
          if (kind != 0) c = column + load<u32>(p);
          const x = v128.load32_splat(p, SPAN), u = v128.load(c), v = v128.load(c, 16);
          a0 = step(a0, u, x); a1 = step(a1, i16x8.shr_u(u, 4), x); a2 = step(a2, i16x8.shr_u(u, 8), x); a3 = step(a3, i16x8.shr_u(u, 12), x);
          a4 = step(a4, v, x); a5 = step(a5, i16x8.shr_u(v, 4), x); a6 = step(a6, i16x8.shr_u(v, 8), x); a7 = step(a7, i16x8.shr_u(v, 12), x);
          if (kind == 0) c += 32;
        }
        a0 = i16x8.sub(a0, i16x8.shl(a1, 4)); a1 = i16x8.sub(a1, i16x8.shl(a2, 4)); a2 = i16x8.sub(a2, i16x8.shl(a3, 4));
        a4 = i16x8.sub(a4, i16x8.shl(a5, 4)); a5 = i16x8.sub(a5, i16x8.shl(a6, 4)); a6 = i16x8.sub(a6, i16x8.shl(a7, 4));
        v128.store(out, a0); v128.store(out, a1, 16); v128.store(out, a2, 32); v128.store(out, a3, 48);
        v128.store(out, a4, 64); v128.store(out, a5, 80); v128.store(out, a6, 96); v128.store(out, a7, 112);
      }
    }
    // lines that too few steps left
    if (kind != 0) for (; ahead < aheadEnd; ahead += 64) touch(ahead, kind);
    apply_scales(y, block, scratch, unit, xSums, shares, withMins);
  }
}

// Functions of their own, not inlined: as arms of one `if` the optimiser folds them into one body that asks at each step.
function atomic_2(y: usize, yEnd: usize, w: usize, pair: usize, scratch: usize, withMins: u32, stride: usize): void { run_pair(y, yEnd, w, pair, scratch, withMins, 1, 2, stride); }
function atomic_4(y: usize, yEnd: usize, w: usize, pair: usize, scratch: usize, withMins: u32, stride: usize): void { run_pair(y, yEnd, w, pair, scratch, withMins, 1, 4, stride); }
function atomic_8(y: usize, yEnd: usize, w: usize, pair: usize, scratch: usize, withMins: u32, stride: usize): void { run_pair(y, yEnd, w, pair, scratch, withMins, 1, 8, stride); }
function plain_2(y: usize, yEnd: usize, w: usize, pair: usize, scratch: usize, withMins: u32, stride: usize): void { run_pair(y, yEnd, w, pair, scratch, withMins, 2, 2, stride); }
function plain_4(y: usize, yEnd: usize, w: usize, pair: usize, scratch: usize, withMins: u32, stride: usize): void { run_pair(y, yEnd, w, pair, scratch, withMins, 2, 4, stride); }
function plain_8(y: usize, yEnd: usize, w: usize, pair: usize, scratch: usize, withMins: u32, stride: usize): void { run_pair(y, yEnd, w, pair, scratch, withMins, 2, 8, stride); }

/** Steps of a block: channels; pairs of channels in the relaxed build. Both groups' lists are one. */
// @ts-ignore: decorator
@inline
function steps_of(pair: usize): i32 { return <i32>(load<u32>(pair, 36) - load<u32>(pair)) >> (ASC_FEATURE_RELAXED_SIMD ? 3 : 2); }
/** Touches a step with which a stride of at most 64 bytes reaches all 36 or 40 lines of a block. */
// @ts-ignore: decorator
@inline
function touches_for(steps: i32): i32 { return steps >= 20 ? 2 : steps >= 10 ? 4 : 8; }
/** @param touches those of a block */
// @ts-ignore: decorator
@inline
function stride_for(touches: i32, withMins: u32): usize { return <usize>min<i32>(64, ((withMins ? 2560 : 2304) + touches - 1) / touches); }

/**
 * y f32[64 * nBlocks] += w x / rowScale, dense: x as select_group_i4 made it with threshold -1 (a full list). Exact in integers for each 64 channels:
 * |sum of (q - 8) x| is at most 32,760 and |sum of x| 4,095 a group, so two groups of scales and mins within 29,134 stay below 2^31.
 *
 * @param y         the first block's outputs
 * @param w         the first block, of the chunk's first pair of groups
 * @param nIn       a multiple of 64
 * @param nBlocks   neighbouring blocks, all of one chunk
 * @param pairBytes from a pair of groups to the next: the bytes of a block times C / 64 of the layout
 * @param scratch   256 bytes
 */
export function gemv_group_i4(y: usize, w: usize, table: usize, nIn: u32, nBlocks: u32, pairBytes: u32, withMins: u32, scratch: usize): void {
  const tableEnd = table + <usize>nIn, yEnd = y + (<usize>nBlocks << 8);
  for (let pair = table; pair < tableEnd; pair += 64, w += <usize>pairBytes) run_pair(y, yEnd, w, pair, scratch, withMins, 0, 0, 0);
}

/** The same for any list: memory is read in order, arithmetic is done for the list's channels only. Touches by atomic loads: V8 15 drops plain ones. */
export function gemv_group_i4_list(y: usize, w: usize, table: usize, nIn: u32, nBlocks: u32, pairBytes: u32, withMins: u32, scratch: usize): void {
  const tableEnd = table + <usize>nIn, yEnd = y + (<usize>nBlocks << 8);
  for (let pair = table; pair < tableEnd; pair += 64, w += <usize>pairBytes) {
    const steps = steps_of(pair), touches = touches_for(steps);
    if (steps == 0) continue;
    const stride = stride_for(touches * steps, withMins);
    if (touches == 2) atomic_2(y, yEnd, w, pair, scratch, withMins, stride);
    else if (touches == 4) atomic_4(y, yEnd, w, pair, scratch, withMins, stride);
    else atomic_8(y, yEnd, w, pair, scratch, withMins, stride);
  }
}

/** The same with plain touches: JavaScriptCore's atomic loads are slow (6.5 to 9 against 12 to 18 Gweights/s). */
export function gemv_group_i4_list_plain(y: usize, w: usize, table: usize, nIn: u32, nBlocks: u32, pairBytes: u32, withMins: u32, scratch: usize): void {
  const tableEnd = table + <usize>nIn, yEnd = y + (<usize>nBlocks << 8);
  for (let pair = table; pair < tableEnd; pair += 64, w += <usize>pairBytes) {
    const steps = steps_of(pair), touches = touches_for(steps);
    if (steps == 0) continue;
    const stride = stride_for(touches * steps, withMins);
    if (touches == 2) plain_2(y, yEnd, w, pair, scratch, withMins, stride);
    else if (touches == 4) plain_4(y, yEnd, w, pair, scratch, withMins, stride);
    else plain_8(y, yEnd, w, pair, scratch, withMins, stride);
  }
}

/** y[o] = rowScale[o] * y[o], f32[nOut], nOut a multiple of 4. */
export function scale_rows_f32(y: usize, rowScale: usize, nOut: u32): void {
  for (const end = y + (<usize>nOut << 2); y < end; y += 16, rowScale += 16) v128.store(y, f32x4.mul(v128.load(y), v128.load(rowScale)));
}
