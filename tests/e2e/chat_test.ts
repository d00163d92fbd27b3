import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import process from "node:process";
import { test } from "node:test";
import { CLI, failure, json, rsparse, stories } from "../support/cli.ts";
import { pulledModel } from "../support/models.ts";
import { type Finished, runProgram } from "../support/process.ts";
import { skipWithout } from "../support/shared.ts";

/** Command line of Python, for a terminal of its own; null where there is none. */
const PYTHON = process.platform === "win32"
  ? null
  : ["python3", "python"].find((name) => spawnSync(name, ["--version"]).status === 0) ?? null;

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

test(
  "chat: a model without a template is told apart",
  { skip: skipWithout("data/models/stories260K") },
  async () => {
    await failure(2, /no chat template: use generate/, ["chat", "-m", stories(), "-p", "Hi"]);
  },
);

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
