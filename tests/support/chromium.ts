/** Runs a module of the checkout in a headless Chromium and brings back what it returns. No driver: the page itself reports to a small server. */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { createReadStream, existsSync, mkdtempSync, readdirSync, rmSync, statSync } from "node:fs";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve, sep } from "node:path";
import process from "node:process";
import { pathToFileURL } from "node:url";
import { build, type Plugin, stop } from "esbuild";
import { detectPlatform } from "../../src/platform/detect.ts";
import { BROWSER, sourceAtHome } from "../../tools/build.ts";
import { ROOT, rootPath } from "./shared.ts";

/** A Chromium to start. */
export interface Chromium {
  readonly path: string;
  /** What it needs beside the environment of this process. */
  readonly env: Readonly<Record<string, string>>;
  /** For example `chromium 156.0.8078.79`. */
  readonly version: string;
}

/** How a module runs in a page. */
export interface PageOptions {
  /** Handed to the module's `main`, as JSON. */
  readonly argument?: unknown;
  /** Serve the page with COOP and COEP, which shared memory wants. Default true. */
  readonly isolated?: boolean;
  /** The page's own thread, or a worker of it (default), where a module may wait. */
  readonly thread?: "page" | "worker";
  /** Folders and files that the page may fetch from `/fs/`; with `paths`, the checkout, the shared data and the cache as well. */
  readonly roots?: readonly string[];
  /** Let the library open models by path, as it can't in a page of its own: for tests that run in every runtime. */
  readonly paths?: boolean;
  /** Sees what `main` hands to `report`. */
  readonly onReport?: (message: unknown) => void;
  /** Default 120 s. */
  readonly timeoutMs?: number;
}

/** Where `tools/chromium.ts` puts the one from npm. */
export const INSTALLED: string = rootPath("build/chromium");
/** Wherever the program's name differs between systems. */
const NAMES = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"];
/**
 * Headless, as root in a container, without what a first start does in the background. `/dev/shm` has 64 MB in containers; throttled timers of a
 * page nobody looks at would slow a benchmark.
 */
const ARGUMENTS = [
  "--headless=new",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-dev-shm-usage",
  "--disable-extensions",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-background-timer-throttling",
  "--disable-renderer-backgrounding",
  "--no-first-run",
  "--no-default-browser-check",
];

let found: Chromium | null = null;

/** The Chromium of `RSPARSE_CHROMIUM`, the PATH, or one that was installed for the tests; null where there is none. */
export function findChromium(): Chromium | null {
  return found ??= lookForChromium();
}

function lookForChromium(): Chromium | null {
  const named = process.env["RSPARSE_CHROMIUM"];
  if (named) {
    const chromium = tryChromium(named);
    if (chromium === null) throw new Error(`Cannot run RSPARSE_CHROMIUM: ${named} --version failed`);
    return chromium;
  }
  const local = { LD_LIBRARY_PATH: join(INSTALLED, "lib") };
  return NAMES.map((name) => tryChromium(name)).find((chromium) => chromium !== null) ??
    tryChromium(join(INSTALLED, "chromium"), local);
}

function tryChromium(path: string, env: Readonly<Record<string, string>> = {}): Chromium | null {
  const { status, stdout } = spawnSync(path, ["--version"], {
    encoding: "utf8",
    env: { ...process.env, ...env },
  });
  const version = /(\d+\.){3}\d+/.exec(stdout ?? "")?.[0];
  return status === 0 && version ? { path, env, version: `chromium ${version}` } : null;
}

/** A reason to skip tests that need Chromium, or false; false as well under CI, where they then fail. */
export function skipWithoutChromium(): string | false {
  return findChromium() === null && !process.env["CI"] ? "there is no Chromium: set RSPARSE_CHROMIUM" : false;
}

/**
 * Bundles a module and runs it in a page: its export `main(argument, report)` returns what this resolves to, as JSON.
 *
 * @param script a module's path in the checkout, or the source of one that stands in `tests/`
 * @throws {Error} What `main` threw, with its stack in the page; or if Chromium can't be had, ends, or takes too long.
 */
