/** Benchmarks of kernels outside the product: compiles what they need, and runs one measurement on every engine. */
import { spawnSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { build, stop } from "esbuild";
import { BUNDLE, sourceAtHome } from "../tools/build.ts";
import { compileAssembly } from "../tools/build_kernels.ts";
import { prepare, ROOT } from "../tools/prepare.ts";
import { installRuntimes } from "../tools/runtimes.ts";
import { runtimes } from "../tests/support/runtimes.ts";

/** Compiles AssemblyScript to `build/bench/NAME.wasm` and, with relaxed SIMD, `NAME.relaxed.wasm`. */
export async function compileBench(name: string, entry: string): Promise<void> {
  const out = join(ROOT, "build", "bench");
  mkdirSync(out, { recursive: true });
  // static data lies above the product's, whose memory it shares
  const flags = [entry, "-O3", "--noAssert", "--memoryBase", "65536"];
  writeFileSync(join(out, `${name}.wasm`), await compileAssembly(name, flags));
  const relaxed = await compileAssembly(name, [...flags, "--enable", "relaxed-simd"]);
  writeFileSync(join(out, `${name}.relaxed.wasm`), relaxed);
}

/**
 * Runs `script` on every engine, one after the other, and prints what it prints.
 *
 * @param only    name of the one runtime to run on
 * @param relaxed whether Node 20 runs once more with its flag for relaxed SIMD
 */
export async function runOnEngines(
  script: string,
  args: readonly string[],
  { only, relaxed }: { readonly only: string | undefined; readonly relaxed: boolean },
): Promise<void> {
  await prepare();
  installRuntimes();
  const outfile = join(ROOT, "build", "bench", script.replaceAll("/", "_").replace(/\.ts$/, ".mjs"));
  await build({
    ...BUNDLE,
    splitting: false,
    entryPoints: [script],
    outfile,
    plugins: [{
      name: "own-paths",
      setup: (plugin) =>
        void plugin.onLoad(
          { filter: /[\\/](src|bench|tools)[\\/].*\.ts$/ },
          ({ path }) => ({ contents: sourceAtHome(path), loader: "ts" }),
        ),
    }],
  });
  await stop();
  for (const { name, command } of runtimes()) {
    if (name === "node-24" || (only !== undefined && only !== name)) continue;
    for (const flags of relaxed && name === "node-20" ? [[], ["--experimental-wasm-relaxed-simd"]] : [[]]) {
      const [program, ...rest] = command;
      const { status } = spawnSync(program!, [...rest, ...flags, outfile, ...args], {
        cwd: ROOT,
        stdio: ["ignore", "inherit", "inherit"],
      });
      if (status !== 0) process.exit(1);
    }
  }
}
