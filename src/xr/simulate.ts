/**
 * The simulator: requests, queues, accelerators that are not preempted, and dispatch; with all switches on the published harness to the bit, with all off the
 * corrected rules, and anything between.
 *
 * Ties are what makes it exact. Models are looked at in the order of their names' bytes, accelerators in the order of their numbers; at each event frames
 * enter, jobs retire, queued frames are dropped, jobs are dispatched, in this order.
 */
import type { Executor, Job, JobCost, WaitingFrame } from "./executor.ts";
import { ArrivalLoad, drawFrames, EventLoad, type Frame, type Load, type LoadOptions } from "./load.ts";
import type { LogEntry, Reason, Request } from "./log.ts";
import { compareNames } from "./names.ts";
import { droppedTokens, isGivenUp, type Reply, tokenDeadlineMs, tokenNumber } from "./reply.ts";
import { type Scenario, upstreamOf } from "./scenario.ts";
import { namesOn, type Switches, type SwitchName } from "./switches.ts";

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

/** A reply that has begun: one for each model at most. */
interface Talk {
  readonly reply: Reply;
  /** The reply itself; it was ready at its `injectionMs`. */
  readonly frame: Frame;
  /** The token that runs, or comes next. */
  token: number;
  /** Whether it runs. */
  isRunning: boolean;
}

