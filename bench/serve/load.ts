/**
 * A server under load: clients that stream or wait, read slowly, go away, bring wrong keys or bodies that are too long or broken, all at once. Every text that
 * comes to its end is held against what the server said when it had nothing else to do.
 */
import { connect } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";

/** What is run. */
export interface LoadOptions {
  /** `http://127.0.0.1:…` */
  readonly url: string;
  /** The server's key. */
  readonly key: string;
  readonly clients: number;
  readonly seconds: number;
  /** Most bytes of a body that the server takes. */
  readonly maxBody: number;
  /** What has to have come before it ends, however busy the machine is; it waits up to ten times as long. */
  readonly isEnough?: (report: LoadReport) => boolean;
  /** Called every second with what there is. */
  readonly onSecond?: (report: LoadReport) => void;
}

/** What came of it. */
export interface LoadReport {
  readonly seconds: number;
  /** Answers that were read to their end and were right. */
  readonly right: number;
  /** Of them, those of slow readers. */
  readonly slow: number;
  /** Answers that were left in the middle. */
  readonly left: number;
  /** Requests that were refused as they should be: by 401, 400 and 413. */
  readonly refused: { readonly [status: string]: number };
  /** 429s. */
  readonly busy: number;
  /** Whatever else happened, the first of each kind: it should be empty. */
  readonly errors: readonly string[];
  /** Tokens of right answers. */
  readonly tokens: number;
  /** Seconds to the first token of streams, sorted. */
  readonly firstToken: readonly number[];
  /** Resident memory of the server in bytes, second by second. */
  readonly rss: readonly number[];
}

/** A request and what the server says to it when it is alone. */
interface Case {
  readonly body: { readonly [name: string]: unknown };
  readonly text: string;
  readonly tokens: number;
  readonly finish: string;
}

type Kind = "steady" | "slow" | "vanishing" | "stranger" | "broken" | "oversize";
/** Of sixteen clients. */
const KINDS: readonly Kind[] = [
  ...Array<Kind>(8).fill("steady"),
  "slow",
  "slow",
  "vanishing",
  "vanishing",
  "vanishing",
  "stranger",
  "broken",
  "oversize",
];
const NAMES = ["Lily", "Tom", "Sue", "Ben", "Mia", "Max", "Anna", "Tim", "Bob", "Sara", "Sam", "Amy"];
/** Errors of one kind are kept up to this many. */
const MOST_ERRORS = 20;

/** Prompts short and long, greedy and drawn, some with a stop text. */
function bodies(): Case["body"][] {
  return NAMES.flatMap((name, i) =>
    [0, 1].map((drawn) => ({
      prompt: `${
        "The day was long and the sun was warm. ".repeat(i % 4 === 3 ? 12 : i % 4)
      }${name} went to the`,
      max_tokens: 4 + 17 * (i % 6),
      temperature: drawn,
      seed: 100 + i,
      ...(i % 3 === 0 ? { stop: [". ", "\n"] } : {}),
    }))
  );
}

/** Runs clients against a server whose model is loaded. */
export async function runLoad(options: LoadOptions): Promise<LoadReport> {
  const load = new Load(options);
  await load.prepare();
  return await load.run();
}

class Load {
  readonly #options: LoadOptions;
  #cases: readonly Case[] = [];
  #right = 0;
  #slow = 0;
  #left = 0;
  #busy = 0;
  #tokens = 0;
  #isOver = false;
  #began = 0;
  readonly #refused: { [status: string]: number } = {};
  readonly #errors: string[] = [];
  readonly #firstToken: number[] = [];
  readonly #rss: number[] = [];

  constructor(options: LoadOptions) {
    this.#options = options;
  }

  /** Asks for every text once, one after the other. */
  async prepare(): Promise<void> {
    const cases: Case[] = [];
    for (const body of bodies()) {
      const answer = await this.#post(JSON.stringify(body)), text = await answer.text();
      if (answer.status !== 200) throw new Error(`Cannot begin: ${answer.status} ${text}`);
      const { choices: [choice], usage } = JSON.parse(text);
      cases.push({ body, text: choice.text, tokens: usage.completion_tokens, finish: choice.finish_reason });
    }
    this.#cases = cases;
  }

