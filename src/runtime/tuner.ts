/**
 * Which layout and method are fastest here for a matrix of which a recipe skips a share: timed when a recipe is loaded, on weights made up
 * for it, and remembered. Dense is always among the candidates, so that skipping never makes a product slower than the best dense kernel
 * is; what a recipe adds (factors, biases, the test itself) is on top.
 */
import { Arena } from "../kernels/arena.ts";
import { type Kernels, padTo } from "../kernels/kernels.ts";
import { Team } from "../kernels/team.ts";
import type { WasmKernelOptions } from "../kernels/wasm_kernels.ts";
import type { LlamaConfig } from "../model/config.ts";
import type { Platform } from "../platform/platform.ts";
import { type Layout, type Matrix, multiplyByRule, planMatrix, type RunMethod } from "./matrix.ts";
import type { KernelFactory } from "./open_kernels.ts";
import { Random } from "./random.ts";
import { Workspace } from "./workspace.ts";

/** How the runtime may keep a matrix: `i8` has two layouts, and so has `group-i4` in the relaxed build. */
export type Kind = "channels-f32" | "channels-bf16" | "group-i4" | "i8";

/** A matrix that is to be tuned. */
export interface Shape {
  readonly kind: Kind;
  readonly mins: boolean;
  readonly nIn: number;
  readonly nOut: number;
  /** Share of channels that the recipe skips. */
  readonly sparsity: number;
}

/** How a matrix is kept and runs by its rule. */
export interface Choice {
  readonly layout: Layout;
  readonly method: RunMethod;
}

/** What was found. */
export interface Tuning {
  /** How the int4 stream touches memory, for all matrices. */
  readonly touch: NonNullable<WasmKernelOptions["touch"]>;
  choose(shape: Shape): Choice;
}

/** Bytes of made-up weights that are gone through: several times L3, whose contents would flatter sparse kernels. */
const WEIGHT_BYTES = 96 * 2 ** 20;
/** Milliseconds that a sample takes at least, and that tuning takes from opening the stopwatch on. */
const SAMPLE_MS = 1.5, BUDGET_MS = 300;
/** Milliseconds of rounds that do not count: engines put optimised code in place in the background (Deno's first 7 ms were at half speed). */
const WARM_UP_MS = 90;
/** Shapes that are warmed up: rounds that count have time for 15 of the smallest. */
const MOST_SHAPES = 20;
/** Rounds that count, at least and at most. */
const FEWEST = 3, MOST = 15;
/** A way to touch memory that takes so many times as long as the other is not timed further. */
const HOPELESS = 1.3;
/** A candidate must be so much faster than dense to be taken: less is noise. */
const MARGIN = 0.97;
/** Raised when kernels change so that older findings do not hold. */
const VERSION = 4;

/** All ways to run a shape; the first is dense. */
export function candidates(kind: Kind, build: Kernels["build"]): Choice[] {
  switch (kind) {
    case "channels-f32":
    case "channels-bf16":
      return [{ layout: kind, method: "dense" }, { layout: kind, method: "skip" }];
    case "i8":
      return [{ layout: "pairs-i8", method: "dense" }, { layout: "channels-i8", method: "skip" }];
    case "group-i4":
      return [
        { layout: build === "relaxed" ? "quad-i4" : "group-i4", method: "dense" },
        { layout: "group-i4", method: "stream" },
      ];
  }
}

/** Without measurements: what skips where the layout can. For the reference kernels, whose speed says nothing, and where figures have to be the same on the next load. */
export const UNTUNED: Tuning = {
  touch: "atomic",
  choose: ({ kind }) => candidates(kind, "reference").at(-1)!,
};

/** Always dense. */
export function allDense(build: Kernels["build"]): Tuning {
  return { touch: "atomic", choose: ({ kind }) => candidates(kind, build)[0]! };
}

/** Times one candidate for a shape: milliseconds a product. */
export type Stopwatch = (shape: Shape, choice: Choice, touch: Tuning["touch"]) => number;

/**
 * Takes the fastest candidate of each shape by samples that take turns: all shapes and candidates in every round.
 *
 * @param known findings of earlier loads by their key; new ones are added
 * @param watch is not asked for shapes that are known; a shape that there is no time for is noted as the nearest measured sparsity of its size
 * @param began when what the budget pays for began, by `now`: making a stopwatch takes a sixth of it
 */
export function tune(
  shapes: readonly Shape[],
  build: Kernels["build"],
  known: Map<string, number[]>,
  watch: Stopwatch,
  now: () => number = () => performance.now(),
  began: number = now(),
): Tuning {
  measure(shapes.filter((shape) => !isKnown(known, shape)), build, known, watch, now, began);
  const flavours = { atomic: 0, plain: 0 };
  for (const shape of shapes) {
    const times = known.get(keyOf(shape));
    for (const [w, { touch }] of waysOf(shape.kind, build).entries()) {
      if (times !== undefined && w > 0) flavours[touch] += times[w]! / times[0]!;
    }
  }
  const touch = flavours.plain < flavours.atomic ? "plain" : "atomic";
  return {
    touch,
    choose: (shape) => {
      const [dense, sparse] = candidates(shape.kind, build) as [Choice, Choice];
      const times = nearest(known, shape),
        w = waysOf(shape.kind, build).findIndex((way) =>
          way.choice.method !== "dense" && way.touch === touch
        );
      return times !== undefined && times[w]! < MARGIN * times[0]! ? sparse : dense;
    },
  };
}

