/** An accelerator's side of the rings: one job after the other, until it is told to stop. */
import { type Board, COMPARE } from "./board.ts";
import type { Clock } from "./clock.ts";
import type { Runner } from "./jobs.ts";

/** How long it looks for the next job before it sleeps: waking takes 30 to 60 µs. */
const SPIN_MS = 0.1;
/** An accelerator whose waking was lost is late and not gone. */
const SLICE_MS = 1000;

/** Runs jobs. One that fails ends the accelerator, as a fault of a chip would: what it left behind cannot be told. */
export function serve(board: Board, accelerator: number, runners: readonly Runner[], now: Clock): void {
  for (let idleSince = now();;) {
    const seen = board.jobsSent(accelerator), job = board.takeJob(accelerator);
    if (job === null) {
      if (board.isStopped || board.lossOf(accelerator) !== null) return;
      if (now() - idleSince > SPIN_MS) board.waitForJob(accelerator, seen, SLICE_MS);
      continue;
    }
    const { model, frame, sparsity, token } = job, startMs = now();
    if (model === COMPARE) {
      board.finish(accelerator, { model, frame, startMs, endMs: startMs });
    } else {
      try {
        runners[model]!.run(sparsity, token);
      } catch (error) {
        return board.lose(accelerator, error instanceof Error ? error.message : String(error));
      }
      board.finish(accelerator, { model, frame, startMs, endMs: now() });
    }
    idleSince = now();
  }
}
