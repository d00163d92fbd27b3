/** `rsparse eval` as a person uses it, on tiny models. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { after, test } from "node:test";
import { gzipSync } from "node:zlib";
import { babbler, CLI, failure, json, rsparse, stories } from "../support/cli.ts";
import { skipWithout } from "../support/shared.ts";

const skip = skipWithout("golden/tiny/llama-f32.gguf") ||
  skipWithout("data/models/stories260K/stories260K.bin");
const skipSignals = skip || (process.platform === "win32" && "no signals");

interface Result {
  readonly name: string;
  readonly n: number;
  readonly sparseTokens: number;
  readonly measuredSparsity: number | null;
  readonly complete: boolean;
  readonly metrics: Readonly<Record<string, number>>;
  readonly stderr: Readonly<Record<string, number>>;
  readonly tokens?: number;
  readonly dense?: { readonly metrics: Readonly<Record<string, number>> };
  readonly paired?: Readonly<Record<string, { readonly difference: number; readonly p: number }>>;
}

interface Document {
  readonly model: { readonly name: string };
  readonly engine: { readonly layouts: { readonly [projection: string]: string } };
  readonly recipe: { readonly sparsity: number; readonly stream?: string } | null;
  readonly prefill: string;
  readonly tasks: readonly Result[];
  readonly measuredSparsity: number | null;
  readonly seconds?: number;
}

const folder = mkdtempSync(join(tmpdir(), "rsparse-eval-"));
after(() => rmSync(folder, { recursive: true, force: true }));

const jsonLines = (rows: readonly unknown[]): string =>
  rows.map((row) => `${JSON.stringify(row)}\n`).join("");
const STORY = "Once upon a time there was a little girl named Lily. She liked to play in the park. ";

/** A folder of made rows: half of the files in its folder `eval`, and gzip, as real ones are. */
function data(): string {
  const path = join(folder, "data"), inner = join(path, "eval");
  if (existsSync(path)) return path;
  mkdirSync(inner, { recursive: true });
  const questions = Array.from({ length: 12 }, (_, i) => ({
    ctx: `Lily saw ${i} big red balls. She was very`,
    choices: ["happy.", "xylophone", "sad and went home."],
    gold: i % 3,
  }));
  writeFileSync(join(inner, "arc_easy.dev.jsonl.gz"), gzipSync(jsonLines(questions)));
  const pairs = [{ ctx: ["Tim met Sue so Tim", "Tim met Sue so Sue"], target: "ran home.", gold: 0 }];
  writeFileSync(join(path, "winogrande.jsonl"), jsonLines([...pairs, ...pairs]));
  const words = [{ ctx: "Once upon a", target: "time" }, { ctx: "Lily played in the", target: "zoo" }];
  writeFileSync(join(path, "lambada_openai.jsonl"), jsonLines(words));
  const article = { article: STORY, summary: "Lily likes the park." };
  writeFileSync(join(path, "xsum.jsonl"), jsonLines([article]));
  writeFileSync(join(path, "wikitext2_raw_valid.txt"), STORY.repeat(40));
  writeFileSync(join(path, "c4.jsonl"), jsonLines([{ text: STORY.repeat(20) }, { text: "The end." }]));
  return path;
}

let made: Promise<string> | null = null;

/** A recipe for the story teller. */
function recipe(): Promise<string> {
  made ??= (async () => {
    const path = join(folder, "stories.safetensors");
    const { code, stderr } = await rsparse([
      ...["calibrate", "-m", stories(), "--sparsity", "0.5", "--rho", "1", "--tokens", "512", "-o", path],
      "--quiet",
    ]);
    assert.equal(code, 0, stderr);
    return path;
  })();
  return made;
}

