/** Numbers of a model's configuration, from GGUF metadata or `config.json`, each checked before anything is sized by it. */
import { FormatError } from "../errors.ts";
import { quote } from "../format/limits.ts";

/** Named values of one file, as they were parsed. */
export interface Fields {
  /** The file's name, for errors. */
  readonly file: string;
  /** undefined where there is none. */
  get(key: string): unknown;
  /** Byte offset of a key's value, or of the place where it is missing. */
  offsetOf(key: string): number;
}

/** The error about a key's value. */
export function fieldError(fields: Fields, key: string, wanted: string): FormatError {
  const value = fields.get(key);
  const found = value === undefined ? "missing" : `${describe(value)} found`;
  return new FormatError(fields.file, fields.offsetOf(key), `${quote(key)} ${found}, ${wanted} wanted`);
}

/**
 * A whole number from 1 to `max`; `fallback` where the key is missing or null.
 *
 * @throws {FormatError} If it is anything else, or missing without a fallback.
 */
export function integerField(fields: Fields, key: string, max: number, fallback?: number): number {
  const value = fields.get(key) ?? fallback;
  if (typeof value !== "number" || !Number.isInteger(value) || value < 1 || value > max) {
    throw fieldError(fields, key, `a whole number from 1 to ${max}`);
  }
  return value;
}

/**
 * A finite number above 0; `fallback` where the key is missing or null.
 *
 * @throws {FormatError} If it is anything else, or missing without a fallback.
 */
export function positiveField(fields: Fields, key: string, fallback?: number): number {
  const value = fields.get(key) ?? fallback;
  if (typeof value !== "number" || !(value > 0 && value < Infinity)) {
    throw fieldError(fields, key, "a number above 0");
  }
  return value;
}

/**
 * A string, or null where the key is missing or null.
 *
 * @throws {FormatError} If it is anything else.
 */
export function textField(fields: Fields, key: string): string | null {
  const value = fields.get(key) ?? null;
  if (value !== null && typeof value !== "string") throw fieldError(fields, key, "a string");
  return value;
}

/**
 * True or false; `fallback` where the key is missing or null.
 *
 * @throws {FormatError} If it is anything else.
 */
export function flagField(fields: Fields, key: string, fallback: boolean): boolean {
  const value = fields.get(key) ?? fallback;
  if (typeof value !== "boolean") throw fieldError(fields, key, "true or false");
  return value;
}

function describe(value: unknown): string {
  if (typeof value === "string") return quote(value);
  if (Array.isArray(value)) return `a list of ${value.length}`;
  return typeof value === "object" && value !== null ? "an object" : String(value);
}
