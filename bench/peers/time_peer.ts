/** What each peer is timed by, so that all are timed alike. */
import { statOf } from "../../src/cli/bench/rows.ts";
import type { PeerRun } from "../../tools/bench/schema.ts";

/**
 * Rows of prompts of 128 and 512 tokens and of 64 generated ones, each after a run that does not count.
 *
 * @param prompt tokens/s of a prompt of so many
 * @param generate tokens/s of so many generated
 */
export async function timePeer(
  prompt: (n: number) => Promise<number>,
  generate: (n: number) => Promise<number>,
  reps: number,
): Promise<PeerRun["rows"]> {
  const cases: readonly (readonly [string, () => Promise<number>])[] = [
    ["pp128", () => prompt(128)],
    ["pp512", () => prompt(512)],
    ["tg64", () => generate(64)],
  ];
  const rows: PeerRun["rows"][number][] = [];
  for (const [name, run] of cases) {
    const speeds: number[] = [];
    for (let rep = -1; rep < reps; rep++) {
      const speed = await run();
      if (rep >= 0) speeds.push(speed);
    }
    rows.push({ name, tokensPerSecond: statOf(speeds) });
  }
  return rows;
}
