/** `rsparse search` and `rsparse worker` as a person uses them, on tiny models. */
import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { after, test } from "node:test";
import { gzipSync } from "node:zlib";
import { babbler, failure, json, rsparse, stories } from "../support/cli.ts";
import { heldBy, QUEUE, send, start, until, withQueue } from "../support/queue.ts";
import { skipWithout } from "../support/shared.ts";

const skip = skipWithout("golden/tiny/llama-f32.gguf") ||
  skipWithout("data/models/stories260K/stories260K.bin");
const skipSignals = skip || (process.platform === "win32" && "no signals");

interface SearchDocument {
  readonly best: number;
  readonly start: number;
  readonly history: readonly {
    readonly generation: number;
    readonly layers: readonly number[];
    readonly best: number;
    readonly mean: number;
  }[];
  readonly evaluations: number;
  readonly seconds: number;
  readonly recipe: string | null;
  readonly settings: { readonly population: number; readonly algorithm: string };
}

interface Calibration {
  readonly method: string;
  readonly projections: readonly {
    readonly path: string;
    readonly rho: number;
    readonly rank: number;
    readonly sparsity: number;
    readonly threshold: number;
  }[];
}

const folder = mkdtempSync(join(tmpdir(), "rsparse-search-"));
after(() => rmSync(folder, { recursive: true, force: true }));

const STORY =
  "Once upon a time there was a little girl named Lily. She liked to play in the park with her dog. ";

/** Documents, as C4 comes. */
function documents(): string {
  const path = join(folder, "c4.jsonl.gz");
  const rows = Array.from({ length: 8 }, (_, i) => ({ text: `Story ${i}. ${STORY.repeat(4 + i)}` }));
  if (!existsSync(path)) writeFileSync(path, gzipSync(rows.map((row) => JSON.stringify(row)).join("\n")));
  return path;
}

/** Population 8, one generation, three samples of 48 tokens: 21 evaluations at most for the story teller's five blocks in one group. */
const SMALL = [
  "--population",
  "8",
  "--generations",
  "2",
  "--group-layers",
  "2",
  "--samples",
  "3",
  "--sample-tokens",
  "48",
];

const search = (
  ...more: string[]
): string[] => ["search", "-m", stories(), "--data", documents(), ...SMALL, ...more];

const bytes = (path: string): string => readFileSync(path).toString("base64");

test(
  "search: what it finds is no worse than its start, is a recipe that runs, and is the same for any number of workers",
  { skip },
  async () => {
    const paths = ["one", "three"].map((name) => join(folder, `${name}.safetensors`)) as [string, string];
    const found: SearchDocument[] = [];
    for (const [i, workers] of [["--workers", "1"], ["--threads", "3"]].entries()) {
      found.push(
        await json<SearchDocument>(search("--algorithm", "joint", ...workers, "--recipe-out", paths[i]!)),
      );
    }
    const [one, three] = found as [SearchDocument, SearchDocument];
    assert.deepEqual({ ...one, seconds: 0, recipe: "" }, { ...three, seconds: 0, recipe: "" });
    assert.equal(bytes(paths[0]), bytes(paths[1]));
    assert.ok(one.best < one.start, `${one.best} found, below ${one.start} wanted`);
    assert.ok(
      one.seconds > 0 && one.evaluations > 60 && one.evaluations <= 1 + 3 * 8 * 3,
      String(one.evaluations),
    );
    assert.deepEqual(one.history.map(({ generation, layers }) => [generation, ...layers]), [
      ...[[0, 0, 2], [1, 0, 2], [2, 0, 2], [3, 2, 4], [4, 2, 4], [5, 2, 4], [6, 4, 5], [7, 4, 5], [8, 4, 5]],
    ]);
    assert.equal(Math.min(...one.history.map(({ best }) => best)), one.best);
    assert.ok(one.history.every(({ best, mean }) => best <= mean));
    // the path: a line for what it depends on, one for each point
    assert.equal(
      readFileSync(`${paths[0]}.path.jsonl`, "utf8").trimEnd().split("\n").length,
      1 + one.evaluations,
    );
    assert.deepEqual(readdirSync(folder).filter((name) => /part$|search\.jsonl$/.test(name)), []);

    const run = await json(["generate", "-m", stories(), "--recipe", paths[0], "-p", "Once upon", "-n", "8"]);
    assert.equal(run.recipe?.method, "r-sparse");
    assert.equal(run.recipe?.sparsity, 0.5);
  },
);

