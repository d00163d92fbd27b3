/**
 * `deno task bench [-m MODEL] [--reps N]`: decode, prefill and loading on every runtime and kernel build, one process after the other,
 * dense and with a recipe made for the run. Writes `bench/results/latest.json` and `latest.md`; run it on a quiet machine.
 */
import { spawnSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { cpus, totalmem } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { parseArgs } from "node:util";
import { stop } from "esbuild";
import { cliCommand, type Runtime, runtimes } from "../tests/support/runtimes.ts";
import { bundle } from "./build.ts";
import { prepare, ROOT } from "./prepare.ts";
import { installRuntimes } from "./runtimes.ts";

const SPARSITY = 0.5;

interface Stat {
  readonly median: number;
  readonly min: number;
  readonly max: number;
  readonly n: number;
}
interface Row {
  readonly name: string;
  readonly dtype: string;
  readonly sparsity: number;
  readonly variant: string;
  readonly tokensPerSecond?: Stat;
  readonly ms?: Stat;
  readonly speedup?: number;
}
interface Run {
  readonly engine: { readonly runtime: string; readonly kernels: string; readonly threads: number };
  readonly rows: readonly Row[];
}

/** What a command prints with `--json`. @throws {Error} If it fails; its messages have gone to stderr. */
function json(runtime: Runtime, args: readonly string[]): unknown {
  const [program, ...rest] = cliCommand(runtime);
  const options = [...rest, ...args, "--json", "--quiet"];
  const { status, stdout } = spawnSync(program!, options, {
    encoding: "utf8",
    stdio: ["ignore", "pipe", "inherit"],
    maxBuffer: 2 ** 26,
  });
  if (status !== 0) throw new Error(`${args.join(" ")} failed on ${runtime.name}: exit status ${status}`);
  return JSON.parse(stdout);
}

function table(runs: readonly Run[]): string {
  const lines = [
    "| runtime | kernels | what | dtype | variant | median | min to max | runs | speed-up |",
    "|---|---|---|---|---|---|---|---|---|",
  ];
  for (const { engine, rows } of runs) {
    for (const row of rows) {
      const stat = (row.tokensPerSecond ?? row.ms)!,
        unit = row.tokensPerSecond ? "tok/s" : "ms",
        digits = stat.median < 100 ? 1 : 0;
      const speedup = row.speedup === undefined ? "" : `${row.speedup.toFixed(2)}x`;
      lines.push(
        `| ${engine.runtime} | ${engine.kernels} | ${row.name} | ${row.dtype} | ${row.variant}${
          row.sparsity > 0 ? ` ${row.sparsity}` : ""
        } | ` +
          `${stat.median.toFixed(digits)} ${unit} | ${stat.min.toFixed(digits)} to ${
            stat.max.toFixed(digits)
          } | ${stat.n} | ${speedup} |`,
      );
    }
  }
  return lines.join("\n");
}

const { values } = parseArgs({
  options: {
    model: { type: "string", short: "m", default: "smollm2" },
    reps: { type: "string", default: "7" },
  },
});
await prepare();
await bundle();
await stop();
installRuntimes();
const recipe = join(ROOT, "build", "bench.safetensors"), common = ["-m", values.model, "--reps", values.reps];
const all = runtimes(), runs: Run[] = [];
json(all[0]!, [
  "calibrate",
  "-m",
  values.model,
  "--tokens",
  "2048",
  "--sparsity",
  String(SPARSITY),
  "--rho",
  "1",
  "-o",
  recipe,
]);
for (const runtime of all) {
  const seen = new Set<string>();
  for (const kernels of ["baseline", "auto"]) {
    const sparse = ["--recipe", recipe, "--sparsity", `0,${SPARSITY}`, "--kernels", kernels];
    const decode = json(runtime, ["bench", "decode", ...common, ...sparse]) as Run;
    if (seen.has(decode.engine.kernels)) continue;
    seen.add(decode.engine.kernels);
    const prefill = json(runtime, ["bench", "prefill", ...common, "--kernels", kernels]) as Run;
    const load = json(runtime, ["bench", "load", ...common, "--kernels", kernels]) as Run;
    runs.push({ engine: decode.engine, rows: [...decode.rows, ...prefill.rows, ...load.rows] });
    console.error(table(runs.slice(-1)));
  }
}
const machine = {
  cpu: cpus()[0]?.model ?? "unknown",
  cores: cpus().length,
  memoryBytes: totalmem(),
  platform: `${process.platform} ${process.arch}`,
};
const date = new Date().toISOString().slice(0, 10), folder = join(ROOT, "bench", "results");
mkdirSync(folder, { recursive: true });
writeFileSync(
  join(folder, "latest.json"),
  `${JSON.stringify({ date, machine, model: values.model, runs }, null, 1)}\n`,
);
writeFileSync(
  join(folder, "latest.md"),
  `# Benchmark of ${date}\n\n${values.model}, one thread; ${machine.cpu}, ${machine.cores} cores, ${machine.platform}. ` +
    `Variants take turns in one process; medians. Made by \`deno task bench\`.\n\n${table(runs)}\n`,
);
console.log(table(runs));
