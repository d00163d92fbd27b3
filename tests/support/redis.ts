/** A Redis of a test's own. */
import { spawn, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** What is looked for, the first that starts. */
const NAMES = ["redis-server", "valkey-server"];

/** A server that runs. */
export interface RedisServer {
  /** `redis://127.0.0.1:…` */
  readonly url: string;
  /** Ends it and takes its folder away. */
  close(): Promise<void>;
}

/** The program on the path, or null. */
export function findRedis(): string | null {
  return NAMES.find((name) => spawnSync(name, ["--version"]).status === 0) ?? null;
}

/**
 * Starts one that keeps nothing, on a free port.
 *
 * @throws {Error} If there is none on this machine: a queue that can't be tested is a failure, not a skip.
 */
export async function startRedis(): Promise<RedisServer> {
  const program = findRedis();
  if (program === null) {
    throw new Error(
      `Cannot test the queue: neither ${
        NAMES.join(" nor ")
      } is on the PATH, and deno task test could not install one: ` +
        "apt-get install redis-server, brew install redis, or the like",
    );
  }
  const folder = mkdtempSync(join(tmpdir(), "rsparse-redis-")), port = await freePort();
  const args = [
    "--port",
    String(port),
    "--bind",
    "127.0.0.1",
    "--save",
    "",
    "--appendonly",
    "no",
    "--dir",
    folder,
  ];
  const child = spawn(program, args, { stdio: ["ignore", "pipe", "ignore"] });
  let said = "";
  const ended = new Promise<void>((resolve) => child.on("close", () => resolve()));
  await new Promise<void>((resolve, reject) => {
    child.on("error", reject);
    child.on("close", () => reject(new Error(`${program} ended: ${said}`)));
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      said += text;
      if (/ready to accept connections/i.test(said)) resolve();
    });
  });
  return {
    url: `redis://127.0.0.1:${port}`,
    async close() {
      child.kill("SIGKILL");
      await ended;
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.on("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address() as AddressInfo;
      server.close(() => resolve(port));
    });
  });
}
