/**
 * What a model file may claim at most, and numbers read from bytes that may be hostile. The limits are
 * far above SmolLM2's needs, which the comments give, and small enough that a claim costs little to refuse.
 */

/** Bytes of a GGUF header. SmolLM2's, with 49,152 tokens and 48,900 merges, has 1.8 million. */
export const MAX_GGUF_HEADER_BYTES: number = 1 << 26;
/** Bytes of one GGUF string; the longest are chat templates. */
export const MAX_STRING_BYTES: number = 1 << 24;
/** Bytes of a GGUF key or tensor name: the format's own limit for keys. */
export const MAX_NAME_BYTES = 65535;
/** Elements of all arrays of a GGUF header together: in JavaScript a byte of an array takes eight. SmolLM2's has 147,205. */
export const MAX_ARRAY_ELEMENTS: number = 1 << 22;
/** Arrays in arrays in GGUF metadata. */
export const MAX_ARRAY_DEPTH = 4;
/** Bytes of a safetensors header, as in the reference reader. */
export const MAX_SAFETENSORS_HEADER_BYTES = 100_000_000;
/** Bytes of a pack's header. tiny's, with a table of 75 tensors, has 10,000. */
export const MAX_PACK_HEADER_BYTES: number = 1 << 24;
/** Bytes of `config.json`, `tokenizer.json` and their like. */
export const MAX_JSON_BYTES: number = 1 << 26;
/** Objects and arrays inside each other in JSON: engines' own parsers may overflow their stack on 20,000. */
export const MAX_JSON_DEPTH = 64;
/** Layers of a model. */
export const MAX_LAYERS = 1024;
/** Width of any part of a model: hidden, intermediate, heads times their size. */
export const MAX_WIDTH: number = 1 << 20;
/** Tokens of a vocabulary. */
export const MAX_VOCABULARY: number = 1 << 22;

/** A little-endian u64 as a number: exact below 2^53, above it only good for being too large. */
export function readU64(view: DataView, offset: number): number {
  return view.getUint32(offset + 4, true) * 2 ** 32 + view.getUint32(offset, true);
}

/** The product of sizes, exact, or null where it is beyond 2^53: no file holds as much. */
export function exactProduct(sizes: readonly number[]): number | null {
  let product = 1;
  for (const size of sizes) {
    product *= size;
    if (product > Number.MAX_SAFE_INTEGER) return null;
  }
  return product;
}

/** A range of a file that one tensor takes. */
export interface TensorRange {
  readonly name: string;
  readonly offset: number;
  readonly byteLength: number;
}

/**
 * The tensors in the order of their bytes; `fail` must throw, and is called with the later one of two that share bytes.
 */
export function inFileOrder<T extends TensorRange>(
  ranges: readonly T[],
  fail: (range: T, detail: string) => never,
): T[] {
  const sorted = [...ranges].sort((a, b) => a.offset - b.offset || a.byteLength - b.byteLength);
  for (let i = 1; i < sorted.length; ++i) {
    const before = sorted[i - 1]!, range = sorted[i]!;
    const end = before.offset + before.byteLength;
    if (end > range.offset) {
      fail(range, `begins at byte ${range.offset}, inside ${quote(before.name)}, which ends at ${end}`);
    }
  }
  return sorted;
}

/** A name from a file, fit for a message: quoted, escaped, cut to 80 characters. */
export function quote(name: string): string {
  return JSON.stringify(name.length > 80 ? name.slice(0, 80) + "…" : name);
}
