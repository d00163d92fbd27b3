import assert from "node:assert/strict";
import { availableParallelism } from "node:os";
import process from "node:process";
import { test } from "node:test";
import { babbler, CLI, failure, json, rsparse, type RunDocument, stories } from "../support/cli.ts";
import { pulledModel } from "../support/models.ts";
import { runProgram } from "../support/process.ts";
import { skipWithout } from "../support/shared.ts";

const withStories = { skip: skipWithout("data/models/stories260K") };

/** Every number in a document, by its path. */
function numbers(value: unknown, path: string = ""): [string, unknown][] {
  if (typeof value !== "object" || value === null) return [[path, value]];
  return Object.entries(value).flatMap(([key, inner]) => numbers(inner, `${path}.${key}`));
}

test("generate --json: the document of the contract, and nothing else on stdout", withStories, async () => {
  const prompt = "Once upon a time, there was a little dog named";
  const document = await json(["generate", "-m", stories(), "-p", prompt, "-n", "12"]);
  const shape = Object.entries(document).map(([key, value]) =>
    value === null || typeof value !== "object" ? key : `${key}: ${Object.keys(value).join(" ")}`
  );
  assert.deepEqual(shape, [
    "model: name architecture parameters quantization dtype",
    "engine: runtime kernels threads threadsReason layouts storage",
    "recipe",
    "prompt: tokens count",
    "output: text tokens count finishReason",
    "timings: loadMs prefillMs prefillTokensPerSecond firstTokenMs decodeMs decodeTokensPerSecond",
    "measuredSparsity",
    "memory: wasmBytes weightBytes kvBytes recipeBytes rssBytes",
    "seed",
  ]);
  assert.deepEqual([document.recipe, document.measuredSparsity], [null, null]);
  assert.deepEqual(document.prompt, {
    tokens: [1, 403, 407, 261, 378, 432, 383, 286, 261, 376, 400, 428, 395],
    count: 13,
  });
  assert.deepEqual([document.output.count, document.output.tokens.length], [12, 12]);
  assert.equal(document.output.finishReason, "length");
  for (const [name, ms] of Object.entries(document.timings)) assert.ok(ms > 0, name);
  assert.ok(
    document.timings["firstTokenMs"]! > document.timings["loadMs"]!,
    "counted from the process's start",
  );
  // one for each processor; of a single one there is a reason
  const { threads, threadsReason } = document.engine;
  const processors = Math.min(availableParallelism(), 8);
  assert.deepEqual([threads, threadsReason], [processors, processors > 1 ? null : "there is one processor"]);
  assert.equal(
    numbers(document).filter(([, value]) => value === null).length,
    processors > 1 ? 3 : 2,
    "recipe, sparsity and, with several processors, the reason for one thread alone are null",
  );
});

test("generate: the text goes to stdout as it is, the speed to stderr", withStories, async () => {
  const args = ["generate", "-m", stories(), "-p", "Lily and Tom went to the park.", "-n", "20"];
  const { output, prompt } = await json(args);
  const { stdout, stderr, code } = await rsparse(args);
  assert.deepEqual([code, stdout], [0, `${output.text}\n`]);
  assert.equal(stderr.trimEnd().split("\n").length, 1, stderr);
  assert.match(
    stderr,
    new RegExp(
      `^stories260K \\(f32\\), dense, \\w+ kernels, \\S+ [\\d.]+, \\d threads?: prompt ${prompt.count} tokens at [\\d.]+ tok/s, ` +
        `generated 20 at [\\d.]+ tok/s, first after [\\d.]+ s\n$`,
    ),
  );
  const quiet = await rsparse([...args, "--quiet"]);
  assert.deepEqual([quiet.stdout, quiet.stderr], [`${output.text}\n`, ""]);
});

test("generate: a prompt on stdin is the one of -p, without its last line break", withStories, async () => {
  const args = ["generate", "-m", stories(), "-n", "4"];
  const given = await json([...args, "-p", "One day\nTom"]);
  for (const input of ["One day\nTom", "One day\nTom\n", "One day\nTom\r\n"]) {
    assert.deepEqual((await json(args, { input })).prompt, given.prompt, JSON.stringify(input));
  }
  assert.notDeepEqual((await json(args, { input: "One day\nTom\n\n" })).prompt, given.prompt);
});

test("generate: a seed repeats its text, another one does not", withStories, async () => {
  const args = ["generate", "-m", stories(), "-p", "Tom", "-n", "40", "--temperature", "1"];
  const texts: string[] = [];
  for (const seed of ["7", "7", "8"]) texts.push((await json([...args, "--seed", seed])).output.text);
  assert.equal(texts[0], texts[1]);
  assert.notEqual(texts[0], texts[2]);
  // The one that was made up is told, so that a good text can be had again.
  const { stdout, stderr } = await rsparse(args);
  const seed = /, seed (\d+)/.exec(stderr)?.[1];
  assert.ok(seed, stderr);
  assert.equal((await rsparse([...args, "--seed", seed])).stdout, stdout);
});

test(
  "generate --kv: bf16 takes half the memory of f32, and a story goes on as well",
  withStories,
  async () => {
    const args = ["generate", "-m", stories(), "-p", "Once upon a time", "-n", "20"];
    const [whole, half] = await Promise.all(
      ["f32", "bf16"].map((kv) => json<RunDocument & { memory: { kvBytes: number } }>([...args, "--kv", kv])),
    );
    assert.equal(half!.memory.kvBytes, whole!.memory.kvBytes / 2);
    assert.equal(half!.output.count, 20);
    await failure(2, /--kv/, [...args, "--kv", "f16"]);
  },
);

