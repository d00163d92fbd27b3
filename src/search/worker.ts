/**
 * A thread of a search or an evaluation: `inThreads` starts it, and it does one job after the other on a model of its own. Not for import.
 *
 * @module
 */
import { detectPlatform } from "../platform/detect.ts";
import { Evaluator } from "./evaluator.ts";
import { RowsEvaluator } from "./evaluation.ts";
import type { WorkJob, WorkSetup } from "./jobs.ts";
import type { FromThread, ToThread } from "./pool.ts";

const { parentThread } = await detectPlatform();
const parent = await parentThread?.() ?? null;
if (parent === null) throw new Error("this module is for threads of a search or an evaluation");

const say = (message: FromThread): void => parent.post(message);
const failure = (failed: number | null, error: unknown): FromThread => {
  const { name, message } = error instanceof Error ? error : new Error(String(error));
  return { failed, name, message };
};

try {
  const setup = parent.data as WorkSetup;
  const evaluator: { run(job: WorkJob): Promise<readonly unknown[]> } = "tasks" in setup
    ? await RowsEvaluator.open(setup)
    : await Evaluator.open(setup);
  parent.onMessage(async (message) => {
    const { id, job } = message as ToThread;
    try {
      say({ done: id, value: await evaluator.run(job) });
    } catch (error) {
      say(failure(id, error));
    }
  });
  say({ ready: true });
} catch (error) {
  say(failure(null, error));
}
