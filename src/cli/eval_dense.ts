/** `rsparse eval --dense`: rows that an earlier run has finished dense, without a recipe or at its dial's 0, in place of running them again. */
import type { Part, RowResult } from "../eval/mod.ts";
import type { Platform } from "../platform/platform.ts";
import { readPart } from "./eval_join.ts";

/** What a run may differ in from that of its dense rows: a recipe skips in layouts of its own, `storage` is what rounds. */
const OWN: readonly string[] = ["recipe", "sparsity", "prefill", "dense", "layouts", "files"];

/**
 * Reads the rows, task by task.
 *
 * @param inputs all that the rows of this run depend on
 * @param part undefined: the whole, of which there is one part
 * @throws {Error} If the file is none, or of another part, model, setting or data.
 */
export async function denseRows(
  platform: Platform,
  path: string,
  inputs: Record<string, unknown>,
  part: Part = { number: 1, of: 1 },
): Promise<{ rows: { readonly [task: string]: readonly RowResult[] }; sha256: string }> {
  const document = await readPart(platform, path, "compare with"), { number, of } = document.part;
  const files = inputs["files"] as Record<string, string>,
    theirs = document.inputs["files"] as Record<string, string>;
  const names = Object.keys({ ...inputs, ...document.inputs }).filter((name) => !OWN.includes(name));
  const isDense = document.inputs["recipe"] === null || document.inputs["sparsity"] === 0;
  const compared: [string, unknown, unknown][] = [
    ["part", `${part.number}/${part.of}`, `${number}/${of}`],
    ["sparsity", 0, isDense ? 0 : document.inputs["sparsity"]],
    ...names.map((name): [string, unknown, unknown] => [name, inputs[name], document.inputs[name]]),
    // it may have more tasks than are asked for
    ...Object.keys(files).map((task): [string, unknown, unknown] => [task, files[task], theirs?.[task]]),
  ];
  for (const [name, wanted, found] of compared) {
    const [left, right] = [JSON.stringify(wanted) ?? "nothing", JSON.stringify(found) ?? "nothing"];
    if (left === right) continue;
    throw new Error(
      `Cannot compare with ${path}: its ${name} is ${right}, ${left} wanted: run the same with --sparsity 0 and --part ${part.number}/${part.of}`,
    );
  }
  const rows = Object.fromEntries(
    Object.entries(document.rows).map(([task, { results }]) => [task, results]),
  );
  return { rows, sha256: await platform.sha256([await platform.openBlob(path)]) };
}
