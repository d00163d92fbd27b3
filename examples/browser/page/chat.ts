/** The conversation: messages, the one that is being written, and how each was made. */
import type { Answer, AnswerSettings, ChatMessage, ModelInfo } from "../worker/protocol.ts";
import type { Client, Running } from "./client.ts";
import type { Dial } from "./dial.ts";
import { announce, button, find, fit, make, paced, sendByEnter } from "./dom.ts";
import { percent, speed } from "./words.ts";

const QUESTIONS = [
  "What is gravity?",
  "Tell me a short story about a fox.",
  "Give me three tips for sleeping well.",
];
const BEGINNINGS = ["Once upon a time", "The old house", "One day, a little girl"];

/** What the chat needs of the page. */
export interface ChatContext {
  readonly client: Client;
  readonly dial: Dial;
  /** Told when the model begins to work, and when it ends. */
  setBusy(busy: boolean): void;
  showError(error: unknown): void;
}

/** The chat tab. */
export class Chat {
  readonly #context: ChatContext;
  readonly #area = find("prompt", HTMLTextAreaElement);
  readonly #list = find("messages", HTMLElement);
  readonly #send = find("send", HTMLButtonElement);
  readonly #stop = find("stop", HTMLButtonElement);
  readonly #clear = find("clear", HTMLButtonElement);
  #messages: ChatMessage[] = [];
  #model: ModelInfo | null = null;
  #running: Running<Answer> | null = null;

