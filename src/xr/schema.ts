/** Holds what came from a file against a JSON Schema, and says of the first fault where it is and what was wanted. */
import { type OutputUnit, type Schema, Validator } from "@cfworker/json-schema";
import { XrError, type XrErrorCode } from "../errors.ts";
import { quote } from "../format/limits.ts";

/** Of errors that only say that there is one further in. */
const OUTER = ["properties", "items", "prefixItems", "additionalProperties", "$ref"];

/** A schema, ready. */
export class Shape {
  readonly #code: XrErrorCode;
  readonly #schema: Schema;
  readonly #validator: Validator;

  /** @param code what files of this shape are called in errors */
  constructor(code: XrErrorCode, schema: object) {
    this.#code = code;
    this.#schema = schema as Schema;
    this.#validator = new Validator(this.#schema, "2020-12", false);
  }

  /**
   * Holds `value` against the schema.
   *
   * @param source the file, or what the caller calls it
   * @throws {XrError} If it does not fit.
   */
  check(value: unknown, source: string): void {
    // what JSON can't hold, NaN among it, is null then: comparisons with it would all pass
    const plain: unknown = JSON.parse(JSON.stringify(value) ?? "null");
    const { errors } = this.#validate(plain, source);
    const fault = errors.find(({ keyword }) => !OUTER.includes(keyword));
    if (fault !== undefined) throw this.#describe(fault, plain, source);
  }

  #validate(value: unknown, source: string): { readonly errors: readonly OutputUnit[] } {
    try {
      return this.#validator.validate(value);
    } catch (cause) {
      if (!(cause instanceof URIError)) throw cause;
      throw new XrError(this.#code, source, "", "a name with half a character found, Unicode wanted", {
        cause,
      });
    }
  }

  #describe(
    { keyword, instanceLocation, keywordLocation, error }: OutputUnit,
    value: unknown,
    source: string,
  ): XrError {
    const steps = stepsOf(instanceLocation);
    if (keyword === "required") {
      const [, name] = /property "(.*)"\.$/s.exec(error) ?? [];
      return new XrError(this.#code, source, pathOf([...steps, name ?? ""]), "nothing found, it is required");
    }
    if (keyword === "false") return new XrError(this.#code, source, pathOf(steps), "no such field is known");
    const found = steps.reduce<unknown>((at, step) => (at as Record<string, unknown>)[step], value);
    return new XrError(
      this.#code,
      source,
      pathOf(steps),
      `${show(found)} found, ${this.#wanted(keywordLocation)} wanted`,
    );
  }

  /** The description next to where a schema was not met. */
  #wanted(location: string): string {
    let at = this.#schema as Record<string, unknown>, wanted = "another value";
    for (const step of stepsOf(location)) {
      if (typeof at["description"] === "string") wanted = at["description"];
      if (step === "$ref") {
        at = (this.#schema["$defs"] as Record<string, typeof at>)[stepsOf(at["$ref"] as string)[1]!]!;
      } else if (typeof at[step] === "object") at = at[step] as typeof at;
    }
    return wanted;
  }
}

/** The names of a JSON pointer such as `#/models/0/fps`. */
function stepsOf(pointer: string): string[] {
  return pointer.split("/").slice(1).map((step) =>
    decodeURIComponent(step).replaceAll("~1", "/").replaceAll("~0", "~")
  );
}

/** `models[0].fps`; empty for the whole. */
export function pathOf(steps: readonly string[]): string {
  return steps.map((step) =>
    /^\d+$/.test(step) ? `[${step}]` : /^[\w$]+$/.test(step) ? `.${step}` : `[${quote(step)}]`
  )
    .join("").replace(/^\./, "");
}

/** A value, fit for a message. */
function show(value: unknown): string {
  if (typeof value === "string") return quote(value);
  if (Array.isArray(value)) return `a list of ${value.length}`;
  return typeof value === "object" && value !== null ? "an object" : String(value);
}
