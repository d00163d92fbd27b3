/** Real runs: jobs that really run, on threads that stand for accelerators, by a schedule that is kept; scored as simulated ones are. */
import { detectPlatform } from "../../platform/detect.ts";
import { builtinModels } from "../builtin.ts";
import type { Hardware } from "../hardware.ts";
import { drawFrames, type Frame } from "../load.ts";
import type { Order } from "../queues.ts";
import {
  type BoundModel,
  percentilesOf,
  type RealAccelerator,
  type RealDetails,
  recordRun,
} from "../recorded.ts";
import { DEFAULT_MAX_JITTER_MS, resultOf, type Run } from "../run.ts";
import type { Scenario } from "../scenario.ts";
import { DEFAULT_K } from "../scores.ts";
import { simulate } from "../simulate.ts";
import { switchesOfMode } from "../switches.ts";
import { replayExecutor, type TraceFile, traceOf } from "../trace.ts";
import { type Binding, bindingText } from "./bindings.ts";
import { checkStep, ROUNDS, stepOf } from "./clock.ts";
import { Crew, type RunRecord, sharingReason } from "./crew.ts";
import type { RealDial } from "./loader.ts";
import { bindModels, declaredMs, worksOf } from "./plan.ts";
import { DEFAULT_TIER, type Tier, tierText, withRate } from "./tiers.ts";

/** How a scenario is really run; what is absent is the specification's. */
export interface RealOptions {
  /** By the model's name, its task in two letters, or `*` for all others; instead of the scenario's own. */
  readonly bindings?: readonly (readonly [model: string, binding: Binding])[];
  /** Default depthwise. */
  readonly tier?: Tier;
  /** How many; default as many as the setting has, or 1. */
  readonly accelerators?: number;
  /** Whose table declared lengths without a number are from. */
  readonly setting?: string;
  /** Where the setting is. */
  readonly hardware?: Hardware;
  /** Of bindings to `real` that name none. */
  readonly model?: string | Blob;
  /** What models of bindings to `real` run sparse by. */
  readonly recipe?: string | Blob;
  /** How they are kept in memory. */
  readonly dtype?: "auto" | "f32" | "bf16" | "int8" | "int4";
  /** Models whose sparsity a policy chooses, by name. */
  readonly dials?: Readonly<Record<string, Omit<RealDial, "model">>>;
  /** Default 1. */
  readonly seed?: number;
  /** Default by name. */
  readonly order?: Order;
  /** Default 0.01. */
  readonly maxJitterMs?: number;
  /** Default 15 a millisecond. */
  readonly k?: number;
  /** A job that takes longer has lost its accelerator, where the runtime does not tell. Default 60,000. */
  readonly patienceMs?: number;
  /** Where the module `rsparse/xr/worker` is: for pages without an import map. */
  readonly workerUrl?: string;
  /** False: as if there were no shared memory. Default true. */
  readonly sharedMemory?: boolean;
  /** Ends the run with the signal's reason. */
  readonly signal?: AbortSignal;
}

/** One run of what is ready. */
export interface RealRunOptions {
  /** Multiplies every rate. Default 1. */
  readonly rate?: number;
  /** Default the scenario's. */
  readonly durationMs?: number;
  /** What is asked for instead of what is drawn; by arrival. */
  readonly frames?: readonly Frame[];
}

/** What a real run came to. */
export interface RealRun extends Run {
  /** For `--replay`, and for other systems. */
  readonly trace: TraceFile;
}

/** A run in which every accelerator was lost. What was recorded until then is kept. */
export class RealRunError extends Error {
  /** Always `"RealRunError"`. */
  override readonly name = "RealRunError";
  /** With all that was recorded; frames that nothing could run are dropped as `lost`. */
  readonly run: RealRun;
  /** `reasons` are of accelerators by number. */
  constructor(run: RealRun, reasons: readonly string[]) {
    super(
      `Cannot go on: every accelerator was lost: ${
        reasons.map((reason, i) => `${i}: ${reason}`).join("; ")
      }: what was recorded until then is kept`,
    );
    this.run = run;
  }
}

const WORKER = "rsparse/xr/worker";
const PATIENCE_MS = 60_000;
const ENERGY = "not measured: the energy score is 1";

/** Accelerators with their models loaded, ready to run. */
export class RealMachine {
  readonly #scenario: Scenario;
  readonly #options: RealOptions;
  readonly #bindings: readonly Binding[];
  readonly #macs: readonly (number | null)[];
  readonly #tier: Tier;
  readonly #crew: Crew;
  readonly #reason: string | null;

