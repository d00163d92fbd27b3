/** A model from a web address into this browser's storage; one that was cut goes on where it was. */
import type { Kept, Progress } from "./protocol.ts";
import {
  checkRoom,
  findKept,
  finish,
  folderOf,
  notePartial,
  openWriter,
  type Partial,
  piecesOf,
  removeKept,
  sizeOf,
} from "./shelf.ts";

/** Progress is told at most so often. */
const TELL_MS = 100;

/**
 * Downloads a model of one file. What there is stays when it is stopped or the network fails, to be taken up again; a browser without room for it keeps nothing.
 *
 * @throws {TypeError} If the address is none, or can't be reached; {Error} what the server answered instead.
 * @throws {DOMException} QuotaExceededError
 */
export async function download(
  text: string,
  tell: (progress: Progress) => void,
  signal: AbortSignal,
): Promise<Kept> {
  const url = addressOf(text), file = fileOf(url), id = await idOf(url);
  const found = await findKept(id);
  if (found?.kept.complete === true) return found.kept;
  const folder = await folderOf(id, true);
  try {
    const { response, from } = await request(url, found?.partial ?? null, await sizeOf(folder, file), signal);
    const rest = Number(response.headers.get("content-length") ?? NaN);
    // of a compressed answer the length is that of what is sent
    const known = Number.isFinite(rest) && response.headers.get("content-encoding") === null;
    const total = known ? from + rest : null;
    if (known) await checkRoom(rest);
    await notePartial(id, { url, file, total, version: versionOf(response) });
    await receive(response, await openWriter(folder, file, from), total, (done) => {
      tell({ what: file, done, total });
    }, signal);
    return await finish(id, { name: file, url, files: [file] });
  } catch (error) {
    const left = await sizeOf(folder, file);
    if (left === 0 || (error instanceof Error && error.name === "QuotaExceededError")) {
      await removeKept(id).catch(() => {});
    }
    throw error;
  }
}

/** @throws {TypeError} If it is no http or https address. */
function addressOf(text: string): string {
  let url: URL;
  try {
    url = new URL(text.trim(), location.href);
  } catch {
    throw new TypeError(`“${text.trim()}” is not a web address: one that begins with https:// is wanted`);
  }
  if (url.protocol !== "https:" && url.protocol !== "http:") {
    throw new TypeError(`“${url.protocol}” addresses can't be read: one that begins with https:// is wanted`);
  }
  url.hash = "";
  return url.href;
}

function fileOf(url: string): string {
  return decodeURIComponent(new URL(url).pathname).replace(/^.*\//, "") || "model";
}

/** The same for the same address, so that a download finds what an earlier one left. */
async function idOf(url: string): Promise<string> {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(url)));
  return Array.from(digest.subarray(0, 8), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function versionOf(response: Response): string | null {
  return response.headers.get("etag") ?? response.headers.get("last-modified");
}

/** What is missing where the server still has the same file, else all of it. */
async function request(
  url: string,
  before: Partial | null,
  have: number,
  signal: AbortSignal,
): Promise<{ response: Response; from: number }> {
  if (before?.version != null && have > 0 && have !== before.total) {
    const response = await fetch(url, { headers: { Range: `bytes=${have}-` }, signal });
    if (response.status === 206 && versionOf(response) === before.version) return { response, from: have };
    await response.body?.cancel();
  }
  const response = await fetch(url, { signal });
  if (!response.ok) {
    throw new Error(`The server answered ${response.status} ${response.statusText}: check the address`);
  }
  return { response, from: 0 };
}

/** @throws {Error} If it ends before all is there. */
async function receive(
  response: Response,
  writer: Awaited<ReturnType<typeof openWriter>>,
  total: number | null,
  tell: (done: number) => void,
  signal: AbortSignal,
): Promise<void> {
  let told = 0;
  try {
    for await (const chunk of wholeAnswer(response, () => writer.bytes, total, signal)) {
      signal.throwIfAborted();
      writer.write(chunk);
      const now = performance.now();
      if (now - told < TELL_MS) continue;
      told = now;
      tell(writer.bytes);
    }
    tell(writer.bytes);
  } finally {
    writer.close();
  }
}

/** An answer's body. That it was cut is said by some browsers as an error of their own, by others not at all. */
async function* wholeAnswer(
  response: Response,
  bytes: () => number,
  total: number | null,
  signal: AbortSignal,
): AsyncGenerator<Uint8Array> {
  const broken = (cause?: unknown): Error =>
    new Error(
      `The connection broke after ${bytes()} of ${
        total ?? "an unknown number of"
      } bytes: “Go on” takes it up there`,
      { cause },
    );
  const pieces = piecesOf(response.body!);
  for (;;) {
    const piece = await pieces.next().catch((error) => {
      throw signal.aborted ? signal.reason : broken(error);
    });
    if (piece.done === true) break;
    yield piece.value;
  }
  if (total !== null && bytes() !== total) throw broken();
}
