/** The engines that are measured, each in a process of its own for every request. */
import { spawn } from "node:child_process";
import process from "node:process";
import { type Chromium, runInChromium } from "../../tests/support/chromium.ts";
import { cliCommand, type Runtime, runtimes } from "../../tests/support/runtimes.ts";
import { ROOT } from "../prepare.ts";
import { type Answer, argumentsOf, describeRequest, runOf } from "./plan.ts";
import { type EngineName, ENGINES, type Missing, type Request, type Run } from "./schema.ts";

/** Longest time for one request: the largest shape in f32 on a slow machine takes minutes. */
const TIMEOUT_MS = 20 * 60_000;

/** Something to measure on. */
export interface Engine {
  readonly name: EngineName;
  /** Such as `deno 2.9.6`. */
  readonly version: string;
  /** Null for the browser. */
  readonly runtime: Runtime | null;
}

/** Those of `wanted` that are here; why others are not. */
export async function findEngines(
  wanted: readonly EngineName[],
  chromium: Chromium | string | null,
): Promise<{ engines: Engine[]; missing: Omit<Missing, "suite">[] }> {
  const found = runtimes(), engines: Engine[] = [], missing: Omit<Missing, "suite">[] = [];
  for (const name of ENGINES.filter((name) => wanted.includes(name))) {
    const runtime = found.find((runtime) => runtime.name === name);
    if (name === "chromium" && chromium !== null && typeof chromium !== "string") {
      engines.push({ name, version: chromium.version, runtime: null });
    } else if (runtime) {
      const [program] = runtime.command as [string], text = await output([program, "--version"]);
      engines.push({ name, version: `${name.split("-")[0]} ${/\d+\.\d+\.\d+/.exec(text)?.[0]}`, runtime });
    } else {
      const reason = typeof chromium === "string" && name === "chromium" ? chromium : "not to be had here";
      missing.push({ engine: name, what: "everything", reason });
    }
  }
  return { engines, missing };
}

/** Runs a request to its end. @throws {Error} If it fails. */
export async function measure(engine: Engine, request: Request): Promise<Run> {
  const began = performance.now();
  const answer = engine.runtime === null
    ? await runInChromium<Answer>("tools/bench/page.ts", {
      argument: request,
      paths: true,
      timeoutMs: TIMEOUT_MS,
    })
    : JSON.parse(
      await output([...cliCommand(engine.runtime), ...argumentsOf(request), "--json", "--quiet"]),
    ) as Answer;
  return runOf(engine.name, request, answer, (performance.now() - began) / 1000);
}

/** Runs requests one after the other; of the second build only where the engine has another one. What fails is noted, and the others run. */
export async function measureBuilds(
  engine: Engine,
  requestsOf: (kernels: "auto" | "baseline") => readonly Request[],
  note: (line: string) => void,
): Promise<{ runs: Run[]; failed: Omit<Missing, "engine">[] }> {
  const runs: Run[] = [], failed: Omit<Missing, "engine">[] = [];
  for (const kernels of ["auto", "baseline"] as const) {
    for (const request of requestsOf(kernels)) {
      const what = describeRequest(request);
      try {
        const run = await measure(engine, request);
        runs.push(run);
        note(`${engine.version}: ${what}: ${run.seconds.toFixed(1)} s`);
      } catch (error) {
        const reason = error instanceof Error ? error.message : String(error);
        failed.push({ suite: request.what, what, reason: reason.split("\n")[0]! });
        note(`${engine.version}: ${what}: failed: ${reason}`);
      }
    }
    if (runs[0]?.kernels === "baseline") break;
  }
  return { runs, failed };
}

/** What a program prints. @throws {Error} With the last line of its messages if it fails. */
export function output(
  [program, ...args]: readonly string[],
  options: { cwd?: string } = {},
): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn(program!, args, {
      cwd: options.cwd ?? ROOT,
      stdio: ["ignore", "pipe", "pipe"],
      env: { ...process.env, NO_COLOR: "1", RSPARSE_DENO: process.execPath },
    });
    let stdout = "", stderr = "";
    const timer = setTimeout(() => child.kill("SIGKILL"), TIMEOUT_MS);
    child.stdout.setEncoding("utf8").on("data", (text: string) => stdout += text);
    child.stderr.setEncoding("utf8").on("data", (text: string) => stderr = (stderr + text).slice(-4000));
    child.on("error", (error) => {
      clearTimeout(timer);
      reject(error);
    });
    child.on("close", (code, signal) => {
      clearTimeout(timer);
      const said = stderr.trim().split("\n").find((line) => line.startsWith("error")) ??
        stderr.trim().split("\n").at(-1);
      if (code === 0) resolve(stdout);
      else reject(new Error(`${signal ?? `exit status ${code}`}: ${said}`));
    });
  });
}
