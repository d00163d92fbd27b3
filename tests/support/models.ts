/** Models that tests run on. */
import { detectPlatform } from "../../src/platform/detect.ts";
import type { LlamaConfig } from "../../src/model/config.ts";
import { locateModel } from "../../src/hub/locate.ts";

/** SmolLM2-135M as far as recipes know of it. */
export const SMOLLM2 = {
  hiddenSize: 576,
  intermediateSize: 1536,
  numHiddenLayers: 30,
  numAttentionHeads: 9,
  numKeyValueHeads: 3,
  headDim: 64,
} as LlamaConfig;

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
