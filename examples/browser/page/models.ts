/** The model tab: where a model comes from, what is kept in this browser, and what it runs on. */
import type { CallName, Calls, Kept, ModelInfo, Origin, Progress, Support } from "../worker/protocol.ts";
import type { Client, Running } from "./client.ts";
import { announce, button, find, make } from "./dom.ts";
import { dropFiles } from "./drop.ts";
import { bytes, parameters, wasStopped } from "./words.ts";

/** What the tab needs of the page. */
export interface ModelsContext {
  readonly client: Client;
  setBusy(busy: boolean): void;
  showError(error: unknown): void;
  /** Told of a model that was opened. */
  onOpen(model: ModelInfo): void;
}

/** The model tab. */
export class Models {
  readonly #context: ModelsContext;
  readonly #url = find("url", HTMLInputElement);
  readonly #keep = find("keep", HTMLButtonElement);
  #support: Support | null = null;
  #model: ModelInfo | null = null;
  #isBusy = false;
  #running: Running<unknown> | null = null;

  constructor(context: ModelsContext) {
    this.#context = context;
    const files = find("files", HTMLInputElement);
    files.addEventListener("change", () => {
      void this.open({ from: "files", files: [...files.files ?? []] });
      files.value = "";
    });
    dropFiles((files) => void this.open({ from: "files", files }));
    find("own-open", HTMLButtonElement).addEventListener("click", () => void this.open({ from: "page" }));
    find("url-form", HTMLFormElement).addEventListener("submit", (event) => {
      event.preventDefault();
      void this.#download(this.#url.value);
    });
    this.#keep.addEventListener("click", () => void this.#keepOpen());
    find("model-stop", HTMLButtonElement).addEventListener("click", () => this.#running?.stop());
  }

  /** Shows what this browser can do and what it keeps. */
  async start(): Promise<Support> {
    const support = this.#support = await this.#context.client.call("support", null).result;
    const { own, storageReason } = support;
    find("own-open", HTMLElement).hidden = own === null;
    find("own-text", HTMLElement).textContent = own === null
      ? "This copy of the page comes without one: choose a file, or give an address."
      : `${own.name}, ${bytes(own.bytes)}, comes with this page`;
    this.#url.disabled = storageReason !== null;
    this.#enable();
    this.#showFacts();
    await this.#showShelf();
    return support;
  }

  /** Whether the model works. */
  set busy(busy: boolean) {
    this.#isBusy = busy;
    this.#enable();
  }

  #enable(): void {
    const busy = this.#isBusy || this.#running !== null, noStorage = this.#support?.storageReason != null;
    find("own-open", HTMLButtonElement).disabled = busy;
    find("files", HTMLInputElement).disabled = busy;
    find("url-get", HTMLButtonElement).disabled = busy || noStorage;
    this.#keep.disabled = busy;
    this.#keep.hidden = this.#model === null || this.#model.kept || noStorage;
    for (const each of find("shelf", HTMLElement).querySelectorAll("button")) each.disabled = busy;
  }

  /** Opens a model, or a recipe for the one that is open. */
  async open(origin: Origin): Promise<void> {
    if (this.#isBusy || this.#running !== null) {
      return this.#context.showError(new Error("The model is at work: stop that first"));
    }
    const model = await this.#work("open", origin, "Opening");
    if (model !== null) this.#opened(model);
  }

