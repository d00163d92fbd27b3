// The main kernels of assembly/ once more in C, the same algorithms with the same arguments, for `bench/clang/main.ts`: what clang makes of
// them is what AssemblyScript's code is measured against. Not part of the product.
#include <stdint.h>
#include <wasm_simd128.h>

#define EXPORT(name) __attribute__((export_name(#name)))
typedef uint8_t *ptr;
typedef v128_t v;

#define load(p, o) wasm_v128_load((p) + (o))
#define store(p, o, x) wasm_v128_store((p) + (o), x)
#define splat32(p, o) wasm_v128_load32_splat((p) + (o))
static inline uint32_t u32_at(ptr p) { return *(uint32_t *)p; }
static inline float f32_at(ptr p) { return *(float *)p; }
static inline ptr at(uint32_t address) { return (ptr)(uintptr_t)address; }
static inline v low16(v a, v b) { return wasm_i16x8_shuffle(a, b, 0, 8, 1, 9, 2, 10, 3, 11); }
static inline v high16(v a, v b) { return wasm_i16x8_shuffle(a, b, 4, 12, 5, 13, 6, 14, 7, 15); }

// select.ts

static const uint8_t COMPACT[256] __attribute__((aligned(16))) = {
#define Z 128, 128, 128, 128
#define A 0, 1, 2, 3
#define B 4, 5, 6, 7
#define C 8, 9, 10, 11
#define D 12, 13, 14, 15
  Z, Z, Z, Z, A, Z, Z, Z, B, Z, Z, Z, A, B, Z, Z, C, Z, Z, Z, A, C, Z, Z, B, C, Z, Z, A, B, C, Z,
  D, Z, Z, Z, A, D, Z, Z, B, D, Z, Z, A, B, D, Z, C, D, Z, Z, A, C, D, Z, B, C, D, Z, A, B, C, D,
};

static inline ptr compact(ptr index, intptr_t delta, v lanes, v x, v scale, v t) {
  uint32_t bits = wasm_i32x4_bitmask(wasm_f32x4_gt(wasm_f32x4_mul(wasm_f32x4_abs(x), scale), t));
  v shuffle = wasm_v128_load(COMPACT + (bits << 4));
  store(index, 0, wasm_i8x16_swizzle(lanes, shuffle));
  store(index, delta, wasm_i8x16_swizzle(x, shuffle));
  return index + (__builtin_popcount(bits) << 2);
}

EXPORT(select_channels_f32)
uint32_t select_channels_f32(ptr index, ptr value, ptr x, ptr scale, float threshold, uint32_t n) {
  ptr first = index, rounds = x + ((n << 2) & ~63u), whole = x + ((n << 2) & ~15u), end = x + (n << 2);
  intptr_t delta = value - index;
  v t = wasm_f32x4_splat(threshold), step = wasm_i32x4_splat(4), lanes = wasm_i32x4_make(0, 1, 2, 3);
  for (; x < rounds; x += 64, scale += 64) {
    index = compact(index, delta, lanes, load(x, 0), load(scale, 0), t); lanes = wasm_i32x4_add(lanes, step);
    index = compact(index, delta, lanes, load(x, 16), load(scale, 16), t); lanes = wasm_i32x4_add(lanes, step);
    index = compact(index, delta, lanes, load(x, 32), load(scale, 32), t); lanes = wasm_i32x4_add(lanes, step);
    index = compact(index, delta, lanes, load(x, 48), load(scale, 48), t); lanes = wasm_i32x4_add(lanes, step);
  }
  for (; x < whole; x += 16, scale += 16) {
    index = compact(index, delta, lanes, load(x, 0), load(scale, 0), t); lanes = wasm_i32x4_add(lanes, step);
  }
  for (uint32_t c = n & ~3u; x < end; x += 4, scale += 4, ++c) {
    float f = f32_at(x);
    if (__builtin_fabsf(f) * f32_at(scale) > threshold) {
      *(uint32_t *)index = c;
      *(float *)(index + delta) = f;
      index += 4;
    }
  }
  v last = wasm_i32x4_splat(index > first ? u32_at(index - 4) : 0), zero = wasm_i32x4_splat(0);
  store(index, 0, last); store(index, 16, last); store(index, delta, zero); store(index, delta + 16, zero);
  return (uint32_t)(index - first) >> 2;
}

// gemv_float.ts

static inline ptr column(ptr w, ptr entry, ptr last, uint32_t bytes) { return w + u32_at(entry < last ? entry : last) * bytes; }
static inline v factor(ptr entry, ptr last, ptr value) { return wasm_f32x4_splat(entry <= last ? f32_at(value) : 0); }
static inline v add(v s, v w, v x) { return wasm_f32x4_add(s, wasm_f32x4_mul(w, x)); }

