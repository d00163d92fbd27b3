/** Long texts to tokens in runs: the same tokens as in one go. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { bpeFromGguf } from "../../src/model/tokenizer_bpe.ts";
import { encodeText } from "../../src/runtime/encode_text.ts";

const ids = new Map<string, number>();

/** Words as the pre-tokenizers of byte-level BPE make them; `seen`: the length of each text that was tokenised. */
function words(seen: number[] = []): (text: string) => number[] {
  return (text) => {
    seen.push(text.length);
    const found = text.match(/ ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu) ?? [];
    return found.map((word) => {
      if (!ids.has(word)) ids.set(word, ids.size);
      return ids.get(word)!;
    });
  };
}

/** Without a difference of thousands of lines where there is one. */
function assertSame(found: readonly number[], wanted: readonly number[], what = ""): void {
  const at = wanted.findIndex((id, i) => found[i] !== id);
  assert.deepEqual([at, found.length], [-1, wanted.length], what);
}

/** As WikiText-2 has them: lines that begin and end with a space, empty lines, numbers, letters of four bytes. */
const LINES = Array.from(
  { length: 3000 },
  (_, i) =>
    ` \n = Title ${i} = \n \n The ${i % 7} men , it is said , went home\u{10400}\u{10401} 𐐨𐐩 at ${i} @-@ ${
      i * 7
    } . \n`,
).join("");

test("encodeText: runs have the tokens of the whole text", async () => {
  const seen: number[] = [], encode = words(seen), whole = words()(LINES);
  assertSame(await encodeText(encode, LINES), whole);
  assert.ok(Math.max(...seen) < 10_000, `${Math.max(...seen)} characters in one go`);
  for (const text of ["", "a", "a b", "word ".repeat(4000), "   \n".repeat(5000), "é à ".repeat(5000)]) {
    assertSame(await encodeText(words(), text), words()(text));
  }
});

test("encodeText: GGUF's tokenizers have the same tokens by runs", async () => {
  const bytes = Array.from({ length: 256 }, (_, byte) => {
    const printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    return printable ? byte : null;
  });
  let next = 256;
  const tokens = bytes.map((byte) => String.fromCodePoint(byte ?? next++));
  const merges = ["t h", "th e", "i s", "Ġ is"];
  tokens.push("th", "the", "is", "Ġis");
  for (const pre of ["smollm", "gpt-2", "llama-bpe", "qwen2", "default"]) {
    const tokenizer = bpeFromGguf(
      new Map<string, unknown>([
        ["tokenizer.ggml.model", "gpt2"],
        ["tokenizer.ggml.pre", pre],
        ["tokenizer.ggml.tokens", tokens],
        ["tokenizer.ggml.merges", merges],
      ]),
      "x.gguf",
      0,
    );
    const encode = (text: string): number[] => tokenizer.encode(text);
    const text = LINES.slice(0, 40_000);
    assertSame(await encodeText(encode, text), encode(text), pre);
  }
});

test("encodeText: a tokenizer whose tokens reach across words gets the text whole", async () => {
  const across = (text: string): number[] => (text.match(/c d|[^]/g) ?? []).map((token) => token.length);
  const text = "abc def.".repeat(3000);
  assertSame(await encodeText(across, text), across(text));
  // and one that puts a token before each text, as SentencePiece does
  const prefixed = (text: string): number[] => [1, ...Array.from(text, (c) => c.charCodeAt(0))];
  assertSame(await encodeText(prefixed, text), prefixed(text));
});

test("encodeText: no more than is wanted, and the signal between runs", async () => {
  const seen: number[] = [], encode = words(seen);
  assertSame(await encodeText(encode, LINES, { most: 100 }), words()(LINES).slice(0, 100));
  assert.ok(seen.reduce((sum, length) => sum + length, 0) < 20_000);
  const controller = new AbortController(), reason = new Error("enough");
  let runs = 0;
  const aborting = (text: string): number[] => {
    if (++runs === 3) controller.abort(reason);
    return encode(text);
  };
  await assert.rejects(encodeText(aborting, LINES, { signal: controller.signal }), reason);
  assert.ok(runs < 10, `${runs} runs`);
});
