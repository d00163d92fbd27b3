/** The picture of active channels: a row for each layer, a group of cells for each site. */
import { type Activity, BINS, SITES } from "../worker/protocol.ts";
import { find, paced } from "./dom.ts";
import { percent } from "./words.ts";

/** Empty columns between sites. */
const GAP = 2;
const COLUMNS = SITES * BINS + (SITES - 1) * GAP;
const SITE_NAMES = ["query, key, value", "attention output", "gate and up", "down"];

/** Draws what the worker saw of a token. */
export class Picture {
  readonly #canvas = find("activity", HTMLCanvasElement);
  readonly #details = find("picture", HTMLDetailsElement);
  readonly #drawSoon = paced(() => {
    if (this.#latest !== null) this.#draw(this.#latest);
  });
  #latest: Activity | null = null;

  constructor() {
    // a phone has little room above the conversation
    this.#details.open = matchMedia("(min-width: 900px)").matches;
    this.#details.addEventListener("toggle", () => this.#ask());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#ask());
  }

  /** Shows a token's channels soon. */
  show(activity: Activity): void {
    this.#latest = activity;
    this.#ask();
  }

  /** Forgets what was there. */
  clear(): void {
    this.#latest = null;
    this.#canvas.getContext("2d")!.clearRect(0, 0, this.#canvas.width, this.#canvas.height);
    this.#canvas.setAttribute("aria-label", "Active channels by layer: nothing has run yet");
  }

  /** Says in words what the picture shows: once an answer has ended, not with every token. */
  describe(): void {
    if (this.#latest !== null) this.#canvas.setAttribute("aria-label", describe(this.#latest));
  }

  #ask(): void {
    if (this.#latest !== null && this.#details.open) this.#drawSoon();
  }

  /** One pixel a cell; the style sheet makes the canvas as large as it is seen. */
  #draw({ cells, layers }: Activity): void {
    const canvas = this.#canvas, context = canvas.getContext("2d")!;
    if (canvas.width !== COLUMNS || canvas.height !== layers) {
      canvas.width = COLUMNS;
      canvas.height = layers;
    }
    const style = getComputedStyle(canvas);
    const empty = colour(style.getPropertyValue("--line")), full = colour(style.getPropertyValue("--accent"));
    const image = context.createImageData(COLUMNS, layers);
    for (let layer = 0; layer < layers; layer++) {
      for (let site = 0; site < SITES; site++) {
        for (let bin = 0; bin < BINS; bin++) {
          const share = cells[(layer * SITES + site) * BINS + bin]! / 255;
          const at = 4 * (layer * COLUMNS + site * (BINS + GAP) + bin);
          for (let i = 0; i < 3; i++) image.data[at + i] = empty[i]! + share * (full[i]! - empty[i]!);
          image.data[at + 3] = 255;
        }
      }
    }
    context.putImageData(image, 0, 0);
  }
}

/** Red, green and blue of `#rgb` or `#rrggbb`. */
function colour(text: string): [number, number, number] {
  const hex = text.trim().slice(1), size = hex.length === 3 ? 1 : 2;
  const part = (i: number): number =>
    parseInt(hex.slice(i * size, (i + 1) * size).repeat(size === 1 ? 2 : 1), 16);
  return [part(0), part(1), part(2)];
}

/** What the picture shows, site by site. */
export function describe({ shares, layers }: Activity): string {
  const parts = SITE_NAMES.map((name, site) => {
    const of = Array.from({ length: layers }, (_, layer) => shares[layer * SITES + site]!);
    const mean = of.reduce((sum, share) => sum + share, 0) / layers;
    return `${name} ${percent(mean)} on average, ${percent(Math.min(...of))} to ${percent(Math.max(...of))}`;
  });
  return `Active channels in ${layers} layers, of the last token that was looked at: ${parts.join("; ")}`;
}
