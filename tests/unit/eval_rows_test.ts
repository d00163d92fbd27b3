/** Files of evaluations: good ones, broken ones, and which one is meant. */
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  parseRows,
  readChoices,
  readCloze,
  readContexts,
  readDocument,
  readText,
  splitDocuments,
} from "../../src/eval/rows.ts";
import { findTaskFile, parseTasks, TASKS } from "../../src/eval/tasks.ts";

async function gzip(text: string): Promise<Uint8Array<ArrayBuffer>> {
  const stream = new Blob([text]).stream().pipeThrough(new CompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

test("readText: plain or gzip, by its bytes", async () => {
  const text = "héllo 😀\n".repeat(1000);
  assert.equal(await readText(new Blob([text]), "a.txt"), text);
  assert.equal(await readText(new Blob([await gzip(text)]), "a.txt"), text);
  assert.equal(await readText(new Blob([]), "a.txt"), "");
  // three bytes each, hard to pack, in small pieces: some end in the middle of a character
  const signs = Array.from({ length: 20_000 }, (_, i) => 0x4e00 + (Math.imul(i, 0x9e3779b1) >>> 8) % 20_000);
  const long = String.fromCharCode(...signs), packed = await gzip(long), blob = new Blob([packed]);
  blob.stream = () =>
    new ReadableStream({
      start(controller) {
        for (let at = 0; at < packed.length; at += 1000) controller.enqueue(packed.slice(at, at + 1000));
        controller.close();
      },
    });
  assert.ok(await readText(blob, "a.txt") === long);
});

test("readText: what is cut, hostile or not text is told with its file", async () => {
  const packed = await gzip("héllo\n".repeat(1000));
  await assert.rejects(
    readText(new Blob([packed.slice(0, -9)]), "cut.gz"),
    /^FormatError: Cannot read cut\.gz: /,
  );
  await assert.rejects(
    readText(new Blob([Uint8Array.of(0x1f, 0x8b, 1, 2, 3)]), "bad.gz"),
    /^FormatError: Cannot read bad\.gz: .*gzip that can't be unpacked/,
  );
  await assert.rejects(
    readText(new Blob([Uint8Array.of(0x41, 0xff)]), "latin.txt"),
    /^FormatError: Cannot read latin\.txt: .*not UTF-8/,
  );
});

test("parseRows: lines are numbered from 1, empty ones passed over, the last needs no line break", () => {
  const rows = parseRows('{"text":"a"}\n\n  \r\n{"text":"b"}\r\n{"text":"c"}', "f", readDocument);
  assert.deepEqual(rows, [{ line: 1, row: "a" }, { line: 4, row: "b" }, { line: 5, row: "c" }]);
  assert.equal(parseRows('{"text":"a"}\n{"text":"b"}\nbroken', "f", readDocument, 2).length, 2);
});

test("parseRows: file, byte and line of what is broken", () => {
  const parse = (text: string) => (): unknown => parseRows(text, "rows.jsonl", readDocument);
  assert.throws(
    parse('{"text":"é"}\n{"text":"cut'),
    /^FormatError: Cannot read rows\.jsonl: at byte 14: line 2: JSON that cannot be parsed/,
  );
  assert.throws(parse('{"text":"a"}\n\n[1]\n'), /line 3: \[1\] found, a JSON object wanted/);
  assert.throws(parse('{"text":7}'), /line 1: text: 7 found, a text wanted/);
  assert.throws(parse('{"txt":"a"}'), /line 1: text: nothing found/);
  assert.throws(parse('{"text":" "}'), /line 1: text: " " found/);
  for (const empty of ["", "\n\n"]) assert.throws(parse(empty), /no rows, at least one wanted/);
});

test("readChoices: answers as the harness has them, HellaSwag's own spaces put back", () => {
  assert.deepEqual(readChoices({ ctx: "Q", choices: ["a", "b"], gold: 1, id: 7 }), {
    contexts: ["Q"],
    continuations: ["a", "b"],
    gold: 1,
  });
  const row = readChoices({ ctx: "Q", choices: ["a", "b", "c"], gold: 0, lead: [1, 0, null] });
  assert.deepEqual(row.continuations, [" a", "b", "c"]);
  // a third of HellaSwag's rows: of none of their endings it is known
  const unknown = readChoices({ ctx: "Q", choices: ["a", "b"], gold: 0, lead: null });
  assert.deepEqual(unknown.continuations, ["a", "b"]);
  const good = { ctx: "Q", choices: ["a", "b"], gold: 1 };
  for (
    const [change, pattern] of [
      [{ ctx: "" }, /ctx/],
      [{ ctx: ["Q"] }, /ctx/],
      [{ choices: ["a"] }, /choices/],
      [{ choices: ["a", 1] }, /choices/],
      [{ choices: ["a", ""] }, /choices/],
      [{ gold: 2 }, /gold: 2 found, 0 to 1 wanted/],
      [{ gold: -1 }, /gold/],
      [{ gold: "1" }, /gold/],
      [{ gold: undefined }, /gold: nothing found/],
      [{ lead: [1] }, /lead/],
    ] as const
  ) assert.throws(() => readChoices({ ...good, ...change }), pattern, JSON.stringify(change));
});

test("readContexts, readCloze", () => {
  assert.deepEqual(readContexts({ ctx: ["A", "B"], target: "t", gold: 1 }), {
    contexts: ["A", "B"],
    continuations: ["t"],
    gold: 1,
  });
  assert.throws(() => readContexts({ ctx: "A", target: "t", gold: 0 }), /ctx: "A" found, at least two texts/);
  assert.deepEqual(readCloze({ ctx: "A", target: "t" }), { context: "A", target: "t" });
  assert.throws(() => readCloze({ ctx: "A" }), /target/);
});

test("parseTasks: names, files, and what there is", () => {
  const found = parseTasks("piqa, text:a:b.txt,sciq:/x/y.jsonl.gz");
  assert.deepEqual(found.map(({ name, file, task }) => [name, file, task.name]), [
    ["piqa", null, "piqa"],
    ["text:a:b.txt", "a:b.txt", "text"],
    ["sciq", "/x/y.jsonl.gz", "sciq"],
  ]);
  assert.throws(
    () => parseTasks("piqa,pika"),
    /no task "pika": tasks are wikitext2, c4, text:FILE, arc_easy, /,
  );
  assert.throws(() => parseTasks(" , "), /no tasks in the list/);
  assert.throws(() => parseTasks("text"), /needs a file: text:FILE/);
  assert.throws(() => parseTasks("piqa:"), /needs a file: piqa:FILE/);
  assert.throws(() => parseTasks("piqa,piqa:x"), /piqa is there twice/);
});

test("splitDocuments: at lines that are the mark alone", () => {
  assert.equal(splitDocuments("one\ntwo\n"), null);
  assert.equal(splitDocuments("a mark <|endoftext|>\nin a line"), null);
  assert.deepEqual(splitDocuments("one\ntwo\n<|endoftext|>\nthree\n\n<|endoftext|>\n"), [
    "one\ntwo",
    "three\n",
  ]);
  assert.deepEqual(splitDocuments("<|endoftext|>\r\none\r\n<|endoftext|>\r\ntwo"), ["one", "two"]);
});

test("findTaskFile: the task's own file", () => {
  const names = [
    "arc_easy.dev.jsonl.gz",
    "c4_sample.dev.jsonl.gz",
    "c4_train00000_first1000.jsonl.gz",
    "sciq.dev.jsonl.gz",
    "sciq_validation.jsonl.gz",
    "wikitext2_raw_valid.txt.gz",
  ];
  const find = (name: string, some = names): string | null =>
    findTaskFile(TASKS.find((task) => task.name === name)!, some);
  assert.equal(find("arc_easy"), "arc_easy.dev.jsonl.gz");
  assert.equal(find("c4"), "c4_sample.dev.jsonl.gz");
  assert.equal(find("sciq"), "sciq.dev.jsonl.gz");
  assert.equal(find("wikitext2"), "wikitext2_raw_valid.txt.gz");
  assert.equal(find("piqa"), null);
  assert.equal(find("text"), null);
  assert.equal(find("piqa", ["piqa.dev.jsonl", "piqa.jsonl", "piqa.test.jsonl"]), "piqa.jsonl");
  assert.equal(find("piqa", ["piqa.dev.jsonl", "piqa.test.jsonl"]), "piqa.dev.jsonl");
  assert.equal(find("piqa", ["piqa.heldout.jsonl.gz"]), "piqa.heldout.jsonl.gz");
  assert.throws(
    () => find("piqa", ["piqa.a.jsonl", "piqa.b.jsonl.gz"]),
    /piqa\.a\.jsonl, piqa\.b\.jsonl\.gz: name it/,
  );
});