EXPORT(gemv_channels_f32)
void gemv_channels_f32(ptr y, ptr w, ptr index, ptr value, uint32_t nActive, uint32_t nOut, uint32_t stride) {
  if (nActive == 0) return;
  uint32_t all = nOut << 2, bytes = stride << 2, isShort = all <= 6144, vectors = isShort ? all & ~31u : all & ~63u;
  ptr last = index + ((nActive - 1) << 2), end = y + vectors;
  for (uint32_t o = vectors; o < all; o += 4) {
    float s = f32_at(y + o);
    for (ptr i = index, x = value; i <= last; i += 4, x += 4) s += f32_at(w + o + u32_at(i) * bytes) * f32_at(x);
    *(float *)(y + o) = s;
  }
#define COLUMN(k) ptr p##k = column(w, index + 4 * k, last, bytes); v x##k = factor(index + 4 * k, last, value + 4 * k);
#define SIX(o) \
  s = load(q, o); \
  s = add(s, load(p0, o), x0); s = add(s, load(p1, o), x1); s = add(s, load(p2, o), x2); \
  s = add(s, load(p3, o), x3); s = add(s, load(p4, o), x4); s = add(s, load(p5, o), x5);
  if (isShort) {
    for (; index <= last; index += 32, value += 32) {
      COLUMN(0) COLUMN(1) COLUMN(2) COLUMN(3) COLUMN(4) COLUMN(5) COLUMN(6) COLUMN(7)
      for (ptr q = y; q < end; q += 32) {
        v s;
        SIX(0) s = add(s, load(p6, 0), x6); s = add(s, load(p7, 0), x7); store(q, 0, s);
        SIX(16) s = add(s, load(p6, 16), x6); s = add(s, load(p7, 16), x7); store(q, 16, s);
        p0 += 32; p1 += 32; p2 += 32; p3 += 32; p4 += 32; p5 += 32; p6 += 32; p7 += 32;
      }
    }
  } else {
    for (; index <= last; index += 24, value += 24) {
      COLUMN(0) COLUMN(1) COLUMN(2) COLUMN(3) COLUMN(4) COLUMN(5)
      for (ptr q = y; q < end; q += 64) {
        v s;
        SIX(0) store(q, 0, s); SIX(16) store(q, 16, s); SIX(32) store(q, 32, s); SIX(48) store(q, 48, s);
        p0 += 64; p1 += 64; p2 += 64; p3 += 64; p4 += 64; p5 += 64;
      }
    }
  }
}

// gemv_i8.ts

static inline v dot(v sum, v a, v x) { return wasm_i32x4_add(sum, wasm_i32x4_dot_i16x8(a, x)); }

EXPORT(gemv_pairs_i8)
void gemv_pairs_i8(ptr y, ptr w, ptr xq, ptr rowScale, float s, int32_t sumX, uint32_t nIn, uint32_t nOut) {
  v k = wasm_f32x4_splat(s), start = wasm_i32x4_splat(sumX * -128);
  ptr xEnd = xq + (nIn << 1);
  for (uint32_t o = 0; o < nOut; o += 16, y += 64, rowScale += 64) {
    v a0 = start, a1 = wasm_i32x4_splat(0), a2 = start, a3 = a1;
    for (ptr x = xq; x < xEnd; x += 8, w += 64) {
      v x0 = splat32(x, 0), c = load(w, 0), d = load(w, 16);
      a0 = dot(a0, c, x0); a1 = dot(a1, wasm_i16x8_shr(c, 8), x0); a2 = dot(a2, d, x0); a3 = dot(a3, wasm_i16x8_shr(d, 8), x0);
      v x1 = splat32(x, 4), e = load(w, 32), f = load(w, 48);
      a0 = dot(a0, e, x1); a1 = dot(a1, wasm_i16x8_shr(e, 8), x1); a2 = dot(a2, f, x1); a3 = dot(a3, wasm_i16x8_shr(f, 8), x1);
    }
    a0 = wasm_i32x4_sub(a0, wasm_i32x4_shl(a1, 8)); a2 = wasm_i32x4_sub(a2, wasm_i32x4_shl(a3, 8));
    store(y, 0, wasm_f32x4_mul(wasm_f32x4_mul(load(rowScale, 0), k), wasm_f32x4_convert_i32x4(a0)));
    store(y, 16, wasm_f32x4_mul(wasm_f32x4_mul(load(rowScale, 16), k), wasm_f32x4_convert_i32x4(a1)));
    store(y, 32, wasm_f32x4_mul(wasm_f32x4_mul(load(rowScale, 32), k), wasm_f32x4_convert_i32x4(a2)));
    store(y, 48, wasm_f32x4_mul(wasm_f32x4_mul(load(rowScale, 48), k), wasm_f32x4_convert_i32x4(a3)));
  }
}

