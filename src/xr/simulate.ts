/**
 * The simulator: requests, queues, accelerators that are not preempted, and dispatch; with all switches on the published harness to the bit, with all off the
 * corrected rules, and anything between.
 *
 * Ties are what makes it exact. Models are looked at in the order of their names' bytes, accelerators in the order of their numbers; at each event frames
 * enter, jobs retire, queued frames are dropped, jobs are dispatched, in this order.
 */
import type { Executor, Job, JobCost } from "./executor.ts";
import { ArrivalLoad, drawFrames, EventLoad, type Frame, type Load, type LoadOptions } from "./load.ts";
import type { LogEntry, Reason, Request } from "./log.ts";
import { compareNames } from "./names.ts";
import { type Scenario, upstreamOf } from "./scenario.ts";

/** Who is served first: models in the order of their names, one request each in turn; the least deadline; the least slack. */
export type Order = "name" | "edf" | "slack";

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
  readonly queued: Frame;
  readonly job: Job;
  readonly endMs: number;
  readonly cost: JobCost;
}

/** What has become of a frame; one that never entered, or not yet, has nothing. */
type Fate = "lost" | "done" | "dropped";

/** Jobs that are over so much later retire all the same, where the harness's margin is on. */
const RETIRE_MARGIN_MS = 0.01;

/**
 * Simulates a scenario on accelerators.
 *
 * @throws {RangeError} If models joined by an edge have different rates where frames are matched by number, or the load has too many frames.
 */
export function simulate(scenario: Scenario, executor: Executor, options: SimulationOptions): Simulation {
  return new Simulator(scenario, executor, options).run();
}

class Simulator {
  readonly #scenario: Scenario;
  readonly #executor: Executor;
  readonly #options: SimulationOptions;
  readonly #load: Load;
  readonly #upstream: readonly (readonly number[])[];
  /** Numbers of the models in the order of their names. */
  readonly #byName: readonly number[];
  readonly #round: (x: number) => number;
  /** By model, in the order of frames. */
  readonly #queues: Frame[][];
  /** By accelerator; null where it is idle. */
  readonly #running: (Running | null)[];
  readonly #fates: Map<number, Fate>[];
  /** Frames of each model that were executed. */
  readonly #completed: number[];
  readonly #log: LogEntry[] = [];
  readonly #requests: Request[] = [];

  constructor(scenario: Scenario, executor: Executor, options: SimulationOptions) {
    const { models } = scenario, { switches } = options;
    this.#scenario = scenario;
    this.#executor = executor;
    this.#options = options;
    this.#upstream = upstreamOf(scenario);
    this.#byName = models.map((_, i) => i).sort((a, b) => compareNames(models[a]!.name, models[b]!.name));
    this.#round = switches.float32 ? Math.fround : (x) => x;
    this.#queues = models.map(() => []);
    this.#running = Array.from({ length: executor.accelerators }, () => null);
    this.#fates = models.map(() => new Map());
    this.#completed = models.map(() => 0);
    checkRates(scenario, options);
    this.#load = loadOf(scenario, options);
  }

  run(): Simulation {
    const { stopEarly } = this.#options.switches, load = this.#load;
    for (
      let t = load.firstMs;
      t < Infinity && (load.isPending || (!stopEarly && this.#isBusy()));
      t = this.#next()
    ) {
      load.inject(t, (frame) => this.#enter(frame), (model, frame) => this.#fates[model]!.set(frame, "lost"));
      this.#retire(t);
      this.#drop(t);
      while (this.#dispatch(t));
    }
    if (!stopEarly) this.#flush();
    return { log: this.#log, requests: this.#requests };
  }

  #isBusy(): boolean {
    return this.#queues.some((queue) => queue.length > 0) || this.#running.some((job) => job !== null);
  }

  /** The next tick or arrival, or the end of a job. */
  #next(): number {
    return this.#running.reduce((t, job) => job === null ? t : Math.min(t, job.endMs), this.#load.nextMs);
  }

  #enter(frame: Frame): void {
    const queue = this.#queues[frame.model]!;
    let at = queue.length;
    while (at > 0 && queue[at - 1]!.frame > frame.frame) at--;
    queue.splice(at, 0, frame);
    this.#requests.push({
      model: this.#scenario.models[frame.model]!.name,
      frame: frame.frame,
      arrivalMs: frame.injectionMs,
      deadlineMs: frame.deadlineMs,
    });
  }

