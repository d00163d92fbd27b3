/** The benchmark tab: what to measure, how far it is, the rows, and the JSON to copy. */
import type { Row } from "../../../src/cli/bench/rows.ts";
import type { ModelInfo, Progress } from "../worker/protocol.ts";
import type { PageResults } from "../worker/bench.ts";
import type { ChatContext } from "./chat.ts";
import type { Running } from "./client.ts";
import { announce, find, make } from "./dom.ts";
import { percent } from "./words.ts";

/** The benchmark tab. */
export class Bench {
  readonly #context: ChatContext;
  readonly #tokens = find("bench-tokens", HTMLInputElement);
  readonly #kernels = find("bench-kernels", HTMLInputElement);
  readonly #run = find("bench-run", HTMLButtonElement);
  readonly #stop = find("bench-stop", HTMLButtonElement);
  readonly #copied = find("bench-copied", HTMLElement);
  #model: ModelInfo | null = null;
  #isBusy = false;
  #running: Running<PageResults> | null = null;

  constructor(context: ChatContext) {
    this.#context = context;
    find("bench-form", HTMLFormElement).addEventListener("submit", (event) => {
      event.preventDefault();
      void this.#measure();
    });
    this.#stop.addEventListener("click", () => this.#running?.stop());
    find("bench-copy", HTMLButtonElement).addEventListener("click", () => void this.#copy());
    for (const box of [this.#tokens, this.#kernels]) box.addEventListener("change", () => this.#enable());
  }

  /** Takes the model that was opened. */
  use(model: ModelInfo | null): void {
    this.#model = model;
    this.#tokens.disabled = model === null;
    this.#tokens.checked = model !== null;
    this.#enable();
  }

  /** Whether something else uses the model. */
  set busy(busy: boolean) {
    this.#isBusy = busy;
    this.#enable();
  }

  #enable(): void {
    const tokens = this.#tokens.checked && this.#model !== null;
    this.#run.disabled = this.#isBusy || !(tokens || this.#kernels.checked);
  }

  async #measure(): Promise<void> {
    if (this.#run.disabled) return;
    const { client, setBusy, showError } = this.#context;
    const body = find("bench-table", HTMLTableElement).tBodies[0]!;
    body.replaceChildren();
    find("bench-done", HTMLElement).hidden = true;
    find("bench-progress", HTMLElement).hidden = false;
    this.#copied.textContent = "";
    setBusy(true);
    this.#run.hidden = true;
    this.#stop.hidden = false;
    this.#stop.focus();
    announce("Measuring");
    try {
      this.#running = client.call(
        "bench",
        { tokens: this.#tokens.checked, kernels: this.#kernels.checked },
        (event) => {
          if ("what" in event) return this.#showProgress(event);
          find("bench-scroll", HTMLElement).hidden = false;
          body.append(...event.rows.map((row) => rowOf(row, event.threads)));
        },
      );
      const results = await this.#running.result;
      find("bench-json", HTMLTextAreaElement).value = `${JSON.stringify(results, rounded, 1)}\n`;
      find("bench-done", HTMLElement).hidden = false;
      const missing = results.missing.map(({ what, reason }) => `${what}: ${reason}`);
      if (missing.length > 0) showError(new Error(`Not measured: ${missing.join("; ")}`));
      announce(`Measured ${results.runs.length} runs`);
    } catch (error) {
      showError(error);
    }
    this.#running = null;
    this.#stop.hidden = true;
    this.#run.hidden = false;
    find("bench-progress", HTMLElement).hidden = true;
    setBusy(false);
    if (document.activeElement === document.body) {
      const done = find("bench-done", HTMLElement).hidden ? this.#run : find("bench-copy", HTMLButtonElement);
      done.focus();
    }
  }

  #showProgress({ what, done, total }: Progress): void {
    find("bench-what", HTMLElement).textContent = what;
    find("bench-bar", HTMLProgressElement).value = done / (total ?? 1);
  }

  /** Where the clipboard is not to be had, the text is marked for a person to copy it. */
  async #copy(): Promise<void> {
    const text = find("bench-json", HTMLTextAreaElement);
    try {
      await navigator.clipboard.writeText(text.value);
      this.#copied.textContent = "Copied.";
    } catch {
      text.focus();
      text.select();
      this.#copied.textContent =
        "This browser does not let the page copy: the text is selected, press Ctrl+C.";
    }
    announce(this.#copied.textContent);
  }
}

/** Four digits a number, as `bench/results/latest.json` has them. */
function rounded(_: string, value: unknown): unknown {
  return typeof value === "number" && !Number.isInteger(value) ? Number(value.toPrecision(4)) : value;
}

function rowOf(row: Row, threads: number): HTMLTableRowElement {
  const line = make("tr"), stat = row.tokensPerSecond ?? row.ms;
  const digits = stat === undefined || stat.median >= 10 ? 1 : 3;
  const cells = [
    row.name,
    String(threads),
    row.dtype,
    row.method === undefined ? row.variant : `${row.variant}, ${row.method}`,
    row.sparsity === 0 ? "–" : percent(row.sparsity),
    stat === undefined ? "–" : `${stat.median.toFixed(digits)} ${row.tokensPerSecond ? "tokens/s" : "ms"}`,
    row.speedup === undefined ? "–" : `${row.speedup.toFixed(2)}×`,
  ];
  line.append(make("th", cells[0], { scope: "row" }), ...cells.slice(1).map((text) => make("td", text)));
  return line;
}