  private constructor(
    scenario: Scenario,
    options: RealOptions,
    plan: { bindings: readonly Binding[]; macs: readonly (number | null)[]; tier: Tier },
    crew: Crew,
    reason: string | null,
  ) {
    this.#scenario = scenario;
    this.#options = options;
    this.#bindings = plan.bindings;
    this.#macs = plan.macs;
    this.#tier = plan.tier;
    this.#crew = crew;
    this.#reason = reason;
  }

  /**
   * Starts accelerators and loads what models are bound to.
   *
   * @throws {RangeError} If a model is bound to what it can't be, or the clock is too coarse for k.
   * @throws {Error} If a thread can't start, or can't load its models.
   */
  static async open(scenario: Scenario, options: RealOptions = {}): Promise<RealMachine> {
    const { patienceMs = PATIENCE_MS, k = DEFAULT_K, signal } = options;
    checkStep(stepOf(() => performance.now()), k);
    const models = await builtinModels();
    const bindings = bindModels(scenario, options.bindings ?? [], models);
    const asked = options.tier ?? DEFAULT_TIER;
    const isScaled = bindings.some((binding) => binding.kind === "shape" && binding.divisor > 1);
    const tier = isScaled ? { ...asked, name: "scaled" as const } : asked;
    const reason = sharingReason(options.sharedMemory ?? true);
    const lengths = declaredMs(scenario, bindings, options, reason !== null);
    const { works, macs } = worksOf(scenario, bindings, { ...options, tier: asked }, lengths, models);
    const crew = await Crew.open({
      platform: await detectPlatform(),
      works,
      workerUrl: options.workerUrl ?? import.meta.resolve(WORKER),
      sharedMemory: reason === null,
      patienceMs,
      signal,
    });
    return new RealMachine(scenario, options, { bindings, macs, tier }, crew, reason);
  }

  /** How many accelerators there are. */
  get accelerators(): number {
    return this.#crew.expectedMs.length;
  }

  /**
   * Ends an accelerator as if it had died, so that tests see the run go on.
   *
   * @internal
   * @param jobs how many it is handed before, in the run that is about to begin
   */
  kill(accelerator: number, jobs: number): Promise<void> {
    return this.#crew.kill(accelerator, ROUNDS + jobs);
  }

