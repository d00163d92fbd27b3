/**
 * `deno run -A bench/clang/main.ts [--runtime NAME]`: AssemblyScript's code for the main kernels against clang's for the same algorithms
 * (`kernels.c`, -O3 -msimd128), on the same memory, in turns, on every engine. Results must be the same bits.
 */
import { spawnSync } from "node:child_process";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { parseArgs } from "node:util";
import { ROOT } from "../../tools/prepare.ts";
import { runOnEngines } from "../engines.ts";

const { values } = parseArgs({ options: { runtime: { type: "string" } } });
const version = spawnSync("clang", ["--version"], { encoding: "utf8" });
if (version.status !== 0) {
  fail("there is no clang on the PATH: install clang and lld (apt install clang lld) and run it again");
}
console.error(version.stdout.split("\n")[0]);
mkdirSync(join(ROOT, "build", "bench"), { recursive: true });
const flags = [
  "--target=wasm32",
  "-O3",
  "-msimd128",
  "-nostdlib",
  "-ffreestanding",
  "-Wl,--no-entry",
  "-Wl,--import-memory",
  "-Wl,-z,stack-size=4096",
  // above the product's static data, in the same memory
  "-Wl,--global-base=65536",
];
const compiled = spawnSync("clang", [...flags, "-o", "build/bench/clang.wasm", "bench/clang/kernels.c"], {
  cwd: ROOT,
  encoding: "utf8",
});
if (compiled.status !== 0) {
  fail(
    `clang does not compile to WebAssembly here; it needs the wasm32 target and wasm-ld, from lld:\n${compiled.stderr}`,
  );
}
await runOnEngines("bench/clang/measure.ts", [], { only: values.runtime, relaxed: false });

function fail(why: string): never {
  console.error(`Cannot compare with clang: ${why}`);
  process.exit(1);
}
