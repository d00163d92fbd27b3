/** What the page says: numbers, errors, verdicts; and what its benchmark asks for. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { verdictOf } from "../../examples/browser/page/verdict.ts";
import { describe } from "../../examples/browser/page/picture.ts";
import {
  bytes,
  inWords,
  parameters,
  percent,
  speed,
  threadsInShort,
} from "../../examples/browser/page/words.ts";
import { browserOf, requestsOf } from "../../examples/browser/worker/bench.ts";
import { sortFiles } from "../../examples/browser/worker/files.ts";
import type { Comparison } from "../../examples/browser/worker/protocol.ts";
import type { LoadedRecipe } from "../../src/mod.ts";
import { RECIPE_KEY } from "../../src/recipe/recipe.ts";
import { writeSafetensors } from "../../src/format/safetensors.ts";

test("words: sizes, shares and speeds", () => {
  assert.deepEqual([bytes(900), bytes(98_400_000), bytes(5_440_000_000)], ["1 kB", "98 MB", "5.4 GB"]);
  assert.deepEqual([percent(0.4), percent(0.4049, 1)], ["40 %", "40.5 %"]);
  assert.deepEqual([speed(null), speed(31.24), speed(212.6)], ["–", "31.2 tokens/s", "213 tokens/s"]);
  assert.deepEqual(
    [parameters(260_032), parameters(134_515_008), parameters(7e9)],
    ["260 thousand parameters", "134.5 million parameters", "7.0 billion parameters"],
  );
  assert.equal(threadsInShort(4, null), "4 threads");
  assert.equal(
    threadsInShort(1, "the page is not cross-origin isolated: serve it with COOP and COEP headers"),
    "1 thread: not cross-origin isolated",
  );
});

test("inWords: what a person can do about it", () => {
  const named = (name: string, message: string): Error => Object.assign(new Error(message), { name });
  for (
    const [error, wanted] of [
      [named("QuotaExceededError", ""), /There is no room for it\. Delete a model/],
      [
        named("QuotaExceededError", "It takes 98 MB and this browser has 5 MB left for the page"),
        /It takes 98 MB .* page\. Delete/,
      ],
      [named("TypeError", "Failed to fetch"), /can't be reached.*\(CORS\)/],
      [named("TypeError", "NetworkError when attempting to fetch resource."), /can't be reached/],
      [named("NotFoundError", "A requested file"), /Choose it again/],
      [named("NoModificationAllowedError", ""), /Another tab/],
      [named("RangeError", "WebAssembly.Memory(): could not allocate memory"), /^Memory does not suffice/],
      [named("CompileError", "WebAssembly.compile(): invalid"), /WebAssembly with SIMD is needed/],
      [
        named("TypeError", "Cannot read properties of undefined (reading 'digest')"),
        /did not come over https/,
      ],
      [
        named("RangeError", "sparsity 0.4 needs a recipe: make one with `rsparse calibrate -o FILE`"),
        /“Calibrate here”/,
      ],
      [named("FormatError", "Cannot read a.gguf: at byte 4: cut"), /^Cannot read a\.gguf: at byte 4: cut$/],
    ] as const
  ) assert.match(inWords(error), wanted);
  assert.equal(inWords("plain"), "plain");
});

function comparison(dense: number | null, sparse: number | null, more: Partial<Comparison> = {}): Comparison {
  const side = { tokens: 20, finishReason: "length", prefillMs: 1, measuredSparsity: null } as const;
  return {
    dense: side,
    sparse: { ...side, measuredSparsity: 0.5 },
    timed: 19,
    denseTokensPerSecond: dense,
    sparseTokensPerSecond: sparse,
    same: 7,
    ownCopy: true,
    ...more,
  };
}

test("verdictOf: gains and losses alike", () => {
  assert.match(
    verdictOf(comparison(20, 30)),
    /at 1\.50 times the speed of dense, so it was faster, over 19 tokens .* 50\.0 % .* first 7 tokens\.$/,
  );
  assert.match(verdictOf(comparison(20, 15)), /at 0\.75 times .* slower/);
  assert.match(verdictOf(comparison(20, 20.1)), /^Sparse was just as fast as dense/);
  assert.match(verdictOf(comparison(20, 20, { same: 20 })), /the same for all 20 tokens/);
  assert.match(verdictOf(comparison(20, 30, { ownCopy: false })), /packed for skipping/);
  assert.match(verdictOf(comparison(null, null)), /Too few/);
});

test("describe: the picture in words", () => {
  const shares = Float32Array.of(0.5, 1, 0.25, 0, 0.7, 1, 0.75, 0);
  assert.match(
    describe({ cells: new Uint8Array(0), shares, layers: 2 }),
    /in 2 layers.*query, key, value 60 % on average, 50 % to 70 %; attention output 100 %.*gate and up 50 % on average, 25 % to 75 %; down 0 %/,
  );
});

test("browserOf: from what browsers call themselves", () => {
  const webkit = "Mozilla/5.0 (Macintosh) AppleWebKit/605.1.15 (KHTML, like Gecko)";
  assert.deepEqual(
    [
      "Mozilla/5.0 (X11; Linux x86_64; rv:153.0) Gecko/20100101 Firefox/153.0",
      `${webkit} HeadlessChrome/153.0.8010.0 Safari/537.36`,
      `${webkit} Chrome/153.0.0.0 Safari/537.36 Edg/153.0.1.2`,
      `${webkit} Version/19.1 Safari/605.1.15`,
      "curl/8",
    ].map((text) => browserOf(text).version),
    ["firefox 153.0", "chromium 153.0.8010.0", "edge 153.0.1.2", "safari 19.1", "curl/8"],
  );
});

test("requestsOf: what fits the page, the model and its recipe", () => {
  const recipe = { recipe: { sparsity: 0.4 } } as LoadedRecipe,
    subject = { name: "m", source: () => "", recipe };
  const both = requestsOf({ tokens: true, kernels: true }, subject, true);
  assert.ok(both.some(({ threads }) => threads === 2) && both.some(({ what }) => what === "kernels"));
  assert.deepEqual(both.find(({ what }) => what === "decode")!.sparsity, [0, 0.4]);
  const plain = requestsOf({ tokens: true, kernels: false }, { ...subject, recipe: null }, false);
  assert.deepEqual(plain.map(({ what, threads }) => `${what} ${threads}`), [
    "decode 1",
    "prefill 1",
    "load 1",
  ]);
  assert.deepEqual(plain[0]!.sparsity, [0]);
  assert.deepEqual(requestsOf({ tokens: true, kernels: false }, null, true), []);
});

test("sortFiles: recipes apart from models, by what is in them", async () => {
  const recipe = new File(writeSafetensors([], { [RECIPE_KEY]: "{}" }) as BlobPart[], "recipe.safetensors");
  const weights = new File(writeSafetensors([], {}) as BlobPart[], "model.safetensors");
  const config = new File(["{}"], "config.json"), thresholds = new File(["{}"], "thresholds.json");
  const index = new File(["{}"], "model.safetensors.index.json"), gguf = new File(["GGUF"], "m.gguf");
  const sorted = await sortFiles([config, recipe, weights, index]);
  assert.deepEqual(sorted.model.map(({ name }) => name), [
    "config.json",
    "model.safetensors",
    "model.safetensors.index.json",
  ]);
  assert.equal(sorted.recipe, recipe);
  assert.deepEqual(await sortFiles([thresholds]), { model: [], recipe: thresholds });
  assert.equal((await sortFiles([gguf])).recipe, null);
  await assert.rejects(
    sortFiles([recipe, thresholds]),
    /2 recipes were given \(recipe\.safetensors, thresholds\.json\)/,
  );
  await assert.rejects(sortFiles([]), /No file/);
});