export async function runInChromium<T>(
  script: string | { readonly source: string },
  options: PageOptions = {},
): Promise<T> {
  const chromium = findChromium();
  if (chromium === null) throw new Error("Cannot run Chromium: there is none: set RSPARSE_CHROMIUM");
  const bundle = await bundlePage(script, options.paths === true);
  return await new Promise<T>((resolve, reject) => {
    const server = createServer((request, response) => {
      answer(request, response, bundle, options, (message) => {
        if (message.kind === "report") options.onReport?.(message.value);
        else if (message.kind === "error") end(new Error(`in ${chromium.version}: ${message.value}`));
        else end(null, message.value as T);
      }).catch((error) => response.headersSent ? response.destroy() : fail(response, 500, String(error)));
    });
    const folder = mkdtempSync(join(tmpdir(), "rsparse-chromium-"));
    let child: ChildProcess | null = null, stderr = "", ended = false;
    const timeoutMs = options.timeoutMs ?? 120_000;
    const timer = setTimeout(
      () => end(new Error(`${chromium.version}: no result after ${timeoutMs} ms`)),
      timeoutMs,
    );
    const end = (error: Error | null, value?: T): void => {
      if (ended) return;
      ended = true;
      clearTimeout(timer);
      closeServer(server);
      stopChild(child).then(() => {
        rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
        if (error) reject(error);
        else resolve(value!);
      });
    };
    server.on("error", (error) => end(error));
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address() as AddressInfo;
      const args = [...ARGUMENTS, `--user-data-dir=${folder}`, `http://127.0.0.1:${port}/`];
      child = spawn(chromium.path, args, {
        stdio: ["ignore", "ignore", "pipe"],
        env: { ...process.env, ...chromium.env },
        // its own group, so that its helpers end with it
        detached: true,
      });
      child.stderr!.setEncoding("utf8").on("data", (text: string) => stderr = (stderr + text).slice(-4000));
      child.on("error", (error) => end(error));
      child.on(
        "exit",
        (code, signal) => end(new Error(`${chromium.path} ended early (${signal ?? code}): ${stderr}`)),
      );
    });
  });
}

/** Ends Chromium and waits until it is gone: its profile cannot be removed before. */
function stopChild(child: ChildProcess | null): Promise<void> {
  if (child?.pid === undefined || child.exitCode !== null || child.signalCode !== null) {
    return Promise.resolve();
  }
  return new Promise((resolve) => {
    child.on("exit", () => resolve());
    try {
      process.kill(-child.pid!, "SIGKILL");
    } catch {
      child.kill("SIGKILL");
    }
  });
}

function closeServer(server: Server): void {
  server.close();
  server.closeAllConnections();
}

interface Message {
  readonly kind: "report" | "result" | "error";
  readonly value: unknown;
}

async function answer(
  request: IncomingMessage,
  response: ServerResponse,
  bundle: ReadonlyMap<string, Uint8Array>,
  options: PageOptions,
  onMessage: (message: Message) => void,
): Promise<void> {
  const url = new URL(request.url!, "http://localhost");
  response.setHeader("Cache-Control", "no-store");
  response.setHeader("Cross-Origin-Resource-Policy", "same-origin");
  if (options.isolated !== false) {
    response.setHeader("Cross-Origin-Opener-Policy", "same-origin");
    response.setHeader("Cross-Origin-Embedder-Policy", "require-corp");
  }
  if (request.method === "POST") {
    const chunks: Uint8Array[] = [];
    for await (const chunk of request) chunks.push(chunk as Uint8Array);
    response.end();
    onMessage(JSON.parse(new TextDecoder().decode(Buffer.concat(chunks))) as Message);
  } else if (url.pathname === "/") {
    const start = options.thread === "page"
      ? `import("/page.js")`
      : `new Worker("/page.js", { type: "module" }).onerror = (event) => failed(event.message)`;
    send(
      response,
      "text/html",
      `<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><script type="module">
const failed = (value) => fetch("/", { method: "POST", body: JSON.stringify({ kind: "error", value: String(value) }) });
addEventListener("error", (event) => failed(event.message));
addEventListener("unhandledrejection", (event) => failed(event.reason?.stack ?? event.reason));
${start};
</script>`,
    );
  } else if (url.pathname === "/argument") {
    send(response, "application/json", JSON.stringify(options.argument ?? null));
  } else if (url.pathname === "/cache") send(response, "text/plain", (await detectPlatform()).cacheDir());
  else if (url.pathname.startsWith("/fs/")) {
    const own = options.paths ? [ROOT, join(ROOT, "..", "shared"), (await detectPlatform()).cacheDir()] : [];
    sendFile(response, decodeURIComponent(url.pathname.slice(3)), [...own, ...options.roots ?? []]);
  } else {
    const file = bundle.get(url.pathname);
    if (file) send(response, "text/javascript", file);
    else fail(response, 404, `${url.pathname} is not here`);
  }
}

