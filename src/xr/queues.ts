/**
 * Who waits, who is dropped and who runs next: what a simulation and a real run decide alike, so that one can be held against the other.
 *
 * Ties are what makes it exact. Models are looked at in the order of their names' bytes, accelerators in the order of their numbers.
 */
import type { Executor, WaitingFrame } from "./executor.ts";
import type { Frame } from "./load.ts";
import type { LogEntry, Reason, Request } from "./log.ts";
import { compareNames } from "./names.ts";
import { droppedTokens, isGivenUp, type Reply, tokenDeadlineMs, tokenNumber } from "./reply.ts";
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
  /** At which it ran, where a dial was set. */
  readonly sparsity?: number;
}

/** A frame, or a token of a reply, that begins. */
export interface Started {
  /** A token's number is that among all tokens of its model. */
  readonly frame: Frame;
  readonly accelerator: number;
  /** Of a reply's token, which one it is, from 0. */
  readonly token?: number;
  /** Of a reply's token, the reply's number. */
  readonly reply?: number;
  /** As `Job.waiting`. */
  waiting(): WaitingFrame[];
}

/** What has become of a frame; one that never entered, or not yet, has nothing. */
type Fate = "lost" | "done" | "dropped";

/** A frame on an accelerator. */
interface Running {
  readonly queued: Frame;
  readonly dispatchMs: number;
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
  /** By model; null where no reply runs. */
  readonly #talks: (Talk | null)[];
  /** Replies in queues that wait for no upstream frame. */
  readonly #ready = new Set<Frame>();
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
    this.#talks = models.map(() => null);
  }

  /** Whether a frame waits or runs. */
  get isBusy(): boolean {
    return this.#queues.some((queue) => queue.length > 0) || this.#talks.some((talk) => talk !== null) ||
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
  retire(accelerator: number, { completionMs, energyMJ, accuracy, sparsity }: Outcome): void {
    const { queued: { model, frame, injectionMs, deadlineMs }, dispatchMs } = this.#jobOn(accelerator);
    const talk = this.#talks[model]!;
    this.#running[accelerator] = null;
    if (talk === null) this.#settle(model, frame, "done");
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
      ...(sparsity !== undefined && { sparsity }),
    });
    if (talk !== null) this.#tokenEnded(talk, completionMs, deadlineMs);
  }

  /** The next token may begin, unless it was the last, or the rest is given up. */
  #tokenEnded(talk: Talk, endMs: number, deadlineMs: number): void {
    talk.token++;
    talk.isRunning = false;
    if (talk.token === talk.reply.tokens) this.#endTalk(talk, "done");
    else if (isGivenUp(talk.reply, endMs, deadlineMs)) this.#cutTalk(talk, endMs, "late");
  }

  /** The tokens of a reply that are left are dropped. */
  #cutTalk(talk: Talk, t: number, reason: Reason): void {
    const { reply, frame: { model, frame, injectionMs }, token } = talk;
    this.#noteReply(model, reply, { reply: frame, token, readyMs: injectionMs, nowMs: t, reason });
    this.#endTalk(talk, "dropped");
  }

  #endTalk({ frame: { model, frame } }: Talk, fate: Fate): void {
    this.#talks[model] = null;
    this.#settle(model, frame, fate);
  }

  #settle(model: number, frame: number, fate: Fate): void {
    // replies that were cut count as executed where completions are counted
    this.#completed[model]!++;
    this.#fates[model]!.set(frame, fate);
  }

  #noteReply(model: number, settings: Reply, from: Parameters<typeof droppedTokens>[2]): void {
    this.log.push(...droppedTokens(this.#scenario.models[model]!.name, settings, from));
  }

  /** Replies whose upstream frames are done have deadlines from now on. */
  makeReady(t: number): void {
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

  /** Takes an accelerator away for good. The frame that ran on it is dropped: what ended one accelerator might end the next. */
  remove(accelerator: number, t: number): void {
    const running = this.#running[accelerator];
    this.#running[accelerator] = "gone";
    if (running == null || running === "gone") return;
    const talk = this.#talks[running.queued.model]!;
    if (talk === null) this.#note(running.queued, t, "lost");
    else this.#cutTalk(talk, t, "lost");
  }

  /** Whether a reply of a model has begun and not ended. */
  isTalking(model: number): boolean {
    return this.#talks[model] !== null;
  }

  /** Drops what is left of the reply of a model that has begun, if one has. */
  cut(model: number, t: number): void {
    const talk = this.#talks[model];
    if (talk != null) this.#cutTalk(talk, t, "lost");
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
  dispatch(t: number, begin: (started: Started) => void): void {
    while (this.#pass(t, begin));
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
    const queue = this.#queues[queued.model]!;
    queue.splice(queue.indexOf(queued), 1);
    this.#note(queued, t, reason);
  }

  #note({ model, frame, injectionMs, deadlineMs }: Frame, t: number, reason: Reason): void {
    this.#fates[model]!.set(frame, "dropped");
    const { reply } = this.#scenario.models[model]!;
    if (reply !== undefined) {
      const from = { reply: frame, token: 0, readyMs: injectionMs, nowMs: t, reason };
      return this.#noteReply(model, reply, from);
    }
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
  #pass(t: number, begin: (started: Started) => void): boolean {
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
      if (candidate === null || this.#idleFor(candidate) < 0) continue;
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
  #start(queued: Frame, t: number, begin: (started: Started) => void): boolean {
    const accelerator = this.#idleFor(queued);
    if (accelerator < 0) return false;
    const talk = this.#take(queued), frame = talk === null ? queued : tokenOf(talk);
    this.#running[accelerator] = { queued: frame, dispatchMs: t };
    begin({
      frame,
      accelerator,
      ...(talk !== null && { token: talk.token, reply: talk.frame.frame }),
      waiting: () => this.#waiting(talk),
    });
    return true;
  }

  /** The idle accelerator that a candidate prefers, of equals the first; -1 where there is none that it can run on. */
  #idleFor(candidate: Frame): number {
    const { model } = candidate, { reply } = this.#scenario.models[model]!;
    const frame = reply !== undefined && this.#talks[model] === null
      ? tokenNumber(reply, candidate.frame, 0)
      : candidate.frame;
    let accelerator = -1, least = Infinity;
    this.#running.forEach((job, i) => {
      if (job !== null) return;
      const preference = this.#executor.preference(model, frame, i);
      if (preference < least) [accelerator, least] = [i, preference];
    });
    return accelerator;
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
