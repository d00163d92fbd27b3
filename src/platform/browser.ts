/** Browsers and other places without files: models come as `Blob`s or by URL. */
import type { Platform } from "./platform.ts";

function noFiles(what: string): Promise<never> {
  return Promise.reject(new TypeError(`Cannot ${what}: there are no files here: pass a Blob or a URL`));
}

/** The platform of this page or worker. */
export const platform: Platform = {
  cpu: () => "",
  processors: () => globalThis.navigator?.hardwareConcurrency || 1,
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
    // each by itself: some Blobs of this library are empty as a part of another
    const parts = await Promise.all(blobs.map((blob) => blob.arrayBuffer()));
    const bytes = parts.length === 1 ? parts[0]! : await new Blob(parts).arrayBuffer();
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
    onProgress?.(bytes.byteLength);
    return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
  },
  rssBytes: () => null,
  freeBytes: () => null,
  uptimeMs: () => performance.now(),
  tryLock: (path) => noFiles(`lock ${path}`),
  ...(typeof Worker === "function" ? { startWorker } : {}),
};

function startWorker(
  code: string,
  data: unknown,
  events: { message(message: unknown): void; end(reason: string): void },
): { terminate(): Promise<void> } {
  // a Blob's URL: the code is of no file that a bundler would know of
  const url = URL.createObjectURL(
    new Blob(
      [`onmessage = ({ data }) => { (${code})(data, (message) => postMessage(message)); close(); };`],
      {
        type: "text/javascript",
      },
    ),
  );
  const worker = new Worker(url);
  worker.onmessage = ({ data }) => events.message(data);
  worker.onerror = (event) => {
    event.preventDefault();
    URL.revokeObjectURL(url);
    events.end(event.message || "the page's content security policy may forbid workers from blob: URLs");
  };
  worker.postMessage(data);
  return {
    terminate() {
      worker.terminate();
      URL.revokeObjectURL(url);
      return Promise.resolve();
    },
  };
}
