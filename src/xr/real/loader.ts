/** The loader's decisions: when frames enter, what is dropped, and who runs what; without a clock or threads of its own. */
import { LatencyTable, type Level } from "../../deadline/levels.ts";
import { createPolicy, type Policy } from "../../deadline/policy.ts";
import { waitingBeside } from "../executor.ts";
import type { Frame } from "../load.ts";
import type { LogEntry, Request } from "../log.ts";
import { type Order, Queues, type Started } from "../queues.ts";
import type { Scenario } from "../scenario.ts";
import { switchesOfMode } from "../switches.ts";
import type { JobEntry } from "./board.ts";

/** A model whose sparsity a policy chooses, frame by frame. */
export interface RealDial {
  /** The model's number. */
  readonly model: number;
  /** As `createPolicy` has it. */
  readonly policy: string;
  /** Levels with their fidelity, which is the accuracy of a frame. */
  readonly levels: readonly (Omit<Level, "latencyMs"> & Partial<Pick<Level, "latencyMs">>)[];
}

/** What a loader is made of. */
export interface LoaderSetup {
  readonly scenario: Scenario;
  /** By arrival. */
  readonly frames: readonly Frame[];
  readonly order: Order;
  /** What models are expected to take: by accelerator, then by model. */
  readonly expectedMs: readonly (readonly number[])[];
  readonly dials: readonly RealDial[];
  /** Of the real-time score, for policies. */
  readonly k: number;
}

/** A job that is over, by the loader's clock. */
export interface Ended {
  readonly accelerator: number;
  readonly startMs: number;
  readonly endMs: number;
}

/** What is known of a job, in ms. */
export interface JobRecord {
  readonly model: string;
  readonly frame: number;
  readonly accelerator: number;
  /** When it was to enter, and did. */
  readonly arrivalMs: number;
  readonly injectionMs: number;
  /** When it was handed over, began, ended, and the loader knew. */
  readonly dispatchMs: number;
  readonly startMs: number;
  readonly endMs: number;
  readonly noticedMs: number;
  /** What a policy chose; null where none does. */
  readonly sparsity: number | null;
}

/** An accelerator that was lost. */
export interface Loss {
  readonly accelerator: number;
  readonly atMs: number;
  readonly reason: string;
  /** What ran on it. */
  readonly job: { readonly model: string; readonly frame: number } | null;
}

/** What a loader leaves. */
export interface LoaderRecord {
  readonly log: readonly LogEntry[];
  readonly requests: readonly Request[];
  /** In the order in which the loader knew of their end. */
  readonly jobs: readonly JobRecord[];
  readonly losses: readonly Loss[];
  /** Injection minus arrival of every frame. */
  readonly errorsMs: readonly number[];
}

/** A job that is on an accelerator. */
interface Sent {
  readonly frame: Frame;
  readonly token: number | null;
  readonly arrivalMs: number;
  readonly dispatchMs: number;
  readonly level: number | null;
}

/** Goes through a load as time passes. */
export class Loader {
  readonly #setup: LoaderSetup;
  readonly #queues: Queues;
  readonly #send: (accelerator: number, job: JobEntry) => void;
  readonly #sent: (Sent | null)[];
  readonly #isLost: boolean[];
  readonly #dials: ReadonlyMap<number, { readonly table: LatencyTable; readonly policy: Policy }>;
  /** By model, then frame or reply: when it was to enter. */
  readonly #arrivals: readonly Map<number, number>[];
  /** By model with replies: the accelerator that has the one that runs, and so its cache; null where none runs. */
  readonly #homes: (number | null)[];
  #next = 0;
  /** Frames have entered of which nothing was made yet. */
  hasEntered = false;
  /** In the order in which the loader knew of their end. */
  readonly jobs: JobRecord[] = [];
  readonly losses: Loss[] = [];
  /** Injection minus arrival of every frame. */
  readonly errorsMs: number[] = [];

