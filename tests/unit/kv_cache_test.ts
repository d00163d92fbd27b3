import assert from "node:assert/strict";
import { test } from "node:test";
import { Arena } from "../../src/kernels/arena.ts";
import type { LlamaConfig } from "../../src/model/config.ts";
import { KvCache, PagePool } from "../../src/runtime/kv_cache.ts";

/** Two layers of keys and values, 2 heads of 16 floats, 64 positions: a page of 32 KiB. */
const CONFIG = { numHiddenLayers: 2, numKeyValueHeads: 2, headDim: 16 } as LlamaConfig;
const PAGE = 2 * 2 * 2 * 16 * 64 * 4;

function pool(maximum: number = 100): { arena: Arena; pages: PagePool } {
  const arena = new Arena(new WebAssembly.Memory({ initial: 1, maximum }), 1024);
  return { arena, pages: new PagePool(arena, CONFIG, "f32") };
}

function tableOf(cache: KvCache, arena: Arena, pages: number): number[] {
  return [...new Uint32Array(arena.memory.buffer, cache.table, pages)];
}

test("KvCache: grows by whole pages, and its table names them in order", () => {
  const { arena, pages } = pool(), cache = new KvCache(pages, arena);
  for (const [positions, wanted] of [[1, 1], [64, 1], [65, 2], [128, 2], [129, 3]] as const) {
    cache.reserve(positions);
    assert.equal(pages.bytes, wanted * PAGE, `${positions} positions`);
  }
  assert.equal(new Set(tableOf(cache, arena, 3)).size, 3);
});

test("PagePool: bf16 takes half, and tiles of heads and layers lie side by side", () => {
  const { arena } = pool(), half = new PagePool(arena, CONFIG, "bf16");
  assert.equal(half.pageBytes, PAGE / 2);
  const tiles = [[0, 0], [0, 1], [1, 0], [1, 1]].map(([layer, head]) => half.tile(layer!, head!));
  assert.deepEqual(tiles, [0, 1, 2, 3].map((i) => i * PAGE / 8));
  // 8,192 positions of SmolLM2 within 190 MB
  const smollm2 = { numHiddenLayers: 30, numKeyValueHeads: 3, headDim: 64 } as LlamaConfig;
  assert.ok(8192 / 64 * new PagePool(arena, smollm2, "bf16").pageBytes <= 190e6);
});

test("KvCache: a table that grows keeps its pages", () => {
  const { arena, pages } = pool(), cache = new KvCache(pages, arena);
  cache.reserve(16 * 64);
  const before = tableOf(cache, arena, 16), at = cache.table;
  cache.reserve(16 * 64 + 1);
  assert.notEqual(cache.table, at);
  assert.deepEqual(tableOf(cache, arena, 17).slice(0, 16), before);
});

test("KvCache.fork: shares whole pages, copies the last one's positions, and gives back its own", () => {
  const { arena, pages } = pool(), cache = new KvCache(pages, arena);
  cache.reserve(200);
  const table = tableOf(cache, arena, 4), bytes = () => new Uint8Array(arena.memory.buffer);
  bytes().fill(7, table[3]!, table[3]! + PAGE);
  const fork = cache.fork(195);
  fork.reserve(300);
  const own = tableOf(fork, arena, 5);
  assert.deepEqual(own.slice(0, 3), table.slice(0, 3));
  assert.ok(!table.includes(own[3]!) && !table.includes(own[4]!));
  assert.ok(bytes().subarray(own[3]!, own[3]! + PAGE).every((byte) => byte === 7));
  // a whole number of pages needs no copy
  const whole = cache.fork(128);
  assert.equal(pages.bytes, 6 * PAGE);
  whole.close();
  fork.close();
  const other = new KvCache(pages, arena);
  other.reserve(128);
  assert.deepEqual(new Set(tableOf(other, arena, 2)), new Set(own.slice(3)));
  assert.equal(pages.bytes, 6 * PAGE);
});

test("KvCache.truncate: gives back pages that hold no position any more", () => {
  const { arena, pages } = pool(), cache = new KvCache(pages, arena);
  cache.reserve(200);
  const table = tableOf(cache, arena, 4);
  cache.truncate(65);
  const other = new KvCache(pages, arena);
  other.reserve(128);
  assert.deepEqual(new Set(tableOf(other, arena, 2)), new Set(table.slice(2)));
  assert.equal(pages.bytes, 4 * PAGE);
});

test("KvCache.close: pages and tables serve the next cache, however many there were", () => {
  const { arena, pages } = pool();
  let used = 0;
  for (let i = 0; i < 1000; ++i) {
    const cache = new KvCache(pages, arena);
    cache.reserve(200);
    cache.reserve(17 * 64);
    cache.close();
    if (i === 0) used = arena.used;
  }
  assert.equal(arena.used, used);
  assert.equal(pages.bytes, 17 * PAGE);
});

test("KvCache.close: twice gives nothing away twice", () => {
  const { arena, pages } = pool(), closed = new KvCache(pages, arena);
  closed.reserve(1);
  closed.close();
  closed.close();
  const a = new KvCache(pages, arena), b = new KvCache(pages, arena);
  a.reserve(1);
  b.reserve(1);
  assert.notEqual(a.table, b.table);
  assert.notEqual(tableOf(a, arena, 1)[0], tableOf(b, arena, 1)[0]);
});

test("KvCache.reserve: where memory ends it throws, and what was there stays", () => {
  // 32 pages of WebAssembly are room for 63 of ours, but not for the 64th or for a table of 2^20
  const { arena, pages } = pool(32), cache = new KvCache(pages, arena);
  cache.reserve(1);
  const table = cache.table, page = tableOf(cache, arena, 1)[0];
  assert.throws(() => cache.reserve(64 * 2 ** 20), RangeError);
  assert.equal(cache.table, table);
  assert.deepEqual(tableOf(cache, arena, 1), [page]);
  // the table that did not fit is not taken for one that is there
  assert.throws(() => cache.reserve(64 * 2 ** 20), RangeError);
  assert.throws(() => cache.reserve(64 * 80), RangeError);
  assert.equal(tableOf(cache, arena, 1)[0], page);
  assert.equal(tableOf(cache, arena, 1)[0], page);
  assert.equal(new Set(tableOf(cache, arena, 60)).size, 60);
});
