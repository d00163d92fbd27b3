/**
 * GPT-2's spelling of bytes as characters: the printable bytes of Latin-1 stand for themselves, the other 68 are
 * U+0100 and up in order, so that every token of a byte-level vocabulary is printable text (`Ġ` is a space).
 */
import type { Tokenizer } from "./tokenizer.ts";

/** Marks a character that stands for no byte. */
const NONE = 256;
const CHAR_OF_BYTE: readonly string[] = spelling();
const BYTE_OF_CHAR: Uint16Array = inverse();

function spelling(): string[] {
  const chars: string[] = [];
  let next = 256;
  for (let byte = 0; byte < 256; ++byte) {
    const printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 255 && byte !== 173);
    chars.push(String.fromCharCode(printable ? byte : next++));
  }
  return chars;
}

function inverse(): Uint16Array {
  const table = new Uint16Array(324).fill(NONE);
  CHAR_OF_BYTE.forEach((char, byte) => table[char.charCodeAt(0)] = byte);
  return table;
}

/** The character that stands for `byte`. */
export function byteLevelChar(byte: number): string {
  const char = CHAR_OF_BYTE[byte];
  if (char === undefined) throw new RangeError(`byte ${byte}: a byte is an integer from 0 to 255`);
  return char;
}

/** The bytes that `token` spells, or null if one of its characters stands for no byte. */
export function byteLevelBytes(token: string): Uint8Array | null {
  const bytes = new Uint8Array(token.length);
  for (let i = 0; i < token.length; ++i) {
    const byte = BYTE_OF_CHAR[token.charCodeAt(i)] ?? NONE;
    if (byte === NONE) return null;
    bytes[i] = byte;
  }
  return bytes;
}

/** What {@linkcode Tokenizer.decode} does, by the tokenizer's other methods. */
export function decodeTokens(
  tokenizer: Pick<Tokenizer, "bytesOf" | "isSpecial">,
  ids: readonly number[],
  options: { skipSpecial?: boolean; previous?: number } = {},
): string {
  const parts: Uint8Array[] = [];
  let size = 0, previous = options.previous;
  for (const id of ids) {
    const bytes = tokenizer.bytesOf(id, previous);
    previous = id;
    if (options.skipSpecial && tokenizer.isSpecial(id)) continue;
    parts.push(bytes);
    size += bytes.length;
  }
  const all = new Uint8Array(size);
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  // Without ignoreBOM the decoder swallows a U+FEFF at the start, which is text like any other here.
  return new TextDecoder("utf-8", { ignoreBOM: true }).decode(all);
}
