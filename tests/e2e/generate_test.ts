import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { pulledModel } from "../support/models.ts";
import { type Finished, runProgram, type RunProgramOptions } from "../support/process.ts";
import { cliCommand, thisRuntime } from "../support/runtimes.ts";
import { requireShared, skipWithout } from "../support/shared.ts";

const CLI = cliCommand(thisRuntime());
/** Command line of Python, for a terminal of its own; null where there is none. */
const PYTHON = process.platform === "win32"
  ? null
  : ["python3", "python"].find((name) => spawnSync(name, ["--version"]).status === 0) ?? null;

interface Document {
  readonly model: { readonly name: string; readonly dtype: string };
  readonly recipe: { readonly sparsity: number; readonly sha256: string } | null;
  readonly prompt: { readonly tokens: number[]; readonly count: number };
  readonly output: { text: string; tokens: number[]; count: number; finishReason: string };
  readonly timings: Record<string, number>;
  readonly measuredSparsity: number | null;
}

interface Sequence {
  readonly positions: { token: number; top: [number, number][]; nll?: number }[];
  readonly last?: number[];
}

/** A story teller of 260,000 parameters: quick, and its text is text. */
const stories = (): string => requireShared("data/models/stories260K/stories260K.bin");
const withStories = { skip: skipWithout("data/models/stories260K") };
/** Random weights: it says any byte at any time. */
const babbler = (): string => requireShared("golden/tiny/llama-f32.gguf");

function rsparse(args: readonly string[], options: RunProgramOptions = {}): Promise<Finished> {
  return runProgram([...CLI, ...args], options);
}

/** The one document on stdout of a run that went well. */
async function json<T = Document>(args: readonly string[], options: RunProgramOptions = {}): Promise<T> {
  const { code, stdout, stderr } = await rsparse([...args, "--json"], options);
  assert.equal(code, 0, stderr);
  assert.equal(stdout.indexOf("\n"), stdout.length - 1, "one line on stdout");
  return JSON.parse(stdout);
}

