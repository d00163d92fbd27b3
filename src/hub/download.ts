/** One file from one URL to one path: resumed where it can be, checked, renamed into place when it is whole. */
import { HubError } from "../errors.ts";
import { waitForLock } from "./lock.ts";
import type { Platform } from "../platform/platform.ts";

/** What is known of a downloaded file, kept beside it. */
export interface Origin {
  readonly from: "hub" | "pip" | "url";
  readonly url: string;
  readonly etag: string | null;
  readonly bytes: number;
  readonly sha256: string;
}

/** What every step of a download is handed. */
export interface DownloadContext {
  readonly platform: Platform;
  readonly signal?: AbortSignal;
  /** `total` is null where the server does not say. */
  readonly onProgress?: (file: string, done: number, total: number | null) => void;
  /** One line about something that went otherwise than planned. */
  readonly onNotice?: (message: string) => void;
  readonly fetch?: typeof fetch;
  /** Longest silence of a server, in milliseconds; 30,000 if not given. */
  readonly idleMs?: number;
}

/** What is wanted of one file. */
export interface DownloadRequest {
  readonly url: string;
  readonly path: string;
  readonly from: "hub" | "url";
  readonly headers?: Readonly<Record<string, string>>;
  /** Checked where they are not null. */
  readonly bytes: number | null;
  readonly sha256: string | null;
}

/** How often a connection that broke is taken up again before giving up. */
const ATTEMPTS = 4;
/** Wait between two looks at another process's lock. */
const LOCK_POLL_MS = 300;

const originPath = (path: string): string => path.replace(/[^/\\]*$/, (name) => `.${name}.origin.json`);

/** Where the file at `path` came from, or null if it is not there whole or nothing is known of it. */
export async function readOrigin(platform: Platform, path: string): Promise<Origin | null> {
  const found = await platform.stat(path);
  if (found?.kind !== "file" || await platform.stat(originPath(path)) === null) return null;
  try {
    const origin = JSON.parse(await (await platform.openBlob(originPath(path))).text()) as Origin;
    return origin.bytes === found.size && typeof origin.sha256 === "string" ? origin : null;
  } catch {
    // Cut or edited: as if it were not there, so that the file is fetched again.
    return null;
  }
}

/** Runs `work` while no other process does the same for `path`. */
export async function withLock<T>(
  path: string,
  context: DownloadContext,
  work: () => Promise<T>,
): Promise<T> {
  const { platform, signal } = context;
  try {
    await platform.makeDir(path.replace(/[/\\][^/\\]*$/, ""));
    const lock = await waitForLock(platform, `${path}.lock`, {
      pollMs: LOCK_POLL_MS,
      signal,
      onWait: () => context.onNotice?.(`waiting for another download of ${path}`),
    });
    try {
      return await work();
    } finally {
      await lock.release();
    }
  } catch (error) {
    throw asDiskError(error, path);
  }
}

/** Puts a whole `.part` file into place: checks it, renames it, writes down where it came from. */
export async function finish(
  part: string,
  path: string,
  origin: Omit<Origin, "bytes" | "sha256">,
  wanted: { readonly bytes: number | null; readonly sha256: string | null },
  context: DownloadContext,
): Promise<Origin> {
  const { platform } = context;
  const blob = await platform.openBlob(part);
  const sha256 = await platform.sha256([blob]);
  const fault = wanted.bytes !== null && blob.size !== wanted.bytes
    ? `${blob.size} bytes found, ${wanted.bytes} wanted`
    : wanted.sha256 !== null && sha256 !== wanted.sha256
    ? `sha256 ${sha256} found, ${wanted.sha256} wanted`
    : null;
  if (fault !== null) {
    await platform.remove(part);
    throw new HubError(
      "checksum",
      `Cannot use what ${origin.url} sent: ${fault}: it was removed; try again, or get the file from elsewhere`,
    );
  }
  await platform.rename(part, path);
  const full: Origin = { ...origin, bytes: blob.size, sha256 };
  await writeText(platform, originPath(path), JSON.stringify(full));
  return full;
}

