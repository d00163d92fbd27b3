/** The handler with many requests at once, with readers that are slow or go away, and at its beginning and end. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { calibrateModel } from "../../src/calibrate/calibrate.ts";
import { type GenerateOptions, Model } from "../../src/mod.ts";
import { createHandler } from "../../src/server/mod.ts";
import { CHAT_FOLDER, chatModel } from "../support/chat_model.ts";
import { get, type Handle, type Json, metric, ok, post, refusal, stream, textOf } from "../support/client.ts";
import { requireShared, skipWithout } from "../support/shared.ts";

const STORIES = "data/models/stories260K";
const skip = skipWithout(STORIES) || skipWithout(CHAT_FOLDER);
const TEXT = "/v1/completions";
const NAMES = ["Lily", "Tom", "Sue", "Ben", "Mia", "Max", "Anna", "Tim", "Bob", "Sara", "Sam", "Amy"];

function stories(options: Parameters<typeof Model.load>[1] = {}): Promise<Model> {
  return Model.load(requireShared(STORIES), { kernels: "baseline", threads: 1, ...options });
}

async function said(
  model: Model,
  prompt: string | readonly number[],
  options: GenerateOptions,
): Promise<string> {
  let text = "";
  for await (const part of model.generate(prompt, options)) text += part.text;
  return text;
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

async function until(what: string, isTrue: () => boolean | Promise<boolean>): Promise<void> {
  const began = performance.now();
  while (!await isTrue()) {
    assert.ok(performance.now() - began < 20_000, `waited in vain for ${what}`);
    await pause(2);
  }
}

/** A stream's events, one after the other, with its reader. */
async function open(
  handle: Handle,
  body: Json,
  signal?: AbortSignal,
): Promise<ReadableStreamDefaultReader<Uint8Array>> {
  const response = await post(handle, TEXT, { ...body, stream: true }, { signal });
  assert.equal(response.status, 200);
  return response.body!.getReader();
}

test("many at once: each gets the text that it would get alone", { skip }, async () => {
  await using plain = await stories();
  const text = "Once upon a time there was a little girl named Lily. She liked to play. ".repeat(30);
  const recipe = await calibrateModel(plain, { text, source: "a text", sparsity: 0.5, method: "teal" });
  await using model = await stories({ recipe });
  const requests = NAMES.flatMap((name, i) =>
    [0, 1].map((kind) => {
      const sampled = kind === 1, sparsity = [0.5, 0, 0.7, 0.5][i % 4]!;
      const prompt = `${"The day was long and the sun was warm. ".repeat(i % 5)}${name} went to`;
      return {
        prompt,
        sparsity,
        max_tokens: 5 + 7 * (i % 6),
        temperature: sampled ? 1 : 0,
        seed: i,
        ...(i % 3 === 0 ? { stop: ["."] } : {}),
      };
    })
  );
  const expected: string[] = [];
  for (const { prompt, sparsity, max_tokens: maxTokens, temperature, seed, stop } of requests) {
    expected.push(await said(model, prompt, { sparsity, maxTokens, temperature, seed, stop }));
  }
  assert.ok(new Set(expected).size > NAMES.length, "texts differ, so that mixing them would show");
  for (const maxSequences of [1, 3, 64]) {
    const handle = createHandler(model, { maxSequences });
    const found = await Promise.all(requests.map(async (body, i) => {
      if (i % 2 === 0) return (await ok(post(handle, TEXT, body))).choices[0].text;
      return textOf(await stream(post(handle, TEXT, { ...body, stream: true })));
    }));
    assert.deepEqual(found, expected, `${maxSequences} beside one another`);
    assert.equal(await metric(handle, "rsparse_running"), 0);
  }
});

