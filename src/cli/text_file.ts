/** Texts that a user names. */
import type { Platform } from "../platform/platform.ts";
import { formatBytes } from "./output.ts";

/** A text is read whole; 8,192 tokens are about 40 kB. */
const MAX_TEXT_BYTES = 64 << 20;

/** A file's text. @throws {Error} If it is no file, too large, or not UTF-8. */
export async function readText(platform: Platform, path: string): Promise<string> {
  const found = await platform.stat(path);
  if (found?.kind !== "file") {
    throw new Error(
      `Cannot read ${path}: ${found ? "it is a folder" : "there is no such file"}: check the path`,
    );
  }
  if (found.size > MAX_TEXT_BYTES) {
    throw new Error(
      `Cannot read ${path}: ${formatBytes(found.size)} found, at most ${
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

/** Its name without its folder. */
export function baseName(path: string): string {
  return path.replace(/^.*[/\\]/, "");
}
