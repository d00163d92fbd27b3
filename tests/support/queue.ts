/** Searches, evaluations and workers as processes, and a Redis for them. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import process from "node:process";
import { Redis } from "ioredis";
import { CLI } from "./cli.ts";
import { startRedis } from "./redis.ts";

/** The program while it runs. */
export interface Started {
  readonly child: ChildProcess;
  readonly ended: Promise<{ code: number | null; stderr: string }>;
  /** Whether it has ended. */
  readonly isOver: () => boolean;
  /** What it has said on stderr so far. */
  readonly said: () => string;
}

/** Starts the program, and gives what it says on stderr with its end. */
export function start(args: readonly string[]): Started {
  const [program, ...rest] = [...CLI, ...args] as [string, ...string[]];
  const child = spawn(program, rest, {
    stdio: ["ignore", "ignore", "pipe"],
    env: { ...process.env, NO_COLOR: "1" },
  });
  let stderr = "", isOver = false;
  child.stderr!.setEncoding("utf8").on("data", (text: string) => stderr += text);
  const ended = new Promise<{ code: number | null; stderr: string }>((resolve) =>
    child.on("close", (code) => {
      isOver = true;
      resolve({ code, stderr });
    })
  );
  return { child, ended, isOver: () => isOver, said: () => stderr };
}

/** Sends a signal to what may have ended already. */
export function send({ child }: Started, signal: NodeJS.Signals): void {
  try {
    process.kill(child.pid!, signal);
  } catch (error) {
    if ((error as { code?: unknown }).code !== "ESRCH") throw error;
  }
}

/** Waits for something, two minutes at most. */
export async function until(what: string, done: () => boolean | Promise<boolean>): Promise<void> {
  const end = Date.now() + 120_000;
  while (!await done()) {
    if (Date.now() > end) assert.fail(`waited two minutes for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/** What BullMQ calls the queue. */
export const QUEUE: string = "bull:rsparse-work";

/** What a test of workers has: a Redis, and programs that are ended with it. */
export interface Queued {
  readonly url: string;
  readonly client: Redis;
  readonly begin: (...args: string[]) => Started;
  readonly worker: (threads: number, ...more: string[]) => Started;
  /** Ends the Redis before the test's end. */
  readonly closeRedis: () => Promise<void>;
}

/** Runs a test with a Redis of its own; programs that it has started end with it. */
export async function withQueue(use: (queued: Queued) => Promise<void>): Promise<void> {
  const redis = await startRedis(), client = new Redis(redis.url), started: Started[] = [];
  client.on("error", () => {});
  const begin = (...args: string[]): Started => {
    const next = start(args);
    started.push(next);
    return next;
  };
  const worker = (threads: number, ...more: string[]): Started =>
    begin("worker", "--queue", redis.url, "--threads", String(threads), ...more);
  try {
    await use({ url: redis.url, client, begin, worker, closeRedis: () => redis.close() });
  } finally {
    for (const one of started) send(one, "SIGKILL");
    client.disconnect();
    await redis.close();
  }
}

/** The job that a worker holds, or null. */
export async function heldBy(client: Redis, { child }: Started): Promise<string | null> {
  for (const id of await client.lrange(`${QUEUE}:active`, 0, -1)) {
    if ((await client.hget(`${QUEUE}:${id}`, "pb"))?.endsWith(`-${child.pid}`)) return id;
  }
  return null;
}
