/** Hardware: what models take on accelerators, and which accelerators work together. Costs of the reference are test vectors, not what hardware takes. */
import { XrError } from "../errors.ts";
import { quote } from "../format/limits.ts";
import type { ModelCost } from "./executor.ts";
import type { Scenario } from "./scenario.ts";
import SCHEMA from "./schema/hardware.json" with { type: "json" };
import { Shape } from "./schema.ts";

/** A kind of accelerator. */
export interface Accelerator {
  /** Processing elements. */
  readonly pes?: number;
  /** Of the network on the chip, as the reference counts it. */
  readonly nocBandwidth?: number;
  /** WS, OS, RS or another. */
  readonly dataflow?: string;
  /** By model. */
  readonly models: ReadonlyMap<string, ModelCost>;
}

/** Accelerators that work together. */
export interface Setting {
  /** Letter and size in the paper, such as `A 4K`. */
  readonly style?: string;
  /** Names of their kinds, in the order of their numbers. */
  readonly accelerators: readonly string[];
}

/** A hardware file. */
export interface Hardware {
  /** By name. */
  readonly accelerators: ReadonlyMap<string, Accelerator>;
  /** By name. */
  readonly settings: ReadonlyMap<string, Setting>;
}

/** The schema of hardware files, JSON Schema 2020-12. */
export const HARDWARE_SCHEMA: object = SCHEMA;

const SHAPE = new Shape("hardware", HARDWARE_SCHEMA);

/**
 * Reads a hardware file from its JSON value.
 *
 * @param source the file, or what it is called in errors
 * @param base what it adds to: accelerators and settings of the same name are replaced
 * @throws {XrError} If it does not fit the schema, or a setting names an accelerator that there is not.
 */
export function parseHardware(value: unknown, source: string = "hardware", base?: Hardware): Hardware {
  SHAPE.check(value, source);
  const file = value as {
    readonly accelerators: Readonly<
      Record<string, Omit<Accelerator, "models"> & { readonly models: Readonly<Record<string, ModelCost>> }>
    >;
    readonly settings: Readonly<Record<string, Setting>>;
  };
  const accelerators = new Map(base?.accelerators);
  for (const [name, { models, ...accelerator }] of Object.entries(file.accelerators)) {
    accelerators.set(name, { ...accelerator, models: new Map(Object.entries(models)) });
  }
  const settings = new Map([...base?.settings ?? [], ...Object.entries(file.settings)]);
  for (const [name, { accelerators: kinds }] of settings) {
    kinds.forEach((kind, i) => {
      if (accelerators.has(kind)) return;
      throw new XrError(
        "hardware",
        source,
        `settings[${quote(name)}].accelerators[${i}]`,
        `no accelerator ${quote(kind)} here: one of ${[...accelerators.keys()].join(", ")} wanted`,
      );
    });
  }
  return { accelerators, settings };
}

/**
 * What a scenario's models take on the accelerators of a setting; a cost of the scenario's own goes first.
 *
 * @param others models whose costs are another's: 0 here
 * @returns by accelerator, then by model
 * @throws {XrError} If there is no such setting, or it has no cost of a model.
 */
export function costsOf(
  scenario: Scenario,
  setting: string,
  hardware: Hardware,
  others: ReadonlySet<string> = new Set(),
): ModelCost[][] {
  const found = hardware.settings.get(setting);
  if (found === undefined) {
    throw new XrError(
      "hardware",
      quote(setting),
      "",
      `no such setting: one of ${[...hardware.settings.keys()].join(", ")} wanted`,
    );
  }
  return found.accelerators.map((kind) => {
    const { models } = hardware.accelerators.get(kind)!;
    return scenario.models.map(({ name, cost, reply }, i) => {
      if (others.has(name)) return { cycles: 0, energyNJ: 0, layerEdp: 0 };
      if (cost !== undefined) {
        return {
          cycles: 1e6 * cost.latencyMs,
          energyNJ: 1e6 * cost.energyMJ,
          layerEdp: 1e12 * cost.latencyMs * cost.energyMJ,
        };
      }
      const known = models.get(name);
      if (known !== undefined) return known;
      throw new XrError(
        "scenario",
        scenario.id,
        `models[${i}].name`,
        `${quote(name)} has no cost on ${kind}: ${
          reply === undefined
            ? "give it \`cost\` in the scenario, or costs in a hardware file"
            : "its tokens take what a table of levels says: give it a dial, or \`cost\` in the scenario"
        }`,
      );
    });
  });
}