/** Downloads one file, unless the one at `path` is still what the server has. Call it within {@linkcode withLock}. */
export async function download(request: DownloadRequest, context: DownloadContext): Promise<Origin> {
  const { platform, signal } = context;
  const part = `${request.path}.part`;
  const known = await readOrigin(platform, request.path);
  for (let attempt = 1;; attempt++) {
    signal?.throwIfAborted();
    let received: { etag: string | null } | "unchanged";
    try {
      received = await receive(request, part, known?.url === request.url ? known.etag : null, context);
    } catch (error) {
      signal?.throwIfAborted();
      if (error instanceof HubError) throw error;
      const disk = asDiskError(error, part);
      if (disk !== error) throw disk;
      if (attempt < ATTEMPTS && await hasBytes(platform, part)) {
        context.onNotice?.(`the connection broke (${reasonOf(error)}), going on from where it was`);
        continue;
      }
      throw new HubError("offline", `Cannot reach ${request.url}: ${reasonOf(error)}`, { cause: error });
    }
    if (received === "unchanged") return known!;
    const origin = await finish(
      part,
      request.path,
      { from: request.from, url: request.url, etag: received.etag },
      request,
      context,
    );
    await platform.remove(`${part}.json`);
    return origin;
  }
}

async function hasBytes(platform: Platform, path: string): Promise<boolean> {
  return ((await platform.stat(path))?.size ?? 0) > 0;
}

/** One connection's worth: appends to `part` what the server sends. Rejects with anything but a HubError where trying again may help. */
async function receive(
  request: DownloadRequest,
  part: string,
  knownEtag: string | null,
  context: DownloadContext,
): Promise<{ etag: string | null } | "unchanged"> {
  const { platform, signal } = context;
  const meta = `${part}.json`;
  const partEtag = await readPartEtag(platform, part, request.url);
  const start = partEtag === null ? 0 : (await platform.stat(part))!.size;
  const headers = new Headers({ ...request.headers, "Accept-Encoding": "identity" });
  if (start > 0) {
    headers.set("Range", `bytes=${start}-`);
    headers.set("If-Range", partEtag!);
  } else if (knownEtag !== null) {
    headers.set("If-None-Match", knownEtag);
  }

  const silence = new AbortController();
  const idleMs = context.idleMs ?? 30_000;
  const silent = (): void => silence.abort(new Error(`no answer for ${idleMs / 1000} s`));
  let timer = setTimeout(silent, idleMs);
  const both = signal ? AbortSignal.any([signal, silence.signal]) : silence.signal;
  try {
    const response = await (context.fetch ?? fetch)(request.url, { headers, signal: both });
    if (response.status === 304) {
      await response.body?.cancel();
      return "unchanged";
    }
    const resumed = response.status === 206 && contentStart(response) === start;
    if (response.status === 416 || (response.status === 206 && !resumed)) {
      await response.body?.cancel();
      await platform.remove(part);
      if (start > 0) return await receive(request, part, knownEtag, context);
      throw new HubError(
        "server",
        `Cannot download ${request.url}: the server sent another range than the one asked for`,
      );
    }
    if (!response.ok || !response.body) {
      await response.body?.cancel();
      throw statusError(request.url, response.status);
    }

    const etag = response.headers.get("ETag");
    // A weak ETag promises the same meaning, not the same bytes: such a part is not taken up again.
    const resumable = etag !== null && !etag.startsWith("W/") ? etag : null;
    await writeText(platform, meta, JSON.stringify({ url: request.url, etag: resumable }));
    let done = resumed ? start : 0;
    const length = response.headers.has("Content-Encoding") ? null : response.headers.get("Content-Length");
    const total = length === null ? request.bytes : done + Number(length);
    const writer = await platform.openWriter(part, { truncate: !resumed });
    try {
      const file = request.path.replace(/^.*[/\\]/, "");
      context.onProgress?.(file, done, total);
      for await (const chunk of chunksOf(response.body)) {
        clearTimeout(timer);
        timer = setTimeout(silent, idleMs);
        await writer.write(chunk);
        done += chunk.length;
        if (request.bytes !== null && done > request.bytes) {
          throw new HubError(
            "checksum",
            `Cannot use what ${request.url} sends: over ${request.bytes} bytes, the size that was wanted`,
          );
        }
        context.onProgress?.(file, done, total);
      }
    } finally {
      await writer.close();
    }
    if (total !== null && done < total) throw new Error(`it ended after ${done} of ${total} bytes`);
    return { etag };
  } catch (error) {
    throw silence.signal.aborted ? silence.signal.reason : error;
  } finally {
    clearTimeout(timer);
  }
}

