// Steps that several threads compute together. A step is a row of parts, each thread has a range of them and goes through it in order: memory
// that is jumped about in comes at a third of the speed (Zen 5: 12 of 37 GB/s until about 100 KB in a row were read), so that parts taken in
// turns by two threads were slower than one thread. Who has done its own takes the last ones of others: a thread that lost its core costs one
// part and not half a step. Everything between two sleeps is here: a step costs the caller 0.3 to 1.5 µs beyond its parts where others spin.
//
//   control  words on cache lines of their own:
//     + 0    ticket: number of the step
//     + 64   parts that are done
//     + 128  threads that sleep on the ticket
//     + 192  1 while the caller sleeps on `done`
//     + 1024 + 64 * t  range of thread t: step << 16 | next part << 8 | end; one word, so that owner and thief cannot take the same part
//   job      u32[parts]: byte offset of each part's calls in the job; a call is its kernel's number below and its arguments; 0 ends a part
import { attention_bf16, attention_f32 } from "./attention";
import { gemm_f32, pack_tokens_f32, unpack_channels_bf16, unpack_channels_f32, unpack_pairs_f32, unpack_rows_bf16, unpack_rows_f32 } from "./gemm_f32";
import { gemm_i16, pack_tokens_i16, unpack_channels_i8, unpack_pairs_i8 } from "./gemm_i16";
import { gemm_quad_i4, pack_tokens_quad_i4, unpack_group_quad_i4, unpack_quad_i4 } from "./gemm_quad_i4";
import { gemv_all_channels_bf16, gemv_all_channels_f32, gemv_channels_bf16, gemv_channels_f32, gemv_rows_bf16, gemv_rows_f32 } from "./gemv_float";
import { gemv_group_i4, gemv_group_i4_list, gemv_group_i4_list_plain, scale_rows_f32 } from "./gemv_group_i4";
import { finish_channels_i8, gemv_channels_i8, gemv_channels_i8_six, gemv_pairs_i8 } from "./gemv_i8";
import { gemv_quad_i4 } from "./gemv_quad_i4";
import { rope_f32 } from "./rope";
import { unpack_group_i4 } from "./unpack_group_i4";
import { add_f32, fill_zero_f32, rms_norm_f32, silu_mul_f32 } from "./vectors";

const DONE: usize = 64;
const SLEEPERS: usize = 128;
const CALLER_SLEEPS: usize = 192;
const RANGES: usize = 1024;

// @ts-ignore: decorator
@inline
function u(call: usize, argument: usize): u32 { return load<u32>(call + (argument << 2)); }
// @ts-ignore: decorator
@inline
function f(call: usize, argument: usize): f32 { return load<f32>(call + (argument << 2)); }

/**
 * Runs the calls of one part. Kernels have the numbers of PART_KERNELS in src/kernels/recorder.ts; `s` is what a call's own offsets into
 * private scratch count from.
 */