test("eval: every kind of task, dense", { skip }, async () => {
  const { model, recipe, prefill, tasks, measuredSparsity, seconds } = await json<Document>([
    ...["eval", "-m", stories(), "--data", data(), "--piece-length", "128"],
    ...["--tasks", "arc_easy,winogrande,lambada_openai,wikitext2,c4,xsum"],
  ]);
  assert.deepEqual([model.name, recipe, prefill, measuredSparsity], ["stories260K", null, "sparse", null]);
  assert.ok(seconds! > 0);
  assert.deepEqual(tasks.map(({ name, n, complete, sparseTokens }) => [name, n, complete, sparseTokens]), [
    ["arc_easy", 12, true, 0],
    ["winogrande", 2, true, 0],
    ["lambada_openai", 2, true, 0],
    ["wikitext2", tasks[3]!.n, true, 0],
    ["c4", tasks[4]!.n, true, 0],
    ["xsum", 1, true, 0],
  ]);
  const task = (name: string): Result => tasks.find((task) => task.name === name)!;
  const arc = task("arc_easy"), xsum = task("xsum");
  assert.deepEqual(Object.keys(xsum.metrics), ["rouge1", "rouge2", "rougeL"]);
  // it goes on about Lily
  assert.ok(xsum.metrics["rouge1"]! > 0);
  assert.deepEqual(xsum.stderr, { rouge1: null, rouge2: null, rougeL: null });
  assert.deepEqual(Object.keys(arc.metrics), ["acc", "accNorm"]);
  assert.deepEqual(Object.keys(arc.stderr), ["acc", "accNorm"]);
  assert.deepEqual(Object.keys(task("winogrande").metrics), ["acc"]);
  // a story teller knows how stories begin
  assert.equal(task("lambada_openai").metrics["acc"], 0.5);
  for (const { metrics, stderr, n, tokens } of [task("wikitext2"), task("c4")]) {
    assert.ok(metrics["perplexity"]! > 1 && metrics["perplexity"]! < 60, `${metrics["perplexity"]}`);
    assert.ok(stderr["perplexity"]! > 0);
    assert.ok(n > 2 && tokens! > 120 * (n - 1) && tokens! <= 127 * n, `${n} pieces, ${tokens} tokens`);
  }
});

test("eval: with a recipe, beside the same model run dense", { skip }, async () => {
  const args = ["eval", "-m", stories(), "--data", data(), "--tasks", "arc_easy,wikitext2", "--limit", "4"];
  const plain = await json<Document>(args);
  assert.deepEqual(plain.tasks.map(({ n }) => n), [4, plain.tasks[1]!.n]);
  for (const prefill of ["sparse", "dense", "official"]) {
    const found = await json<Document>([...args, "--recipe", await recipe(), "--prefill", prefill]);
    assert.equal(found.prefill, prefill);
    assert.deepEqual([found.recipe!.sparsity, found.recipe!.stream], [0.5, "dense"]);
    // however fast dense is here
    assert.deepEqual(new Set(Object.values(found.engine.layouts)), new Set(["skip"]));
    assert.ok(found.measuredSparsity! > 0.3 && found.measuredSparsity! < 0.7, `${found.measuredSparsity}`);
    const [arc, wikitext] = found.tasks as [Result, Result];
    assert.equal(arc.dense!.metrics["acc"], plain.tasks[0]!.metrics["acc"]);
    const before = plain.tasks[1]!.metrics["perplexity"]!;
    assert.ok(Math.abs(wikitext.dense!.metrics["perplexity"]! / before - 1) < 1e-3);
    assert.deepEqual(Object.keys(arc.paired!), ["acc", "accNorm"]);
    assert.ok(wikitext.paired!["nll"]!.p >= 0 && wikitext.paired!["nll"]!.p <= 1);
    assert.ok(wikitext.metrics["kl"]! > 0 && wikitext.metrics["agreement"]! < 1);
    const [least, most] = { sparse: [0.9, 1], dense: [0.1, 0.6], official: [0.02, 0.2] }[prefill]!;
    assert.ok(arc.sparseTokens > least! && arc.sparseTokens < most!, `${prefill}: ${arc.sparseTokens}`);
  }
});

test("eval: a table for people, RSPARSE_DATA, files by name, figures on stderr", { skip }, async () => {
  const rows = join(folder, "own rows.jsonl");
  writeFileSync(rows, jsonLines([{ ctx: "Once upon a", choices: ["time", "cow"], gold: 0 }]));
  const { code, stdout, stderr } = await rsparse(
    ["eval", "-m", stories(), "--tasks", `winogrande,piqa:${rows}`, "--recipe", await recipe()],
    { env: { RSPARSE_DATA: data() } },
  );
  assert.equal(code, 0, stderr);
  assert.match(
    stdout,
    /^task +rows +measure +value +dense +difference +p +sparse tokens\nwinogrande +2 +acc /,
  );
  assert.match(stdout, /^piqa +1 +acc +1\.0000 +1\.0000 +0\.0000 +1\.0 /m);
  assert.match(stderr, /^piqa: acc 1\.0000, accNorm 1\.0000, 1 rows$/m);
  assert.match(stderr, /prefill sparse\n$/);
});

