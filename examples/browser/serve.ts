/** A small static server for the built page, with or without the headers that let it share memory between threads. */
import { createReadStream, statSync } from "node:fs";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { extname, join, normalize } from "node:path";

/** How the page is served. */
export interface ServeOptions {
  readonly folder: string;
  /** 0: any that is free. */
  readonly port: number;
  readonly host?: string;
  /** With COOP and COEP, so that the page may use threads. */
  readonly isolated: boolean;
  /** Files from elsewhere, by their path in the URL. */
  readonly extra?: ReadonlyMap<string, string>;
}

const TYPES: { readonly [ending: string]: string } = {
  ".html": "text/html; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".json": "application/json",
  ".txt": "text/plain; charset=utf-8",
};

/** Serves files of a folder, whole or from a byte on. @returns the server and the page's address */
export async function servePage(options: ServeOptions): Promise<{ server: Server; url: string }> {
  const { folder, isolated, extra, host = "127.0.0.1" } = options;
  const server = createServer((request, response) => {
    response.setHeader("Cache-Control", "no-cache");
    response.setHeader("X-Content-Type-Options", "nosniff");
    if (isolated) {
      response.setHeader("Cross-Origin-Opener-Policy", "same-origin");
      response.setHeader("Cross-Origin-Embedder-Policy", "require-corp");
      response.setHeader("Cross-Origin-Resource-Policy", "same-origin");
    }
    const fail = (status: number, text: string): void => {
      response.writeHead(status, { "Content-Type": "text/plain" });
      response.end(`${text}\n`);
    };
    if (request.method !== "GET" && request.method !== "HEAD") return fail(405, "only GET and HEAD");
    let path: string;
    try {
      path = decodeURIComponent(new URL(request.url ?? "/", "http://localhost").pathname);
    } catch {
      return fail(400, "no valid path");
    }
    if (path.endsWith("/")) path += "index.html";
    // normalised as an absolute path, it can't lead out of the folder
    const file = extra?.get(path) ?? join(folder, normalize(path));
    let size: number, modified: Date;
    try {
      const stat = statSync(file);
      if (!stat.isFile()) return fail(404, `${path} is not here`);
      size = stat.size;
      modified = stat.mtime;
    } catch {
      return fail(404, `${path} is not here`);
    }
    response.setHeader("Content-Type", TYPES[extname(file)] ?? "application/octet-stream");
    response.setHeader("Last-Modified", modified.toUTCString());
    const from = /^bytes=(\d+)-$/.exec(request.headers.range ?? "")?.[1];
    const start = from === undefined ? 0 : Number(from);
    if (start >= size && start > 0) return fail(416, `${path} has ${size} bytes`);
    if (from !== undefined) {
      response.statusCode = 206;
      response.setHeader("Content-Range", `bytes ${start}-${size - 1}/${size}`);
    }
    response.setHeader("Content-Length", size - start);
    if (request.method === "HEAD") return void response.end();
    const stream = createReadStream(file, { start });
    stream.on("error", () => response.destroy());
    response.on("close", () => stream.destroy());
    stream.pipe(response);
  });
  await new Promise<void>((resolve, reject) => {
    server.on("error", reject);
    server.listen(options.port, host, resolve);
  });
  const { port } = server.address() as AddressInfo;
  return { server, url: `http://${host}:${port}/` };
}