  constructor(setup: LoaderSetup, send: (accelerator: number, job: JobEntry) => void) {
    const { scenario, expectedMs, order, dials, k } = setup;
    this.#setup = setup;
    this.#send = send;
    this.#sent = expectedMs.map(() => null);
    this.#isLost = expectedMs.map(() => false);
    this.#arrivals = scenario.models.map(() => new Map());
    this.#homes = scenario.models.map(() => null);
    this.#queues = new Queues(scenario, {
      accelerators: expectedMs.length,
      expectedMs: (model, accelerator) => expectedMs[accelerator]![model]!,
      preference: (model, _, accelerator) => {
        const home = this.#homes[model]!;
        return home !== null && home !== accelerator ? Infinity : expectedMs[accelerator]![model]!;
      },
    }, { order, switches: switchesOfMode("real") });
    this.#dials = new Map(dials.map(({ model, levels, policy }) => {
      const table = new LatencyTable(levels);
      return [model, { table, policy: createPolicy(policy, table, { k }) }];
    }));
  }

  /** A line for each frame that was executed or dropped. */
  get log(): readonly LogEntry[] {
    return this.#queues.log;
  }

  /** What entered. */
  get requests(): readonly Request[] {
    return this.#queues.requests;
  }

  /** All that it noted, which can go to another thread. */
  get record(): LoaderRecord {
    const { log, requests, jobs, losses, errorsMs } = this;
    return { log, requests, jobs, losses, errorsMs };
  }

  /** When the next frame is to enter; Infinity where none is. */
  get nextMs(): number {
    return this.#setup.frames[this.#next]?.injectionMs ?? Infinity;
  }

  /** Whether nothing is left to come or to end. */
  get isOver(): boolean {
    return !this.hasEntered && this.nextMs === Infinity && this.#sent.every((sent) => sent === null);
  }

  /** Whether an accelerator is left. */
  get isAlive(): boolean {
    return this.#isLost.includes(false);
  }

  /** How long an accelerator has had its job; 0 where it has none. */
  runningMs(accelerator: number, nowMs: number): number {
    const sent = this.#sent[accelerator];
    return sent == null ? 0 : nowMs - sent.dispatchMs;
  }

  /** Lets frames enter that are due. */
  enter(nowMs: number): void {
    const { frames } = this.#setup;
    for (; this.nextMs <= nowMs; this.#next++) {
      const { injectionMs: arrivalMs, ...frame } = frames[this.#next]!;
      const entered = { ...frame, injectionMs: nowMs };
      this.#arrivals[frame.model]!.set(frame.frame, arrivalMs);
      this.#queues.enter(entered, arrivalMs);
      this.errorsMs.push(nowMs - arrivalMs);
      this.hasEntered = true;
    }
  }

  /** Does all that is due: frames enter, jobs end, late frames are dropped, others are handed over. */
  step(nowMs: number, ended: readonly Ended[], lost: readonly Pick<Loss, "accelerator" | "reason">[]): void {
    this.enter(nowMs);
    this.hasEntered = false;
    for (const job of ended) this.#retire(job, nowMs);
    for (const { accelerator, reason } of lost) this.#remove(accelerator, nowMs, reason);
    if (!this.isAlive) return this.#giveUp(nowMs);
    this.#queues.makeReady(nowMs);
    this.#queues.drop(nowMs);
    this.#queues.dispatch(nowMs, (started) => this.#begin(started, nowMs));
    if (this.isOver) this.#queues.flush();
  }

  #begin({ frame, accelerator, token, reply, waiting }: Started, nowMs: number): void {
    const { model, deadlineMs } = frame, dial = token === 0 ? undefined : this.#dials.get(model);
    const level = dial === undefined ? null : dial.policy.choose({
      leftMs: deadlineMs - nowMs,
      waiting: waitingBeside(waiting(), {
        model,
        nowMs,
        latencyOf: (other) => this.#setup.expectedMs[accelerator]![other.model]!,
      }),
    });
    if (token !== undefined) this.#homes[model] = accelerator;
    this.#sent[accelerator] = {
      frame,
      token: token ?? null,
      arrivalMs: this.#arrivals[model]!.get(reply ?? frame.frame)!,
      dispatchMs: nowMs,
      level,
    };
    this.#send(accelerator, {
      model,
      frame: frame.frame,
      sparsity: level === null ? NaN : dial!.table.levels[level]!.sparsity,
      token: token ?? -1,
    });
  }

  #retire({ accelerator, ...times }: Ended, noticedMs: number): void {
    const sent = this.#sent[accelerator];
    if (sent == null) throw new Error(`accelerator ${accelerator} has ended a job that it was not given`);
    this.#sent[accelerator] = null;
    const { frame, token, arrivalMs, dispatchMs, level } = sent, dial = this.#dials.get(frame.model);
    // clocks of two threads agree to some microseconds only
    const startMs = Math.max(times.startMs, dispatchMs), endMs = Math.max(times.endMs, startMs);
    if (level !== null) dial!.policy.observe(level, endMs - startMs, endMs <= frame.deadlineMs);
    const chosen = level === null ? null : dial!.table.levels[level]!;
    this.#queues.retire(accelerator, {
      completionMs: endMs,
      // not measured: the energy score is 1
      energyMJ: 0,
      ...(chosen !== null && { accuracy: chosen.fidelity, sparsity: chosen.sparsity }),
    });
    this.#leaveHome(frame.model, token);
    this.jobs.push({
      model: this.#setup.scenario.models[frame.model]!.name,
      frame: frame.frame,
      accelerator,
      arrivalMs,
      injectionMs: frame.injectionMs,
      dispatchMs,
      startMs,
      endMs,
      noticedMs,
      sparsity: chosen?.sparsity ?? null,
    });
  }

  /** After its last token, or one after which it is cut, a reply's accelerator is anyone's. */
  #leaveHome(model: number, token: number | null): void {
    if (token !== null && !this.#queues.isTalking(model)) this.#homes[model] = null;
  }

  #remove(accelerator: number, atMs: number, reason: string): void {
    if (this.#isLost[accelerator]) return;
    const frame = this.#sent[accelerator]?.frame;
    this.#isLost[accelerator] = true;
    this.#sent[accelerator] = null;
    this.#queues.remove(accelerator, atMs);
    // a reply between two tokens has its cache there
    this.#homes.forEach((home, model) => {
      if (home !== accelerator) return;
      this.#queues.cut(model, atMs);
      this.#homes[model] = null;
    });
    this.losses.push({
      accelerator,
      atMs,
      reason,
      job: frame === undefined
        ? null
        : { model: this.#setup.scenario.models[frame.model]!.name, frame: frame.frame },
    });
  }

  /** With no accelerator left, all that waits or is still to come is lost. */
  #giveUp(nowMs: number): void {
    for (const frame of this.#setup.frames.slice(this.#next)) this.#queues.enter(frame);
    this.#next = this.#setup.frames.length;
    this.#queues.flush("lost", nowMs);
  }
}
