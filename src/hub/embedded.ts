/** The model that comes with the package: a pack beside its code. */
import { HubError } from "../errors.ts";
import type { Platform } from "../platform/platform.ts";

/** What `-m` and `Model.load` know it by. */
export const EMBEDDED_MODEL = "tiny";

/** In bundles that `tools/build.ts` makes: the ways from their folder to that of the packs, and to that of the kernels. */
declare const RSPARSE_FOLDERS: { readonly models: string; readonly kernels: string } | undefined;

const FOLDERS = typeof RSPARSE_FOLDERS === "object"
  ? RSPARSE_FOLDERS
  : { models: "../../models/", kernels: "../../build/" };

/** Where its pack lies: a file beside the code, or for pages a URL beside it. */
export function embeddedUrl(): URL {
  return new URL(`${FOLDERS.models}${EMBEDDED_MODEL}.rsparse`, here());
}

/** Where a kernel build lies as a file. */
export function kernelsUrl(build: "baseline" | "relaxed"): URL {
  return new URL(`${FOLDERS.kernels}kernels.${build}.wasm`, here());
}

/** A bundle's own folder, whichever of its files this has come to. */
function here(): string {
  return new URL(".", import.meta.url).href.replace(/\/chunks\/$/, "/");
}

/** Its path, where there are files. */
export function embeddedPath(): string {
  // Windows has /C:/ in the URL
  return decodeURIComponent(embeddedUrl().pathname).replace(/^\/(?=[A-Za-z]:\/)/, "");
}

/**
 * Its pack.
 *
 * @throws {HubError} If it is not where it should be: a bundler has moved this code, or left the pack out.
 */
export async function openEmbedded(platform: Platform, signal?: AbortSignal): Promise<Blob> {
  const url = embeddedUrl();
  const missing = (cause?: unknown): HubError =>
    new HubError(
      "not_found",
      `Cannot open the embedded model: there is none at ${url.href}: copy rsparse/models/tiny.rsparse there, or give its bytes or URL to Model.load`,
      { cause },
    );
  if (url.protocol === "file:" && platform.hasFiles) {
    const path = embeddedPath();
    if ((await platform.stat(path))?.kind !== "file") throw missing();
    return await platform.openBlob(path);
  }
  let response: Response;
  try {
    response = await fetch(url, { signal });
  } catch (cause) {
    signal?.throwIfAborted();
    throw missing(cause);
  }
  if (!response.ok) throw missing();
  return await response.blob();
}
