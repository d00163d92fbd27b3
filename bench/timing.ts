/** Times variants against each other in one process. */
import process from "node:process";

/** Median and tenth percentiles of a variant's samples, in milliseconds. */
export interface Times {
  readonly median: number;
  readonly p10: number;
  readonly p90: number;
}

/**
 * Runs all variants in turns, forwards and backwards, until each has `samples` in which the system did not take the thread's core away, or
 * `maxMs` have passed.
 */
export function timeInTurns(
  variants: { readonly [name: string]: () => void },
  samples: number,
  maxMs: number,
): { [name: string]: Times } {
  const names = Object.keys(variants), kept = new Map(names.map((name) => [name, [] as number[]]));
  const all = new Map(names.map((name) => [name, [] as number[]]));
  for (let warm = 0; warm < 8; warm++) for (const name of names) variants[name]!();
  const began = performance.now();
  for (let round = 0; names.some((name) => kept.get(name)!.length < samples); round++) {
    if (round >= 3 * samples || (performance.now() - began > maxMs && round > samples / 4)) break;
    for (const name of round % 2 === 0 ? names : names.toReversed()) {
      const switches = process.resourceUsage().involuntaryContextSwitches, start = performance.now();
      variants[name]!();
      const ms = performance.now() - start;
      all.get(name)!.push(ms);
      if (process.resourceUsage().involuntaryContextSwitches === switches) kept.get(name)!.push(ms);
    }
  }
  return Object.fromEntries(names.map((name) => {
    const list = kept.get(name)!.length >= 5 ? kept.get(name)! : all.get(name)!;
    list.sort((a, b) => a - b);
    const at = (share: number): number => list[Math.min(list.length - 1, Math.floor(share * list.length))]!;
    return [name, { median: at(0.5), p10: at(0.1), p90: at(0.9) }];
  }));
}

/** The runtime and its version. */
export function engineName(): string {
  const { deno, bun, node } = process.versions as { [name: string]: string | undefined };
  return deno ? `Deno ${deno}` : bun ? `Bun ${bun}` : `Node ${node}`;
}
