import assert from "node:assert/strict";
import { openAsBlob, readFileSync } from "node:fs";
import { test } from "node:test";
import { FormatError } from "../../src/errors.ts";
import { openGguf } from "../../src/format/gguf.ts";
import { bpeFromGguf, bpeFromTokenizerJson } from "../../src/model/tokenizer_bpe.ts";
import { llama2cTokenizer } from "../../src/model/tokenizer_llama2c.ts";
import type { Tokenizer } from "../../src/model/tokenizer.ts";
import { Random } from "../../src/runtime/random.ts";
import { TextStream } from "../../src/runtime/text_stream.ts";
import { pulledModel } from "../support/models.ts";
import { requireShared, sharedPath, skipWithout } from "../support/shared.ts";

interface EncodeCase {
  readonly text: string;
  readonly ids: readonly number[];
  /** With control tokens recognised, where that differs. */
  readonly ids_special?: readonly number[];
  /** Where the vocabulary lacks some of the text's bytes. */
  readonly decodes_to?: string;
}

interface SmolLm2Cases {
  readonly special: readonly { readonly id: number; readonly text: string }[];
  readonly encode: readonly EncodeCase[];
  readonly encode_long: readonly EncodeCase[];
  readonly decode: readonly {
    readonly ids: readonly number[];
    readonly bytes: string;
    readonly text: string;
    readonly text_without_special: string;
  }[];
}

const CASES = "golden/smollm2/tokenizer_cases.json";
const STORIES = "golden/stories260K/logits.json";

function readJson<T>(relative: string): T {
  return JSON.parse(readFileSync(requireShared(relative), "utf8"));
}

async function ggufTokenizer(path: string): Promise<Tokenizer> {
  const { metadata } = await openGguf(await openAsBlob(path), path);
  return bpeFromGguf(metadata, path, 0);
}

function folderTokenizer(relative: string): Tokenizer {
  const path = requireShared(`${relative}/tokenizer.json`);
  // some folders have none
  const config = sharedPath(`${relative}/tokenizer_config.json`) !== null
    ? readJson(`${relative}/tokenizer_config.json`)
    : null;
  return bpeFromTokenizerJson(JSON.parse(readFileSync(path, "utf8")), config, path);
}

let smolLm2: Promise<Tokenizer> | null = null;

function smolLm2Tokenizer(): Promise<Tokenizer> {
  return smolLm2 ??= pulledModel().then(ggufTokenizer);
}

/** All text of a stream over `ids`. */
function streamed(tokenizer: Tokenizer, ids: readonly number[], skipSpecial: boolean): string {
  const stream = new TextStream(tokenizer, { skipSpecial });
  return ids.map((id) => stream.push(id).text).join("") + stream.end();
}

test("SmolLM2: every text encodes to the golden ids, control tokens as text and recognised", {
  skip: skipWithout(CASES),
}, async () => {
  const tokenizer = await smolLm2Tokenizer();
  for (const { text, ids, ids_special } of readJson<SmolLm2Cases>(CASES).encode) {
    assert.deepEqual(tokenizer.encode(text, { bos: true }), ids, JSON.stringify(text));
    assert.deepEqual(tokenizer.encode(text, { special: true }), ids_special ?? ids, JSON.stringify(text));
  }
});

test("SmolLM2: long texts encode to the golden ids", { skip: skipWithout(CASES) }, async () => {
  const tokenizer = await smolLm2Tokenizer();
  for (const { text, ids } of readJson<SmolLm2Cases>(CASES).encode_long) {
    assert.deepEqual(tokenizer.encode(text), ids, text.slice(0, 20));
  }
});

test(
  "SmolLM2: encoded texts decode to themselves, whole and streamed, but for bytes that the vocabulary lacks",
  { skip: skipWithout(CASES) },
  async () => {
    const tokenizer = await smolLm2Tokenizer();
    const cases = readJson<SmolLm2Cases>(CASES);
    for (const { text, ids, decodes_to } of [...cases.encode, ...cases.encode_long]) {
      assert.equal(tokenizer.decode(ids), decodes_to ?? text);
      assert.equal(streamed(tokenizer, ids, true), decodes_to ?? text);
    }
  },
);

test(
  "SmolLM2: ids decode to the golden bytes and texts, whole and streamed",
  { skip: skipWithout(CASES) },
  async () => {
    const tokenizer = await smolLm2Tokenizer();
    for (const { ids, bytes, text, text_without_special } of readJson<SmolLm2Cases>(CASES).decode) {
      assert.equal(ids.map((id) => hex(tokenizer.bytesOf(id))).join(""), bytes);
      assert.equal(tokenizer.decode(ids), text);
      assert.equal(tokenizer.decode(ids, { skipSpecial: true }), text_without_special);
      assert.equal(streamed(tokenizer, ids, false), text);
      assert.equal(streamed(tokenizer, ids, true), text_without_special);
    }
  },
);

test(
  "SmolLM2: control tokens, their names, and what ends generation",
  { skip: skipWithout(CASES) },
  async () => {
    const tokenizer = await smolLm2Tokenizer();
    const { special } = readJson<SmolLm2Cases>(CASES);
    assert.equal(tokenizer.vocabSize, 49_152);
    const found = Array.from({ length: tokenizer.vocabSize }, (_, id) => id).filter((id) =>
      tokenizer.isSpecial(id)
    );
    assert.deepEqual(found.map((id) => ({ id, text: tokenizer.decode([id]) })), special);
    for (const { id, text } of special) assert.equal(tokenizer.idOf(text), id);
    assert.deepEqual([...tokenizer.stopIds].sort(), [0, 2]);
    assert.equal(tokenizer.addBos, false);
  },
);