test("fairness: requests that begin together advance together, and a long prompt does not hold them up", {
  skip,
}, async () => {
  await using model = await stories();
  const handle = createHandler(model), order: string[] = [];
  const read = async (name: string, body: Json): Promise<void> => {
    const reader = await open(handle, { temperature: 0, ...body });
    for (let next = await reader.read(); !next.done; next = await reader.read()) order.push(name);
  };
  const ids = Array.from({ length: 450 }, (_, i) => 100 + i % 300);
  // by the time the long prompt has run, in four parts, the others have had four tokens
  const short = [
    read("a", { prompt: "Once", max_tokens: 20 }),
    read("b", { prompt: "Once", max_tokens: 20 }),
  ];
  await until("the first tokens", () => order.length >= 4);
  await Promise.all([...short, read("long", { prompt: ids, max_tokens: 3 })]);
  const first = order.indexOf("long");
  assert.ok(first >= 8, `others had ${first} tokens before the long prompt's first`);
  let ahead = 0, most = 0;
  for (const name of order) {
    ahead += name === "a" ? 1 : name === "b" ? -1 : 0;
    most = Math.max(most, Math.abs(ahead));
  }
  assert.ok(most <= 2, `one was ${most} tokens ahead of the other`);
});

test(
  "the queue: those that wait are answered in their order, what is too much is refused by 429",
  { skip },
  async () => {
    await using model = await stories();
    const handle = createHandler(model, { maxSequences: 1, maxQueue: 2 }), done: number[] = [];
    const ask = (i: number): Promise<Response> =>
      post(handle, TEXT, { prompt: NAMES[i], max_tokens: 30, temperature: 0 });
    const waiting = [0, 1, 2].map(async (i) => {
      const answer = await ok(ask(i));
      done.push(i);
      return answer.choices[0].text;
    });
    await until("the queue", async () => await metric(handle, "rsparse_queue_length") === 2);
    for (let i = 0; i < 3; i++) {
      const { status, error, headers } = await refusal(ask(3));
      assert.deepEqual([status, error.type, error.code], [429, "rate_limit_error", "queue_full"]);
      assert.match(headers.get("retry-after") ?? "", /^[1-9]\d?$/);
    }
    const texts = await Promise.all(waiting);
    assert.deepEqual(done, [0, 1, 2]);
    for (const [i, text] of texts.entries()) {
      assert.equal(text, await said(model, NAMES[i]!, { maxTokens: 30, temperature: 0 }));
    }
    await ok(ask(3));
    const none = createHandler(model, { maxSequences: 1, maxQueue: 0 });
    const [one, other] = await Promise.all(
      [0, 1].map((i) => post(none, TEXT, { prompt: NAMES[i], max_tokens: 30 })),
    );
    assert.deepEqual([one!.status, other!.status], [200, 429]);
  },
);

test(
  "memory for keys and values: requests wait until there is some, and one alone may always run",
  { skip },
  async () => {
    await using model = await stories();
    const page = model.engine.kvBytesOf(1), handle = createHandler(model, { kvBytes: 4 * page });
    // 2 pages each
    const body = { prompt: "Once", max_tokens: 100, temperature: 0 };
    const answers = Array.from({ length: 6 }, () => ok(post(handle, TEXT, body)));
    let most = 0, isOver = false;
    const watch = (async () => {
      for (; !isOver; await pause(1)) most = Math.max(most, await metric(handle, "rsparse_running"));
    })();
    const expected = await said(model, "Once", { maxTokens: 100, temperature: 0 });
    for (const { choices } of await Promise.all(answers)) assert.equal(choices[0].text, expected);
    isOver = true;
    await watch;
    assert.equal(most, 2);
    await ok(post(handle, TEXT, { prompt: "Once", max_tokens: 500, temperature: 0 }));
  },
);

