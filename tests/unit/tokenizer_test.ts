import assert from "node:assert/strict";
import { test } from "node:test";
import { FormatError } from "../../src/errors.ts";
import { byteLevelBytes, byteLevelChar } from "../../src/model/byte_level.ts";
import { bpeFromGguf, bpeFromTokenizerJson } from "../../src/model/tokenizer_bpe.ts";
import { llama2cTokenizer } from "../../src/model/tokenizer_llama2c.ts";
import { Random } from "../../src/runtime/random.ts";

const CONTROLS = ["<|end|>", "<|begin|>", "<|im_end|>"];
const BYTES = Array.from({ length: 256 }, (_, byte) => byteLevelChar(byte));
const MERGES = ["t h", "th e", "Ġ the", "1 2"];
const RESULTS = ["th", "the", "Ġthe", "12"];
/** 0 to 2 control, 3 to 258 bytes, then the merges' results, then a token that is found as it stands. */
const TOKENS = [...CONTROLS, ...BYTES, ...RESULTS, "<tool>"];
const TYPES: number[] = TOKENS.map((_, id) => id < 3 ? 3 : id === TOKENS.length - 1 ? 4 : 1);
const TH = 259, THE = 260, _THE = 261, N12 = 262, TOOL = 263;

/** Ids of single bytes. */
function bytes(text: string): number[] {
  return [...new TextEncoder().encode(text)].map((byte) => byte + 3);
}

function gguf(changes: { readonly [key: string]: unknown } = {}) {
  const keys: { [key: string]: unknown } = {
    model: "gpt2",
    pre: "smollm",
    tokens: TOKENS,
    token_type: TYPES,
    merges: MERGES,
    bos_token_id: 1,
    eos_token_id: 0,
    add_bos_token: false,
    ...changes,
  };
  const entries = Object.entries(keys).filter(([, value]) => value !== undefined);
  return bpeFromGguf(new Map(entries.map(([key, value]) => [`tokenizer.ggml.${key}`, value])), "a.gguf", 24);
}

function json(changes: { readonly [key: string]: unknown } = {}, config: unknown = null) {
  const root = {
    added_tokens: CONTROLS.map((content, id) => ({ id, content, special: true })),
    normalizer: null,
    pre_tokenizer: { type: "ByteLevel", add_prefix_space: false },
    post_processor: null,
    decoder: { type: "ByteLevel" },
    ...changes,
    model: {
      type: "BPE",
      vocab: Object.fromEntries(TOKENS.slice(0, TOOL).map((token, id) => [token, id])),
      merges: MERGES,
      ...changes["model"] as object | undefined,
    },
  };
  return bpeFromTokenizerJson(root, config, "tokenizer.json");
}

/** Asserts a FormatError that names the file and says `pattern`. */
function refused(make: () => unknown, pattern: RegExp): void {
  assert.throws(make, (error: Error) => {
    assert.ok(error instanceof FormatError, `${error}`);
    assert.match(error.message, /^Cannot read (a\.gguf: at byte 24|tokenizer\.json: at byte 0): /);
    assert.match(error.message, pattern);
    return true;
  });
}

test("byteLevelChar, byteLevelBytes: a bijection of all bytes, as GPT-2 has it", () => {
  assert.equal(byteLevelChar(32), "Ġ");
  assert.equal(byteLevelChar(10), "Ċ");
  assert.equal(byteLevelChar(65), "A");
  assert.equal(byteLevelChar(173), "Ń");
  assert.equal(new Set(BYTES).size, 256);
  assert.deepEqual([...byteLevelBytes(BYTES.join(""))!], Array.from({ length: 256 }, (_, byte) => byte));
  assert.equal(byteLevelBytes("a b"), null);
  assert.throws(() => byteLevelChar(256), RangeError);
});

test("bpeFromGguf: merges by rank, bytes where there is no merge", () => {
  const tokenizer = gguf();
  assert.deepEqual(tokenizer.encode("the the"), [THE, _THE]);
  assert.deepEqual(tokenizer.encode("éth"), [...bytes("é"), TH]);
  assert.deepEqual(tokenizer.encode(""), []);
  assert.equal(tokenizer.vocabSize, TOKENS.length);
});