/** What has become of a frame; one that never entered, or not yet, has nothing. */
type Fate = "lost" | "done" | "dropped";

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
  /** By model; null where no reply runs. */
  readonly #talks: (Talk | null)[];
  /** Replies in queues that wait for no upstream frame. */
  readonly #ready = new Set<Frame>();
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
    this.#talks = models.map(() => null);
    checkReplies(scenario, switches);
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
      this.#makeReady(t);
      this.#drop(t);
      while (this.#dispatch(t));
    }
    if (!stopEarly) this.#flush();
    return { log: this.#log, requests: this.#requests };
  }

  #isBusy(): boolean {
    return this.#queues.some((queue) => queue.length > 0) || this.#talks.some((talk) => talk !== null) ||
      this.#running.some((job) => job !== null);
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
      const talk = this.#talks[model]!;
      this.#running[accelerator] = null;
      this.#executor.ended?.(job, endMs);
      if (talk === null) {
        this.#completed[model]!++;
        this.#fates[model]!.set(frame, "done");
      }
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
        ...(cost.sparsity !== undefined && { sparsity: cost.sparsity }),
      });
      if (talk !== null) this.#tokenEnded(talk, endMs, deadlineMs);
    });
  }

  /** The next token may begin, unless it was the last, or the rest is given up. */
  #tokenEnded(talk: Talk, endMs: number, deadlineMs: number): void {
    const { reply, frame: { model, frame, injectionMs } } = talk;
    talk.token++;
    talk.isRunning = false;
    const isGone = isGivenUp(reply, endMs, deadlineMs) && talk.token < reply.tokens;
    if (isGone) this.#logDropped(model, reply, frame, talk.token, injectionMs, endMs, "late");
    if (!isGone && talk.token < reply.tokens) return;
    this.#talks[model] = null;
    this.#completed[model]!++;
    this.#fates[model]!.set(frame, isGone ? "dropped" : "done");
  }

  #logDropped(
    model: number,
    settings: Reply,
    reply: number,
    token: number,
    readyMs: number,
    nowMs: number,
    reason: Reason,
  ): void {
    const { name } = this.#scenario.models[model]!;
    this.#log.push(...droppedTokens(name, settings, { reply, token, readyMs, nowMs, reason }));
  }

  /** Replies whose upstream frames are done have deadlines from now on. */
  #makeReady(t: number): void {
    this.#scenario.models.forEach(({ reply }, model) => {
      if (reply === undefined) return;
      const queue = this.#queues[model]!;
      queue.forEach((queued, i) => {
        if (this.#ready.has(queued) || !this.#isRunnable(queued)) return;
        const ready = { ...queued, injectionMs: t, deadlineMs: tokenDeadlineMs(reply, t, 0) };
        queue[i] = ready;
        this.#ready.add(ready);
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
  #reasonToDrop(queued: Frame, t: number): Reason {
    const { model, frame, deadlineMs } = queued;
    const isGone = !this.#options.switches.noCascade && this.#upstream[model]!.some((other) => {
      const fate = this.#fates[other]!.get(frame);
      return fate === "dropped" || fate === "lost";
    });
    if (isGone) return "upstream";
    // before it is ready it has no deadline
    if (this.#scenario.models[model]!.reply !== undefined && !this.#ready.has(queued)) return "";
    return deadlineMs < t ? "late" : "";
  }

  #discard(queued: Frame, t: number, reason: Reason): void {
    const { model, frame, injectionMs, deadlineMs } = queued, queue = this.#queues[model]!;
    queue.splice(queue.indexOf(queued), 1);
    this.#fates[model]!.set(frame, "dropped");
    const { reply } = this.#scenario.models[model]!;
    if (reply !== undefined) return this.#logDropped(model, reply, frame, 0, injectionMs, t, reason);
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

  /** The lowest queued frame that waits for nothing, or the head if it does not; of a reply that has begun the next token. */
  #candidate(model: number): Frame | null {
    const talk = this.#talks[model]!;
    if (talk !== null) return talk.isRunning ? null : tokenOf(talk);
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
    const { model } = queued, { reply } = this.#scenario.models[model]!;
    const frame = reply !== undefined && this.#talks[model] === null
      ? tokenNumber(reply, queued.frame, 0)
      : queued.frame;
    let accelerator = -1, least = Infinity;
    this.#running.forEach((job, i) => {
      if (job !== null) return;
      const preference = this.#executor.preference(model, frame, i);
      if (accelerator < 0 || preference < least) [accelerator, least] = [i, preference];
    });
    if (accelerator < 0) return false;
    const talk = this.#take(queued), started = talk === null ? queued : tokenOf(talk);
    const job: Job = {
      model,
      frame: started.frame,
      ...(talk !== null && { token: talk.token, reply: talk.frame.frame }),
      accelerator,
      nowMs: t,
      deadlineMs: started.deadlineMs,
      waiting: () => this.#waiting(talk),
    };
    const cost = this.#executor.run(job);
    this.#running[accelerator] = {
      queued: started,
      job,
      endMs: this.#round(t + this.#round(cost.latencyMs)),
      cost: { ...cost, energyMJ: this.#round(cost.energyMJ) },
    };
    return true;
  }

  /** Takes what begins out of its queue, unless its reply runs already. Returns the reply; null for a frame. */
  #take(queued: Frame): Talk | null {
    const { model } = queued, { reply } = this.#scenario.models[model]!;
    let talk = this.#talks[model]!;
    if (talk === null) {
      const queue = this.#queues[model]!;
      queue.splice(queue.indexOf(queued), 1);
      if (reply === undefined) return null;
      this.#ready.delete(queued);
      talk = this.#talks[model] = { reply, frame: queued, token: 0, isRunning: true };
    }
    talk.isRunning = true;
    return talk;
  }

  /** What waits while a job begins: the rest of its own reply, then what is first in line of each model. */
  #waiting(own: Talk | null): WaitingFrame[] {
    const rest = own === null
      ? []
      : Array.from({ length: own.reply.tokens - own.token - 1 }, (_, i) =>
        waitingToken(own, own.token + 1 + i));
    return [
      ...rest,
      ...this.#byName.flatMap((model): WaitingFrame[] => {
        const talk = this.#talks[model]!;
        const { reply } = this.#scenario.models[model]!;
        const head = this.#queues[model]!.filter((queued) => reply === undefined || this.#ready.has(queued))
          .slice(0, 1).map((queued) =>
            reply === undefined
              ? queued
              : { ...queued, reply: { tokens: reply.tokens, periodMs: 1000 / reply.tokenRate } }
          );
        return talk === null || talk === own || talk.isRunning
          ? head
          : [waitingToken(talk, talk.token), ...head];
      }),
    ];
  }

  /** Drops what still waits when nothing more can happen: for an upstream frame that was dropped, where dependents are not. */
  #flush(): void {
    const left = this.#byName.flatMap((model) => this.#queues[model]!);
    for (const queued of left.sort((a, b) => a.deadlineMs - b.deadlineMs)) {
      this.#discard(queued, queued.deadlineMs, "late");
    }
  }
}

/** The token that comes next, as a frame; it came when its reply was ready. */
function tokenOf({ reply, frame, token }: Talk): Frame {
  return {
    ...frame,
    frame: tokenNumber(reply, frame.frame, token),
    deadlineMs: tokenDeadlineMs(reply, frame.injectionMs, token),
  };
}

function waitingToken({ reply, frame: { model, frame, injectionMs } }: Talk, token: number): WaitingFrame {
  return {
    model,
    frame: tokenNumber(reply, frame, token),
    token,
    deadlineMs: tokenDeadlineMs(reply, injectionMs, token),
  };
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