function run_part(p: usize, s: usize): void {
  while (true) {
    switch (load<u32>(p)) {
      case 1: fill_zero_f32(u(p, 1), u(p, 2)); p += 12; break;
      case 2: add_f32(u(p, 1), u(p, 2), u(p, 3)); p += 16; break;
      case 3: rms_norm_f32(u(p, 1), u(p, 2), u(p, 3), u(p, 4), f(p, 5)); p += 24; break;
      case 4: silu_mul_f32(u(p, 1), u(p, 2), u(p, 3), u(p, 4)); p += 20; break;
      case 5: rope_f32(u(p, 1), u(p, 2), u(p, 3), u(p, 4), u(p, 5), u(p, 6)); p += 28; break;
      case 6: attention_f32(u(p, 1), u(p, 2), u(p, 3), u(p, 4), s + u(p, 5), u(p, 6), u(p, 7), u(p, 8), u(p, 9), u(p, 10), u(p, 11)); p += 48; break;
      case 7: attention_bf16(u(p, 1), u(p, 2), u(p, 3), u(p, 4), s + u(p, 5), u(p, 6), u(p, 7), u(p, 8), u(p, 9), u(p, 10), u(p, 11)); p += 48; break;
      case 8: gemv_channels_f32(u(p, 1), u(p, 2), u(p, 3), u(p, 4), u(p, 5), u(p, 6), u(p, 7)); p += 32; break;
      case 9: gemv_channels_bf16(u(p, 1), u(p, 2), u(p, 3), u(p, 4), u(p, 5), u(p, 6), u(p, 7)); p += 32; break;
      case 10: gemv_rows_f32(u(p, 1), u(p, 2), u(p, 3), u(p, 4), u(p, 5)); p += 24; break;
      case 11: gemv_rows_bf16(u(p, 1), u(p, 2), u(p, 3), u(p, 4), u(p, 5), s + u(p, 6)); p += 28; break;
      case 12: gemv_channels_i8(u(p, 1), u(p, 2), u(p, 3), u(p, 4), u(p, 5), u(p, 6), u(p, 7)); p += 32; break;
      case 13: gemv_channels_i8_six(u(p, 1), u(p, 2), u(p, 3), u(p, 4), u(p, 5), u(p, 6), u(p, 7)); p += 32; break;
      case 14: finish_channels_i8(u(p, 1), u(p, 2), u(p, 3), f(p, 4), u(p, 5), u(p, 6)); p += 28; break;
      case 15: gemv_pairs_i8(u(p, 1), u(p, 2), u(p, 3), u(p, 4), f(p, 5), u(p, 6), u(p, 7), u(p, 8)); p += 36; break;
      case 16: gemv_group_i4(u(p, 1), u(p, 2), u(p, 3), u(p, 4), u(p, 5), u(p, 6), u(p, 7), s + u(p, 8)); p += 36; break;
      case 17: gemv_group_i4_list(u(p, 1), u(p, 2), u(p, 3), u(p, 4), u(p, 5), u(p, 6), u(p, 7), s + u(p, 8)); p += 36; break;
      case 18: gemv_group_i4_list_plain(u(p, 1), u(p, 2), u(p, 3), u(p, 4), u(p, 5), u(p, 6), u(p, 7), s + u(p, 8)); p += 36; break;
      case 19: scale_rows_f32(u(p, 1), u(p, 2), u(p, 3)); p += 16; break;
      case 20: if (ASC_FEATURE_RELAXED_SIMD) gemv_quad_i4(u(p, 1), u(p, 2), u(p, 3), u(p, 4), u(p, 5), u(p, 6), u(p, 7)); p += 32; break;
      case 21: pack_tokens_f32(u(p, 1), u(p, 2), u(p, 3), u(p, 4), u(p, 5)); p += 24; break;
      case 22: unpack_channels_f32(s + u(p, 1), u(p, 2), u(p, 3), u(p, 4), u(p, 5)); p += 24; break;
      case 23: unpack_channels_bf16(s + u(p, 1), u(p, 2), u(p, 3), u(p, 4), u(p, 5)); p += 24; break;
      case 24: unpack_rows_f32(s + u(p, 1), u(p, 2), u(p, 3), u(p, 4), u(p, 5)); p += 24; break;
      case 25: unpack_rows_bf16(s + u(p, 1), u(p, 2), u(p, 3), u(p, 4), u(p, 5)); p += 24; break;
      case 26: gemm_f32(u(p, 1), u(p, 2), s + u(p, 3), u(p, 4), u(p, 5), u(p, 6)); p += 28; break;
      case 27: pack_tokens_i16(u(p, 1), u(p, 2), u(p, 3), u(p, 4), u(p, 5), u(p, 6), u(p, 7), u(p, 8)); p += 36; break;
      case 28: if (!ASC_FEATURE_RELAXED_SIMD) unpack_group_i4(s + u(p, 1), s + u(p, 2), s + u(p, 3), u(p, 4), u(p, 5), u(p, 6), u(p, 7), u(p, 8), u(p, 9)); p += 40; break;
      case 29: if (ASC_FEATURE_RELAXED_SIMD) unpack_quad_i4(s + u(p, 1), u(p, 2), u(p, 3), u(p, 4), u(p, 5), u(p, 6)); p += 28; break;
      case 30: unpack_channels_i8(s + u(p, 1), s + u(p, 2), s + u(p, 3), u(p, 4), u(p, 5), u(p, 6), u(p, 7), u(p, 8)); p += 36; break;
      case 31: unpack_pairs_i8(s + u(p, 1), s + u(p, 2), s + u(p, 3), u(p, 4), u(p, 5), u(p, 6), u(p, 7)); p += 32; break;
      case 32: gemm_i16(u(p, 1), u(p, 2), u(p, 3), u(p, 4), s + u(p, 5), s + u(p, 6), s + u(p, 7), u(p, 8), u(p, 9), u(p, 10)); p += 44; break;
      case 33: gemv_all_channels_f32(u(p, 1), u(p, 2), u(p, 3), u(p, 4), u(p, 5)); p += 24; break;
      case 34: gemv_all_channels_bf16(u(p, 1), u(p, 2), u(p, 3), u(p, 4), u(p, 5)); p += 24; break;
      case 35: if (ASC_FEATURE_RELAXED_SIMD) pack_tokens_quad_i4(u(p, 1), u(p, 2), u(p, 3), u(p, 4), u(p, 5)); p += 24; break;
      case 36: if (ASC_FEATURE_RELAXED_SIMD) unpack_group_quad_i4(s + u(p, 1), u(p, 2), u(p, 3), u(p, 4), u(p, 5), u(p, 6), u(p, 7)); p += 32; break;
      case 37: if (ASC_FEATURE_RELAXED_SIMD) gemm_quad_i4(u(p, 1), u(p, 2), s + u(p, 3), u(p, 4), u(p, 5), u(p, 6), u(p, 7), u(p, 8)); p += 36; break;
      case 38: unpack_pairs_f32(s + u(p, 1), u(p, 2), u(p, 3), u(p, 4), u(p, 5), u(p, 6), u(p, 7)); p += 32; break;
      case 0: return;
      default: unreachable();
    }
  }
}

