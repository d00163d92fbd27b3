/** The worker: hands the page's calls to {@linkcode Host}, and what comes of them back. */
import { Host } from "./host.ts";
import type { Failure, FromWorker, ToWorker } from "./protocol.ts";

const host = new Host(), running = new Map<number, AbortController>();
const post = (message: FromWorker): void => postMessage(message);

globalThis.onmessage = ({ data }: MessageEvent<ToWorker>): void => {
  if (data.kind === "dial") return host.turn(data.sparsity);
  if (data.kind === "stop") return running.get(data.id)?.abort();
  const { id, name, argument } = data, controller = new AbortController();
  running.set(id, controller);
  host.call(
    name,
    argument as never,
    (value: unknown) => post({ kind: "event", id, value }),
    controller.signal,
  )
    .then(
      (value) => post({ kind: "result", id, value }),
      (error) => post({ kind: "failure", id, value: failureOf(error) }),
    )
    .finally(() => running.delete(id));
};

function failureOf(error: unknown): Failure {
  return error instanceof Error || error instanceof DOMException
    ? { name: error.name, message: error.message }
    : { name: "Error", message: String(error) };
}
