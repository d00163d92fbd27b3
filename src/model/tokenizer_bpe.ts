/** Byte-level BPE from a GGUF file's metadata or a `tokenizer.json`, vocabulary and merges checked. */
import { FormatError } from "../errors.ts";
import { type BpeSpec, BpeTokenizer, idsByText, type UnicodeForm } from "./bpe.ts";
import { ggufPreTokenizer, jsonNormalizer, jsonPreTokenizer, show } from "./pre_tokenizer.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** Spelled as bytes; a control token; text as it stands, found in any text (GGUF's "user defined"). */
type Kind = "normal" | "control" | "added";

/** What a tokenizer is made of, read from either kind of file and not yet checked against each other. */
interface BpeParts {
  readonly file: string;
  readonly offset: number;
  /** By id; undefined where an id has no token. */
  readonly tokens: readonly (string | undefined)[];
  readonly kind: (id: number) => Kind;
  /** `"left right"` or a pair each. */
  readonly merges: readonly unknown[];
  readonly ignoreMerges: boolean;
  readonly normalizers: readonly UnicodeForm[];
  readonly preTokenizer: BpeSpec["preTokenizer"];
  /** Control tokens that take the white space on a side with them. */
  readonly strip: { readonly left: ReadonlySet<number>; readonly right: ReadonlySet<number> };
  readonly bosId: number | null;
  readonly addBos: boolean;
  readonly stopIds: readonly (number | null)[];
}

/** Ends of a turn or a text, by the names that model families give them; llama.cpp keeps such a list as well. */
const STOP_NAMES: readonly string[] = [
  "<|im_end|>",
  "<|eot_id|>",
  "<|eom_id|>",
  "<|endoftext|>",
  "<|end_of_text|>",
  "<|end|>",
  "<end_of_turn>",
  "</s>",
];

/** No published vocabulary is near it; a `tokenizer.json` that names a higher id would size an array by it. */
const MAX_TOKENS = 1 << 22;

/**
 * The tokenizer of a GGUF file, from its `tokenizer.ggml.*` keys.
 *
 * @param file For errors, as is `offset`, where the metadata begin.
 * @throws {FormatError} If the model is not `gpt2`, the pre-tokenizer is unknown, a key is missing or of the wrong type, a token's type is
 * unknown, or a merge is not two known tokens that make a third. An id of BOS or EOS outside the vocabulary is passed over, as llama.cpp does.
 */
export function bpeFromGguf(metadata: ReadonlyMap<string, unknown>, file: string, offset: number): Tokenizer {
  const fail = (key: string, detail: string) =>
    new FormatError(file, offset, `tokenizer.ggml.${key}: ${detail}`);
  const value = (key: string) => metadata.get(`tokenizer.ggml.${key}`);
  const model = value("model");
  if (model !== "gpt2") {
    throw fail("model", `${show(model)} found, only gpt2 (byte-level BPE) is supported`);
  }
  const tokens = value("tokens");
  if (!Array.isArray(tokens) || tokens.length === 0) throw fail("tokens", "a list of strings is wanted");
  const bad = tokens.findIndex((token) => typeof token !== "string");
  if (bad >= 0) throw fail("tokens", `token ${bad} is ${show(tokens[bad])}, not a string`);
  const types = value("token_type");
  if (types !== undefined && !isArrayLike(types)) throw fail("token_type", "a list of integers is wanted");
  if (types && types.length !== tokens.length) {
    throw fail("token_type", `${types.length} types for ${tokens.length} tokens`);
  }
  const kinds = tokens.map((_, id) => {
    const kind = types ? GGUF_KIND[Number(types[id])] : "normal";
    if (!kind) throw fail("token_type", `type ${show(types?.[id])} of token ${id} is not one of 1 to 6`);
    return kind;
  });
  const merges = value("merges");
  if (!Array.isArray(merges)) throw fail("merges", "a list of strings is wanted");
  const pre = value("pre") ?? "default";
  const known = typeof pre === "string" ? ggufPreTokenizer(pre) : null;
  if (!known) {
    throw fail("pre", `the pre-tokenizer ${show(pre)} is not supported: use the model's safetensors files`);
  }
  const id = (key: string) => idInside(value(key), tokens.length);
  const addBos = value("add_bos_token");
  return makeTokenizer({
    file,
    offset,
    tokens,
    kind: (id) => kinds[id]!,
    merges,
    ignoreMerges: known.ignoreMerges,
    normalizers: known.normalizers,
    preTokenizer: known.preTokenizer,
    strip: { left: new Set(), right: new Set() },
    bosId: id("bos_token_id"),
    addBos: typeof addBos === "boolean" ? addBos : known.addBos,
    stopIds: [id("eos_token_id"), id("eot_token_id"), id("eom_token_id")],
  });
}