test("eval: what is wrong is told before the model runs", { skip }, async () => {
  const args = ["eval", "-m", babbler()], broken = join(folder, "broken.jsonl");
  await failure(2, /Cannot evaluate without tasks: give --tasks LIST, or --join FILES/, args);
  await failure(2, /no task "pika": tasks are wikitext2, c4, text:FILE, /, [...args, "--tasks", "pika"]);
  await failure(2, /--data DIR or RSPARSE_DATA/, [...args, "--tasks", "piqa"], {
    env: { RSPARSE_DATA: undefined },
  });
  await failure(2, /an integer from 1 wanted/, [...args, "--tasks", "piqa", "--limit", "0"]);
  await failure(1, /^error: Cannot read \/none: there is no such folder: check --data/, [
    ...args,
    ...["--tasks", "piqa", "--data", "/none"],
  ]);
  await failure(1, /Cannot read the rows of piqa: there is no piqa\.jsonl in /, [
    ...args,
    ...["--tasks", "piqa", "--data", data()],
  ]);
  await failure(1, /Cannot read \/none\.txt: there is no such file/, [...args, "--tasks", "text:/none.txt"]);
  writeFileSync(broken, `${jsonLines([{ ctx: "a", choices: ["b", "c"], gold: 0 }])}{"ctx":"a","choi`);
  await failure(1, /^error: Cannot read .*broken\.jsonl: at byte \d+: line 2: JSON that cannot be parsed/, [
    ...args,
    ...["--tasks", `piqa:${broken}`],
  ]);
  await failure(1, /Cannot evaluate text:.*: piece length: 4096 found, 2 to 512 wanted/, [
    ...args,
    ...["--tasks", `text:${join(data(), "wikitext2_raw_valid.txt")}`, "--piece-length", "4096"],
  ]);
  await failure(1, /Cannot write .*: there is no folder /, [
    ...args,
    ...["--tasks", "winogrande", "--data", data(), "-o", join(folder, "none", "out.json")],
  ]);
});

/** Enough rows that a run does not end before it is stopped. */
function manyRows(): string {
  const path = join(folder, "many.jsonl");
  const row = (_: unknown, i: number) => ({
    ctx: `Lily saw ${i} ${STORY}`,
    choices: ["happy.", "sad."],
    gold: i % 2,
  });
  writeFileSync(path, jsonLines(Array.from({ length: 400 }, row)));
  return path;
}

/** Starts it and sends `signal` once some rows are on disk. */
function stopAfterRows(
  args: readonly string[],
  state: string,
  signal: NodeJS.Signals,
): Promise<number | null> {
  const [program, ...before] = CLI as readonly [string, ...string[]];
  const child = spawn(program, [...before, ...args], { stdio: ["ignore", "ignore", "ignore"] });
  const timer = setInterval(() => {
    if (!existsSync(state) || readFileSync(state, "utf8").split("\n").length < 5) return;
    clearInterval(timer);
    process.kill(child.pid!, signal);
  }, 5);
  return new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code) => {
      clearInterval(timer);
      resolve(code);
    });
  });
}

function withoutSeconds(path: string): unknown {
  const { seconds, ...rest } = JSON.parse(readFileSync(path, "utf8"));
  assert.ok(seconds > 0);
  return rest;
}

test(
  "eval -o: a run that was killed goes on, and ends with the same file",
  { skip: skipSignals },
  async () => {
    const out = join(folder, "killed.json"), state = `${out}.rows.jsonl`, whole = join(folder, "whole.json");
    const args = ["eval", "-m", stories(), "--tasks", `piqa:${manyRows()}`, "--threads", "1", "-o"];
    await stopAfterRows([...args, out], state, "SIGKILL");
    assert.ok(!existsSync(out) && existsSync(state));
    const other = await rsparse([...args, out, "--limit", "2"]);
    assert.equal(other.code, 1);
    assert.match(
      other.stderr,
      /Cannot go on with .*: it is of a run with another limit: null found, 2 wanted/,
    );
    const { code, stderr } = await rsparse([...args, out]);
    assert.equal(code, 0, stderr);
    assert.match(stderr, /^piqa: \d+ rows are done already$/m);
    assert.ok(!existsSync(state));
    await json([...args, whole]);
    assert.deepEqual(withoutSeconds(out), withoutSeconds(whole));
    assert.deepEqual(readdirSync(folder).filter((name) => name.endsWith(".part")), []);
  },
);

