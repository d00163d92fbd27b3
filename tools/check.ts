/** `deno task check`: build, types, lint, format and docs; everything of `deno task ok` but the tests. */
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { stop } from "esbuild";
import { bundle, declarations } from "./build.ts";
import { prepare, ROOT } from "./prepare.ts";

const FOLDERS = ["src", "tests", "tools", "bench", "examples"];

/** TypeScript files of the checkout's own folders. Those of `assembly/` are no TypeScript, and what a worker imports is known to wrangler and `tsc` alone. */
function sources(): string[] {
  return FOLDERS.filter((folder) => existsSync(join(ROOT, folder))).flatMap((folder) =>
    readdirSync(join(ROOT, folder), { recursive: true, encoding: "utf8" })
      .map((name) => `${folder}/${name}`)
      .filter((path) =>
        path.endsWith(".ts") && !/node_modules|assembly|edge-workers|parity_worker/.test(path)
      )
  );
}

function deno(what: string, ...args: string[]): boolean {
  const { status } = spawnSync(process.execPath, args, { cwd: ROOT, stdio: ["ignore", 2, 2] });
  if (status !== 0) console.error(`${what}: failed`);
  return status === 0;
}

await prepare();
await bundle();
await stop();
declarations();
const tsc = join(ROOT, "node_modules", "typescript", "bin", "tsc");
const passed = [
  deno("types of the worker", "run", "-A", tsc, "-p", "examples/edge-workers"),
  deno("types", "check", "--quiet", ...sources()),
  deno("lint", "lint", "--quiet"),
  deno("format", "fmt", "--check", "--quiet"),
  deno(
    "docs",
    "doc",
    "--quiet",
    "--lint",
    "src/mod.ts",
    "src/calibrate/mod.ts",
    "src/eval/mod.ts",
    "src/analyze/mod.ts",
    "src/search/mod.ts",
    "src/xr/mod.ts",
    "src/xr/real/mod.ts",
    "src/xr/plots.ts",
    "src/tiny.ts",
    "src/edge/mod.ts",
    "src/server/mod.ts",
  ),
];
if (passed.includes(false)) process.exit(1);
console.error("types, lint, format and docs are right");
