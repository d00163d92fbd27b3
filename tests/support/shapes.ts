/** Shapes of models that tests make. */
import { SHAPES } from "../../src/cli/bench/shapes.ts";
import type { LlamaConfig } from "../../src/model/config.ts";

/** Small, with heads that share keys, and widths that are no multiple of 64: no layout has them without padding. */
export const UNEVEN: LlamaConfig = {
  ...SHAPES["tinyllama-1.1b"],
  hiddenSize: 160,
  intermediateSize: 224,
  numHiddenLayers: 3,
  numAttentionHeads: 5,
  numKeyValueHeads: 1,
  headDim: 32,
  ropeDim: 32,
  vocabSize: 300,
  maxPositionEmbeddings: 64,
};
