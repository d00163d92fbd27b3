import assert from "node:assert/strict";
import { test } from "node:test";
import { Arena } from "../../src/kernels/arena.ts";

test("Arena.allocate: ranges are aligned to 64 bytes, apart, and fresh", () => {
  const memory = new WebAssembly.Memory({ initial: 1 }), arena = new Arena(memory, 1001);
  let end = 1001;
  for (const bytes of [1, 0, 64, 65, 200_000, 7]) {
    const at = arena.allocate(bytes);
    assert.equal(at % 64, 0);
    assert.ok(at >= end && at + bytes <= memory.buffer.byteLength, `${bytes} bytes at ${at}`);
    const range = new Uint8Array(memory.buffer, at, bytes);
    assert.ok(range.every((byte) => byte === 0));
    range.fill(255);
    end = at + bytes;
  }
  assert.ok(arena.used >= end);
});

test("Arena.reserve: what is allocated of it grows nothing", () => {
  const memory = new WebAssembly.Memory({ initial: 1 }), arena = new Arena(memory, 0);
  arena.reserve(1_000_000);
  assert.equal(arena.used, 0);
  const { buffer } = memory;
  assert.ok(buffer.byteLength >= 1_000_000);
  for (let i = 0; i < 10; ++i) arena.allocate(99_968);
  // growing would have put another buffer in its place
  assert.equal(memory.buffer, buffer);
  arena.allocate(200_000);
  assert.notEqual(memory.buffer, buffer);
});

test("Arena: where memory ends it says how much was wanted, and stays as it was", () => {
  const memory = new WebAssembly.Memory({ initial: 1, maximum: 20 }), arena = new Arena(memory, 0);
  arena.allocate(2 ** 20);
  const { used } = arena;
  for (const bytes of [2 ** 20, 2 ** 32, 2 ** 40]) {
    for (const grow of [() => arena.allocate(bytes), () => arena.reserve(bytes)]) {
      assert.throws(grow, (error) => {
        assert.ok(error instanceof RangeError);
        const wanted = `Cannot allocate ${bytes / 2 ** 20} MiB: 1 MiB are in use`;
        assert.ok(error.message.startsWith(wanted), error.message);
        return true;
      });
    }
  }
  assert.equal(arena.used, used);
  assert.ok(arena.allocate(1000) >= used);
});
