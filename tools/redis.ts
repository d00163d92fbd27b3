/** A Redis for the tests of the queue: the one that is there, else Debian's. npm has none that is not compiled on the spot. */
import { spawnSync } from "node:child_process";
import process from "node:process";
import { findRedis } from "../tests/support/redis.ts";

/** Its program, installed if there is none; or why there is none. */
export function installRedis(): { readonly program: string } | string {
  const here = findRedis();
  if (here !== null) return { program: here };
  if (process.platform !== "linux" || process.getuid?.() !== 0) {
    return "apt-get needs a Debian and its administrator";
  }
  console.error("installing a Redis for the tests …");
  for (const args of [["update", "-q"], ["-q", "install", "-y", "--no-install-recommends", "redis-server"]]) {
    const { status, error } = spawnSync("apt-get", args, {
      stdio: ["ignore", 2, 2],
      // its package would start a server that nobody asked for
      env: { ...process.env, DEBIAN_FRONTEND: "noninteractive", RUNLEVEL: "1" },
    });
    if (status !== 0) return `apt-get ${args.join(" ")}: ${error?.message ?? `exit status ${status}`}`;
  }
  const installed = findRedis();
  return installed === null ? "what was installed does not start" : { program: installed };
}