/** A run that fails before anything is printed. */
async function failure(
  code: number,
  pattern: RegExp,
  args: readonly string[],
  options: RunProgramOptions = {},
): Promise<void> {
  const { stderr, stdout, code: found } = await rsparse([...args, "--quiet"], options);
  assert.equal(found, code, `${args.join(" ")}: ${stderr}`);
  assert.equal(stdout, "");
  assert.match(stderr, pattern);
  assert.ok(stderr.trimEnd().split("\n").length <= 2, stderr);
}

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
    "engine: runtime kernels threads threadsReason layouts",
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
  assert.equal(
    numbers(document).filter(([, value]) => value === null).length,
    2,
    "recipe and sparsity alone are null",
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
      `^stories260K \\(f32\\), dense, \\w+ kernels, \\S+ [\\d.]+, 1 thread: prompt ${prompt.count} tokens at [\\d.]+ tok/s, ` +
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

test("generate --stop: the text ends before the first of them", withStories, async () => {
  const args = ["generate", "-m", stories(), "-p", "Once upon a time", "-n", "60"];
  const { output: { text } } = await json(args);
  const stop = text.slice(20, 26);
  const cut = (await json([...args, "--stop", "no such text", "--stop", stop])).output;
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

test("chat: one turn with -p or on stdin, through the model's template", async () => {
  const model = await pulledModel();
  const args = ["chat", "-m", model, "-n", "8", "--system", "Be brief."];
  const given = await json([...args, "-p", "What is 2+2?"]);
  const piped = await json(args, { input: "What is 2+2?\n" });
  assert.deepEqual(piped.prompt, given.prompt);
  assert.equal(piped.output.text, given.output.text);
  const { stdout } = await rsparse(["detokenize", "-m", model, "-p", given.prompt.tokens.join(" ")]);
  assert.equal(
    stdout,
    "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat is 2+2?<|im_end|>\n<|im_start|>assistant\n\n",
  );
  await failure(2, /Cannot run an empty prompt/, args);
});

test("chat: a model without a template is told apart", withStories, async () => {
  await failure(2, /no chat template: use generate/, ["chat", "-m", stories(), "-p", "Hi"]);
});

/** Types each text once what it waits for is on the screen, in a terminal of its own; prints what the screen showed. */
const TYPIST = `
import json, os, pty, select, signal, sys, time
pid, fd = pty.fork()
if pid == 0: os.execvp(sys.argv[2], sys.argv[2:])
seen, deadline = b"", time.time() + 60
def read():
    global seen
    if time.time() > deadline:
        os.kill(pid, signal.SIGKILL)
        sys.exit("waited for a minute; the screen: " + seen.decode(errors="replace"))
    if select.select([fd], [], [], 0.1)[0]:
        data = os.read(fd, 4096)
        seen += data
        return data
at = 0
for wanted, text in json.loads(sys.argv[1]):
    while seen.find(wanted.encode(), at) < 0: read()
    at = seen.find(wanted.encode(), at) + len(wanted)
    os.write(fd, text.encode())
while True:
    try:
        if read() == b"": break
    except OSError: break
sys.stdout.buffer.write(seen)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
`;

/** A conversation: what to wait for on the screen, and what to type then. */
function converse(
  typed: readonly (readonly [wait: string, text: string])[],
  args: readonly string[],
): Promise<Finished> {
  return runProgram([PYTHON!, "-c", TYPIST, JSON.stringify(typed), ...CLI, "chat", ...args]);
}

const withTerminal = { skip: PYTHON === null && "no terminal without Python" };

test(
  "chat: at a terminal it remembers, Ctrl-C stops an answer alone, /exit leaves",
  withTerminal,
  async () => {
    const args = ["-m", await pulledModel(), "-n", "3000"];
    const { code, stdout, stderr } = await converse([
      ["> ", "My name is Ada. Say hello.\r"],
      ["generated", ""],
      ["> ", "Write an endless story about a river.\r"],
      // First the echo of the line, then a part of the answer.
      ["river.", ""],
      [" the ", "\u0003"],
      ["generated", ""],
      ["> ", "/exit\r"],
    ], args);
    assert.equal(code, 0, stderr);
    const prompts = [...stdout.matchAll(/prompt (\d+) tokens/g)].map((match) => Number(match[1]));
    assert.equal(prompts.length, 2, stdout);
    assert.ok(prompts[1]! > prompts[0]! + 10, "the second prompt holds the first turn");
    const stopped = [...stdout.matchAll(/generated (\d+)/g)].map((match) => Number(match[1]))[1]!;
    assert.ok(stopped < 2900, stdout.slice(-500));
  },
);

test("chat: Ctrl-D leaves, Ctrl-C twice is exit status 130", withTerminal, async () => {
  const args = ["-m", await pulledModel(), "-n", "8"];
  const left = await converse([["> ", "\u0004"]], args);
  assert.equal(left.code, 0, left.stdout);
  const twice = await converse([["> ", "\u0003"], ["again", ""], ["> ", "\u0003"]], args);
  assert.equal(twice.code, 130, twice.stdout);
});

test(
  "logits: golden best tokens of a tiny model, alone and in a batch",
  { skip: skipWithout("golden/tiny") },
  async () => {
    const golden = JSON.parse(readFileSync(requireShared("golden/tiny/llama-f32.json"), "utf8"));
    const prompts = golden.prompts as {
      ids: number[];
      top8: { ids: number[]; logits: number[] }[];
      last: number[];
    }[];
    const args = ["logits", "-m", babbler(), "--full-last", "--kernels", "baseline"];
    const batch = await json<Sequence[]>([...args, "--batch"], {
      input: JSON.stringify(prompts.map(({ ids }) => ids)),
    });
    assert.equal(batch.length, prompts.length);
    for (const [i, { ids, top8, last }] of prompts.entries()) {
      const { positions, last: found } = batch[i]!;
      assert.deepEqual(positions.map(({ token }) => token), ids);
      assert.equal(found!.length, 320);
      for (const [id, logit] of last.entries()) {
        assert.ok(
          Math.abs(found![id]! - logit) <= 1e-3,
          `last ${id}`,
        );
      }
      for (const [t, { top, nll }] of positions.entries()) {
        assert.equal(top.length, 8);
        for (const [k, [, logit]] of top.entries()) {
          assert.ok(
            Math.abs(logit - top8[t]!.logits[k]!) <= 1e-3,
            `${t}`,
          );
        }
        if (t === ids.length - 1) assert.equal(nll, undefined);
        else assert.ok(nll! > 0);
      }
    }
    const alone = await json<Sequence[]>([...args, "--tokens", prompts[0]!.ids.join(","), "--top", "3"]);
    assert.deepEqual(alone[0]!.last, batch[0]!.last);
    assert.deepEqual(
      alone[0]!.positions.map(({ top }) => top),
      batch[0]!.positions.map(({ top }) => top.slice(0, 3)),
    );
  },
);

test(
  "logits: what is no sequence of tokens is exit status 2",
  { skip: skipWithout("golden/tiny") },
  async () => {
    const args = ["logits", "-m", babbler()];
    await failure(2, /either --tokens 1,2,3 or --batch/, args);
    await failure(2, /either --tokens 1,2,3 or --batch/, [...args, "--tokens", "1", "--batch"], {
      input: "[[1]]",
    });
    await failure(2, /"two" as a token id/, [...args, "--tokens", "1,two"]);
    await failure(2, /--tokens is empty/, [...args, "--tokens", ""]);
    await failure(2, /token 320: ids of this model are below 320/, [...args, "--tokens", "1,320"]);
    await failure(2, /sequence 1 of the batch is empty/, [...args, "--batch"], { input: "[[1],[]]" });
    await failure(2, /not an array of arrays of token ids/, [...args, "--batch"], { input: "[[1.5]]" });
    await failure(2, /an array of arrays of token ids wanted/, [...args, "--batch"], { input: "[[1" });
    const long = JSON.stringify([new Array(100_000).fill(1)]);
    await failure(1, /more than the context of/, [...args, "--batch"], { input: long });
  },
);

test("calibrate: a recipe by which the model then runs sparse", withStories, async () => {
  const folder = mkdtempSync(join(tmpdir(), "rsparse-cli-")), recipe = join(folder, "half.safetensors");
  const made = await json<{ recipe: string; projections: Record<string, unknown>[] }>(
    ["calibrate", "-m", stories(), "--sparsity", "0.5", "--rho", "0.8", "--tokens", "600", "-o", recipe],
  );
  assert.deepEqual(Object.keys(made), ["recipe", "method", "sparsity", "seconds", "projections"]);
  assert.equal(made.recipe, recipe);
  assert.equal(made.projections.length, 5 * 7);
  assert.deepEqual(Object.keys(made.projections[0]!), [
    "path",
    "score",
    "threshold",
    "rho",
    "rank",
    "channels",
    "sparsity",
  ]);
  assert.deepEqual(readdirSync(folder), ["half.safetensors"]);
  const args = ["generate", "-m", stories(), "-p", "Once upon a time", "-n", "60", "--recipe", recipe];
  const sparse = await json(args);
  assert.equal(sparse.recipe!.sparsity, 0.5);
  assert.match(sparse.recipe!.sha256, /^[0-9a-f]{64}$/);
  assert.ok(Math.abs(sparse.measuredSparsity! - 0.5) < 0.1, `${sparse.measuredSparsity}`);
  const dense = await json([...args, "--sparsity", "0"]);
  assert.deepEqual([dense.recipe!.sparsity, dense.measuredSparsity], [0, null]);
  assert.equal(dense.output.text, (await json(args.slice(0, -2))).output.text);
  await failure(2, /was made for 0\.5: give 0 or 0\.5/, [...args, "--sparsity", "0.4"]);

  const bench = await json<{ rows: Record<string, unknown>[] }>(
    ["bench", "decode", "-m", stories(), "--recipe", recipe, "--sparsity", "0,0.5", "--reps", "3", "-n", "8"],
  );
  assert.deepEqual(bench.rows.map(({ variant, sparsity }) => [variant, sparsity]), [["dense", 0], [
    "r-sparse",
    0.5,
  ]]);
  for (const { tokensPerSecond } of bench.rows) {
    const { median, min, max, n } = tokensPerSecond as Record<string, number>;
    assert.ok(0 < min! && min! <= median! && median! <= max! && n === 3);
  }
  assert.ok(Number(bench.rows[1]!["speedup"]) > 0);
});

test("calibrate: thresholds are taken as they are given", withStories, async () => {
  const folder = mkdtempSync(join(tmpdir(), "rsparse-cli-")), recipe = join(folder, "given.safetensors");
  const given = join(folder, "given.json"), made = join(folder, "made.safetensors");
  const { projections } = await json<{ projections: { path: string; channels: number }[] }>(
    ["calibrate", "-m", stories(), "--tokens", "64", "-o", made],
  );
  const modules = projections.map(({ path, channels }, i) => [path, 0.125 + i, channels, 0]);
  writeFileSync(given, JSON.stringify({ sparsity: 0.5, rho: 1, modules }));
  const result = await json<{ projections: { threshold: number }[] }>(
    ["calibrate", "-m", stories(), "--thresholds", given, "-o", recipe],
  );
  assert.deepEqual(
    result.projections.map(({ threshold }) => threshold),
    modules.map(([, threshold]) => threshold),
  );
  writeFileSync(given, "{");
  await failure(1, /Cannot read .*given\.json: /, [
    "calibrate",
    "-m",
    stories(),
    "--thresholds",
    given,
    "-o",
    recipe,
  ]);
  const both = ["calibrate", "--thresholds", given, "--rho", "1", "-o", recipe];
  await failure(2, /both --thresholds and --rho/, both);
});

test("calibrate: wrong usage and files that can't be had", withStories, async () => {
  const folder = mkdtempSync(join(tmpdir(), "rsparse-cli-"));
  const args = ["calibrate", "-m", stories(), "-o", join(folder, "no", "such", "folder.safetensors")];
  await failure(2, /--output <file>' not specified/, ["calibrate"]);
  await failure(2, /comes with the search command/, [...args, "--rho", "search"]);
  await failure(2, /Allowed choices are r-sparse/, [...args, "--method", "magic"]);
  await failure(1, /Cannot read \/none\.txt: there is no such file/, [...args, "--data", "/none.txt"]);
  await failure(1, /Cannot write .*folder\.safetensors: /, [...args, "--tokens", "32"]);
  writeFileSync(join(folder, "latin1.txt"), new Uint8Array([0x63, 0x61, 0x66, 0xe9]));
  await failure(1, /latin1\.txt: it is not UTF-8/, [...args, "--data", join(folder, "latin1.txt")]);
});

test("bench: rows with a median and its spread", withStories, async () => {
  const load = await json<{ rows: Record<string, unknown>[] }>([
    "bench",
    "load",
    "-m",
    stories(),
    "--reps",
    "2",
  ]);
  assert.deepEqual(Object.keys(load.rows[0]!["ms"] as object), ["median", "min", "max", "n"]);
  const { stdout } = await rsparse(["bench", "prefill", "-m", stories(), "--reps", "2", "-n", "16"]);
  assert.match(stdout, /^what +model .*\nprefill +stories260K +f32 +dense .* 2 +tok\/s\n$/);
  await failure(2, /without a recipe/, ["bench", "decode", "-m", stories(), "--sparsity", "0,0.5"]);
  await failure(2, /Allowed choices are decode, prefill, load/, ["bench", "everything"]);
});

test("demo: one question, dense and sparse", withStories, async () => {
  const demo = await json<{ dense: Document; sparse: Document; speedup: number }>(
    ["demo", "-m", stories(), "-p", "Once upon a time", "-n", "30"],
  );
  assert.deepEqual([demo.dense.recipe!.sparsity, demo.dense.measuredSparsity], [0, null]);
  assert.equal(demo.sparse.recipe!.sparsity, 0.4);
  assert.ok(Math.abs(demo.sparse.measuredSparsity! - 0.4) < 0.1, `${demo.sparse.measuredSparsity}`);
  assert.ok(demo.speedup > 0);
});
