/** Deno. */
import process from "node:process";
import { openFile, statFile } from "./deno_file.ts";
import { cannotListen, closeWithin, type HttpServer, type Platform } from "./platform.ts";
import { serverPlatform } from "./server.ts";

const versions: { readonly [name: string]: string | undefined } = process.versions;
const server = serverPlatform(`deno ${versions["deno"]}`);

/** What is used of Deno's own. */
interface DenoNamespace {
  serve(
    options: { hostname: string; port: number; onListen: () => void },
    handler: (request: Request) => Promise<Response>,
  ): { readonly addr: { readonly port: number }; shutdown(): Promise<void> };
}

/**
 * Signals of requests are aborted when their answer was sent, too, unless Deno is started with --unstable-no-legacy-abort. It does no harm here, and Deno warns of it once
 * in a process.
 */
function silenceLegacyAbort(): void {
  const { warn } = console;
  console.warn = (...args) => {
    if (!String(args[0]).startsWith("Deno.serve: request.signal aborts on successful responses")) {
      return warn(...args);
    }
    console.warn = warn;
  };
}

function serve(
  handler: (request: Request) => Promise<Response>,
  { hostname, port }: { hostname: string; port: number },
): Promise<HttpServer> {
  const { Deno: deno } = globalThis as unknown as { Deno: DenoNamespace };
  silenceLegacyAbort();
  try {
    const server = deno.serve({ hostname, port, onListen() {} }, handler);
    return Promise.resolve({
      port: server.addr.port,
      // a server that shuts down can't be aborted any more (2.9.6: BadResource): the process's end does it
      close: (ms = Infinity) => closeWithin(ms, server.shutdown(), () => {}),
    });
  } catch (error) {
    return Promise.reject(cannotListen(hostname, port, error));
  }
}

/** The platform of this process. */
export const platform: Platform = {
  ...server,
  serve,
  stat: statFile,
  openBlob: openFile,
};