test("eval: Ctrl-C prints what there is, exit status 130", { skip: skipSignals }, async () => {
  const out = join(folder, "interrupted.json"), state = `${out}.rows.jsonl`;
  const args = ["eval", "-m", stories(), "--tasks", `piqa:${manyRows()}`, "-o", out];
  let interrupt = (): void => {};
  const timer = setInterval(() => {
    if (!existsSync(state) || readFileSync(state, "utf8").split("\n").length < 5) return;
    clearInterval(timer);
    interrupt();
  }, 5);
  const { code, stdout, stderr } = await rsparse([...args, "--json"], {
    onStart: (send) => interrupt = send,
  });
  clearInterval(timer);
  assert.equal(code, 130, stderr);
  const { tasks: [task] } = JSON.parse(stdout) as Document;
  assert.equal(task!.complete, false);
  assert.ok(task!.n >= 3 && task!.n < 400, `${task!.n} rows`);
  assert.match(stderr, /, cut short$/m);
  assert.ok(!existsSync(out));
  assert.equal(readFileSync(state, "utf8").trimEnd().split("\n").length, 1 + task!.n);
});

test("eval --part and --join: parts add up to the very result of one run", { skip }, async () => {
  const args = ["eval", "-m", stories(), "--data", data(), "--recipe", await recipe(), "--seed", "3"];
  args.push("--tasks", "arc_easy,winogrande,lambada_openai,wikitext2,c4,xsum", "--piece-length", "64");
  const file = (name: string): string => join(folder, name), whole = file("one run.json");
  const { engine, ...wanted } = await json<Document & { engine: unknown }>([...args, "-o", whole]);
  const parts: string[] = [];
  for (const number of [2, 3, 1]) {
    const out = file(`part ${number}.json`);
    const found = await json<Document & { part: unknown; rows: Record<string, { results: unknown[] }> }>(
      [...args, "--part", `${number}/3`, "-o", out],
    );
    assert.deepEqual(found.part, { number, of: 3 });
    assert.equal(found.tasks[0]!.n, 4);
    assert.equal(found.rows["arc_easy"]!.results.length, 4);
    // one article: two of the parts have none
    assert.equal(found.tasks[5]!.n, number === 3 ? 1 : 0);
    parts.push(out);
  }
  const joined = file("joined.json");
  const found = await json<Document & { engine: unknown }>(["eval", "--join", ...parts, "-o", joined]);
  assert.deepEqual({ ...found, seconds: 0 }, { ...wanted, engine, seconds: 0 });
  assert.deepEqual(withoutSeconds(joined), withoutSeconds(whole));
  // another seed draws another test, if it draws at all; shares are the same
  const other = await json<Document>(["eval", "--join", ...parts, "--seed", "4"]);
  assert.deepEqual(other.tasks[0], found.tasks[0]);
  const { stdout, stderr } = await rsparse(["eval", "--join", ...parts]);
  assert.match(stdout, /^task +rows .*\narc_easy +12 +acc /);
  assert.match(stderr, /^wikitext2: perplexity /m);

  const [second, third, first] = parts as [string, string, string];
  await failure(1, /Cannot join: part 2 of 3 is missing: run it with --part 2\/3/, [
    ...["eval", "--join", first, third],
  ]);
  await failure(1, /Cannot join: .* and .* are both part 2 of 3/, ["eval", "--join", ...parts, second]);
  await failure(1, /Cannot join .*one run\.json: it is no result of `rsparse eval --part/, [
    ...["eval", "--join", first, second, whole],
  ]);
  const limited = file("limited.json");
  await json([...args, "--part", "3/3", "--limit", "2", "-o", limited]);
  await failure(1, /they are of runs with another limit: null and 2/, [
    ...["eval", "--join", first, second, limited],
  ]);
  const cut = file("cut.json"), document = JSON.parse(readFileSync(third, "utf8"));
  document.rows.arc_easy.results.pop();
  writeFileSync(cut, JSON.stringify(document));
  await failure(1, /Cannot join .*cut\.json: arc_easy has 3 rows, 4 wanted/, [
    ...["eval", "--join", first, second, cut],
  ]);
  for (const odd of [{ rows: null }, { rows: { arc_easy: null } }, { inputs: null }, { tasks: [null] }]) {
    writeFileSync(cut, JSON.stringify({ ...JSON.parse(readFileSync(third, "utf8")), ...odd }));
    await failure(1, /Cannot join .*cut\.json: it is no result of `rsparse eval --part/, [
      ...["eval", "--join", first, second, cut],
    ]);
  }
  await failure(1, /Cannot read \/none\.json: there is no such file/, ["eval", "--join", "/none.json"]);
  await failure(2, /Cannot take both --join and --piece-length: the parts say it all/, [
    ...["eval", "--join", first, "--piece-length", "64"],
  ]);
  await failure(2, /such as 3\/16 wanted/, [...args, "--part", "4/3"]);
  await failure(2, /Cannot keep part 1\/3 for --join: give -o FILE/, [...args, "--part", "1/3"]);
});

