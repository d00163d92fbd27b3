/**
 * `exp` and `log` by +, -, *, / and bit patterns alone: `Math.exp` and `Math.log` differ in the last bit between
 * JavaScript engines, and a sampled token must not. The methods and constants are those of FreeBSD's msun
 * (`e_exp.c`, `e_log.c`; Copyright (C) 1993, 2004 by Sun Microsystems, freely granted); error below 1 ulp.
 */

const LN2_HIGH = 6.93147180369123816490e-01;
const LN2_LOW = 1.90821492927058770002e-10;
const LOG2_E = 1.44269504088896338700;

const float = new Float64Array(1);
const word = new Uint32Array(float.buffer);
float[0] = 1;
/** Which of the two words holds sign and exponent: 1 on little-endian machines. */
const HIGH = word[1] === 0 ? 0 : 1;
const LOW = 1 - HIGH;

/** 2 ** k for k in [-1022, 1023]. Looked up, since a double made of two words waits until both are stored: exp takes 0.8 of the time (V8). */
const POWERS = Float64Array.from({ length: 2046 }, (_, i) => {
  word[HIGH] = (i + 1) << 20;
  word[LOW] = 0;
  return float[0]!;
});

function power(k: number): number {
  return POWERS[k + 1022]!;
}

/** e ** x, within 1 ulp, the same bits in every engine. */
export function exp(x: number): number {
  if (!(x > -745.13321910194122)) return x !== x ? x : 0;
  if (x > 709.782712893383973096) return Infinity;
  let high = x, low = 0, k = 0;
  if (x > 0.34657359027997264 || x < -0.34657359027997264) {
    k = Math.trunc(LOG2_E * x + (x < 0 ? -0.5 : 0.5));
    high = x - k * LN2_HIGH;
    low = k * LN2_LOW;
  } else if (x < 3.725290298461914e-9 && x > -3.725290298461914e-9) {
    return 1 + x;
  }
  const r = high - low, t = r * r;
  const c = r - t *
      (1.66666666666666019037e-01 + t *
          (-2.77777777770155933842e-03 + t *
              (6.61375632143793436117e-05 +
                t * (-1.65339022054652515390e-06 + t * 4.13813679705723846039e-08))));
  if (k === 0) return 1 - ((r * c) / (c - 2) - r);
  const y = 1 - ((low - (r * c) / (2 - c)) - high);
  // 2 ** 1024 is no double and 2 ** -1023 is subnormal: two steps, of which only the last can round.
  if (k > 1023) return y * 2 * power(k - 1);
  return k >= -1021 ? y * power(k) : y * power(k + 1000) * power(-1000);
}

/** The natural logarithm of x, within 1 ulp, the same bits in every engine; NaN below 0. */
export function log(x: number): number {
  if (!(x > 0)) return x === 0 ? -Infinity : NaN;
  if (x === Infinity) return x;
  let k = 0;
  float[0] = x;
  if (word[HIGH]! < 0x00100000) {
    k = -54;
    float[0] = x * 18014398509481984;
  }
  const high = word[HIGH]!;
  k += (high >> 20) - 1023;
  const mantissa = high & 0xfffff;
  // The mantissa is taken to [sqrt(1/2), sqrt(2)), the polynomial's range.
  const carry = (mantissa + 0x95f64) & 0x100000;
  word[HIGH] = mantissa | (carry ^ 0x3ff00000);
  k += carry >> 20;
  const f = float[0]! - 1;
  const s = f / (2 + f), z = s * s, w = z * z;
  const even = w * (3.999999999940941908e-01 + w * (2.222219843214978396e-01 + w * 1.531383769920937332e-01));
  const odd = z *
    (6.666666666666735130e-01 +
      w * (2.857142874366239149e-01 + w * (1.818357216161805012e-01 + w * 1.479819860511658591e-01)));
  const r = even + odd;
  const half = 0.5 * f * f;
  return k * LN2_HIGH - ((half - (s * (half + r) + k * LN2_LOW)) - f);
}
