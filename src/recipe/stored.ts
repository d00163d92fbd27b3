/** Numbers out of a recipe's file, whatever they are stored as, into float32. */
import type { SafetensorsEntry } from "../format/safetensors.ts";
import { badValue } from "./fields.ts";

/** What factors may be stored as; I8 has a scale for each row beside it. */
const FACTOR_DTYPES = ["F32", "BF16", "F16", "I8"];

/** A float32 matrix of `rows` rows, or a vector where `rows` is null. */
export async function readFloats(entry: SafetensorsEntry, rows: number | null): Promise<Float32Array> {
  const { name, dtype } = entry;
  if (dtype !== "F32") throw badValue(name, `${dtype} found, F32 wanted`);
  checkShape(entry, rows);
  return new Float32Array(await bytesOf(entry));
}

/**
 * A factor of `rows` rows. Int8 is `scale[row] * value`.
 *
 * @param scale f32[rows], which int8 wants and nothing else has
 */
export async function readFactor(
  entry: SafetensorsEntry,
  scale: SafetensorsEntry | undefined,
  rows: number,
): Promise<Float32Array> {
  const { name, dtype } = entry;
  if (!FACTOR_DTYPES.includes(dtype)) {
    throw badValue(name, `${dtype} found, one of ${FACTOR_DTYPES.join(" ")} wanted`);
  }
  checkShape(entry, rows);
  if ((scale !== undefined) !== (dtype === "I8")) {
    const found = scale === undefined ? "no tensor" : "a tensor";
    throw badValue(`${name}.scale`, `${found} found, but ${name} is ${dtype}: int8 alone has scales`);
  }
  if (scale !== undefined) return await readBytes(entry, scale, rows);
  if (dtype === "F32") return await readFloats(entry, rows);
  const halves = new Uint16Array(await bytesOf(entry));
  return dtype === "F16" ? Float32Array.from(halves, halfToFloat) : widenBfloat(halves);
}

async function readBytes(
  entry: SafetensorsEntry,
  scale: SafetensorsEntry,
  rows: number,
): Promise<Float32Array> {
  const scales = await readFloats(scale, null), values = new Int8Array(await bytesOf(entry));
  if (scales.length !== rows) {
    throw badValue(scale.name, `${scales.length} values found, ${rows} wanted, one a row`);
  }
  if (!scales.every(Number.isFinite)) {
    throw badValue(scale.name, "a value that is not finite found: calibrate it again");
  }
  const width = values.length / rows;
  return Float32Array.from(values, (value, i) => scales[Math.floor(i / width)]! * value);
}

function checkShape({ name, shape }: SafetensorsEntry, rows: number | null): void {
  if (rows === null ? shape.length === 1 : shape.length === 2 && shape[0] === rows) return;
  throw badValue(name, `shape [${shape.join(", ")}] found, [${rows === null ? "n" : `${rows}, n`}] wanted`);
}

async function bytesOf({ blob, offset, byteLength }: SafetensorsEntry): Promise<ArrayBuffer> {
  return await blob.slice(offset, offset + byteLength).arrayBuffer();
}

/** bf16 is the upper half of a float32. */
function widenBfloat(halves: Uint16Array): Float32Array {
  return new Float32Array(Uint32Array.from(halves, (half) => half << 16).buffer);
}

/** IEEE 754 binary16. */
function halfToFloat(half: number): number {
  const sign = half & 0x8000 ? -1 : 1, exponent = half >> 10 & 31, fraction = half & 1023;
  if (exponent === 31) return fraction === 0 ? sign * Infinity : NaN;
  return sign * (exponent === 0 ? fraction * 2 ** -24 : (1024 + fraction) * 2 ** (exponent - 25));
}
