/** Browsers and other places without files: models come as `Blob`s or by URL. */
import type { ParentThread, Platform } from "./platform.ts";

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
  ...(typeof Worker === "function" ? { startWorker, startThread } : {}),
  parentThread,
};

/** What a thread says when it can be spoken to: messages that come before it listens are lost while its module still waits for others. */
const LISTENING = "rsparse listens";

function startThread(
  url: string,
  data: unknown,
  events: { message(message: unknown): void; end(reason: string): void },
): { post(message: unknown): void; terminate(): Promise<void> } {
  const worker = new Worker(url, { type: "module" });
  let early: unknown[] | null = [data];
  worker.onmessage = ({ data: message }) => {
    if (message !== LISTENING) return events.message(message);
    for (const waiting of early ?? []) worker.postMessage(waiting);
    early = null;
  };
  worker.onerror = (event) => {
    event.preventDefault();
    events.end(event.message || `no module can be loaded from ${url}`);
  };
  return {
    post(message) {
      if (early === null) worker.postMessage(message);
      else early.push(message);
    },
    terminate() {
      worker.terminate();
      return Promise.resolve();
    },
  };
}

/** The scope of a worker, as far as it is used here. */
interface WorkerScope {
  postMessage(message: unknown): void;
  onmessage: ((event: { readonly data: unknown }) => void) | null;
}

/** The first message is what the thread is handed. */
function parentThread(): Promise<ParentThread> | null {
  // a page has a document, and an onmessage too
  if (typeof document !== "undefined") return null;
  const scope = globalThis as unknown as WorkerScope;
  return new Promise((resolve) => {
    scope.onmessage = ({ data }) => {
      const waiting: unknown[] = [];
      scope.onmessage = (event) => void waiting.push(event.data);
      resolve({
        data,
        post: (message) => scope.postMessage(message),
        onMessage(listen) {
          scope.onmessage = (event) => listen(event.data);
          for (const message of waiting.splice(0)) listen(message);
        },
      });
    };
    scope.postMessage(LISTENING);
  });
}

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