  /**
   * Runs the scenario once.
   *
   * @throws {RealRunError} If every accelerator was lost.
   * @throws {RangeError} If models joined by an edge have different rates, or the clock is too coarse for k.
   */
  async run(options: RealRunOptions = {}): Promise<RealRun> {
    const { rate = 1 } = options, { seed = 1, order = "name", k = DEFAULT_K } = this.#options;
    const { maxJitterMs = DEFAULT_MAX_JITTER_MS, signal } = this.#options;
    const rated = withRate(this.#scenario, rate / this.#tier.rate);
    const durationMs = options.durationMs ?? this.#scenario.durationMs;
    const scenario = { ...rated, durationMs };
    const switches = switchesOfMode("real");
    const frames = options.frames ?? drawFrames(scenario, { seed, durationMs, maxJitterMs, switches });
    const record = await this.#crew.run({
      scenario,
      frames,
      order,
      expectedMs: this.#crew.expectedMs,
      dials: this.#dials(),
      k,
    }, signal);
    checkStep(record.stepMs, k);
    const run = this.#resultOf(scenario, frames, record, rate);
    const { accelerators } = run.result.real!;
    if (accelerators.every(({ lost }) => lost !== null)) {
      throw new RealRunError(run, accelerators.map(({ lost }) => lost!.reason));
    }
    return run;
  }

  /** Ends the accelerators. */
  close(): Promise<void> {
    return this.#crew.close();
  }

  #dials(): RealDial[] {
    return Object.entries(this.#options.dials ?? {}).map(([name, dial]) => {
      const model = this.#scenario.models.findIndex((other) => other.name === name);
      if (model < 0) {
        throw new RangeError(`dials: ${JSON.stringify(name)} found, a model of the scenario wanted`);
      }
      return { model, ...dial };
    });
  }

  #resultOf(scenario: Scenario, frames: readonly Frame[], record: RunRecord, rate: number): RealRun {
    const { seed = 1, order = "name", k, maxJitterMs = DEFAULT_MAX_JITTER_MS } = this.#options;
    const { log, requests } = record, { durationMs } = scenario, accelerators = this.accelerators;
    const setting = Object.fromEntries(
      scenario.models.map(({ name }, i) => [name, bindingText(this.#bindings[i]!)]),
    );
    const run = resultOf(scenario, { log, requests, accelerators }, {
      mode: "real",
      switches: switchesOfMode("real"),
      durationMs,
      seed,
      order,
      maxJitterMs,
      k,
      setting,
    });
    const trace = {
      ...traceOf(scenario, { requests, log, seed, durationMs, accelerators }),
      // as the accelerator measured them: what lies between is the loader's
      jobs: record.jobs.map(({ model, frame, accelerator, startMs, endMs }) =>
        [model, frame, accelerator, endMs - startMs, 0] as const
      ),
    };
    const replay = record.losses.length > 0 ? null : this.#replayOf(scenario, frames, record, order);
    const details = this.#detailsOf(scenario, record, rate, replay);
    const result = {
      ...run.result,
      replayDifferenceMs: replay?.differenceMs?.max ?? null,
      real: details,
    };
    const whole = { ...run, result };
    return { ...whole, trace: { ...trace, real: recordRun(whole, details) } };
  }

  /** Goes through a run again in the corrected simulator, with the latencies that were measured. */
  #replayOf(
    scenario: Scenario,
    frames: readonly Frame[],
    record: RunRecord,
    order: Order,
  ): NonNullable<RealDetails["replay"]> {
    const numbers = new Map(scenario.models.map(({ name }, i) => [name, i]));
    const jobs = record.jobs.map(({ model, frame, accelerator, startMs, endMs }) => ({
      model: numbers.get(model)!,
      frame,
      accelerator,
      latencyMs: endMs - startMs,
      energyMJ: 0,
    }));
    const { expectedMs } = this.#crew;
    const executor = replayExecutor(
      scenario,
      jobs,
      expectedMs.length,
      scenario.id,
      (model) => Math.min(...expectedMs.map((models) => models[model]!)),
    );
    const { log } = simulate(scenario, executor, {
      seed: 0,
      durationMs: scenario.durationMs,
      maxJitterMs: 0,
      switches: switchesOfMode("corrected"),
      order,
      frames,
    });
    const key = ({ model, frame }: { model: string; frame: number }): string => `${frame} ${model}`;
    const simulated = new Map(log.map((entry) => [key(entry), entry])), differences: number[] = [];
    let otherFrames = 0;
    for (const entry of record.log) {
      const other = simulated.get(key(entry))!;
      if (other.dropped !== entry.dropped) otherFrames++;
      else if (!entry.dropped) differences.push(Math.abs(other.completionMs - entry.completionMs));
    }
    return { differenceMs: percentilesOf(differences), otherFrames };
  }

  #detailsOf(
    scenario: Scenario,
    record: RunRecord,
    rate: number,
    replay: RealDetails["replay"],
  ): RealDetails {
    const { jobs, losses, errorsMs, stepMs, clockErrorMs, gaps } = record, crew = this.#crew;
    return {
      tier: tierText(this.#tier),
      rate,
      hardware: this.#options.setting ?? null,
      noSharedMemory: this.#reason,
      energy: ENERGY,
      clockStepMs: stepMs,
      clockErrorMs,
      clockGaps: gaps,
      bindings: Object.fromEntries(scenario.models.map(({ name }, i): [string, BoundModel] => [name, {
        binding: bindingText(this.#bindings[i]!),
        macs: this.#macs[i]!,
        expectedMs: crew.expectedMs.map((models) => models[i]!),
        info: crew.info[0]![i]!,
      }])),
      accelerators: crew.expectedMs.map((_, i): RealAccelerator => {
        const own = jobs.filter(({ accelerator }) => accelerator === i);
        const loss = losses.find(({ accelerator }) => accelerator === i);
        return {
          jobs: own.length,
          busyMs: own.reduce((sum, { startMs, endMs }) => sum + endMs - startMs, 0),
          lost: loss === undefined ? null : { atMs: loss.atMs, reason: loss.reason, job: loss.job },
        };
      }),
      scheduleErrorMs: percentilesOf(errorsMs),
      handoverMs: percentilesOf(jobs.map(({ dispatchMs, startMs }) => startMs - dispatchMs)),
      noticeMs: percentilesOf(jobs.map(({ endMs, noticedMs }) => noticedMs - endMs)),
      replay,
      jobs: jobs.map((job) => [
        job.model,
        job.frame,
        job.accelerator,
        job.arrivalMs,
        job.injectionMs,
        job.dispatchMs,
        job.startMs,
        job.endMs,
        job.noticedMs,
        job.sparsity,
      ]),
    };
  }
}

/** Runs a scenario once: accelerators are started before and ended after. */
export async function runReal(
  scenario: Scenario,
  options: RealOptions & RealRunOptions = {},
): Promise<RealRun> {
  const machine = await RealMachine.open(scenario, options);
  try {
    return await machine.run(options);
  } finally {
    await machine.close();
  }
}
