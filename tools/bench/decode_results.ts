/** What `rsparse bench decode --recipe FILE --json` left in `bench/results/decode/`, by which the results page says how fast a recipe is. */
import { isJsonObject } from "../../src/format/json.ts";

/** One recipe at one setting of its dial, or dense, on one engine and one thread. */
export interface DecodeSpeed {
  /** `node 24.21.0 baseline`. */
  readonly engine: string;
  /** The model's name. */
  readonly model: string;
  /** How its projections were kept. */
  readonly dtype: string;
  /** SHA-256 of the recipe; null: dense. */
  readonly recipe: string | null;
  readonly sparsity: number;
  /** Tokens a second, the median. */
  readonly median: number;
  /** Over the dense runs that took turns with it; null: it is dense itself, or none did. */
  readonly speedup: number | null;
}

/**
 * Reads one file.
 *
 * @throws {Error} If it is something else, or of several threads.
 */
export function parseDecode(text: string): DecodeSpeed[] {
  const value: unknown = JSON.parse(text);
  const fail = (path: string, wanted: string): never => {
    throw new Error(`${path}: ${wanted} wanted, as of \`rsparse bench decode --recipe FILE --json\``);
  };
  const { engine, rows } = isJsonObject(value) ? value : {};
  if (!isJsonObject(engine)) return fail("engine", "an object");
  if (!Array.isArray(rows)) return fail("rows", "a list");
  const { runtime, kernels, threads } = engine;
  if (typeof runtime !== "string" || typeof kernels !== "string") {
    return fail("engine", "runtime and kernels");
  }
  if (threads !== 1) return fail("engine.threads", "1");
  return rows.map((row: unknown, i): DecodeSpeed => {
    const at = `rows.${i}`;
    if (!isJsonObject(row)) return fail(at, "an object");
    const { name, shape, dtype, sparsity, recipe = null, tokensPerSecond, speedup = null } = row;
    if (name !== "decode") return fail(`${at}.name`, "decode");
    if (typeof shape !== "string" || typeof dtype !== "string") return fail(at, "shape and dtype");
    if (typeof sparsity !== "number" || !(sparsity >= 0 && sparsity < 1)) {
      return fail(`${at}.sparsity`, "0 to 1");
    }
    if (sparsity > 0 ? !/^[0-9a-f]{64}$/.test(String(recipe)) : recipe !== null) {
      return fail(`${at}.recipe`, "the SHA-256 of the recipe, null where it is dense,");
    }
    const median = isJsonObject(tokensPerSecond) ? tokensPerSecond["median"] : undefined;
    if (typeof median !== "number" || !(median > 0)) return fail(`${at}.tokensPerSecond.median`, "a speed");
    if (speedup !== null && typeof speedup !== "number") return fail(`${at}.speedup`, "a number");
    return {
      engine: `${runtime} ${kernels}`,
      model: shape,
      dtype,
      recipe: recipe as string | null,
      sparsity,
      median,
      speedup,
    };
  });
}
