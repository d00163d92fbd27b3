/** Results of runs, read back and put side by side. */
import { XrError } from "../errors.ts";
import type { RunResult } from "./run.ts";
import SCHEMA from "./schema/result.json" with { type: "json" };
import { Shape } from "./schema.ts";

const SHAPE = new Shape("result", SCHEMA);

/**
 * Reads results from a JSON value: one, or a list of them, as batches print it.
 *
 * @param source the file, or what it is called in errors
 * @throws {XrError} If it is not what `rsparse xr run` prints.
 */
export function parseResults(value: unknown, source: string = "result"): readonly RunResult[] {
  const list: readonly unknown[] = Array.isArray(value) ? value : [value];
  if (list.length === 0) throw new XrError("result", source, "", "an empty list found, a result wanted");
  list.forEach((result, i) => SHAPE.check(result, Array.isArray(value) ? `${source}[${i}]` : source));
  return list as readonly RunResult[];
}

/** A line of a comparison; a value for each run, null where it has none. */
export interface ComparedRow {
  /** Null for the whole run. */
  readonly model: string | null;
  /** Such as `hit rate`. */
  readonly what: string;
  /** In the order of the runs. */
  readonly values: readonly (number | null)[];
}

/** Scores, hit and drop rates and lateness of runs, whole and by model. */
export function compareResults(results: readonly RunResult[]): ComparedRow[] {
  const row = (
    model: string | null,
    what: string,
    of: (result: RunResult) => number | null | undefined,
  ): ComparedRow => ({ model, what, values: results.map((result) => of(result) ?? null) });
  const models = [...new Set(results.flatMap((result) => Object.keys(result.models)))];
  return [
    row(null, "score", ({ overall }) => overall),
    row(null, "hit rate", ({ hitRate }) => hitRate),
    row(null, "drop rate", ({ dropRate }) => dropRate),
    ...(["p50", "p95", "p99"] as const).map((p) =>
      row(null, `lateness ${p} ms`, ({ latenessMs }) => latenessMs?.[p])
    ),
    row(
      null,
      "utilisation",
      ({ utilisation }) => utilisation.reduce((a, b) => a + b, 0) / utilisation.length,
    ),
    ...models.flatMap((name) => [
      row(name, "score", ({ models }) => models[name]?.score),
      row(name, "hit rate", ({ models }) => models[name]?.hitRate),
      row(name, "drop rate", ({ models }) => models[name] && models[name].nDropped / models[name].nRequired),
      row(name, "lateness p95 ms", ({ models }) => models[name]?.latenessMs?.p95),
    ]),
  ];
}
