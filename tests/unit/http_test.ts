/** `Platform.serve`: what a server relies on, the same in every runtime. */
import assert from "node:assert/strict";
import { request as httpRequest } from "node:http";
import { connect, type Socket } from "node:net";
import { test } from "node:test";
import { detectPlatform } from "../../src/platform/detect.ts";
import type { HttpServer } from "../../src/platform/platform.ts";

const platform = await detectPlatform();
const HOST = "127.0.0.1";
const encode = (text: string): Uint8Array => new TextEncoder().encode(text);

/** Runs `use` on a server. */
async function withServer(
  handler: (request: Request) => Promise<Response>,
  use: (url: string, server: HttpServer) => Promise<void>,
): Promise<void> {
  const server = await platform.serve!(handler, { hostname: HOST, port: 0 });
  try {
    await use(`http://${HOST}:${server.port}`, server);
  } finally {
    await server.close();
  }
}

/** Waits until `isTrue`; fails with `what` after ten seconds. */
async function until(what: string, isTrue: () => boolean): Promise<void> {
  const began = performance.now();
  while (!isTrue()) {
    assert.ok(performance.now() - began < 10_000, `waited in vain for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** A connection that sends what it is told and keeps what it gets. */
function open(port: number, text: string): Promise<{ socket: Socket; got: () => string }> {
  return new Promise((resolve, reject) => {
    const socket = connect(port, HOST, () => socket.write(text, () => resolve({ socket, got: () => got })));
    let got = "";
    socket.setEncoding("latin1").on("data", (more) => got += more);
    socket.on("error", reject);
  });
}

const GET = (path: string): string => `GET ${path} HTTP/1.1\r\nhost: x\r\n\r\n`;

test("Platform.serve: method, path, headers and body in; status, headers and body out", async () => {
  await withServer(async (request) => {
    const url = new URL(request.url), body = await request.text();
    const said = `${request.method} ${url.pathname}${url.search} ${request.headers.get("x-a")} ${body}`;
    return new Response(said, { status: 201, headers: { "x-b": "ü".normalize("NFD").slice(0, 1) } });
  }, async (url) => {
    const answer = await fetch(`${url}/a%20b?c=d`, {
      method: "POST",
      headers: { "x-a": "1" },
      body: "héllo",
    });
    assert.equal(answer.status, 201);
    assert.equal(answer.headers.get("x-b"), "u");
    assert.equal(await answer.text(), "POST /a%20b?c=d 1 héllo");
    const head = await fetch(`${url}/h`, { method: "HEAD" });
    assert.deepEqual([head.status, await head.text()], [201, ""]);
    const long = "x".repeat(3_000_000);
    const large = await fetch(url, { method: "POST", body: long });
    assert.equal((await large.text()).length, "POST / null ".length + long.length);
  });
});

test("Platform.serve: the signal tells that whoever asked has gone before the answer", async () => {
  let began = false, aborted = false;
  await withServer(async (request) => {
    request.signal.addEventListener("abort", () => aborted = true);
    await request.text();
    began = true;
    await until("the signal", () => aborted);
    return new Response(null, { status: 499 });
  }, async (_, { port }) => {
    const { socket } = await open(port, `POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nhi`);
    await until("the request", () => began);
    assert.equal(aborted, false);
    socket.destroy();
    await until("the signal", () => aborted);
  });
});

test("Platform.serve: a stream is cancelled when its reader has gone, also while it has nothing to send", async () => {
  for (const isQuiet of [false, true]) {
    let sent = 0, cancelled = false;
    await withServer(() => {
      const body = new ReadableStream<Uint8Array>({
        async pull(controller) {
          if (isQuiet && sent > 0) return new Promise(() => {});
          await new Promise((resolve) => setTimeout(resolve, 5));
          controller.enqueue(encode(`${sent++}\n`));
        },
        cancel: () => void (cancelled = true),
      }, { highWaterMark: 0 });
      return Promise.resolve(new Response(body));
    }, async (_, { port }) => {
      const { socket, got } = await open(port, GET("/"));
      await until("text", () => got().includes("0\n"));
      assert.equal(cancelled, false);
      socket.destroy();
      await until("the end", () => cancelled);
    });
  }
});

test("Platform.serve: a stream is read no faster than it is sent", async () => {
  let sent = 0, last = 0;
  const chunk = new Uint8Array(64 << 10).fill(65);
  await withServer(() => {
    const body = new ReadableStream<Uint8Array>({
      async pull(controller) {
        // as a model would: not in the same turn of the event loop
        await new Promise((resolve) => setTimeout(resolve, 0));
        controller.enqueue(chunk);
        sent += chunk.length;
        last = performance.now();
      },
    }, { highWaterMark: 0 });
    return Promise.resolve(new Response(body));
  }, async (_, { port }) => {
    const { socket, got } = await open(port, GET("/"));
    await until("text", () => got().includes("A"));
    socket.pause();
    await until("it to stop", () => performance.now() - last > 300);
    // what the two ends of a connection hold
    assert.ok(sent < 32 << 20, `${sent} bytes were made for a reader that takes none`);
    const before = sent;
    socket.resume();
    await until("it to go on", () => sent > before + (8 << 20));
    socket.destroy();
  });
});

test("Platform.serve: an answer before the body is read, as for one that is too long", async () => {
  await withServer(async (request) => {
    const reader = request.body!.getReader();
    await reader.read();
    await reader.cancel();
    return new Response("too long", { status: 413, headers: { connection: "close" } });
  }, async (url) => {
    const status = await new Promise<number | undefined>((resolve, reject) => {
      const sending = httpRequest(
        url,
        { method: "POST", headers: { "content-length": 8 << 20 } },
        (answer) => {
          answer.resume();
          resolve(answer.statusCode);
        },
      );
      sending.on("error", reject);
      // not all of it: the answer must not wait for the rest
      sending.write(new Uint8Array(1 << 18));
    });
    assert.equal(status, 413);
  });
});

test("Platform.serve: a stream that fails does not look as if it had ended", async () => {
  await withServer(() => {
    let n = 0;
    const body = new ReadableStream<Uint8Array>({
      async pull(controller) {
        await new Promise((resolve) => setTimeout(resolve, 20));
        if (n++ === 0) controller.enqueue(encode("half"));
        else controller.error(new Error("on purpose"));
      },
    }, { highWaterMark: 0 });
    return Promise.resolve(new Response(body));
  }, async (_, { port }) => {
    const { socket, got } = await open(port, GET("/"));
    await until("the end", () => socket.closed || socket.readableEnded);
    assert.match(got(), /half/);
    // the last chunk of a whole answer
    assert.doesNotMatch(got(), /\r\n0\r\n\r\n$/);
  });
});

test("Platform.serve: closing lets answers end, and idle connections go", async () => {
  let release: () => void = () => {};
  const released = new Promise<void>((resolve) => release = resolve);
  let began = false;
  const server = await platform.serve!(async (request) => {
    if (new URL(request.url).pathname === "/slow") {
      began = true;
      await released;
    }
    return new Response("done");
  }, { hostname: HOST, port: 0 });
  const idle = await open(server.port, GET("/"));
  await until("an answer", () => idle.got().includes("done"));
  const slow = await open(server.port, GET("/slow"));
  await until("the request", () => began);
  let isClosed = false;
  const closing = server.close().then(() => isClosed = true);
  await assert.rejects(
    new Promise((resolve, reject) => {
      const socket = connect(server.port, HOST, () => resolve(socket.destroy()));
      socket.on("error", reject);
    }),
    /ECONN(REFUSED|RESET)|refused/,
  );
  assert.equal(isClosed, false);
  release();
  await until("the slow answer", () => slow.got().includes("done"));
  await closing;
  idle.socket.destroy();
  slow.socket.destroy();
});

test("Platform.serve: closing breaks off what nobody reads, and requests that do not come", async () => {
  const large = new Uint8Array(64 << 20).fill(65);
  for (const isStream of [false, true]) {
    const server = await platform.serve!(
      () => Promise.resolve(new Response(isStream ? new Blob([large]).stream() : large)),
      { hostname: HOST, port: 0 },
    );
    const stuck = await open(server.port, GET("/")), half = await open(server.port, "GET / HTTP/1.1\r\nho");
    for (const { socket } of [stuck, half]) socket.on("error", () => {});
    await until("text", () => stuck.got().includes("AAAA"));
    stuck.socket.pause();
    const before = stuck.got().length;
    await server.close(200);
    if (!("Deno" in globalThis)) {
      stuck.socket.resume();
      await until("the end", () => stuck.socket.closed || stuck.socket.readableEnded);
      assert.ok(stuck.got().length > before && stuck.got().length < large.length, "all of it was sent");
    }
    stuck.socket.destroy();
    half.socket.destroy();
  }
});

test("Platform.serve: a port that is taken", async () => {
  await withServer(() => Promise.resolve(new Response("")), async (_, { port }) => {
    await assert.rejects(
      async () => await platform.serve!(() => Promise.resolve(new Response("")), { hostname: HOST, port }),
      new RegExp(`^Error: Cannot listen on 127.0.0.1:${port}: .*give another --port`),
    );
  });
});

test("Platform.serve: requests that are none", async () => {
  await withServer(() => Promise.resolve(new Response("fine")), async (url, { port }) => {
    for (
      const text of [
        "nonsense\r\n\r\n",
        "GET http://[ HTTP/1.1\r\nhost: x\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
      ]
    ) {
      const { socket, got } = await open(port, text);
      await until("an answer or the end", () => got() !== "" || socket.closed || socket.readableEnded);
      socket.destroy();
    }
    assert.equal(await (await fetch(url)).text(), "fine");
  });
});