/** GGUF's token types: normal, unknown, control, user defined, unused, byte. */
const GGUF_KIND: readonly (Kind | undefined)[] = [
  undefined,
  "normal",
  "control",
  "control",
  "added",
  "normal",
  "normal",
];

/**
 * The tokenizer of a folder of safetensors files.
 *
 * @param json The parsed `tokenizer.json`: a BPE model over bytes; its post-processor says whether BOS is added.
 * @param config The parsed `tokenizer_config.json`, or null: `bos_token`, `eos_token`, `add_bos_token`. `eos_token_id`, of a
 * `config.json` or `generation_config.json`, counts as well where the caller has put it in: a number or a list.
 * @param rows The embedding's rows: ids from the vocabulary's end up to there are padding (Qwen2.5 has 271), which a model can still
 * draw; they stand for no bytes.
 * @throws {FormatError} If something is missing, contradicts itself, or is a kind that byte-level BPE has no use for.
 */
export function bpeFromTokenizerJson(json: unknown, config: unknown, file: string, rows = 0): Tokenizer {
  const fail = (path: string, detail: string) => new FormatError(file, 0, `${path}: ${detail}`);
  const root = record(json), model = record(root?.["model"]), vocab = record(model?.["vocab"]);
  if (!root || !model || !vocab) throw fail("model.vocab", "an object of tokens and ids is wanted");
  if ((model["type"] ?? "BPE") !== "BPE" || model["byte_fallback"] === true) {
    throw fail("model.type", `${show(model["type"])} found, only byte-level BPE is supported`);
  }
  for (const key of ["continuing_subword_prefix", "end_of_word_suffix"]) {
    if (model[key]) throw fail(`model.${key}`, `${show(model[key])} found, byte-level BPE has none`);
  }
  if (!Array.isArray(model["merges"])) throw fail("model.merges", "a list of merges is wanted");

  const tokens: (string | undefined)[] = [], kinds: Kind[] = [];
  const place = (text: string, id: unknown, kind: Kind, path: string) => {
    if (typeof id !== "number" || !Number.isInteger(id) || id < 0 || id >= MAX_TOKENS) {
      throw fail(path, `id ${show(id)} of ${show(text)}: an integer from 0 to ${MAX_TOKENS - 1} is wanted`);
    }
    const other = tokens[id];
    if (other !== undefined && other !== text) {
      throw fail(path, `${show(other)} and ${show(text)} both have id ${id}`);
    }
    tokens[id] = text;
    kinds[id] = kind;
    return id;
  };
  for (const [text, id] of Object.entries(vocab)) place(text, id, "normal", "model.vocab");
  const added = root["added_tokens"] ?? [];
  if (!Array.isArray(added)) throw fail("added_tokens", "a list is wanted");
  const strip = { left: new Set<number>(), right: new Set<number>() };
  for (const [i, entry] of added.entries()) {
    const path = `added_tokens.${i}`, token = record(entry), text = token?.["content"];
    if (!token || typeof text !== "string") throw fail(path, "an object with a content is wanted");
    if (token["single_word"] === true) throw fail(path, "single_word is not supported");
    const id = place(text, token["id"], token["special"] === true ? "control" : "added", path);
    if (token["lstrip"] === true) strip.left.add(id);
    if (token["rstrip"] === true) strip.right.add(id);
  }
  tokens.length = Math.max(tokens.length, rows);

  const settings = record(config) ?? {};
  const idOf = (name: unknown) => {
    const text = typeof name === "string" ? name : record(name)?.["content"];
    const id = typeof text === "string" ? tokens.indexOf(text) : -1;
    return id < 0 ? null : id;
  };
  const first = firstOfTemplate(root["post_processor"]);
  const templateBos = first === null ? null : idOf(first);
  if (first !== null && templateBos === null) {
    throw fail("post_processor", `${show(first)} is not in the vocabulary`);
  }
  const eosIds: readonly unknown[] = [settings["eos_token_id"]].flat();
  return makeTokenizer({
    file,
    offset: 0,
    tokens,
    kind: (id) => kinds[id] ?? "normal",
    merges: model["merges"],
    ignoreMerges: model["ignore_merges"] === true,
    normalizers: jsonNormalizer(root["normalizer"], fail),
    preTokenizer: jsonPreTokenizer(root["pre_tokenizer"], fail),
    strip,
    bosId: templateBos ?? idOf(settings["bos_token"]),
    addBos: templateBos !== null || settings["add_bos_token"] === true,
    stopIds: [idOf(settings["eos_token"]), ...eosIds.map((id) => idInside(id, tokens.length))],
  });
}

