/** From an error to an exit status and the one or two lines that a person reads. */

/** Arguments that make no sense together, or input on stdin that is not what the command reads: exit status 2. */
export class UsageError extends Error {
  /** Always `"UsageError"`. */
  override readonly name = "UsageError";
}

/** Exit statuses of every command. */
export const EXIT = { success: 0, failure: 1, usage: 2, interrupted: 130 } as const;

/** The exit status for an error that a command ended with. */
export function exitStatusOf(error: unknown): number {
  if (error instanceof UsageError) return EXIT.usage;
  return isAbort(error) ? EXIT.interrupted : EXIT.failure;
}

/** What is printed for an error: at most two lines, or with `debug` everything that is known of it. */
export function describeError(error: unknown, debug: boolean): string {
  if (!(error instanceof Error)) return `error: ${String(error)}`;
  if (debug) return `error: ${error.stack ?? error.message}${causesOf(error)}`;
  if (isAbort(error)) return "interrupted";
  const lines = error.message.split("\n");
  if (isForeseen(error)) return `error: ${lines.slice(0, 2).join("\n")}`;
  return `error: ${error.name}: ${lines[0]}\nrun it again with --debug to see where`;
}

function isAbort(error: unknown): boolean {
  return error instanceof Error && error.name === "AbortError";
}

/** Thrown on purpose, by this project or the operating system: its message is for people. */
function isForeseen(error: Error): boolean {
  if ("code" in error && typeof error.code === "string") return true;
  // JavaScript engines begin some of their own messages with the same word.
  const engine =
    /^Cannot (read|set) propert|^Cannot (access|convert|destructure|mix|call|assign|delete|redefine) /;
  return error.name === "FormatError" || (error.message.startsWith("Cannot ") && !engine.test(error.message));
}

function causesOf(error: Error): string {
  let text = "";
  for (let cause = error.cause; cause instanceof Error; cause = cause.cause) {
    text += `\ncaused by: ${cause.stack ?? cause.message}`;
  }
  return text;
}
