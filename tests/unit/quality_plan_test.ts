import assert from "node:assert/strict";
import { test } from "node:test";
import {
  calibrationOf,
  DEFAULT_CELLS,
  evaluationOf,
  nameOf,
  parseCells,
  type Settings,
  workKey,
} from "../../tools/quality/plan.ts";

const SETTINGS: Settings = {
  model: "smollm2",
  data: "data",
  tasks: "wikitext2",
  limit: 8,
  prefill: "sparse",
  context: 0,
  stream: "sparse",
  dtype: "auto",
  parts: 4,
  calibration: "c4.jsonl.gz",
};

test("parseCells: methods with their sparsities, and dense", () => {
  const cells = parseCells("dense,by-site:0.4:0.5,learned:0.6");
  assert.deepEqual(cells.map((cell) => nameOf(cell)), ["dense", "by-site-0.4", "by-site-0.5", "learned-0.6"]);
  assert.equal(parseCells(DEFAULT_CELLS).length, 16);
  // its share is not asked for, and known when it has run
  const [own] = parseCells("relufication");
  assert.deepEqual([nameOf(own!), nameOf(own!, 0.3163896)], ["relufication", "relufication-0.316"]);
  // one that was asked for is what it is: 0.5001 is no 0.5
  assert.deepEqual(parseCells("teal:0.5:0.5001").map((cell) => nameOf(cell)), ["teal-0.5", "teal-0.5001"]);
});

test("parseCells: what is not one", () => {
  for (
    const text of [
      ...["", "magic:0.5", "by-site", "by-site:", "by-site:1", "by-site:0", "dense:0.5", "teal:x"],
      "relufication:0.3",
    ]
  ) {
    assert.throws(() => parseCells(text), RangeError, text);
  }
});

test("calibrationOf: each method's options; none for dense and learned, no text for griffin", () => {
  const of = (cell: string) => calibrationOf(parseCells(cell)[0]!, SETTINGS, "r")?.join(" ") ?? null;
  assert.match(
    of("r-sparse:0.5")!,
    /--method r-sparse --sparsity 0.5 --rho 0.95 --stream sparse --keep-dense 0 --data c4.jsonl.gz .*-o r$/,
  );
  assert.doesNotMatch(of("griffin:0.2")!, /--data|--stream/);
  assert.match(of("relufication")!, /--method relufication --keep-dense 0 --data/);
  const dense = { ...SETTINGS, stream: "dense" as const };
  for (const method of ["by-site", "teal", "wina", "r-sparse"]) {
    const command = calibrationOf(parseCells(`${method}:0.5`)[0]!, dense, "r")!.join(" ");
    assert.match(command, /--stream dense --keep-dense 0 /);
  }
  assert.deepEqual([of("dense"), of("learned:0.5")], [null, null]);
});

test("evaluationOf: a part of the tasks, the dial for learned alone", () => {
  const of = (cell: string, recipe: string | null) =>
    evaluationOf(parseCells(cell)[0]!, SETTINGS, recipe, 2, "o").join(" ");
  assert.match(of("learned:0.4", "r"), /--limit 8 --recipe r --sparsity 0.4 --part 2\/4 .*-o o$/);
  assert.doesNotMatch(of("by-site:0.4", "r"), /--sparsity/);
  assert.doesNotMatch(of("dense", null), /--recipe|--context/);
  const half = evaluationOf(parseCells("teal:0.4")[0]!, { ...SETTINGS, context: 256 }, "r", 1, "o");
  assert.match(half.join(" "), /--context 256 --recipe r/);
});

test("workKey: other settings or files, another folder", () => {
  assert.equal(workKey(SETTINGS, ["a"]), workKey({ ...SETTINGS }, ["a"]));
  assert.notEqual(workKey(SETTINGS, ["a"]), workKey({ ...SETTINGS, limit: 9 }, ["a"]));
  assert.notEqual(workKey(SETTINGS, ["a"]), workKey(SETTINGS, ["b"]));
});
