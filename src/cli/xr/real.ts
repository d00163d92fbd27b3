/** `rsparse xr run --mode real`: jobs that really run, and the largest rate that is kept. */
import type { RealDetails, RunOptions as XrRunOptions, Scenario } from "../../xr/mod.ts";
import {
  findRate,
  parseBinding,
  parseTier,
  type Probe,
  type RateSearch,
  RealMachine,
  type RealOptions,
  type RealRun,
  RealRunError,
} from "../../xr/real/mod.ts";
import { UsageError } from "../errors.ts";
import { locate } from "../model_option.ts";
import type { CliContext } from "../output.ts";
import { readHardware, refuse } from "./sources.ts";

/** What was typed of real mode's own. */
export interface RealCommandOptions {
  readonly bind?: readonly string[];
  readonly tier?: string;
  readonly accelerators?: number;
  readonly rate?: number;
  readonly maxRate?: boolean;
  readonly target?: number;
  readonly model?: string;
  readonly recipe?: string;
  readonly setting?: string;
  readonly hardware?: string;
}

/** What a real run came to; with an error where all accelerators were lost, or with what was found of rates. */
export interface RealMade {
  readonly made: RealRun;
  readonly search: RateSearch | null;
  readonly failure: RealRunError | null;
}

/** Runs a scenario really; null where Ctrl-C ended it. */
export async function runReally(
  context: CliContext,
  scenario: Scenario,
  choices: XrRunOptions,
  options: RealCommandOptions,
): Promise<RealMade | null> {
  refuse(
    options,
    ["policy", "eMax", "switch"],
    "a real run has neither costs nor energy, and none of the harness's defects",
  );
  if (options.maxRate && options.rate !== undefined) {
    throw new UsageError("Cannot take --rate with --max-rate: it is what is searched for");
  }
  if (options.target !== undefined && !options.maxRate) {
    throw new UsageError("Cannot take --target: it says what --max-rate has to keep");
  }
  const durationMs = choices.durationMs ?? scenario.durationMs, { signal } = context;
  try {
    const machine = await RealMachine.open(scenario, await realOptions(context, choices, options));
    try {
      if (!options.maxRate) {
        return { made: await machine.run({ durationMs, rate: options.rate }), search: null, failure: null };
      }
      const each = ({ rate, hitRate, worst }: Probe): void =>
        context.note(
          `rate ${rate.toFixed(3)}: hit rate ${(100 * hitRate).toFixed(1)} %${
            worst === null ? "" : `, ${worst}`
          }`,
        );
      const { search, best } = await findRate(machine, { durationMs, target: options.target, each });
      if (best !== null) return { made: best, search, failure: null };
      throw new Error(
        `Cannot keep a hit rate of ${100 * search.target} % of every model at any rate down to ${
          search.probes.at(-1)!.rate
        }: bind what is too slow to something else, or lower --target`,
      );
    } finally {
      await machine.close();
    }
  } catch (error) {
    if (signal.aborted) return null;
    if (error instanceof RealRunError) return { made: error.run, search: null, failure: error };
    throw error;
  }
}

async function realOptions(
  context: CliContext,
  { seed, order, maxJitterMs, k, dials = [] }: XrRunOptions,
  { bind = [], tier, accelerators, setting, hardware, model, recipe }: RealCommandOptions,
): Promise<RealOptions> {
  const asked = (name: string, text: string, read: () => unknown): void => {
    try {
      read();
    } catch (error) {
      throw new UsageError(`Cannot take --${name} ${text}: ${(error as Error).message}`, { cause: error });
    }
  };
  const bindings = bind.map((text) => {
    const [, name, binding] = /^([^=]+)=(.+)$/s.exec(text) ?? [];
    if (name === undefined) {
      throw new UsageError(
        `Cannot take --bind ${text}: MODEL=KIND wanted, KIND null, declared, shape or real`,
      );
    }
    asked("bind", text, () => parseBinding(binding!));
    return [name, parseBinding(binding!)] as const;
  });
  if (tier !== undefined) asked("tier", tier, () => parseTier(tier));
  const source = async (name: string): Promise<string> => {
    // fetched here, where there are progress and Ctrl-C
    await locate(context, name);
    return name;
  };
  return {
    bindings: await Promise.all(bindings.map(async ([name, binding]) =>
      [
        name,
        binding.kind === "real" && binding.model !== null
          ? { ...binding, model: await source(binding.model) }
          : binding,
      ] as const
    )),
    ...(tier !== undefined && { tier: parseTier(tier) }),
    ...(model !== undefined && { model: await source(model) }),
    recipe,
    dials: Object.fromEntries(dials.map(({ model: name, name: policy, table: { levels } }) => {
      if (policy === "layer") {
        throw new UsageError(
          "Cannot take --dial layer in real mode, which chooses as tokens begin: `rsparse xr dial --real` runs it",
        );
      }
      return [name, { policy, levels }];
    })),
    accelerators,
    setting,
    hardware: await readHardware(context, hardware),
    seed,
    order,
    maxJitterMs,
    k,
    signal: context.signal,
  };
}

/** What is said of a real run beside its scores. */
export function realLines(real: RealDetails, search: RateSearch | null): string[] {
  const { scheduleErrorMs: error, clockGaps: gaps, replay } = real;
  const bound = Object.entries(real.bindings).map(([name, { binding, macs, expectedMs }]) =>
    `${name} ${binding}${macs === null ? "" : ` (${(macs / 1e9).toFixed(3)} GMAC)`}, ${
      Math.min(...expectedMs).toFixed(3)
    } ms`
  );
  return [
    `tier ${real.tier}, rate ${real.rate}; energy ${real.energy}`,
    ...bound.map((line) => `bound: ${line}`),
    ...real.noSharedMemory === null ? [] : [`one accelerator, driven by messages: ${real.noSharedMemory}`],
    ...error === null ? [] : [
      `schedule kept to p50 ${error.p50.toFixed(3)} p99 ${error.p99.toFixed(3)} max ${
        error.max.toFixed(3)
      } ms; a thread that only reads the clock loses ${
        (100 * gaps.share).toFixed(1)
      } % of its time here, up to ${gaps.longestMs.toFixed(3)} ms at once`,
    ],
    ...replay === null || replay.differenceMs === null ? [] : [
      `simulated with the measured latencies: completions differ by p50 ${
        replay.differenceMs.p50.toFixed(3)
      } p99 ${replay.differenceMs.p99.toFixed(3)} ms, ${replay.otherFrames} frames run in one of both only`,
    ],
    ...real.accelerators.flatMap(({ lost }, i) =>
      lost === null ? [] : [
        `accelerator ${i} was lost at ${lost.atMs.toFixed(1)} ms: ${lost.reason}` +
        (lost.job === null ? "" : `, with frame ${lost.job.frame} of ${lost.job.model}`),
      ]
    ),
    ...search === null ? [] : [
      `largest rate at which every model keeps ${100 * search.target} %: ${search.rate.toFixed(3)}`,
    ],
  ];
}
