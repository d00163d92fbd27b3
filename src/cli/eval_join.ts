/** `rsparse eval --join`: parts of an evaluation, which several processes or machines ran, to the figures of all. */
import type { RowResult, TaskResult } from "../eval/mod.ts";
import { isJsonObject } from "../format/json.ts";
import type { Platform } from "../platform/platform.ts";
import { type EvalDocument, evalDocument, type PartDocument } from "./eval_document.ts";

interface OpenPart {
  readonly path: string;
  readonly document: PartDocument;
}

/**
 * Joins the results of `eval --part`. The same as one run gives, but for `seconds`, which counts all, and `engine`, which is the first part's.
 *
 * @param seed of the sign-flip test; undefined: the first part's
 * @throws {Error} If a file is none, one is missing or there twice, or they are of different evaluations.
 */
export async function joinParts(
  platform: Platform,
  paths: readonly string[],
  seed?: number,
): Promise<EvalDocument> {
  const { figuresOf, parseTasks } = await import("../eval/mod.ts");
  const parts: OpenPart[] = [];
  for (const path of paths) parts.push({ path, document: await readPart(platform, path, "join") });
  parts.sort((a, b) => a.document.part.number - b.document.part.number);
  const first = parts[0]!, { of } = first.document.part, used = seed ?? first.document.seed;
  for (const part of parts) checkSame(first, part);
  for (let i = 0; i < Math.max(parts.length, of); i++) {
    const number = parts[i]?.document.part.number;
    if (number === i + 1) continue;
    const twice = number !== undefined && number <= i;
    throw new Error(
      twice
        ? `Cannot join: ${parts[i - 1]!.path} and ${
          parts[i]!.path
        } are both part ${number} of ${of}: give each once`
        : `Cannot join: part ${i + 1} of ${of} is missing: run it with --part ${
          i + 1
        }/${of}, and give its file too`,
    );
  }
  const names = Object.keys(first.document.rows), all: RowResult[] = [], tasks: TaskResult[] = [];
  for (const [i, { task }] of parseTasks(names.join(",")).entries()) {
    const name = names[i]!, rows = parts.flatMap(({ document }) => document.rows[name]!.results);
    const { pieceLength, context } = first.document.tasks.find((task) => task.name === name) ?? {};
    tasks.push(figuresOf(task, rows, { name, complete: true, seed: used, pieceLength, context }));
    all.push(...rows);
  }
  const seconds = parts.reduce((sum, { document }) => sum + document.seconds, 0);
  return evalDocument(first.document, tasks, all, { seconds, seed: used });
}

/** Reads what `eval --part` has written, with all rows of the part. @param use what errors call that which can't be done */
export async function readPart(platform: Platform, path: string, use: string): Promise<PartDocument> {
  const found = await platform.stat(path);
  if (found?.kind !== "file") {
    throw new Error(
      `Cannot read ${path}: ${found ? "it is a folder" : "there is no such file"}: check the path`,
    );
  }
  const { rangeOfPart } = await import("../eval/mod.ts");
  const fail = (detail: string): Error => new Error(`Cannot ${use} ${path}: ${detail}`);
  let document: PartDocument;
  try {
    document = JSON.parse(await (await platform.openBlob(path)).text());
  } catch (cause) {
    throw new Error(`Cannot read ${path}: ${(cause as Error).message}`, { cause });
  }
  const { part, inputs, rows, tasks } = document ?? {};
  const { number, of } = part ?? {};
  if (
    !Number.isSafeInteger(of) || !Number.isSafeInteger(number) || !isJsonObject(inputs) ||
    !isJsonObject(rows) || !Object.values(rows).every(isJsonObject) || !Array.isArray(tasks) ||
    !tasks.every(isJsonObject)
  ) throw fail("it is no result of `rsparse eval --part I/N -o FILE`");
  for (const [task, { total, results }] of Object.entries(rows)) {
    const [from, to] = rangeOfPart(total, part);
    if (!Array.isArray(results) || results.length !== to - from || results.some((row) => !hasWork(row))) {
      throw fail(`${task} has ${results?.length} rows, ${to - from} wanted: run the part again`);
    }
  }
  return document;
}

function hasWork(row: RowResult | null): boolean {
  const work = row?.work;
  return [work?.kept, work?.dense, work?.sparse, work?.positions].every(Number.isFinite);
}

function checkSame(first: OpenPart, other: OpenPart): void {
  const a = first.document, b = other.document;
  const totals = ({ rows }: PartDocument): unknown =>
    Object.entries(rows).map(([task, { total }]) => [task, total]);
  const compared: [string, unknown, unknown][] = [
    ["number of parts", a.part.of, b.part.of],
    ...Object.keys({ ...a.inputs, ...b.inputs }).map((name): [string, unknown, unknown] => [
      name,
      a.inputs[name],
      b.inputs[name],
    ]),
    ["number of rows", totals(a), totals(b)],
  ];
  for (const [name, wanted, found] of compared) {
    const [left, right] = [JSON.stringify(wanted) ?? "nothing", JSON.stringify(found) ?? "nothing"];
    if (left === right) continue;
    throw new Error(
      `Cannot join ${first.path} and ${other.path}: they are of runs with another ${name}: ${left} and ${right}`,
    );
  }
}
