/** Fields of a JSON object from outside, each held against what it may be. */
import { invalidField } from "./errors.ts";

/** JSON's object. */
export type JsonObject = { readonly [name: string]: unknown };

/** Whether it is one. */
export function isObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** A value as it is told to whoever sent it. */
export function found(value: unknown): string {
  if (typeof value === "string") return value.length > 40 ? "a long text" : JSON.stringify(value);
  if (Array.isArray(value)) return value.length === 0 ? "an empty array" : "an array";
  return isObject(value) ? "an object" : String(value);
}

/** Limits of a number. */
export interface NumberLimits {
  readonly min: number;
  readonly max: number;
  readonly integer?: boolean;
  /** Whether `min` itself is not allowed. */
  readonly above?: boolean;
}

/** Reads fields; null is as if it were not there, as in OpenAI's API. Throws `ApiError` for what a field may not be. */
export class Fields {
  readonly #object: JsonObject;
  readonly #path: string;

  /** @param path where the object is, such as `stream_options.`; empty for the whole body */
  constructor(object: JsonObject, path = "") {
    this.#object = object;
    this.#path = path;
  }

  /** The field's value, undefined where it is not there. */
  value(name: string): unknown {
    return Object.hasOwn(this.#object, name) ? this.#object[name] ?? undefined : undefined;
  }

  number(name: string, { min, max, integer = false, above = false }: NumberLimits): number | undefined {
    const value = this.value(name);
    if (value === undefined) return undefined;
    const isRight = typeof value === "number" && (!integer || Number.isSafeInteger(value)) &&
      (above ? value > min : value >= min) && value <= max;
    if (isRight) return value;
    const kind = integer ? "a whole number" : "a number";
    const range = max === Infinity || max === Number.MAX_SAFE_INTEGER
      ? above ? `above ${min}` : `of at least ${min}`
      : `${above ? "above" : "from"} ${min} ${above ? "and at most" : "to"} ${max}`;
    throw this.wrong(name, value, `${kind} ${range}`);
  }

  boolean(name: string): boolean | undefined {
    const value = this.value(name);
    if (value === undefined || typeof value === "boolean") return value;
    throw this.wrong(name, value, "true or false");
  }

  string(name: string): string | undefined {
    const value = this.value(name);
    if (value === undefined || typeof value === "string") return value;
    throw this.wrong(name, value, "a text");
  }

  object(name: string): Fields | undefined {
    const value = this.value(name);
    if (value === undefined) return undefined;
    if (!isObject(value)) throw this.wrong(name, value, "an object");
    return new Fields(value, `${this.#path}${name}.`);
  }

  /** The error for a field. */
  wrong(name: string, value: unknown, wanted: string): Error {
    return invalidField(this.#path + name, `${found(value)} found, ${wanted} wanted`);
  }
}
