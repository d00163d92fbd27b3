/** The server as clients use it: OpenAI's own, for JavaScript and Python, sockets that break, and signals. */
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { type AddressInfo, connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { after, test } from "node:test";
import { babbler, failure, json, rsparse, stories } from "../support/cli.ts";
import { importOpenai, PYTHON_CLIENT, skipWithoutPython } from "../support/openai.ts";
import { runProgram } from "../support/process.ts";
import { chatFolder, type ServeProcess, startServe, until, withServe } from "../support/serve.ts";
import { rootPath, skipWithout } from "../support/shared.ts";

const skip = skipWithout("data/models/stories260K/stories260K.bin") || skipWithout("golden/tiny/llama3-hf");
const skipSignals = skip || (process.platform === "win32" && "no signals");
const folder = mkdtempSync(join(tmpdir(), "rsparse-serve-"));
after(() => rmSync(folder, { recursive: true, force: true }));

const KEY = "a-key-of-a-test";
const HELLO = [{ role: "user", content: "Hello" }];
const JSON_TYPE = { "content-type": "application/json" };

/** A file with two keys. */
function keyFile(): string {
  const path = join(folder, "keys");
  writeFileSync(path, `# of the tests\nanother\n${KEY}\r\n\n`);
  return path;
}

/** A model at an address that sends it when it is told to, and a cache of its own for it. */
async function slowModel(): Promise<
  { url: string; home: { RSPARSE_HOME: string }; release: () => void; close: () => void }
> {
  const bytes = readFileSync(babbler());
  let release = (): void => {};
  const released = new Promise<void>((resolve) => release = resolve);
  const server = createServer(async (_, answer) => {
    await released;
    answer.writeHead(200, { "content-length": bytes.length }).end(bytes);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/babbler.gguf`;
  const close = (): void => {
    server.closeAllConnections();
    server.close();
  };
  return { url, home: { RSPARSE_HOME: mkdtempSync(join(folder, "home-")) }, release, close };
}

function complete(url: string, body: object, signal?: AbortSignal): Promise<Response> {
  return fetch(`${url}/v1/completions`, {
    method: "POST",
    headers: JSON_TYPE,
    body: JSON.stringify(body),
    signal,
  });
}

async function metric(url: string, name: string): Promise<number> {
  const text = await (await fetch(`${url}/metrics`)).text();
  return Number(text.split("\n").find((line) => line.startsWith(`${name} `))!.slice(name.length));
}

/** What the command line generates for a prompt. */
async function generated(n: number): Promise<string> {
  const args = ["generate", "-m", stories(), "-p", "Once upon", "-n", String(n), "--threads", "1"];
  return (await json(args)).output.text;
}

test("serve: OpenAI's client for JavaScript", { skip: skipSignals }, async () => {
  const { default: OpenAI } = await importOpenai();
  await withServe(
    ["-m", chatFolder(folder), "--api-key-file", keyFile(), "--threads", "1"],
    async ({ url }) => {
      const options = { apiKey: KEY, baseURL: `${url}/v1`, maxRetries: 0 }, client = new OpenAI(options);
      const model = (await client.models.list()).data[0].id, chat = client.chat.completions;
      assert.equal((await client.models.retrieve(model)).object, "model");
      const body = { model, messages: HELLO, max_tokens: 60, temperature: 0 };
      const answer = await chat.create({ ...body, logprobs: true, top_logprobs: 2 });
      const text = answer.choices[0].message.content;
      assert.equal(answer.usage.completion_tokens, 60);
      assert.equal(answer.choices[0].logprobs.content.length, 60);
      let streamed = "", usage = null;
      for await (
        const part of await chat.create({ ...body, stream: true, stream_options: { include_usage: true } })
      ) {
        streamed += part.choices[0]?.delta.content ?? "";
        usage = part.usage ?? usage;
      }
      assert.deepEqual([streamed, usage.completion_tokens], [text, 60]);
      // the client puts the parts of a stream together by itself
      const final = await chat.stream({ ...body, stream: true }).finalChatCompletion();
      assert.deepEqual([final.choices[0].message.content, final.choices[0].finish_reason], [text, "length"]);
      const completion = await client.completions.create({
        model,
        prompt: "Hello",
        max_tokens: 8,
        temperature: 0,
      });
      let parts = "";
      for await (
        const part of await client.completions.create({
          model,
          prompt: "Hello",
          max_tokens: 8,
          temperature: 0,
          stream: true,
        })
      ) {
        parts += part.choices[0].text;
      }
      assert.equal(parts, completion.choices[0].text);
      const at = text.indexOf(text.slice(10, 13));
      const stopped = await chat.create({ ...body, stop: [text.slice(10, 13)] });
      assert.deepEqual([stopped.choices[0].message.content, stopped.choices[0].finish_reason], [
        text.slice(0, at),
        "stop",
      ]);

      for (
        const [ErrorClass, code, asked] of [
          [
            OpenAI.BadRequestError,
            "context_length_exceeded",
            () => chat.create({ ...body, max_tokens: 9999 }),
          ],
          [OpenAI.BadRequestError, "unsupported", () => chat.create({ ...body, n: 2 })],
          [
            OpenAI.AuthenticationError,
            "invalid_api_key",
            () => new OpenAI({ ...options, apiKey: "wrong" }).models.list(),
          ],
          [OpenAI.NotFoundError, "model_not_found", () => client.models.retrieve("other")],
          [OpenAI.NotFoundError, "model_not_found", () => chat.create({ ...body, model: "other" })],
        ] as const
      ) {
        await assert.rejects(asked, (error: Error & { code?: string }) => {
          assert.ok(error instanceof ErrorClass, String(error));
          assert.equal(error.code, code);
          return true;
        });
      }
    },
  );
});

test("serve: OpenAI's client for Python", { skip: skipSignals || skipWithoutPython() }, async () => {
  const model = chatFolder(folder);
  await withServe(["-m", model, "--api-key-file", keyFile(), "--threads", "1"], async ({ url }) => {
    const command = [PYTHON_CLIENT, rootPath("tests/e2e/serve_openai.py"), url, KEY];
    const { code, stdout, stderr } = await runProgram(command, { env: { PYTHONIOENCODING: "utf-8" } });
    assert.equal(code, 0, stderr);
    assert.equal(Array.from(stdout).length > 0, true);
  });
});

test("serve: the text of `generate`, and 503 while the model loads", { skip: skipSignals }, async () => {
  const { url, home, release, close } = await slowModel();
  const server = await startServe(["-m", url], home);
  const health = await fetch(`${server.url}/health`);
  assert.deepEqual([health.status, await health.json()], [503, { status: "loading" }]);
  assert.equal((await complete(server.url, { prompt: "a" })).status, 503);
  release();
  await until("the model", () => server.said().includes("ready: "), server.said);
  assert.equal((await fetch(`${server.url}/health`)).status, 200);
  server.send("SIGTERM");
  assert.equal(await server.ended, 0, server.said());
  close();

  const expected = await generated(60);
  await withServe(["-m", stories(), "--threads", "1"], async ({ url }) => {
    const answer = await (await complete(url, { prompt: "Once upon", max_tokens: 60, temperature: 0 }))
      .json();
    assert.equal(answer.choices[0].text, expected);
  });
});

/** A connection that has sent a request for a stream and has got the first of it. */
async function openStream(
  { url }: ServeProcess,
  body: object,
): Promise<{ destroy(): void; got(): string; isOver(): boolean }> {
  const { hostname, port } = new URL(url), text = JSON.stringify({ ...body, stream: true });
  let got = "", isOver = false;
  const socket = connect(Number(port), hostname, () => {
    const head =
      `POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: ${text.length}\r\n\r\n`;
    socket.write(head + text);
  });
  socket.setEncoding("utf8").on("data", (more) => {
    got += more;
    if (got.endsWith("0\r\n\r\n")) isOver = true;
  });
  socket.on("error", () => {});
  await until("the stream", () => got.includes("data: "));
  return { destroy: () => socket.destroy(), got: () => got, isOver: () => isOver };
}

test(
  "serve: a connection that breaks ends its generation",
  { skip: skipSignals },
  () =>
    withServe(["-m", stories(), "--threads", "1"], async (server) => {
      const { url } = server, body = { prompt: "Once upon", max_tokens: 480, temperature: 0, logprobs: 5 };
      const running = (): Promise<boolean> => metric(url, "rsparse_running").then((n) => n === 1);
      for (const isStream of [true, false]) {
        const before = await metric(url, "rsparse_completion_tokens_total");
        if (isStream) (await openStream(server, body)).destroy();
        else {
          const gone = new AbortController(), asked = complete(url, body, gone.signal);
          asked.catch(() => {});
          await until("the request", running);
          gone.abort();
          await assert.rejects(asked);
        }
        await until("its end", async () => !await running());
        const made = await metric(url, "rsparse_completion_tokens_total") - before;
        assert.ok(made < 480, `all ${made} tokens were made`);
      }
      assert.equal(await metric(url, 'rsparse_cancelled_total{reason="disconnect"}'), 2);
    }),
);

test(
  "serve: asked to end, it finishes what it has begun and takes nothing new",
  { skip: skipSignals },
  async () => {
    const expected = await generated(300);
    for (const signal of ["SIGINT", "SIGTERM"] as const) {
      const server = await startServe(["-m", stories(), "--threads", "1"]);
      await until("the model", () => server.said().includes("ready: "), server.said);
      const idle = await (await fetch(`${server.url}/health`)).json();
      assert.equal(idle.status, "ok");
      const stream = await openStream(server, { prompt: "Once upon", max_tokens: 300, temperature: 0 });
      server.send(signal);
      await until("the end", () => server.said().includes("shutting down"), server.said);
      const late = await complete(server.url, { prompt: "a" }).then(({ status }) => status, () => "refused");
      assert.ok(late === 503 || late === "refused", String(late));
      assert.equal(await server.ended, 0, server.said());
      assert.ok(stream.isOver(), "the stream was cut");
      const text = stream.got().split("\n").filter((line) => line.startsWith("data: {"))
        .map((line) => JSON.parse(line.slice(6)).choices[0].text).join("");
      assert.equal(text, expected);
    }
  },
);

test("serve: asked twice, it ends at once; also while it loads", { skip: skipSignals }, async () => {
  for (const [signal, code] of [["SIGINT", 130], ["SIGTERM", 143]] as const) {
    const server = await startServe(["-m", stories(), "--threads", "1"]);
    await until("the model", () => server.said().includes("ready: "), server.said);
    const body = { prompt: "Once upon", max_tokens: 480, temperature: 0, logprobs: 5 };
    const streams = await Promise.all(Array.from({ length: 24 }, () => openStream(server, body)));
    server.send(signal);
    await until("the end", () => server.said().includes("shutting down"), server.said);
    server.send(signal);
    assert.equal(await server.ended, code, server.said());
    assert.ok(streams.some((stream) => !stream.isOver()), "it was too quick to be interrupted");
  }
  const { url, home, close } = await slowModel();
  const loading = await startServe(["-m", url], home);
  loading.send("SIGINT");
  assert.equal(await loading.ended, 0, loading.said());
  assert.doesNotMatch(loading.said(), /ready|error/);
  close();
});

test("serve: what it can't be started with", { skip }, async () => {
  await failure(2, /--port.*an integer from 0 to 65535/, ["serve", "--port", "70000"]);
  await failure(2, /--cors.*an origin such as/, ["serve", "--cors", "example.com"]);
  await failure(2, /without a recipe/, ["serve", "-m", stories(), "--sparsity", "0.5"]);
  await failure(1, /Cannot read \/none: /, ["serve", "-m", stories(), "--api-key-file", "/none"]);
  const empty = join(folder, "empty");
  writeFileSync(empty, "# nothing\n");
  await failure(2, /Cannot use .*empty: there is no key in it/, [
    "serve",
    "-m",
    stories(),
    "--api-key-file",
    empty,
  ]);
  await failure(1, /Cannot open \/none\.gguf: there is no such file/, [
    "serve",
    "--port",
    "0",
    "-m",
    "/none.gguf",
  ]);
  const { code, stderr } = await rsparse(["serve", "--help"]);
  assert.deepEqual([code, stderr], [0, ""]);
});

test(
  "serve: a port that is taken; a warning where anyone can reach it",
  { skip: skipSignals },
  () =>
    withServe(["-m", stories(), "--threads", "1", "--host", "0.0.0.0"], async ({ url, said }) => {
      assert.match(said(), /warning: whoever can reach this address can use it/);
      await failure(1, /Cannot listen on 0\.0\.0\.0:\d+: .*give another --port/, [
        "serve",
        "-m",
        stories(),
        "--host",
        "0.0.0.0",
        "--port",
        new URL(url).port,
      ]);
    }),
);
