/** When frames are asked for: drawn beforehand, drawn event by event as the harness does, or read from a file. */
import { LibcRandom } from "./random.ts";
import { type Scenario, topologicalOrder, upstreamOf } from "./scenario.ts";
import type { Switches } from "./switches.ts";

/** Above it a run would take minutes and its log gigabytes. */
const MAX_FRAMES = 1_000_000;

/** What decides about times: all that a load is drawn from. */
export interface LoadOptions {
  /** Of what is drawn, from 0 to 2147483646. */
  readonly seed: number;
  /** Frames that arrive later are not asked for. */
  readonly durationMs: number;
  /** Width of the jitter: half of it either way. */
  readonly maxJitterMs: number;
  /** What is drawn as the harness does. */
  readonly switches: Switches;
}

/** A frame of a load; `model` is its number in the scenario. */
export interface Frame {
  /** The model's number in the scenario. */
  readonly model: number;
  /** The frame's number. */
  readonly frame: number;
  /** When it enters, or entered. */
  readonly injectionMs: number;
  /** When it should be done. */
  readonly deadlineMs: number;
}

/** Where a simulation's requests come from. */
export interface Load {
  /** Whether frames are still to come. */
  readonly isPending: boolean;
  /** When it begins. */
  readonly firstMs: number;
  /** The next time at which it wants to be asked; Infinity where there is none. */
  readonly nextMs: number;
  /** Hands over what enters at `t`; `lose` is told of frames that are not asked for after all. */
  inject(t: number, enter: (frame: Frame) => void, lose: (model: number, frame: number) => void): void;
}

/** Frames of each model, their arrivals before jitter and deadlines. */
export interface Schedule {
  /** By model. */
  readonly counts: readonly number[];
  arrivalMs(model: number, frame: number): number;
  deadlineMs(model: number, frame: number): number;
}

/**
 * A scenario's schedule.
 *
 * @throws {RangeError} If a rate is above what whole milliseconds allow, or there are more frames than can be simulated.
 */
export function scheduleOf(
  { models }: Scenario,
  { durationMs, switches: { floorPeriods, float32 } }: LoadOptions,
): Schedule {
  const round = float32 ? Math.fround : (x: number): number => x;
  const counts = models.map(({ fps }, i) => {
    if (!floorPeriods) return Math.floor(durationMs * fps / 1000);
    if (fps > 1000) {
      throw new RangeError(
        `models[${i}].fps: ${fps} found: floorPeriods has periods of whole milliseconds, at most 1000 a second`,
      );
    }
    return Math.floor(durationMs / Math.floor(1000 / fps));
  });
  const frames = counts.reduce((a, b) => a + b, 0);
  if (frames > MAX_FRAMES) {
    throw new RangeError(
      `${frames} frames found, at most ${MAX_FRAMES} wanted: shorten the run or lower rates`,
    );
  }
  const at = (model: number, i: number): number => {
    const { fps } = models[model]!;
    return round(floorPeriods ? i * Math.floor(1000 / fps) : i * 1000 / fps);
  };
  return { counts, arrivalMs: at, deadlineMs: (model, frame) => at(model, frame + 1) };
}

/** A number for jitter in [-0.5, 0.5], and whether a draw of a trigger is won. */
function drawsOf(random: LibcRandom, { unitOne, float32 }: Switches): {
  jitter(): number;
  isTriggered(probability: number): boolean;
} {
  const draw = (): number => unitOne ? random.unitFloat() : random.unit();
  return {
    jitter: () => draw() - 0.5,
    isTriggered: (probability) => (float32 ? Math.fround(probability) : probability) > draw(),
  };
}

/**
 * Draws all requests from the seed alone: two numbers for each frame, models in the scenario's order. A frame is asked for where it and its upstream
 * frames of the same number were triggered.
 *
 * @returns by arrival; of equals, in the scenario's order
 */
export function drawFrames(scenario: Scenario, options: LoadOptions): Frame[] {
  const { switches, maxJitterMs } = options, schedule = scheduleOf(scenario, options);
  const draws = drawsOf(new LibcRandom(options.seed), switches);
  const round = switches.float32 ? Math.fround : (x: number): number => x;
  const drawn = scenario.models.map(({ probability }, model) =>
    Array.from({ length: schedule.counts[model]! }, (_, frame) => {
      const jitter = draws.jitter() * maxJitterMs, arrival = schedule.arrivalMs(model, frame);
      return {
        injectionMs: switches.jitterUnused ? arrival : Math.max(0, round(arrival + jitter)),
        isTriggered: draws.isTriggered(probability),
      };
    })
  );
  const upstream = upstreamOf(scenario), required: boolean[][] = [];
  for (const model of topologicalOrder(scenario)) {
    required[model] = drawn[model]!.map(({ isTriggered }, frame) =>
      isTriggered && upstream[model]!.every((other) => required[other]![frame])
    );
  }
  // a reply's, where it waits for nothing; else it moves when the reply is ready
  const deadlineOf = (model: number, frame: number, injectionMs: number): number => {
    const { reply } = scenario.models[model]!;
    return reply === undefined ? schedule.deadlineMs(model, frame) : injectionMs + reply.ttftMs;
  };
  const frames = drawn.flatMap((ofModel, model) =>
    ofModel.flatMap(({ injectionMs }, frame) =>
      required[model]![frame]
        ? [{ model, frame, injectionMs, deadlineMs: deadlineOf(model, frame, injectionMs) }]
        : []
    )
  );
  // sorting is stable: model, then frame
  return frames.sort((a, b) => a.injectionMs - b.injectionMs);
}

