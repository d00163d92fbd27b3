import assert from "node:assert/strict";
import { test } from "node:test";
import { FormatError } from "../../src/errors.ts";
import { readTensor } from "../../src/format/checkpoint.ts";
import {
  openSafetensors,
  type SafetensorsCheckpoint,
  type SafetensorsInput,
  writeSafetensors,
} from "../../src/format/safetensors.ts";

const blobOf = (chunks: readonly Uint8Array[]): Blob =>
  new Blob(chunks.map((chunk) => new Uint8Array(chunk)));
const open = (blob: Blob): Promise<SafetensorsCheckpoint> =>
  openSafetensors([{ name: "a.safetensors", blob }]);

/** A file with a header as it stands and `n` bytes of data. */
function raw(header: string | Uint8Array<ArrayBuffer>, n = 0): Blob {
  const json = typeof header === "string" ? new TextEncoder().encode(header) : header;
  const length = new BigUint64Array([BigInt(json.length)]);
  return new Blob([length, json, new Uint8Array(n)]);
}

function entry(dtype: string, shape: unknown, begin: unknown, end: unknown): string {
  return JSON.stringify({ dtype, shape, data_offsets: [begin, end] });
}

function assertRefused(blob: Blob, says: RegExp, offset?: number): Promise<void> {
  return assert.rejects(open(blob), (error: unknown) => {
    assert.ok(error instanceof FormatError, String(error));
    assert.match(error.message, says);
    if (offset !== undefined) assert.equal(error.offset, offset, error.message);
    return true;
  });
}

test("writeSafetensors: what it writes, openSafetensors reads, with every tensor aligned", async () => {
  const inputs: SafetensorsInput[] = [
    { name: "codes", dtype: "I8", shape: [3], data: Uint8Array.of(1, 2, 255) },
    { name: "__proto__", dtype: "F16", shape: [1], data: Uint8Array.of(1, 2) },
    { name: "mask", dtype: "U8", shape: [2, 1], data: Uint8Array.of(3, 4) },
    { name: 'é " \\', dtype: "F32", shape: [], data: Uint8Array.of(0, 0, 128, 63) },
    { name: "none", dtype: "BF16", shape: [0, 4], data: new Uint8Array(0) },
  ];
  const recipe = JSON.stringify({ text: '"{[\\'.repeat(500_000) });
  const chunks = writeSafetensors(inputs, { format: "rsparse", recipe });
  const { entries, tensors, metadata } = await open(blobOf(chunks));
  assert.deepEqual([...metadata], [["format", "rsparse"], ["recipe", recipe]]);
  assert.deepEqual([...tensors.keys()].sort(), ["__proto__", "none", 'é " \\'].sort());
  assert.equal(entries.size, inputs.length);
  for (const { name, dtype, shape, data } of inputs) {
    const found = entries.get(name)!;
    assert.deepEqual([found.dtype, found.shape], [dtype, shape]);
    assert.deepEqual(await readTensor(found), data);
    assert.equal(found.offset % { F32: 4, F16: 2, BF16: 2, I8: 1, U8: 1 }[dtype], 0, name);
  }
  assert.equal((chunks[0]!.length + chunks[1]!.length) % 8, 0);
});

test("writeSafetensors: refuses bytes that are not the shape's, and a name that is taken", () => {
  const tensor: SafetensorsInput = { name: "a", dtype: "F32", shape: [2], data: new Uint8Array(8) };
  assert.throws(() => writeSafetensors([{ ...tensor, shape: [3] }], {}), RangeError);
  assert.throws(() => writeSafetensors([{ ...tensor, shape: [-2, -1] }], {}), RangeError);
  assert.throws(() => writeSafetensors([tensor, tensor], {}), RangeError);
  assert.throws(() => writeSafetensors([{ ...tensor, name: "__metadata__" }], {}), RangeError);
});

test("openSafetensors: shards are joined in the order of their names", async () => {
  const shard = (name: string, byte: number): Blob =>
    blobOf(
      writeSafetensors([{ name, dtype: "F16", shape: [1], data: Uint8Array.of(byte, byte) }], {
        [name]: "x",
      }),
    );
  const a = { name: "m-00001-of-00002.safetensors", blob: shard("a", 1) };
  const b = { name: "m-00002-of-00002.safetensors", blob: shard("b", 2) };
  const { tensors, blobs, metadata, file } = await openSafetensors([b, a]);
  assert.deepEqual([...tensors.keys()], ["a", "b"]);
  assert.deepEqual(blobs, [a.blob, b.blob]);
  assert.deepEqual([...metadata.keys()], ["a", "b"]);
  assert.equal(file, a.name);
  assert.deepEqual(await readTensor(tensors.get("b")!), Uint8Array.of(2, 2));
  await assert.rejects(openSafetensors([a, { ...b, blob: a.blob }]), FormatError);
  await assert.rejects(openSafetensors([]), RangeError);
});

