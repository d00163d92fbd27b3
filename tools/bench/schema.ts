/**
 * What `bench/results/latest.json` holds. Fields may be added; when one changes its meaning or goes, {@linkcode FORMAT} is raised.
 * No imports of `node:`: pages and tests read this too.
 */
import type { Row, Stat } from "../../src/cli/bench/rows.ts";
import type { ShapeName } from "../../src/cli/bench/shapes.ts";
import type { Dtype } from "../../src/runtime/matrix.ts";

/** Version of this form. */
export const FORMAT = 1;

/** What the benchmark can measure: a model's tokens and loading, all matrices of a token, each kernel alone, other programs on the same file. */
export const SUITES = ["decode", "prefill", "load", "kernels", "micro", "peers"] as const;
/** One of {@linkcode SUITES}. */
export type Suite = (typeof SUITES)[number];
/** Where it runs. */
export const ENGINES = ["deno", "node-20", "node-24", "bun", "chromium"] as const;
/** One of {@linkcode ENGINES}. */
export type EngineName = (typeof ENGINES)[number];

/** One run of `rsparse bench WHAT`, or of the same code in a page. */
export interface Request {
  readonly what: "decode" | "prefill" | "load" | "kernels";
  readonly kernels: "auto" | "baseline" | "relaxed";
  readonly threads: number;
  readonly reps: number;
  /** Path of a model and of a recipe for it, or a shape. */
  readonly model?: string;
  readonly recipe?: string;
  readonly shape?: ShapeName;
  readonly dtype?: Dtype;
  readonly layers?: number;
  readonly vocab?: number;
  readonly sparsity?: readonly number[];
  readonly tokens?: number;
}

/** What a run found. */
export interface Run {
  readonly engine: EngineName;
  readonly what: Request["what"];
  readonly kernels: string;
  /** Threads that were used. */
  readonly threads: number;
  /** Why they are fewer than were asked for; null: they are not. */
  readonly threadsReason: string | null;
  /** Tokens that were asked for: a prompt's, or those decoded; absent where the request names none. */
  readonly tokens?: number;
  /** When it ended, ISO 8601 to the minute. */
  readonly at: string;
  /** Of the whole process, loading included. */
  readonly seconds: number;
  readonly rows: readonly Row[];
}

/** One kernel alone, on data that lies in a cache. */
export interface MicroCase {
  /** Kernels that do the same in different ways, or belong together. */
  readonly group: string;
  readonly name: string;
  /** Its export in `assembly/`. */
  readonly kernel: string;
  /** Milliseconds a call. */
  readonly ms: Stat;
  /** Relative margin of error of the mean, per cent, where benny measured. */
  readonly margin?: number;
  /** 10^9 multiply-adds a second, those of channels that were left out not counted. */
  readonly gmacs?: number;
  /** 10^9 bytes a second that it reads and writes. */
  readonly gbPerSecond?: number;
}

/** Micro-benchmarks on one engine. */
export interface MicroRun {
  readonly engine: EngineName;
  readonly kernels: string;
  /** When it ended. */
  readonly at: string;
  /** `benny 3.7.1`, or `own clock` where that cannot run. */
  readonly harness: string;
  readonly cases: readonly MicroCase[];
}

/** Another program on the same model file. */
export interface PeerRun {
  readonly name: string;
  readonly version: string;
  /** What it ran in. */
  readonly engine: string;
  readonly threads: number;
  /** When it ended. */
  readonly at: string;
  /** Why there are no numbers; null: there are. */
  readonly reason: string | null;
  readonly rows: readonly { readonly name: string; readonly tokensPerSecond: Stat }[];
}

/** Something that was asked for and could not be measured, or was measured before and could not be kept. */
export interface Missing {
  readonly suite: Suite;
  readonly engine: EngineName | null;
  readonly what: string;
  readonly reason: string;
}

/** The machine, before and after. */
export interface Machine {
  readonly cpu: string;
  readonly cores: number;
  readonly memoryBytes: number;
  readonly platform: string;
  /** Processes that wanted a core, mean of a minute, at the start and at the end; null where the system does not say. Where runs of parts were joined, of the busiest. */
  readonly load: readonly [before: number, after: number] | null;
}

