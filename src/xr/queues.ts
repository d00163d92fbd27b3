/**
 * Who waits, who is dropped and who runs next: what a simulation and a real run decide alike, so that one can be held against the other.
 *
 * Ties are what makes it exact. Models are looked at in the order of their names' bytes, accelerators in the order of their numbers.
 */
import type { Executor } from "./executor.ts";
import type { Frame } from "./load.ts";
import type { LogEntry, Reason, Request } from "./log.ts";
import { compareNames } from "./names.ts";
import { type Scenario, upstreamOf } from "./scenario.ts";
import type { Switches } from "./switches.ts";

/** Who is served first: models in the order of their names, one request each in turn; the least deadline; the least slack. */
export type Order = "name" | "edf" | "slack";

/** How it is decided. */
export interface QueueOptions {
  /** Who is served first. */
  readonly order: Order;
  /** Of the harness's defects those that decide here. */
  readonly switches: Pick<Switches, "headOnly" | "noCascade" | "countDependency">;
}

/** What a job came to. */
export interface Outcome {
  /** When it was done. */
  readonly completionMs: number;
  /** What it took. */
  readonly energyMJ: number;
  /** In [0, 1]; 1 where it is absent. */
  readonly accuracy?: number;
}

/** What has become of a frame; one that never entered, or not yet, has nothing. */
type Fate = "lost" | "done" | "dropped";

/** A frame on an accelerator. */
interface Running {
  readonly queued: Frame;
  readonly dispatchMs: number;
}

/** Queues of models, accelerators that are idle or not, and the log of what became of frames. */
export class Queues {
  readonly #scenario: Scenario;
  readonly #executor: Pick<Executor, "expectedMs" | "preference">;
  readonly #options: QueueOptions;
  readonly #upstream: readonly (readonly number[])[];
  /** Numbers of the models in the order of their names. */
  readonly #byName: readonly number[];
  /** By model, in the order of frames. */
  readonly #queues: Frame[][];
  /** By accelerator; null where it is idle, gone where there is none any more. */
  readonly #running: (Running | "gone" | null)[];
  readonly #fates: Map<number, Fate>[];
  /** Frames of each model that were executed. */
  readonly #completed: number[];
  /** A line for each frame that was executed or dropped. */
  readonly log: LogEntry[] = [];
  /** All frames that entered, in the order in which they did. */
  readonly requests: Request[] = [];

  constructor(
    scenario: Scenario,
    executor: Pick<Executor, "accelerators" | "expectedMs" | "preference">,
    options: QueueOptions,
  ) {
    const { models } = scenario;
    this.#scenario = scenario;
    this.#executor = executor;
    this.#options = options;
    this.#upstream = upstreamOf(scenario);
    this.#byName = models.map((_, i) => i).sort((a, b) => compareNames(models[a]!.name, models[b]!.name));
    this.#queues = models.map(() => []);
    this.#running = Array.from({ length: executor.accelerators }, () => null);
    this.#fates = models.map(() => new Map());
    this.#completed = models.map(() => 0);
  }

  /** Whether a frame waits or runs. */
  get isBusy(): boolean {
    return this.#queues.some((queue) => queue.length > 0) ||
      this.#running.some((job) => job !== null && job !== "gone");
  }

  /** @param arrivalMs when it was to enter, where that is not when it did */
  enter(frame: Frame, arrivalMs: number = frame.injectionMs): void {
    const queue = this.#queues[frame.model]!;
    let at = queue.length;
    while (at > 0 && queue[at - 1]!.frame > frame.frame) at--;
    queue.splice(at, 0, frame);
    this.requests.push({
      model: this.#scenario.models[frame.model]!.name,
      frame: frame.frame,
      arrivalMs,
      deadlineMs: frame.deadlineMs,
    });
  }

  /** Notes a frame that is not asked for after all. */
  lose(model: number, frame: number): void {
    this.#fates[model]!.set(frame, "lost");
  }

  /** Notes the end of the job on an accelerator, which is idle then. */
  retire(accelerator: number, { completionMs, energyMJ, accuracy }: Outcome): void {
    const { queued: { model, frame, injectionMs, deadlineMs }, dispatchMs } = this.#jobOn(accelerator);
    this.#running[accelerator] = null;
    this.#completed[model]!++;
    this.#fates[model]!.set(frame, "done");
    this.log.push({
      model: this.#scenario.models[model]!.name,
      frame,
      accelerator,
      injectionMs,
      dispatchMs,
      deadlineMs,
      completionMs,
      energyMJ,
      dropped: false,
      reason: "",
      ...(accuracy !== undefined && { accuracy }),
    });
  }

  /** Takes an accelerator away for good. The frame that ran on it is dropped: what ended one accelerator might end the next. */
  remove(accelerator: number, t: number): void {
    const running = this.#running[accelerator];
    this.#running[accelerator] = "gone";
    if (running != null && running !== "gone") this.#note(running.queued, t, "lost");
  }

  /** Drops until nothing changes: what is dropped may have others dropped, whose names come before its own. */
  drop(t: number): void {
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

  /** Hands frames to accelerators until none is idle or nothing can run. */
  dispatch(t: number, begin: (frame: Frame, accelerator: number) => void): void {
    while (this.#pass(t, begin));
  }

  /** The heads of all queues, models by name. */
  heads(): Frame[] {
    return this.#byName.flatMap((model) => this.#queues[model]!.slice(0, 1));
  }

  /** Drops what still waits when nothing more can happen: at its deadline, or where `endMs` says when that is then, or as it enters. */
  flush(reason: Reason = "late", endMs?: number): void {
    const left = this.#byName.flatMap((model) => this.#queues[model]!);
    for (const queued of left.sort((a, b) => a.deadlineMs - b.deadlineMs)) {
      const at = endMs === undefined ? queued.deadlineMs : Math.max(endMs, queued.injectionMs);
      this.#discard(queued, at, reason);
    }
  }

  #jobOn(accelerator: number): Running {
    const running = this.#running[accelerator];
    if (running == null || running === "gone") throw new Error(`accelerator ${accelerator} has no job`);
    return running;
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
    const queue = this.#queues[queued.model]!;
    queue.splice(queue.indexOf(queued), 1);
    this.#note(queued, t, reason);
  }

  #note({ model, frame, injectionMs, deadlineMs }: Frame, t: number, reason: Reason): void {
    this.#fates[model]!.set(frame, "dropped");
    this.log.push({
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
  #pass(t: number, begin: (frame: Frame, accelerator: number) => void): boolean {
    if (this.#options.order !== "name") {
      const first = this.#first();
      return first !== null && this.#start(first, t, begin);
    }
    let started = false;
    for (const model of this.#byName) {
      const candidate = this.#candidate(model);
      if (candidate !== null && this.#start(candidate, t, begin)) started = true;
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
  #start(queued: Frame, t: number, begin: (frame: Frame, accelerator: number) => void): boolean {
    const { model, frame } = queued;
    let accelerator = -1, least = Infinity;
    this.#running.forEach((job, i) => {
      if (job !== null) return;
      const preference = this.#executor.preference(model, frame, i);
      if (accelerator < 0 || preference < least) [accelerator, least] = [i, preference];
    });
    if (accelerator < 0) return false;
    const queue = this.#queues[model]!;
    queue.splice(queue.indexOf(queued), 1);
    this.#running[accelerator] = { queued, dispatchMs: t };
    begin(queued, accelerator);
    return true;
  }
}
