/** The one-file examples with the permissions that they ask for, and with less. */
import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { after, test } from "node:test";
import { type Finished, runProgram } from "../support/process.ts";
import { rootPath } from "../support/shared.ts";

const TINY = rootPath("models/tiny.rsparse");
const folder = mkdtempSync(join(tmpdir(), "rsparse-deno-"));
after(() => rmSync(folder, { recursive: true, force: true }));

/** Runs a script with some permissions; what it has not been given it is not asked for. */
function deno(
  permissions: readonly string[],
  script: string,
  args: readonly string[] = [],
  input = "",
): Promise<Finished> {
  return runProgram([
    process.execPath,
    "run",
    "--no-prompt",
    "--no-check",
    "--cached-only",
    ...permissions,
    script,
    ...args,
  ], { input });
}

const example = (name: string): string => rootPath(`examples/deno/${name}`);
const READ_MODEL = `--allow-read=${TINY}`;

/** Asserts that a run went well; returns its stdout. */
function said({ code, stdout, stderr }: Finished): string {
  assert.equal(code, 0, stderr);
  return stdout;
}

test("examples: each names the permissions that it needs, and none asks for all", () => {
  for (const name of ["summarise.ts", "classify.ts", "json.ts"]) {
    const text = readFileSync(example(name), "utf8");
    assert.match(text, /deno run --allow-read=models\/tiny\.rsparse/);
    assert.doesNotMatch(text, /deno run (-A|--allow-all)/);
  }
});

test("summarise: reads its file and the model, and nothing else", async () => {
  const file = join(folder, "text.txt");
  writeFileSync(file, "The keeper climbed the stairs every evening to light the lamp. ".repeat(200));
  const run = await deno([`--allow-read=${TINY},${file}`], example("summarise.ts"), [file]);
  assert.ok(said(run).trim().length > 0);
  assert.match(run.stderr, /the first \d+ of \d+ tokens are read/);
  const less = await deno([READ_MODEL], example("summarise.ts"), [file]);
  assert.equal(less.code, 1);
  assert.match(less.stderr, /NotCapable: Requires read access to ".*text\.txt"/);
});

test("classify: a class for each line, the same every time; nothing but the model is read", async () => {
  const lines = "I love this film\n\nThe train was late again\r\nWhat a day", args = ["good", "bad"];
  const first = said(await deno([READ_MODEL], example("classify.ts"), args, lines));
  const rows = first.trimEnd().split("\n").map((line) => line.split("\t"));
  assert.deepEqual(rows.map(([, line]) => line), [
    "I love this film",
    "The train was late again",
    "What a day",
  ]);
  for (const [name] of rows) assert.ok(args.includes(name!), name);
  assert.equal(said(await deno([READ_MODEL], example("classify.ts"), args, lines)), first);
  // a line longer than the context
  assert.match(
    said(await deno([READ_MODEL], example("classify.ts"), args, "word ".repeat(3000))),
    /^(good|bad)\tword/,
  );
  // Node's way to start a program gives Deno every permission where no flag names one
  const none = await deno(["--allow-env=NONE"], example("classify.ts"), args, lines);
  assert.equal(none.code, 1);
  assert.match(none.stderr, /NotCapable: Requires read access to ".*tiny\.rsparse"/);
  assert.equal((await deno([READ_MODEL], example("classify.ts"), ["one"], lines)).code, 2);
});

test("json: an object of the fields that were asked for, whatever the text", async () => {
  const specs = [
    "name:string",
    "age:number",
    "alive:boolean",
    "size:small|large",
    'a"b:string'.replace('"', " "),
    "n:number",
  ];
  for (const text of ["A knight of 31 years found a cat.", "", '"}{\\ \n', "½ ünï 🦊", "9".repeat(40)]) {
    const object = JSON.parse(said(await deno([READ_MODEL], example("json.ts"), [text, ...specs])));
    assert.deepEqual(Object.keys(object), ["name", "age", "alive", "size", "a b", "n"], text);
    const { name, age, alive, size } = object;
    assert.deepEqual([typeof name, typeof age, typeof alive, typeof size], [
      "string",
      "number",
      "boolean",
      "string",
    ], text);
    assert.ok(Number.isInteger(age) && ["small", "large"].includes(size), `${age} ${size}`);
  }
  for (const args of [[], ["text"], ["text", "name"], ["text", ":string"]]) {
    assert.equal((await deno([READ_MODEL], example("json.ts"), args)).code, 2, args.join(" "));
  }
});

test("edge-deno: serves with a port and two folders", async () => {
  const { code, stderr } = await deno([READ_MODEL], rootPath("examples/edge-deno/main.ts"));
  assert.equal(code, 1);
  assert.match(stderr, /NotCapable: Requires (net|read) access/);
});

test("notebook: its cells run, one after the other, with no more than the model to read", async () => {
  const { cells } = JSON.parse(readFileSync(example("tour.ipynb"), "utf8")) as {
    cells: { cell_type: string; source: string[]; outputs?: unknown[] }[];
  };
  const code = cells.filter(({ cell_type }) => cell_type === "code");
  assert.ok(code.length >= 4);
  for (const { outputs } of code) assert.deepEqual(outputs, [], "outputs are not kept in the repository");
  // the kernel runs cells as one module after the other in one scope; from a folder of the checkout, whose deno.json knows the package
  const script = rootPath("build/notebook.ts");
  writeFileSync(script, code.map(({ source }) => source.join("")).join("\n;\n"));
  try {
    const output = said(await deno([READ_MODEL], script));
    assert.match(output, /^\S+ \d+ parameters on deno/);
    for (const sparsity of ["0", "0.3", "0.5", "0.7"]) {
      assert.match(output, new RegExp(`^at ${sparsity.replace(".", "\\.")}: `, "m"));
    }
  } finally {
    rmSync(script);
  }
});

test("compile: one program with the model inside", async () => {
  // it looks for the model two folders up, as its sources do
  const bundle = rootPath("build/deno/json.js"),
    program = join(folder, "json"),
    args = ["A cat.", "pet:string"];
  const bundled = await runProgram([
    process.execPath,
    "bundle",
    "--quiet",
    "--platform",
    "deno",
    "-o",
    bundle,
    example("json.ts"),
  ]);
  assert.equal(bundled.code, 0, bundled.stderr);
  const compile = (env: Record<string, string>): Promise<Finished> =>
    runProgram([
      process.execPath,
      "compile",
      "--no-check",
      "--allow-read",
      "--include",
      TINY,
      "--exclude",
      rootPath("node_modules"),
      "-o",
      program,
      bundle,
    ], { env });
  // as a script it needs no more than its source does
  assert.deepEqual(Object.keys(JSON.parse(said(await deno([READ_MODEL], bundle, args)))), ["pet"]);
  const compiled = await compile({});
  if (compiled.code === 0) {
    assert.deepEqual(Object.keys(JSON.parse(said(await runProgram([program, ...args])))), ["pet"]);
    return;
  }
  // Deno downloads what a program starts with from a server of its own: without it only what it would hold can be seen
  assert.match(compiled.stderr, /dl\.deno\.land|denort/);
  const packed = await compile({ DENORT_BIN: process.execPath });
  assert.equal(packed.code, 0, packed.stderr);
  assert.match(packed.stderr, /models\/tiny\.rsparse/);
  assert.ok(existsSync(program));
  const added = statSync(program).size - statSync(process.execPath).size;
  assert.ok(
    added > statSync(TINY).size && added < 2 * statSync(TINY).size,
    `${added} bytes more than Deno itself`,
  );
});
