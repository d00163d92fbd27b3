/**
 * Models that this browser keeps, in its origin private file system: a folder each, with the model's files and, once all are whole, `about.json`. What has
 * only `partial.json` is a download that did not come to its end.
 */
import type { NamedBlob } from "../../../src/model/named_blob.ts";
import type { Kept, Shelf } from "./protocol.ts";

const ROOT = "rsparse-models", ABOUT = "about.json", PARTIAL = "partial.json";
/** The recipe of a model that came without one, as it was chosen or calibrated last. */
const RECIPE = "recipe.safetensors";

/** The beginnings of a download or of a copy: where it comes from, and by what its server tells versions apart. */
export interface Partial {
  /** Null: from this device. */
  readonly url: string | null;
  readonly file: string;
  readonly total: number | null;
  /** `ETag` or `Last-Modified`; null where neither is known: then it begins anew. */
  readonly version: string | null;
}

interface About {
  readonly name: string;
  readonly url: string | null;
  readonly files: readonly string[];
  readonly bytes: number;
}

/** What only workers have, so that it is missing in the types of pages. */
interface WorkerFileHandle extends FileSystemFileHandle {
  createSyncAccessHandle(): Promise<{
    write(bytes: Uint8Array<ArrayBuffer>, options: { readonly at: number }): number;
    truncate(bytes: number): void;
    flush(): void;
    close(): void;
  }>;
}

/** Why nothing can be kept here; null: it can. */
export async function noShelfReason(): Promise<string | null> {
  if (!globalThis.isSecureContext) return "the page did not come over https (or from this machine)";
  if (
    typeof FileSystemFileHandle !== "function" ||
    !("createSyncAccessHandle" in FileSystemFileHandle.prototype)
  ) {
    return "this browser has no storage for large files";
  }
  try {
    await navigator.storage.getDirectory();
    return null;
  } catch (error) {
    return `this browser gives the page no storage, as in private windows (${nameOf(error)})`;
  }
}

function nameOf(error: unknown): string {
  return error instanceof Error ? error.name : String(error);
}

async function root(): Promise<FileSystemDirectoryHandle> {
  return await (await navigator.storage.getDirectory()).getDirectoryHandle(ROOT, { create: true });
}

/** A model's folder. */
export async function folderOf(id: string, create = false): Promise<FileSystemDirectoryHandle> {
  return await (await root()).getDirectoryHandle(id, { create });
}

async function readJson<T>(folder: FileSystemDirectoryHandle, name: string): Promise<T | null> {
  try {
    return JSON.parse(await (await (await folder.getFileHandle(name)).getFile()).text()) as T;
  } catch {
    return null;
  }
}

/** Bytes of a file; 0 where there is none. */
export async function sizeOf(folder: FileSystemDirectoryHandle, name: string): Promise<number> {
  try {
    return (await (await folder.getFileHandle(name)).getFile()).size;
  } catch {
    return 0;
  }
}

/** Everything that is kept, complete or not, and the room there is. */
export async function listShelf(): Promise<Shelf> {
  const models: Kept[] = [], folders = await root();
  for await (const [id, handle] of folders.entries()) {
    if (handle.kind !== "directory") continue;
    const kept = await readKept(id, handle as FileSystemDirectoryHandle);
    if (kept !== null) models.push(kept);
  }
  const { usage = null, quota = null } = await navigator.storage.estimate();
  models.sort((a, b) => a.name.localeCompare(b.name));
  return { models, usedBytes: usage, quotaBytes: quota };
}

async function readKept(id: string, folder: FileSystemDirectoryHandle): Promise<Kept | null> {
  const about = await readJson<About>(folder, ABOUT);
  if (about !== null) {
    const { name, url, bytes } = about;
    return { id, name, url, bytes, total: bytes, complete: true };
  }
  const partial = await readJson<Partial>(folder, PARTIAL);
  if (partial === null) return null;
  const { url, file, total } = partial;
  return { id, name: file, url, bytes: await sizeOf(folder, file), total, complete: false };
}

/** The files of a model. @throws {Error} If they are no longer there. */
export async function openKept(id: string): Promise<{ files: NamedBlob[]; recipe: Blob | null }> {
  const folder = await folderOf(id).catch(() => null);
  const about = folder === null ? null : await readJson<About>(folder, ABOUT);
  if (folder === null || about === null) {
    throw new Error("This model is no longer kept in this browser: another tab may have deleted it");
  }
  const files = await Promise.all(
    about.files.map(async (name) => ({ name, blob: await (await folder.getFileHandle(name)).getFile() })),
  );
  const recipe = await folder.getFileHandle(RECIPE).then((handle) => handle.getFile(), () => null);
  return { files, recipe };
}

