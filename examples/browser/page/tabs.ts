/** Tabs as the ARIA practices have them: arrows, Home and End move between them, Tab goes into the panel. */
import { find } from "./dom.ts";

/** Their names, which are the ids of their panels. */
export type TabName = "chat" | "compare" | "bench" | "model";
const NAMES: readonly TabName[] = ["chat", "compare", "bench", "model"];

/** The tabs of the page. */
export class Tabs {
  readonly #onShow: (name: TabName) => void;

  /** @param onShow called after a tab was shown */
  constructor(onShow: (name: TabName) => void) {
    this.#onShow = onShow;
    for (const [i, name] of NAMES.entries()) {
      const tab = tabOf(name);
      tab.addEventListener("click", () => this.show(name));
      tab.addEventListener("keydown", (event) => {
        const to = { ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: NAMES.length - 1 }[event.key];
        if (to === undefined) return;
        event.preventDefault();
        const next = NAMES[(to + NAMES.length) % NAMES.length]!;
        this.show(next);
        tabOf(next).focus();
      });
    }
  }

  /** Shows one panel. */
  show(shown: TabName): void {
    for (const name of NAMES) {
      const tab = tabOf(name), isShown = name === shown;
      tab.setAttribute("aria-selected", String(isShown));
      tab.tabIndex = isShown ? 0 : -1;
      find(name, HTMLElement).hidden = !isShown;
    }
    this.#onShow(shown);
  }
}

function tabOf(name: TabName): HTMLElement {
  return find(`tab-${name}`, HTMLElement);
}
