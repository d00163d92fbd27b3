/** Two servers behind Caddy, by the example's own Caddyfile: what one refuses the other takes, and one may end without a request being lost. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { createServer } from "node:net";
import type { AddressInfo } from "node:net";
import process from "node:process";
import { test } from "node:test";
import { json, stories } from "../support/cli.ts";
import { CADDY, skipWithoutPython } from "../support/openai.ts";
import { type ServeProcess, startServe, until } from "../support/serve.ts";
import { rootPath, skipWithout } from "../support/shared.ts";

const skip = skipWithout("data/models/stories260K/stories260K.bin") || skipWithoutPython() ||
  (process.platform === "win32" && "no signals");
const LENGTH = 200;

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.on("error", reject).listen(0, "127.0.0.1", () => {
      const { port } = server.address() as AddressInfo;
      server.close(() => resolve(port));
    });
  });
}

/** Starts the balancer before some servers; resolves when it finds them healthy. */
async function startCaddy(
  replicas: readonly ServeProcess[],
): Promise<{ url: string; child: ChildProcess; said: () => string }> {
  const address = `127.0.0.1:${await freePort()}`;
  const child = spawn(CADDY, [
    "run",
    "--config",
    rootPath("examples/serve/Caddyfile"),
    "--adapter",
    "caddyfile",
  ], {
    stdio: ["ignore", "ignore", "pipe"],
    env: {
      ...process.env,
      ADDRESS: `http://${address}`,
      REPLICAS: replicas.map(({ url }) => new URL(url).host).join(" "),
    },
  });
  let said = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => said += text);
  const url = `http://${address}`;
  await until(
    "the balancer",
    () => fetch(`${url}/health`).then(({ status }) => status === 200, () => false),
    () => said,
  );
  return { url, child, said: () => said };
}

function complete(url: string, more: object = {}): Promise<Response> {
  const body = { prompt: "Once upon", max_tokens: LENGTH, temperature: 0, ...more };
  return fetch(`${url}/v1/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  });
}

async function textOf(answer: Promise<Response>): Promise<string> {
  const response = await answer, text = await response.text();
  assert.equal(response.status, 200, text);
  return JSON.parse(text).choices[0].text;
}

async function answered(url: string): Promise<number> {
  const text = await (await fetch(`${url}/metrics`)).text();
  return Number(/^rsparse_requests_total\{route="completions",status="200"\} (\d+)/m.exec(text)?.[1] ?? 0);
}

test("replicas behind Caddy: none is lost when one is full or ends", { skip }, async () => {
  const args = ["generate", "-m", stories(), "-p", "Once upon", "-n", String(LENGTH), "--threads", "1"];
  const expected = (await json(args)).output.text;
  const start = (): Promise<ServeProcess> =>
    startServe(["-m", stories(), "--threads", "1", "--max-sequences", "1", "--max-queue", "0"]);
  const [first, second] = [await start(), await start()];
  const caddy = await startCaddy([first, second]);
  try {
    const { url } = caddy;
    // more than both can take at a time
    const texts = await Promise.all(Array.from({ length: 5 }, () => textOf(complete(url))));
    assert.deepEqual(texts, Array.from({ length: 5 }, () => expected), caddy.said());
    assert.ok(await answered(first.url) > 0 && await answered(second.url) > 0, "both have worked");

    // one is asked to end while it streams
    const stream = await complete(url, { stream: true }), reader = stream.body!.getReader();
    const decoder = new TextDecoder();
    let events = decoder.decode((await reader.read()).value, { stream: true });
    assert.ok(!events.includes("[DONE]"), "events come as they are made");
    const metrics = await (await fetch(`${first.url}/metrics`)).text();
    const [ending, other] = /^rsparse_running 1$/m.test(metrics) ? [first, second] : [second, first];
    ending.send("SIGTERM");
    for (let i = 0; i < 4; i++) {
      assert.equal(
        await textOf(complete(url, { max_tokens: 5 })),
        await textOf(complete(other.url, { max_tokens: 5 })),
      );
    }
    for (let next = await reader.read(); !next.done; next = await reader.read()) {
      events += decoder.decode(next.value, { stream: true });
    }
    const streamed = events.split("\n").filter((line) => line.startsWith("data: {"))
      .map((line) => JSON.parse(line.slice(6)).choices[0].text).join("");
    assert.equal(streamed, expected);
    assert.equal(await ending.ended, 0);
    assert.equal(await textOf(complete(url)), expected);
  } finally {
    caddy.child.kill("SIGKILL");
    for (const server of [first, second]) {
      try {
        server.send("SIGKILL");
      } catch {
        // it has ended
      }
    }
  }
});
