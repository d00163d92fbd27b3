/** Programs that only the system's packages have, for tests. */
import { spawnSync } from "node:child_process";
import process from "node:process";

/** Installs a package of Debian. @throws {Error} Where there is no Debian, or one is not its administrator. */
export function installFromDebian(name: string): void {
  if (process.platform !== "linux" || process.getuid?.() !== 0) {
    throw new Error("apt-get needs a Debian and its administrator");
  }
  for (const args of [["update", "-q"], ["-q", "install", "-y", "--no-install-recommends", name]]) {
    const { status, error } = spawnSync("apt-get", args, {
      stdio: ["ignore", 2, 2],
      // some packages would start a server that nobody asked for
      env: { ...process.env, DEBIAN_FRONTEND: "noninteractive", RUNLEVEL: "1" },
    });
    if (status !== 0) {
      throw new Error(`apt-get ${args.join(" ")}: ${error?.message ?? `exit status ${status}`}`);
    }
  }
}