test("search: its perplexity is that of the recipe it writes", { skip }, async () => {
  const text = join(folder, "one.txt"), path = join(folder, "whole.safetensors");
  writeFileSync(text, STORY.repeat(3));
  // one sample that is the whole text, so that `eval` sees the same
  const tokens = await json<number[][]>(["tokenize", "-m", stories(), "-p", STORY.repeat(3)]);
  const length = tokens[0]!.length - 1;
  const { best } = await json<SearchDocument>([
    ...[
      "search",
      "-m",
      stories(),
      "--data",
      text,
      ...SMALL,
      "--samples",
      "1",
      "--sample-tokens",
      String(length),
    ],
    ...["--recipe-out", path],
  ]);
  const { tasks: [task] } = await json<{ tasks: { metrics: { perplexity: number } }[] }>([
    ...[
      "eval",
      "-m",
      stories(),
      "--tasks",
      `text:${text}`,
      "--recipe",
      path,
      "--piece-length",
      String(length),
    ],
  ]);
  assert.ok(Math.abs(task!.metrics.perplexity / best - 1) < 1e-6, `${task!.metrics.perplexity} and ${best}`);
});

test("search --algorithm greedy, --size local: recipes by blocks", { skip }, async () => {
  const greedy = join(folder, "greedy.safetensors");
  const found = await json<SearchDocument>(
    search("--algorithm", "greedy", "--greedy-step", "0.2", "--recipe-out", greedy),
  );
  // the start, five blocks, what they make
  assert.deepEqual([found.evaluations, found.history.length], [7, 0]);
  const inspected = await json<{ recipe: { method: string } }>([
    "generate",
    "-m",
    stories(),
    "--recipe",
    greedy,
    "-p",
    "a",
    "-n",
    "1",
  ]);
  assert.equal(inspected.recipe.method, "teal");
  const local = await json<SearchDocument>(search("--size", "local"));
  assert.deepEqual([local.settings.algorithm, local.evaluations, local.recipe], ["local", 7, null]);
  assert.equal(local.start, found.start);
});

/** The released file's form, for a model of two blocks. */
function official(count: number): string {
  const path = join(folder, `official-${count}.npy`);
  const lines = Array.from(
    { length: count },
    (_, i) => [i % 3 === 0 ? "1.000000000000000000e+00" : "0.7", "5.0e-01"],
  );
  writeFileSync(path, `${lines.flat().join("\n")}\n`);
  return path;
}

test("search --from: the released recipe's form becomes a recipe as it is", { skip }, async () => {
  const path = join(folder, "official.safetensors");
  const args = ["search", "-m", babbler(), "--generations", "0", "--samples", "1", "--sample-tokens", "64"];
  const { evaluations, best, start } = await json<SearchDocument>([
    ...args,
    ...["--from", official(14), "--recipe-out", path],
  ]);
  assert.deepEqual([evaluations, best], [1, start]);
  const { recipe } = await json(["generate", "-m", babbler(), "--recipe", path, "-p", "a", "-n", "1"]);
  assert.equal(recipe?.sparsity, 0.5);
  await failure(1, /^error: Cannot use recipe: official: 26 numbers found, 28 wanted/, [
    ...args,
    "--from",
    official(13),
  ]);
  const broken = join(folder, "broken.npy");
  writeFileSync(broken, `${Array(27).fill("0.5").join("\n")}\nnan\n`);
  await failure(1, /^error: Cannot use recipe: official\.27: "nan" found, a number wanted/, [
    ...args,
    "--from",
    broken,
  ]);
  writeFileSync(broken, `${Array(27).fill("0.5").join("\n")}\n1.5\n`);
  await failure(1, /^error: Cannot use recipe: .*down_proj.sparsity: 1.5 found/, [...args, "--from", broken]);
});