/** The control token that a post-processor puts in front of a text, or null. */
function firstOfTemplate(processor: unknown): string | null {
  const node = record(processor);
  // A Sequence holds processors, and no tokenizer nests one in another.
  const list = node?.["type"] === "Sequence" && Array.isArray(node["processors"])
    ? node["processors"]
    : [node];
  for (const entry of list) {
    const single = record(entry)?.["single"];
    const token = Array.isArray(single) ? record(record(single[0])?.["SpecialToken"])?.["id"] : undefined;
    if (typeof token === "string") return token;
  }
  return null;
}

function makeTokenizer(parts: BpeParts): Tokenizer {
  const { tokens, kind, file, offset } = parts;
  const controls: number[] = [], added: number[] = [];
  tokens.forEach((token, id) => {
    if (token === undefined) return;
    if (kind(id) === "control") controls.push(id);
    else if (kind(id) === "added") added.push(id);
  });
  const idOf = idsByText({ tokens, controls }), merges: number[] = [];
  for (const [i, merge] of parts.merges.entries()) {
    const ids = checkedMerge(merge, i, idOf, file, offset);
    if (ids.every((id) => kind(id) !== "control")) merges.push(...ids);
  }
  const named = STOP_NAMES.map((name) => idOf.get(name) ?? null).filter((id) =>
    id !== null && kind(id) !== "normal"
  );
  const spec: BpeSpec = {
    tokens,
    controls,
    added,
    merges,
    ignoreMerges: parts.ignoreMerges,
    normalizers: parts.normalizers,
    preTokenizer: parts.preTokenizer,
    stripLeft: [...parts.strip.left],
    stripRight: [...parts.strip.right],
    bosId: parts.bosId,
    addBos: parts.addBos,
    stopIds: [...new Set([...parts.stopIds, ...named].filter((id) => id !== null))],
  };
  try {
    return new BpeTokenizer(spec, idOf);
  } catch (cause) {
    throw new FormatError(file, offset, `the tokenizer cannot be built: ${(cause as Error).message}`, {
      cause,
    });
  }
}

/** Ids of the two tokens of a merge, and of what they make. */
function checkedMerge(
  merge: unknown,
  i: number,
  idOf: ReadonlyMap<string, number>,
  file: string,
  offset: number,
): number[] {
  const pair: readonly unknown[] = typeof merge === "string"
    ? merge.split(" ")
    : Array.isArray(merge)
    ? merge
    : [];
  const [left, right] = pair;
  if (pair.length !== 2 || typeof left !== "string" || typeof right !== "string") {
    throw new FormatError(file, offset, `merge ${i} is ${show(merge)}: two tokens are wanted`);
  }
  return [left, right, left + right].map((token) => {
    const id = idOf.get(token);
    if (id !== undefined) return id;
    throw new FormatError(
      file,
      offset,
      `merge ${i} is ${show(merge)}: ${show(token)} is not in the vocabulary`,
    );
  });
}

function idInside(value: unknown, size: number): number | null {
  const id = typeof value === "bigint" ? Number(value) : value;
  return typeof id === "number" && Number.isInteger(id) && id >= 0 && id < size ? id : null;
}

function record(value: unknown): { readonly [key: string]: unknown } | null {
  return typeof value === "object" && value !== null && !Array.isArray(value)
    ? value as { readonly [key: string]: unknown }
    : null;
}

function isArrayLike(value: unknown): value is ArrayLike<unknown> {
  return Array.isArray(value) || ArrayBuffer.isView(value) && !(value instanceof DataView);
}