test("bpeFromGguf: a control token is recognised only where that is asked for", () => {
  const tokenizer = gguf();
  assert.deepEqual(tokenizer.encode("the<|end|>"), [THE, ...bytes("<|end|>")]);
  assert.deepEqual(tokenizer.encode("the<|end|><|im_end|>the<|", { special: true }), [
    THE,
    0,
    2,
    THE,
    ...bytes("<|"),
  ]);
  assert.deepEqual([0, 2, THE, TOOL, -1, 999].map((id) => tokenizer.isSpecial(id)), [
    true,
    true,
    false,
    false,
    false,
    false,
  ]);
});

test("bpeFromGguf: merges cannot make a control token, nor can a whole word", () => {
  const types = TYPES.map((type, id) => id === THE ? 3 : type);
  for (const pre of ["smollm", "llama-bpe"]) {
    const tokenizer = gguf({ token_type: types, pre, merges: ["t h", "th e"] });
    assert.deepEqual(tokenizer.encode("the"), [TH, ...bytes("e")]);
    assert.deepEqual(tokenizer.encode("the", { special: true }), [THE]);
  }
});

test("bpeFromGguf: a user-defined token is found in any text, and its text is not spelled as bytes", () => {
  const tokenizer = gguf({ tokens: TOKENS.with(TOOL, "<tool_é>") });
  assert.deepEqual(tokenizer.encode("the<tool_é>"), [THE, TOOL]);
  assert.equal(tokenizer.decode([TOOL]), "<tool_é>");
});

test("bpeFromGguf: numbers of any kind stand alone under smollm, by threes under llama-bpe, together under gpt-2", () => {
  // "½" is no decimal digit; its two bytes are spelled "Â" and "½".
  const changes = {
    tokens: [...TOKENS.with(TOOL, "Â½Â½"), "Â½"],
    token_type: [...TYPES.with(TOOL, 1), 1],
    merges: [...MERGES, "Â ½", "Â½ Â½"],
  };
  const encode = (pre: string) => gguf({ ...changes, pre }).encode("12½½");
  assert.deepEqual(encode("smollm"), [...bytes("12"), 264, 264]);
  assert.deepEqual(encode("llama-bpe"), [N12, 264, 264]);
  assert.deepEqual(encode("gpt-2"), [N12, TOOL]);
});

test("bpeFromGguf: llama-bpe takes a word that is a token as it is, and adds BOS unless told otherwise", () => {
  const settings = { pre: "llama-bpe", merges: ["t h"], add_bos_token: undefined };
  assert.deepEqual(gguf(settings).encode("the", { bos: true }), [1, THE]);
  assert.deepEqual(gguf({ ...settings, pre: "dbrx" }).encode("the", { bos: true }), [TH, ...bytes("e")]);
  assert.deepEqual(gguf({ ...settings, add_bos_token: false }).encode("the", { bos: true }), [THE]);
});

test("bpeFromGguf: qwen2 composes characters first", () => {
  assert.deepEqual(gguf({ pre: "qwen2" }).encode("e\u0301"), bytes("é"));
  assert.deepEqual(gguf({ pre: "smollm" }).encode("e\u0301"), bytes("e\u0301"));
});

test("bpeFromGguf: BOS only where it is asked for and the model adds it", () => {
  const adds = gguf({ add_bos_token: true }), doesNot = gguf();
  assert.deepEqual(adds.encode("the", { bos: true }), [1, THE]);
  assert.deepEqual(adds.encode("the"), [THE]);
  assert.deepEqual(doesNot.encode("the", { bos: true }), [THE]);
  assert.deepEqual([adds.addBos, doesNot.addBos, doesNot.bosId], [true, false, 1]);
  assert.equal(gguf({ add_bos_token: true, bos_token_id: undefined }).addBos, false);
});