test("calibrate --rho search: as search does it", { skip }, async () => {
  const { method, projections } = await json<Calibration>([
    ...["calibrate", "-m", babbler(), "--rho", "search", "--sparsity", "0.5"],
    ...["--tokens", "64", "--data", shortText()],
  ]);
  assert.equal(method, "r-sparse");
  assert.equal(projections.length, 14);
  assert.ok(projections.some(({ rho }) => rho < 1));
  await failure(2, /^error: Cannot take --compat official with --rho search/, [
    ...["calibrate", "-m", babbler(), "--rho", "search", "--compat", "official"],
  ]);
});

function shortText(): string {
  const path = join(folder, "short.txt");
  // what it is is told by its name
  writeFileSync(path, `{${STORY.repeat(40)}`);
  return path;
}

test("search: what can't be is said", { skip }, async () => {
  const missing = join(folder, "missing.txt");
  await failure(1, /^error: Cannot read .*missing.txt: there is no such file/, [
    "search",
    "-m",
    stories(),
    "--data",
    missing,
  ]);
  const short = join(folder, "few.txt");
  writeFileSync(short, "Lily.");
  await failure(1, /^error: Cannot search: the text has \d+ tokens, at least 48 wanted/, [
    ...["search", "-m", stories(), "--data", short, ...SMALL],
  ]);
  await failure(
    2,
    /Cannot take both --workers and --queue/,
    search("--workers", "1", "--queue", "redis://localhost:1"),
  );
  await failure(
    1,
    /^error: Cannot write .*: there is no folder/,
    search("--recipe-out", join(folder, "no", "x.safetensors")),
  );
  await failure(1, /^error: Cannot reach redis:\/\/127.0.0.1:1: .*ECONNREFUSED.*: start redis-server/, [
    ...search("--queue", "redis://:secret@127.0.0.1:1"),
  ]);
  // an address that can't be read may have a password in it
  await failure(
    1,
    /^error: Cannot use the queue: its address is no URL: one such as redis:\/\/localhost:6379 wanted$/m,
    ["worker", "--queue", "redis://:secret@host:port"],
  );
  for (
    const [pattern, ...options] of [
      [/both --size local and --algorithm joint: /, "--size", "local", "--algorithm", "joint"],
      [/both --from and --sparsity: /, "--from", official(35), "--sparsity", "0.4"],
      [/--from with --algorithm greedy: /, "--from", official(35), "--algorithm", "greedy"],
      [/--from with --algorithm local: /, "--from", official(35), "--size", "local"],
      [/both --workers and --threads: /, "--workers", "1", "--threads", "1"],
      [/both --threads and --queue: /, "--threads", "1", "--queue", "redis://localhost:1"],
    ] as [RegExp, ...string[]][]
  ) await failure(2, pattern, search(...options));
  await failure(1, /^error: Cannot use the queue http:\/\/x: redis:\/\/ or rediss:\/\/ wanted/, [
    "worker",
    "--queue",
    "http://x",
  ]);
  await failure(1, /^error: Cannot reach redis:\/\/127.0.0.1:1: /, [
    "worker",
    "--queue",
    "redis://127.0.0.1:1",
  ]);
});

/** Lines of a state so far. */
function linesOf(state: string): number {
  return existsSync(state) ? readFileSync(state, "utf8").split("\n").length - 1 : 0;
}

/** Searches until its state has so many lines, then sends the signal; begins again where it was too quick. */
async function stopped(
  args: readonly string[],
  out: string,
  lines: number,
  signal: NodeJS.Signals,
): Promise<{ code: number | null; stderr: string }> {
  for (let tries = 0; tries < 5; tries++) {
    const running = start([...args, out]), state = `${out}.search.jsonl`;
    await until("evaluations", () => running.isOver() || linesOf(state) >= lines);
    send(running, signal);
    const ended = await running.ended;
    if (existsSync(state)) return ended;
    assert.equal(ended.code, 0, ended.stderr);
    rmSync(out);
  }
  return assert.fail("it was never stopped before its end");
}

