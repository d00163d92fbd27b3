import assert from "node:assert/strict";
import { test } from "node:test";
import { decodeTokens } from "../../src/model/byte_level.ts";
import type { Tokenizer } from "../../src/model/tokenizer.ts";
import { Random } from "../../src/runtime/random.ts";
import { TextStream, type TextStreamOptions } from "../../src/runtime/text_stream.ts";

/** A tokenizer whose token `i` is `pieces[i]`; pieces that begin with `<|` are control tokens. */
function tokenizerOf(pieces: readonly (string | Uint8Array)[]): Tokenizer {
  const bytes = pieces.map((piece) => typeof piece === "string" ? new TextEncoder().encode(piece) : piece);
  const tokenizer: Tokenizer = {
    vocabSize: pieces.length,
    bosId: null,
    addBos: false,
    stopIds: [],
    encode: () => [],
    bytesOf: (id, previous) => previous === -1 ? bytes[id]!.subarray(1) : bytes[id]!,
    isSpecial: (id) => String(pieces[id]).startsWith("<|"),
    idOf: () => null,
    decode: (ids, options) => decodeTokens(tokenizer, ids, options),
    toJSON: () => ({}),
  };
  return tokenizer;
}

/** All text of a stream, and after how many tokens it stopped. */
function run(
  pieces: readonly (string | Uint8Array)[],
  options?: TextStreamOptions,
): { text: string; at: number | null } {
  const stream = new TextStream(tokenizerOf(pieces), options);
  let text = "", at: number | null = null;
  pieces.forEach((_, id) => {
    const part = stream.push(id);
    text += part.text;
    if (part.stopped) at ??= id + 1;
  });
  return { text: text + stream.end(), at };
}

/** `bytes` in pieces of 1 to `most` bytes. */
function cuts(bytes: Uint8Array, most: number, random: Random): Uint8Array[] {
  const pieces: Uint8Array[] = [];
  for (let at = 0; at < bytes.length;) {
    const n = 1 + Math.floor(random.uniform() * most);
    pieces.push(bytes.subarray(at, at + n));
    at += n;
  }
  return pieces;
}

test("TextStream: a character comes when its last byte does", () => {
  const smile = new TextEncoder().encode("🙂");
  const stream = new TextStream(tokenizerOf([...smile].map((byte) => Uint8Array.of(byte))));
  assert.deepEqual([0, 1, 2, 3].map((id) => stream.push(id).text), ["", "", "", "🙂"]);
  assert.equal(stream.end(), "");
});

test("TextStream: any bytes in any cuts give what TextDecoder gives of the whole", () => {
  const random = new Random(1);
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  // Leads, continuations and both sides of every limit of the second byte, so that most sequences are nearly right.
  const alphabet = [
    0x41,
    0x7f,
    0x80,
    0x8f,
    0x90,
    0x9f,
    0xa0,
    0xbf,
    0xc0,
    0xc1,
    0xc2,
    0xdf,
    0xe0,
    0xe1,
    0xed,
    0xef,
    0xbb,
  ];
  alphabet.push(0xf0, 0xf1, 0xf4, 0xf5, 0xff);
  for (let round = 0; round < 4000; ++round) {
    const bytes = Uint8Array.from(
      { length: 12 },
      () => alphabet[Math.floor(random.uniform() * alphabet.length)]!,
    );
    assert.equal(run(cuts(bytes, 3, random)).text, decoder.decode(bytes), bytes.join(" "));
  }
});

test("TextStream: a byte order mark is text", () => {
  assert.equal(run([Uint8Array.of(0xef, 0xbb), Uint8Array.of(0xbf, 0x61), "\ufeffb"]).text, "\ufeffa\ufeffb");
});

