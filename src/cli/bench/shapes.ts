/** Shapes that benchmarks know by name, from the models' public configurations. */
import { type LlamaConfig, PROJECTIONS, projectionShape } from "../../model/config.ts";

/** What a benchmark can be told to take the shape of. */
export const SHAPE_NAMES = ["smollm2-135m", "tinyllama-1.1b", "llama2-7b"] as const;
/** One of {@linkcode SHAPE_NAMES}. */
export type ShapeName = (typeof SHAPE_NAMES)[number];

type Sizes = Pick<
  LlamaConfig,
  | "hiddenSize"
  | "intermediateSize"
  | "numHiddenLayers"
  | "numAttentionHeads"
  | "numKeyValueHeads"
  | "headDim"
  | "vocabSize"
  | "maxPositionEmbeddings"
  | "ropeTheta"
  | "tieWordEmbeddings"
>;

function configOf(sizes: Sizes): LlamaConfig {
  return {
    ...sizes,
    architecture: "llama",
    rmsNormEps: 1e-5,
    ropeDim: sizes.headDim,
    ropeScaling: { type: "none" },
    ropeInterleaved: true,
  };
}

/** Their configurations. */
export const SHAPES: { readonly [name in ShapeName]: LlamaConfig } = {
  "smollm2-135m": configOf({
    hiddenSize: 576,
    intermediateSize: 1536,
    numHiddenLayers: 30,
    numAttentionHeads: 9,
    numKeyValueHeads: 3,
    headDim: 64,
    vocabSize: 49152,
    maxPositionEmbeddings: 8192,
    ropeTheta: 100000,
    tieWordEmbeddings: true,
  }),
  "tinyllama-1.1b": configOf({
    hiddenSize: 2048,
    intermediateSize: 5632,
    numHiddenLayers: 22,
    numAttentionHeads: 32,
    numKeyValueHeads: 4,
    headDim: 64,
    vocabSize: 32000,
    maxPositionEmbeddings: 2048,
    ropeTheta: 10000,
    tieWordEmbeddings: false,
  }),
  "llama2-7b": configOf({
    hiddenSize: 4096,
    intermediateSize: 11008,
    numHiddenLayers: 32,
    numAttentionHeads: 32,
    numKeyValueHeads: 32,
    headDim: 128,
    vocabSize: 32000,
    maxPositionEmbeddings: 4096,
    ropeTheta: 10000,
    tieWordEmbeddings: false,
  }),
};

/** Weights of the projections of one block. */
export function layerWeights(config: LlamaConfig): number {
  return PROJECTIONS.reduce((sum, name) => {
    const { nIn, nOut } = projectionShape(config, name);
    return sum + nIn * nOut;
  }, 0);
}