/** Deletes a model. */
export async function removeKept(id: string): Promise<void> {
  await (await root()).removeEntry(id, { recursive: true });
}

/** Says that a model's files are whole. */
export async function finish(
  id: string,
  { name, url, files }: Pick<About, "name" | "url" | "files">,
): Promise<Kept> {
  const folder = await folderOf(id);
  let bytes = 0;
  for (const file of files) bytes += await sizeOf(folder, file);
  await writeFile(folder, ABOUT, new Blob([JSON.stringify({ name, url, files, bytes })]));
  await folder.removeEntry(PARTIAL).catch(() => {});
  return { id, name, url, bytes, total: bytes, complete: true };
}

/** Notes how far a download can be taken up again. */
export async function notePartial(id: string, partial: Partial): Promise<void> {
  await writeFile(await folderOf(id, true), PARTIAL, new Blob([JSON.stringify(partial)]));
}

/** What there is of a model: all, or what a download left when it ended early; null: nothing. */
export async function findKept(id: string): Promise<{ kept: Kept; partial: Partial | null } | null> {
  const folder = await folderOf(id).catch(() => null), kept = folder && await readKept(id, folder);
  return kept && { kept, partial: await readJson<Partial>(folder!, PARTIAL) };
}

/** Keeps the recipe that a kept model was given. */
export async function keepRecipe(id: string, recipe: Blob): Promise<void> {
  await writeFile(await folderOf(id), RECIPE, recipe);
}

/** Copies files, named by what is after their last slash, as a new model. What was written goes again if it fails. */
export async function keepFiles(
  name: string,
  files: readonly NamedBlob[],
  recipe: Blob | null,
  onBytes: (done: number, total: number) => void,
  signal: AbortSignal,
): Promise<Kept> {
  const id = crypto.randomUUID(), folder = await folderOf(id, true);
  const total = files.reduce((sum, { blob }) => sum + blob.size, 0);
  let before = 0;
  try {
    await checkRoom(total);
    await notePartial(id, { url: null, file: name, total, version: null });
    for (const { name, blob } of files) {
      await writeFile(folder, plainName(name), blob, (done) => onBytes(before + done, total), signal);
      before += blob.size;
    }
    if (recipe !== null) await writeFile(folder, RECIPE, recipe);
    return await finish(id, { name, url: null, files: files.map(({ name }) => plainName(name)) });
  } catch (error) {
    await removeKept(id).catch(() => {});
    throw error;
  }
}

function plainName(name: string): string {
  return name.replace(/^.*[\\/]/, "");
}

/** Fails before anything is written where the browser says that it will not fit. @throws {DOMException} QuotaExceededError */
export async function checkRoom(bytes: number): Promise<void> {
  const { usage = 0, quota = Infinity } = await navigator.storage.estimate();
  if (bytes > quota - usage) throw new DOMException(roomText(bytes, quota - usage), "QuotaExceededError");
}

function roomText(bytes: number, free: number): string {
  const mb = (value: number): string => `${Math.ceil(value / 1e6)} MB`;
  return `It takes ${mb(bytes)} and this browser has ${mb(Math.max(0, free))} left for the page`;
}

/** Writes a file piece by piece. @throws What the browser says, such as `QuotaExceededError`; the signal's reason. */
async function writeFile(
  folder: FileSystemDirectoryHandle,
  name: string,
  blob: Blob,
  onBytes: (done: number) => void = () => {},
  signal?: AbortSignal,
): Promise<void> {
  const writer = await openWriter(folder, name, 0);
  try {
    for await (const chunk of piecesOf(blob.stream())) {
      signal?.throwIfAborted();
      writer.write(chunk);
      onBytes(writer.bytes);
    }
  } finally {
    writer.close();
  }
}

/** Appends to a file from byte `from` on, what is after it is cut off. */
export async function openWriter(
  folder: FileSystemDirectoryHandle,
  name: string,
  from: number,
): Promise<{ write(bytes: Uint8Array): void; readonly bytes: number; close(): void }> {
  const handle = await folder.getFileHandle(name, { create: true }) as WorkerFileHandle;
  const file = await handle.createSyncAccessHandle();
  file.truncate(from);
  let at = from;
  return {
    write(bytes) {
      // a disk that is full writes less than was asked for, without an error
      const written = file.write(bytes as Uint8Array<ArrayBuffer>, { at });
      if (written < bytes.length) throw new DOMException("The disk is full", "QuotaExceededError");
      at += written;
    },
    get bytes() {
      return at;
    },
    close() {
      file.flush();
      file.close();
    },
  };
}

/** Not every browser lets a stream be iterated over. */
export async function* piecesOf(stream: ReadableStream<Uint8Array>): AsyncGenerator<Uint8Array> {
  const reader = stream.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    await reader.cancel().catch(() => {});
  }
}
