/** The browser's platform with the files of the harness's machine, so that tests name models by path as everywhere else. */
import { platform as browser } from "../../../src/platform/browser.ts";
import type { Platform } from "../../../src/platform/platform.ts";
import { openAsBlob, urlOf } from "./fs.ts";

async function stat(path: string): ReturnType<Platform["stat"]> {
  const response = await fetch(urlOf(path), { method: "HEAD" });
  if (!response.ok) return null;
  return {
    kind: response.headers.get("X-Kind") as "file" | "folder",
    size: Number(response.headers.get("Content-Length")),
    // asked for by what writes files alone
    modified: 0,
  };
}

const cache = await (await fetch("/cache")).text();

/** Reads files, writes none. */
export const platform: Platform = {
  ...browser,
  hasFiles: true,
  cacheDir: () => cache,
  stat,
  openBlob: openAsBlob,
  list: async (path) => await (await fetch(urlOf(path))).json() as string[],
};
