/** In place of `platform/detect.ts`: wherever this runs, there are neither files nor Node's modules. */
import { platform as noFiles } from "../platform/browser.ts";
import type { Platform } from "../platform/platform.ts";

/** The platform of an edge function. */
export function detectPlatform(): Promise<Platform> {
  const agent = globalThis.navigator?.userAgent ?? "unknown";
  // what a request's end leaves waiting there never goes on, and clocks stand still while something is computed
  const isUninterrupted = agent === "Cloudflare-Workers";
  return Promise.resolve({ ...noFiles, runtime: `edge ${agent}`, isUninterrupted });
}
