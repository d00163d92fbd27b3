/** Shapes that measurements outside the product use. */
import { SHAPES } from "../src/cli/bench/shapes.ts";
import type { LlamaConfig } from "../src/mod.ts";

/** The embedded model's. */
export const TINY: LlamaConfig = {
  ...SHAPES["smollm2-135m"],
  hiddenSize: 384,
  intermediateSize: 1024,
  numHiddenLayers: 8,
  numAttentionHeads: 6,
  numKeyValueHeads: 2,
  vocabSize: 6144,
  maxPositionEmbeddings: 1024,
};