/** Times shapes in rounds, as many of them as there is time for, and notes what each way took. */
function measure(
  shapes: readonly Shape[],
  build: Kernels["build"],
  known: Map<string, number[]>,
  watch: Stopwatch,
  now: () => number,
  began: number,
): void {
  if (shapes.length === 0) return;
  const all = [...new Map(shapes.map((shape) => [keyOf(shape), shape])).values()];
  let some = evenly(all, Math.min(all.length, MOST_SHAPES));
  const warmed = now() + WARM_UP_MS;
  const samples = new Map(some.map((shape): [string, number[][]] => [keyOf(shape), [[], [], []]]));
  /** Milliseconds that the last sample of each way took. */
  const costs = new Map(some.map((shape): [string, number[]] => [keyOf(shape), []]));
  let hopeless: Tuning["touch"] | null = null;
  const timed = ({ kind }: Shape) =>
    [...waysOf(kind, build).entries()].filter(([w, { touch }]) => w === 0 || touch !== hopeless);
  /** What sparse samples gave for each way to touch memory. */
  const round = () => {
    const ms = { atomic: 0, plain: 0 };
    for (const shape of some) {
      for (const [w, { choice, touch }] of timed(shape)) {
        const sampleBegan = now(), sample = watch(shape, choice, touch);
        samples.get(keyOf(shape))![w]!.push(sample);
        costs.get(keyOf(shape))![w] = now() - sampleBegan;
        if (w > 0) ms[touch] += sample;
      }
    }
    return ms;
  };
  /** Milliseconds of a round of some shapes. */
  const costOf = (shapes: readonly Shape[]): number =>
    shapes.reduce(
      (sum, shape) => sum + timed(shape).reduce((of, [w]) => of + costs.get(keyOf(shape))![w]!, 0),
      0,
    );
  let { atomic, plain } = round();
  while (now() < warmed) ({ atomic, plain } = round());
  if (atomic > HOPELESS * plain) hopeless = "atomic";
  else if (plain > HOPELESS * atomic) hopeless = "plain";
  // of the warm-up only the last sample stays, of the way that is not timed any more
  for (const times of samples.values()) {
    times.forEach((each, w) =>
      each.splice(0, w > 0 && TOUCHES[w - 1] === hopeless ? each.length - 1 : each.length)
    );
  }
  // fewer shapes, where time does not suffice for all: the next rounds cost no more than the last did
  const left = (): number => began + BUDGET_MS - now();
  for (let n = some.length; n > 1 && FEWEST * costOf(some) > left(); n--) some = evenly(some, n - 1);
  for (let i = 0; i < MOST && (i < FEWEST || costOf(some) < left()); i++) round();
  for (const shape of some) {
    const times = samples.get(keyOf(shape))!;
    known.set(keyOf(shape), times.map((each) => Number(lowerQuartile(each).toPrecision(4))));
  }
  // what there was no time for is known as the nearest: the next load picks the same, and times nothing
  for (const [shape, times] of all.map((shape) => [shape, nearest(known, shape)] as const)) {
    if (times !== undefined) known.set(keyOf(shape), [...times]);
  }
}

/** n of some shapes, from all over them. */
function evenly(shapes: readonly Shape[], n: number): Shape[] {
  return Array.from({ length: n }, (_, i) => shapes[Math.floor((i + 0.5) * shapes.length / n)]!);
}

/** Findings of the nearest sparsity of a shape's size. */
function nearest(known: ReadonlyMap<string, readonly number[]>, shape: Shape): readonly number[] | undefined {
  let best: readonly number[] | undefined, distance = Infinity;
  for (let sparsity = 0; sparsity <= 10; sparsity++) {
    const times = known.get(keyOf({ ...shape, sparsity: sparsity / 10 }));
    const away = Math.abs(sparsity / 10 - shape.sparsity);
    if (times?.length === WAYS && away < distance) {
      best = times;
      distance = away;
    }
  }
  return best;
}

/** Whether a shape needs no measurement. */
export function isKnown(found: ReadonlyMap<string, readonly number[]>, shape: Shape): boolean {
  return found.get(keyOf(shape))?.length === WAYS;
}

const TOUCHES = ["atomic", "plain"] as const;
/** Dense, and the sparse candidate with both ways to touch memory. */
const WAYS = 3;

/** Candidates with the ways to touch memory. */
function waysOf(kind: Kind, build: Kernels["build"]): { choice: Choice; touch: Tuning["touch"] }[] {
  const [dense, sparse] = candidates(kind, build) as [Choice, Choice];
  return [{ choice: dense, touch: "atomic" }, ...TOUCHES.map((touch) => ({ choice: sparse, touch }))];
}

