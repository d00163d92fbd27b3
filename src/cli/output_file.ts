/** Files that `-o` names. */
import type { Platform } from "../platform/platform.ts";
import { UsageError } from "./errors.ts";

/** Finds out before the work, not after it, that its result could not be written. */
export async function checkOutput(platform: Platform, path: string, what: string): Promise<void> {
  if (path === "") throw new UsageError(`Cannot write ${what}: -o is empty: give a file's name`);
  if ((await platform.stat(path).catch(() => null))?.kind === "folder") {
    throw new Error(`Cannot write ${path}: it is a folder: give a file's name`);
  }
  const folder = path.replace(/[^/\\]*$/, "") || ".", found = await platform.stat(folder).catch(() => null);
  if (found?.kind !== "folder") {
    throw new Error(`Cannot write ${path}: there is no folder ${folder}: make it first`);
  }
  const probe = `${path}.${crypto.randomUUID()}.part`;
  try {
    await (await platform.openWriter(probe, { truncate: true })).close();
    await platform.remove(probe);
  } catch (error) {
    throw new Error(`Cannot write ${path}: ${(error as Error).message}`, { cause: error });
  }
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
