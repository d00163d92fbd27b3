/** JSON from files that may be hostile. */
import { FormatError } from "../errors.ts";
import { MAX_JSON_BYTES, MAX_JSON_DEPTH } from "./limits.ts";

/** A JSON object that came from a file. Names such as `__proto__` are own properties like any other. */
export type JsonObject = { readonly [key: string]: unknown };

/** What {@linkcode parseJsonObject} found. */
export interface ParsedJson {
  readonly value: JsonObject;
  readonly text: string;
  /** How many `name: value` pairs the text has at all depths; names that come twice count twice. */
  readonly pairs: number;
}

/** Whether a parsed value is an object, and neither null nor an array. */
export function isJsonObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/**
 * Parses UTF-8 bytes that must be one JSON object. Depth is counted before `JSON.parse` sees the text, since a parser that
 * recurses answers 20,000 brackets with a stack overflow.
 *
 * @param start Where `bytes` begin in the file, for errors.
 * @throws {FormatError} If the bytes are not UTF-8, not JSON, not an object, or too deep.
 */
export function parseJsonObject(bytes: Uint8Array, file: string, start: number): ParsedJson {
  const text = decodeUtf8(bytes);
  if (text === null) throw new FormatError(file, start, "JSON that is not UTF-8");
  const pairs = scan(text, file, start);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    if (!(cause instanceof SyntaxError)) throw cause;
    throw new FormatError(file, start, `JSON that cannot be parsed: ${cause.message}`, { cause });
  }
  if (!isJsonObject(value)) throw new FormatError(file, start, "a JSON object wanted, another value found");
  return { value, text, pairs };
}

/**
 * Reads a whole JSON file.
 *
 * @throws {FormatError} As {@linkcode parseJsonObject}, and if the file is larger than any real one.
 */
export async function readJsonFile(blob: Blob, file: string): Promise<ParsedJson> {
  if (blob.size > MAX_JSON_BYTES) {
    throw new FormatError(file, 0, `a JSON file of ${blob.size} bytes, at most ${MAX_JSON_BYTES} wanted`);
  }
  return parseJsonObject(new Uint8Array(await blob.arrayBuffer()), file, 0);
}

/** Decoded UTF-8, or null where the bytes are not UTF-8. A byte order mark stays, and is not JSON. */
export function decodeUtf8(bytes: Uint8Array): string | null {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return null;
  }
}

/** Counts colons outside strings; throws where brackets are too deep. */
function scan(text: string, file: string, start: number): number {
  let depth = 0, pairs = 0;
  for (let i = 0; i < text.length; ++i) {
    switch (text.charCodeAt(i)) {
      case 0x22: // "
        i = endOfString(text, i);
        break;
      case 0x3a: // :
        ++pairs;
        break;
      case 0x5b: // [
      case 0x7b: // {
        if (++depth > MAX_JSON_DEPTH) {
          throw new FormatError(
            file,
            start + utf8Length(text.slice(0, i)),
            `JSON nested more than ${MAX_JSON_DEPTH} deep`,
          );
        }
        break;
      case 0x5d: // ]
      case 0x7d: // }
        --depth;
    }
  }
  return pairs;
}

/** Index of the quote that closes the string opened at `open`, or the end of the text. */
function endOfString(text: string, open: number): number {
  for (let close = text.indexOf('"', open + 1); close !== -1; close = text.indexOf('"', close + 1)) {
    let escapes = 0;
    while (text.charCodeAt(close - 1 - escapes) === 0x5c) ++escapes;
    if (escapes % 2 === 0) return close;
  }
  return text.length;
}

/** Bytes of a string in UTF-8. */
export function utf8Length(text: string): number {
  return new TextEncoder().encode(text).length;
}
