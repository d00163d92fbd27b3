/** The sparsity slider and the numbers beside it. */
import type { Activity, RecipeInfo, TokenEvent } from "../worker/protocol.ts";
import { find, paced } from "./dom.ts";
import { Picture } from "./picture.ts";
import { percent, speed } from "./words.ts";

/** Numbers are means of so many tokens: of fewer they flicker. */
const WINDOW = 20;

/** The dial, and what is seen of its effect. */
export class Dial {
  readonly #slider = find("sparsity", HTMLInputElement);
  readonly #out = find("sparsity-out", HTMLOutputElement);
  readonly #note = find("dial-note", HTMLElement);
  readonly #calibrate = find("calibrate", HTMLButtonElement);
  readonly #picture = new Picture();
  readonly #turn: (sparsity: number) => void;
  readonly #showSoon = paced(() => this.#show());
  #recipe: RecipeInfo | null = null;
  #tokens: TokenEvent[] = [];

  /**
   * @param turn told what the dial stands at
   * @param calibrate asked to make a recipe
   */
  constructor(turn: (sparsity: number) => void, calibrate: () => void) {
    this.#turn = turn;
    this.#slider.addEventListener("input", () => this.#moved());
    this.#calibrate.addEventListener("click", calibrate);
  }

  /** Takes the recipe of the model that was opened. */
  use(recipe: RecipeInfo | null): void {
    this.#recipe = recipe;
    this.#slider.disabled = recipe === null;
    this.#calibrate.hidden = recipe !== null;
    this.#picture.clear();
    this.reset();
    if (recipe === null) {
      this.#slider.value = "0";
      this.#out.textContent = percent(0);
      this.#note.textContent =
        "This model has no recipe, which says what can be skipped: it runs dense. Drop one onto the page, or make one here: the model reads some text, for some seconds.";
      return;
    }
    const [least, most] = recipe.range;
    this.#slider.max = String(most);
    // thresholds for one sparsity only: that, or dense
    this.#slider.step = String(least === most ? most : 0.01);
    this.#slider.value = String(recipe.sparsity);
    this.#note.textContent =
      `Multiply-adds to skip, from the next token on. Recipe: ${recipe.method}, made for ${
        percent(recipe.sparsity)
      }.`;
    this.#moved();
  }

  /** Whether a recipe may be made now. */
  set busy(busy: boolean) {
    this.#calibrate.disabled = busy;
  }

  #moved(): void {
    const sparsity = this.sparsity;
    this.#out.textContent = sparsity === 0 ? "dense" : percent(sparsity);
    this.#slider.setAttribute(
      "aria-valuetext",
      sparsity === 0 ? "dense, nothing is skipped" : percent(sparsity),
    );
    this.#turn(sparsity);
  }

  /** What the dial stands at: 0, or what the recipe can do. */
  get sparsity(): number {
    const value = Number(this.#slider.value);
    if (this.#recipe === null || value === 0) return 0;
    return Math.min(Math.max(value, this.#recipe.range[0]), this.#recipe.range[1]);
  }

  /** A new answer begins. */
  reset(): void {
    this.#tokens = [];
    for (const id of ["live-speed", "live-skipped", "live-tokens"]) find(id, HTMLElement).textContent = "–";
  }

  /** Takes a token as it came, or what was seen of it. */
  take(event: TokenEvent | Activity): void {
    if ("cells" in event) return this.#picture.show(event);
    if (event.ms === 0) return;
    this.#tokens.push(event);
    if (this.#tokens.length > WINDOW) this.#tokens.shift();
    this.#showSoon();
  }

  #show(): void {
    const tokens = this.#tokens, last = tokens.at(-1);
    if (last === undefined) return;
    const ms = tokens.reduce((sum, token) => sum + token.ms, 0);
    // of those since the dial was turned
    const since = tokens.filter(({ sparsity }) => sparsity === last.sparsity);
    const skipped = since.reduce((sum, token) => sum + token.skipped, 0) / since.length;
    find("live-speed", HTMLElement).textContent = speed(tokens.length / ms * 1000);
    find("live-skipped", HTMLElement).textContent = percent(skipped, 1);
    find("live-tokens", HTMLElement).textContent = String(last.count);
  }

  /** An answer has ended: the picture may be described. */
  rest(): void {
    this.#show();
    this.#picture.describe();
  }
}
