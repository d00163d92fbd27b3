/** `deno task bench` in Chromium: a request of the runner, on the paths of this machine. */
import type { Row } from "../../src/cli/bench/rows.ts";
import type { BenchHost } from "../../src/cli/bench/variants.ts";
import type { EngineInfo } from "../../src/runtime/model.ts";
import { runRequest } from "./run_request.ts";
import type { Request } from "./schema.ts";

/** A page knows nothing of the system's scheduler. */
const HOST: BenchHost = {
  signal: new AbortController().signal,
  note: () => {},
  progress: { update: () => {}, end: () => {} },
  interruptions: () => null,
};

/** What `rsparse bench --json` prints. */
export function main(request: Request): Promise<{ engine: EngineInfo; rows: readonly Row[] }> {
  const { model, recipe } = request;
  return runRequest(HOST, request, {
    // one file from bytes that the page has fetched, what a page does after a download; a model of several files is fetched each time
    model: async (what) =>
      what === "load" && model!.endsWith(".gguf") ? await (await fetch(`/fs${model}`)).blob() : model!,
    recipe: recipe ?? null,
  });
}
