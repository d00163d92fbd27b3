/**
 * Reads XRBench's own scenario files, `usage_scenarios/*.m`: networks with a rate, a probability, dependencies and layers.
 *
 * Tokens are what stands between spaces, tabs, line ends and `,->():;`, as the harness's tokenizer has it, so braces need room around them. `//` begins a comment.
 * Strides are read and dropped, as there. Where the harness goes on with what it did not understand, this stops.
 */
import { FormatError } from "../errors.ts";
import { quote } from "../format/limits.ts";
import type { Layer, ScenarioModel } from "./scenario.ts";

/** What a file holds, in the form of a scenario's JSON; `parseScenario` makes a scenario of it. */
export interface MScenario {
  /** In the order of the file. */
  readonly models: readonly Required<Omit<ScenarioModel, "cost" | "reply" | "binding">>[];
}

interface Token {
  readonly text: string;
  /** Character of the text where it begins. */
  readonly at: number;
}

const TYPES: readonly Layer["type"][] = ["CONV", "DSCONV", "NGCONV", "TRCONV"];
const SIZES = ["K", "C", "Y", "X", "R", "S"] as const;

/**
 * Reads the text of a scenario file.
 *
 * @param file its name, for errors
 * @throws {FormatError} If it is not one; the message has the line.
 * @example
 * ```ts
 * import assert from "node:assert/strict";
 * const { models } = readMScenario("Network A { FPS: 60 }\nNetwork B { FPS: 60 Dependency: { A } }", "x.m");
 * assert.deepEqual(models[1], { name: "B", fps: 60, probability: 1, dependencies: ["A"], layers: [] });
 * ```
 */
export function readMScenario(text: string, file: string): MScenario {
  return new Reader(text, file).read();
}

class Reader {
  readonly #text: string;
  readonly #file: string;
  readonly #tokens: readonly Token[];
  #next = 0;

