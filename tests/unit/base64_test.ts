/** Bytes as text. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { fromBase64, toBase64 } from "../../src/format/base64.ts";

test("toBase64, fromBase64: RFC 4648's examples, every byte, and more than a call takes arguments", () => {
  const encode = (text: string): Uint8Array => new TextEncoder().encode(text);
  for (
    const [text, base64] of [
      ["", ""],
      ["f", "Zg=="],
      ["fo", "Zm8="],
      ["foo", "Zm9v"],
      ["foob", "Zm9vYg=="],
      ["fooba", "Zm9vYmE="],
      ["foobar", "Zm9vYmFy"],
    ] as const
  ) {
    assert.equal(toBase64(encode(text)), base64);
    assert.deepEqual(fromBase64(base64), encode(text));
  }
  const bytes = Uint8Array.from({ length: 300_001 }, (_, i) => i * 31 + (i >> 8));
  assert.deepEqual(fromBase64(toBase64(bytes)), bytes);
  assert.deepEqual(fromBase64(toBase64(bytes.subarray(1, 257))), bytes.slice(1, 257));
  for (const wrong of ["Zg=", "Z", "Zg==Zg==", "Zü=="]) assert.throws(() => fromBase64(wrong));
});

test("fromBase64: also where the engine has none of its own", () => {
  const own = Object.getOwnPropertyDescriptor(Uint8Array, "fromBase64");
  Object.defineProperty(Uint8Array, "fromBase64", { value: undefined, configurable: true });
  try {
    assert.deepEqual([...fromBase64("+/8AZg==")], [251, 255, 0, 102]);
    assert.throws(() => fromBase64("Zg=!"));
  } finally {
    if (own === undefined) delete (Uint8Array as { fromBase64?: unknown }).fromBase64;
    else Object.defineProperty(Uint8Array, "fromBase64", own);
  }
});
