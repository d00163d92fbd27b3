/** The worker of `examples/edge-workers` in the real workerd, where nothing can be compiled or evaluated while it runs. Deno's runner runs this file; it counts as workerd. */
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { gzipSync } from "node:zlib";
import { Model } from "../../src/mod.ts";
import {
  ask,
  type BundledEdge,
  bundleEdge,
  readStream,
  type RunningEdge,
  startEdge,
} from "../support/edge.ts";
import { tinyHashes } from "./hashes.ts";

const folder = mkdtempSync(join(tmpdir(), "rsparse-workers-"));
const PROMPT = { messages: [{ role: "user", content: "Tell me a story." }] };
let bundle: BundledEdge, worker: RunningEdge;

before(async () => {
  bundle = await bundleEdge("workers", join(folder, "worker"));
  worker = await startEdge(bundle, "");
});
after(async () => {
  await worker.stop();
  rmSync(folder, { recursive: true, force: true });
});

const chat = (body: object, init?: RequestInit): Promise<Response> =>
  ask(`${worker.url}/v1/chat/completions`, { ...PROMPT, ...body }, init);

test("worker: the bundle is small, and holds nothing that makes code", () => {
  const path = (name: string): string => join(bundle.folder, name),
    code = readFileSync(path(bundle.code), "utf8");
  assert.doesNotMatch(code, /\beval\s*\(|new Function\b|\bimport\s*\(|node:/);
  const core = gzipSync(code).length + gzipSync(readFileSync(path(bundle.kernels))).length;
  assert.ok(core <= 120_000, `code and kernels are ${core} bytes compressed`);
  const whole = [bundle.code, bundle.kernels, bundle.model].reduce(
    (sum, name) => sum + statSync(path(name)).size,
    0,
  );
  assert.ok(whole <= 20_000_000, `the worker is ${whole} bytes`);
});

test("worker: streams tokens, the same ones as Deno's, request after request", async () => {
  await using model = await Model.load("tiny", { kernels: "baseline" });
  let wanted = "";
  for await (const { text } of model.chat(PROMPT.messages, { sparsity: 0.5, maxTokens: 12 })) wanted += text;
  for (let request = 0; request < 3; request++) {
    const response = await chat({ stream: true, sparsity: 0.5, max_tokens: 12, temperature: 0 });
    assert.equal(response.headers.get("content-type")?.split(";")[0], "text/event-stream");
    const { parts, done } = await readStream(response);
    assert.ok(done);
    assert.equal(parts.map(({ text }) => text).join(""), wanted);
    if (request === 0) assert.ok(parts.length > 4, `text came in ${parts.length} parts`);
  }
});

test("worker: logits and sampled text are those of Deno, bit for bit", async () => {
  const parity = await startEdge(
    await bundleEdge("workers", join(folder, "parity"), "tests/workerd/parity_worker.ts"),
    "",
  );
  try {
    const found = await (await ask(parity.url, {})).json();
    const wanted: { [name: string]: string } = {};
    for (const sparsity of [0, 0.5]) {
      await using model = await Model.load("tiny", {
        kernels: "baseline",
        recipe: sparsity === 0 ? null : undefined,
      });
      Object.assign(wanted, await tinyHashes(model, sparsity));
    }
    assert.equal(Object.keys(wanted).length, 4);
    assert.deepEqual(found, wanted);
  } finally {
    await parity.stop();
  }
});

test("worker: requests beside one another each have their own text; more than four are told to come again", async () => {
  const alone = await Promise.all([0, 1].map(async (seed) => {
    const answer = await (await chat({ max_tokens: 24, temperature: 1, seed })).json();
    return answer.choices[0].message.content as string;
  }));
  assert.notEqual(alone[0], alone[1]);
  const responses = await Promise.all(
    Array.from({ length: 6 }, (_, i) => chat({ max_tokens: 24, temperature: 1, seed: i % 2, stream: true })),
  );
  const refused = responses.filter(({ status }) => status === 429);
  for (const response of refused) assert.ok(Number(response.headers.get("retry-after")) >= 1);
  const texts = await Promise.all(
    responses.map(async (response, i) =>
      response.status === 200
        ? [i, (await readStream(response)).parts.map(({ text }) => text).join("")] as const
        : null
    ),
  );
  const answered = texts.filter((text) => text !== null);
  assert.ok(
    answered.length >= 4 && answered.length + refused.length === 6,
    `${answered.length} answered, ${refused.length} refused`,
  );
  for (const [i, text] of answered) assert.equal(text, alone[i % 2]);
});

test("worker: a client that goes away leaves nothing in the way of the next", async () => {
  for (let i = 0; i < 12; i++) {
    const stop = new AbortController();
    const response = await chat({ stream: true, max_tokens: 400, temperature: 1 }, { signal: stop.signal });
    assert.equal(response.status, 200, `request ${i}: ${response.status}`);
    const reader = response.body!.getReader();
    await reader.read();
    stop.abort();
    await reader.read().catch(() => {});
    // its end is told to the worker, which then ends the generation
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  const { usage } = await (await chat({ max_tokens: 8 })).json();
  assert.ok(usage.completion_tokens > 0);
});

test("worker: what is wrong is OpenAI's errors", async () => {
  const statusOf = async (
    response: Response,
  ): Promise<[number, string]> => [response.status, (await response.json()).error.code];
  assert.equal((await statusOf(await fetch(`${worker.url}/nowhere`)))[0], 404);
  assert.equal((await statusOf(await chat({ max_tokens: 100_000 })))[0], 400);
  assert.equal(
    (await statusOf(
      await fetch(`${worker.url}/v1/chat/completions`, {
        method: "POST",
        body: "{",
        headers: { "content-type": "application/json" },
      }),
    ))[0],
    400,
  );
  assert.equal((await fetch(`${worker.url}/health`)).status, 200);
  const { data } = await (await fetch(`${worker.url}/v1/models`)).json();
  assert.equal(data[0].id, "tiny");
});

test("worker: with a key as its secret, it answers whoever has it", async () => {
  const locked = await startEdge(bundle, "", { API_KEY: "s3cret" });
  try {
    const url = `${locked.url}/v1/models`;
    assert.equal((await fetch(url)).status, 401);
    assert.equal((await fetch(url, { headers: { authorization: "Bearer wrong" } })).status, 401);
    assert.equal((await fetch(url, { headers: { authorization: "Bearer s3cret" } })).status, 200);
  } finally {
    await locked.stop();
  }
});