test("bpeFromGguf: stops are EOS, end of turn, and control tokens by known names; ids outside are passed over", () => {
  assert.deepEqual(gguf().stopIds, [0, 2]);
  assert.deepEqual(gguf({ eos_token_id: 5, eot_token_id: 0n }).stopIds, [5, 0, 2]);
  assert.deepEqual(gguf({ eos_token_id: 1_000_000, bos_token_id: -1 }).stopIds, [2, 0]);
  assert.equal(gguf({ bos_token_id: 264 }).bosId, null);
  assert.deepEqual(
    gguf({ token_type: undefined }).stopIds,
    [0],
    "a plain token is no end, whatever its text",
  );
});

test("bpeFromGguf: contradictions are refused", () => {
  refused(() => gguf({ merges: ["t h", "the"] }), /merge 1 is "the": two tokens are wanted/);
  refused(() => gguf({ merges: ["t h e"] }), /merge 0 is "t h e": two tokens/);
  refused(() => gguf({ merges: ["zz t"] }), /merge 0 is "zz t": "zz" is not in the vocabulary/);
  refused(() => gguf({ merges: ["h t"] }), /"ht" is not in the vocabulary/);
  refused(() => gguf({ merges: [7] }), /merge 0 is 7/);
  refused(() => gguf({ merges: undefined }), /ggml\.merges/);
  refused(() => gguf({ model: "llama" }), /ggml\.model: "llama" found, only gpt2/);
  refused(() => gguf({ model: undefined }), /ggml\.model: undefined found/);
  refused(() => gguf({ pre: "brand-new" }), /ggml\.pre: the pre-tokenizer "brand-new" is not supported/);
  refused(() => gguf({ pre: 3 }), /ggml\.pre/);
  refused(() => gguf({ tokens: [] }), /ggml\.tokens/);
  refused(() => gguf({ tokens: TOKENS.slice(1) }), /264 types for 263 tokens/);
  refused(() => gguf({ tokens: [...TOKENS.slice(1), 5] }), /token 263 is 5, not a string/);
  refused(() => gguf({ token_type: TYPES.with(4, 9) }), /type 9 of token 4/);
  refused(() => gguf({ token_type: "111" }), /token_type: a list/);
});

test("bpeFromGguf: the same text at two ids encodes to the first, and both decode", () => {
  const tokenizer = gguf({ tokens: TOKENS.with(TOOL, "the"), token_type: TYPES.with(TOOL, 1) });
  assert.deepEqual(tokenizer.encode("the"), [THE]);
  assert.equal(tokenizer.decode([THE, TOOL]), "thethe");
});

test("bpeFromGguf: tokens named like an object's own properties are tokens", () => {
  const tokens = [...TOKENS, "__proto__", "constructor", "toString"];
  const tokenizer = gguf({ tokens, token_type: tokens.map((_, id) => TYPES[id] ?? 1), pre: "llama-bpe" });
  assert.deepEqual(tokenizer.encode("constructor"), [265]);
  assert.equal(tokenizer.idOf("__proto__"), 264);
  assert.equal(tokenizer.idOf("hasOwnProperty"), null);
});

test("Tokenizer.decode: bytes of all tokens together, with or without control tokens", () => {
  const tokenizer = gguf();
  const ids = [...bytes("\ufeff"), 0, ...bytes("é").slice(0, 1), ...bytes("é")];
  assert.equal(tokenizer.decode(ids), "\ufeff<|end|>\ufffdé");
  assert.equal(tokenizer.decode(ids, { skipSpecial: true }), "\ufeff\ufffdé");
  assert.equal(tokenizer.decode([]), "");
  for (const id of [-1, 264, 0.5, NaN]) assert.throws(() => tokenizer.decode([id]), RangeError);
});

test("bpeFromTokenizerJson: merges as strings and as pairs are the same", () => {
  const pairs = json({ model: { merges: MERGES.map((merge) => merge.split(" ")) } });
  assert.deepEqual(json().encode("the the 12"), [THE, _THE, ...bytes(" "), N12].flat());
  assert.deepEqual(pairs.encode("the the 12"), json().encode("the the 12"));
});