/** Sparsities within 0.1 are one: a searched recipe has another one for each projection. */
function keyOf({ kind, mins, nIn, nOut, sparsity }: Shape): string {
  return `${kind}${mins ? "+mins" : ""} ${nIn}x${nOut} ${sparsity.toFixed(1)}`;
}

/** What a way takes when nothing else takes the processor: that lasts for several samples and only ever adds. */
function lowerQuartile(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[values.length >> 2]!;
}

/**
 * A stopwatch over made-up weights in a memory of its own.
 *
 * @param factory makes the kernels of the build that will run; they are timed on one thread
 */
export async function openStopwatch(
  config: LlamaConfig,
  factory: Pick<KernelFactory, "newMemory" | "create">,
): Promise<Stopwatch> {
  const memory = factory.newMemory();
  const kernels = {
    atomic: await factory.create(memory, "atomic"),
    plain: await factory.create(memory, "plain"),
  };
  const arena = new Arena(memory, kernels.atomic.heapBase()), size = Workspace.size(kernels.atomic, config);
  const s = new Workspace(kernels.atomic, config, arena.allocate(size));
  s.initialise();
  const teams = {
    atomic: Team.alone(kernels.atomic, s.scratch),
    plain: Team.alone(kernels.plain, s.scratch),
  };
  const scales = arena.allocate(4 * Math.max(...Object.values(s.strides)));
  let weights = arena.allocate(WEIGHT_BYTES), held = WEIGHT_BYTES;
  // as integers any bytes will do, as f32 and bf16 this is 0.0115: speed depends on values only where they are subnormal or not numbers
  const fill = (from: number, to: number): void =>
    void new Uint8Array(memory.buffer, from, to - from).fill(0x3c);
  fill(scales, weights + held);
  const x = s.normed, y = s.gateUp;
  return (shape, { layout, method }, touch) => {
    const team = teams[touch];
    const plan = planMatrix(layout, shape.nIn, shape.nOut, {
      mins: shape.mins,
      balanced: shape.kind === "i8",
    });
    const step = padTo(plan.bytes, 64), count = Math.max(1, Math.floor(WEIGHT_BYTES / step));
    if (step > held) {
      // one matrix is larger: gate and up of Llama-2-7B take 360 MB in f32
      weights = arena.allocate(step);
      held = step;
      fill(weights, weights + held);
    }
    const values = new Float32Array(memory.buffer, x, plan.nInPadded).fill(0), random = new Random(shape.nIn);
    for (let c = 0; c < shape.nIn; c++) values[c] = 0.1 + random.uniform();
    let products = 0;
    const began = performance.now();
    for (let at = weights;; at = at + step < weights + step * count ? at + step : weights) {
      const matrix: Matrix = {
        ...plan,
        w: at,
        rowScale: scales,
        channelScale: plan.balanced ? scales : 0,
      };
      s.newInput();
      multiplyByRule(team, s, matrix, method, y, x, s.ones, 0.1 + shape.sparsity);
      products++;
      const ms = performance.now() - began;
      if (ms > SAMPLE_MS) return ms / products;
    }
  };
}

/** What earlier loads found with this engine, machine and build; empty where nothing is, or what is there is broken. */
export async function readFindings(platform: Platform, build: string): Promise<Map<string, number[]>> {
  try {
    const text = await (await platform.openBlob(findingsPath(platform))).text();
    const all = JSON.parse(text) as { [engine: string]: { [key: string]: unknown } };
    const found = new Map<string, number[]>();
    for (const [key, times] of Object.entries(all[engineKey(platform, build)] ?? {})) {
      if (Array.isArray(times) && times.every((ms) => typeof ms === "number" && ms > 0)) {
        found.set(key, times);
      }
    }
    return found;
  } catch {
    return new Map();
  }
}

/** Keeps them for the next load, beside those of other engines. A folder that cannot be written is no error: the next load measures again. */
export async function writeFindings(
  platform: Platform,
  build: string,
  found: ReadonlyMap<string, number[]>,
): Promise<void> {
  try {
    const path = findingsPath(platform), aside = `${path}.${performance.timeOrigin + performance.now()}.part`;
    let all: { [engine: string]: unknown } = {};
    try {
      all = JSON.parse(await (await platform.openBlob(path)).text());
    } catch {
      // none yet, or broken
    }
    all[engineKey(platform, build)] = Object.fromEntries(found);
    await platform.makeDir(platform.cacheDir());
    const writer = await platform.openWriter(aside, { truncate: true });
    try {
      await writer.write(new TextEncoder().encode(JSON.stringify(all, null, 1)));
    } finally {
      await writer.close();
    }
    await platform.rename(aside, path);
  } catch {
    // see above
  }
}

function findingsPath(platform: Platform): string {
  return `${platform.cacheDir()}/tuning.json`;
}

function engineKey(platform: Platform, build: string): string {
  return `v${VERSION} ${platform.runtime} ${platform.cpu()} ${build}`;
}
