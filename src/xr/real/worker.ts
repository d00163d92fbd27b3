/**
 * A thread of a real run: an accelerator, or the loader. `openCrew` starts it. Not for import.
 *
 * @module
 */
import { detectPlatform } from "../../platform/detect.ts";
import { Board } from "./board.ts";
import { gapsOf, stepOf } from "./clock.ts";
import type { FromAccelerator, FromLoader, ToAccelerator, WorkerSetup } from "./crew.ts";
import { compareClocks, drive, rehearse } from "./drive.ts";
import { measure, openRunner, type Runner } from "./jobs.ts";
import { Loader } from "./loader.ts";
import { serve } from "./serve.ts";

const { parentThread } = await detectPlatform();
const parent = await parentThread?.() ?? null;
if (parent === null) throw new Error("this module is for threads of a real run");
const now = (): number => performance.now();
const setup = parent.data as WorkerSetup;

try {
  if (setup.role === "accelerator") await beAccelerator(setup);
  else beLoader(setup);
} catch (error) {
  const failed = error instanceof Error ? error.message : String(error);
  parent.post({ failed } satisfies FromAccelerator & FromLoader);
}

async function beAccelerator(
  { accelerator, works, buffer }: Extract<WorkerSetup, { role: "accelerator" }>,
): Promise<void> {
  const say = (message: FromAccelerator): void => parent!.post(message);
  const runners: Runner[] = [], expectedMs: number[] = [];
  for (const work of works) {
    const runner = await openRunner(work, now, buffer !== null);
    runners.push(runner);
    expectedMs.push(await measure(runner, work, now));
  }
  say({ ready: { expectedMs, info: runners.map(({ info }) => info) } });
  if (buffer !== null) {
    return serve(new Board(buffer.memory, buffer.accelerators), accelerator, runners, now);
  }
  parent!.onMessage(async (message) => {
    const job = message as ToAccelerator;
    if ("ask" in job) return say({ time: now() });
    const startMs = now();
    try {
      await runners[job.model]!.run(job.sparsity, job.token);
      say({ done: { startMs, endMs: now() } });
    } catch (error) {
      say({ failed: error instanceof Error ? error.message : String(error) });
    }
  });
}

function beLoader({ load, buffer, patienceMs }: Extract<WorkerSetup, { role: "loader" }>): void {
  const board = new Board(buffer.memory, buffer.accelerators),
    stepMs = stepOf(now),
    gaps = gapsOf(now, stepMs);
  const offsets = load.expectedMs.map((_, i) => compareClocks(board, i, now, patienceMs));
  rehearse(new Loader(load, () => {}), load.expectedMs.length);
  const loader = new Loader(load, (accelerator, job) => board.send(accelerator, job));
  const { isWhole } = drive(loader, board, now, {
    offsetsMs: offsets.map((found) => found?.offsetMs ?? 0),
    patienceMs,
  });
  const clockErrorMs = Math.max(...offsets.map((found) => found?.errorMs ?? 0));
  parent!.post({ record: { ...loader.record, isWhole, stepMs, clockErrorMs, gaps } } satisfies FromLoader);
}
