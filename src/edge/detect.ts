/** In place of `platform/detect.ts`: wherever this runs, it does without Node's modules, which take 30 ms in Deno until they are there. */
import { platform as noFiles } from "../platform/browser.ts";
import { openFile, statFile } from "../platform/deno_file.ts";
import type { Platform } from "../platform/platform.ts";

/** The platform of an edge function. */
export function detectPlatform(): Promise<Platform> {
  const agent = globalThis.navigator?.userAgent ?? "unknown";
  // what a request's end leaves waiting there never goes on, and clocks stand still while something is computed
  const isUninterrupted = agent === "Cloudflare-Workers";
  const platform = { ...noFiles, runtime: `edge ${agent}`, isUninterrupted };
  const hasFiles = "Deno" in globalThis;
  return Promise.resolve(hasFiles ? { ...platform, hasFiles, stat: statFile, openBlob: openFile } : platform);
}
