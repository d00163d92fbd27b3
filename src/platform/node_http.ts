/** `node:http` to and from the web's `Request` and `Response`. */
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { cannotListen, closeWithin, type HttpServer } from "./platform.ts";

type Answer = (request: Request) => Promise<Response>;

/** Idle connections are kept longer than load balancers keep them (Caddy: 2 minutes), which would else send a request into one that is being closed. */
const KEEP_ALIVE_MS = 125_000;

/** `Platform.serve` of Node. */
export function serve(handler: Answer, where: { hostname: string; port: number }): Promise<HttpServer> {
  const { hostname, port } = where;
  const server = createServer((incoming, outgoing) => void answer(handler, incoming, outgoing));
  server.keepAliveTimeout = KEEP_ALIVE_MS;
  const close = (ms: number = Infinity): Promise<void> => {
    const closed = new Promise<void>((resolve) => {
      server.close(() => resolve());
      // those that are in use now are idle when their answer has been sent
      server.on("request", (_, outgoing) => closeAfter(outgoing));
      const timer = setInterval(() => server.closeIdleConnections(), 100);
      server.on("close", () => clearInterval(timer));
    });
    return closeWithin(ms, closed, () => server.closeAllConnections());
  };
  return new Promise((resolve, reject) => {
    server.on("error", (error) => reject(cannotListen(hostname, port, error)));
    server.listen(port, hostname, () => resolve({ port: (server.address() as AddressInfo).port, close }));
  });
}

function closeAfter(outgoing: ServerResponse): void {
  outgoing.shouldKeepAlive = false;
}

async function answer(handler: Answer, incoming: IncomingMessage, outgoing: ServerResponse): Promise<void> {
  const gone = new AbortController();
  outgoing.on("close", () => gone.abort());
  // of a connection that breaks: `close` follows
  outgoing.on("error", () => {});
  incoming.on("error", () => {});
  try {
    const request = toRequest(incoming, gone.signal);
    if (request === null) {
      outgoing.writeHead(400).end();
      return;
    }
    await send(await handler(request), outgoing, incoming.method === "HEAD");
  } catch {
    // the stream of an answer failed in the middle: the client must not take it for the end
    outgoing.destroy();
  }
}

/** null if it is nothing that a `Request` can be made of. */
function toRequest(incoming: IncomingMessage, signal: AbortSignal): Request | null {
  const { method = "GET", rawHeaders } = incoming, headers = new Headers();
  try {
    for (let i = 0; i < rawHeaders.length; i += 2) headers.append(rawHeaders[i]!, rawHeaders[i + 1]!);
    const url = new URL(incoming.url ?? "/", `http://${incoming.headers.host ?? "localhost"}`);
    const hasBody = method !== "GET" && method !== "HEAD";
    return new Request(url, {
      method,
      headers,
      signal,
      // @ts-ignore: `duplex` is not in all declarations of RequestInit
      ...(hasBody ? { body: bodyOf(incoming), duplex: "half" } : {}),
    });
  } catch {
    return null;
  }
}

/** Not `Readable.toWeb`: when that is cancelled it closes the connection, before a refusal could be sent. */
function bodyOf(incoming: IncomingMessage): ReadableStream<Uint8Array> {
  return new ReadableStream({
    start(controller) {
      incoming.pause();
      incoming.on("data", (bytes: Uint8Array) => {
        incoming.pause();
        controller.enqueue(new Uint8Array(bytes));
      });
      incoming.on("end", () => controller.close());
      incoming.on("close", () => {
        if (!incoming.complete) {
          controller.error(new Error("the connection was closed in the middle of the body"));
        }
      });
    },
    pull: () => void incoming.resume(),
    cancel: () =>
      void incoming.removeAllListeners("data").removeAllListeners("end").removeAllListeners("close"),
  }, { highWaterMark: 0 });
}

/** Writes an answer, as fast as it is read. */
async function send(response: Response, outgoing: ServerResponse, isHead: boolean): Promise<void> {
  outgoing.writeHead(response.status, [...response.headers].flat());
  const { body } = response;
  if (body === null || isHead) {
    await body?.cancel();
    outgoing.end();
    return;
  }
  outgoing.flushHeaders();
  const reader = body.getReader();
  const closed = new Promise<void>((resolve) => outgoing.on("close", resolve));
  // also where the stream makes nothing that could be found not to be wanted
  void closed.then(() => reader.cancel()).catch(() => {});
  for (;;) {
    const { done, value } = await reader.read();
    if (done || outgoing.destroyed) break;
    if (!outgoing.write(value)) {
      await Promise.race([new Promise((resolve) => outgoing.once("drain", resolve)), closed]);
    }
  }
  outgoing.end();
}