  #retire(t: number): void {
    const now = this.#options.switches.retireMargin ? this.#round(t + this.#round(RETIRE_MARGIN_MS)) : t;
    this.#running.forEach((running, accelerator) => {
      if (running === null || running.endMs > now) return;
      const { queued: { model, frame, injectionMs, deadlineMs }, job, endMs, cost } = running;
      this.#running[accelerator] = null;
      this.#executor.ended?.(job, endMs);
      this.#completed[model]!++;
      this.#fates[model]!.set(frame, "done");
      this.#log.push({
        model: this.#scenario.models[model]!.name,
        frame,
        accelerator,
        injectionMs,
        dispatchMs: job.nowMs,
        deadlineMs,
        completionMs: endMs,
        energyMJ: cost.energyMJ,
        dropped: false,
        reason: "",
        ...(cost.accuracy !== undefined && { accuracy: cost.accuracy }),
      });
    });
  }

  /** Drops until nothing changes: what is dropped may have others dropped, whose names come before its own. */
  #drop(t: number): void {
    const { headOnly } = this.#options.switches;
    for (let changed = true; changed;) {
      changed = false;
      for (const model of this.#byName) {
        const queue = this.#queues[model]!;
        for (const queued of headOnly ? queue.slice(0, 1) : [...queue]) {
          const reason = this.#reasonToDrop(queued, t);
          if (reason === "") continue;
          this.#discard(queued, t, reason);
          changed = true;
        }
      }
    }
  }

  /** A frame that is late and has lost its upstream frame counts as the latter. */
  #reasonToDrop({ model, frame, deadlineMs }: Frame, t: number): Reason {
    const isGone = !this.#options.switches.noCascade && this.#upstream[model]!.some((other) => {
      const fate = this.#fates[other]!.get(frame);
      return fate === "dropped" || fate === "lost";
    });
    if (isGone) return "upstream";
    return deadlineMs < t ? "late" : "";
  }

  #discard(queued: Frame, t: number, reason: Reason): void {
    const { model, frame, injectionMs, deadlineMs } = queued, queue = this.#queues[model]!;
    queue.splice(queue.indexOf(queued), 1);
    this.#fates[model]!.set(frame, "dropped");
    this.#log.push({
      model: this.#scenario.models[model]!.name,
      frame,
      accelerator: -1,
      injectionMs,
      dispatchMs: t,
      deadlineMs,
      completionMs: t,
      energyMJ: 0,
      dropped: true,
      reason,
    });
  }

  /** One pass over the models, a request each; or the one request that comes first. Returns whether anything was dispatched. */
  #dispatch(t: number): boolean {
    if (this.#options.order !== "name") {
      const first = this.#first();
      return first !== null && this.#start(first, t);
    }
    let started = false;
    for (const model of this.#byName) {
      const candidate = this.#candidate(model);
      if (candidate !== null && this.#start(candidate, t)) started = true;
    }
    return started;
  }

  /** Of all candidates the one with the least deadline or slack; of equals the first by name. */
  #first(): Frame | null {
    let first: Frame | null = null, least = Infinity;
    for (const model of this.#byName) {
      const candidate = this.#candidate(model);
      if (candidate === null) continue;
      const key = candidate.deadlineMs - (this.#options.order === "slack" ? this.#bestMs(model) : 0);
      if (first === null || key < least) [first, least] = [candidate, key];
    }
    return first;
  }

  /** What a model takes on the fastest idle accelerator. */
  #bestMs(model: number): number {
    return this.#running.reduce(
      (best, job, accelerator) =>
        job === null ? Math.min(best, this.#executor.expectedMs(model, accelerator)) : best,
      Infinity,
    );
  }

  /** The lowest queued frame that waits for nothing, or the head if it does not. */
  #candidate(model: number): Frame | null {
    const queue = this.#queues[model]!, isHead = this.#options.switches.headOnly;
    return (isHead ? queue.slice(0, 1) : queue).find((queued) => this.#isRunnable(queued)) ?? null;
  }

  #isRunnable({ model, frame }: Frame): boolean {
    return this.#upstream[model]!.every((other) =>
      this.#options.switches.countDependency
        ? this.#completed[other]! > frame
        : this.#fates[other]!.get(frame) === "done"
    );
  }

  /** Runs a request on the preferred idle accelerator. Returns false where there is none. */
  #start(queued: Frame, t: number): boolean {
    const { model, frame, deadlineMs } = queued;
    let accelerator = -1, least = Infinity;
    this.#running.forEach((job, i) => {
      if (job !== null) return;
      const preference = this.#executor.preference(model, frame, i);
      if (accelerator < 0 || preference < least) [accelerator, least] = [i, preference];
    });
    if (accelerator < 0) return false;
    const queue = this.#queues[model]!;
    queue.splice(queue.indexOf(queued), 1);
    const job = { model, frame, accelerator, nowMs: t, deadlineMs, waiting: () => this.#heads() };
    const cost = this.#executor.run(job);
    this.#running[accelerator] = {
      queued,
      job,
      endMs: this.#round(t + this.#round(cost.latencyMs)),
      cost: { ...cost, energyMJ: this.#round(cost.energyMJ) },
    };
    return true;
  }

  #heads(): Frame[] {
    return this.#byName.flatMap((model) => this.#queues[model]!.slice(0, 1));
  }

  /** Drops what still waits when nothing more can happen: for an upstream frame that was dropped, where dependents are not. */
  #flush(): void {
    const left = this.#byName.flatMap((model) => this.#queues[model]!);
    for (const queued of left.sort((a, b) => a.deadlineMs - b.deadlineMs)) {
      this.#discard(queued, queued.deadlineMs, "late");
    }
  }
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
