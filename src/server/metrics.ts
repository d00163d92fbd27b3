/** Counts and times in Prometheus' text format. */

/** Upper bounds of a histogram's buckets, in seconds. */
const SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300];

interface Metric {
  readonly name: string;
  readonly help: string;
  readonly type: "counter" | "gauge" | "histogram";
  lines(): string[];
}

/** A number that grows, by the values of its labels. */
class Counter implements Metric {
  readonly type = "counter";
  readonly name: string;
  readonly help: string;
  readonly #labels: readonly string[];
  readonly #values: Map<string, number> = new Map();

  constructor(name: string, help: string, labels: readonly string[]) {
    this.name = name;
    this.help = help;
    this.#labels = labels;
    if (labels.length === 0) this.#values.set("", 0);
  }

  /** `values` in the order of the labels, from a small set each: every combination is kept. */
  add(amount: number, ...values: readonly string[]): void {
    const key = values.length === 0
      ? ""
      : `{${this.#labels.map((name, i) => `${name}="${values[i]}"`).join(",")}}`;
    this.#values.set(key, (this.#values.get(key) ?? 0) + amount);
  }

  lines(): string[] {
    return [...this.#values].map(([labels, value]) => `${this.name}${labels} ${value}`);
  }
}

/** Times, counted by buckets. */
class Histogram implements Metric {
  readonly type = "histogram";
  readonly name: string;
  readonly help: string;
  readonly #counts: number[] = SECONDS.map(() => 0);
  #count = 0;
  #sum = 0;

  constructor(name: string, help: string) {
    this.name = name;
    this.help = help;
  }

  observe(seconds: number): void {
    this.#count++;
    this.#sum += seconds;
    const bucket = SECONDS.findIndex((bound) => seconds <= bound);
    if (bucket >= 0) this.#counts[bucket]!++;
  }

  lines(): string[] {
    let below = 0;
    return [
      ...SECONDS.map((bound, i) => `${this.name}_bucket{le="${bound}"} ${below += this.#counts[i]!}`),
      `${this.name}_bucket{le="+Inf"} ${this.#count}`,
      `${this.name}_sum ${this.#sum}`,
      `${this.name}_count ${this.#count}`,
    ];
  }
}

/** What is asked for when the metrics are read. */
type Gauge = () => number | null;

/** The metrics of a server; docs/server.md lists them. */
export class Metrics {
  readonly #all: Metric[] = [];
  readonly requests: Counter = this.#counter(
    "rsparse_requests_total",
    "Answers, by route and status",
    "route",
    "status",
  );
  readonly promptTokens: Counter = this.#counter(
    "rsparse_prompt_tokens_total",
    "Tokens of prompts that were run",
  );
  readonly completionTokens: Counter = this.#counter(
    "rsparse_completion_tokens_total",
    "Tokens that were generated",
  );
  readonly cancelled: Counter = this.#counter(
    "rsparse_cancelled_total",
    "Generations that ended before their time",
    "reason",
  );
  readonly work: Counter = this.#counter(
    "rsparse_sparse_multiply_adds_total",
    "Multiply-adds of tokens that ran sparse, run or skipped",
    "kind",
  );
  readonly sparseTokens: Counter = this.#counter("rsparse_sparse_tokens_total", "Tokens that ran sparse");
  readonly requestSeconds: Histogram = this.#histogram(
    "rsparse_request_seconds",
    "From a request for text to the end of its answer",
  );
  readonly queueSeconds: Histogram = this.#histogram("rsparse_queue_seconds", "Wait in the queue");
  readonly firstTokenSeconds: Histogram = this.#histogram(
    "rsparse_first_token_seconds",
    "From a request for text to its first token",
  );
  readonly tokenSeconds: Histogram = this.#histogram(
    "rsparse_token_seconds",
    "From one token of an answer to the next",
  );

  #counter(name: string, help: string, ...labels: readonly string[]): Counter {
    const counter = new Counter(name, help, labels);
    this.#all.push(counter);
    return counter;
  }

  #histogram(name: string, help: string): Histogram {
    const histogram = new Histogram(name, help);
    this.#all.push(histogram);
    return histogram;
  }

  /** A number that is asked for; null leaves it out. */
  gauge(name: string, help: string, value: Gauge): void {
    const lines = (): string[] => {
      const now = value();
      return now === null ? [] : [`${name} ${now}`];
    };
    this.#all.push({ name, help, type: "gauge", lines });
  }

  /** All of them. */
  render(): string {
    return this.#all.flatMap((metric) => {
      const lines = metric.lines();
      return lines.length === 0
        ? []
        : [`# HELP ${metric.name} ${metric.help}.`, `# TYPE ${metric.name} ${metric.type}`, ...lines];
    }).join("\n") + "\n";
  }
}