function send(response: ServerResponse, type: string, body: string | Uint8Array): void {
  response.writeHead(200, { "Content-Type": type });
  response.end(body);
}

function fail(response: ServerResponse, status: number, message: string): void {
  response.writeHead(status, { "Content-Type": "text/plain" });
  response.end(message);
}

/** A file's bytes, or a folder's names as JSON. */
function sendFile(response: ServerResponse, path: string, roots: readonly string[]): void {
  const full = resolve(path);
  const allowed = roots.map((root) => resolve(root)).some((root) =>
    full === root || full.startsWith(root + sep)
  );
  if (!allowed) fail(response, 403, `${path} is in none of the folders that this page may read`);
  else if (!existsSync(full)) fail(response, 404, `there is no ${path}`);
  else if (statSync(full).isDirectory()) {
    response.setHeader("X-Kind", "folder");
    send(response, "application/json", JSON.stringify(readdirSync(full).sort()));
  } else {
    response.writeHead(200, {
      "Content-Type": full.endsWith(".js") ? "text/javascript" : "application/octet-stream",
      "Content-Length": statSync(full).size,
      "X-Kind": "file",
    });
    createReadStream(full, { highWaterMark: 1 << 20 }).pipe(response);
  }
}

/** The bundle's files by their path in the URL; `/page.js` is the entry. */
async function bundlePage(
  script: string | { readonly source: string },
  paths: boolean,
): Promise<ReadonlyMap<string, Uint8Array>> {
  const main = "tests/page_main.ts";
  const entry = `
import { main } from ${JSON.stringify(typeof script === "string" ? rootPath(script) : rootPath(main))};
const post = (kind, value) => fetch("/", { method: "POST", body: JSON.stringify({ kind, value: value ?? null }) });
let sent = Promise.resolve();
try {
  const argument = await (await fetch("/argument")).json();
  const value = await main(argument, (message) => void (sent = sent.then(() => post("report", message))));
  await sent;
  await post("result", value);
} catch (error) {
  await sent;
  await post("error", error instanceof Error ? error.name + ": " + error.message + "\\n" + error.stack : String(error));
}
`;
  const { outputFiles } = await build({
    ...BROWSER,
    stdin: { contents: entry, resolveDir: rootPath("."), sourcefile: "page.js" },
    write: false,
    outdir: "/",
    entryNames: "page",
    plugins: [
      testModules(typeof script === "string" ? null : { path: rootPath(main), source: script.source }),
      ...paths ? [pathsInPage] : [],
    ],
  });
  await stop();
  return new Map(
    outputFiles.map(({ path, contents }) => [new URL(pathToFileURL(path)).pathname, contents]),
  );
}

/** Modules under `tests/`: stand-ins for what they take from Node, their own paths, and a main module that is no file. */
function testModules(main: { readonly path: string; readonly source: string } | null): Plugin {
  const tests = rootPath("tests") + sep;
  return {
    name: "test-modules",
    setup(plugin) {
      plugin.onResolve(
        { filter: /^node:(test|assert\/strict|fs|path|process|url)$/ },
        ({ path, importer }) => {
          if (!importer.startsWith(tests)) return null;
          return { path: rootPath(`tests/support/browser/${path.slice(5).split("/")[0]}.ts`) };
        },
      );
      plugin.onResolve({ filter: /page_main\.ts$/ }, ({ path }) => path === main?.path ? { path } : null);
      plugin.onLoad({ filter: /\.ts$/ }, ({ path }) => {
        if (!path.startsWith(tests)) return null;
        return { contents: path === main?.path ? main.source : sourceAtHome(path), loader: "ts" };
      });
    },
  };
}

/** `detectPlatform` finds the browser's platform with the paths of this machine. */
const pathsInPage: Plugin = {
  name: "paths-in-page",
  setup(plugin) {
    plugin.onResolve(
      { filter: /^\.\/browser\.ts$/ },
      ({ importer }) =>
        importer === rootPath("src/platform/detect.ts")
          ? { path: rootPath("tests/support/browser/platform.ts") }
          : null,
    );
  },
};