test("whoever goes away: nothing more is generated, whether it is written, waits, or runs its prompt", {
  skip,
}, async () => {
  await using model = await stories();
  const told: unknown[] = [];
  const handle = createHandler(model, { maxSequences: 2, onError: (error) => told.push(error) });
  const tokens = (): Promise<number> => metric(handle, "rsparse_completion_tokens_total");
  const idle = (): Promise<boolean> => metric(handle, "rsparse_running").then((n) => n === 0);
  const body = { prompt: "Once", max_tokens: 400, temperature: 0 };

  const two = (): Promise<Json> => Promise.all([1, 2].map(() => ok(post(handle, TEXT, body))));
  await two();
  const { kvBytes } = model.memory, start = await tokens();

  // by the signal of a request whose answer is not there yet
  const gone = new AbortController(), asked = post(handle, TEXT, body, { signal: gone.signal });
  await until("tokens", async () => await tokens() > start + 3);
  const before = await tokens();
  gone.abort();
  assert.equal((await asked).status, 499);
  await pause(30);
  assert.ok(await tokens() <= before + 1, `${await tokens() - before} tokens after the end`);
  assert.ok(await idle());

  // by the stream, also with the signal
  for (const how of ["cancel", "signal"] as const) {
    const control = new AbortController(), reader = await open(handle, body, control.signal);
    for (let i = 0; i < 3; i++) await reader.read();
    const before = await tokens();
    if (how === "cancel") await reader.cancel();
    else control.abort();
    await pause(30);
    assert.ok(await tokens() <= before + 1, how);
    assert.ok(await idle(), how);
  }

  // in the queue
  const first = await open(handle, body), second = await open(handle, body);
  const waits = new AbortController(), third = post(handle, TEXT, body, { signal: waits.signal });
  await until("the queue", async () => await metric(handle, "rsparse_queue_length") === 1);
  waits.abort();
  assert.equal((await third).status, 499);
  assert.equal(await metric(handle, "rsparse_queue_length"), 0);
  await Promise.all([first.cancel(), second.cancel()]);

  // in its prompt
  const ids = Array.from({ length: 500 }, (_, i) => 100 + i % 300),
    run = await metric(handle, "rsparse_prompt_tokens_total");
  const inPrompt = new AbortController(),
    long = post(handle, TEXT, { prompt: ids, max_tokens: 5 }, { signal: inPrompt.signal });
  await until("its prompt", async () => await metric(handle, "rsparse_prompt_tokens_total") > run);
  inPrompt.abort();
  assert.equal((await long).status, 499);
  await until("idleness", idle);
  assert.ok(await metric(handle, "rsparse_prompt_tokens_total") < run + 500);
  assert.equal(await metric(handle, 'rsparse_cancelled_total{reason="disconnect"}'), 7);

  // before it came
  const never = new AbortController();
  never.abort();
  assert.equal((await post(handle, TEXT, body, { signal: never.signal })).status, 499);
  assert.deepEqual(told, [], "it is no error");
  // all memory is there again
  await two();
  assert.equal(model.memory.kvBytes, kvBytes);
});

test(
  "a slow reader: its own generation waits, others do not, and nothing is lost when it goes on",
  { skip },
  async () => {
    await using model = await chatModel();
    const handle = createHandler(model), body = { prompt: "Once", max_tokens: 400, temperature: 0 };
    const expected = await said(model, "Once", { maxTokens: 400, temperature: 0 });
    const slow = await open(handle, body), decoder = new TextDecoder();
    let events = decoder.decode((await slow.read()).value, { stream: true });
    // what others do is what drives rounds
    const other = await ok(post(handle, TEXT, { ...body, prompt: "Lily" }));
    assert.equal(other.choices[0].text, await said(model, "Lily", { maxTokens: 400, temperature: 0 }));
    const made = await metric(handle, "rsparse_completion_tokens_total") - 400;
    assert.ok(made >= 30 && made <= 40, `${made} tokens were made for a reader that took one`);
    assert.equal(await metric(handle, "rsparse_running"), 1);
    for (let next = await slow.read(); !next.done; next = await slow.read()) {
      events += decoder.decode(next.value, { stream: true });
      if (events.length % 7 === 0) await pause(1);
    }
    const text = events.split("\n\n").filter((event) => event.startsWith("data: {"))
      .map((event) => JSON.parse(event.slice(6)).choices[0].text).join("");
    assert.equal(text, expected);
  },
);