  async run(): Promise<LoadReport> {
    const { clients, seconds, isEnough = () => true, onSecond } = this.#options;
    this.#began = performance.now();
    const running = Array.from({ length: clients }, (_, i) => this.#client(KINDS[i % KINDS.length]!, i));
    const watch = (async () => {
      for (let second = 1; !this.#isOver; second++) {
        await sleep(Math.max(0, this.#began + 1000 * second - performance.now()));
        await this.#try("metrics", async () => {
          const text = await (await fetch(`${this.#options.url}/metrics`, { headers: this.#auth })).text();
          this.#rss.push(Number(/^process_resident_memory_bytes (\d+)/m.exec(text)?.[1]));
        });
        onSecond?.(this.#report());
      }
    })();
    await sleep(1000 * seconds);
    for (let i = 1; i < 10 * seconds && !isEnough(this.#report()); i++) await sleep(1000);
    this.#isOver = true;
    await Promise.all([...running, watch]);
    await this.#settle();
    return this.#report();
  }

  /** What was left must not run on. */
  async #settle(): Promise<void> {
    for (let tries = 0;; tries++) {
      const text = await (await fetch(`${this.#options.url}/metrics`, { headers: this.#auth })).text();
      if (/^rsparse_running 0$/m.test(text) && /^rsparse_queue_length 0$/m.test(text)) return;
      if (tries === 50) return this.#error("generations run on though all clients are gone");
      await sleep(100);
    }
  }

  #report(): LoadReport {
    return {
      seconds: (performance.now() - this.#began) / 1000,
      right: this.#right,
      slow: this.#slow,
      left: this.#left,
      refused: { ...this.#refused },
      busy: this.#busy,
      errors: [...this.#errors],
      tokens: this.#tokens,
      firstToken: [...this.#firstToken].sort((a, b) => a - b),
      rss: [...this.#rss],
    };
  }

  get #auth(): { authorization: string } {
    return { authorization: `Bearer ${this.#options.key}` };
  }

  #post(body: string, headers: { [name: string]: string } = {}): Promise<Response> {
    return fetch(`${this.#options.url}/v1/completions`, {
      method: "POST",
      headers: { "content-type": "application/json", ...this.#auth, ...headers },
      body,
    });
  }

  #error(text: string): void {
    if (this.#errors.length < MOST_ERRORS) this.#errors.push(text);
  }

  async #try(what: string, work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      const { message, cause } = error as Error;
      this.#error(`${what}: ${message}${cause instanceof Error ? `: ${cause.message}` : ""}`);
      // a server that is gone would be asked as fast as it can be
      await sleep(200);
    }
  }

  async #client(kind: Kind, number: number): Promise<void> {
    for (let turn = 0; !this.#isOver; turn++) {
      const one = this.#cases[(7 * number + 5 * turn) % this.#cases.length]!;
      await this.#try(kind, () => {
        switch (kind) {
          case "steady":
            return turn % 3 === 0 ? this.#whole(one) : this.#stream(one);
          case "slow":
            return this.#socket(one, "slow");
          case "vanishing":
            return this.#socket(one, "vanishing", (31 * number + 17 * turn) % 40);
          case "stranger":
            return this.#refusal(JSON.stringify(one.body), 401, { authorization: "Bearer of bad news" });
          case "broken":
            return this.#refusal(turn % 2 === 0 ? '{"prompt": "a' : '{"prompt": 7}', 400);
          case "oversize":
            return this.#refusal(JSON.stringify({ prompt: "x".repeat(this.#options.maxBody) }), 413);
        }
      });
    }
  }

  async #refusal(body: string, wanted: number, headers: { [name: string]: string } = {}): Promise<void> {
    const { status, text } = await this.#post(body, headers).then(async (answer) => ({
      status: answer.status,
      text: await answer.text(),
    }));
    if (status !== wanted) this.#error(`${wanted} wanted, ${status} found: ${text}`);
    else this.#refused[status] = (this.#refused[status] ?? 0) + 1;
    await sleep(250);
  }

  /** Waits as long as a 429 says, or less: this is to be a load. */
  async #isBusy(answer: { status: number; headers: Headers }): Promise<boolean> {
    if (answer.status !== 429) return false;
    this.#busy++;
    const seconds = Number(answer.headers.get("retry-after"));
    if (!(seconds >= 1)) this.#error(`429 with Retry-After ${answer.headers.get("retry-after")}`);
    await sleep(200);
    return true;
  }

  #check(one: Case, text: string, tokens: number, finish: string): void {
    if (text !== one.text) {
      this.#error(`another text for ${JSON.stringify(one.body)}: ${JSON.stringify(text)}`);
    } else if (tokens !== one.tokens || finish !== one.finish) {
      this.#error(
        `${tokens} tokens and ${finish} for ${
          JSON.stringify(one.body)
        }, ${one.tokens} and ${one.finish} wanted`,
      );
    } else {
      this.#right++;
      this.#tokens += tokens;
    }
  }

  async #whole(one: Case): Promise<void> {
    const answer = await this.#post(JSON.stringify(one.body)), text = await answer.text();
    if (await this.#isBusy(answer)) return;
    if (answer.status !== 200) return this.#error(`${answer.status}: ${text}`);
    const { choices: [choice], usage } = JSON.parse(text);
    this.#check(one, choice.text, usage.completion_tokens, choice.finish_reason);
  }

