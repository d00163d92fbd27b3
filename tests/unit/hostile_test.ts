import assert from "node:assert/strict";
import { openAsBlob, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { FormatError } from "../../src/errors.ts";
import { type BlockType, readTensor } from "../../src/format/checkpoint.ts";
import { openSafetensors } from "../../src/format/safetensors.ts";
import { dequantizeReference } from "../../src/kernels/reference/dequantize.ts";
import { type NamedBlob, openModel } from "../../src/model/open.ts";
import { Random } from "../support/kernels.ts";
import { requireShared, sharedPath, skipWithout } from "../support/shared.ts";

interface Case {
  name: string;
  path: string;
  kind: "gguf" | "safetensors" | "folder";
  expect: "ok" | "format-error" | "ok-or-format-error";
  stage: "container" | "model" | "data" | "none";
}

const FOLDER = "golden/hostile";
const skip = skipWithout(FOLDER);
const manifest = sharedPath(`${FOLDER}/manifest.json`);
const cases: Case[] = manifest === null ? [] : JSON.parse(readFileSync(manifest, "utf8")).cases;

function filesOf({ path, kind }: Case): Promise<NamedBlob[]> {
  const full = requireShared(join(FOLDER, path));
  const paths = kind === "folder" ? readdirSync(full).map((name) => join(full, name)) : [full];
  return Promise.all(paths.map(async (name) => ({ name, blob: await openAsBlob(name) })));
}

function open({ kind }: Case, files: readonly NamedBlob[]): Promise<unknown> {
  return kind === "safetensors" ? openSafetensors(files) : openModel(files);
}

/** The error of a refusal, or null if the files load; anything but a FormatError that names its file fails the test. */
async function refusal(opened: Promise<unknown>, files: readonly NamedBlob[]): Promise<FormatError | null> {
  try {
    await opened;
    return null;
  } catch (error) {
    assert.ok(error instanceof FormatError, `not a FormatError: ${(error as Error).stack}`);
    const file = files.find(({ name }) => name === error.file);
    assert.ok(file !== undefined, `names ${error.file}`);
    assert.ok(
      Number.isSafeInteger(error.offset) && error.offset >= 0 && error.offset <= file.blob.size,
      error.message,
    );
    return error;
  }
}

test("hostile files: the manifest has every kind of case", { skip }, () => {
  requireShared(FOLDER);
  assert.deepEqual([...new Set(cases.map(({ kind }) => kind))], ["gguf", "safetensors", "folder"]);
  assert.equal(cases.filter(({ stage }) => stage === "data").length, 2);
});

for (const hostile of cases) {
  test(`hostile files: ${hostile.name}: ${hostile.stage === "data" ? "noticed in the data" : hostile.expect}`, async () => {
    const files = await filesOf(hostile);
    const error = await refusal(open(hostile, files), files);
    if (hostile.stage === "data" || hostile.expect === "ok") assert.equal(error, null);
    else if (hostile.expect === "format-error") assert.notEqual(error, null);
    assert.deepEqual(Object.keys(Object.prototype), []);
  });
}

for (const name of ["scale-nan", "scale-inf"]) {
  test(`hostile files: ${name}: block 1 of q_proj, and no other, has no finite value`, { skip }, async () => {
    const [file] = await filesOf({
      name,
      path: `${name}.gguf`,
      kind: "gguf",
      expect: "format-error",
      stage: "data",
    });
    const { layers } = await openModel([file!]);
    for (const tensor of Object.values(layers[0]!.projections)) {
      const values = dequantizeReference(tensor.type as BlockType, await readTensor(tensor));
      const bad = tensor.name === "blk.0.attn_q.weight" ? [1, 1] : [-1, -1];
      const found = [
        values.findIndex((v) => !Number.isFinite(v)),
        values.findLastIndex((v) => !Number.isFinite(v)),
      ];
      assert.deepEqual(found.map((i) => Math.floor(i / 32)), bad, tensor.name);
    }
  });
}

test("hostile files: st-proto: __proto__ and constructor are ordinary tensors", { skip }, async () => {
  const blob = await openAsBlob(requireShared(`${FOLDER}/st-proto.safetensors`));
  const { tensors } = await openSafetensors([{ name: "a", blob }]);
  assert.deepEqual(tensors.get("__proto__")?.shape, [1]);
  assert.deepEqual(tensors.get("constructor")?.shape, [1]);
  assert.equal(({} as { shape?: unknown }).shape, undefined);
});

/** The bytes with one to three of them changed within the first `span`, or 8 set to one value, or cut, or grown. */
function mutate(bytes: Uint8Array, span: number, random: Random): Uint8Array<ArrayBuffer> {
  const copy = new Uint8Array(bytes);
  switch (random.below(8)) {
    case 0:
      return copy.slice(0, random.below(copy.length));
    case 1: {
      const longer = new Uint8Array(copy.length + 1 + random.below(64));
      longer.set(copy);
      return longer;
    }
    case 2: {
      const at = random.below(span);
      return copy.fill([0, 255, 127, 128][random.below(4)]!, at, at + 8);
    }
    default:
      for (let i = random.below(3); i >= 0; --i) {
        const at = random.below(span);
        copy[at] = random.below(2) === 0 ? copy[at]! ^ 1 << random.below(8) : random.below(256);
      }
      return copy;
  }
}

const FUZZED: readonly { path: string; span: number; kind: Case["kind"] }[] = [
  { path: "valid.gguf", span: 5152, kind: "gguf" },
  { path: "valid-unknown-keys.gguf", span: 5376, kind: "gguf" },
  { path: "st-valid.safetensors", span: 1100, kind: "safetensors" },
  { path: "hf-valid/config.json", span: 520, kind: "folder" },
  { path: "hf-valid/tokenizer.json", span: 5000, kind: "folder" },
];

for (const { path, span, kind } of FUZZED) {
  test(`hostile files: ${path}, mutated 400 times, loads or is refused`, { skip }, async () => {
    const bytes = readFileSync(requireShared(join(FOLDER, path)));
    const folder = kind === "folder"
      ? await filesOf({ name: path, path: "hf-valid", kind, expect: "ok", stage: "none" })
      : [{ name: path, blob: new Blob([bytes]) }];
    const random = new Random(7);
    let refused = 0;
    for (let i = 0; i < 400; ++i) {
      const blob = new Blob([mutate(bytes, Math.min(span, bytes.length), random)]);
      const files = folder.map((file) => file.name.endsWith(path) ? { name: file.name, blob } : file);
      const hostile: Case = { name: path, path, kind, expect: "ok-or-format-error", stage: "none" };
      if (await refusal(open(hostile, files), files) !== null) ++refused;
    }
    assert.ok(refused > 100, `only ${refused} refused: are the mutations what they should be?`);
  });
}