  /** Makes a recipe for the open model. */
  async calibrate(): Promise<void> {
    const model = await this.#work(
      "calibrate",
      null,
      "Calibrating: the model reads some text, to learn what it can skip",
    );
    if (model !== null) this.#opened(model);
  }

  #opened(model: ModelInfo): void {
    this.#model = model;
    this.#enable();
    this.#showFacts();
    announce(`${model.name} is open`);
    for (const warning of model.warnings) this.#context.showError(new Error(warning));
    this.#context.onOpen(model);
    void this.#showShelf();
  }

  async #download(url: string): Promise<void> {
    if (url.trim() === "") return this.#url.focus();
    const kept = await this.#work("download", { url }, "Downloading");
    await this.#showShelf();
    if (kept === null) return;
    this.#url.value = "";
    await this.open({ from: "kept", id: kept.id });
  }

  async #keepOpen(): Promise<void> {
    const kept = await this.#work("keep", null, "Copying");
    if (kept !== null && this.#model !== null) this.#model = { ...this.#model, kept: true };
    this.#enable();
    await this.#showShelf();
    if (kept !== null) announce(`${kept.name} is kept in this browser`);
  }

  async #remove(kept: Kept): Promise<void> {
    await this.#work("remove", { id: kept.id }, "Deleting");
    await this.#showShelf();
    announce(`${kept.name} was deleted`);
    find("tab-model", HTMLElement).focus();
  }

  /** Runs a call with its progress and a button that cancels it; null if it failed, which has been said then. */
  async #work<N extends CallName>(
    name: N,
    argument: Calls[N]["argument"],
    what: string,
  ): Promise<Calls[N]["result"] | null> {
    const { client, setBusy, showError } = this.#context, box = find("model-progress", HTMLElement);
    const bar = find("model-bar", HTMLProgressElement), text = find("model-what", HTMLElement);
    bar.removeAttribute("value");
    text.textContent = `${what} …`;
    box.hidden = false;
    try {
      const running = client.call(
        name,
        argument,
        (event) => showProgress(bar, text, what, event as Progress),
      );
      this.#running = running;
      setBusy(true);
      announce(what);
      return await running.result;
    } catch (error) {
      if (!wasStopped(error)) showError(error);
      return null;
    } finally {
      this.#running = null;
      box.hidden = true;
      setBusy(false);
    }
  }

  async #showShelf(): Promise<void> {
    const list = find("shelf", HTMLElement), note = find("shelf-note", HTMLElement);
    const reason = this.#support?.storageReason;
    if (reason != null) {
      note.textContent = `Nothing can be kept: ${reason}. Files can be dropped all the same.`;
      return;
    }
    try {
      const { models, usedBytes, quotaBytes } = await this.#context.client.call("shelf", null).result;
      list.replaceChildren(...models.map((kept) => this.#itemOf(kept)));
      const room = usedBytes === null || quotaBytes === null
        ? ""
        : ` ${bytes(usedBytes)} used, ${
          bytes(Math.max(0, quotaBytes - usedBytes))
        } free. The browser may delete it when the disk is nearly full.`;
      note.textContent = (models.length === 0 ? "Nothing yet." : "") + room;
      this.#enable();
    } catch (error) {
      this.#context.showError(error);
    }
  }

  #itemOf(kept: Kept): HTMLElement {
    const { name, bytes: have, total, complete, url } = kept, item = make("li");
    const size = complete
      ? bytes(have)
      : `${bytes(have)} of ${total === null ? "an unknown size" : bytes(total)}, not whole`;
    item.append(make("span", `${name}, ${size}`));
    if (complete) {
      item.append(
        button("Open", () => void this.open({ from: "kept", id: kept.id }), { "aria-label": `Open ${name}` }),
      );
    } else if (url !== null) {
      item.append(
        button("Go on", () => void this.#download(url), { "aria-label": `Go on downloading ${name}` }),
      );
    }
    item.append(button("Delete", () => void this.#remove(kept), { "aria-label": `Delete ${name}` }));
    return item;
  }

  #showFacts(): void {
    const model = this.#model, support = this.#support!, facts: [string, string][] = [];
    if (model !== null) {
      facts.push(
        ["Model", `${model.name}, ${parameters(model.parameters)}, ${model.quantization}`],
        ["Context", `${model.contextLength} tokens`],
        ["Memory", `${bytes(model.memoryBytes)}, weights as ${model.storage}`],
        ["Loaded in", `${(model.loadMs / 1000).toFixed(2)} s`],
        ["Kernels", `${model.kernels} SIMD`],
        ["Threads", threadsText(model.threads, model.threadsReason)],
      );
    } else {facts.push([
        "Threads",
        threadsText(support.threadsReason === null ? null : 1, support.threadsReason),
      ]);}
    find("facts", HTMLElement).replaceChildren(
      ...facts.flatMap(([name, text]) => [make("dt", name), make("dd", text)]),
    );
  }
}

function threadsText(threads: number | null, reason: string | null): string {
  const count = threads === null ? "several, used while they help" : String(threads);
  return reason === null ? count : `${count}: ${reason}`;
}

function showProgress(
  bar: HTMLProgressElement,
  text: HTMLElement,
  what: string,
  { done, total }: Progress,
): void {
  const isBytes = what !== "Calibrating: the model reads some text, to learn what it can skip";
  if (total === null) bar.removeAttribute("value");
  else {
    bar.max = total;
    bar.value = done;
  }
  const part = total === null
    ? bytes(done)
    : isBytes
    ? `${bytes(done)} of ${bytes(total)}`
    : `${Math.round(100 * done / total)} %`;
  text.textContent = `${what}: ${part}`;
}