test("TextStream: invalid bytes come at once, an unfinished character at the end", () => {
  // Second bytes that no character has: overlong, a surrogate, past U+10FFFF.
  const wrong = [[0xe0, 0x9f], [0xed, 0xa0], [0xf0, 0x8f], [0xf4, 0x90], [0xc1, 0x80]];
  const stream = new TextStream(tokenizerOf([...wrong, [0xf0, 0x9f]].map((bytes) => Uint8Array.from(bytes))));
  for (const id of wrong.keys()) assert.deepEqual(stream.push(id), { text: "\ufffd\ufffd", stopped: false });
  for (const lead of [0x80, 0xc1, 0xf5]) {
    assert.equal(new TextStream(tokenizerOf([Uint8Array.of(lead)])).push(0).text, "\ufffd");
  }
  assert.deepEqual(stream.push(wrong.length), { text: "", stopped: false });
  assert.equal(stream.end(), "\ufffd");
  assert.equal(stream.end(), "");
});

test("TextStream: control tokens are left out unless asked for, also inside a character", () => {
  const pieces = ["a", Uint8Array.of(0xc3), "<|end|>", Uint8Array.of(0xa9), "b"];
  assert.equal(run(pieces).text, "aéb");
  assert.equal(run(pieces, { skipSpecial: false }).text, "a\ufffd<|end|>\ufffdb");
});

test("TextStream: a stop text ends it, in one token, across tokens, or inside one", () => {
  assert.deepEqual(run(["one", "STOP", "two"], { stop: ["STOP"] }), { text: "one", at: 2 });
  assert.deepEqual(run(["one S", "TO", "P two"], { stop: ["STOP"] }), { text: "one ", at: 3 });
  assert.deepEqual(run(["one STOP two"], { stop: ["STOP"] }), { text: "one ", at: 1 });
  assert.deepEqual(run(["one STO", "ST", "OP"], { stop: ["STOP"] }), { text: "one STO", at: 3 });
  assert.deepEqual(run(["aab", "aaa", "b"], { stop: ["aaab"] }), { text: "aab", at: 3 });
  assert.deepEqual(run(["x", "\n", "\n"], { stop: ["\n\n"] }), { text: "x", at: 3 });
});

test("TextStream: what may begin a stop text is held back, and no more", () => {
  const stream = new TextStream(tokenizerOf(["one S", "T", "AY S"]), { stop: ["STOP", "END"] });
  assert.deepEqual([0, 1, 2].map((id) => stream.push(id).text), ["one ", "", "STAY "]);
  assert.equal(stream.end(), "S");
});

test("TextStream: after a stop text nothing comes", () => {
  const stream = new TextStream(tokenizerOf(["a.b", "c"]), { stop: ["."] });
  assert.deepEqual(stream.push(0), { text: "a", stopped: true });
  assert.deepEqual(stream.push(1), { text: "", stopped: true });
  assert.equal(stream.end(), "");
});

test("TextStream: of several stop texts the first to be complete counts, whatever the cuts", () => {
  const stop = ["abcd", "bc", "xbc", "é🙂", "\ufffd!"];
  const random = new Random(2);
  const wanted: [string, string][] = [
    ["-abcd-", "-a"],
    ["-xbc", "-"],
    ["-abxabd", "-abxabd"],
    ["ñé🙂-", "ñ"],
    ["é-🙂", "é-🙂"],
  ];
  for (const [text, shown] of wanted) {
    for (let round = 0; round < 100; ++round) {
      assert.equal(run(cuts(new TextEncoder().encode(text), 4, random), { stop }).text, shown);
      stop.reverse();
    }
  }
});

test("TextStream: a stop text that the end completes still counts", () => {
  assert.equal(run(["a", Uint8Array.of(0xc3)], { stop: ["\ufffd"] }).text, "a");
});

test("TextStream: the tokenizer is told the token before", () => {
  assert.equal(run([" a", " b"], { previous: -1 }).text, "a b");
});

test("TextStream: an empty stop text is refused", () => {
  assert.throws(() => new TextStream(tokenizerOf([]), { stop: ["x", ""] }), RangeError);
});
