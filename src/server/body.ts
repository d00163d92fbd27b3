/** Bodies of requests: read up to a limit, and answered as a stream. */
import { ApiError } from "./errors.ts";
import { CancelledError } from "./scheduler.ts";
import type { Piece, Sequence } from "./sequence.ts";

/**
 * The bytes of a JSON body.
 *
 * @throws {ApiError} 415 if it is said to be something else, 413 if it is longer than `limit` bytes, 408 if it takes longer than `ms` milliseconds, 400 if it breaks.
 */
export async function readBody(request: Request, limit: number, ms: number): Promise<Uint8Array> {
  const type = request.headers.get("content-type") ?? "";
  // a page of another origin could send a text unasked, but not JSON
  if (!/^application\/(json|[\w.-]+\+json) *(;|$)/i.test(type)) {
    throw new ApiError(
      415,
      "unsupported_media_type",
      `content-type: ${type === "" ? "nothing" : type} found, application/json wanted`,
    );
  }
  const tooLarge = (): ApiError => {
    // the rest is not read, so the connection is of no further use
    const headers = { connection: "close" };
    return new ApiError(413, "body_too_large", `the body is longer than ${limit} bytes: send less`, {
      headers,
    });
  };
  if (Number(request.headers.get("content-length") ?? 0) > limit) throw tooLarge();
  const reader = request.body?.getReader(), chunks: Uint8Array[] = [];
  let length = 0, late = false;
  const timer = setTimeout(() => {
    late = true;
    reader?.cancel().catch(() => {});
  }, ms);
  try {
    for (;;) {
      const { done, value } = await reader?.read().catch(cut) ?? { done: true };
      if (late) throw new ApiError(408, "timeout", `the body did not come within ${ms / 1000} s`);
      if (done) break;
      length += value.length;
      if (length > limit) {
        reader!.cancel().catch(() => {});
        throw tooLarge();
      }
      chunks.push(value);
    }
  } finally {
    clearTimeout(timer);
  }
  const all = new Uint8Array(length);
  let at = 0;
  for (const chunk of chunks) {
    all.set(chunk, at);
    at += chunk.length;
  }
  return all;
}

function cut(cause: unknown): never {
  throw new ApiError(400, "body_cut", "the body ended before its end: send it again", { cause });
}

/** What an event stream is made from. */
export interface EventSource {
  readonly sequence: Sequence;
  take(): Promise<readonly Piece[]>;
  /** Whoever read it is gone. */
  cancel(): void;
  /** The first events, sent as soon as they are asked for. */
  begin(): object[];
  events(pieces: readonly Piece[]): object[];
  /** The event for what ended it before its time. */
  failed(error: unknown): object;
}

/** Server-sent events. Nothing is made before it is read, so a slow reader holds up its own generation alone. */
export function eventStream(source: EventSource): Response {
  const encoder = new TextEncoder(), { signal } = source.sequence.abort;
  const encode = (events: readonly (object | string)[]): Uint8Array =>
    encoder.encode(
      events.map((event) => `data: ${typeof event === "string" ? event : JSON.stringify(event)}\n\n`).join(
        "",
      ),
    );
  let first = source.begin(), isCancelled = false;
  const body = new ReadableStream<Uint8Array>({
    start(controller) {
      signal.addEventListener("abort", () => {
        // nobody reads, so nobody would come to see an event
        const { reason } = signal;
        if (!(reason instanceof CancelledError)) return;
        if (reason.reason === "stalled") controller.error(reason);
        // Deno prints the errors of streams, and here there was none
        else if (!isCancelled) controller.close();
      });
    },
    async pull(controller) {
      if (first.length > 0) {
        controller.enqueue(encode(first));
        first = [];
        return;
      }
      let events: (object | string)[], isOver = false;
      try {
        const pieces = await source.take();
        events = source.events(pieces);
        isOver = pieces.at(-1)!.end !== null;
        if (isOver) events.push("[DONE]");
      } catch (error) {
        if (error instanceof CancelledError) return;
        events = [source.failed(error)];
        isOver = true;
      }
      // text may be held back: the reader has asked and gets an empty piece, else it would not ask again
      controller.enqueue(encode(events));
      if (isOver) controller.close();
    },
    cancel() {
      isCancelled = true;
      source.cancel();
    },
  }, { highWaterMark: 0 });
  return new Response(body, {
    headers: {
      "content-type": "text/event-stream; charset=utf-8",
      "cache-control": "no-cache",
      // nginx would keep events back until it has some kilobytes
      "x-accel-buffering": "no",
    },
  });
}
