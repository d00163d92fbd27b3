/** The page: its parts, put together. */
import { Bench } from "./page/bench.ts";
import { Chat } from "./page/chat.ts";
import { Client } from "./page/client.ts";
import { Compare } from "./page/compare.ts";
import { Dial } from "./page/dial.ts";
import { find } from "./page/dom.ts";
import { Models } from "./page/models.ts";
import { Tabs } from "./page/tabs.ts";
import { inWords, parameters, threadsInShort } from "./page/words.ts";
import type { ModelInfo } from "./worker/protocol.ts";

const client = new Client(new Worker(new URL("worker.js", document.baseURI), { type: "module" }));
const errorBox = find("error", HTMLElement), errorText = find("error-text", HTMLElement);

function showError(error: unknown): void {
  errorText.textContent = inWords(error);
  errorBox.hidden = false;
}

find("error-close", HTMLButtonElement).addEventListener("click", () => errorBox.hidden = true);

let open: ModelInfo | null = null;

const tabs = new Tabs((name) => {
  const withDial = open !== null && (name === "chat" || name === "compare");
  find("dial", HTMLElement).hidden = !withDial;
  document.querySelector(".page")!.classList.toggle("with-dial", withDial);
  // numbers and picture are of the conversation; a comparison has its own
  find("live", HTMLElement).hidden = find("picture", HTMLElement).hidden = name !== "chat";
});

function setBusy(busy: boolean): void {
  if (busy) errorBox.hidden = true;
  for (const part of [chat, compare, bench, models, dial]) part.busy = busy;
}

const dial = new Dial((sparsity) => client.dial(sparsity), () => {
  tabs.show("model");
  void models.calibrate();
});
const context = { client, dial, setBusy, showError };
const chat = new Chat(context), compare = new Compare(context), bench = new Bench(context);
const models = new Models({
  client,
  setBusy,
  showError,
  onOpen(model) {
    open = model;
    find("model-line", HTMLElement).textContent = [
      model.name,
      parameters(model.parameters),
      threadsInShort(model.threads, model.threadsReason),
    ].join(" · ");
    for (const part of [chat, compare, bench]) part.use(model);
    dial.use(model.recipe);
    setBusy(false);
    tabs.show("chat");
    chat.focus();
  },
});

for (const part of [chat, compare, bench]) part.use(null);
setBusy(false);
tabs.show("model");
try {
  await models.start();
} catch (error) {
  showError(error);
}
