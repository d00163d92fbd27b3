/**
 * Tables of what levels of sparsity take and are worth, as `rsparse xr measure` writes them: with them a model's replies can be simulated, whatever the policy,
 * with the times that tokens really took, one after the other.
 */
import { LatencyTable } from "../deadline/levels.ts";
import { createPolicy, type PolicyOptions } from "../deadline/policy.ts";
import type { Profile } from "../deadline/token.ts";
import { XrError } from "../errors.ts";
import type { Dial } from "./dial.ts";
import { spreadOf } from "./reply.ts";
import SCHEMA from "./schema/levels.json" with { type: "json" };
import { Shape } from "./schema.ts";

/** A level of a table. */
export interface MeasuredLevel {
  /** In [0, 1); 0 is dense. */
  readonly sparsity: number;
  /** min(1, perplexity dense / perplexity at this level), or another ratio to dense. */
  readonly fidelity: number;
  /** What tokens took. */
  readonly latencyMs: { readonly p50: number; readonly p95: number };
}

/** A table. */
export interface LevelsFile {
  /** Of this file. */
  readonly format: 1;
  /** By ascending sparsity. */
  readonly levels: readonly MeasuredLevel[];
  /** What prompts took, one after the other. Absent: nothing, so that token 0 is a token like the others. */
  readonly promptMs?: readonly number[];
  /** How many of the model's blocks each part of a token has; 0: the head. Absent where tokens were timed as a whole. */
  readonly blocks?: readonly number[];
  /** What tokens took, one after the other: by level, by part, ms. Levels took turns at each token, so that a slow spell is in all of them. Absent: `p50` each time. */
  readonly tokenMs?: readonly (readonly (readonly number[])[])[];
}

/** The schema of levels files, JSON Schema 2020-12. */
export const LEVELS_SCHEMA: object = SCHEMA;

const SHAPE = new Shape("levels", LEVELS_SCHEMA);

/**
 * Reads a table from its JSON value.
 *
 * @param source the file, or what it is called in errors
 * @throws {XrError} If it does not fit the schema, levels don't ascend, or rows don't have a number for each level and part.
 */
export function parseLevels(value: unknown, source: string = "levels"): LevelsFile {
  SHAPE.check(value, source);
  const file = value as LevelsFile, { levels, blocks = [1], tokenMs = [] } = file;
  const fail = (path: string, detail: string): never => {
    throw new XrError("levels", source, path, detail);
  };
  levels.forEach(({ sparsity }, i) => {
    if (i > 0 && !(sparsity > levels[i - 1]!.sparsity)) {
      fail(`levels[${i}].sparsity`, `${sparsity} found after ${levels[i - 1]!.sparsity}: ascending wanted`);
    }
  });
  if (blocks.every((count) => count === 0)) fail("blocks", "no block found, at least one wanted");
  tokenMs.forEach((row, i) => {
    if (row.length !== levels.length) {
      fail(`tokenMs[${i}]`, `${row.length} levels found, ${levels.length} wanted`);
    }
    const wrong = row.findIndex((parts) => parts.length !== blocks.length);
    if (wrong >= 0) {
      fail(`tokenMs[${i}][${wrong}]`, `${row[wrong]!.length} parts found, ${blocks.length} wanted`);
    }
  });
  return file;
}

/** Rows of tokens and prompts in another order: what a simulation goes through, row by row. */
export interface Course {
  /** Numbers of `tokenMs`. */
  readonly tokens: readonly number[];
  /** Numbers of `promptMs`. */
  readonly prompts: readonly number[];
}

/**
 * A dial of a table's levels.
 *
 * @param policy as `createPolicy` has it
 * @param course default: the rows as they were recorded
 * @throws {RangeError} If there is no such policy.
 */
export function dialOf(file: LevelsFile, policy: string, course?: Course, options: PolicyOptions = {}): Dial {
  const { levels, blocks = [1], promptMs = [] } = file;
  const table = new LatencyTable(
    levels.map(({ sparsity, fidelity, latencyMs }) => ({ sparsity, fidelity, latencyMs: latencyMs.p95 })),
  );
  const recorded = file.tokenMs ??
    [levels.map(({ latencyMs }) => blocks.map((count) => latencyMs.p50 * count / sum(blocks)))];
  const rows = course === undefined ? recorded : course.tokens.map((i) => recorded[i]!);
  const prompts = course === undefined ? promptMs : course.prompts.map((i) => promptMs[i]!);
  return {
    table,
    policy: createPolicy(policy, table, options),
    latencies: levels.map((_, level) => rows.map((row) => sum(row[level]!))),
    ...(prompts.length > 0 && { prompts }),
    ...(blocks.length > 1 && {
      parts: {
        profile: profileOf(file),
        ms: levels.map((_, level) => rows.map((row) => row[level]!)),
      },
    }),
  };
}

/** How tokens are spread over their parts. */
export function profileOf({ levels, blocks = [1], tokenMs }: LevelsFile): Profile {
  const all = sum(blocks), shares = blocks.map((count) => count / all);
  return {
    blocks: shares,
    time: levels.map((_, level) => {
      if (tokenMs === undefined) return shares;
      // medians: a spell that hits one part says nothing of where time goes
      const parts = blocks.map((_, part) => spreadOf(tokenMs.map((row) => row[level]![part]!))!.p50);
      return parts.map((ms) => ms / sum(parts));
    }),
  };
}

function sum(values: readonly number[]): number {
  return values.reduce((a, b) => a + b, 0);
}
