/** The few things that every part of the page needs of the document. */

/** The element with this id. @throws {Error} If the page has none of that kind: its HTML and its code don't fit. */
export function find<T extends HTMLElement>(id: string, kind: new () => T): T {
  const element = document.getElementById(id);
  if (!(element instanceof kind)) throw new Error(`There is no ${kind.name} with id ${id} in this page`);
  return element;
}

/** A new element with text, which is never read as HTML. */
export function make<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  text = "",
  attributes: { readonly [name: string]: string } = {},
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  if (text !== "") element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

/** A button that does something. */
export function button(
  text: string,
  act: () => void,
  attributes: { readonly [name: string]: string } = {},
): HTMLButtonElement {
  const element = make("button", text, { type: "button", ...attributes });
  element.addEventListener("click", act);
  return element;
}

/** A textarea that is as high as its text, and sends its form by Enter; Shift+Enter is a new line. */
export function sendByEnter(area: HTMLTextAreaElement): void {
  area.addEventListener("keydown", (event) => {
    // while an input method composes, Enter is its own
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    area.form?.requestSubmit();
  });
  area.addEventListener("input", () => fit(area));
}

/** Milliseconds between what a page shows of a stream. */
const PACE = 80;

/**
 * What calls `show` at the next frame after a pause, once for all calls until then: painting at every frame, where there is no GPU, took a tenth of the speed of a
 * model that has a thread on each processor.
 */
export function paced(show: () => void): () => void {
  let isAsked = false;
  return () => {
    if (isAsked) return;
    isAsked = true;
    setTimeout(() =>
      requestAnimationFrame(() => {
        isAsked = false;
        show();
      }), PACE);
  };
}

/** Makes a textarea as high as its text. */
export function fit(area: HTMLTextAreaElement): void {
  area.style.height = "auto";
  area.style.height = `${area.scrollHeight + 2}px`;
}

/**
 * Says something to people who listen to the page. It is said when something has ended, never word by word: a text that streams into a live region would be
 * read over and over.
 */
export function announce(text: string): void {
  const region = find("announce", HTMLElement);
  region.textContent = "";
  // a region that says the same again is silent: it has to be seen empty first
  setTimeout(() => region.textContent = text, 50);
}
