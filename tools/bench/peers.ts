/** Other programs on the same model file. They are no dependencies: npm installs them into `build/peers` when they are asked for. */
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { build, stop } from "esbuild";
import type { Argument } from "../../bench/peers/wllama_page.ts";
import { type Chromium, runInChromium } from "../../tests/support/chromium.ts";
import { runtimes } from "../../tests/support/runtimes.ts";
import { BUNDLE } from "../build.ts";
import { ROOT } from "../prepare.ts";
import { output } from "./engines.ts";
import { minuteNow, type PeerRun } from "./schema.ts";

const FOLDER = join(ROOT, "build", "peers");
/** A peer that hangs is a peer without numbers. */
const TIMEOUT_MS = 10 * 60_000;

/** One that can be asked for. */
interface Peer {
  readonly name: string;
  readonly version: string;
  readonly engine: string;
  run(threads: number, reps: number): Promise<Pick<PeerRun, "threads" | "rows">>;
}

/** Runs each peer with one thread and with two. What fails has its reason in the place of numbers. */
export async function measurePeers(
  model: string,
  chromium: Chromium | string | null,
  reps: number,
  note: (line: string) => void,
): Promise<PeerRun[]> {
  const found: PeerRun[] = [];
  for (const peer of [wllama(model, chromium), nodeLlama(model)]) {
    for (const threads of [1, 2]) {
      const began = performance.now(), { name, version, engine } = peer, about = { name, version, engine };
      try {
        install(name, version);
        const result = await peer.run(threads, reps);
        const reason = result.threads < threads ? `used ${result.threads} of ${threads} threads` : null;
        found.push({ ...about, ...result, threads, at: minuteNow(), reason });
        note(`${name} ${version}, ${threads} threads: ${((performance.now() - began) / 1000).toFixed(1)} s`);
      } catch (error) {
        const reason = (error instanceof Error ? error.message : String(error)).split("\n")[0]!;
        found.push({ ...about, threads, at: minuteNow(), reason, rows: [] });
        note(`${name} ${version}, ${threads} threads: ${reason}`);
      }
    }
  }
  return found;
}

/** Without scripts of packages, unless it is there. @throws {Error} If npm fails. */
function install(name: string, version: string): void {
  const at = join(FOLDER, "node_modules", name, "package.json");
  if (existsSync(at) && (JSON.parse(readFileSync(at, "utf8")) as { version: string }).version === version) {
    return;
  }
  mkdirSync(FOLDER, { recursive: true });
  const manifest = join(FOLDER, "package.json");
  if (!existsSync(manifest)) writeFileSync(manifest, `{ "private": true }\n`);
  console.error(`installing ${name} ${version} …`);
  const args = [
    "install",
    "--ignore-scripts",
    "--save-exact",
    "--no-audit",
    "--no-fund",
    `${name}@${version}`,
  ];
  const { status, error } = spawnSync("npm", args, {
    cwd: FOLDER,
    stdio: ["ignore", 2, 2],
    shell: process.platform === "win32",
  });
  if (status !== 0) throw new Error(`npm cannot install it: ${error?.message ?? `exit status ${status}`}`);
}

/** llama.cpp in WebAssembly, in the browser: it runs nowhere else. */
function wllama(model: string, chromium: Chromium | string | null): Peer {
  const name = "@wllama/wllama", folder = join(FOLDER, "node_modules", name);
  const missing = chromium === null ? "no Chromium was looked for" : `there is no Chromium: ${chromium}`;
  return {
    name,
    version: "2.3.1",
    engine: typeof chromium === "object" && chromium !== null ? chromium.version : "chromium",
    run: (threads, reps) => {
      if (typeof chromium !== "object" || chromium === null) throw new Error(missing);
      const argument: Argument = { package: folder, model, threads, reps };
      return runInChromium("bench/peers/wllama_page.ts", {
        argument,
        thread: "page",
        paths: true,
        timeoutMs: TIMEOUT_MS,
      });
    },
  };
}

/** llama.cpp as a native addon, on Node. */
function nodeLlama(model: string): Peer {
  const name = "node-llama-cpp", node = runtimes().find((runtime) => runtime.name.startsWith("node"));
  return {
    name,
    version: "3.22.1",
    engine: node?.name ?? "node",
    run: async (threads, reps) => {
      if (node === undefined) throw new Error("there is no Node");
      const script = join(ROOT, "build", "bench", "llama_node.mjs");
      await build({
        ...BUNDLE,
        splitting: false,
        entryPoints: ["bench/peers/llama_node.ts"],
        outfile: script,
      });
      await stop();
      const folder = join(FOLDER, "node_modules", name);
      const text = await output([...node.command, script, folder, model, String(threads), String(reps)]);
      return JSON.parse(text.trim().split("\n").at(-1)!) as Pick<PeerRun, "threads" | "rows">;
    },
  };
}
