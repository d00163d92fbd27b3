/** `deno task bench`: see `--help`; `tools/bench/schema.ts` says what `bench/results/latest.json` holds. Run it on a quiet machine. */
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { parseArgs } from "node:util";
import { stop } from "esbuild";
import { locateModel } from "../src/hub/locate.ts";
import { detectPlatform } from "../src/platform/detect.ts";
import { VERSION } from "../src/version.ts";
import { chartsOf, oldPlots } from "./bench/charts.ts";
import { findEngines, measureBuilds, output } from "./bench/engines.ts";
import { loadNow, machineNow } from "./bench/machine.ts";
import {
  HELP,
  kernelRequests,
  missingEverywhere,
  OPTIONS,
  type Options,
  readOptions,
  TOKEN_SPARSITY,
  tokenRequests,
  UsageError,
} from "./bench/plan.ts";
import { bennyVersion, bundleMicro, measureMicro } from "./bench/micro.ts";
import { measurePeers } from "./bench/peers.ts";
import { report } from "./bench/report.ts";
import {
  FORMAT,
  isOfModel,
  kernelsVersion,
  merge,
  type MicroRun,
  type Missing,
  parse,
  type PeerRun,
  type Results,
  type Run,
  stringify,
} from "./bench/schema.ts";
import { cliCommand, thisRuntime } from "../tests/support/runtimes.ts";
import { bundle } from "./build.ts";
import { installChromium } from "./chromium.ts";
import { prepare, ROOT } from "./prepare.ts";
import { installRuntimes } from "./runtimes.ts";

function optionsOfCommandLine(): Options | null {
  try {
    const { values } = parseArgs({ options: OPTIONS, strict: true });
    if (values.help) return null;
    return readOptions(values);
  } catch (error) {
    if (!(error instanceof UsageError || (error instanceof TypeError && "code" in error))) throw error;
    console.error(`error: ${error.message}`);
    process.exit(2);
  }
}

/** A model's file on this machine, and a recipe for it that Deno makes, whatever is measured. */
async function prepareModel(options: Options): Promise<{ model: string; recipe: string }> {
  const { cachedPath } = await locateModel(options.model, await detectPlatform());
  const model = cachedPath ?? options.model, recipe = join(ROOT, "build", "bench.safetensors");
  console.error("calibrating …");
  const tokens = options.quick ? "512" : "2048";
  await output([
    ...cliCommand(thisRuntime()),
    ...[
      "calibrate",
      "-m",
      model,
      "--tokens",
      tokens,
      "--sparsity",
      String(TOKEN_SPARSITY),
      "--rho",
      "1",
      "-o",
      recipe,
      "--quiet",
    ],
  ]);
  return { model, recipe };
}

async function main(options: Options): Promise<void> {
  const began = performance.now(), loadBefore = loadNow();
  const folder = options.out ?? join(ROOT, "bench", "results");
  await prepare();
  await bundle();
  await stop();
  const bytesOf = (build: string): Uint8Array => readFileSync(join(ROOT, "build", `kernels.${build}.wasm`));
  const kernels = await kernelsVersion(bytesOf("baseline"), bytesOf("relaxed"));
  installRuntimes();
  const wantsPage = options.engines.includes("chromium") || options.suites.includes("peers");
  const chromium = wantsPage ? await installChromium() : null;
  const runs: Run[] = [], micro: MicroRun[] = [], peers: PeerRun[] = [], missing: Missing[] = [];
  const { engines, missing: gone } = await findEngines(options.engines, chromium);
  missing.push(...missingEverywhere(gone, options.suites));
  const note = (line: string): void => console.error(line);

  const needsModel = options.suites.some(isOfModel);
  const { model, recipe } = needsModel ? await prepareModel(options) : { model: "", recipe: "" };
  for (const engine of engines) {
    const done = await measureBuilds(engine, (build) => [
      ...needsModel ? tokenRequests(options, build, model, recipe) : [],
      ...options.suites.includes("kernels") ? kernelRequests(options, build, engine.name) : [],
    ], note);
    runs.push(...done.runs);
    missing.push(...done.failed.map((each) => ({ ...each, engine: engine.name })));
  }
  if (options.suites.includes("micro")) {
    await bundleMicro();
    for (const engine of engines) {
      const done = await measureMicro(engine, join(folder, "micro"), options.quick, note);
      micro.push(...done.runs);
      missing.push(...done.failed);
    }
  }
  if (options.suites.includes("peers")) {
    peers.push(...await measurePeers(model, chromium, options.reps ?? (options.quick ? 3 : 5), note));
  }
  const results: Results = {
    format: FORMAT,
    date: new Date().toISOString().slice(0, 10),
    seconds: (performance.now() - began) / 1000,
    settings: {
      quick: options.quick,
      model: options.model,
      suites: options.suites,
      engines: engines.map(({ name }) => name),
      sparsity: TOKEN_SPARSITY,
    },
    machine: machineNow(loadBefore),
    versions: {
      rsparse: `rsparse ${VERSION}`,
      kernels,
      ...Object.fromEntries(engines.map(({ name, version }) => [name, version])),
      benny: bennyVersion(),
    },
    runs,
    micro,
    peers,
    missing,
  };
  await write(folder, merge(before(folder), results));
}

/** What earlier runs left; null if there is nothing, or it is in another form. */
function before(folder: string): Results | null {
  try {
    return parse(readFileSync(join(folder, "latest.json"), "utf8"));
  } catch {
    return null;
  }
}

/** Replaces what an earlier run left. */
async function write(folder: string, results: Results): Promise<void> {
  mkdirSync(folder, { recursive: true });
  const charts = await chartsOf(results);
  for (const file of oldPlots(readdirSync(folder), charts)) rmSync(join(folder, file));
  for (const { file, svg } of charts) writeFileSync(join(folder, file), svg);
  writeFileSync(join(folder, "latest.json"), stringify(results));
  const text = report(results, { title: `Benchmark of ${results.date}`, charts, folder: "", full: true });
  writeFileSync(join(folder, "latest.md"), text);
  console.log(
    report(results, { title: `Benchmark of ${results.date}`, charts: [], folder: "", full: false }),
  );
}

const options = optionsOfCommandLine();
if (options === null) console.log(HELP);
else await main(options);