test(
  "search: killed and interrupted, it goes on and ends with the same files",
  { skip: skipSignals },
  async () => {
    const whole = join(folder, "uncut.safetensors"),
      cut = join(folder, "cut.safetensors"),
      state = `${cut}.search.jsonl`;
    const args = search("--seed", "7", "--workers", "2", "--generations", "4", "--recipe-out");
    const wanted = await json<SearchDocument>([...args, whole]);
    for (const lines of [4, 20]) await stopped(args, cut, lines, "SIGKILL");
    assert.ok(!existsSync(cut));
    const { code, stderr } = await stopped(args, cut, 30, "SIGINT");
    assert.equal(code, 130, stderr);
    assert.match(
      stderr,
      /^what is done is kept in .*cut\.safetensors\.search\.jsonl: the same command goes on from there$/m,
    );
    // the lock of the one that was killed
    assert.match(stderr, /^waiting: .*search\.jsonl is in use, or was until its process was killed/m);
    assert.match(stderr, /^\d+ evaluations are done already$/m);
    await failure(
      1,
      /Cannot go on with .*: it is of a run with another pc: 0.5 found, 0.25 wanted: remove it, or give another --recipe-out/,
      [
        ...args,
        ...[cut, "--pc", "0.25"],
      ],
    );
    await failure(1, /: it is of a run with another model: /, [
      "search",
      "-m",
      babbler(),
      "--data",
      documents(),
      ...SMALL,
      "--recipe-out",
      cut,
    ]);
    await failure(1, /: it is of a run with another data: /, [...args, cut, "--data", shortText()]);
    const found = await json<SearchDocument>([...args, cut]);
    assert.deepEqual({ ...found, seconds: 0, recipe: "" }, { ...wanted, seconds: 0, recipe: "" });
    assert.equal(bytes(cut), bytes(whole));
    assert.ok(!existsSync(state) && !existsSync(`${state}.lock`));
  },
);

test("worker: three of them, one killed while it holds a job, give what one machine gives", {
  skip: skipSignals,
}, () =>
  withQueue(async ({ url, client, worker }) => {
    const one = join(folder, "machine.safetensors"), many = join(folder, "machines.safetensors");
    const args = search("--seed", "3", "--generations", "6", "--recipe-out");
    const workers = Array.from({ length: 2 }, () => worker(1));
    await json([...args, one, "--workers", "1"]);
    let isOver = false;
    const running = rsparse([...args, many, "--queue", url, "--json"]).finally(() => isOver = true);
    // one whose job was done between the look and the kill has lost nothing: then another is killed
    let lost: string | null = null;
    while (lost === null && !isOver) {
      const killed = worker(1);
      await until("a job in a worker's hands", async () => isOver || await heldBy(client, killed) !== null);
      send(killed, "SIGKILL");
      await killed.ended;
      lost = await heldBy(client, killed);
    }
    const { code, stdout, stderr } = await running;
    assert.equal(code, 0, stderr);
    assert.ok(lost !== null, "it died with a job in its hands");
    assert.equal((JSON.parse(stdout) as SearchDocument).recipe, many);
    assert.equal(bytes(many), bytes(one));
    // nothing is left behind but the queue's own books
    assert.deepEqual((await client.keys("*")).filter((key) => /rsparse:work|_\d+$/.test(key)), []);

    send(workers[0]!, "SIGTERM");
    send(workers[1]!, "SIGINT");
    const [terminated, interrupted] = await Promise.all(workers.map(({ ended }) => ended));
    assert.equal(terminated!.code, 0, terminated!.stderr);
    assert.equal(interrupted!.code, 130, interrupted!.stderr);
    assert.match(terminated!.stderr, /^joining a search with .*stories260K\.bin/m);
    assert.match(terminated!.stderr, /^\d+ jobs done$/m);
  }));