  constructor(text: string, file: string) {
    this.#text = text;
    this.#file = file;
    const bare = text.replace(/\/\/[^\n]*/g, (comment) => " ".repeat(comment.length));
    this.#tokens = [...bare.matchAll(/[^\s,\->():;]+/g)].map(({ 0: word, index }) => ({
      text: word,
      at: index,
    }));
  }

  read(): MScenario {
    const models: MScenario["models"][number][] = [];
    while (this.#next < this.#tokens.length) {
      this.#expect("Network");
      models.push(this.#network());
    }
    if (models.length === 0) this.#fail("no Network found: at least one wanted", null);
    return { models };
  }

  #network(): MScenario["models"][number] {
    const name = this.#word("the network's name");
    this.#expect("{");
    let fps: number | null = null, probability: number | null = null, dependencies: string[] | null = null;
    const layers: Layer[] = [];
    for (
      let key = this.#take("a key");
      key.text !== "}";
      key = this.#take("a key, or } at the end of the network")
    ) {
      switch (key.text) {
        case "FPS":
          this.#once(fps, key);
          fps = this.#whole("FPS");
          break;
        case "Probability":
          this.#once(probability, key);
          probability = this.#share();
          break;
        case "Dependency":
          this.#once(dependencies, key);
          dependencies = this.#names();
          break;
        case "Layer":
          layers.push(this.#layer());
          break;
        default:
          this.#fail(`${quote(key.text)} found, FPS, Probability, Dependency, Layer or } wanted`, key);
      }
    }
    if (fps === null) this.#fail(`network ${quote(name.text)} has no FPS`, name);
    return { name: name.text, fps, probability: probability ?? 1, dependencies: dependencies ?? [], layers };
  }

  #names(): string[] {
    const names: string[] = [];
    this.#expect("{");
    for (let token = this.#take("a name or }"); token.text !== "}"; token = this.#take("a name or }")) {
      names.push(token.text);
    }
    return names;
  }

  #layer(): Layer {
    const name = this.#take("the layer's name");
    if (name.text !== "{") this.#expect("{");
    let type: Layer["type"] | null = null, sizes: Map<string, number> | null = null;
    for (
      let key = this.#take("a key");
      key.text !== "}";
      key = this.#take("a key, or } at the end of the layer")
    ) {
      if (key.text === "Type") {
        this.#once(type, key);
        const found = this.#take("a type");
        type = TYPES.find((known) => known === found.text) ??
          this.#fail(`type ${quote(found.text)} found, one of ${TYPES.join(", ")} wanted`, found);
      } else if (key.text === "Dimensions") {
        this.#once(sizes, key);
        sizes = this.#sizes(["N", ...SIZES]);
      } else if (key.text === "Stride") this.#sizes(null);
      else this.#fail(`${quote(key.text)} found, Type, Dimensions, Stride or } wanted`, key);
    }
    if (type === null) this.#fail(`layer ${quote(name.text)} has no Type`, name);
    const missing = SIZES.find((size) => !sizes?.has(size));
    if (missing !== undefined) this.#fail(`layer ${quote(name.text)} has no size ${missing}`, name);
    const [K, C, Y, X, R, S] = SIZES.map((size) => sizes!.get(size)!) as [
      number,
      number,
      number,
      number,
      number,
      number,
    ];
    return { ...(name.text !== "{" && { name: name.text }), type, N: sizes!.get("N") ?? 1, K, C, Y, X, R, S };
  }

  /** `{ K: 8, C: 3 }`; any names where `known` is null. */
  #sizes(known: readonly string[] | null): Map<string, number> {
    const sizes = new Map<string, number>();
    this.#expect("{");
    for (let name = this.#take("a size or }"); name.text !== "}"; name = this.#take("a size or }")) {
      if (known !== null && !known.includes(name.text)) {
        this.#fail(`size ${quote(name.text)} found, one of ${known.join(", ")} wanted`, name);
      }
      this.#once(sizes.get(name.text) ?? null, name);
      sizes.set(name.text, this.#whole(name.text));
    }
    return sizes;
  }

  #whole(what: string): number {
    const token = this.#number(what), value = Number(token.text);
    if (!/^\d{1,9}$/.test(token.text) || value < 1) {
      this.#fail(`${what}: ${quote(token.text)} found, a whole number from 1 to 999999999 wanted`, token);
    }
    return value;
  }

  #share(): number {
    const token = this.#number("Probability"), value = Number(token.text);
    if (!/^(\d+\.?\d*|\.\d+)$/.test(token.text) || value > 1) {
      this.#fail(`Probability: ${quote(token.text)} found, a number from 0 to 1 wanted`, token);
    }
    return value;
  }

  /** The tokenizer drops a minus: 8 would be read where -8 stands. */
  #number(what: string): Token {
    const token = this.#take(`a number for ${what}`);
    if (this.#text[token.at - 1] === "-") {
      this.#fail(`${what}: -${token.text} found, no number below 0 wanted`, token);
    }
    return token;
  }

  #word(wanted: string): Token {
    const token = this.#take(wanted);
    if (token.text === "{" || token.text === "}") this.#fail(`${token.text} found, ${wanted} wanted`, token);
    return token;
  }

  #once(before: unknown, token: Token): void {
    if (before !== null) this.#fail(`${quote(token.text)} found a second time`, token);
  }

  #expect(text: string): void {
    const token = this.#take(text);
    if (token.text !== text) this.#fail(`${quote(token.text)} found, ${text} wanted`, token);
  }

  #take(wanted: string): Token {
    const token = this.#tokens[this.#next++];
    return token ?? this.#fail(`the file ends, ${wanted} wanted`, null);
  }

  #fail(detail: string, token: Token | null): never {
    const before = this.#text.slice(0, token?.at ?? this.#text.length);
    const line = before.split("\n").length;
    throw new FormatError(this.#file, new TextEncoder().encode(before).length, `line ${line}: ${detail}`);
  }
}