/** Frames that enter when they arrive. */
export class ArrivalLoad implements Load {
  readonly #frames: readonly Frame[];
  #at = 0;

  /** @param frames by arrival */
  constructor(frames: readonly Frame[]) {
    this.#frames = frames;
  }

  get isPending(): boolean {
    return this.#at < this.#frames.length;
  }

  get firstMs(): number {
    return this.nextMs;
  }

  get nextMs(): number {
    return this.#frames[this.#at]?.injectionMs ?? Infinity;
  }

  inject(t: number, enter: (frame: Frame) => void): void {
    while (this.nextMs <= t) enter(this.#frames[this.#at++]!);
  }
}

/**
 * Frames that enter at events, at most one of a model at each, as the harness has it: at ticks of the fastest model and whenever else it is asked. What is
 * drawn depends on how often that is, unless `frames` were drawn before.
 *
 * Without `injectAtEvents` frames enter when they arrive, however many, but are drawn then: jitter for the next frame of each model at every event.
 */
export class EventLoad implements Load {
  readonly firstMs: number = 0;
  readonly #scenario: Scenario;
  readonly #options: LoadOptions;
  readonly #schedule: Schedule;
  readonly #draws: ReturnType<typeof drawsOf>;
  /** What was drawn before, by model and frame; null where it is drawn now. */
  readonly #drawn: readonly (ReadonlyMap<number, Frame> | undefined)[] | null;
  /** The next frame of each model. */
  readonly #next: number[];
  /** When it arrives, where that is an event. */
  readonly #arrivals: number[];
  readonly #baseTick: number;
  readonly #round: (x: number) => number;
  #tick = 1;

  /** @param frames what was drawn before, or null */
  constructor(scenario: Scenario, options: LoadOptions, frames: readonly Frame[] | null) {
    this.#scenario = scenario;
    this.#options = options;
    this.#schedule = scheduleOf(scenario, options);
    this.#draws = drawsOf(new LibcRandom(options.seed), options.switches);
    this.#round = options.switches.float32 ? Math.fround : (x) => x;
    this.#next = scenario.models.map(() => 0);
    this.#arrivals = scenario.models.map(() => 0);
    const fastest = Math.max(...scenario.models.map(({ fps }) => fps));
    this.#baseTick = options.switches.floorPeriods ? Math.floor(1000 / fastest) : 1000 / fastest;
    this.#drawn = frames &&
      scenario.models.map((_, model) =>
        new Map(frames.filter((frame) => frame.model === model).map((frame) => [frame.frame, frame]))
      );
  }

  get isPending(): boolean {
    return this.#next.some((frame, model) => frame < this.#schedule.counts[model]!);
  }

  get nextMs(): number {
    if (this.#options.switches.injectAtEvents) return this.#round(this.#tick * this.#baseTick);
    return Math.min(
      ...this.#arrivals.map((ms, model) =>
        this.#next[model]! < this.#schedule.counts[model]! ? ms : Infinity
      ),
    );
  }

  inject(t: number, enter: (frame: Frame) => void, lose: (model: number, frame: number) => void): void {
    const { switches, maxJitterMs } = this.#options, isTick = switches.injectAtEvents && t === this.nextMs;
    this.#scenario.models.forEach(({ probability }, model) => {
      const jitter = this.#drawn ? 0 : this.#draws.jitter() * maxJitterMs;
      for (;;) {
        const frame = this.#next[model]!;
        if (frame >= this.#schedule.counts[model]! || this.#arrivalMs(model, frame, jitter) > t) break;
        this.#next[model] = frame + 1;
        const isAsked = this.#drawn ? this.#drawn[model]!.has(frame) : this.#draws.isTriggered(probability);
        const injectionMs = switches.injectAtEvents ? t : this.#arrivals[model]!;
        if (isAsked) {
          enter({ model, frame, injectionMs, deadlineMs: this.#schedule.deadlineMs(model, frame) });
        } else lose(model, frame);
        this.#arrivals[model] = this.#jittered(this.#schedule.arrivalMs(model, frame + 1), jitter);
        if (switches.injectAtEvents) break;
      }
    });
    if (isTick) this.#tick++;
  }

  /** When a frame may enter: what was drawn before, or with the jitter of this event. */
  #arrivalMs(model: number, frame: number, jitter: number): number {
    if (!this.#options.switches.injectAtEvents) return this.#arrivals[model]!;
    const drawn = this.#drawn?.[model]?.get(frame);
    return drawn ? drawn.injectionMs : this.#jittered(this.#schedule.arrivalMs(model, frame), jitter);
  }

  #jittered(arrival: number, jitter: number): number {
    return this.#options.switches.jitterUnused ? arrival : Math.max(0, this.#round(arrival + jitter));
  }
}