/** Bodies by their reader: not every runtime's streams can be iterated. */
async function* chunksOf(body: ReadableStream<Uint8Array>): AsyncGenerator<Uint8Array> {
  const reader = body.getReader();
  try {
    for (let next = await reader.read(); !next.done; next = await reader.read()) yield next.value;
  } finally {
    // After a fault nobody reads the rest; after the end this does nothing.
    await reader.cancel().catch(() => {});
  }
}

function contentStart(response: Response): number | null {
  const match = /^bytes (\d+)-/.exec(response.headers.get("Content-Range") ?? "");
  return match ? Number(match[1]) : null;
}

async function readPartEtag(platform: Platform, part: string, url: string): Promise<string | null> {
  if (!await hasBytes(platform, part) || await platform.stat(`${part}.json`) === null) return null;
  try {
    const meta = JSON.parse(await (await platform.openBlob(`${part}.json`)).text()) as {
      url?: unknown;
      etag?: unknown;
    };
    return meta.url === url && typeof meta.etag === "string" ? meta.etag : null;
  } catch {
    // Cut while it was written: the part is begun anew.
    return null;
  }
}

async function writeText(platform: Platform, path: string, text: string): Promise<void> {
  const writer = await platform.openWriter(path, { truncate: true });
  try {
    await writer.write(new TextEncoder().encode(text));
  } finally {
    await writer.close();
  }
}

/** What an HTTP status means for the user. */
export function statusError(url: string, status: number): HubError {
  switch (status) {
    case 401:
    case 403:
      return new HubError(
        "unauthorized",
        `Cannot download ${url}: HTTP ${status}: it is private or asks for consent: set HF_TOKEN to a token that may read it`,
      );
    case 404:
    case 410:
      return new HubError(
        "not_found",
        `Cannot download ${url}: HTTP ${status}: there is no such file: check the name`,
      );
    default:
      return new HubError(
        "server",
        `Cannot download ${url}: HTTP ${status}: the server can't give it now: try again later`,
      );
  }
}

/** Why a connection failed, in the words of the innermost error: fetch's own say only that it failed. */
export function reasonOf(error: unknown): string {
  let inner = error;
  while (inner instanceof Error && inner.cause instanceof Error) inner = inner.cause;
  return inner instanceof Error ? inner.message || inner.name : String(inner);
}

/** A fault of the disk as a HubError; anything else as it is. */
function asDiskError(error: unknown, path: string): unknown {
  if (!(error instanceof Error) || !("code" in error) || typeof error.code !== "string") return error;
  const detail: { readonly [code: string]: string } = {
    ENOSPC: "the disk is full",
    EDQUOT: "the disk quota is used up",
    EACCES: "writing there is not allowed",
    EPERM: "writing there is not allowed",
    EROFS: "the file system is read-only",
    ENOTDIR: "a part of the path is not a folder",
    EEXIST: "a part of the path is not a folder",
  };
  const found = detail[error.code];
  if (found === undefined) return error;
  return new HubError(
    "disk",
    `Cannot write ${path}: ${found}: make room, or set RSPARSE_HOME to another folder`,
    { cause: error },
  );
}