test("eval --dense: rows of a dense run stand for running them again", { skip }, async () => {
  const args = ["eval", "-m", stories(), "--data", data(), "--piece-length", "64"];
  const file = (name: string): string => join(folder, name), sparse = ["--recipe", await recipe()];
  const tasks = ["--tasks", "arc_easy,lambada_openai,wikitext2"];
  const parts: string[] = [];
  for (const part of ["1/2", "2/2"]) {
    const dense = file(`dense ${part[0]}.json`), out = file(`beside ${part[0]}.json`);
    // more tasks than are asked for; once without a recipe, once with its dial at 0
    await json([
      ...args,
      ...(part === "1/2" ? [] : [...sparse, "--sparsity", "0"]),
      "--tasks",
      "winogrande,arc_easy,lambada_openai,wikitext2",
      "--part",
      part,
      "-o",
      dense,
    ]);
    await json([...args, ...tasks, ...sparse, "--dense", dense, "--part", part, "-o", out]);
    parts.push(out);
  }
  const found = await json<Document>(["eval", "--join", ...parts]);
  const wanted = await json<Document>([...args, ...tasks, ...sparse]);
  const withoutKl = wanted.tasks.map((task) => {
    const drop = (figures: Readonly<Record<string, number>>): Record<string, number> =>
      Object.fromEntries(Object.entries(figures).filter(([name]) => name !== "kl" && name !== "agreement"));
    return { ...task, metrics: drop(task.metrics), stderr: drop(task.stderr) };
  });
  assert.ok("kl" in wanted.tasks[2]!.metrics);
  assert.deepEqual(found.tasks, withoutKl);
  assert.equal(found.measuredSparsity, wanted.measuredSparsity);

  const dense = file("dense 1.json"), refused = [...args, ...sparse, "--dense", dense, "--part"];
  await failure(1, /Cannot compare with .*dense 1\.json: its part is "1\/2", "2\/2" wanted/, [
    ...[...refused, "2/2", "-o", file("x.json"), ...tasks],
  ]);
  await failure(1, /its limit is null, 3 wanted/, [
    ...[...refused, "1/2", "-o", file("x.json"), ...tasks, "--limit", "3"],
  ]);
  await failure(1, /its c4 is nothing, "[0-9a-f]{64}" wanted/, [
    ...[...refused, "1/2", "-o", file("x.json"), "--tasks", "c4"],
  ]);
  await failure(
    1,
    /Cannot compare with .*beside 1\.json: its sparsity is 0\.\d+, 0 wanted: run the same with --sparsity 0 and --part 1\/2/,
    [
      ...[...args, ...sparse, "--dense", parts[0]!, "--part", "1/2", "-o", file("x.json"), ...tasks],
    ],
  );
  await failure(2, /Cannot compare with --dense without a recipe: give --recipe FILE/, [
    ...[...args, "--dense", dense, "--part", "1/2", "-o", file("x.json"), ...tasks],
  ]);
});

test("eval --sparsity: the recipe's dial, and what it was is recorded", { skip }, async () => {
  const args = ["eval", "-m", stories(), "--data", data(), "--tasks", "wikitext2", "--limit", "3"];
  const at = async (sparsity: string) =>
    await json<Document>([...args, "--recipe", await recipe(), "--sparsity", sparsity]);
  const [own, less, none] = [await at("0.5"), await at("0.3"), await at("0")];
  assert.deepEqual([own, less, none].map(({ recipe }) => recipe!.sparsity), [0.5, 0.3, 0]);
  const plain = await json<Document>([...args, "--recipe", await recipe()]);
  assert.deepEqual(own.tasks, plain.tasks);
  assert.ok(Math.abs(less.measuredSparsity! - 0.3) < 0.05, `${less.measuredSparsity}`);
  assert.ok(less.tasks[0]!.metrics["kl"]! < own.tasks[0]!.metrics["kl"]!);
  assert.deepEqual([none.measuredSparsity, none.tasks[0]!.sparseTokens], [null, 0]);
  assert.equal(none.tasks[0]!.paired, undefined);
  await failure(2, /Cannot run at sparsity 0\.3 without a recipe/, [...args, "--sparsity", "0.3"]);
  await failure(2, /goes from 0 to 0\.9: give one of these/, [
    ...[...args, "--recipe", await recipe(), "--sparsity", "0.95"],
  ]);
});
