/** Random Q4_0 and Q4_1 blocks whose scales, mins and nibbles are known because they were chosen, not decoded. */
import assert from "node:assert/strict";
import { groupBlockBytes, quadBlockBytes } from "../../src/kernels/kernels.ts";
import type { Bench, Buffer, Random } from "./kernels.ts";

/** Rows of blocks as a file holds them, and what they mean: `weight[o, c] = d * (q - 8) + m'`, m' = m + 8d for Q4_1, 0 for Q4_0. */
export interface Blocks {
  readonly nRows: number;
  readonly rowBlocks: number;
  readonly withMins: boolean;
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** 0..15, [nRows, 32 * rowBlocks]. */
  readonly q: Uint8Array;
  /** [nRows, rowBlocks]. */
  readonly d: Float32Array;
  /** m' as f32, [nRows, rowBlocks]. */
  readonly min: Float32Array;
}

/** A random half of about `size`, of either sign; one in 40 is 0, one in 40 subnormal. */
function randomHalf(random: Random, size: number): { bits: number; value: number } {
  const kind = random.below(40);
  if (kind === 0) return { bits: 0, value: 0 };
  const sign = random.below(2);
  const fraction = random.below(1024);
  const exponent = kind === 1 ? 0 : 15 + Math.round(Math.log2(size)) + random.below(3) - 1;
  const magnitude = exponent === 0 ? fraction * 2 ** -24 : (1024 + fraction) * 2 ** (exponent - 25);
  return { bits: (sign << 15) | (exponent << 10) | fraction, value: sign ? -magnitude : magnitude };
}

/** Blocks with d of about 1/100 and m of about -8d, so that weights lie around 0 as in real files; both of either sign. */
export function randomBlocks(random: Random, nRows: number, rowBlocks: number, withMins: boolean): Blocks {
  const head = withMins ? 4 : 2;
  const bytes = new Uint8Array(nRows * rowBlocks * (head + 16));
  const view = new DataView(bytes.buffer);
  const q = new Uint8Array(nRows * rowBlocks * 32);
  const d = new Float32Array(nRows * rowBlocks);
  const min = new Float32Array(nRows * rowBlocks);
  for (let block = 0; block < nRows * rowBlocks; ++block) {
    const at = block * (head + 16);
    const scale = randomHalf(random, 0.01);
    view.setUint16(at, scale.bits, true);
    d[block] = scale.value;
    if (withMins) {
      const m = randomHalf(random, 0.08);
      view.setUint16(at + 2, m.bits, true);
      min[block] = Math.fround(m.value + Math.fround(8 * scale.value));
    }
    for (let i = 0; i < 32; ++i) {
      const nibble = random.below(16);
      q[block * 32 + i] = nibble;
      bytes[at + head + i % 16]! |= i < 16 ? nibble : nibble << 4;
    }
  }
  return { nRows, rowBlocks, withMins, bytes, q, d, min };
}

/** Blocks with every nibble `q` and every scale `d`, given as a half's bits and its value, and no mins. */
export function constantBlocks(
  nRows: number,
  rowBlocks: number,
  q: number,
  half: { bits: number; value: number },
): Blocks {
  const bytes = new Uint8Array(nRows * rowBlocks * 18).fill(q | q << 4);
  const view = new DataView(bytes.buffer);
  for (let block = 0; block < nRows * rowBlocks; ++block) view.setUint16(block * 18, half.bits, true);
  return {
    nRows,
    rowBlocks,
    withMins: false,
    bytes,
    q: new Uint8Array(nRows * rowBlocks * 32).fill(q),
    d: new Float32Array(nRows * rowBlocks).fill(half.value),
    min: new Float32Array(nRows * rowBlocks),
  };
}

/** The same blocks with mins that make weights d * q - 8d + m' with |m'| as large as |d|: m = -7d or -9d. */
export function withLargestMins(blocks: Blocks, times: number): Blocks {
  const { nRows, rowBlocks, q, d } = blocks;
  const bytes = new Uint8Array(nRows * rowBlocks * 20);
  const view = new DataView(bytes.buffer);
  // -7, 7, -9 and 9 as halves
  const bits = new Map([[-7, 0xc700], [7, 0x4700], [-9, 0xc880], [9, 0x4880]]);
  const min = d.map((v) => (8 + times) * v);
  d.forEach((v, block) => {
    bytes.set(blocks.bytes.subarray(block * 18, block * 18 + 2), block * 20);
    view.setUint16(block * 20 + 2, bits.get(times * v)!, true);
    bytes.set(blocks.bytes.subarray(block * 18 + 2, block * 18 + 18), block * 20 + 4);
  });
  return { nRows, rowBlocks, withMins: true, bytes, q, d, min };
}

