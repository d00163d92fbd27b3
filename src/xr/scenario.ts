/** Scenarios: models with rates, triggers and edges; from JSON, with every fault named by its place. */
import { XrError } from "../errors.ts";
import { quote } from "../format/limits.ts";
import { DEFAULT_REPLY, type Reply } from "./reply.ts";
import SCHEMA from "./schema/scenario.json" with { type: "json" };
import { Shape } from "./schema.ts";

/** A layer as XRBench's files have it: `N` images, `C` channels of `Y` x `X` in, `K` out, a kernel of `R` x `S`. */
export interface Layer {
  /** What it is called. */
  readonly name?: string;
  /** As the files have it; all are dense there. */
  readonly type: "CONV" | "DSCONV" | "NGCONV" | "TRCONV";
  /** Images. */
  readonly N: number;
  /** Channels out. */
  readonly K: number;
  /** Channels in. */
  readonly C: number;
  /** Height in. */
  readonly Y: number;
  /** Width in. */
  readonly X: number;
  /** The kernel's height. */
  readonly R: number;
  /** The kernel's width. */
  readonly S: number;
  /** Default 1. */
  readonly stride?: number;
  /** Default 1; `C` where it is depthwise. */
  readonly groups?: number;
}

/** A model of a scenario. */
export interface ScenarioModel {
  /** What it is called. */
  readonly name: string;
  /** Frames a second. */
  readonly fps: number;
  /** The chance that a frame is asked for. */
  readonly probability: number;
  /** Names of models whose results of the same frame it needs. */
  readonly dependencies: readonly string[];
  /** What a frame takes on any accelerator, for models that hardware tables don't have. */
  readonly cost?: { readonly latencyMs: number; readonly energyMJ: number };
  /** What runs in its place in real mode, as `--bind` has it; checked when it is run. */
  readonly binding?: string;
  /** Where its frames are replies, answered token by token: `cost` is then a token's. */
  readonly reply?: Reply;
  /** Its layers, where they are known. */
  readonly layers?: readonly Layer[];
}

/** Models that run together. */
export interface Scenario {
  /** For programs. */
  readonly id: string;
  /** For people. */
  readonly name: string;
  /** How long frames arrive. */
  readonly durationMs: number;
  /** In the order in which numbers are drawn for them. */
  readonly models: readonly ScenarioModel[];
}

/** XRBench's. */
export const DEFAULT_DURATION_MS = 700;

/** The schema of scenario files, JSON Schema 2020-12. */
export const SCENARIO_SCHEMA: object = SCHEMA;

const SHAPE = new Shape("scenario", SCENARIO_SCHEMA);

/** A scenario file's content, which has been held against the schema. */
interface ScenarioFile {
  readonly id?: string;
  readonly name?: string;
  readonly durationMs?: number;
  readonly models: readonly (
    & Omit<Partial<ScenarioModel>, "reply">
    & Pick<ScenarioModel, "name" | "fps">
    & { readonly reply?: Partial<Reply> }
  )[];
}

/**
 * Reads a scenario from its JSON value.
 *
 * @param source the file, or what it is called in errors; its name without ending is the id of a scenario that has none
 * @throws {XrError} If it does not fit the schema, a name comes twice or is unknown, a model depends on itself, or edges go round in a circle.
 * @example
 * ```ts
 * import assert from "node:assert/strict";
 * const scenario = parseScenario({ models: [{ name: "eye", fps: 60 }, { name: "gaze", fps: 60, dependencies: ["eye"] }] });
 * assert.equal(scenario.models[1]!.probability, 1);
 * assert.throws(() => parseScenario({ models: [{ name: "eye", fps: 0 }] }), /models\[0\]\.fps: 0 found/);
 * ```
 */
export function parseScenario(value: unknown, source: string = "scenario"): Scenario {
  SHAPE.check(value, source);
  const { id, name, durationMs, models } = value as ScenarioFile;
  const ownId = id ?? (source.replace(/^.*[/\\]/, "").replace(/\.(json|m)$/, "") || "scenario");
  const scenario = {
    id: ownId,
    name: name ?? ownId,
    durationMs: durationMs ?? DEFAULT_DURATION_MS,
    models: models.map(({ probability, dependencies, layers, reply, ...model }) => ({
      ...model,
      probability: probability ?? 1,
      dependencies: dependencies ?? [],
      ...(reply && { reply: { ...DEFAULT_REPLY, ...reply } }),
      ...(layers && { layers: layers.map((layer) => ({ ...layer, N: layer.N ?? 1 })) }),
    })),
  };
  checkNames(scenario, source);
  checkCircles(scenario, source);
  return scenario;
}

function checkNames({ models }: Scenario, source: string): void {
  const seen = new Map<string, number>();
  models.forEach(({ name }, i) => {
    const first = seen.get(name);
    if (first !== undefined) {
      throw new XrError(
        "scenario",
        source,
        `models[${i}].name`,
        `${quote(name)} found, which models[${first}] has`,
      );
    }
    seen.set(name, i);
  });
  models.forEach(({ name, dependencies }, i) =>
    dependencies.forEach((other, j) => {
      const path = `models[${i}].dependencies[${j}]`;
      if (!seen.has(other)) {
        const known = models.map((model) => model.name).join(", ");
        throw new XrError("scenario", source, path, `no model ${quote(other)} here: one of ${known} wanted`);
      }
      if (other === name) throw new XrError("scenario", source, path, `${quote(name)} depends on itself`);
      if (dependencies.indexOf(other) < j) {
        throw new XrError("scenario", source, path, `${quote(other)} found a second time`);
      }
    })
  );
}

function checkCircles(scenario: Scenario, source: string): void {
  const { models } = scenario, upstream = upstreamOf(scenario), ordered = new Set(topologicalOrder(scenario));
  const first = models.findIndex((_, i) => !ordered.has(i));
  if (first < 0) return;
  // going up from a model that can't be ordered leads into a circle
  const path: number[] = [];
  let at = first;
  while (!path.includes(at)) {
    path.push(at);
    at = upstream[at]!.find((other) => !ordered.has(other))!;
  }
  const circle = [...path.slice(path.indexOf(at)), at].map((i) => models[i]!.name);
  throw new XrError(
    "scenario",
    source,
    `models[${at}].dependencies`,
    `a circle found: ${circle.join(" needs ")}: take an edge away`,
  );
}

/** The numbers of each model's upstream models. */
export function upstreamOf({ models }: Pick<Scenario, "models">): number[][] {
  const numbers = new Map(models.map(({ name }, i) => [name, i]));
  return models.map(({ dependencies }) => dependencies.map((name) => numbers.get(name)!));
}

/** The models' numbers, upstream before downstream; without those that are in a circle, or below one. */
export function topologicalOrder(scenario: Pick<Scenario, "models">): number[] {
  const upstream = upstreamOf(scenario), order: number[] = [], done = new Set<number>();
  for (let grown = true; grown;) {
    grown = false;
    upstream.forEach((others, i) => {
      if (done.has(i) || !others.every((other) => done.has(other))) return;
      done.add(i);
      order.push(i);
      grown = true;
    });
  }
  return order;
}

/** The scenario with another probability of every model that has a dependency: XRBench's sweep of triggers. */
export function withProbability(scenario: Scenario, probability: number): Scenario {
  if (!(probability >= 0 && probability <= 1)) {
    throw new RangeError(`probability: ${probability} found, a number from 0 to 1 wanted`);
  }
  return {
    ...scenario,
    models: scenario.models.map((model) => model.dependencies.length > 0 ? { ...model, probability } : model),
  };
}
