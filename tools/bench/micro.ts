/** Micro-benchmarks of every kernel on every engine: benny in runtimes, the same cases by our own clock in pages, where benny cannot run. */
import { mkdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { build, stop } from "esbuild";
import { runInChromium } from "../../tests/support/chromium.ts";
import { BUNDLE } from "../build.ts";
import { ROOT } from "../prepare.ts";
import { type Engine, output } from "./engines.ts";
import { type MicroCase, type MicroRun, minuteNow, type Missing } from "./schema.ts";

const BUNDLED = join(ROOT, "build", "bench", "micro.mjs");

/** One bundle for all runtimes: Node 20 reads no TypeScript. */
export async function bundleMicro(): Promise<void> {
  await build({ ...BUNDLE, splitting: false, entryPoints: ["bench/micro/run.ts"], outfile: BUNDLED });
  await stop();
}

/** Version of benny, which the report names. */
export function bennyVersion(): string {
  const text = readFileSync(join(ROOT, "node_modules", "benny", "package.json"), "utf8");
  return `benny ${(JSON.parse(text) as { version: string }).version}`;
}

/**
 * Measures each build that the engine has.
 *
 * @param folder where benny's files go, a folder a run
 * @param quick  the engine's best build only, and half the time
 */
export async function measureMicro(
  engine: Engine,
  folder: string,
  quick: boolean,
  note: (line: string) => void,
): Promise<{ runs: MicroRun[]; failed: Missing[] }> {
  const runs: MicroRun[] = [], failed: Missing[] = [];
  for (const kernels of ["relaxed", "baseline"]) {
    rmSync(join(folder, `${engine.name}-${kernels}`), { recursive: true, force: true });
  }
  for (const kernels of ["relaxed", "baseline"] as const) {
    if (quick && runs.length > 0) break;
    const began = performance.now();
    try {
      const cases = engine.runtime === null
        ? await inPage(kernels, quick ? 9 : 21)
        : await inRuntime(engine, kernels, folder, quick ? 0.05 : 0.2);
      // an engine without relaxed SIMD has no cases of it
      if (cases.length === 0) continue;
      runs.push({
        engine: engine.name,
        kernels,
        at: minuteNow(),
        harness: engine.runtime === null ? "own clock" : bennyVersion(),
        cases,
      });
      note(
        `${engine.version}: micro-benchmarks ${kernels}: ${
          ((performance.now() - began) / 1000).toFixed(1)
        } s`,
      );
    } catch (error) {
      const reason = (error instanceof Error ? error.message : String(error)).split("\n")[0]!;
      failed.push({ suite: "micro", engine: engine.name, what: kernels, reason });
      note(`${engine.version}: micro-benchmarks ${kernels}: failed: ${reason}`);
    }
  }
  return { runs, failed };
}

function inPage(build: string, samples: number): Promise<MicroCase[]> {
  return runInChromium<MicroCase[]>("bench/micro/page.ts", {
    argument: { build, samples },
    timeoutMs: 10 * 60_000,
  });
}

async function inRuntime(
  engine: Engine,
  build: string,
  folder: string,
  seconds: number,
): Promise<MicroCase[]> {
  const out = join(ROOT, "build", "bench", `micro-${engine.name}-${build}.json`);
  const own = join(folder, `${engine.name}-${build}`);
  mkdirSync(join(ROOT, "build", "bench"), { recursive: true });
  await output([...engine.runtime!.command, BUNDLED, build, String(seconds), out, own]);
  return JSON.parse(readFileSync(out, "utf8")) as MicroCase[];
}