/** Blocks in the group i4 layout. */
export interface PackedGroups {
  readonly w: Buffer<"u8">;
  readonly rowScale: Buffer<"f32">;
  readonly withMins: boolean;
  readonly nIn: number;
  readonly nOut: number;
  readonly chunk: number;
}

/** Packs rows 64 at a time, as a loader does; nIn and nOut are padded to 64. */
export function packBlocks(bench: Bench, blocks: Blocks, chunk: number = 64): PackedGroups {
  const { nRows, rowBlocks, withMins } = blocks;
  const nIn = Math.ceil(rowBlocks / 2) * 64;
  const nOut = Math.ceil(nRows / chunk) * chunk;
  const w = bench.buffer("u8", nOut / 64 * (nIn / 64) * groupBlockBytes(withMins));
  const rowScale = bench.buffer("f32", nOut);
  const rowBytes = rowBlocks * (withMins ? 20 : 18);
  for (let o = 0; o < nOut; o += 64) {
    const count = Math.max(0, Math.min(64, nRows - o));
    const source = bench.buffer("u8", blocks.bytes.subarray(o * rowBytes, (o + count) * rowBytes));
    const bad = bench.kernels.packGroupI4(
      w.at,
      rowScale.at,
      source.at,
      withMins ? 1 : 0,
      o,
      count,
      rowBlocks,
      nIn,
      chunk,
    );
    assert.equal(bad, -1, `rows from ${o}: a block that is not finite`);
  }
  return { w, rowScale, withMins, nIn, nOut, chunk };
}

/** y += the product, in calls of up to `blocksACall` blocks; without it a chunk a call. */
export function multiplyGroups(
  bench: Bench,
  kind: "gemvGroupI4" | "gemvGroupI4List",
  y: number,
  packed: Pick<PackedGroups, "nIn" | "nOut" | "chunk" | "withMins"> & { readonly w: { readonly at: number } },
  table: number,
  blocksACall: number = packed.chunk / 64,
): void {
  const { w, nIn, nOut, chunk, withMins } = packed, inChunk = chunk / 64;
  const blockBytes = groupBlockBytes(withMins), pairBytes = inChunk * blockBytes;
  const scratch = bench.buffer("u8", 256);
  for (let o = 0; o < nOut; o += chunk) {
    const first = w.at + (o / 64) * (nIn / 64) * blockBytes;
    for (let b = 0; b < inChunk; b += blocksACall) {
      bench.kernels[kind](
        y + 4 * (o + 64 * b),
        first + b * blockBytes,
        table,
        nIn,
        Math.min(blocksACall, inChunk - b),
        pairBytes,
        withMins ? 1 : 0,
        scratch.at,
      );
    }
  }
}

/** A matrix in quad i4. */
export interface PackedQuads {
  readonly w: Buffer<"u8">;
  readonly rowScale: Buffer<"f32">;
  readonly nIn: number;
  readonly nOut: number;
}

/** Packs rows as quad i4 in calls of `rowsACall`. */
export function packQuads(bench: Bench, blocks: Blocks, rowsACall: number = blocks.nRows): PackedQuads {
  const { nRows, rowBlocks, withMins } = blocks;
  const nIn = Math.ceil(rowBlocks / 2) * 64;
  const nOut = Math.ceil(nRows / 16) * 16;
  const w = bench.buffer("u8", nOut / 16 * (nIn / 64) * quadBlockBytes(withMins));
  const rowScale = bench.buffer("f32", nOut);
  const rowBytes = rowBlocks * (withMins ? 20 : 18);
  for (let o = 0; o < nRows; o += rowsACall) {
    const count = Math.min(rowsACall, nRows - o);
    const source = bench.buffer("u8", blocks.bytes.subarray(o * rowBytes, (o + count) * rowBytes));
    const bad = bench.kernels.packQuadI4(
      w.at,
      rowScale.at,
      source.at,
      withMins ? 1 : 0,
      o,
      count,
      rowBlocks,
      nIn,
    );
    assert.equal(bad, -1, `rows from ${o}: a block that is not finite`);
  }
  return { w, rowScale, nIn, nOut };
}