/** Takes parts of a range, first ones for its owner and last ones for others, until it has none. */
// @ts-ignore: decorator
@inline
function take_range(control: usize, range: usize, own: bool, job: usize, scratch: usize): void {
  while (true) {
    const word = atomic.load<u32>(range), next = (word >> 8) & 255, end = word & 255;
    if (next >= end) return;
    // the job is read after the part is had: it stays as it is until that part is done
    if (atomic.cmpxchg<u32>(range, word, own ? word + 256 : word - 1) != word) continue;
    const part = own ? next : end - 1;
    run_part(job + load<u32>(job + (<usize>part << 2)), scratch);
    atomic.add<u32>(control + DONE, 1);
    if (atomic.load<u32>(control + CALLER_SLEEPS)) atomic.notify(control + DONE, 1);
  }
}

/** Takes parts as thread `thread` of `threads` until there are none. */
function take_parts(control: usize, thread: u32, threads: u32, job: usize, scratch: usize): void {
  take_range(control, control + RANGES + (<usize>thread << 6), true, job, scratch);
  for (let i: u32 = 1; i < threads; ++i) {
    take_range(control, control + RANGES + (<usize>((thread + i) % threads) << 6), false, job, scratch);
  }
}

/** Reads a word until it differs from `value`, at most `spins` times; returns what it was last. */
export function team_spin(word: usize, value: u32, spins: u32): u32 {
  let found = atomic.load<u32>(word);
  for (; found == value && spins > 0; --spins) found = atomic.load<u32>(word);
  return found;
}

/** A worker's turn: takes parts, and waits for more by spinning. Returns the ticket to sleep on when there was nothing for `spins` reads. */
export function team_help(control: usize, thread: u32, threads: u32, job: usize, scratch: usize, spins: u32): u32 {
  while (true) {
    const ticket = atomic.load<u32>(control);
    take_parts(control, thread, threads, job, scratch);
    if (team_spin(control, ticket, spins) == ticket) return ticket;
  }
}

/**
 * The caller's turn, as thread 0: announces a step, takes parts, and waits until all are done or for `spins` reads. Returns how many are done.
 *
 * @param parts at most 255, shared out evenly
 */
export function team_run(control: usize, threads: u32, job: usize, parts: u32, scratch: usize, spins: u32): u32 {
  const ticket = atomic.load<u32>(control) + 1;
  atomic.store<u32>(control + DONE, 0);
  for (let t: u32 = 0; t < threads; ++t) {
    atomic.store<u32>(control + RANGES + (<usize>t << 6), ticket << 16 | parts * t / threads << 8 | parts * (t + 1) / threads);
  }
  atomic.store<u32>(control, ticket);
  if (atomic.load<u32>(control + SLEEPERS)) atomic.notify(control, <i32>threads - 1);
  take_parts(control, 0, threads, job, scratch);
  return team_wait(control, parts, spins);
}

/** Spins until all parts are done, or `spins` times; returns how many are. */
export function team_wait(control: usize, parts: u32, spins: u32): u32 {
  let done = atomic.load<u32>(control + DONE);
  for (; done != parts && spins > 0; --spins) done = atomic.load<u32>(control + DONE);
  return done;
}
