/** Stands in for `node:assert/strict` in a page: the methods that tests use. */

/** What a failed assertion throws. */
export class AssertionError extends Error {
  override readonly name = "AssertionError";
}

type Thrown = RegExp | (new (...args: never[]) => unknown) | ((error: unknown) => boolean) | object;

function fail(message: string | undefined, otherwise: string): never {
  throw new AssertionError(message ?? otherwise);
}

function show(value: unknown): string {
  try {
    const text = typeof value === "object"
      ? JSON.stringify(value, (_, v) => typeof v === "bigint" ? `${v}n` : v)
      : String(value);
    return text.length > 500 ? `${text.slice(0, 500)} …` : text;
  } catch {
    return String(value);
  }
}

function isDeepEqual(a: unknown, b: unknown): boolean {
  if (Object.is(a, b)) return true;
  if (typeof a !== "object" || typeof b !== "object" || a === null || b === null) return false;
  if (Object.getPrototypeOf(a) !== Object.getPrototypeOf(b)) return false;
  if (a instanceof Map) {
    const other = b as Map<unknown, unknown>;
    return a.size === other.size &&
      [...a].every(([key, value]) => other.has(key) && isDeepEqual(value, other.get(key)));
  }
  if (a instanceof Set) {
    const other = b as Set<unknown>;
    return a.size === other.size && [...a].every((value) => other.has(value));
  }
  if (a instanceof Date) return a.getTime() === (b as Date).getTime();
  if (a instanceof Error && a.message !== (b as Error).message) return false;
  const keys = Object.keys(a), others = new Set(Object.keys(b));
  return keys.length === others.size && keys.every((key) =>
    others.has(key) &&
    isDeepEqual((a as Record<string, unknown>)[key], (b as Record<string, unknown>)[key])
  );
}

/** Whether what was thrown is what is wanted; an instance of `Error` that a predicate throws goes on. */
function checkThrown(error: unknown, wanted: Thrown | string | undefined, message: string | undefined): void {
  if (wanted === undefined || typeof wanted === "string") return;
  if (wanted instanceof RegExp) {
    if (!wanted.test(String(error))) fail(message, `${wanted} wanted, thrown: ${String(error)}`);
  } else if (typeof wanted === "function") {
    const isClass = wanted === Error || wanted.prototype instanceof Error;
    const right = isClass
      ? error instanceof (wanted as new () => unknown)
      : (wanted as (error: unknown) => boolean)(error) === true;
    if (!right) fail(message, `not what was wanted was thrown: ${String(error)}`);
  } else {
    for (const [key, value] of Object.entries(wanted)) {
      const found = (error as Record<string, unknown>)[key];
      const right = value instanceof RegExp && typeof found === "string"
        ? value.test(found)
        : isDeepEqual(found, value);
      if (!right) fail(message, `${key}: ${show(value)} wanted, thrown: ${show(found)}`);
    }
  }
}

function ok(value: unknown, message?: string): asserts value {
  if (!value) fail(message, `${show(value)} is not true`);
}

const methods = {
  fail: (message?: string): never => fail(message, "failed"),
  equal(actual: unknown, expected: unknown, message?: string): void {
    if (!Object.is(actual, expected)) fail(message, `${show(actual)} found, ${show(expected)} wanted`);
  },
  notEqual(actual: unknown, expected: unknown, message?: string): void {
    if (Object.is(actual, expected)) fail(message, `${show(actual)} found, another wanted`);
  },
  deepEqual(actual: unknown, expected: unknown, message?: string): void {
    if (!isDeepEqual(actual, expected)) fail(message, `${show(actual)} found, ${show(expected)} wanted`);
  },
  notDeepEqual(actual: unknown, expected: unknown, message?: string): void {
    if (isDeepEqual(actual, expected)) fail(message, `${show(actual)} found, another wanted`);
  },
  match(text: string, pattern: RegExp, message?: string): void {
    if (!pattern.test(text)) fail(message, `${show(text)} does not match ${pattern}`);
  },
  doesNotMatch(text: string, pattern: RegExp, message?: string): void {
    if (pattern.test(text)) fail(message, `${show(text)} matches ${pattern}`);
  },
  throws(body: () => unknown, wanted?: Thrown | string, message?: string): void {
    try {
      body();
    } catch (error) {
      return checkThrown(error, wanted, message);
    }
    fail(message ?? (typeof wanted === "string" ? wanted : undefined), "nothing was thrown");
  },
  async rejects(
    body: Promise<unknown> | (() => Promise<unknown>),
    wanted?: Thrown | string,
    message?: string,
  ): Promise<void> {
    try {
      await (typeof body === "function" ? body() : body);
    } catch (error) {
      return checkThrown(error, wanted, message);
    }
    fail(message ?? (typeof wanted === "string" ? wanted : undefined), "nothing was rejected");
  },
};

const assert: typeof ok & typeof methods & { ok: typeof ok } = Object.assign(ok, methods, { ok });

export default assert;
