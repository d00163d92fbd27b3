/** Where tests find the checkout, and the data beside it that the product itself works without. */
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";

/** The checkout, also for tests that run bundled from `build/tests/`. */
export const ROOT: string = findRoot();

function findRoot(): string {
  let folder = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(folder, "deno.json"))) {
    const parent = dirname(folder);
    if (parent === folder) throw new Error(`no deno.json above ${fileURLToPath(import.meta.url)}`);
    folder = parent;
  }
  return folder;
}

/** A path in the checkout: `rootPath("build/kernels.debug.wasm")`. */
export function rootPath(relative: string): string {
  return join(ROOT, relative);
}

/** A path in the shared data, such as `golden/gguf/dequant.json`, or null where it is not there. */
export function sharedPath(relative: string): string | null {
  const path = join(dirname(ROOT), "shared", relative);
  return existsSync(path) ? path : null;
}

/** As {@linkcode sharedPath}, for a test that can't do without. */
export function requireShared(relative: string): string {
  const path = sharedPath(relative);
  if (path === null) throw new Error(`shared/${relative} is not beside the checkout (${dirname(ROOT)})`);
  return path;
}

/**
 * The `skip` option of a test that needs shared data: a reason where the data is missing, false where it is there,
 * and false as well under CI, where {@linkcode requireShared} then fails the test: a machine that
 * decides what lands must not skip.
 *
 * ```ts
 * test("dequantize: bit for bit", { skip: skipWithout("golden/gguf") }, () => { … });
 * ```
 */
export function skipWithout(relative: string): string | false {
  return sharedPath(relative) === null && !process.env["CI"] ? `shared/${relative} is not there` : false;
}
