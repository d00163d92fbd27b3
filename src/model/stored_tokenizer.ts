/** A tokenizer as a pack keeps it: what `Tokenizer.toJSON` gave, read back and checked. */
import { FormatError } from "../errors.ts";
import { isJsonObject, type JsonObject } from "../format/json.ts";
import { MAX_VOCABULARY } from "../format/limits.ts";
import { type BpeSpec, BpeTokenizer } from "./bpe.ts";
import { jsonNormalizer, jsonPreTokenizer } from "./pre_tokenizer.ts";
import type { Tokenizer } from "./tokenizer.ts";
import { llama2cFromPieces } from "./tokenizer_llama2c.ts";

/**
 * The tokenizer of what was stored.
 *
 * @param json Parsed.
 * @param file For errors, as is `offset`, where it begins.
 * @throws {FormatError} If a part is missing, of another type, or an id is of no token.
 */
export function storedTokenizer(json: JsonObject, file: string, offset: number): Tokenizer {
  const fail = (path: string, detail: string) =>
    new FormatError(file, offset, `the tokenizer's ${path}: ${detail}`);
  const type = json["type"];
  if (type === "llama2c") return storedLlama2c(json, fail);
  if (type !== "bpe") throw fail("type", "bpe or llama2c wanted");
  const tokens = listOf(json, "tokens", fail);
  if (!tokens.every((token) => token === null || typeof token === "string")) {
    throw fail("tokens", "a list of strings wanted");
  }
  const count = tokens.length;
  const isId = (id: unknown): id is number => typeof id === "number" && id >= 0 && id < count && id % 1 === 0;
  const ids = (name: string): number[] => {
    const list = listOf(json, name, fail);
    for (let i = 0; i < list.length; i++) {
      if (!isId(list[i])) throw fail(name, `ids from 0 to ${count - 1} wanted`);
    }
    return list as number[];
  };
  const flag = (name: string): boolean => {
    const value = json[name];
    if (typeof value !== "boolean") throw fail(name, "true or false wanted");
    return value;
  };
  const merges = ids("merges"), { bosId = null, preTokenizer } = json;
  if (merges.length % 3 !== 0) throw fail("merges", "three ids each wanted");
  if (bosId !== null && !isId(bosId)) throw fail("bosId", `an id from 0 to ${tokens.length - 1} wanted`);
  const steps = isJsonObject(preTokenizer) ? preTokenizer["pretokenizers"] : undefined;
  const spec: BpeSpec = {
    tokens: tokens as (string | null)[],
    controls: ids("controls"),
    added: ids("added"),
    merges,
    ignoreMerges: flag("ignoreMerges"),
    normalizers: listOf(json, "normalizers", fail).flatMap((form) => jsonNormalizer({ type: form }, fail)),
    preTokenizer: jsonPreTokenizer({ type: "Sequence", pretokenizers: steps }, fail),
    stripLeft: ids("stripLeft"),
    stripRight: ids("stripRight"),
    bosId,
    addBos: flag("addBos"),
    stopIds: ids("stopIds"),
  };
  try {
    return new BpeTokenizer(spec);
  } catch (cause) {
    throw new FormatError(file, offset, `the tokenizer cannot be built: ${(cause as Error).message}`, {
      cause,
    });
  }
}

type Fail = (path: string, detail: string) => Error;

function storedLlama2c(json: JsonObject, fail: Fail): Tokenizer {
  const pieces = listOf(json, "pieces", fail), scores = listOf(json, "scores", fail);
  if (!pieces.every((piece) => typeof piece === "string")) throw fail("pieces", "a list of strings wanted");
  if (!scores.every(Number.isFinite) || scores.length !== pieces.length) {
    throw fail("scores", `${pieces.length} finite numbers wanted, one a piece`);
  }
  return llama2cFromPieces(pieces, Float32Array.from(scores as number[]), (detail) => fail("pieces", detail));
}

function listOf(json: JsonObject, name: string, fail: Fail): readonly unknown[] {
  const value = json[name];
  if (!Array.isArray(value) || value.length > 3 * MAX_VOCABULARY) throw fail(name, "a list wanted");
  return value;
}
