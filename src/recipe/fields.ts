/** Reading single values out of JSON that may be anything, with the dotted path of each in the error. */
import { RecipeError } from "../errors.ts";
import { isJsonObject, type JsonObject } from "../format/json.ts";
import { quote } from "../format/limits.ts";

/** A `RecipeError` for a value that is not what it should be. */
export function badValue(path: string, detail: string): RecipeError {
  return new RecipeError("bad_value", path, detail);
}

/** A value from a file, fit for a message. */
export function show(value: unknown): string {
  if (typeof value === "string") return quote(value);
  if (Array.isArray(value)) return `a list of ${value.length}`;
  if (isJsonObject(value)) return "an object";
  return value === undefined ? "nothing" : String(value);
}

/** An object, whose names are then read with the functions below. */
export function readObject(value: unknown, path: string): JsonObject {
  if (!isJsonObject(value)) throw badValue(path, `${show(value)} found, an object wanted`);
  return value;
}

/** A list of at most `most`. */
export function readList(value: unknown, path: string, most: number): readonly unknown[] {
  if (!Array.isArray(value)) throw badValue(path, `${show(value)} found, a list wanted`);
  if (value.length > most) throw badValue(path, `${value.length} entries found, at most ${most} wanted`);
  return value;
}

/** A string that is not empty. */
export function readText(value: unknown, path: string): string {
  if (typeof value !== "string" || value === "") throw badValue(path, `${show(value)} found, a text wanted`);
  return value;
}

/** One of a few words. */
export function readWord<T extends string>(value: unknown, path: string, words: readonly T[]): T {
  const word = words.find((candidate) => candidate === value);
  if (word === undefined) throw badValue(path, `${show(value)} found, one of ${words.join(" ")} wanted`);
  return word;
}

/** A finite number. */
export function readNumber(value: unknown, path: string): number {
  if (typeof value !== "number" || !Number.isFinite(value)) {
    throw badValue(path, `${show(value)} found, a finite number wanted`);
  }
  return value;
}

/** A threshold; all below 0 leave every channel active and become -1, so that rounding to float32 cannot make one of them 0. */
export function readThreshold(value: unknown, path: string): number {
  const threshold = readNumber(value, path);
  return threshold < 0 ? -1 : threshold;
}

/** A whole number from 0 on. */
export function readCount(value: unknown, path: string): number {
  if (typeof value !== "number" || !Number.isSafeInteger(value) || value < 0) {
    throw badValue(path, `${show(value)} found, a whole number from 0 wanted`);
  }
  return value;
}

/** A share of the compute to skip: [0, 1). */
export function readSparsity(value: unknown, path: string): number {
  const sparsity = readNumber(value, path);
  if (!(sparsity >= 0 && sparsity < 1)) throw badValue(path, `${sparsity} found, [0, 1) wanted`);
  return sparsity;
}

/** A share of the kept compute: [0, 1]. */
export function readRho(value: unknown, path: string): number {
  const rho = readNumber(value, path);
  if (!(rho >= 0 && rho <= 1)) throw badValue(path, `${rho} found, [0, 1] wanted`);
  return rho;
}