test("SmolLM2: one word of 200,000 characters encodes and comes back", {
  skip: skipWithout(CASES),
}, async () => {
  const tokenizer = await smolLm2Tokenizer();
  const text = "abcdefghij".repeat(20_000);
  assert.equal(tokenizer.decode(tokenizer.encode(text)), text);
});

/** Model, and whether its golden ids begin with BOS. */
const TINY: readonly (readonly [name: string, bos: boolean])[] = [
  ["llama-f32.gguf", false],
  ["llama-mixed.gguf", false],
  ["llama3-untied-f16.gguf", false],
  ["llama3-hf", true],
  ["qwen2-hf", true],
  ["mistral-hf", true],
];

for (const [name, bos] of TINY) {
  test(
    `tiny ${name}: every text encodes to the golden ids`,
    { skip: skipWithout("golden/tiny") },
    async () => {
      const path = `golden/tiny/${name}`;
      const tokenizer = name.endsWith(".gguf")
        ? await ggufTokenizer(requireShared(path))
        : folderTokenizer(path);
      const { encode } = readJson<{ encode: EncodeCase[] }>(`${path.replace(/\.gguf$/, "")}.json`);
      assert.ok(encode.length > 20);
      for (const { text, ids } of encode) {
        assert.deepEqual(tokenizer.encode(text, { special: true, bos }), ids, JSON.stringify(text));
      }
      assert.deepEqual(tokenizer.stopIds, [0]);
      assert.equal(tokenizer.bosId, 1);
      assert.equal(tokenizer.addBos, name.startsWith("llama3"));
    },
  );
}

interface Stories {
  readonly prompts: readonly {
    readonly text: string;
    readonly ids: readonly number[];
    readonly greedy?: { readonly ids: readonly number[]; readonly text: string };
  }[];
  readonly encode: readonly EncodeCase[];
}

function storiesTokenizer(): Tokenizer {
  const file = "data/models/stories260K/tok512.bin";
  return llama2cTokenizer(readFileSync(requireShared(file)), 512, file);
}

test("stories260K: texts encode to the golden ids, with BOS in front, and decode to themselves", {
  skip: skipWithout(STORIES),
}, () => {
  const tokenizer = storiesTokenizer();
  for (const { text, ids } of readJson<Stories>(STORIES).encode) {
    assert.deepEqual(tokenizer.encode(text, { bos: true }), ids, JSON.stringify(text));
    assert.deepEqual(tokenizer.encode(text), ids.slice(1));
    assert.equal(tokenizer.decode(ids, { skipSpecial: true }), text);
  }
});

test(
  "stories260K: generated tokens are the golden text, whole and streamed",
  { skip: skipWithout(STORIES) },
  () => {
    const tokenizer = storiesTokenizer();
    for (const { ids, greedy } of readJson<Stories>(STORIES).prompts) {
      if (!greedy) continue;
      const previous = ids.at(-1)!;
      assert.equal(tokenizer.decode(greedy.ids, { previous }), greedy.text);
      const stream = new TextStream(tokenizer, { previous });
      assert.equal(greedy.ids.map((id) => stream.push(id).text).join("") + stream.end(), greedy.text);
    }
  },
);

test("TextStream: stop texts at every place of a golden text, whatever the tokens", {
  skip: skipWithout(STORIES),
}, () => {
  const tokenizer = storiesTokenizer(), random = new Random(3);
  const { ids, greedy } = readJson<Stories>(STORIES).prompts.find(({ greedy }) => greedy)!;
  for (let round = 0; round < 300; ++round) {
    const from = Math.floor(random.uniform() * (greedy!.text.length - 12));
    const stop = greedy!.text.slice(from, from + 1 + Math.floor(random.uniform() * 12));
    const stream = new TextStream(tokenizer, { previous: ids.at(-1)!, stop: [stop] });
    let text = "", stopped = false;
    for (const id of greedy!.ids) {
      const part = stream.push(id);
      text += part.text;
      stopped = part.stopped;
      if (stopped) break;
    }
    assert.ok(stopped);
    assert.equal(text, greedy!.text.slice(0, greedy!.text.indexOf(stop)));
  }
});

const HOSTILE: readonly (readonly [name: string, error: RegExp | null])[] = [
  ["valid.gguf", null],
  ["hf-valid", null],
  ["eos-outside.gguf", null],
  ["merge-no-space.gguf", /merge 1 is "the"/],
  ["merge-unknown.gguf", /"zz" is not in the vocabulary/],
  ["merge-result-unknown.gguf", /"ht" is not in the vocabulary/],
  ["hf-tokenizer-merge", /"zz" is not in the vocabulary/],
];

for (const [name, error] of HOSTILE) {
  const claim = error ? "is refused" : "loads";
  test(`hostile ${name}: its tokenizer ${claim}`, { skip: skipWithout("golden/hostile") }, async () => {
    const path = `golden/hostile/${name}`;
    const load = async () =>
      name.endsWith(".gguf") ? await ggufTokenizer(requireShared(path)) : folderTokenizer(path);
    if (!error) {
      assert.equal((await load()).vocabSize, 264);
      return;
    }
    await assert.rejects(
      load,
      (thrown: Error) => thrown instanceof FormatError && error.test(thrown.message),
    );
  });
}

function hex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
