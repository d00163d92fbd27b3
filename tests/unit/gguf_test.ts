import assert from "node:assert/strict";
import { test } from "node:test";
import { FormatError } from "../../src/errors.ts";
import { BLOCK, type BlockType, readTensor } from "../../src/format/checkpoint.ts";
import { type GgufCheckpoint, openGguf } from "../../src/format/gguf.ts";
import {
  Bytes,
  text,
  texts,
  u32,
  writeGguf,
  type WrittenKey,
  type WrittenTensor,
} from "../support/gguf_writer.ts";

const open = (bytes: Uint8Array<ArrayBuffer>): Promise<GgufCheckpoint> =>
  openGguf(new Blob([bytes]), "a.gguf");
const norm: WrittenTensor = { name: "norm", type: "F32", shape: [32] };
/** Where the first key, and with no key the first tensor, begins. */
const FIRST = 24;

function assertRefused(bytes: Uint8Array<ArrayBuffer>, offset: number, says: RegExp): Promise<void> {
  return assert.rejects(open(bytes), (error: unknown) => {
    assert.ok(error instanceof FormatError, String(error));
    assert.match(error.message, says);
    assert.equal(error.offset, offset, error.message);
    assert.equal(error.file, "a.gguf");
    return true;
  });
}

function scalar(type: number, size: number, write: (view: DataView) => void): WrittenKey {
  return [`t${type}`, type, (out) => out.number(size, write)];
}

test("openGguf: every scalar type of metadata", async () => {
  const { metadata, keyOffsets, version, alignment } = await open(writeGguf([
    scalar(0, 1, (v) => v.setUint8(0, 255)),
    scalar(1, 1, (v) => v.setInt8(0, -1)),
    scalar(2, 2, (v) => v.setUint16(0, 65535, true)),
    scalar(3, 2, (v) => v.setInt16(0, -2, true)),
    scalar(4, 4, (v) => v.setUint32(0, 2 ** 32 - 1, true)),
    scalar(5, 4, (v) => v.setInt32(0, -3, true)),
    scalar(6, 4, (v) => v.setFloat32(0, 0.5, true)),
    scalar(7, 1, (v) => v.setUint8(0, 1)),
    text("t8", "naïve 東京🙂"),
    scalar(10, 8, (v) => v.setBigUint64(0, 2n ** 64n - 1n, true)),
    scalar(11, 8, (v) => v.setBigInt64(0, -5n, true)),
    scalar(12, 8, (v) => v.setFloat64(0, 2.5, true)),
  ], []));
  assert.deepEqual([...metadata.values()], [
    255,
    -1,
    65535,
    -2,
    2 ** 32 - 1,
    -3,
    0.5,
    true,
    "naïve 東京🙂",
    2n ** 64n - 1n,
    -5,
    2.5,
  ]);
  assert.equal(keyOffsets.get("t0"), FIRST + 8 + 2 + 4);
  assert.deepEqual([version, alignment], [3, 32]);
});

test("openGguf: arrays, empty and nested; at most 4 deep", async () => {
  const nested = (levels: number): WrittenKey => ["x", 9, (out) => {
    for (let i = 1; i < levels; ++i) out.u32(9).u64(1);
    out.u32(0).u64(2).push(Uint8Array.of(1, 2));
  }];
  const { metadata } = await open(writeGguf([texts("empty", []), nested(4)], []));
  assert.deepEqual(metadata.get("empty"), []);
  assert.deepEqual(metadata.get("x"), [[[[1, 2]]]]);
  await assertRefused(writeGguf([nested(5)], []), FIRST + 9 + 4 + 4 * 12, /nested/);
});