test("a slow reader goes on while another waits for its place", { skip }, async () => {
  await using model = await chatModel();
  const handle = createHandler(model, { maxSequences: 1, stallMs: 1e8 });
  const body = { prompt: "Once", max_tokens: 200, temperature: 0 }, slow = await open(handle, body);
  await slow.read();
  const waits = ok(post(handle, TEXT, { ...body, max_tokens: 3 }));
  await until("the pause", async () => await metric(handle, "rsparse_completion_tokens_total") >= 30);
  await pause(20);
  let isOver = false;
  const read = async (): Promise<void> => {
    while (!(await slow.read()).done) { /* to its end */ }
    isOver = true;
  };
  void read();
  await until("its end", () => isOver);
  assert.equal((await waits).usage.completion_tokens, 3);
});

test("prompts take turns: a short one does not wait for the end of a long one", { skip }, async () => {
  await using model = await stories();
  const handle = createHandler(model), order: string[] = [];
  const ids = Array.from({ length: 480 }, (_, i) => 100 + i % 300);
  const ask = async (name: string, prompt: Json): Promise<void> => {
    await ok(post(handle, TEXT, { prompt, max_tokens: 1, temperature: 0 }));
    order.push(name);
  };
  await Promise.all([ask("long", ids), ask("short", "Once")]);
  assert.deepEqual(order, ["short", "long"]);
});

test("a reader that takes nothing for too long is cut off, and its place is free", { skip }, async () => {
  await using model = await chatModel();
  const handle = createHandler(model, { stallMs: 60, maxSequences: 1 });
  const body = { prompt: "Once", max_tokens: 400, temperature: 0 }, stuck = await open(handle, body);
  await stuck.read();
  // waits for its place, which only the other's end can give
  const next = await ok(post(handle, TEXT, { ...body, max_tokens: 3 }));
  assert.equal(next.usage.completion_tokens, 3);
  await assert.rejects(async () => {
    while (!(await stuck.read()).done) { /* what was made before */ }
  }, /nothing was read for 0.06 s/);
  assert.equal(await metric(handle, 'rsparse_cancelled_total{reason="stalled"}'), 1);
  assert.equal(await metric(handle, "rsparse_running"), 0);
});

test(
  "while the model loads: 503 with Retry-After; then it answers, or says that it failed",
  { skip },
  async () => {
    let give: (model: Model) => void = () => {};
    const handle = createHandler(new Promise<Model>((resolve) => give = resolve));
    const body = { prompt: "Once", max_tokens: 2 };
    for (const answer of [post(handle, TEXT, body), get(handle, "/v1/models")]) {
      const { status, error, headers } = await refusal(answer);
      assert.deepEqual([status, error.code, headers.get("retry-after")], [503, "model_loading", "1"]);
    }
    const health = await get(handle, "/health");
    assert.deepEqual([health.status, await health.json()], [503, { status: "loading" }]);
    assert.equal(await metric(handle, "rsparse_ready"), 0);
    await using model = await stories();
    give(model);
    await until("the model", async () => (await get(handle, "/health")).status === 200);
    await ok(post(handle, TEXT, body));

    const failed = createHandler(Promise.reject(new Error("a secret path")));
    await until("the failure", async () => (await (await get(failed, "/health")).json()).status === "failed");
    const { status, error } = await refusal(post(failed, TEXT, body));
    assert.deepEqual([status, error.code], [503, "model_failed"]);
    assert.doesNotMatch(error.message, /secret/);
  },
);