test("generate --stop: the text ends before the first of them", withStories, async () => {
  const args = ["generate", "-m", stories(), "-p", "Once upon a time", "-n", "60"];
  const { output: { text } } = await json(args);
  const stop = text.slice(20, 26);
  const cut = (await json([...args, "--stop", stop, "--stop", "no such text"])).output;
  assert.deepEqual([cut.text, cut.finishReason], [text.slice(0, text.indexOf(stop)), "stop"]);
  assert.equal((await rsparse([...args, "--stop", stop])).stdout, `${cut.text}\n`);
});

test(
  "generate: text in any script, and no broken character",
  { skip: skipWithout("golden/tiny") },
  async () => {
    const args = [
      "generate",
      "-m",
      babbler(),
      "-p",
      "Zoë 🦊 東京",
      "-n",
      "200",
      "--temperature",
      "2",
      "--seed",
      "3",
    ];
    const { prompt, output } = await json(args);
    const back = await rsparse(["detokenize", "-m", babbler(), "-p", prompt.tokens.join(" ")]);
    assert.equal(back.stdout, "Zoë 🦊 東京\n");
    const { stdout } = await rsparse([...args, "--quiet"]);
    assert.equal(stdout, output.text.endsWith("\n") ? output.text : `${output.text}\n`);
    const parts = await rsparse([
      "detokenize",
      "-m",
      babbler(),
      "--no-special",
      "-p",
      output.tokens.join(" "),
    ]);
    assert.equal(parts.stdout, `${output.text}\n`);
  },
);

test("generate: an empty prompt is BOS, and wrong usage where the model has none", withStories, async () => {
  const { prompt, output } = await json(["generate", "-m", stories(), "-p", "", "-n", "5"]);
  assert.deepEqual([prompt.tokens, output.tokens], [[1], [403, 407, 261, 378, 432]]);
  const args = ["generate", "-m", await pulledModel()];
  await failure(2, /Cannot run an empty prompt: .* after -p/, [...args, "-p", ""]);
  await failure(2, /Cannot run an empty prompt: .* on stdin/, args);
  await failure(2, /Cannot run an empty prompt/, args, { input: "\n" });
});

test("generate: wrong usage is exit status 2", withStories, async () => {
  const args = ["generate", "-m", stories()];
  await failure(2, /an integer from 0 wanted/, [...args, "-p", "x", "-n", "-1"]);
  await failure(2, /topP: 2 found, it must be above 0 and at most 1/, [...args, "-p", "x", "--top-p", "2"]);
  await failure(2, /a number wanted/, [...args, "-p", "x", "--temperature", "warm"]);
  await failure(2, /at least one character wanted/, [...args, "-p", "x", "--stop", ""]);
  await failure(2, /Allowed choices are dense, sparse, official/, [...args, "-p", "x", "--prefill", "some"]);
  await failure(2, /sparsity 0\.5 without a recipe: make one with/, [
    ...args,
    "-p",
    "x",
    "--sparsity",
    "0.5",
  ]);
});

test("generate: what can't be run is exit status 1, before anything is printed", withStories, async () => {
  const args = ["generate", "-m", stories()];
  await failure(
    1,
    /^error: Cannot run a prompt of \d+ tokens .* more than the context of 512: shorten/,
    args,
    {
      input: "Once upon a time ".repeat(400),
    },
  );
  await failure(1, /and 100000 new ones: .* more than the context of 512/, [
    ...args,
    "-p",
    "Tom",
    "-n",
    "100000",
  ]);
  await failure(1, /^error: Cannot read \/none\.safetensors: .*no such file/, [
    ...args,
    "-p",
    "x",
    "--recipe",
    "/none.safetensors",
  ]);
});

test("generate: Ctrl-C prints what there is, exit status 130", {
  skip: process.platform === "win32" && "no signals",
}, async () => {
  const args = [
    "generate",
    "-m",
    await pulledModel(),
    "-p",
    "The capital of France is",
    "-n",
    "4000",
    "--ignore-eos",
  ];
  let interrupt = (): void => {}, pieces = 0;
  const { code, stdout, stderr } = await rsparse(args, {
    onStart: (send) => interrupt = send,
    onStdout: () => ++pieces === 5 ? interrupt() : undefined,
  });
  assert.equal(code, 130, stderr);
  assert.match(stdout, /^ Paris.*\n$/s);
  const generated = Number(/generated (\d+) at/.exec(stderr)?.[1]);
  assert.ok(generated >= 5 && generated < 3000, stderr);
});

test("generate: Ctrl-C is heard while a long prompt is read", {
  skip: process.platform === "win32" && "no signals",
}, async () => {
  // 7,001 tokens: a minute or more. The interruption comes after the load or in it, never behind the prompt.
  const input = "The quick brown fox jumps over the lazy dog. ".repeat(700);
  const { code, stdout, stderr } = await rsparse(["generate", "-m", await pulledModel(), "-n", "1"], {
    input,
    onStart: (interrupt) => void setTimeout(interrupt, 2000),
  });
  assert.equal(code, 130);
  assert.equal(stdout.trim(), "");
  assert.match(stderr, /generated 0\n$|^interrupted\n$/);
});

test("generate: a reader that goes away ends it, and is no failure", {
  skip: process.platform === "win32" && "no shell",
}, async () => {
  const args = ["generate", "-m", await pulledModel(), "-p", "The", "-n", "4000", "--ignore-eos", "--quiet"];
  const program = [...CLI, ...args].map((part) => `'${part}'`).join(" ");
  const { stdout, stderr } = await runProgram([
    "bash",
    "-c",
    `${program} | head -c 10 >/dev/null; echo "\${PIPESTATUS[0]}"`,
  ]);
  assert.deepEqual([stdout, stderr], ["0\n", ""]);
});
