/** Requests to a handler, and what comes back. */
import assert from "node:assert/strict";

/** A function from request to answer. */
export type Handle = (request: Request) => Promise<Response>;

/** JSON of any shape: tests say what they expect of it. */
// deno-lint-ignore no-explicit-any
export type Json = any;

const BASE = "http://server.test";

/** Sends JSON, or a text as it is. */
export function post(
  handle: Handle,
  path: string,
  body: unknown,
  options: { headers?: Record<string, string>; signal?: AbortSignal } = {},
): Promise<Response> {
  return handle(
    new Request(BASE + path, {
      method: "POST",
      headers: { "content-type": "application/json", ...options.headers },
      body: typeof body === "string" ? body : JSON.stringify(body),
      signal: options.signal,
    }),
  );
}

/** Asks for something. */
export function get(
  handle: Handle,
  path: string,
  options: { headers?: Record<string, string>; method?: string } = {},
): Promise<Response> {
  return handle(new Request(BASE + path, options));
}

/** The JSON of an answer that went well. */
export async function ok(answer: Response | Promise<Response>): Promise<Json> {
  const response = await answer, text = await response.text();
  assert.equal(response.status, 200, text);
  return JSON.parse(text);
}

/** Events of a stream that is whole, without the `[DONE]` at its end. */
export function eventsOf(text: string): Json[] {
  const events = text.split("\n\n");
  assert.equal(events.pop(), "", "the last event is whole");
  const data = events.map((event) => {
    assert.match(event, /^data: [^\n]*$/);
    return event.slice("data: ".length);
  });
  assert.equal(data.pop(), "[DONE]");
  return data.map((one) => JSON.parse(one));
}

/** A stream, read to its end. */
export async function stream(answer: Response | Promise<Response>): Promise<Json[]> {
  const response = await answer, text = await response.text();
  assert.equal(response.status, 200, text);
  assert.equal(response.headers.get("content-type"), "text/event-stream; charset=utf-8");
  return eventsOf(text);
}

/** The text of a stream's events. */
export function textOf(events: readonly Json[]): string {
  return events.flatMap(({ choices }) => choices).map((choice: Json) =>
    choice.delta?.content ?? choice.text ?? ""
  )
    .join("");
}

/** A refusal: its status and error. */
export async function refusal(
  answer: Response | Promise<Response>,
): Promise<{ status: number; error: Json; headers: Headers }> {
  const response = await answer, text = await response.text();
  assert.match(response.headers.get("content-type") ?? "", /^application\/json/, text);
  const { error, ...rest } = JSON.parse(text);
  assert.deepEqual(rest, {});
  assert.deepEqual(Object.keys(error), ["message", "type", "code", "param"]);
  return { status: response.status, error, headers: response.headers };
}

/** A metric's value, with its labels as they are written. */
export async function metric(
  handle: Handle,
  name: string,
  headers?: Record<string, string>,
): Promise<number> {
  const text = await (await get(handle, "/metrics", { headers })).text();
  const line = text.split("\n").find((line) => line.startsWith(`${name} `));
  return line === undefined ? NaN : Number(line.slice(name.length));
}
