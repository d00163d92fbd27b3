/** Deno. */
import { open } from "node:fs/promises";
import process from "node:process";
import { cannotListen, type HttpServer, type Platform } from "./platform.ts";
import { serverPlatform } from "./server.ts";

/**
 * Bytes `[start, end)` of a file, read when asked for. Deno has Node's `openAsBlob`, but reads the whole file into
 * memory there: 1.5 GB took 3.6 s and 3.1 GB (Deno 2.9.6). Only what reads bytes works on this one; as a part of another
 * `Blob`, or sent as a body, it is empty.
 */
class FileBlob extends Blob {
  readonly #path: string;
  readonly #start: number;
  readonly #end: number;

  constructor(path: string, start: number, end: number) {
    super();
    this.#path = path;
    this.#start = start;
    this.#end = end;
  }

  override get size(): number {
    return this.#end - this.#start;
  }

  override slice(start = 0, end: number = this.size): Blob {
    const within = (at: number): number => at < 0 ? Math.max(this.size + at, 0) : Math.min(at, this.size);
    const from = within(start);
    return new FileBlob(this.#path, this.#start + from, this.#start + Math.max(from, within(end)));
  }

  override async bytes(): Promise<Uint8Array<ArrayBuffer>> {
    const bytes = new Uint8Array(this.size);
    // Opened for each read: nothing tells when a Blob is needed no longer. 64 KB take 27 µs so.
    const file = await open(this.#path);
    try {
      for (let done = 0; done < bytes.length;) {
        const { bytesRead } = await file.read(bytes, done, bytes.length - done, this.#start + done);
        if (bytesRead === 0) {
          throw new RangeError(
            `Cannot read ${this.#path}: it ends at byte ${
              this.#start + done
            }, it was longer when it was opened`,
          );
        }
        done += bytesRead;
      }
    } finally {
      await file.close();
    }
    return bytes;
  }

  override async arrayBuffer(): Promise<ArrayBuffer> {
    return (await this.bytes()).buffer;
  }

  override async text(): Promise<string> {
    return new TextDecoder().decode(await this.bytes());
  }

  override stream(): ReadableStream<Uint8Array<ArrayBuffer>> {
    const chunk = 1 << 20;
    let at = 0;
    return new ReadableStream({
      pull: async (controller) => {
        const bytes = new Uint8Array(await this.slice(at, at + chunk).arrayBuffer());
        at += bytes.length;
        if (bytes.length > 0) controller.enqueue(bytes);
        else controller.close();
      },
    });
  }
}

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
    return Promise.resolve({ port: server.addr.port, close: () => server.shutdown() });
  } catch (error) {
    return Promise.reject(cannotListen(hostname, port, error));
  }
}

/** The platform of this process. */
export const platform: Platform = {
  ...server,
  serve,
  async openBlob(path) {
    const found = await server.stat(path);
    if (found?.kind !== "file") {
      throw new TypeError(`Cannot open ${path}: ${found ? "it is a folder" : "there is no such file"}`);
    }
    return new FileBlob(path, 0, found.size);
  },
};