  constructor(context: ChatContext) {
    this.#context = context;
    sendByEnter(this.#area);
    find("composer", HTMLFormElement).addEventListener("submit", (event) => {
      event.preventDefault();
      void this.#ask(this.#area.value);
    });
    this.#stop.addEventListener("click", () => this.#running?.stop());
    this.#clear.addEventListener("click", () => {
      this.clear();
      this.#area.focus();
    });
    addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.#running?.stop();
    });
  }

  /** Takes the model that was opened; a conversation with another one ends. */
  use(model: ModelInfo | null): void {
    this.#model = model;
    this.clear();
    const { chats } = model ?? { chats: true };
    find("chat-empty-title", HTMLElement).textContent = chats ? "Ask the model something" : "Begin a text";
    find("chat-empty-text", HTMLElement).textContent = chats
      ? "It runs in this page, on your processor. Nothing that you write leaves this machine."
      : "This model has no chat template: it goes on with what you write. It runs in this page; nothing that you write leaves this machine.";
    this.#area.placeholder = chats ? "Write a message" : "Write a beginning";
    find("prompts", HTMLElement).replaceChildren(
      ...(chats ? QUESTIONS : BEGINNINGS).map((text) => button(text, () => void this.#ask(text))),
    );
  }

  /** Whether something else uses the model. */
  set busy(busy: boolean) {
    this.#send.disabled = busy || this.#model === null;
    this.#clear.disabled = busy;
    for (const each of find("prompts", HTMLElement).querySelectorAll("button")) {
      each.disabled = busy || this.#model === null;
    }
  }

  /** Puts the cursor where one writes. */
  focus(): void {
    this.#area.focus();
  }

  /** Begins anew. */
  clear(): void {
    this.#messages = [];
    this.#list.replaceChildren();
    this.#clear.hidden = true;
    find("chat-empty", HTMLElement).hidden = false;
  }

  #settings(): AnswerSettings {
    const numberOf = (id: string, otherwise: number): number => {
      const { value, min, max } = find(id, HTMLInputElement), number = value === "" ? NaN : Number(value);
      if (!Number.isFinite(number)) return otherwise;
      return Math.min(Math.max(number, Number(min)), max === "" ? Infinity : Number(max));
    };
    const seed = find("seed", HTMLInputElement).value;
    return {
      temperature: numberOf("temperature", 0.7),
      maxTokens: Math.floor(numberOf("max-tokens", 256)),
      seed: seed === "" ? null : Math.floor(numberOf("seed", 0)),
    };
  }

  async #ask(text: string): Promise<void> {
    if (text.trim() === "" || this.#running !== null || this.#model === null || this.#send.disabled) return;
    const { client, dial, setBusy, showError } = this.#context;
    const system = find("system", HTMLTextAreaElement).value.trim();
    const messages: ChatMessage[] = [...this.#messages, { role: "user", content: text }];
    const asked = this.#add("user", text), answer = this.#add("assistant", "");
    const streamed = new StreamedText(answer.text);
    this.#area.value = "";
    fit(this.#area);
    setBusy(true);
    this.#send.hidden = true;
    this.#stop.hidden = false;
    answer.item.classList.add("wait");
    dial.reset();
    announce("Answering");
    try {
      this.#running = client.call("answer", {
        messages: system === "" ? messages : [{ role: "system", content: system }, ...messages],
        settings: this.#settings(),
      }, (event) => {
        if (!("cells" in event)) streamed.add(event.text);
        dial.take(event);
      });
      const result = await this.#running.result;
      streamed.end(result.text);
      this.#messages = [...messages, { role: "assistant", content: result.text }];
      answer.meta.textContent = metaOf(result);
      announce(`${result.finishReason === "cancelled" ? "Stopped" : "Answer"}: ${result.text || "nothing"}`);
    } catch (error) {
      asked.item.remove();
      answer.item.remove();
      if (this.#messages.length === 0) this.clear();
      this.#area.value = text;
      fit(this.#area);
      showError(error);
    }
    this.#running = null;
    answer.item.classList.remove("wait");
    const hadFocus = document.activeElement === this.#stop || document.activeElement === document.body;
    this.#stop.hidden = true;
    this.#send.hidden = false;
    setBusy(false);
    dial.rest();
    if (hadFocus) this.#area.focus();
  }

  #add(
    role: "user" | "assistant",
    content: string,
  ): { item: HTMLElement; text: HTMLElement; meta: HTMLElement } {
    const item = make("li", "", { class: role });
    const text = make("div", content, { class: "text" }), meta = make("p", "", { class: "meta" });
    item.append(
      make("p", role === "user" ? "You" : "Model", { class: role === "user" ? "out-of-sight" : "who" }),
      text,
    );
    if (role === "assistant") item.append(meta);
    find("chat-empty", HTMLElement).hidden = true;
    this.#clear.hidden = false;
    this.#list.append(item);
    item.scrollIntoView({ block: "nearest" });
    return { item, text, meta };
  }
}

/** How an answer was made. */
function metaOf(answer: Answer): string {
  const { tokens, tokensPerSecond, measuredSparsity, firstTokenMs, dial, finishReason } = answer;
  const parts = [`${tokens} ${tokens === 1 ? "token" : "tokens"}`];
  if (tokensPerSecond !== null) parts.push(speed(tokensPerSecond));
  if (tokens > 0) parts.push(`first after ${(firstTokenMs / 1000).toFixed(2)} s`);
  if (measuredSparsity !== null) parts.push(`${percent(measuredSparsity, 1)} skipped`);
  const stood = dial.map(({ from, sparsity }, i) =>
    `${sparsity === 0 ? "dense" : percent(sparsity)}${i === 0 ? "" : ` from token ${from}`}`
  );
  if (stood.length > 0) parts.push(`dial ${stood.join(", ")}`);
  if (finishReason === "cancelled") parts.push("stopped");
  if (finishReason === "length") parts.push("cut at the longest answer");
  return parts.join(" · ");
}

/** Text that grows: written into the page some times a second, however fast it comes. */
export class StreamedText {
  readonly #element: HTMLElement;
  readonly #node = document.createTextNode("");
  readonly #writeSoon = paced(() => this.#write());
  #text = "";

  constructor(element: HTMLElement) {
    this.#element = element;
    element.replaceChildren(this.#node);
  }

  /** More of it. */
  add(text: string): void {
    this.#text += text;
    if (text !== "") this.#writeSoon();
  }

  /** Shows at once all that it is, or what was added. */
  end(text: string = this.#text): void {
    this.#text = text;
    this.#write();
  }

  /** Who has scrolled away from the end stays where they are. */
  #write(): void {
    const root = document.documentElement, atEnd = root.scrollHeight - innerHeight - scrollY < 80;
    this.#node.data = this.#text;
    if (atEnd && this.#element.closest("#chat") !== null) scrollTo({ top: root.scrollHeight });
  }
}
