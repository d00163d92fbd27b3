/** Stands in for `node:url` in a page. */

/** As `node:url` has it. */
export function fileURLToPath(url: string | URL): string {
  return decodeURIComponent(new URL(url).pathname);
}
