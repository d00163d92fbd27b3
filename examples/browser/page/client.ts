/** The worker as the page sees it: calls that can be stopped, and the dial. */
import type { CallName, Calls, FromWorker, ToWorker } from "../worker/protocol.ts";

/** A call that runs. */
export interface Running<R> {
  readonly result: Promise<R>;
  /** Asks it to end; how it then ends is in its result, or its error `AbortError`. */
  stop(): void;
}

interface Waiting {
  readonly onEvent: (event: unknown) => void;
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: Error) => void;
}

/** Talks with one worker. */
export class Client {
  readonly #worker: Worker;
  readonly #waiting = new Map<number, Waiting>();
  #next = 0;
  /** Why nothing will be answered any more; null: it will. */
  #ended: string | null = null;

  constructor(worker: Worker) {
    this.#worker = worker;
    worker.onmessage = ({ data }: MessageEvent<FromWorker>) => this.#take(data);
    worker.onerror = (event) => {
      event.preventDefault();
      this.#fail(
        `The page's worker has ended: ${event.message || "it could not be started"}. Reload the page`,
      );
    };
    worker.onmessageerror = () =>
      this.#fail("The page's worker sent what could not be read. Reload the page");
  }

  /** Calls the worker; events come to `onEvent`. */
  call<N extends CallName>(
    name: N,
    argument: Calls[N]["argument"],
    onEvent: (event: Calls[N]["event"]) => void = () => {},
  ): Running<Calls[N]["result"]> {
    const id = this.#next++;
    const result = new Promise<Calls[N]["result"]>((resolve, reject) => {
      if (this.#ended !== null) return reject(new Error(this.#ended));
      this.#waiting.set(id, {
        onEvent: onEvent as (event: unknown) => void,
        resolve: resolve as (value: unknown) => void,
        reject,
      });
      this.#post({ kind: "call", id, name, argument });
    });
    return { result, stop: () => this.#post({ kind: "stop", id }) };
  }

  /** Turns the dial; what runs takes it from its next token on. */
  dial(sparsity: number): void {
    this.#post({ kind: "dial", sparsity });
  }

  #post(message: ToWorker): void {
    this.#worker.postMessage(message);
  }

  #take(message: FromWorker): void {
    const waiting = this.#waiting.get(message.id);
    if (waiting === undefined) return;
    if (message.kind === "event") return waiting.onEvent(message.value);
    this.#waiting.delete(message.id);
    if (message.kind === "result") return waiting.resolve(message.value);
    const { name, message: text } = message.value;
    waiting.reject(Object.assign(new Error(text), { name }));
  }

  #fail(text: string): void {
    this.#ended = text;
    for (const { reject } of this.#waiting.values()) reject(new Error(text));
    this.#waiting.clear();
  }
}
