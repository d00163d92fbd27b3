/** Texts that a user names. */
import type { Platform } from "../platform/platform.ts";
import { formatBytes } from "./output.ts";

/** A text is read whole; 8,192 tokens are about 40 kB. */
const MAX_TEXT_BYTES = 64 << 20;

/** A file's text. @throws {Error} If it is no file, too large, or not UTF-8. */
export async function readText(platform: Platform, path: string): Promise<string> {
  const size = await checkFile(platform, path);
  if (size > MAX_TEXT_BYTES) {
    throw new Error(
      `Cannot read ${path}: ${formatBytes(size)} found, at most ${
        formatBytes(MAX_TEXT_BYTES)
      } wanted: give a part of it`,
    );
  }
  const bytes = await (await platform.openBlob(path)).arrayBuffer();
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new Error(`Cannot read ${path}: it is not UTF-8 text`, { cause });
  }
}

/** A text, or the documents of a file whose name ends in `.jsonl` or `.jsonl.gz`. */
export async function readTextOrDocuments(
  platform: Platform,
  path: string,
): Promise<string | readonly string[]> {
  if (!/\.jsonl(\.gz)?$/.test(path)) return await readText(platform, path);
  const { parseRows, readDocument, readText: readRows } = await import("../eval/rows.ts");
  await checkFile(platform, path);
  const text = await readRows(await platform.openBlob(path), path);
  return parseRows(text, path, readDocument).map(({ row }) => row);
}

/** Returns its size. */
async function checkFile(platform: Platform, path: string): Promise<number> {
  const found = await platform.stat(path);
  if (found?.kind === "file") return found.size;
  throw new Error(
    `Cannot read ${path}: ${found ? "it is a folder" : "there is no such file"}: check the path`,
  );
}

/** Its name without its folder. */
export function baseName(path: string): string {
  return path.replace(/^.*[/\\]/, "");
}
