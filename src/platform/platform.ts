/** What a runtime must hand to the library. Only this folder's adapters name `Deno`, `Bun`, `process`, `node:` or `document`. */

/** A server that listens. */
export interface HttpServer {
  readonly port: number;
  /**
   * Takes no new connections; resolves when the answers that are under way have been sent and all connections are closed, at the latest after `ms` milliseconds
   * (default: no limit). What is open then, such as an answer that nobody reads, is broken off, in Deno with the end of the process.
   */
  close(ms?: number): Promise<void>;
}

/** One runtime's files, environment and hashing. Adapters: `deno.ts`, `node.ts`, `bun.ts`, `browser.ts`. */
export interface Platform {
  /** For example `deno 2.9.6`. */
  readonly runtime: string;
  /** True where files can be named by path. */
  readonly hasFiles: boolean;
  /** An environment variable, or undefined where there is none or reading it is not allowed. */
  env(name: string): string | undefined;
  /** The folder for downloaded models: `RSPARSE_HOME`, else the platform's cache folder + `/rsparse`. */
  cacheDir(): string;
  /** `null` if there is nothing at `path`. `modified`: milliseconds since 1970, by the clock of whoever keeps the file. */
  stat(path: string): Promise<{ kind: "file" | "folder"; size: number; modified: number } | null>;
  /** A file as a Blob that is read by slices; its bytes are not loaded. */
  openBlob(path: string): Promise<Blob>;
  /** Names in a folder, sorted. */
  list(path: string): Promise<string[]>;
  makeDir(path: string): Promise<void>;
  remove(path: string): Promise<void>;
  rename(from: string, to: string): Promise<void>;
  /** Appends to (or with `truncate` starts) a file. Callers write beside the final name, then rename. */
  openWriter(
    path: string,
    options?: { truncate?: boolean },
  ): Promise<{ write(bytes: Uint8Array): Promise<void>; close(): Promise<void> }>;
  /** Lower-case hex SHA-256 of the blobs' bytes, one after the other, read by slices. */
  sha256(blobs: readonly Blob[], onProgress?: (bytes: number) => void): Promise<string>;
  /** Resident memory of the process in bytes, or null where it can't be known. */
  rssBytes(): number | null;
  /** Milliseconds since the process started. */
  uptimeMs(): number;
  /**
   * Takes a lock that other processes see as the file `path`, or returns null where one of them has it.
   * The lock of a process that died counts no longer after some seconds.
   */
  tryLock(path: string): Promise<{ release(): Promise<void> } | null>;
  /** True where a pass may not be left in the middle: other requests could wait for one whose own request has gone, and is never taken up again. */
  readonly isUninterrupted?: boolean;
  /** The processor's name; empty where it can't be known. */
  cpu(): string;
  /** Processors that this process may use, at least 1. */
  processors(): number;
  /**
   * Starts a worker that runs `code`, the source of a function of `data` and of what sends a message. It does not keep the process alive.
   * `end` is called once when it ends, with the reason, where the runtime can tell. Absent where there are no workers.
   */
  startWorker?(
    code: string,
    data: unknown,
    events: { message(message: unknown): void; end(reason: string): void },
  ): { terminate(): Promise<void> };
  /**
   * Starts a thread that runs the module at `url`, which finds `data` and the way back by `parentThread`. It keeps the process alive until it is terminated.
   * `end` is called once when it ends, with the reason. Absent where there are none.
   */
  startThread?(
    url: string,
    data: unknown,
    events: { message(message: unknown): void; end(reason: string): void },
  ): { post(message: unknown): void; terminate(): Promise<void> };
  /** In a thread that `startThread` started: what it was handed; null elsewhere. */
  parentThread?(): {
    readonly data: unknown;
    post(message: unknown): void;
    onMessage(listen: (message: unknown) => void): void;
  } | null;
  /**
   * Serves HTTP. A request's signal is aborted when whoever sent it has gone; a body that is a stream is read no faster than it can be sent. Absent where
   * nothing can listen.
   *
   * @throws {Error} If the port can't be had.
   */
  serve?(
    handler: (request: Request) => Promise<Response>,
    where: { readonly hostname: string; readonly port: number },
  ): Promise<HttpServer>;
  /** Bytes of memory that are free for this process, or null where it can't be known. */
  freeBytes(): number | null;
  /** Runs a program to its end; absent where there are no processes. Rejects if it can't be started. */
  run?(
    command: string,
    args: readonly string[],
    options?: { signal?: AbortSignal },
  ): Promise<{ code: number; stdout: string; stderr: string }>;
}

/** Waits until `closed`, for at most `ms` milliseconds: then `cut` ends what is left. */
export async function closeWithin(ms: number, closed: Promise<void>, cut: () => unknown): Promise<void> {
  if (ms === Infinity) return await closed;
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<true>((resolve) => timer = setTimeout(() => resolve(true), ms));
  if (await Promise.race([closed, late]) === true) cut();
  clearTimeout(timer);
}

/** The error for a port that can't be had. */
export function cannotListen(hostname: string, port: number, cause: unknown): Error {
  const why = cause instanceof Error ? cause.message : String(cause);
  return new Error(`Cannot listen on ${hostname}:${port}: ${why}: give another --port or --host`, { cause });
}
