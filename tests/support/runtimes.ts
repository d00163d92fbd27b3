/** The runtimes that `deno task test` runs on, and how to run a script on each. */
import { existsSync } from "node:fs";
import process from "node:process";
import { spawnSync } from "node:child_process";
import { rootPath } from "./shared.ts";

/** One runtime. */
export interface Runtime {
  readonly name: "deno" | "node-20" | "node-24" | "bun";
  /** What starts a script: append the script's path and its arguments. */
  readonly command: readonly string[];
  /** Node 20 cannot read TypeScript: it runs tests bundled into `build/tests/`, and `dist/`. */
  readonly readsTypeScript: boolean;
}

/** The command for `relative`, a script under `tests/` whose name ends in `_script.ts`, on `runtime`. */
export function scriptCommand(runtime: Runtime, relative: string): string[] {
  const path = runtime.readsTypeScript
    ? rootPath(relative)
    : rootPath(relative.replace(/^tests\//, "build/tests/").replace(/\.ts$/, ".js"));
  return [...runtime.command, path];
}

/** The command line program as users of `runtime` start it: Deno from the sources, the others from `dist/`. */
export function cliCommand(runtime: Runtime): string[] {
  return [...runtime.command, rootPath(runtime.name === "deno" ? "src/cli/main.ts" : "dist/cli.js")];
}

/** The runtime that this code runs on, started as the test runner starts it. */
export function thisRuntime(): Runtime {
  const versions: { readonly [name: string]: string | undefined } = process.versions;
  const name = versions["deno"]
    ? "deno"
    : versions["bun"]
    ? "bun"
    : `node-${process.versions.node.split(".")[0]}`;
  const found = runtimes().find((runtime) => runtime.name === name);
  if (found) return found;
  // Another Node than the pinned ones, started by hand.
  return { name: "node-20", command: [process.execPath], readsTypeScript: false };
}

/** Every runtime found on this machine. */
export function runtimes(): Runtime[] {
  const list: Runtime[] = [];
  const versions: { readonly [name: string]: string | undefined } = process.versions;
  const deno = versions["deno"] ? process.execPath : process.env["RSPARSE_DENO"] ?? onPath("deno");
  if (deno) list.push({ name: "deno", command: [deno, "run", "-A", "--no-check"], readsTypeScript: true });
  for (const major of ["20", "24"] as const) {
    const node = nodeCommand(major);
    if (node) list.push({ name: `node-${major}`, command: [node], readsTypeScript: major === "24" });
  }
  const bun = rootPath("tests/runtimes/node_modules/bun/bin/bun.exe");
  if (existsSync(bun)) list.push({ name: "bun", command: [bun, "run"], readsTypeScript: true });
  return list;
}

/** The pinned Node of that major version; where npm has none for this platform, the one on the PATH if it is that version. */
function nodeCommand(major: string): string | null {
  const pinned = rootPath(`tests/runtimes/node_modules/node-${major}/bin/node`);
  if (existsSync(pinned)) return pinned;
  const { stdout } = spawnSync("node", ["--version"], { encoding: "utf8" });
  return stdout?.startsWith(`v${major}.`) ? "node" : null;
}

function onPath(command: string): string | null {
  return spawnSync(command, ["--version"]).status === 0 ? command : null;
}