  async #stream(one: Case): Promise<void> {
    const began = performance.now();
    const answer = await this.#post(
      JSON.stringify({ ...one.body, stream: true, stream_options: { include_usage: true } }),
    );
    if (answer.status !== 200) {
      const text = await answer.text();
      if (!await this.#isBusy(answer)) this.#error(`${answer.status}: ${text}`);
      return;
    }
    let text = "";
    const decoder = new TextDecoder();
    for await (const bytes of answer.body!) {
      if (text === "") this.#firstToken.push((performance.now() - began) / 1000);
      text += decoder.decode(bytes, { stream: true });
    }
    this.#checkEvents(one, text);
  }

  /** A stream's events, which end by `[DONE]`. */
  #checkEvents(one: Case, events: string): void {
    if (!events.endsWith("data: [DONE]\n\n")) return this.#error(`a stream was cut: ${events.slice(-200)}`);
    let text = "", finish = "", tokens = -1;
    for (const line of events.split("\n\n")) {
      if (!line.startsWith("data: {")) continue;
      const { choices, usage, error } = JSON.parse(line.slice("data: ".length));
      if (error !== undefined) return this.#error(`in a stream: ${error.message}`);
      text += choices[0]?.text ?? "";
      finish = choices[0]?.finish_reason ?? finish;
      tokens = usage?.completion_tokens ?? tokens;
    }
    this.#check(one, text, tokens, finish);
  }

  /** A stream over a socket that is read slowly, or is closed after some events. */
  #socket(one: Case, kind: "slow" | "vanishing", events = 0): Promise<void> {
    const { url, key } = this.#options, { hostname, port } = new URL(url);
    const body = JSON.stringify({ ...one.body, stream: true, stream_options: { include_usage: true } });
    return new Promise((resolve, reject) => {
      let got = "";
      const socket = connect(Number(port), hostname, () => {
        socket.write(
          `POST /v1/completions HTTP/1.1\r\nhost: ${hostname}\r\nauthorization: Bearer ${key}\r\nconnection: close\r\n` +
            `content-type: application/json\r\ncontent-length: ${
              new TextEncoder().encode(body).length
            }\r\n\r\n${body}`,
        );
        if (kind === "vanishing" && events === 0) leave();
      });
      const leave = (): void => {
        this.#left++;
        socket.destroy();
        resolve();
      };
      socket.setEncoding("utf8").on("data", (text) => {
        got += text;
        if (kind === "slow") {
          socket.pause();
          setTimeout(() => socket.resume(), this.#isOver ? 0 : 30);
        } else if (got.split("data: ").length > events && !got.includes("HTTP/1.1 429")) leave();
      });
      socket.on("error", reject);
      socket.on("close", () => void this.#socketEnded(one, kind, got).then(resolve, reject));
    });
  }

  async #socketEnded(one: Case, kind: "slow" | "vanishing", got: string): Promise<void> {
    const at = got.indexOf("\r\n\r\n"), head = got.slice(0, at), status = Number(head.split(" ")[1]);
    // one that was to be left may have ended before
    if (got === "") return;
    if (status === 429) {
      const headers = new Headers({ "retry-after": /retry-after: (\S+)/i.exec(head)?.[1] ?? "" });
      return void await this.#isBusy({ status, headers });
    }
    if (kind === "vanishing") return;
    if (status !== 200) return this.#error(`${status}: ${got.slice(at)}`);
    const isChunked = /transfer-encoding: chunked/i.test(head), before = this.#right;
    this.#checkEvents(one, isChunked ? unchunk(got.slice(at + 4)) : got.slice(at + 4));
    this.#slow += this.#right - before;
  }
}

/** The body that came in chunks, whose sizes are of bytes. */
function unchunk(text: string): string {
  let rest = new TextEncoder().encode(text);
  const decoder = new TextDecoder(), parts: string[] = [];
  for (;;) {
    const end = rest.indexOf(13), size = parseInt(decoder.decode(rest.subarray(0, end)), 16);
    if (!(size > 0)) return parts.join("");
    parts.push(decoder.decode(rest.subarray(end + 2, end + 2 + size)));
    rest = rest.subarray(end + 4 + size);
  }
}

/** By how much memory has grown: the median of the last fifth over that of the first, after the first `warmUp` seconds. */
export function growth(rss: readonly number[], warmUp: number): number {
  const after = rss.slice(warmUp), fifth = Math.max(1, Math.floor(after.length / 5));
  const median = (list: readonly number[]): number =>
    [...list].sort((a, b) => a - b)[list.length >> 1] ?? NaN;
  return median(after.slice(-fifth)) / median(after.slice(0, fifth)) - 1;
}
