/** What comes with the package: XRBench's scenarios, models and hardware, read when they are asked for. */
import { XrError } from "../errors.ts";
import { quote } from "../format/limits.ts";
import { type Hardware, parseHardware } from "./hardware.ts";
import { type LevelsFile, parseLevels } from "./levels.ts";
import { type Layer, parseScenario, type Scenario } from "./scenario.ts";

/** A network of XRBench. */
export interface BuiltinModel {
  /** As scenarios and cost tables have it. */
  readonly name: string;
  /** What scenarios call it as well. */
  readonly aliases: readonly string[];
  /** Two letters, as the paper has it. */
  readonly task: string;
  /** Such as `eye segmentation`. */
  readonly taskName: string;
  /** The paper's name of it. */
  readonly network: string;
  /** As they are encoded: dense, without strides; `stride` and `groups` were inferred and are not in the reference's files. */
  readonly layers: readonly Layer[];
}

let scenariosOnce: Promise<readonly Scenario[]> | null = null;
let extensionsOnce: Promise<readonly Scenario[]> | null = null;
let levelsOnce: Promise<LevelsFile> | null = null;
let hardwareOnce: Promise<Hardware> | null = null;

/** The seven scenarios, in the paper's order. */
export function builtinScenarios(): Promise<readonly Scenario[]> {
  return scenariosOnce ??= readScenarios();
}

async function readScenarios(): Promise<Scenario[]> {
  const { default: { scenarios } } = await import("./data/scenarios.json", { with: { type: "json" } });
  return scenarios.map((scenario) => parseScenario(scenario, scenario.id));
}

/** Scenarios that are rsparse's own, not XRBench's: they run in corrected and real mode alone. */
export function extensionScenarios(): Promise<readonly Scenario[]> {
  return extensionsOnce ??= readExtensions();
}

async function readExtensions(): Promise<Scenario[]> {
  const { default: { scenarios } } = await import("./data/extensions.json", { with: { type: "json" } });
  return scenarios.map((scenario) => parseScenario(scenario, scenario.id));
}

/**
 * One of the seven, or of the extensions.
 *
 * @throws {XrError} If there is none of that id.
 */
export async function builtinScenario(id: string): Promise<Scenario> {
  const scenarios = [...await builtinScenarios(), ...await extensionScenarios()];
  const found = scenarios.find((scenario) => scenario.id === id);
  if (found !== undefined) return found;
  const known = scenarios.map((scenario) => scenario.id).join(", ");
  throw new XrError(
    "scenario",
    quote(id),
    "",
    `no such scenario: one of ${known}, or a .json or .m file wanted`,
  );
}

/** What SmolLM2's tokens took and were worth at each level of sparsity, on a machine that the file names: for runs without a model. */
export function builtinLevels(): Promise<LevelsFile> {
  return levelsOnce ??= readBuiltinLevels();
}

async function readBuiltinLevels(): Promise<LevelsFile> {
  const { default: levels } = await import("./data/levels.json", { with: { type: "json" } });
  return parseLevels(levels, "rsparse");
}

/** The 13 accelerator styles with 4,096 and 8,192 processing elements. */
export function builtinHardware(): Promise<Hardware> {
  return hardwareOnce ??= readHardware();
}

async function readHardware(): Promise<Hardware> {
  const { default: hardware } = await import("./data/hardware.json", { with: { type: "json" } });
  return parseHardware(hardware, "XRBench");
}

/** The eleven networks. */
export async function builtinModels(): Promise<BuiltinModel[]> {
  const { default: { models } } = await import("./data/models.json", { with: { type: "json" } });
  return models.map(({ layers, ...model }) => ({
    ...model,
    layers: layers.map((row) => {
      const [K, C, R, S, Y, X, stride, groups] = row as [
        number,
        number,
        number,
        number,
        number,
        number,
        number,
        number,
      ];
      return { type: "CONV" as const, N: 1, K, C, Y, X, R, S, stride, groups };
    }),
  }));
}
