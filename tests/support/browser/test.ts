/** Stands in for `node:test` in a page: tests are kept as they are defined, and run by {@linkcode runTests}. */

interface Options {
  readonly skip?: boolean | string;
}

type Body = () => void | Promise<void>;

const kept: { name: string; body: Body; skip: boolean | string }[] = [];

/** What came of one test; `error` is null where it passed or was skipped. */
export interface Outcome {
  readonly name: string;
  readonly skipped: boolean;
  readonly error: string | null;
}

/** As `node:test` has it, without subtests. */
export function test(name: string, options: Options | Body, body?: Body): void {
  if (typeof options === "function") kept.push({ name, body: options, skip: false });
  else kept.push({ name, body: body!, skip: options.skip ?? false });
}

/** Runs what was defined since the last call, one after the other. */
export async function runTests(onOutcome: (outcome: Outcome) => void): Promise<void> {
  for (const { name, body, skip } of kept.splice(0)) {
    let error: string | null = null;
    if (skip === false) {
      try {
        await body();
      } catch (cause) {
        error = cause instanceof Error ? `${cause.name}: ${cause.message}\n${cause.stack}` : String(cause);
      }
    }
    onOutcome({ name, skipped: skip !== false, error });
  }
}
