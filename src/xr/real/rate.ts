/** The largest rate at which every model keeps its hit rate. */
import type { RealMachine, RealRun } from "./run.ts";

/** One rate that was tried. */
export interface Probe {
  /** Multiplies the rate of every model. */
  readonly rate: number;
  /** Of the model that did worst. */
  readonly hitRate: number;
  /** Which that was; null where none missed a deadline. */
  readonly worst: string | null;
}

/** What was found. */
export interface RateSearch {
  /** Largest multiplier that was seen to keep the target; 0 where none was. */
  readonly rate: number;
  /** Share of frames in time that every model has to keep. */
  readonly target: number;
  /** In the order in which they were tried. */
  readonly probes: readonly Probe[];
}

/** The share of frames in time that the specification has. */
export const TARGET = 0.99;
const LEAST = 1 / 64, MOST = 64;
/** Halvings of the interval, after which rates are 5 % apart. */
const HALVINGS = 4;

/**
 * Searches for the largest rate, by doubling and halving: one run at each, of as many frames as at rate 1, faster or slower. Measured runs differ, so another
 * search may end some percent off.
 *
 * @param each is handed every run
 * @returns what was found, and the run at that rate; null where there is none
 */
export async function findRate(
  machine: Pick<RealMachine, "run">,
  { target = TARGET, durationMs, each }: {
    readonly target?: number;
    readonly durationMs: number;
    readonly each?: (probe: Probe) => void;
  },
): Promise<{ readonly search: RateSearch; readonly best: RealRun | null }> {
  const probes: Probe[] = [];
  let best: RealRun | null = null, kept = 0, lost = Infinity;
  const isKept = async (rate: number): Promise<boolean> => {
    const run = await machine.run({ rate, durationMs: durationMs / rate }), probe = worstOf(run, rate);
    probes.push(probe);
    each?.(probe);
    if (probe.hitRate < target) {
      lost = Math.min(lost, rate);
      return false;
    }
    if (rate > kept) [kept, best] = [rate, run];
    return true;
  };
  if (await isKept(1)) { for (let rate = 2; rate <= MOST && await isKept(rate); rate *= 2); }
  else for (let rate = 1 / 2; rate >= LEAST && !await isKept(rate); rate /= 2);
  if (kept > 0 && lost < Infinity) {
    for (let i = 0; i < HALVINGS; i++) await isKept(Math.sqrt(kept * lost));
  }
  return { search: { rate: kept, target, probes }, best };
}

function worstOf({ result: { models } }: RealRun, rate: number): Probe {
  let hitRate = 1, worst: string | null = null;
  for (const [name, model] of Object.entries(models)) {
    if (model.hitRate < hitRate) [hitRate, worst] = [model.hitRate, name];
  }
  return { rate, hitRate, worst };
}
