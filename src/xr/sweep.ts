/** Many runs: scenarios by settings by seeds, the suite's score, and what each repaired defect does to scores. */
import type { Hardware } from "./hardware.ts";
import { type RunOptions, runScenario } from "./run.ts";
import type { Scenario } from "./scenario.ts";
import { readSwitches, SWITCH_NAMES, switchesOfMode, type SwitchName } from "./switches.ts";

/** Means over seeds of a scenario on a setting, from 0 to 1 and as the harness's plots have them: models without logged frames count as 0. */
export interface Cell {
  /** The scenario's id. */
  readonly scenario: string;
  /** The setting's name. */
  readonly setting: string;
  /** Mean real-time score of the models. */
  readonly rt: number;
  /** Mean energy score of the models. */
  readonly energy: number;
  /** Mean share of executed frames. */
  readonly qoe: number;
  /** The overall score; where absent models leave its mean unseen, times the share of models that were logged. */
  readonly overall: number;
  /** Least and largest of the seeds. */
  readonly least: number;
  /** The best. */
  readonly most: number;
}

/** What a sweep goes over. */
export interface SweepOptions extends Omit<RunOptions, "seed" | "frames"> {
  /** Rows. */
  readonly scenarios: readonly Scenario[];
  /** Columns. */
  readonly settings: readonly string[];
  /** Whose settings they are. */
  readonly hardware: Hardware;
  /** Averaged over. */
  readonly seeds: readonly number[];
}

/** Scores every scenario on every setting, one after the other, scenarios outermost. */
export function* sweep(options: SweepOptions): Generator<Cell> {
  for (const scenario of options.scenarios) {
    for (const setting of options.settings) yield scoreCell(scenario, setting, options);
  }
}

function scoreCell(scenario: Scenario, setting: string, { hardware, seeds, ...options }: SweepOptions): Cell {
  const { silentAbsent } = options.switches ?? switchesOfMode(options.mode ?? "compat");
  const sum = { rt: 0, energy: 0, qoe: 0, overall: 0 };
  let least = Infinity, most = -Infinity;
  for (const seed of seeds) {
    const { scores } = runScenario(scenario, setting, hardware, { ...options, seed });
    const models = [...scores.models.values()], nAll = silentAbsent ? scenario.models.length : models.length;
    for (const field of ["rt", "energy", "qoe"] as const) {
      sum[field] += models.reduce((total, model) => total + model[field], 0) / Math.max(1, nAll);
    }
    const overall = scores.overall / 100 * models.length / Math.max(1, nAll);
    sum.overall += overall;
    least = Math.min(least, overall);
    most = Math.max(most, overall);
  }
  const n = seeds.length;
  return {
    scenario: scenario.id,
    setting,
    rt: sum.rt / n,
    energy: sum.energy / n,
    qoe: sum.qoe / n,
    overall: sum.overall / n,
    least,
    most,
  };
}

/** The mean over scenarios of a setting's cells: the suite's score, from 0 to 1. */
export function suiteOf(
  cells: readonly Cell[],
  setting: string,
): Omit<Cell, "scenario" | "setting" | "least" | "most"> {
  const own = cells.filter((cell) => cell.setting === setting);
  const mean = (field: "rt" | "energy" | "qoe" | "overall"): number =>
    own.reduce((sum, cell) => sum + cell[field], 0) / own.length;
  return { rt: mean("rt"), energy: mean("energy"), qoe: mean("qoe"), overall: mean("overall") };
}

/** How scores change over some runs, in points of 100. */
export interface Change {
  /** Mean of the differences. */
  readonly mean: number;
  /** The worst. */
  readonly least: number;
  /** The best. */
  readonly most: number;
  /** Runs whose score changed by more than a millionth. */
  readonly changed: number;
}

/** What one switch does. */
export interface FixEffect {
  /** The switch. */
  readonly name: SwitchName;
  /** The harness with this defect alone repaired, against the harness. */
  readonly repaired: Change;
  /** The corrected mode with this defect alone, against the corrected mode. */
  readonly broken: Change;
}

/** What each switch does to the overall score of every scenario on every setting with every seed. Yields null after each run, and one switch after the other. */
export function* fixEffects(options: Omit<SweepOptions, "mode" | "switches">): Generator<FixEffect | null> {
  const overalls = function* (
    mode: "compat" | "corrected",
    changes: readonly string[],
  ): Generator<null, number[]> {
    const switches = readSwitches(mode, changes), found: number[] = [];
    for (const scenario of options.scenarios) {
      for (const setting of options.settings) {
        for (const seed of options.seeds) {
          const run = runScenario(scenario, setting, options.hardware, { ...options, mode, switches, seed });
          found.push(run.scores.overall);
          yield null;
        }
      }
    }
    return found;
  };
  const compat = yield* overalls("compat", []), corrected = yield* overalls("corrected", []);
  for (const name of SWITCH_NAMES) {
    yield {
      name,
      repaired: changeOf(compat, yield* overalls("compat", [`${name}=off`])),
      broken: changeOf(corrected, yield* overalls("corrected", [`${name}=on`])),
    };
  }
}

function changeOf(before: readonly number[], after: readonly number[]): Change {
  const differences = after.map((value, i) => value - before[i]!);
  return {
    mean: differences.reduce((sum, x) => sum + x, 0) / differences.length,
    least: differences.reduce((a, b) => Math.min(a, b)),
    most: differences.reduce((a, b) => Math.max(a, b)),
    changed: differences.filter((x) => Math.abs(x) > 1e-6).length,
  };
}
