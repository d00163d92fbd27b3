/** Bun. */
import process from "node:process";
import { cannotListen, closeWithin, type HttpServer, type Platform } from "./platform.ts";
import { serverPlatform } from "./server.ts";

/** What is used of Bun's own. */
interface BunNamespace {
  serve(options: {
    hostname: string;
    port: number;
    idleTimeout: number;
    development: boolean;
    reusePort: boolean;
    fetch: (request: Request) => Promise<Response>;
  }): { readonly port: number; stop(closeActive?: boolean): Promise<void> };
}

function serve(
  handler: (request: Request) => Promise<Response>,
  { hostname, port }: { hostname: string; port: number },
): Promise<HttpServer> {
  const { Bun: bun } = globalThis as unknown as { Bun: BunNamespace };
  try {
    const server = bun.serve({
      hostname,
      port,
      // connections on which nothing was sent for 10 s would be closed: a request in the queue would be lost
      idleTimeout: 0,
      // without `development` a second server would be let have the same port
      development: false,
      reusePort: false,
      fetch: handler,
    });
    return Promise.resolve({
      port: server.port,
      close: (ms = Infinity) => closeWithin(ms, server.stop(), () => server.stop(true)),
    });
  } catch (error) {
    return Promise.reject(cannotListen(hostname, port, error));
  }
}

/** The platform of this process. */
export const platform: Platform = { ...serverPlatform(`bun ${process.versions["bun"]}`), serve };