test("openGguf: strings of every UTF-8 length, and none that is not UTF-8", async () => {
  const tokens = ["", "a", "é", "Ġthe", "߿", "ࠀ", "東", "🙂", "x".repeat(64) + "é", "é".repeat(40)];
  const { metadata } = await open(writeGguf([texts("tokens", tokens)], []));
  assert.deepEqual(metadata.get("tokens"), tokens);
  for (
    const bad of [[0x80], [0xc3], [0xc3, 0x41], [0xc0, 0x80], [0xc1, 0xbf], [0xff], [0xe6, 0x9d], [
      0xed,
      0xa0,
      0x80,
    ]]
  ) {
    const bytes = Uint8Array.from([0x41, ...bad]);
    await assertRefused(writeGguf([text("k", bytes)], []), FIRST + 9 + 4 + 8, /UTF-8/);
  }
});

test("openGguf: a header longer than any window is read by slices, and no byte of a tensor with it", async () => {
  const tokens = Array.from({ length: 200_000 }, (_, i) => `token ${i} é`);
  const data = new Uint8Array(1 << 23);
  const bytes = writeGguf([text("long", "y".repeat(3 << 20)), texts("tokens", tokens)], [
    { name: "w", type: "F32", shape: [1 << 21], data },
  ]);
  let sliced = 0;
  class CountingBlob extends Blob {
    override slice(start: number, end: number): Blob {
      sliced = Math.max(sliced, Math.min(end, this.size) - start);
      return super.slice(start, end);
    }
    override arrayBuffer(): Promise<ArrayBuffer> {
      throw new Error("the whole file was read");
    }
  }
  const { metadata, tensors } = await openGguf(new CountingBlob([bytes]), "a.gguf");
  assert.deepEqual(metadata.get("tokens"), tokens);
  assert.equal(String(metadata.get("long")).length, 3 << 20);
  assert.equal(tensors.get("w")?.offset, bytes.length - data.length);
  assert.ok(sliced <= 8 << 20, `a slice of ${sliced} bytes`);
});

test("openGguf: tensors of every storage type, in the order of their bytes, outermost size first", async () => {
  const types = Object.keys(BLOCK) as BlockType[];
  const tensors = types.map((type, i): WrittenTensor => {
    const { values, bytes } = BLOCK[type];
    return { name: type, type, shape: [3, values * 2], data: new Uint8Array(bytes * 6).fill(i + 1) };
  });
  const checkpoint = await open(writeGguf([], tensors));
  assert.deepEqual([...checkpoint.tensors.keys()], types);
  for (const { name, type, shape, data } of tensors) {
    const tensor = checkpoint.tensors.get(name)!;
    assert.deepEqual([tensor.type, tensor.shape], [type, shape]);
    assert.deepEqual(await readTensor(tensor), data);
    assert.ok(checkpoint.tensorOffsets.get(name)! >= checkpoint.tableOffset);
  }
});

test("openGguf: version 2, and an alignment of its own", async () => {
  const data = Uint8Array.from({ length: 128 }, (_, i) => i);
  const bytes = writeGguf([u32("general.alignment", 128)], [{ ...norm, data }, { ...norm, name: "b" }], {
    version: 2,
    alignment: 128,
  });
  const { version, alignment, tensors } = await open(bytes);
  assert.deepEqual([version, alignment], [2, 128]);
  assert.equal(tensors.get("norm")!.offset % 128, 0);
  assert.deepEqual(await readTensor(tensors.get("norm")!), data);
});

test("openGguf: refuses a bad alignment at its value", async () => {
  for (const value of [0, 1, 4, 12, 33, 1 << 17, 2 ** 32 - 1]) {
    await assertRefused(
      writeGguf([u32("general.alignment", value)], [norm]),
      FIRST + 8 + 17 + 4,
      /general\.alignment/,
    );
  }
  await assertRefused(
    writeGguf([text("general.alignment", "32")], [norm]),
    FIRST + 8 + 17 + 4,
    /general\.alignment/,
  );
});

test("openGguf: refuses keys and tensors that come twice", async () => {
  await assertRefused(writeGguf([u32("k", 1), u32("k", 1)], []), FIRST + 8 + 1 + 4 + 4, /"k" comes twice/);
  await assertRefused(writeGguf([], [norm, norm]), FIRST + 8 + 4 + 4 + 8 + 4 + 8, /"norm" comes twice/);
});

