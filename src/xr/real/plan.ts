/** From bindings to the work of each accelerator. */
import type { BuiltinModel } from "../builtin.ts";
import { XrError } from "../../errors.ts";
import { quote } from "../../format/limits.ts";
import type { Hardware } from "../hardware.ts";
import type { Layer, Scenario, ScenarioModel } from "../scenario.ts";
import { type Binding, parseBinding } from "./bindings.ts";
import type { Work } from "./jobs.ts";
import { macsOf, productsOf, type Tier } from "./tiers.ts";

/** Tasks whose layers are small enough for a processor, or nothing but matrix products. */
const SHAPED = ["KD", "AS", "ES", "SR"];

/**
 * What each model of a scenario is bound to.
 *
 * @param given by name, task, or `*`; a later one goes before an earlier one, `*` after all
 * @throws {RangeError} If there is no such model, or nothing is known of one that is bound to nothing.
 */
export function bindModels(
  scenario: Scenario,
  given: readonly (readonly [string, Binding])[],
  models: readonly BuiltinModel[],
): Binding[] {
  const byModel = new Map<number, Binding>();
  let others: Binding | null = null;
  for (const [name, binding] of given) {
    if (name === "*") {
      others = binding;
      continue;
    }
    const found = scenario.models.flatMap((model, i) =>
      model.name === name || builtinOf(model, models)?.task === name ? [i] : []
    );
    if (found.length === 0) {
      const known = scenario.models.map((model) => model.name).join(", ");
      throw new RangeError(`${JSON.stringify(name)} found, one of ${known}, its task, or * wanted`);
    }
    for (const i of found) byModel.set(i, binding);
  }
  return scenario.models.map((model, i) =>
    byModel.get(i) ?? others ?? ownBinding(scenario, model, i, models)
  );
}

function ownBinding(
  { id }: Scenario,
  model: ScenarioModel,
  i: number,
  models: readonly BuiltinModel[],
): Binding {
  if (model.binding !== undefined) {
    try {
      return parseBinding(model.binding);
    } catch (error) {
      const path = `models[${i}].binding`;
      throw new XrError("scenario", id, path, (error as Error).message, { cause: error });
    }
  }
  const task = builtinOf(model, models)?.task;
  if (model.reply !== undefined) return { kind: "real", model: null, tokens: 1, sparsity: null };
  const isShaped = task === undefined
    ? model.cost === undefined && model.layers !== undefined
    : SHAPED.includes(task);
  return isShaped
    ? { kind: "shape", dtype: "f32", divisor: 1 }
    : { kind: "declared", how: "idle", latencyMs: null };
}

function builtinOf({ name }: ScenarioModel, models: readonly BuiltinModel[]): BuiltinModel | undefined {
  return models.find((model) => model.name === name || model.aliases.includes(name));
}

/**
 * Declared lengths of each model on each accelerator; 0 of others.
 *
 * @param alone one accelerator only, whatever the setting has
 * @throws {RangeError} If a length is nowhere to be found, or the setting has another number of accelerators than is asked for.
 * @throws {XrError} If there is no such setting.
 */
export function declaredMs(
  scenario: Scenario,
  bindings: readonly Binding[],
  { setting, hardware, accelerators }: {
    readonly setting?: string;
    readonly hardware?: Hardware;
    readonly accelerators?: number;
  },
  alone: boolean,
): number[][] {
  const kinds = setting === undefined ? null : kindsOf(setting, hardware);
  if (kinds !== null && accelerators !== undefined && accelerators !== kinds.length) {
    throw new RangeError(
      `accelerators: ${accelerators} found, ${kinds.length} wanted, as ${setting} has, or no setting`,
    );
  }
  const count = alone ? 1 : kinds?.length ?? accelerators ?? 1;
  return Array.from({ length: count }, (_, accelerator) =>
    scenario.models.map(({ name, cost }, i) => {
      const binding = bindings[i]!;
      if (binding.kind !== "declared") return 0;
      if (binding.latencyMs !== null) return binding.latencyMs;
      if (cost !== undefined) return cost.latencyMs;
      const kind = kinds?.[accelerator];
      const cycles = kind === undefined
        ? undefined
        : hardware!.accelerators.get(kind)!.models.get(name)?.cycles;
      if (cycles !== undefined) return cycles / 1e6;
      throw new RangeError(
        `models[${i}]: ${name} is declared and has no length${
          kind === undefined ? "" : ` on ${kind}`
        }: bind ${name}=declared:MS, or give ${
          kind === undefined ? "a setting" : "it `cost` in the scenario"
        }`,
      );
    }));
}

function kindsOf(setting: string, hardware: Hardware | undefined): readonly string[] {
  const found = hardware?.settings.get(setting);
  if (found !== undefined) return found.accelerators;
  const known = [...hardware?.settings.keys() ?? []].join(", ") || "hardware";
  throw new XrError("hardware", quote(setting), "", `no such setting: one of ${known} wanted`);
}

/**
 * Work of each accelerator, by model.
 *
 * @throws {RangeError} If layers are wanted of a model that has none, or no language model is named.
 */
export function worksOf(
  scenario: Scenario,
  bindings: readonly Binding[],
  options: {
    readonly tier: Tier;
    readonly seed?: number;
    readonly model?: string | Blob;
    readonly recipe?: string | Blob;
    readonly dials?: Readonly<Record<string, { readonly levels: readonly { readonly sparsity: number }[] }>>;
    readonly dtype?: Extract<Work, { kind: "real" }>["dtype"];
  },
  lengths: readonly (readonly number[])[],
  models: readonly BuiltinModel[],
): { readonly works: Work[][]; readonly macs: (number | null)[] } {
  const macs = scenario.models.map((): number | null => null);
  const shared = scenario.models.map((model, i): Work | null => {
    const binding = bindings[i]!;
    switch (binding.kind) {
      case "null":
        return binding;
      case "declared":
        return null;
      case "shape": {
        const layers = layersOf(model, i, models);
        const products = productsOf(layers, options.tier, options.tier.resolution * binding.divisor);
        macs[i] = macsOf(products);
        return { kind: "shape", dtype: binding.dtype, products, seed: options.seed ?? 1 };
      }
      case "real": {
        const source = binding.model ?? options.model;
        if (source === undefined) {
          throw new RangeError(
            `models[${i}]: ${model.name} is bound to real and no model is named: bind ${model.name}=real:MODEL`,
          );
        }
        const { tokens, sparsity } = binding, { recipe = null, dtype = "auto" } = options;
        return {
          kind: "real",
          model: source,
          recipe,
          dtype,
          tokens,
          sparsity,
          prompt: model.reply?.prompt ?? null,
          sparsities: options.dials?.[model.name]?.levels.map((level) => level.sparsity) ?? [],
        };
      }
    }
  });
  const works = lengths.map((ofModels) =>
    shared.map((work, i): Work => {
      const binding = bindings[i]!;
      if (work !== null) return work;
      if (binding.kind !== "declared") throw new Error(`models[${i}] has no work`);
      return { kind: "declared", how: binding.how, latencyMs: ofModels[i]! };
    })
  );
  return { works, macs };
}

function layersOf(model: ScenarioModel, i: number, models: readonly BuiltinModel[]): readonly Layer[] {
  const layers = model.layers ?? builtinOf(model, models)?.layers;
  if (layers !== undefined && layers.length > 0) return layers;
  throw new RangeError(
    `models[${i}]: ${model.name} is bound to shape and has no layers: give it layers in the scenario, or bind it to declared`,
  );
}
