/** The vocabulary of a llama2.c checkpoint (`tok512.bin`, `tokenizer.bin`): SentencePiece pieces and scores. */
import { FormatError } from "../errors.ts";
import { decodeTokens } from "./byte_level.ts";
import { mergePairs } from "./merge_pairs.ts";
import type { Tokenizer } from "./tokenizer.ts";

const BOS = 1, EOS = 2;
/** Tokens 3 to 258 are the bytes, `<0x00>` to `<0xFF>`. */
const FIRST_BYTE = 3, FIRST_PIECE = FIRST_BYTE + 256;
const BYTE_TOKEN = /^<0x([0-9A-Fa-f]{2})>$/;

/**
 * Reads a llama2.c tokenizer file: an int32, the longest token's length, then for each token a float32 score, an
 * int32 length and its bytes, all little endian (karpathy/llama2.c, `tokenizer.py`).
 *
 * It encodes as `run.c` does: a space in front, one token a character (its bytes where there is none), then the
 * best-scored merge, leftmost first, until there is none. Control tokens have no text that could be written: `special`
 * changes nothing. Both BOS and EOS end generation; `run.c` stops at BOS, which these models write between stories.
 *
 * @param vocabSize The checkpoint's number of tokens; the file must hold exactly that many.
 * @throws {FormatError} If the file is cut, has bytes left over, a length or score is no such thing, or the byte tokens are not in their places.
 */
export function llama2cTokenizer(bytes: Uint8Array, vocabSize: number, file: string): Tokenizer {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  // A token takes at least 8 bytes: no array is made for tokens that cannot be there.
  if (!(vocabSize >= FIRST_PIECE && 4 + vocabSize * 8 <= bytes.length)) {
    const wanted = `at least ${FIRST_PIECE} tokens, of at least 8 bytes each`;
    throw new FormatError(file, 0, `${bytes.length} bytes for ${vocabSize} tokens found, ${wanted} wanted`);
  }
  const pieces: string[] = [];
  const scores = new Float32Array(vocabSize);
  let at = 4;
  for (let id = 0; id < vocabSize; ++id) {
    if (at + 8 > bytes.length) {
      throw new FormatError(file, at, `the file ends before token ${id} of ${vocabSize}`);
    }
    const score = view.getFloat32(at, true), length = view.getInt32(at + 4, true);
    if (!Number.isFinite(score)) throw new FormatError(file, at, `the score of token ${id} is ${score}`);
    if (length < 0 || length > bytes.length - at - 8) {
      throw new FormatError(
        file,
        at + 4,
        `token ${id} is ${length} bytes long, ${bytes.length - at - 8} are left`,
      );
    }
    const piece = byteString(bytes.subarray(at + 8, at + 8 + length));
    if (
      id >= FIRST_BYTE && id < FIRST_PIECE && Number("0x" + BYTE_TOKEN.exec(piece)?.[1]) !== id - FIRST_BYTE
    ) {
      throw new FormatError(file, at + 8, `token ${id} must be the byte token of ${id - FIRST_BYTE}`);
    }
    scores[id] = score;
    pieces.push(piece);
    at += 8 + length;
  }
  if (at !== bytes.length) throw new FormatError(file, at, `${bytes.length - at} bytes after the last token`);
  return new Llama2cTokenizer(pieces, scores);
}

/**
 * The same from pieces, a char code for each of their bytes, and scores.
 *
 * @throws What `fail` makes, if bytes are not in their places.
 */
export function llama2cFromPieces(
  pieces: readonly string[],
  scores: Float32Array,
  fail: (detail: string) => Error,
): Tokenizer {
  if (pieces.length < FIRST_PIECE) throw fail(`${pieces.length} found, at least ${FIRST_PIECE} wanted`);
  for (let id = FIRST_BYTE; id < FIRST_PIECE; ++id) {
    if (Number("0x" + BYTE_TOKEN.exec(pieces[id]!)?.[1]) !== id - FIRST_BYTE) {
      throw fail(`token ${id} must be the byte token of ${id - FIRST_BYTE}`);
    }
  }
  return new Llama2cTokenizer(pieces, scores);
}

class Llama2cTokenizer implements Tokenizer {
  readonly vocabSize: number;
  readonly bosId: number = BOS;
  readonly addBos: boolean = true;
  readonly stopIds: readonly number[] = [BOS, EOS];
  /** Bytes of each token, one char code each: concatenation and lookup are then those of strings. */
  readonly #pieces: readonly string[];
  readonly #scores: Float32Array;
  /** Ids that text can become: no control token, no byte token by its name. */
  readonly #pieceId: Map<string, number> = new Map();

  constructor(pieces: readonly string[], scores: Float32Array) {
    this.vocabSize = pieces.length;
    this.#pieces = pieces;
    this.#scores = scores;
    for (let id = FIRST_PIECE; id < pieces.length; ++id) {
      if (!this.#pieceId.has(pieces[id]!)) this.#pieceId.set(pieces[id]!, id);
    }
  }

  encode(text: string, options: { special?: boolean; bos?: boolean } = {}): number[] {
    const ids: number[] = [];
    const encoder = new TextEncoder();
    for (const char of text === "" ? "" : " " + text) {
      const bytes = encoder.encode(char);
      const id = this.#pieceId.get(byteString(bytes));
      if (id !== undefined) ids.push(id);
      else for (const byte of bytes) ids.push(FIRST_BYTE + byte);
    }
    mergePairs(ids, (left, right) => {
      const id = this.#pieceId.get(this.#pieces[left]! + this.#pieces[right]!);
      return id === undefined ? null : { id, score: this.#scores[id]! };
    });
    return options.bos ? [BOS, ...ids] : ids;
  }

  bytesOf(id: number, previous?: number): Uint8Array {
    const piece = this.#piece(id);
    const byte = BYTE_TOKEN.exec(piece);
    if (byte) return Uint8Array.of(Number("0x" + byte[1]));
    const bytes = Uint8Array.from(piece, (char) => char.charCodeAt(0));
    return previous === BOS && piece.startsWith(" ") ? bytes.subarray(1) : bytes;
  }

  isSpecial(id: number): boolean {
    return id >= 0 && id < FIRST_BYTE;
  }

  idOf(token: string): number | null {
    const id = this.#pieces.indexOf(byteString(new TextEncoder().encode(token)));
    return id < 0 ? null : id;
  }

  decode(ids: readonly number[], options?: { skipSpecial?: boolean; previous?: number }): string {
    return decodeTokens(this, ids, options);
  }

  toJSON(): object {
    return { type: "llama2c", pieces: this.#pieces, scores: Array.from(this.#scores) };
  }

  #piece(id: number): string {
    const piece = this.#pieces[id];
    if (piece === undefined) throw new RangeError(`token ${id}: the vocabulary has ${this.vocabSize} tokens`);
    return piece;
  }
}

function byteString(bytes: Uint8Array): string {
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return text;
}
