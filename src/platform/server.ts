/** What Deno, Node and Bun have in common: Node's built-in modules. */
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { openAsBlob } from "node:fs";
import { mkdir, open, readdir, rename, rm, stat, utimes } from "node:fs/promises";
import { availableParallelism, cpus, freemem, homedir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { parentPort, Worker, workerData } from "node:worker_threads";
import type { ParentThread, Platform } from "./platform.ts";

/** Bytes read at a time for hashing: larger ones were no faster (98 MB in 0.1 s on Deno). */
const HASH_CHUNK = 4 << 20;
/** How often the holder of a lock says that it lives, and after how long a silence it counts as dead. */
const LOCK_BEAT_MS = 2_000, LOCK_DEAD_MS = 15_000;

/** A platform with files, called `runtime`, such as `deno 2.9.6`. */
export function serverPlatform(runtime: string): Platform {
  return {
    runtime,
    hasFiles: true,
    env,
    cacheDir,
    async stat(path) {
      try {
        const found = await stat(path);
        return {
          kind: found.isDirectory() ? "folder" : "file",
          size: found.size,
          modified: found.mtimeMs,
        };
      } catch (error) {
        if (hasCode(error, "ENOENT", "ENOTDIR")) return null;
        throw error;
      }
    },
    openBlob: (path) => openAsBlob(path),
    list: async (path) => (await readdir(path)).sort(),
    makeDir: async (path) => void await mkdir(path, { recursive: true }),
    remove: (path) => rm(path, { recursive: true, force: true }),
    rename: (from, to) => rename(from, to),
    async openWriter(path, { truncate = false } = {}) {
      const file = await open(path, truncate ? "w" : "a");
      return {
        async write(bytes) {
          for (let done = 0; done < bytes.length;) {
            done += (await file.write(bytes, done, bytes.length - done)).bytesWritten;
          }
        },
        close: () => file.close(),
      };
    },
    async sha256(blobs, onProgress) {
      const hash = createHash("sha256");
      let bytes = 0;
      for (const blob of blobs) {
        for (let start = 0; start < blob.size; start += HASH_CHUNK) {
          const chunk = new Uint8Array(await blob.slice(start, start + HASH_CHUNK).arrayBuffer());
          hash.update(chunk);
          bytes += chunk.length;
          onProgress?.(bytes);
        }
      }
      return hash.digest("hex");
    },
    rssBytes: () => process.memoryUsage.rss(),
    uptimeMs: () => process.uptime() * 1000,
    tryLock,
    cpu: () => ifAllowed(() => cpus()[0]?.model, undefined) ?? "",
    processors: () => availableParallelism(),
    startWorker,
    startThread,
    parentThread,
    freeBytes: () => ifAllowed(freeBytes, null),
    run,
  };
}

function hasCode(error: unknown, ...codes: string[]): boolean {
  return error instanceof Error && "code" in error && codes.includes(String(error.code));
}

function env(name: string): string | undefined {
  try {
    return process.env[name] || undefined;
  } catch {
    // Deno without --allow-env: as if nothing were set.
    return undefined;
  }
}

function cacheDir(): string {
  const own = env("RSPARSE_HOME");
  if (own) return own;
  const xdg = env("XDG_CACHE_HOME");
  if (xdg) return join(xdg, "rsparse");
  switch (process.platform) {
    case "darwin":
      return join(homedir(), "Library", "Caches", "rsparse");
    case "win32":
      return join(env("LOCALAPPDATA") ?? join(homedir(), "AppData", "Local"), "rsparse");
    default:
      return join(homedir(), ".cache", "rsparse");
  }
}

/** A file with a heartbeat, not a process id: caches are shared between containers, which don't see each other's ids. */
async function tryLock(path: string): Promise<{ release(): Promise<void> } | null> {
  for (let attempt = 0; attempt < 2; attempt++) {
    try {
      await (await open(path, "wx")).close();
      const beat = setInterval(() => {
        const now = new Date();
        // The file may be gone: someone emptied the cache. The download itself will say so.
        utimes(path, now, now).catch(() => {});
      }, LOCK_BEAT_MS);
      beat.unref();
      return {
        async release() {
          clearInterval(beat);
          await rm(path, { force: true });
        },
      };
    } catch (error) {
      if (!hasCode(error, "EEXIST")) throw error;
      const found = await stat(path).catch(() => null);
      if (found && Date.now() - found.mtimeMs < LOCK_DEAD_MS) return null;
      await rm(path, { force: true });
    }
  }
  return null;
}

/**
 * Node's workers, in Deno and Bun too: Deno's own cannot be made not to keep the process alive, and one that sleeps in `Atomics.wait` when it is
 * terminated lets no process end (2.9.6).
 */
function startWorker(
  code: string,
  data: unknown,
  events: { message(message: unknown): void; end(reason: string): void },
): { terminate(): Promise<void> } {
  const worker = new Worker(
    `const { parentPort, workerData } = require("node:worker_threads");
(${code})(workerData, (message) => parentPort.postMessage(message));`,
    // no arguments of this process: a module that it loads first is not for the worker
    { eval: true, workerData: data, execArgv: [] },
  );
  let reason = "it ended";
  worker.on("message", events.message);
  worker.on("error", (error) => reason = String(error));
  worker.on("exit", () => events.end(reason));
  worker.unref();
  return { terminate: async () => void await worker.terminate() };
}

function startThread(
  url: string,
  data: unknown,
  events: { message(message: unknown): void; end(reason: string): void },
): { post(message: unknown): void; terminate(): Promise<void> } {
  const worker = new Worker(new URL(url), { workerData: data, execArgv: [] });
  let reason = "it ended";
  worker.on("message", events.message);
  worker.on("error", (error) => reason = String(error));
  worker.on("exit", () => events.end(reason));
  return {
    post: (message) => worker.postMessage(message),
    terminate: async () => void await worker.terminate(),
  };
}

function parentThread(): ParentThread | null {
  const port = parentPort;
  if (port === null) return null;
  return {
    data: workerData,
    post: (message) => port.postMessage(message),
    onMessage: (listen) => void port.on("message", listen),
  };
}

/** What asks the system; Deno without --allow-sys answers by an error: as if it could not be known. */
function ifAllowed<T, U>(ask: () => T, otherwise: U): T | U {
  try {
    return ask();
  } catch {
    return otherwise;
  }
}

/** Of the machine, or of the container that the process is in. */
function freeBytes(): number {
  const limit = process.constrainedMemory?.() ?? 0, free = freemem();
  // without a limit it is 0, or a number beyond any memory
  return limit > 0 && limit < 2 ** 50 ? Math.min(free, Math.max(limit - process.memoryUsage.rss(), 0)) : free;
}

function run(
  command: string,
  args: readonly string[],
  options: { signal?: AbortSignal } = {},
): Promise<{ code: number; stdout: string; stderr: string }> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, [...args], { stdio: ["ignore", "pipe", "pipe"], signal: options.signal });
    let stdout = "", stderr = "";
    child.stdout.setEncoding("utf8").on("data", (text: string) => stdout += text);
    child.stderr.setEncoding("utf8").on("data", (text: string) => stderr += text);
    child.on("error", reject);
    child.on("close", (code) => resolve({ code: code ?? 1, stdout, stderr }));
  });
}