test("openGguf: refuses empty names, and bools other than 0 and 1", async () => {
  await assertRefused(writeGguf([u32("", 1)], []), FIRST, /empty key/);
  await assertRefused(writeGguf([], [{ ...norm, name: "" }]), FIRST, /empty tensor name/);
  await assertRefused(writeGguf([scalar(7, 1, (v) => v.setUint8(0, 2))], []), FIRST + 10 + 4, /bool of 2/);
});

test("openGguf: refuses shapes with a 0, past 2^53, or of part of a block", async () => {
  const dims = FIRST + 8 + 4 + 4;
  for (const shape of [[0], [32, 0], [0, 32], [2 ** 27, 2 ** 27], [2 ** 50, 2 ** 50, 32]]) {
    await assertRefused(writeGguf([], [{ ...norm, shape, data: new Uint8Array(32) }]), dims, /not possible/);
  }
  await assertRefused(writeGguf([], [{ ...norm, type: "Q4_K", shape: [2, 128] }]), dims, /blocks of 256/);
});

test("openGguf: refuses tensors that overlap, also by one alignment, at the later one's offset", async () => {
  const bytes = writeGguf([], [norm, { ...norm, name: "b", offset: 96 }, {
    ...norm,
    name: "c",
    data: new Uint8Array(256),
  }]);
  await assertRefused(bytes, FIRST + 36 + 25, /"b": begins at byte 96, inside "norm"/);
});

test("openGguf: refuses an offset between two multiples of the alignment", async () => {
  const bytes = writeGguf([], [{ ...norm, offset: 16 }, {
    ...norm,
    name: "b",
    offset: 256,
    data: new Uint8Array(512),
  }]);
  const longer = new Uint8Array(bytes.length + 512);
  longer.set(bytes);
  await assertRefused(longer, FIRST + 8 + 4 + 4 + 8 + 4, /"norm": offset 16 found, a multiple of 32 wanted/);
});

test("openGguf: refuses arrays at their length, alone and together, before reading them", async () => {
  const bytes = (length: number | bigint, n: number): WrittenKey => [
    `k${length}`,
    9,
    (out) => out.u32(0).u64(length).push(new Uint8Array(n)),
  ];
  await assertRefused(
    writeGguf([bytes(200, 100)], []),
    FIRST + 8 + 4 + 4 + 4,
    /array of 200 values: 108 bytes/,
  );
  await assertRefused(
    writeGguf([bytes(2n ** 61n, 0)], []),
    FIRST + 8 + 20 + 4 + 4,
    /array of 2305843009213694000/,
  );
  const most = 1 << 22;
  const { metadata } = await open(writeGguf([bytes(3, 3), bytes(most - 3, most - 3)], []));
  assert.equal((metadata.get(`k${most - 3}`) as number[]).length, most - 3);
  await assertRefused(
    writeGguf([bytes(3, 3), bytes(most - 2, most - 2)], []),
    FIRST + (8 + 2 + 4 + 12 + 3) + 8 + 8 + 4 + 4,
    /in all arrays/,
  );
});

test("openGguf: refuses counts that the file cannot hold before it reads on", async () => {
  const start = (tensors: bigint, keys: bigint): Uint8Array<ArrayBuffer> =>
    new Bytes().u32(0x46554747).u32(3).u64(tensors).u64(keys).push(new Uint8Array(100)).join();
  for (const [tensors, keys] of [[4n, 0n], [0n, 8n], [2n ** 63n, 0n], [0n, 2n ** 64n - 1n]] as const) {
    await assertRefused(start(tensors, keys), 8, /cannot fit/);
  }
});

test("openGguf: a file cut anywhere in its header is refused", async () => {
  const bytes = writeGguf([text("a", "bc"), texts("d", ["e", "f"]), u32("g", 1)], [norm]);
  for (let length = 0; length < bytes.length; ++length) {
    await assert.rejects(open(bytes.slice(0, length)), FormatError, `cut at ${length}`);
  }
  await open(bytes);
});
