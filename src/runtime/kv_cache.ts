/**
 * Keys and values in pages of 64 positions. A page holds its positions for all layers, [nLayers, nKvHeads] tiles of `kvTile` in f32 or bf16,
 * so a cache grows by whole pages without moving anything, and pages of closed sessions serve the next one.
 */
import type { Arena } from "../kernels/arena.ts";
import { kvTile, PAGE_POSITIONS } from "../kernels/kernels.ts";
import type { LlamaConfig } from "../model/config.ts";

/** How keys and values are kept. */
export const KV_TYPES = ["f32", "bf16"] as const;
/** One of {@linkcode KV_TYPES}. */
export type KvType = (typeof KV_TYPES)[number];

/** The pages of one model. */
export class PagePool {
  /** Bytes of a page. */
  readonly pageBytes: number;
  /** Bytes of one key head's k and v of one layer in a page. */
  readonly tileBytes: number;
  readonly type: KvType;
  readonly #nKvHeads: number;
  readonly #arena: Arena;
  readonly #free: number[] = [];
  /** Page tables of closed sessions, by capacity: a server that opens a session a request would fill the memory with them. */
  readonly #freeTables: Map<number, number[]> = new Map();
  #made = 0;

  constructor(arena: Arena, config: LlamaConfig, type: KvType) {
    this.#arena = arena;
    this.type = type;
    this.#nKvHeads = config.numKeyValueHeads;
    this.tileBytes = (type === "f32" ? 4 : 2) * kvTile(config.headDim).length;
    this.pageBytes = config.numHiddenLayers * config.numKeyValueHeads * this.tileBytes;
  }

  /** Offset in a page of a layer's key head. */
  tile(layer: number, head: number): number {
    return (layer * this.#nKvHeads + head) * this.tileBytes;
  }

  /** Bytes of all pages, in use or free. */
  get bytes(): number {
    return this.#made * this.pageBytes;
  }

  take(): number {
    const page = this.#free.pop();
    if (page !== undefined) return page;
    const fresh = this.#arena.allocate(this.pageBytes);
    this.#made++;
    return fresh;
  }

  give(page: number): void {
    this.#free.push(page);
  }

  /** A table of `capacity` entries, u32[capacity], of whatever content. */
  takeTable(capacity: number): number {
    return this.#freeTables.get(capacity)?.pop() ?? this.#arena.allocate(4 * capacity);
  }

  giveTable(table: number, capacity: number): void {
    const free = this.#freeTables.get(capacity);
    if (free === undefined) this.#freeTables.set(capacity, [table]);
    else free.push(table);
  }
}

/** One sequence's keys and values. */
export class KvCache {
  readonly #pool: PagePool;
  readonly #arena: Arena;
  readonly #pages: number[] = [];
  /** u32[capacity] in the model's memory: the pages' offsets, as the attention kernel reads them. */
  #table = 0;
  #capacity = 0;
  /** How many of the first pages are another sequence's. */
  #borrowed = 0;

  constructor(pool: PagePool, arena: Arena) {
    this.#pool = pool;
    this.#arena = arena;
  }

  /** Byte offset of the page table. Changes when the cache grows. */
  get table(): number {
    return this.#table;
  }

  /** Makes room for positions 0 to n - 1. @throws {RangeError} If memory ends; what was there stays usable. */
  reserve(n: number): void {
    const wanted = Math.ceil(n / PAGE_POSITIONS);
    if (wanted > this.#capacity) {
      const capacity = Math.max(16, 2 ** Math.ceil(Math.log2(wanted))),
        table = this.#pool.takeTable(capacity);
      new Uint32Array(this.#arena.memory.buffer, table, this.#pages.length).set(this.#pages);
      this.#giveTable();
      this.#table = table;
      this.#capacity = capacity;
    }
    while (this.#pages.length < wanted) {
      const page = this.#pool.take();
      new Uint32Array(this.#arena.memory.buffer, this.#table, this.#capacity)[this.#pages.length] = page;
      this.#pages.push(page);
    }
  }

  /**
   * Another sequence that begins with this one's first n positions: whole pages are shared, what lies on the last is copied (3 MB for SmolLM2).
   * This one keeps them until the other is closed.
   */
  fork(n: number): KvCache {
    const other = new KvCache(this.#pool, this.#arena), whole = Math.floor(n / PAGE_POSITIONS);
    other.#borrowed = whole;
    other.#pages.push(...this.#pages.slice(0, whole));
    try {
      other.reserve(n);
    } catch (error) {
      other.close();
      throw error;
    }
    if (other.#pages.length > whole) {
      const from = this.#pages[whole]!;
      new Uint8Array(this.#arena.memory.buffer).copyWithin(
        other.#pages[whole]!,
        from,
        from + this.#pool.pageBytes,
      );
    }
    return other;
  }

  /** How its pages are kept. */
  get type(): KvType {
    return this.#pool.type;
  }

  /** Offset in a page of a layer's key head. */
  tile(layer: number, head: number): number {
    return this.#pool.tile(layer, head);
  }

  /** Gives back the pages past the first n positions. */
  truncate(n: number): void {
    const kept = Math.ceil(n / PAGE_POSITIONS);
    while (this.#pages.length > kept) {
      const page = this.#pages.pop()!;
      if (this.#pages.length >= this.#borrowed) this.#pool.give(page);
    }
  }

  /** Gives everything back. */
  close(): void {
    this.truncate(0);
    this.#giveTable();
    this.#capacity = 0;
  }

  #giveTable(): void {
    if (this.#capacity > 0) this.#pool.giveTable(this.#table, this.#capacity);
  }
}
