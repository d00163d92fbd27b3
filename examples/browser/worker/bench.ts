/** The cross-runtime benchmark in this browser: requests of `deno task bench --quick`, and results in the form of its `latest.json`. */
import type { BenchHost } from "../../../src/cli/bench/variants.ts";
import { fromBase64 } from "../../../src/format/base64.ts";
import type { LoadedRecipe } from "../../../src/mod.ts";
import type { ModelSource } from "../../../src/runtime/model.ts";
import { VERSION } from "../../../src/version.ts";
import { describeRequest, kernelRequests, tokenRequests } from "../../../tools/bench/plan.ts";
import { runRequest } from "../../../tools/bench/run_request.ts";
import {
  FORMAT,
  kernelsVersion,
  minuteNow,
  type Missing,
  type Request,
  type Results,
  type Run,
  type Suite,
} from "../../../tools/bench/schema.ts";
import type { BenchChoice, BenchRows, Progress } from "./protocol.ts";

/** As `bench/results/latest.json`, of an engine that is this browser. */
export interface PageResults extends Pick<Results, "format" | "date" | "seconds" | "versions"> {
  readonly settings: {
    readonly quick: true;
    readonly model: string | null;
    readonly suites: readonly Suite[];
    readonly sparsity: number | null;
  };
  readonly machine: {
    /** Logical processors that the browser says there are. */
    readonly cores: number;
    readonly platform: string;
    /** Whether the page could share memory between threads. */
    readonly isolated: boolean;
  };
  readonly runs: readonly (Omit<Run, "engine"> & { readonly engine: string })[];
  readonly missing: readonly (Omit<Missing, "engine"> & { readonly engine: string })[];
}

/** The model to measure; null: kernels only. */
export interface Subject {
  readonly name: string;
  readonly source: () => ModelSource;
  /** Null: it is measured dense only. */
  readonly recipe: LoadedRecipe | null;
}

/** Measures; what was asked for and fails is among the missing. Stopped, it ends with what there is. */
export async function runBenchmark(
  choice: BenchChoice,
  subject: Subject | null,
  tell: (event: Progress | BenchRows) => void,
  signal: AbortSignal,
): Promise<PageResults> {
  const began = performance.now(), engine = browserOf(navigator.userAgent);
  const requests = requestsOf(choice, subject, globalThis.crossOriginIsolated);
  const runs: PageResults["runs"][number][] = [], missing: PageResults["missing"][number][] = [];
  for (const [i, request] of requests.entries()) {
    if (signal.aborted) break;
    const what = describeRequest(request), started = performance.now();
    const host: BenchHost = {
      signal,
      note: () => {},
      // parts of a request count towards its share of the whole
      progress: {
        update: (_, done, total) =>
          tell({ what, done: i + done / (total ?? done + 1), total: requests.length }),
        end: () => {},
      },
      interruptions: () => null,
    };
    tell({ what, done: i, total: requests.length });
    try {
      const { engine: info, rows } = await runRequest(host, request, {
        model: () => subject!.source(),
        recipe: subject?.recipe ?? null,
      });
      tell({ threads: info.threads, rows });
      runs.push({
        engine: engine.name,
        what: request.what,
        kernels: info.kernels,
        threads: info.threads,
        threadsReason: info.threads < request.threads ? info.threadsReason : null,
        ...request.tokens === undefined ? {} : { tokens: request.tokens },
        at: minuteNow(),
        seconds: (performance.now() - started) / 1000,
        rows,
      });
    } catch (error) {
      if (signal.aborted) break;
      const reason = error instanceof Error ? error.message : String(error);
      missing.push({ suite: request.what, engine: engine.name, what, reason });
    }
  }
  return {
    format: FORMAT,
    date: new Date().toISOString().slice(0, 10),
    seconds: (performance.now() - began) / 1000,
    settings: {
      quick: true,
      model: subject?.name ?? null,
      suites: [...new Set(requests.map(({ what }) => what))],
      sparsity: subject?.recipe?.recipe.sparsity ?? null,
    },
    machine: {
      cores: navigator.hardwareConcurrency,
      platform: navigator.userAgent,
      isolated: globalThis.crossOriginIsolated,
    },
    versions: {
      rsparse: `rsparse ${VERSION}`,
      kernels: await kernelsHere(),
      [engine.name]: engine.version,
    },
    runs,
    missing,
  };
}

/** What is measured, in its order. */
export function requestsOf(choice: BenchChoice, subject: Subject | null, isolated: boolean): Request[] {
  const requests: Request[] = [];
  if (choice.tokens && subject !== null) {
    const suites = ["decode", "prefill", "load"] as const;
    const sparsity = subject.recipe === null ? [0] : [0, subject.recipe.recipe.sparsity];
    requests.push(
      ...tokenRequests({ quick: true, reps: null, suites }, "auto", subject.name, "recipe")
        .map((request) => request.sparsity === undefined ? request : { ...request, sparsity }),
    );
  }
  if (choice.kernels) requests.push(...kernelRequests({ quick: true, reps: null }, "auto", "chromium"));
  return requests.filter(({ threads }) => threads === 1 || isolated);
}

/** A browser's name and version. */
export function browserOf(userAgent: string): { name: string; version: string } {
  for (
    const [name, pattern] of [
      ["firefox", /Firefox\/([\d.]+)/],
      ["edge", /Edg\/([\d.]+)/],
      ["chromium", /Chrome\/([\d.]+)/],
      ["safari", /Version\/([\d.]+).*Safari\//],
    ] as const
  ) {
    const version = pattern.exec(userAgent)?.[1];
    if (version !== undefined) return { name, version: `${name} ${version}` };
  }
  return { name: "browser", version: userAgent };
}

async function kernelsHere(): Promise<string> {
  const [baseline, relaxed] = await Promise.all([
    import("../../../build/kernels_baseline.js"),
    import("../../../build/kernels_relaxed.js"),
  ]);
  return await kernelsVersion(fromBase64(baseline.default), fromBase64(relaxed.default));
}