/** How it was asked to run. */
export interface Settings {
  readonly quick: boolean;
  readonly model: string;
  readonly suites: readonly Suite[];
  readonly engines: readonly EngineName[];
  /** The share of multiply-adds to skip of the recipe that decode runs with. */
  readonly sparsity: number;
}

/** The whole file. */
export interface Results {
  readonly format: typeof FORMAT;
  /** YYYY-MM-DD. */
  readonly date: string;
  readonly seconds: number;
  readonly settings: Settings;
  readonly machine: Machine;
  /** By name: rsparse, its kernels, each engine, benny. */
  readonly versions: { readonly [name: string]: string };
  readonly runs: readonly Run[];
  readonly micro: readonly MicroRun[];
  readonly peers: readonly PeerRun[];
  readonly missing: readonly Missing[];
}

/** Now, as runs note it. */
export function minuteNow(): string {
  return `${new Date().toISOString().slice(0, 16)}Z`;
}

/** What tells builds of the kernels apart: `kernels` and the first twelve digits of their SHA-256, the baseline build's bytes first. */
export async function kernelsVersion(baseline: Uint8Array, relaxed: Uint8Array): Promise<string> {
  const both = new Uint8Array(baseline.length + relaxed.length);
  both.set(baseline);
  both.set(relaxed, baseline.length);
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", both)).subarray(0, 6);
  return `kernels ${Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}

/** What {@linkcode merge} says of runs that it leaves out. */
const EARLIER = "earlier runs";

/**
 * Results of a run that measured a part, with the rest of those that were there: what was measured again replaces what was. Nothing is kept of another
 * machine, version of this package or build of its kernels, and no tokens of another model; what is left out for that is among the missing.
 */
export function merge(before: Results | null, now: Results): Results {
  if (before === null) return now;
  const { suites, engines } = now.settings;
  const isOld = (suite: Suite, engine: EngineName | null): boolean =>
    !suites.includes(suite) || (engine !== null && !engines.includes(engine));
  const stays = (suite: Suite, engine: EngineName | null): boolean =>
    isOld(suite, engine) && differenceOf(before, now, suite) === null;
  const runs = before.runs.filter(({ what, engine }) => stays(what, engine)),
    micro = before.micro.filter(({ engine }) => stays("micro", engine)),
    peers = before.peers.filter(() => stays("peers", null));
  const missing = before.missing.filter(({ suite, engine }) => stays(suite, engine));
  const dropped = measuredIn(before).filter(([suite, engine]) => isOld(suite, engine)).flatMap((
    [suite, engine],
  ): Missing[] => {
    const reason = differenceOf(before, now, suite);
    return reason === null ? [] : [{ suite, engine, what: EARLIER, reason }];
  });
  const kept = measuredIn({ runs, micro, peers });
  const fits = before.settings.suites.filter((suite) => differenceOf(before, now, suite) === null);
  const union = <T extends string>(all: readonly T[], a: readonly T[], b: readonly T[]): T[] =>
    all.filter((name) => a.includes(name) || b.includes(name));
  return {
    ...now,
    settings: {
      ...now.settings,
      quick: now.settings.quick || (kept.length > 0 && before.settings.quick),
      // where both have tokens it is the same
      model: kept.some(([suite]) => isOfModel(suite)) ? before.settings.model : now.settings.model,
      suites: union(SUITES, fits, suites),
      engines: union(ENGINES, fits.length > 0 ? before.settings.engines : [], engines),
    },
    machine: kept.length > 0 ? busierOf(before.machine, now.machine) : now.machine,
    versions: kept.length > 0 ? { ...before.versions, ...now.versions } : now.versions,
    runs: byEngine([...runs, ...now.runs]),
    micro: byEngine([...micro, ...now.micro]),
    peers: [...peers, ...now.peers],
    missing: unique([...missing, ...dropped, ...now.missing]),
  };
}

/** Whether it runs the model that was asked for. */
export function isOfModel(suite: Suite): boolean {
  return suite !== "kernels" && suite !== "micro";
}

/** Processes beside the benchmark that wanted a core, at the start or at the end, whichever is more. */
export function crowdOf([before, after]: readonly [before: number, after: number]): number {
  return Math.max(before, after - 1);
}

/** The machine with the load of the busier of two runs on it: rows of both stand beside each other. */
function busierOf(before: Machine, now: Machine): Machine {
  if (before.load === null || now.load === null) return { ...now, load: now.load ?? before.load };
  return crowdOf(before.load) > crowdOf(now.load) ? { ...now, load: before.load } : now;
}

/** The last of each suite, engine and `what`: an engine that is not there is missing in each run that asks for it. */
function unique(missing: readonly Missing[]): Missing[] {
  return [
    ...new Map(missing.map((each) => [[each.suite, each.engine, each.what].join("\n"), each])).values(),
  ];
}

/** Why no row of `before` in this suite can stand beside those of `now`; null: they can. */
function differenceOf(before: Results, now: Results, suite: Suite): string | null {
  const bases = [
    [before.machine.cpu, now.machine.cpu],
    ...["rsparse", "kernels"].map((name) => [before.versions[name], now.versions[name]]),
  ];
  // a run without tokens has no model, whatever its settings say
  if (isOfModel(suite) && now.settings.suites.some(isOfModel)) {
    bases.push([before.settings.model, now.settings.model]);
  }
  const other = bases.find(([was, is]) => was !== is);
  return other === undefined
    ? null
    : `dropped: measured with ${other[0] ?? "kernels not noted"}, now ${other[1]}: run them again`;
}

/** Each suite and engine that there are rows of, once. */
function measuredIn(
  { runs, micro, peers }: Pick<Results, "runs" | "micro" | "peers">,
): [Suite, EngineName | null][] {
  const found: [Suite, EngineName | null][] = [
    ...runs.map(({ what, engine }): [Suite, EngineName] => [what, engine]),
    ...micro.map(({ engine }): [Suite, EngineName] => ["micro", engine]),
    ...peers.map((): [Suite, null] => ["peers", null]),
  ];
  return [...new Map(found.map((pair) => [pair.join(), pair])).values()];
}

/** In the order of {@linkcode ENGINES}. */
function byEngine<T extends { readonly engine: EngineName }>(runs: readonly T[]): T[] {
  return ENGINES.flatMap((name) => runs.filter(({ engine }) => engine === name));
}

/** Text of the file: one line a row, four digits a number, so that it stays small and its changes can be read. */
export function stringify(results: Results): string {
  const round = (_: string, value: unknown): unknown =>
    typeof value === "number" && !Number.isInteger(value) ? Number(value.toPrecision(4)) : value;
  const line = (value: unknown): string => JSON.stringify(value, round);
  const list = (values: readonly unknown[], indent: string): string =>
    values.length === 0
      ? "[]"
      : `[\n${values.map((value) => indent + line(value)).join(",\n")}\n${indent.slice(1)}]`;
  const nested = (key: string, values: readonly object[], inner: string): string =>
    ` ${JSON.stringify(key)}: [${
      values.map((value) => {
        const { [inner]: rows, ...rest } = value as { [key: string]: readonly unknown[] };
        return `\n  ${line(rest).slice(0, -1)}, ${JSON.stringify(inner)}: ${list(rows!, "   ")}}`;
      }).join(",")
    }\n ]`;
  const { runs, micro, peers, missing, ...head } = results;
  return `{\n${
    [
      ...Object.entries(head).map(([key, value]) => ` ${JSON.stringify(key)}: ${line(value)}`),
      nested("runs", runs, "rows"),
      nested("micro", micro, "cases"),
      nested("peers", peers, "rows"),
      ` "missing": ${list(missing, "  ")}`,
    ].join(",\n")
  }\n}\n`;
}

/** Reads the file. @throws {Error} If it is in another form. */
export function parse(text: string): Results {
  const results = JSON.parse(text) as Results;
  if (results.format !== FORMAT) {
    throw new Error(
      `Cannot read benchmark results: format ${results.format} found, ${FORMAT} wanted: run deno task bench again`,
    );
  }
  return results;
}
