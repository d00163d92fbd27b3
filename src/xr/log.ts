/** What a run leaves: a line for each frame that was executed or dropped. */

/** Why a frame was dropped: its deadline had passed, its upstream frame was dropped, or (in a real run) its accelerator was lost. Empty for those that were executed. */
export type Reason = "" | "late" | "upstream" | "lost";

/** A frame, in the order in which frames were executed to their end or dropped. */
export interface LogEntry {
  /** The model's name. */
  readonly model: string;
  /** The frame's number, from 0; of a reply's token, its number among all tokens of its model. */
  readonly frame: number;
  /** Its number; -1 of a frame that was dropped. */
  readonly accelerator: number;
  /** When it entered. */
  readonly injectionMs: number;
  /** When it began; of a frame that was dropped, when that was. */
  readonly dispatchMs: number;
  /** When it should be done. */
  readonly deadlineMs: number;
  /** When it was done; of a frame that was dropped, when that was. */
  readonly completionMs: number;
  /** What it took. */
  readonly energyMJ: number;
  /** Whether it was dropped. */
  readonly dropped: boolean;
  /** Why. */
  readonly reason: Reason;
  /** In [0, 1]; 1 where it is absent. */
  readonly accuracy?: number;
  /** At which it ran, where a dial was set. */
  readonly sparsity?: number;
}

/** A frame, or a reply, that was asked for: what any system can be driven by. */
export interface Request {
  /** The model's name. */
  readonly model: string;
  /** The frame's number, from 0. */
  readonly frame: number;
  /** When it enters. */
  readonly arrivalMs: number;
  /** When it should be done. */
  readonly deadlineMs: number;
}
