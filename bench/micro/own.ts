/** Times cases without benny: in pages, where it finds no files to write and no `process`. */
import { statOf } from "../../src/cli/bench/rows.ts";
import type { MicroCase } from "../../tools/bench/schema.ts";
import type { Case } from "./cases.ts";

/** Milliseconds of one sample, far above the 5 to 100 µs of a browser's clock. */
const SAMPLE_MS = 4;

/** Runs all cases in turns, `samples` each after one that does not count. */
export function timeCases(cases: readonly Case[], samples: number): MicroCase[] {
  const calls = cases.map(({ run }) => callsOf(run, SAMPLE_MS)), times = cases.map((): number[] => []);
  for (let round = -1; round < samples; round++) {
    cases.forEach(({ run }, i) => {
      const began = performance.now();
      for (let n = calls[i]!; n > 0; n--) run();
      if (round >= 0) times[i]!.push((performance.now() - began) / calls[i]!);
    });
  }
  return cases.map((one, i) => resultOf(one, statOf(times[i]!)));
}

/** Calls that take so many milliseconds, found by doubling. */
function callsOf(run: () => void, ms: number): number {
  for (let calls = 1;; calls *= 2) {
    const began = performance.now();
    for (let n = calls; n > 0; n--) run();
    if (performance.now() - began >= ms || calls >= 2 ** 24) return calls;
  }
}

/** A case with its time, and its rates from that. */
export function resultOf(
  { group, name, kernel, macs, bytes }: Case,
  ms: MicroCase["ms"],
  margin?: number,
): MicroCase {
  return {
    group,
    name,
    kernel,
    ms,
    ...margin === undefined ? {} : { margin },
    ...macs === undefined ? {} : { gmacs: macs / ms.median / 1e6 },
    ...bytes === undefined ? {} : { gbPerSecond: bytes / ms.median / 1e6 },
  };
}
