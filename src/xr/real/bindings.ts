/** What runs in a model's place: `real`, `shape`, `declared` or `null`, as `--bind` and scenario files spell it. */

/** Types that products of `shape` can have. */
export const SHAPE_DTYPES = ["f32", "int8"] as const;
/** One of {@linkcode SHAPE_DTYPES}. */
export type ShapeDtype = (typeof SHAPE_DTYPES)[number];

/** What a model is bound to. */
export type Binding =
  /** Jobs of length 0: what is left is the loader's own. */
  | { readonly kind: "null" }
  /** A job of declared length: the core is kept busy, or sleeps as if an accelerator computed. */
  | {
    readonly kind: "declared";
    readonly how: "busy" | "idle";
    /** Null: what the scenario's cost or the setting's table says. */
    readonly latencyMs: number | null;
  }
  /** The model's own matrix products on random weights. */
  | {
    readonly kind: "shape";
    readonly dtype: ShapeDtype;
    /** Height and width of every layer are divided by it. */
    readonly divisor: number;
  }
  /** A language model: so many decoded tokens a frame. */
  | {
    readonly kind: "real";
    /** Path, URL or name; null: the run's own (`-m`). */
    readonly model: string | null;
    readonly tokens: number;
    /** Null: the recipe's own, or what a policy chooses. */
    readonly sparsity: number | null;
  };

const FORMS =
  "null, declared[:busy|:idle][:MS], shape[:f32|:int8][:DIVISOR] or real[:tokens=N][:sparsity=S][:MODEL] wanted";
/** An hour: as long as a scenario may be. */
const MAX_MS = 3_600_000;
const MAX_DIVISOR = 1024;
const MAX_TOKENS = 10_000;

/**
 * Reads a binding.
 *
 * @throws {RangeError} If it is none; says what was found and wanted.
 * @example
 * ```ts
 * import assert from "node:assert/strict";
 * assert.deepEqual(parseBinding("declared:busy:2.5"), { kind: "declared", how: "busy", latencyMs: 2.5 });
 * assert.deepEqual(parseBinding("shape:int8"), { kind: "shape", dtype: "int8", divisor: 1 });
 * assert.throws(() => parseBinding("shape:int3"), /"int3" found/);
 * ```
 */
export function parseBinding(text: string): Binding {
  const [kind, ...parts] = text.split(":");
  switch (kind) {
    case "null":
      if (parts.length > 0) throw wrong(parts[0]!, "nothing after null");
      return { kind };
    case "declared":
      return parseDeclared(parts);
    case "shape":
      return parseShape(parts);
    case "real":
      return parseReal(parts);
    default:
      throw new RangeError(`${JSON.stringify(text)} found, ${FORMS}`);
  }
}

/** A binding as {@linkcode parseBinding} reads it. */
export function bindingText(binding: Binding): string {
  switch (binding.kind) {
    case "null":
      return "null";
    case "declared":
      return `declared:${binding.how}${binding.latencyMs === null ? "" : `:${binding.latencyMs}`}`;
    case "shape":
      return `shape:${binding.dtype}${binding.divisor === 1 ? "" : `:${binding.divisor}`}`;
    case "real":
      return `real:tokens=${binding.tokens}${
        binding.sparsity === null ? "" : `:sparsity=${binding.sparsity}`
      }${binding.model === null ? "" : `:${binding.model}`}`;
  }
}

function parseDeclared(parts: readonly string[]): Binding {
  const rest = [...parts];
  let how: "busy" | "idle" = "idle", latencyMs: number | null = null;
  if (rest[0] === "busy" || rest[0] === "idle") how = rest.shift() as typeof how;
  if (rest.length > 0) {
    latencyMs = numberIn(rest.shift()!, 0, MAX_MS, `busy, idle or milliseconds from 0 to ${MAX_MS}`);
  }
  if (rest.length > 0) throw wrong(rest[0]!, "nothing after the milliseconds");
  return { kind: "declared", how, latencyMs };
}

function parseShape(parts: readonly string[]): Binding {
  const rest = [...parts];
  let dtype: ShapeDtype = "f32", divisor = 1;
  if (SHAPE_DTYPES.some((name) => name === rest[0])) dtype = rest.shift() as ShapeDtype;
  if (rest.length > 0) {
    divisor = numberIn(
      rest.shift()!,
      1,
      MAX_DIVISOR,
      `${SHAPE_DTYPES.join(", ")} or a divisor of the resolution from 1 to ${MAX_DIVISOR}`,
    );
  }
  if (rest.length > 0) throw wrong(rest[0]!, "nothing after the divisor");
  return { kind: "shape", dtype, divisor };
}

/** What is left after the options is the model, whose name may have colons. */
function parseReal(parts: readonly string[]): Binding {
  const rest = [...parts];
  let tokens = 1, sparsity: number | null = null;
  for (;;) {
    const [, name, value] = /^(tokens|sparsity)=(.*)$/s.exec(rest[0] ?? "") ?? [];
    if (name === undefined) break;
    rest.shift();
    if (name === "tokens") {
      tokens = numberIn(value!, 1, MAX_TOKENS, `tokens: a whole number from 1 to ${MAX_TOKENS}`);
      if (!Number.isInteger(tokens)) throw wrong(value!, `tokens: a whole number from 1 to ${MAX_TOKENS}`);
    } else {
      sparsity = numberIn(value!, 0, 1, "sparsity: a number from 0 to below 1");
      if (sparsity === 1) throw wrong(value!, "sparsity: a number from 0 to below 1");
    }
  }
  const model = rest.length === 0 ? null : rest.join(":");
  if (model === "") throw wrong("", "a model, or no colon,");
  return { kind: "real", model, tokens, sparsity };
}

function numberIn(text: string, min: number, max: number, wanted: string): number {
  const value = Number(text);
  if (text.trim() === "" || !(value >= min && value <= max)) throw wrong(text, wanted);
  return value;
}

function wrong(found: string, wanted: string): RangeError {
  return new RangeError(`${JSON.stringify(found)} found, ${wanted} wanted`);
}
