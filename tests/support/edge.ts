/** The edge examples as they are deployed: bundled into folders of their own, and started by what runs them. */
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { build, stop } from "esbuild";
import { edgeBundle } from "../../tools/build.ts";
import { type RunningProgram, startProgram } from "./process.ts";
import { ROOT, rootPath } from "./shared.ts";

/** The examples, by their folder's end. */
export const EDGES = ["deno", "workers", "supabase"] as const;
/** One of {@linkcode EDGES}. */
export type Edge = (typeof EDGES)[number];

/** Where each begins, and the kernels that it asks for. */
const ENTRIES: {
  readonly [edge in Edge]: { readonly entry: string; readonly kernels: "baseline" | "relaxed" };
} = {
  deno: { entry: "examples/edge-deno/main.ts", kernels: "relaxed" },
  workers: { entry: "examples/edge-workers/worker.ts", kernels: "baseline" },
  supabase: { entry: "examples/edge-supabase/functions/tiny/index.ts", kernels: "baseline" },
};

/** What a worker imports that is no code. */
const WORKER_FILES = ["rsparse/kernels.baseline.wasm", "rsparse/tiny.rsparse"];

/** A bundled example. */
export interface BundledEdge {
  readonly edge: Edge;
  readonly folder: string;
  /** Its code, its kernels and the model, in the folder. */
  readonly code: string;
  readonly kernels: string;
  readonly model: string;
}

/** Bundles an example, or for workers another entry, into a folder. */
export async function bundleEdge(
  edge: Edge,
  folder: string,
  entry: string = ENTRIES[edge].entry,
): Promise<BundledEdge> {
  mkdirSync(folder, { recursive: true });
  const { kernels } = ENTRIES[edge], kernelsFile = `kernels.${kernels}.wasm`;
  await build({
    ...edgeBundle(join(folder, "main.js")),
    entryPoints: [entry],
    alias: { "rsparse/edge": join(ROOT, "src/edge/mod.ts"), "rsparse/tiny": join(ROOT, "src/tiny.ts") },
    external: WORKER_FILES,
    define: { RSPARSE_FOLDERS: JSON.stringify({ models: "./", kernels: "./" }) },
  });
  await stop();
  copyFileSync(rootPath(`build/${kernelsFile}`), join(folder, kernelsFile));
  copyFileSync(rootPath("models/tiny.rsparse"), join(folder, "tiny.rsparse"));
  if (edge === "workers") writeFileSync(join(folder, "config.capnp"), WORKERD_CONFIG);
  return { edge, folder, code: "main.js", kernels: kernelsFile, model: "tiny.rsparse" };
}

/** As wrangler has it: modules by the names that the worker imports. */
const WORKERD_CONFIG = `using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [(name = "main", worker = .main)],
  sockets = [(name = "http", address = "127.0.0.1:0", http = (), service = "main")],
);
const main :Workerd.Worker = (
  modules = [
    (name = "main.js", esModule = embed "main.js"),
    (name = "${WORKER_FILES[0]}", wasm = embed "kernels.baseline.wasm"),
    (name = "${WORKER_FILES[1]}", data = embed "tiny.rsparse"),
  ],
  bindings = [(name = "API_KEY", fromEnvironment = "API_KEY")],
  compatibilityDate = "2026-11-01",
);
`;

/** The pinned workerd, or null where npm has none for this platform. */
export function findWorkerd(): string | null {
  const platform = { linux: "linux", darwin: "darwin", win32: "windows" }[process.platform as string];
  const cpu = process.arch === "arm64" ? "arm64" : "64";
  const path = rootPath(`tests/runtimes/node_modules/@cloudflare/workerd-${platform}-${cpu}/bin/workerd`);
  return existsSync(path) ? path : null;
}

/** An example that runs. */
export interface RunningEdge {
  readonly url: string;
  readonly pid: number;
  /** By `performance.now()`: when its process was started. */
  readonly startedAt: number;
  /** What it has written to stderr so far. */
  stderr(): string;
  stop(): Promise<void>;
}

/** Starts a bundled example on a free port; it may not listen yet. Deno's have no more permissions than these: their port and their folder. */
export async function startEdge(
  edge: BundledEdge,
  deno: string,
  env: Readonly<Record<string, string>> = {},
): Promise<RunningEdge> {
  const { folder } = edge;
  if (edge.edge === "workers") {
    const workerd = findWorkerd();
    if (workerd === null) throw new Error("Cannot run workerd: npm has none for this platform");
    const command = [workerd, "serve", "--control-fd=1", join(folder, "config.capnp")];
    return await start(command, env, async ({ says }) => Number((await says(/"port":\s*(\d+)/))[1]));
  }
  const port = await freePort(), read = `--allow-read=${folder}`;
  // what deployed code is served by chooses the port: here a preload does
  const preload = join(mkdtempSync(join(tmpdir(), "rsparse-edge-")), "port.js");
  writeFileSync(
    preload,
    `const { serve } = Deno; Deno.serve = (handler) => serve({ port: ${port}, hostname: "127.0.0.1", onListen() {} }, handler);`,
  );
  const command = [
    ...[deno, "run"],
    "--no-prompt",
    "--no-config",
    "--no-remote",
    `--allow-net=127.0.0.1:${port}`,
    read,
    "--preload",
    preload,
    join(folder, "main.js"),
  ];
  const running = await start(command, env, () => port);
  return {
    ...running,
    async stop() {
      await running.stop();
      rmSync(join(preload, ".."), { recursive: true, force: true });
    },
  };
}

async function start(
  command: readonly string[],
  env: Readonly<Record<string, string>>,
  port: (program: RunningProgram) => number | Promise<number>,
): Promise<RunningEdge> {
  const startedAt = performance.now(), program = startProgram(command, env), { pid, stderr } = program;
  return {
    url: `http://127.0.0.1:${await port(program)}`,
    pid,
    startedAt,
    stderr,
    async stop() {
      program.send("SIGKILL");
      await program.ended;
    },
  };
}

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer().on("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address() as { port: number };
      server.close(() => resolve(port));
    });
  });
}

/** Asks until someone listens. */
export async function ask(url: string, body: unknown, init: RequestInit = {}): Promise<Response> {
  for (let tries = 0;; tries++) {
    try {
      return await fetch(url, {
        method: "POST",
        body: JSON.stringify(body),
        ...init,
        headers: { "content-type": "application/json", ...init.headers as Record<string, string> },
      });
    } catch (error) {
      if (tries > 2000 || init.signal?.aborted) throw error;
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  }
}

/** A stream of chat: the text of each part, and when it came. */
export interface Streamed {
  readonly parts: readonly { readonly text: string; readonly at: number }[];
  readonly finish: string | null;
  readonly done: boolean;
}

/** Reads server-sent events to their end. */
export async function readStream(response: Response): Promise<Streamed> {
  const parts: { text: string; at: number }[] = [];
  let rest = "", finish: string | null = null, done = false;
  for await (const chunk of response.body!.pipeThrough(new TextDecoderStream())) {
    const events = (rest + chunk).split("\n\n");
    rest = events.pop()!;
    for (const event of events) {
      const data = event.replace(/^data: /, "");
      if (data === "[DONE]") {
        done = true;
        continue;
      }
      const [choice] = JSON.parse(data).choices as {
        delta: { content?: string };
        finish_reason: string | null;
      }[];
      if (choice?.delta.content) parts.push({ text: choice.delta.content, at: performance.now() });
      finish = choice?.finish_reason ?? finish;
    }
  }
  return { parts, finish, done };
}