test("bpeFromTokenizerJson: BOS from the post-processor, alone or in a sequence, else from the config", () => {
  const template = {
    type: "TemplateProcessing",
    single: [{ SpecialToken: { id: "<|begin|>", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
  };
  for (
    const post_processor of [template, { type: "Sequence", processors: [{ type: "ByteLevel" }, template] }]
  ) {
    assert.deepEqual(json({ post_processor }).encode("the", { bos: true }), [1, THE]);
  }
  const config = { bos_token: { content: "<|begin|>" }, eos_token: "<|end|>" };
  assert.deepEqual([json({}, config).bosId, json({}, config).addBos], [1, false]);
  assert.equal(json({}, { ...config, add_bos_token: true }).addBos, true);
  assert.deepEqual(json({}, config).stopIds, [0, 2]);
  assert.deepEqual(json({}, { eos_token_id: [5, 1, 4096] }).stopIds, [5, 1, 2, 0]);
  const unknown = { ...template, single: [{ SpecialToken: { id: "<s>" } }] };
  refused(() => json({ post_processor: unknown }), /post_processor: "<s>" is not in the vocabulary/);
});

test("bpeFromTokenizerJson: Digits are all of Unicode's numbers", () => {
  const individual = { type: "Digits", individual_digits: true };
  const pre_tokenizer = (digits: object) => ({
    type: "Sequence",
    pretokenizers: [digits, { type: "ByteLevel", use_regex: false }],
  });
  assert.deepEqual(json({ pre_tokenizer: pre_tokenizer(individual) }).encode("12"), bytes("12"));
  assert.deepEqual(json({ pre_tokenizer: pre_tokenizer({ type: "Digits" }) }).encode("12"), [N12]);
  const half = json({
    pre_tokenizer: pre_tokenizer({ type: "Digits" }),
    model: { vocab: { a: 0, ["Â½"]: 1, ["Â½a"]: 2, "Â": 3, "½": 4 }, merges: ["Â ½", "Â½ a"] },
    added_tokens: [],
  });
  assert.deepEqual(half.encode("½a"), [1, 0]);
});

test("bpeFromTokenizerJson: padding rows of the embedding are tokens without bytes", () => {
  const root = {
    added_tokens: [],
    pre_tokenizer: { type: "ByteLevel" },
    model: { vocab: { a: 0, b: 2 }, merges: [] },
  };
  const tokenizer = bpeFromTokenizerJson(root, null, "tokenizer.json", 5);
  assert.equal(tokenizer.vocabSize, 5);
  assert.equal(tokenizer.decode([0, 1, 2, 3, 4]), "ab");
  assert.equal(tokenizer.isSpecial(4), false);
  assert.throws(() => tokenizer.decode([5]), RangeError);
  assert.equal(bpeFromTokenizerJson(root, null, "tokenizer.json", 1).vocabSize, 3);
});

test("bpeFromTokenizerJson: ByteLevel cuts words unless told otherwise", () => {
  const model = { vocab: { a: 0, b: 1, "Ġ": 2, "aĠ": 3 }, merges: ["a Ġ"] };
  const encode = (pre_tokenizer: object) => json({ model, pre_tokenizer, added_tokens: [] }).encode("a b");
  assert.deepEqual(encode({ type: "ByteLevel" }), [0, 2, 1]);
  assert.deepEqual(encode({ type: "ByteLevel", use_regex: false }), [3, 1]);
});

test("bpeFromTokenizerJson: the longest of the control tokens that begin at one place", () => {
  const added_tokens = ["<|end", "<|end|>", "<|"].map((content, i) => ({
    id: 300 + i,
    content,
    special: true,
  }));
  assert.deepEqual(json({ added_tokens }).encode("<|end|><|end<|e", { special: true }), [
    301,
    300,
    302,
    ...bytes("e"),
  ]);
});

test("bpeFromTokenizerJson: an added token that takes white space with it", () => {
  const added_tokens = [{ id: 0, content: "<|end|>", special: true, lstrip: true, rstrip: true }];
  assert.deepEqual(json({ added_tokens }).encode("the <|end|>\n the", { special: true }), [THE, 0, THE]);
});

test("bpeFromTokenizerJson: what is wrong is named", () => {
  const vocab = { a: 0, b: 1 }, none: string[] = [], added_tokens: object[] = [];
  const model = (changes: object) => () => json({ added_tokens, model: { vocab, merges: none, ...changes } });
  refused(model({ vocab: { a: 0, b: 0 } }), /"a" and "b" both have id 0/);
  for (const id of [-1, 0.5, 2 ** 31, "1", null]) {
    refused(model({ vocab: { a: id } }), /model\.vocab: id .* of "a"/);
  }
  refused(model({ merges: ["a b"] }), /merge 0 is "a b": "ab" is not in the vocabulary/);
  refused(model({ merges: [["a"]] }), /merge 0 is \["a"\]: two tokens/);
  refused(model({ merges: [{ toString: 1 }] }), /merge 0 is an object/);
  refused(model({ merges: null }), /model\.merges/);
  refused(model({ type: "Unigram" }), /model\.type: "Unigram"/);
  refused(model({ byte_fallback: true }), /byte-level/);
  refused(model({ end_of_word_suffix: "</w>" }), /end_of_word_suffix/);
  for (const root of [null, [], 5, "x", {}, { model: {} }, { model: { vocab: [] } }]) {
    refused(() => bpeFromTokenizerJson(root, null, "tokenizer.json"), /model\.vocab/);
  }
  refused(() => json({ added_tokens: [{ id: 1, content: "x" }] }), /both have id 1/);
  refused(() => json({ added_tokens: [5] }), /added_tokens\.0/);
  refused(() => json({ added_tokens: {} }), /added_tokens/);
  refused(() => json({ added_tokens: [{ id: 0, content: "<|end|>", single_word: true }] }), /single_word/);
  refused(() => json({ pre_tokenizer: null }), /pre_tokenizer/);
  refused(() => json({ pre_tokenizer: { type: "Metaspace" } }), /"Metaspace" found/);
  refused(() => json({ pre_tokenizer: { type: { toString: 1 } } }), /an object found/);
  refused(() => json({ pre_tokenizer: { type: "Sequence", pretokenizers: [] } }), /no ByteLevel/);
  refused(() => json({ pre_tokenizer: { type: "ByteLevel", add_prefix_space: true } }), /add_prefix_space/);
  refused(() => json({ normalizer: { type: "Lowercase" } }), /normalizer: "Lowercase"/);
  refused(() => json({ normalizer: "NFC" }), /normalizer/);
  const split = (changes: object) => () =>
    json({
      pre_tokenizer: {
        type: "Sequence",
        pretokenizers: [{ type: "Split", behavior: "Isolated", pattern: { Regex: "a" }, ...changes }, {
          type: "ByteLevel",
        }],
      },
    });
  split({})();
  refused(split({ behavior: "MergedWithNext" }), /"MergedWithNext"/);
  refused(split({ pattern: {} }), /a Regex or a String/);
  refused(split({ pattern: { Regex: "(" } }), /cannot be built/);
});

/** A llama2.c tokenizer file of three control tokens, the bytes, and `pieces`. */
function llama2cFile(pieces: readonly (readonly [string, number])[]): Uint8Array {
  const all = [...["<unk>", "\n<s>\n", "\n</s>\n"].map((text) => [text, 0] as const)];
  for (let byte = 0; byte < 256; ++byte) {
    all.push([`<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`, 0]);
  }
  const parts: number[] = [7, 0, 0, 0];
  for (const [text, score] of [...all, ...pieces]) {
    const bytes = new TextEncoder().encode(text);
    const head = new DataView(new ArrayBuffer(8));
    head.setFloat32(0, score, true);
    head.setInt32(4, bytes.length, true);
    parts.push(...new Uint8Array(head.buffer), ...bytes);
  }
  return Uint8Array.from(parts);
}

const LETTERS = [[" ", -9], ["a", -9], ["b", -9], ["é", -9]] as const;
const WORDS = [["ab", -1], ["aba", -2], ["ba", -0.5], [" a", -1], ["abb", -3]] as const;
const PIECES = [...LETTERS, ...WORDS];
const STORY = () => llama2cTokenizer(llama2cFile(PIECES), 259 + PIECES.length, "tok.bin");

test("llama2cTokenizer: a space in front, the best-scored merge, the leftmost among equals", () => {
  const tokenizer = STORY();
  const pieces = (text: string) => tokenizer.encode(text).map((id) => tokenizer.decode([id]));
  assert.deepEqual(pieces("ab"), [" a", "b"]);
  assert.deepEqual(pieces("bab"), [" ", "ba", "b"]);
  assert.deepEqual(pieces("baba"), [" ", "ba", "ba"]);
  assert.deepEqual(pieces("é"), [" ", "é"]);
  assert.deepEqual(tokenizer.encode("ü"), [259, 3 + 0xc3, 3 + 0xbc]);
  assert.deepEqual(tokenizer.encode(""), []);
  assert.deepEqual(tokenizer.encode("", { bos: true }), [1]);
});

test("llama2cTokenizer: as the quadratic search of run.c on random texts", () => {
  const tokenizer = STORY(), random = new Random(5);
  const piece = (id: number) => id < 259 ? `\0${id}` : PIECES[id - 259]![0];
  for (let round = 0; round < 300; ++round) {
    const text = Array.from({ length: 20 }, () => " aabb"[Math.floor(random.uniform() * 5)]).join("");
    const ids = [...` ${text}`].map((char) => 259 + PIECES.findIndex(([p]) => p === char));
    for (;;) {
      let best: [score: number, at: number, id: number] | null = null;
      for (let i = 0; i + 1 < ids.length; ++i) {
        const k = PIECES.findIndex(([p]) => p === piece(ids[i]!) + piece(ids[i + 1]!));
        if (k >= 0 && (best === null || PIECES[k]![1] > best[0])) best = [PIECES[k]![1], i, 259 + k];
      }
      if (best === null) break;
      ids.splice(best[1], 2, best[2]);
    }
    assert.deepEqual(tokenizer.encode(text), ids, text);
  }
});

test("llama2cTokenizer: the token after BOS loses its leading space; byte tokens are bytes", () => {
  const tokenizer = STORY();
  const ids = tokenizer.encode("a\nü", { bos: true });
  assert.equal(tokenizer.decode(ids, { skipSpecial: true }), "a\nü");
  assert.equal(tokenizer.decode(ids.slice(1)), " a\nü");
  assert.equal(tokenizer.decode(ids.slice(1), { previous: 1 }), "a\nü");
  assert.throws(() => tokenizer.bytesOf(259 + PIECES.length), RangeError);
});

test("llama2cTokenizer: text cannot become a control or byte token", () => {
  const pieces = [..." \n<>su0xA", "<s", "<s>", "<s>\n", "<0", "<0x", "<0x0", "<0x0A"];
  const file = llama2cFile(pieces.map((text) => [text, -1]));
  const tokenizer = llama2cTokenizer(file, 259 + pieces.length, "tok.bin");
  for (const text of ["\n<s>\n", "<unk>", "<0x0A>"]) {
    const ids = tokenizer.encode(text, { special: true });
    assert.ok(ids.every((id) => !tokenizer.isSpecial(id)));
    assert.equal(tokenizer.decode(ids), ` ${text}`);
  }
});

test("llama2cTokenizer: a cut, longer or broken file is refused", () => {
  const file = llama2cFile(PIECES), size = 259 + PIECES.length;
  const isRefused = (bytes: Uint8Array, count = size) =>
    assert.throws(
      () => llama2cTokenizer(bytes, count, "tok.bin"),
      /^FormatError: Cannot read tok\.bin: at byte \d+/,
    );
  for (let end = 0; end < file.length; ++end) isRefused(file.subarray(0, end));
  isRefused(Uint8Array.from([...file, 0]));
  for (const count of [0, -1, 258, size - 1, size + 1, 2 ** 31, NaN]) isRefused(file, count);
  const change = (at: number, value: number[]) => {
    const changed = file.slice();
    changed.set(value, at);
    return changed;
  };
  isRefused(change(8, [0xff, 0xff, 0xff, 0x7f]));
  assert.throws(
    () => llama2cTokenizer(change(8, [0xff, 0xff, 0xff, 0xff]), size, "tok.bin"),
    /token 0 is -1 bytes/,
  );
  isRefused(change(4, [0, 0, 0xc0, 0x7f]));
  isRefused(change(4 + 3 * 8 + 5 + 5 + 6 + 8, [0x41]));
});
