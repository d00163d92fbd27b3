/**
 * Keys and values in pages of 64 positions. A page holds its positions for all layers, f32[nLayers, 2, nKvHeads, 64, headDim], so a cache
 * grows by whole pages without moving anything, and pages of closed sessions serve the next one.
 */
import type { Arena } from "../kernels/arena.ts";
import { PAGE_POSITIONS } from "../kernels/kernels.ts";
import type { LlamaConfig } from "../model/config.ts";

/** The pages of one model. */
export class PagePool {
  /** Bytes of a page. */
  readonly pageBytes: number;
  /** Bytes of one layer's k, or v, in a page. */
  readonly partBytes: number;
  readonly #arena: Arena;
  readonly #free: number[] = [];
  /** Page tables of closed sessions, by capacity: a server that opens a session a request would fill the memory with them. */
  readonly #freeTables: Map<number, number[]> = new Map();
  #made = 0;

  constructor(arena: Arena, config: LlamaConfig) {
    this.#arena = arena;
    this.partBytes = 4 * config.numKeyValueHeads * PAGE_POSITIONS * config.headDim;
    this.pageBytes = 2 * config.numHiddenLayers * this.partBytes;
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

  /** Offsets in a page of a layer's k and v. */
  parts(layer: number): { k: number; v: number } {
    const k = 2 * layer * this.#pool.partBytes;
    return { k, v: k + this.#pool.partBytes };
  }

  /** The page of a position. */
  page(position: number): number {
    return this.#pages[Math.floor(position / PAGE_POSITIONS)]!;
  }

  /** Gives back the pages past the first n positions. */
  truncate(n: number): void {
    const kept = Math.ceil(n / PAGE_POSITIONS);
    while (this.#pages.length > kept) this.#pool.give(this.#pages.pop()!);
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
