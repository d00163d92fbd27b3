/** API keys, compared in constant time. */

/** SHA-256 of a text. */
async function digest(text: string): Promise<Uint8Array> {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text)));
}

/** Whether two digests are equal; takes as long whatever they are. */
function equal(a: Uint8Array, b: Uint8Array): boolean {
  let difference = 0;
  for (let i = 0; i < a.length; i++) difference |= a[i]! ^ b[i]!;
  return difference === 0;
}

/**
 * A test of the `Authorization` header against some keys. Digests are compared, all of them whole, so that time tells neither a key's length nor
 * how much of it was right.
 */
export function keyCheck(keys: readonly string[]): (header: string | null) => Promise<boolean> {
  const digests = Promise.all(keys.map(digest));
  return async (header) => {
    const given = await digest(/^Bearer +(.*)$/i.exec(header ?? "")?.[1]?.trim() ?? "");
    let known = false;
    for (const one of await digests) known = equal(one, given) || known;
    return known;
  };
}

/**
 * The keys of a file: one a line; empty lines and those that begin with `#` are none.
 *
 * @throws {RangeError} If there is none.
 */
export function readKeys(text: string): string[] {
  const keys = text.split("\n").map((line) => line.trim()).filter((line) =>
    line !== "" && !line.startsWith("#")
  );
  if (keys.length === 0) throw new RangeError("there is no key in it: one a line wanted");
  return keys;
}
