/** `rsparse eval --queue` as a person uses it: rows run by workers, one of them killed, give what one machine gives. */
import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { after, test } from "node:test";
import { babbler, failure, json, rsparse, stories } from "../support/cli.ts";
import { heldBy, QUEUE, send, until, withQueue } from "../support/queue.ts";
import { skipWithout } from "../support/shared.ts";

const skip = skipWithout("golden/tiny/llama-f32.gguf") ||
  skipWithout("data/models/stories260K/stories260K.bin") || (process.platform === "win32" && "no signals");

interface Result {
  readonly name: string;
  readonly n: number;
  readonly complete: boolean;
}

interface Document {
  readonly tasks: readonly Result[];
  readonly seconds: number;
  readonly measuredSparsity: number | null;
}

const folder = mkdtempSync(join(tmpdir(), "rsparse-eval-queue-"));
after(() => rmSync(folder, { recursive: true, force: true }));

const STORY = "Once upon a time there was a little girl named Lily. She liked to play in the park. ";

/** A file with these rows, or this text. */
function file(name: string, content: string | readonly unknown[]): string {
  const path = join(folder, name);
  writeFileSync(
    path,
    typeof content === "string" ? content : content.map((row) => `${JSON.stringify(row)}\n`).join(""),
  );
  return path;
}

/** `eval` of a long text and of every kind of rows; some seconds of work. */
async function evaluation(pieces: number): Promise<string[]> {
  const questions = Array.from({ length: 37 }, (_, i) => ({
    ctx: `Lily saw ${i} big red balls. She was very`,
    choices: ["happy.", "xylophone", "sad and went home."],
    gold: i % 3,
  }));
  const words = [{ ctx: "Once upon a", target: "time" }, { ctx: "Lily played in the", target: "zoo" }];
  const tasks = [
    `text:${file("story.txt", STORY.repeat(8 * pieces))}`,
    `arc_easy:${file("arc.jsonl", questions)}`,
    `lambada_openai:${file("lambada.jsonl", words)}`,
    `xsum:${file("xsum.jsonl", [{ article: STORY, summary: "Lily likes the park." }])}`,
  ];
  const recipe = join(folder, "stories.safetensors");
  if (!existsSync(recipe)) {
    const made = await rsparse([
      ...["calibrate", "-m", stories(), "--sparsity", "0.5", "--tokens", "512", "-o", recipe, "--quiet"],
    ]);
    assert.equal(made.code, 0, made.stderr);
  }
  return [
    ...["eval", "-m", stories(), "--recipe", recipe, "--piece-length", "128", "--limit", String(pieces)],
    ...["--tasks", tasks.join(","), "--seed", "3"],
  ];
}

const withoutTime = (document: Document): Document => ({ ...document, seconds: 0 });
const read = (path: string): Document => withoutTime(JSON.parse(readFileSync(path, "utf8")) as Document);

test(
  "eval --queue: three workers, one killed while it holds a job, give what one machine gives",
  { skip },
  () =>
    withQueue(async ({ url, client, worker }) => {
      const one = join(folder, "machine.json"), many = join(folder, "machines.json");
      const args = await evaluation(200);
      await json([...args, "--threads", "1", "-o", one]);
      const workers = [worker(1), worker(2)];
      let isOver = false;
      const running = rsparse([...args, "--queue", url, "-o", many]).finally(() => isOver = true);
      let lost: string | null = null;
      while (lost === null && !isOver) {
        const killed = worker(1);
        await until("a job in a worker's hands", async () => isOver || await heldBy(client, killed) !== null);
        send(killed, "SIGKILL");
        await killed.ended;
        lost = await heldBy(client, killed);
      }
      const { code, stderr } = await running;
      assert.equal(code, 0, stderr);
      assert.ok(lost !== null, "it died with a job in its hands");
      assert.deepEqual(read(many), read(one));
      assert.deepEqual(read(many).tasks.map(({ n }) => n), [200, 37, 2, 1]);
      // nothing is left behind but the queue's own books
      assert.deepEqual((await client.keys("*")).filter((key) => /rsparse:work|_\d+$/.test(key)), []);
      send(workers[0]!, "SIGTERM");
      const ended = await workers[0]!.ended;
      assert.equal(ended.code, 0, ended.stderr);
      assert.match(ended.stderr, /^joining an evaluation with .*stories260K\.bin/m);
    }),
);

test(
  "eval --queue: interrupted it prints what there is, and goes on; parts and dense rows as on one machine",
  {
    skip,
  },
  () =>
    withQueue(async ({ url, client, begin, worker }) => {
      const args = await evaluation(60), out = join(folder, "cut.json"), whole = join(folder, "uncut.json");
      await json([...args, "--threads", "1", "-o", whole]);
      worker(1);
      const cut = begin(...args, "--queue", url, "-o", out), rows = `${out}.rows.jsonl`;
      await until(
        "rows",
        () => cut.isOver() || (existsSync(rows) && readFileSync(rows, "utf8").split("\n").length > 4),
      );
      send(cut, "SIGINT");
      const { code, stderr } = await cut.ended;
      assert.equal(code, 130, stderr);
      const { stderr: said } = await rsparse([...args, "--queue", url, "-o", out]);
      assert.match(said, /rows are done already/);
      assert.deepEqual(read(out), read(whole));
      assert.equal(await client.llen(`${QUEUE}:wait`), 0);

      const part = ["--part", "2/3"], dense = join(folder, "dense.json");
      const plain = args.filter((arg, i) => arg !== "--recipe" && args[i - 1] !== "--recipe");
      await json([...plain, ...part, "--queue", url, "-o", dense]);
      const beside = [...args, ...part, "--dense", dense, "-o"];
      const [here, there] = ["here.json", "there.json"].map((name) => join(folder, name)) as [string, string];
      await json([...beside, here, "--threads", "1"]);
      await json([...beside, there, "--queue", url]);
      assert.deepEqual(read(there), read(here));
    }),
);

test("eval --queue: what can't be is said", { skip }, () =>
  withQueue(async ({ url, worker }) => {
    const args = await evaluation(2), one = worker(1);
    // a row that no worker can run ends the evaluation, and no worker
    const long = file("long.jsonl", [{ ctx: STORY, target: STORY.repeat(100) }]);
    await failure(1, /^error: Cannot evaluate line 1 of .*long\.jsonl: the continuation has \d+ tokens/m, [
      ...["eval", "-m", stories(), "--tasks", `lambada_openai:${long}`, "--queue", url],
    ]);
    assert.ok(!one.isOver(), one.said());
    const wrong = worker(1, "-m", babbler());
    send(one, "SIGTERM");
    await one.ended;
    const running = rsparse([
      ...args.slice(0, 3),
      "--tasks",
      args[args.indexOf("--tasks") + 1]!,
      "--limit",
      "2",
      "--queue",
      url,
    ]);
    const { code, stderr } = await wrong.ended;
    assert.equal(code, 1, stderr);
    assert.match(
      stderr,
      /^error: Cannot evaluate .*llama-f32\.gguf: its SHA-256 is \w+, the evaluation is of \w+: give the same model with -m$/m,
    );
    // its job was given back
    worker(1);
    assert.equal((await running).code, 0);
    await failure(2, /Cannot take both --threads and --queue/, [...args, "--threads", "2", "--queue", url]);
    await failure(1, /^error: Cannot reach redis:\/\/127.0.0.1:1: /, [
      ...args,
      "--queue",
      "redis://127.0.0.1:1",
    ]);
  }));
