/**
 * The simulator: requests, queues, accelerators that are not preempted, and dispatch; with all switches on the published harness to the bit, with all off the
 * corrected rules, and anything between.
 *
 * At each event frames enter, jobs retire, queued frames are dropped, jobs are dispatched, in this order; `queues.ts` decides the last two.
 */
import type { Executor, Job, JobCost } from "./executor.ts";
import { ArrivalLoad, drawFrames, EventLoad, type Frame, type Load, type LoadOptions } from "./load.ts";
import type { LogEntry, Request } from "./log.ts";
import { type Order, Queues, type Started } from "./queues.ts";
import { type Scenario, upstreamOf } from "./scenario.ts";
import { namesOn, type Switches, type SwitchName } from "./switches.ts";

/** How a scenario is simulated. */
export interface SimulationOptions extends LoadOptions {
  /** Who is served first. */
  readonly order: Order;
  /** Drives the run instead of what is drawn; by arrival, as `drawFrames` gives them. */
  readonly frames?: readonly Frame[];
}

/** What a simulation leaves. */
export interface Simulation {
  /** A line for each frame that was executed or dropped. */
  readonly log: readonly LogEntry[];
  /** All frames that entered, in the order in which they did. */
  readonly requests: readonly Request[];
}

/** A job on an accelerator. */
interface Running {
  readonly job: Job;
  readonly endMs: number;
  readonly cost: JobCost;
}

/** Jobs that are over so much later retire all the same, where the harness's margin is on. */
const RETIRE_MARGIN_MS = 0.01;

/**
 * Simulates a scenario on accelerators.
 *
 * @throws {RangeError} If models joined by an edge have different rates where frames are matched by number, the load has too many frames, or there are replies
 *   with a switch that changes queues or times.
 */
export function simulate(scenario: Scenario, executor: Executor, options: SimulationOptions): Simulation {
  return new Simulator(scenario, executor, options).run();
}

class Simulator {
  readonly #executor: Executor;
  readonly #options: SimulationOptions;
  readonly #load: Load;
  readonly #queues: Queues;
  readonly #round: (x: number) => number;
  /** By accelerator; null where it is idle. */
  readonly #running: (Running | null)[];

  constructor(scenario: Scenario, executor: Executor, options: SimulationOptions) {
    const { switches } = options;
    this.#executor = executor;
    this.#options = options;
    this.#queues = new Queues(scenario, executor, options);
    this.#round = switches.float32 ? Math.fround : (x) => x;
    this.#running = Array.from({ length: executor.accelerators }, () => null);
    checkReplies(scenario, switches);
    checkRates(scenario, options);
    this.#load = loadOf(scenario, options);
  }

  run(): Simulation {
    const { stopEarly } = this.#options.switches, load = this.#load, queues = this.#queues;
    for (
      let t = load.firstMs;
      t < Infinity && (load.isPending || (!stopEarly && queues.isBusy));
      t = this.#next()
    ) {
      load.inject(t, (frame) => queues.enter(frame), (model, frame) => queues.lose(model, frame));
      this.#retire(t);
      queues.makeReady(t);
      queues.drop(t);
      queues.dispatch(t, (started) => this.#begin(started, t));
    }
    if (!stopEarly) queues.flush();
    return { log: queues.log, requests: queues.requests };
  }

  /** The next tick or arrival, or the end of a job. */
  #next(): number {
    return this.#running.reduce((t, job) => job === null ? t : Math.min(t, job.endMs), this.#load.nextMs);
  }

  #retire(t: number): void {
    const now = this.#options.switches.retireMargin ? this.#round(t + this.#round(RETIRE_MARGIN_MS)) : t;
    this.#running.forEach((running, accelerator) => {
      if (running === null || running.endMs > now) return;
      const { job, endMs, cost } = running;
      this.#running[accelerator] = null;
      this.#executor.ended?.(job, endMs);
      this.#queues.retire(accelerator, { ...cost, completionMs: endMs });
    });
  }

  #begin(
    { frame: { model, frame, deadlineMs }, accelerator, token, reply, waiting }: Started,
    t: number,
  ): void {
    const job: Job = {
      model,
      frame,
      ...(token !== undefined && { token, reply }),
      accelerator,
      nowMs: t,
      deadlineMs,
      waiting,
    };
    const cost = this.#executor.run(job);
    this.#running[accelerator] = {
      job,
      endMs: this.#round(t + this.#round(cost.latencyMs)),
      cost: { ...cost, energyMJ: this.#round(cost.energyMJ) },
    };
  }
}

/** Defects that a model with replies may run with: those of scores and draws. */
const WITH_REPLIES: readonly SwitchName[] = [
  "unitOne",
  "jitterUnused",
  "qoeSquared",
  "unclampedEnergy",
  "silentAbsent",
];

/** Replies are an extension of the corrected rules. */
function checkReplies({ models }: Scenario, switches: Switches): void {
  const first = models.findIndex(({ reply }) => reply !== undefined);
  if (first < 0) return;
  const wrong = namesOn(switches).find((name) => !WITH_REPLIES.includes(name));
  if (wrong === undefined) return;
  throw new RangeError(
    `models[${first}].reply: ${
      models[first]!.name
    } answers token by token, which the harness's ${wrong} knows nothing of: --mode corrected wanted`,
  );
}

/** Requests as the switches have them come. */
function loadOf(scenario: Scenario, options: SimulationOptions): Load {
  const { injectAtEvents, eventRandom } = options.switches;
  if (options.frames !== undefined) return new ArrivalLoad(options.frames);
  const frames = eventRandom ? null : drawFrames(scenario, options);
  return frames !== null && !injectAtEvents
    ? new ArrivalLoad(frames)
    : new EventLoad(scenario, options, frames);
}

/** Frames are matched by number unless completions are counted: rates have to be equal then. */
function checkRates({ models }: Scenario, { switches, frames }: SimulationOptions): void {
  const { countDependency, noCascade, eventRandom } = switches;
  if (frames === undefined && countDependency && noCascade && eventRandom) return;
  const upstream = upstreamOf({ models });
  models.forEach(({ name, fps }, model) => {
    for (const other of upstream[model]!) {
      if (models[other]!.fps !== fps) {
        throw new RangeError(
          `models[${model}].fps: ${name} runs at ${fps} and depends on ${
            models[other]!.name
          }, which runs at ${models[other]!.fps}: equal rates wanted where frames are matched by number`,
        );
      }
    }
  });
}
