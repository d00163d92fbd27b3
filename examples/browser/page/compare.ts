/** Dense and sparse side by side on one prompt. */
import type { Comparison, ModelInfo, Side, SideResult } from "../worker/protocol.ts";
import { type ChatContext, StreamedText } from "./chat.ts";
import type { Running } from "./client.ts";
import { announce, find, fit, sendByEnter } from "./dom.ts";
import { verdictOf } from "./verdict.ts";
import { percent, speed, wasStopped } from "./words.ts";

/** Tokens of each side at most: enough to see where they part, and to time both. */
const MAX_TOKENS = 128;
const SIDES: readonly Side[] = ["dense", "sparse"];

/** The comparison tab. */
export class Compare {
  readonly #context: ChatContext;
  readonly #area = find("compare-prompt", HTMLTextAreaElement);
  readonly #run = find("compare-run", HTMLButtonElement);
  readonly #stop = find("compare-stop", HTMLButtonElement);
  readonly #verdict = find("verdict", HTMLElement);
  #model: ModelInfo | null = null;
  #running: Running<Comparison> | null = null;

  constructor(context: ChatContext) {
    this.#context = context;
    sendByEnter(this.#area);
    find("compare-form", HTMLFormElement).addEventListener("submit", (event) => {
      event.preventDefault();
      void this.#compare();
    });
    this.#stop.addEventListener("click", () => this.#running?.stop());
    addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.#running?.stop();
    });
  }

  /** Takes the model that was opened. */
  use(model: ModelInfo | null): void {
    this.#model = model;
    for (const side of SIDES) {
      find(`${side}-text`, HTMLElement).textContent = "";
      find(`${side}-figure`, HTMLElement).textContent = "–";
    }
    this.#area.value = model?.chats === false ? "Once upon a time" : "What is gravity?";
    this.#verdict.textContent = model !== null && model.recipe === null
      ? "This model has no recipe yet, so there is nothing sparse to compare with: press “Calibrate here” or drop a recipe."
      : "";
  }

  /** Whether something else uses the model. */
  set busy(busy: boolean) {
    this.#run.disabled = busy || this.#model === null || this.#model.recipe === null;
  }

  async #compare(): Promise<void> {
    const prompt = this.#area.value;
    if (prompt.trim() === "" || this.#running !== null || this.#run.disabled) return;
    const { client, dial, setBusy, showError } = this.#context;
    const texts = {
      dense: new StreamedText(find("dense-text", HTMLElement)),
      sparse: new StreamedText(find("sparse-text", HTMLElement)),
    };
    for (const side of SIDES) {
      find(`${side}-figure`, HTMLElement).textContent = "…";
      texts[side].end("");
    }
    this.#verdict.textContent = "";
    fit(this.#area);
    setBusy(true);
    this.#run.hidden = true;
    this.#stop.hidden = false;
    this.#stop.focus();
    announce("Running both");
    const began = dial.sparsity, spent = { dense: 0, sparse: 0 };
    try {
      this.#running = client.call("compare", { prompt, maxTokens: MAX_TOKENS }, (event) => {
        if ("side" in event) {
          texts[event.side].add(event.text);
          const ms = spent[event.side] += event.ms;
          find(`${event.side}-figure`, HTMLElement).textContent = `${
            speed(ms > 0 ? (event.count - 1) / ms * 1000 : null)
          } · token ${event.count}`;
        } else this.#verdict.textContent = `Loading ${event.what} …`;
      });
      const result = await this.#running.result;
      for (const side of SIDES) texts[side].end();
      this.#show(result, began, dial.sparsity);
    } catch (error) {
      this.#verdict.textContent = "";
      for (const side of SIDES) find(`${side}-figure`, HTMLElement).textContent = "–";
      if (!wasStopped(error)) showError(error);
    }
    this.#running = null;
    const hadFocus = document.activeElement === this.#stop || document.activeElement === document.body;
    this.#stop.hidden = true;
    this.#run.hidden = false;
    setBusy(false);
    if (hadFocus) this.#run.focus();
  }

  #show(found: Comparison, from: number, to: number): void {
    const figure = (
      side: Side,
      tokensPerSecond: number | null,
      { tokens, finishReason }: SideResult,
    ): void => {
      const cut = finishReason === "cancelled" ? ", stopped" : finishReason === "length" ? ", cut" : "";
      find(`${side}-figure`, HTMLElement).textContent = `${speed(tokensPerSecond)} · ${tokens} tokens${cut}`;
    };
    figure("dense", found.denseTokensPerSecond, found.dense);
    figure("sparse", found.sparseTokensPerSecond, found.sparse);
    const text = verdictOf(found) +
      (from === to ? "" : ` The dial was turned meanwhile, from ${percent(from)} to ${percent(to)}.`);
    this.#verdict.textContent = text;
    announce(text);
  }
}
