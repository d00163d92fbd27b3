/** In place of `hub/locate.ts`: a model by its URL, and by nothing else. */
import { HubError } from "../errors.ts";

/** Fetches it whole. */
export async function locateModel(
  source: string,
  _platform: unknown,
  options: { readonly signal?: AbortSignal } = {},
): Promise<{ name: string; files: readonly { readonly name: string; readonly blob: Blob }[] }> {
  if (!/^https?:/.test(source)) {
    throw new HubError(
      "unknown_model",
      `Cannot open ${source}: an edge function has no models by name: give the pack's bytes, imported from rsparse/tiny.rsparse, or an http(s): URL`,
    );
  }
  const response = await fetch(source, { signal: options.signal });
  if (!response.ok) throw new HubError("not_found", `Cannot download ${source}: HTTP ${response.status}`);
  return { name: source, files: [{ name: source, blob: await response.blob() }] };
}
