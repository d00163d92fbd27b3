/** What an accelerator runs: a runner for each model, by what it is bound to. */
import type { ShapeDtype } from "./bindings.ts";
import type { Clock } from "./clock.ts";
import type { Product } from "./tiers.ts";

/** A model's work, as a worker is told of it. */
export type Work =
  | { readonly kind: "null" }
  | {
    readonly kind: "declared";
    readonly how: "busy" | "idle";
    /** On this accelerator. */
    readonly latencyMs: number;
  }
  | {
    readonly kind: "shape";
    readonly dtype: ShapeDtype;
    readonly products: readonly Product[];
    readonly seed: number;
  }
  | {
    readonly kind: "real";
    readonly model: string | Blob;
    readonly recipe: string | Blob | null;
    readonly dtype: "auto" | "f32" | "bf16" | "int8" | "int4";
    readonly tokens: number;
    readonly sparsity: number | null;
    /** Tokens of a reply's prompt; null where frames are no replies. */
    readonly prompt: number | null;
    /** What a policy may choose: the model has to have them. */
    readonly sparsities: readonly number[];
  };

/** Runs a model's jobs. */
export interface Runner {
  /** Runs a frame, or a token of a reply (from 0; -1: a frame); `sparsity` is what a policy chose, NaN where none does. A promise only where `canWait` is false. */
  run(sparsity: number, token: number): void | Promise<void>;
  /** What it runs on, for the result. */
  readonly info: Readonly<Record<string, unknown>>;
}

/** Sleeping ends so long before a job of declared length does; the rest is spun. */
const SPIN_MS = 0.25;

/**
 * Makes a runner, and loads what it needs.
 *
 * @param canWait whether this thread may sleep in `Atomics.wait`
 */
export async function openRunner(work: Work, now: Clock, canWait: boolean): Promise<Runner> {
  switch (work.kind) {
    case "null":
      return { run() {}, info: {} };
    case "declared": {
      const { how, latencyMs } = work;
      if (how === "busy") return { run: () => spinUntil(now() + latencyMs, now), info: {} };
      return { run: canWait ? sleeper(latencyMs, now) : timer(latencyMs, now), info: {} };
    }
    case "shape": {
      const { ShapeModel } = await import("./shape.ts");
      const model = await ShapeModel.open(work.products, work.dtype, work.seed);
      return { run: () => model.run(), info: { weightBytes: model.weightBytes } };
    }
    case "real": {
      const { openTokens } = await import("./tokens.ts");
      return await openTokens(work);
    }
  }
}

function spinUntil(endMs: number, now: Clock): void {
  while (now() < endMs);
}

function sleeper(latencyMs: number, now: Clock): Runner["run"] {
  const word = new Int32Array(new SharedArrayBuffer(4));
  return () => {
    const endMs = now() + latencyMs;
    for (let left = latencyMs; left > SPIN_MS; left = endMs - now()) Atomics.wait(word, 0, 0, left - SPIN_MS);
    spinUntil(endMs, now);
  };
}

function timer(latencyMs: number, now: Clock): Runner["run"] {
  return async () => {
    const endMs = now() + latencyMs;
    if (latencyMs > 1) await new Promise((resolve) => setTimeout(resolve, latencyMs - 1));
    spinUntil(endMs, now);
  };
}

/** Runs of a model before the first frame: the first ones compile and fill caches. */
const WARM_UPS = 3;

/** What a model takes here, by the fastest of some runs; 0 of one that has no work of its own. */
export async function measure(runner: Runner, work: Work, now: Clock): Promise<number> {
  if (work.kind === "null") return 0;
  if (work.kind === "declared") return work.latencyMs;
  let fastest = Infinity;
  for (let i = 0; i < WARM_UPS; i++) {
    const began = now();
    await runner.run(NaN, -1);
    fastest = Math.min(fastest, now() - began);
  }
  return fastest;
}