test(
  "worker: one with another model, or asked to end, gives its job back",
  { skip: skipSignals },
  () =>
    withQueue(async ({ url, client, worker }) => {
      const one = join(folder, "given.safetensors"), many = join(folder, "given-back.safetensors");
      const args = search("--seed", "4", "--generations", "4", "--recipe-out");
      await json([...args, one]);
      let isOver = false;
      const running = rsparse([...args, many, "--queue", url]).finally(() => isOver = true);
      const wrong = await worker(2, "-m", babbler()).ended;
      assert.equal(wrong.code, 1, wrong.stderr);
      assert.match(
        wrong.stderr,
        /^error: Cannot search with .*llama-f32\.gguf: its SHA-256 is \w+, the search is of \w+: give the same model with -m$/m,
      );
      const leaving = worker(2);
      await until("jobs that are done", () => isOver || linesOf(`${many}.search.jsonl`) >= 3);
      send(leaving, "SIGTERM");
      const { code, stderr } = await leaving.ended;
      assert.equal(code, 0, stderr);
      assert.equal(await client.llen(`${QUEUE}:active`), 0, "no job is held any more");
      worker(2);
      const finished = await running;
      assert.equal(finished.code, 0, finished.stderr);
      assert.equal(bytes(many), bytes(one));
    }),
);

test("worker: two searches at once, and a search that was killed, whose jobs are dropped", {
  skip: skipSignals,
}, () =>
  withQueue(async ({ url, client, begin, worker }) => {
    const queued = (...more: string[]): string[] => search("--queue", url, ...more);
    const waiting = (): Promise<number> => client.llen(`${QUEUE}:wait`);
    const gone = begin(...queued("--population", "100", "--samples", "8")), one = worker(2);
    // those of a first population
    await until("jobs", async () => await waiting() > 200);
    send(gone, "SIGKILL");
    await client.del(await client.keys("rsparse:work:*"));
    await until("an empty queue", async () => await waiting() === 0);
    await until("the last job's end", async () => await client.llen(`${QUEUE}:active`) === 0);
    const ids = await client.zrange(`${QUEUE}:completed`, "0", "-1");
    const values = await Promise.all(ids.map((id) => client.hget(`${QUEUE}:${id}`, "returnvalue")));
    assert.ok(values.some((value) => value === "null"), "jobs are dropped");
    assert.ok(values.some((value) => value !== "null"), "jobs are done while it is not known to be gone");

    const ends = await Promise.all(
      ["1", "2"].map((seed) => rsparse(queued("--generations", "1", "--seed", seed))),
    );
    for (const { code, stderr } of ends) assert.equal(code, 0, stderr);
    assert.ok(!one.isOver(), one.said());
    assert.equal(await client.zcard(`${QUEUE}:failed`), 0);
    send(one, "SIGTERM");
    const { code, stderr } = await one.ended;
    assert.equal(code, 0, stderr);
    assert.ok(stderr.split("joining a search").length > 3, stderr);
  }));

test("search --queue: a Redis that loses everything, or what it was told of the search", {
  skip: skipSignals,
}, () =>
  withQueue(async ({ url, client, worker }) => {
    const one = join(folder, "kept.safetensors"), many = join(folder, "lost.safetensors");
    const args = search("--seed", "5", "--recipe-out");
    await json([...args, one]);
    const running = rsparse([...args, many, "--queue", url]);
    await until("jobs", async () => await client.llen(`${QUEUE}:wait`) > 0);
    await client.flushall();
    worker(1);
    await until("evaluations", () => linesOf(`${many}.search.jsonl`) >= 3);
    const keys = await client.keys("rsparse:work:*");
    if (keys.length > 0) await client.del(keys);
    const { code, stderr } = await running;
    assert.equal(code, 0, stderr);
    assert.equal(bytes(many), bytes(one));
  }));

test("search --queue, worker: they end when they are asked to while Redis is away", {
  skip: skipSignals,
}, () =>
  withQueue(async ({ url, client, begin, worker, closeRedis }) => {
    const searching = begin(...search("--queue", url));
    await until("jobs", async () => await client.llen(`${QUEUE}:wait`) > 0);
    const working = worker(1), idle = worker(1);
    await until("a job that is done", async () => await client.zcard(`${QUEUE}:completed`) > 0);
    await until("a worker", () => idle.said().includes("waiting for jobs"));
    client.disconnect();
    await closeRedis();
    send(searching, "SIGINT");
    send(working, "SIGINT");
    send(idle, "SIGTERM");
    for (const [one, wanted] of [[searching, 130], [working, 130], [idle, 0]] as const) {
      await until("its end", one.isOver);
      const { code, stderr } = await one.ended;
      assert.equal(code, wanted, stderr);
    }
  }));
