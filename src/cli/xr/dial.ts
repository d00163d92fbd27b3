/** `--dial` and `--levels` of `rsparse xr`: who chooses the sparsity of replies, from which table. */
import {
  builtinLevels,
  dialOf,
  type LevelsFile,
  type NamedDial,
  parseLevels,
  type Scenario,
} from "../../xr/mod.ts";
import { UsageError } from "../errors.ts";
import type { CliContext } from "../output.ts";
import { readJson } from "./sources.ts";

/** What was typed. */
export interface DialOptions {
  readonly dial?: string;
  readonly levels?: string;
  readonly k?: number;
}

/** Where replies run if nobody says: one accelerator for what comes before them, one for them. */
export const DEFAULT_SETTING = "Dual_4K__WS_OS";

/** A table of levels, and what it is of. */
export interface Levels {
  readonly file: LevelsFile;
  readonly source: Readonly<Record<string, unknown>>;
}

/** The table that is named, or the one that comes with rsparse. */
export async function readLevels(context: CliContext, path: string | undefined): Promise<Levels> {
  const file = path === undefined ? await builtinLevels() : parseLevels(await readJson(context, path), path);
  const { model, recipe, text, machine, runtime, measured } = file as LevelsFile & Record<string, unknown>;
  if (path === undefined) {
    context.note(
      "levels: SmolLM2's, measured where rsparse was made: `rsparse xr measure` makes a table of yours, for --levels",
    );
  }
  return { file, source: { file: path ?? "rsparse", model, recipe, text, machine, runtime, measured } };
}

/**
 * The dials of a scenario's replies. Without `--dial` they run dense, unless they have a cost of their own.
 *
 * @throws {UsageError} If nothing in the scenario has a dial, or there is no such policy.
 */
export async function dialsOf(
  context: CliContext,
  scenario: Scenario,
  { dial, levels, k }: DialOptions,
): Promise<NamedDial[]> {
  const replies = scenario.models.filter(({ reply }) => reply !== undefined);
  if (replies.length === 0) {
    const option = dial === undefined ? levels === undefined ? null : "levels" : "dial";
    if (option === null) return [];
    throw new UsageError(
      `Cannot take --${option}: no model of ${scenario.id} answers token by token, as LM of voice_assistant does`,
    );
  }
  const own = replies.filter(({ cost }) => dial !== undefined || levels !== undefined || cost === undefined);
  if (own.length === 0) return [];
  const { file, source } = await readLevels(context, levels), name = dial ?? "fixed:0";
  try {
    return own.map(({ name: model }) => ({ ...dialOf(file, name, undefined, { k }), model, name, source }));
  } catch (error) {
    if (!(error instanceof RangeError) || error.name !== "RangeError") throw error;
    throw new UsageError(`Cannot take --dial ${name}: ${error.message}`, { cause: error });
  }
}