EXPORT(gemv_channels_i8)
void gemv_channels_i8(ptr acc, ptr w, ptr index, ptr xq, uint32_t nActive, uint32_t nOut, uint32_t stride) {
  ptr end = acc + (nOut << 2);
  for (uint32_t a = 0; a < nActive; a += 8, index += 32, xq += 16) {
#define POINTER(k) ptr p##k = w + u32_at(index + 4 * k) * stride;
    POINTER(0) POINTER(1) POINTER(2) POINTER(3) POINTER(4) POINTER(5) POINTER(6) POINTER(7)
    v x0 = splat32(xq, 0), x1 = splat32(xq, 4), x2 = splat32(xq, 8), x3 = splat32(xq, 12);
#define PAIR(a, b, o, x) { \
    v c = load(a, o), d = load(b, o), e = low16(c, d); \
    s0 = dot(s0, e, x); s1 = dot(s1, wasm_i16x8_shr(e, 8), x); \
    e = high16(c, d); \
    s2 = dot(s2, e, x); s3 = dot(s3, wasm_i16x8_shr(e, 8), x); }
#define HALF(o) { \
    v s0 = load(q, 4 * o), s1 = load(q, 4 * o + 16), s2 = load(q, 4 * o + 32), s3 = load(q, 4 * o + 48); \
    PAIR(p0, p1, o, x0) PAIR(p2, p3, o, x1) PAIR(p4, p5, o, x2) PAIR(p6, p7, o, x3) \
    store(q, 4 * o, s0); store(q, 4 * o + 16, s1); store(q, 4 * o + 32, s2); store(q, 4 * o + 48, s3); }
    for (ptr q = acc; q < end; q += 128) {
      HALF(0) HALF(16)
      p0 += 32; p1 += 32; p2 += 32; p3 += 32; p4 += 32; p5 += 32; p6 += 32; p7 += 32;
    }
  }
}

// gemv_group_i4.ts

#define SPAN 131072
#define HEADER 256
#define CHANNELS 1024

static inline v step(v sum, v a, v x) { return wasm_i16x8_add(sum, wasm_i16x8_mul(a, x)); }

EXPORT(gemv_group_i4)
void gemv_group_i4(ptr y0, ptr w, ptr table, uint32_t nIn, uint32_t nBlocks, uint32_t pairBytes, uint32_t withMins, ptr scratch) {
  uint32_t groupBytes = withMins ? CHANNELS + HEADER : CHANNELS, blockBytes = HEADER + CHANNELS + groupBytes;
  ptr tableEnd = table + nIn, yEnd = y0 + (nBlocks << 8);
  for (ptr pair = table; pair < tableEnd; pair += 64, w += pairBytes) {
    v unit = splat32(pair, 8), xSums = splat32(pair, 12);
    ptr block = w;
    for (ptr y = y0; y < yEnd; y += 256, block += blockBytes) {
      ptr column = block + HEADER;
      for (uint32_t half = 0; half < 2; ++half, column += groupBytes) {
        ptr t = pair + (half << 5), out = scratch + (half << 7), c = column, end = at(u32_at(t + 4));
        v a0 = splat32(t, 16), a1 = splat32(t, 20), a2 = splat32(t, 24), a3 = splat32(t, 28), a4 = a0, a5 = a1, a6 = a2, a7 = a3;
        for (ptr p = at(u32_at(t)); p < end; p += 4, c += 32) {
          v x = splat32(p, SPAN), a = load(c, 0), b = load(c, 16);
          a0 = step(a0, a, x); a1 = step(a1, wasm_u16x8_shr(a, 4), x); a2 = step(a2, wasm_u16x8_shr(a, 8), x); a3 = step(a3, wasm_u16x8_shr(a, 12), x);
          a4 = step(a4, b, x); a5 = step(a5, wasm_u16x8_shr(b, 4), x); a6 = step(a6, wasm_u16x8_shr(b, 8), x); a7 = step(a7, wasm_u16x8_shr(b, 12), x);
        }
        a0 = wasm_i16x8_sub(a0, wasm_i16x8_shl(a1, 4)); a1 = wasm_i16x8_sub(a1, wasm_i16x8_shl(a2, 4)); a2 = wasm_i16x8_sub(a2, wasm_i16x8_shl(a3, 4));
        a4 = wasm_i16x8_sub(a4, wasm_i16x8_shl(a5, 4)); a5 = wasm_i16x8_sub(a5, wasm_i16x8_shl(a6, 4)); a6 = wasm_i16x8_sub(a6, wasm_i16x8_shl(a7, 4));
        store(out, 0, a0); store(out, 16, a1); store(out, 32, a2); store(out, 48, a3);
        store(out, 64, a4); store(out, 80, a5); store(out, 96, a6); store(out, 112, a7);
      }
      for (uint32_t k = 0; k < 128; k += 16) {
        v a = load(scratch, k), b = load(scratch, k + 128);
        ptr q = y + (k << 1), d = block + (k << 1);
        v lo = wasm_i32x4_dot_i16x8(low16(a, b), load(d, 0)), hi = wasm_i32x4_dot_i16x8(high16(a, b), load(d, 16));
        if (withMins) {
          lo = wasm_i32x4_add(lo, wasm_i32x4_dot_i16x8(xSums, load(d, HEADER + CHANNELS)));
          hi = wasm_i32x4_add(hi, wasm_i32x4_dot_i16x8(xSums, load(d, HEADER + CHANNELS + 16)));
        }
        store(q, 0, add(load(q, 0), wasm_f32x4_convert_i32x4(lo), unit));
        store(q, 16, add(load(q, 16), wasm_f32x4_convert_i32x4(hi), unit));
      }
    }
  }
}
