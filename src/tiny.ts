/**
 * The embedded model, for whoever wants its bytes: `Model.load("tiny")` finds it by itself wherever this package's files lie as npm put them, or as they are in
 * the checkout. Where a bundler puts code and bytes together, as at the edge, import `rsparse/tiny.rsparse` as data and give it to `Model.load`.
 *
 * @example In a page, from a copy of the package's files
 * ```ts ignore
 * import { Model } from "./rsparse/dist/browser/mod.js";
 * import { tinyUrl } from "./rsparse/dist/browser/tiny.js";
 * const model = await Model.load(tinyUrl());
 * ```
 *
 * @module
 */
import { embeddedUrl, kernelsUrl as urlOfKernels, openEmbedded } from "./hub/embedded.ts";
import { detectPlatform } from "./platform/detect.ts";

/** Where its pack lies: `models/tiny.rsparse` of the package. */
export function tinyUrl(): URL {
  return embeddedUrl();
}

/** Where a build of the kernels lies, for `rsparse/edge`, which has none inside: any runs the model, relaxed where there is relaxed SIMD. */
export function kernelsUrl(build: "baseline" | "relaxed"): URL {
  return urlOfKernels(build);
}

/**
 * Its pack: read by slices where there are files, fetched elsewhere.
 *
 * @throws {HubError} If it is not there.
 */
export async function openTiny(signal?: AbortSignal): Promise<Blob> {
  return await openEmbedded(await detectPlatform(), signal);
}
