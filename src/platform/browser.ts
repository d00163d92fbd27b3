/** Browsers and other places without files: models come as `Blob`s or by URL. */
import type { Platform } from "./platform.ts";

function noFiles(what: string): Promise<never> {
  return Promise.reject(new TypeError(`Cannot ${what}: there are no files here: pass a Blob or a URL`));
}

/** The platform of this page or worker. */
export const platform: Platform = {
  runtime: `browser ${globalThis.navigator?.userAgent ?? "unknown"}`,
  hasFiles: false,
  env: () => undefined,
  cacheDir: () => {
    throw new TypeError("Cannot name a cache folder: there are no files here: pass a Blob or a URL");
  },
  stat: () => Promise.resolve(null),
  openBlob: (path) => noFiles(`open ${path}`),
  list: (path) => noFiles(`list ${path}`),
  makeDir: (path) => noFiles(`make ${path}`),
  remove: (path) => noFiles(`remove ${path}`),
  rename: (from) => noFiles(`rename ${from}`),
  openWriter: (path) => noFiles(`write ${path}`),
  /** Web Crypto hashes whole buffers only, so all bytes are in memory at once. */
  async sha256(blobs, onProgress) {
    const bytes = await new Blob([...blobs]).arrayBuffer();
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
    onProgress?.(bytes.byteLength);
    return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
  },
  rssBytes: () => null,
  uptimeMs: () => performance.now(),
  tryLock: (path) => noFiles(`lock ${path}`),
};