test("openSafetensors: dtypes that are no weights are entries and not tensors", async () => {
  const header = `{"i":${entry("I64", [1], 0, 8)},"b":${entry("BOOL", [2], 8, 10)}}`;
  const { entries, tensors } = await open(raw(header, 10));
  assert.deepEqual([...entries.values()].map(({ dtype }) => dtype), ["I64", "BOOL"]);
  assert.equal(tensors.size, 0);
});

test("openSafetensors: refuses bytes of no tensor, between them, before them and after them", async () => {
  await assertRefused(
    raw(`{"a":${entry("U8", [2], 0, 2)},"b":${entry("U8", [2], 3, 5)}}`, 5),
    /bytes of no tensor/,
  );
  await assertRefused(raw(`{"a":${entry("U8", [2], 1, 3)}}`, 3), /bytes of no tensor/);
  await assertRefused(raw(`{"a":${entry("U8", [2], 0, 2)}}`, 3), /tensors end at byte/);
  await assertRefused(raw("{}", 1), /tensors end at byte/);
  await assertRefused(raw(`{"a":${entry("U8", [2], 0, 2)}}`, 1), /cut or damaged/);
});

test("openSafetensors: refuses tensors that share bytes, at the later one's name", async () => {
  const header = `{"é":${entry("U8", [2], 0, 2)},"b":${entry("U8", [2], 1, 3)}}`;
  await assertRefused(raw(header, 3), /inside "é"/, 8 + header.indexOf('"b"') + 1);
});

test("openSafetensors: refuses names that come twice, which JSON.parse passes over", async () => {
  const one = entry("U8", [2], 0, 2);
  await assertRefused(raw(`{"a":${one},"a":${one}}`, 2), /comes twice/);
  await assertRefused(
    raw(`{"a":{"dtype":"U8","dtype":"U8","shape":[2],"data_offsets":[0,2]}}`, 2),
    /comes twice/,
  );
  await assertRefused(raw(`{"__metadata__":{"x":"1","x":"2"}}`), /comes twice/);
});

test("openSafetensors: refuses entries that are not what they should be", async () => {
  const headers = [
    `{"a":1}`,
    `{"a":null}`,
    `{"a":[]}`,
    `{"__metadata__":{"x":1}}`,
    `{"__metadata__":[]}`,
    `{"a":{}}`,
    `{"a":{"dtype":{"toString":1,"valueOf":1},"shape":[2],"data_offsets":[0,2]}}`,
    `{"a":${entry("toString", [2], 0, 2)}}`,
    `{"a":${entry("U8", "2", 0, 2)}}`,
    `{"a":${entry("U8", { length: 1 }, 0, 2)}}`,
    `{"a":${entry("U8", ["2"], 0, 2)}}`,
    `{"a":${entry("U8", [-1, -2], 0, 2)}}`,
    `{"a":${entry("U8", [1e300, 0], 0, 2)}}`,
    `{"a":${entry("U8", new Array(65).fill(1), 0, 1)}}`,
    `{"a":${entry("U8", [2], 2, 0)}}`,
    `{"a":${entry("U8", [2], null, 2)}}`,
    `{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2,4]}}`,
    `{"a":{"dtype":"U8","shape":[2],"data_offsets":[0]}}`,
  ];
  for (const header of headers) await assertRefused(raw(header, 2), /wanted|found|not/);
  await assertRefused(raw(`{"a":${entry("toString", [2], 0, 2)}}`, 2), /dtype "toString" found/);
});

test("openSafetensors: refuses JSON that is too deep before a parser recurses into it", async () => {
  for (const depth of [65, 20_000, 1_000_000]) {
    await assertRefused(raw(`{"a":` + "[".repeat(depth)), /nested/, 8 + 5 + 63);
  }
  await assertRefused(raw(`{"a":` + "[".repeat(60) + "]".repeat(60) + "}"), /an object wanted/);
  await assertRefused(raw(`{"a":"${"[".repeat(100)}"}`), /an object wanted/);
});

test("openSafetensors: refuses headers that are not UTF-8, or begin with a byte order mark", async () => {
  await assertRefused(raw(Uint8Array.of(0x7b, 0x22, 0xff, 0x22, 0x7d)), /UTF-8/, 8);
  await assertRefused(raw("\ufeff{}"), /parsed/, 8);
  await assertRefused(raw(""), /parsed/, 8);
});
