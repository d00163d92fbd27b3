/** Files that `-o` names. */
import type { Platform } from "../platform/platform.ts";
import { UsageError } from "./errors.ts";

/** A file that is written is changed all the time: one that was not for so long is of a process that died. */
const STALE_MS = 60_000;
/** What {@linkcode writeFile} adds to a name. */
const UNFINISHED = /^\.[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.part$/;

/** Finds out before the work, not after it, that its result could not be written. Takes away what a process that died while it wrote the same has left. */
export async function checkOutput(platform: Platform, path: string, what: string): Promise<void> {
  if (path === "") throw new UsageError(`Cannot write ${what}: -o is empty: give a file's name`);
  if ((await platform.stat(path).catch(() => null))?.kind === "folder") {
    throw new Error(`Cannot write ${path}: it is a folder: give a file's name`);
  }
  const { folder } = splitPath(path), found = await platform.stat(folder || ".").catch(() => null);
  if (found?.kind !== "folder") {
    throw new Error(`Cannot write ${path}: there is no folder ${folder || "."}: make it first`);
  }
  const probe = `${path}.${crypto.randomUUID()}.part`;
  try {
    await (await platform.openWriter(probe, { truncate: true })).close();
    const written = await platform.stat(probe);
    await platform.remove(probe);
    // what can't be taken away is not in the way
    await removeStale(platform, path, (written?.modified ?? 0) - STALE_MS).catch(() => {});
  } catch (error) {
    throw new Error(`Cannot write ${path}: ${(error as Error).message}`, { cause: error });
  }
}

/** Removes what {@linkcode writeFile} left unfinished before `before`, a time by the clock of whoever keeps the folder. */
async function removeStale(platform: Platform, path: string, before: number): Promise<void> {
  const { folder, name } = splitPath(path);
  for (const other of await platform.list(folder || ".")) {
    if (!other.startsWith(`${name}.`) || !UNFINISHED.test(other.slice(name.length))) continue;
    const found = await platform.stat(folder + other);
    if (found?.kind === "file" && found.modified < before) await platform.remove(folder + other);
  }
}

/** The folder with its slash, empty where none is named; the name in it. */
function splitPath(path: string): { folder: string; name: string } {
  const name = /[^/\\]*$/.exec(path)![0];
  return { folder: path.slice(0, path.length - name.length), name };
}

/** Writes a file beside its name first, so that what is there under its name is always whole. */
export async function writeFile(
  platform: Platform,
  path: string,
  chunks: readonly Uint8Array[],
): Promise<void> {
  const part = `${path}.${crypto.randomUUID()}.part`;
  try {
    const writer = await platform.openWriter(part, { truncate: true });
    try {
      for (const chunk of chunks) await writer.write(chunk);
    } finally {
      await writer.close();
    }
    await platform.rename(part, path);
  } catch (error) {
    await platform.remove(part);
    throw new Error(`Cannot write ${path}: ${(error as Error).message}`, { cause: error });
  }
}
