/** Models that tests run on. */
import { detectPlatform } from "../../src/platform/detect.ts";
import { locateModel } from "../../src/hub/locate.ts";

let pulled: Promise<string> | null = null;

/** Path of the cached SmolLM2 GGUF file; the first call on a machine downloads it. */
export function pulledModel(): Promise<string> {
  pulled ??= (async () => {
    const found = await locateModel("smollm2", await detectPlatform());
    if (found.cachedPath === undefined) throw new Error("smollm2 was found, but has no path");
    return found.cachedPath;
  })();
  return pulled;
}