test("drain: what was begun or waits is finished, what comes is refused", { skip }, async () => {
  await using model = await stories();
  const handle = createHandler(model, { maxSequences: 1 }),
    body = { prompt: "Once", max_tokens: 40, temperature: 0 };
  const expected = await said(model, "Once", { maxTokens: 40, temperature: 0 });
  const begun = stream(post(handle, TEXT, { ...body, stream: true })), waits = ok(post(handle, TEXT, body));
  await until("both", async () => await metric(handle, "rsparse_queue_length") === 1);
  let isOver = false;
  const drained = handle.drain().then(() => isOver = true);
  const { status, error, headers } = await refusal(post(handle, TEXT, body));
  assert.deepEqual([status, error.code, headers.get("connection")], [503, "shutting_down", "close"]);
  assert.deepEqual(await (await get(handle, "/health")).json(), { status: "draining" });
  assert.equal(isOver, false);
  assert.equal(textOf(await begun), expected);
  assert.equal((await waits).choices[0].text, expected);
  await drained;
  await handle.drain();

  // streams whose readers have gone, before and after their last token, are not waited for
  const other = createHandler(model),
    gone = await open(other, body),
    late = await open(other, { ...body, max_tokens: 2 });
  await gone.read();
  await until(
    "its end",
    async () => await metric(other, "rsparse_running") === 1 || !(await late.read()).done,
  );
  const ending = other.drain();
  await gone.cancel();
  await late.cancel();
  await ending;
});

test(
  "drain: readers that take nothing are cut off, also of the last words of an answer",
  { skip },
  async () => {
    await using model = await chatModel();
    const body = { prompt: "Once", max_tokens: 400, temperature: 0 };
    for (
      const [max_tokens, limits, stallMs] of [
        // of what is being made, with nobody else who would make it go on
        [400, { stallMs: 1e8 }, 40],
        // made to its end, which fits in what may wait
        [8, { stallMs: 1e8 }, 40],
        // the server's own limit is the shorter one, and longer timers than there are do no harm
        [8, { stallMs: 40 }, 1e12],
      ] as const
    ) {
      const handle = createHandler(model, limits), stuck = await open(handle, { ...body, max_tokens });
      await stuck.read();
      // beside one that asks for its pieces, so that the other's are made
      if (max_tokens === 8) await ok(post(handle, TEXT, { ...body, max_tokens: 30 }));
      await handle.drain(stallMs);
      await assert.rejects(stuck.read(), /nothing was read for 0.04 s/);
      assert.equal(await metric(handle, 'rsparse_cancelled_total{reason="stalled"}'), 1);
      assert.equal(await metric(handle, "rsparse_running"), 0);
    }
  },
);

test(
  "an error of the model: the one whose fault it is fails, or nothing can be answered any more",
  { skip },
  async () => {
    await using model = await stories();
    const told: [string, boolean][] = [];
    const handle = createHandler(model, { onError: (error, isFatal) => told.push([String(error), isFatal]) });
    const { decodeTogether } = model, body = { prompt: "Once", max_tokens: 30, temperature: 0 };
    const expected = await said(model, "Once", { maxTokens: 30, temperature: 0 });
    let calls = 0;
    model.decodeTogether = async (steps) => {
      const found = await decodeTogether.call(model, steps);
      return steps.length > 1 && ++calls === 3 ? [new Error("a bad token"), ...found.slice(1)] : found;
    };
    const [one, other] = await Promise.all([0, 1].map(() => post(handle, TEXT, body)));
    const { status, error } = await refusal(one!);
    assert.deepEqual([status, error.type, error.code], [500, "server_error", "internal_error"]);
    assert.doesNotMatch(error.message, /bad token/);
    assert.equal((await ok(other!)).choices[0].text, expected);
    assert.deepEqual(told, [["Error: a bad token", false]]);
    assert.equal((await get(handle, "/health")).status, 200);

    model.decodeTogether = () => Promise.reject(new WebAssembly.RuntimeError("unreachable"));
    const streamed = await (await post(handle, TEXT, { ...body, stream: true })).text();
    const last = streamed.trimEnd().split("\n\n").at(-1)!;
    assert.equal(JSON.parse(last.slice("data: ".length)).error.code, "internal_error");
    assert.equal(told.length, 2);
    assert.deepEqual([told[1]![1], (await get(handle, "/health")).status], [true, 503]);
    assert.equal((await refusal(post(handle, TEXT, body))).error.code, "model_failed");
  },
);
