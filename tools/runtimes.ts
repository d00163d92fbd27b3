/** The runtimes that tests and benchmarks run on, pinned in a lock file of their own so that users never download them. */
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { ROOT } from "./prepare.ts";

/** Installs the pinned runtimes from their lock file, if the installed ones are not those. */
export function installRuntimes(): void {
  const folder = join(ROOT, "tests", "runtimes");
  const wanted = readFileSync(join(folder, "package-lock.json"), "utf8");
  const stamp = join(folder, "node_modules", "installed.json");
  if (existsSync(stamp) && readFileSync(stamp, "utf8") === wanted) return;
  console.error("installing the test runtimes …");
  const run = (command: string, args: string[]): void => {
    const { status } = spawnSync(command, args, {
      cwd: folder,
      stdio: ["ignore", 2, 2],
      shell: process.platform === "win32",
    });
    if (status !== 0) {
      throw new Error(
        `Cannot install the test runtimes: ${command} ${args.join(" ")}: exit status ${status}`,
      );
    }
  };
  run("npm", ["ci", "--ignore-scripts", "--no-audit", "--no-fund"]);
  // The package's own script puts the platform's program where `bin/bun.exe` is; no other script of a package is run.
  if (existsSync(join(folder, "node_modules", "bun"))) run("node", ["node_modules/bun/install.js"]);
  writeFileSync(stamp, wanted);
}
