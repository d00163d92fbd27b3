/** In place of `hub/locate.ts`: a model by its URL, or by its path where there are files; by no name. */
import { HubError } from "../errors.ts";
import type { Platform } from "../platform/platform.ts";

/** Opens its file, or fetches it whole. */
export async function locateModel(
  source: string,
  platform: Platform,
  options: { readonly signal?: AbortSignal } = {},
): Promise<{ name: string; files: readonly { readonly name: string; readonly blob: Blob }[] }> {
  const path = source.startsWith("file:") ? decodeURIComponent(new URL(source).pathname) : source;
  if (platform.hasFiles && (await platform.stat(path))?.kind === "file") {
    return { name: source, files: [{ name: path, blob: await platform.openBlob(path) }] };
  }
  if (!/^https?:/.test(source)) {
    throw new HubError(
      "unknown_model",
      `Cannot open ${source}: there is no such file, and an edge function has no models by name: give the pack's bytes, imported from rsparse/tiny.rsparse, or its URL`,
    );
  }
  const response = await fetch(source, { signal: options.signal });
  if (!response.ok) throw new HubError("not_found", `Cannot download ${source}: HTTP ${response.status}`);
  return { name: source, files: [{ name: source, blob: await response.blob() }] };
}
