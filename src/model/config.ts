/** The numbers of a Llama-shaped model, under their `config.json` names in camelCase. */

/** The seven projections of a block, in the order in which every table of this project lists them. */
export const PROJECTIONS = ["qProj", "kProj", "vProj", "oProj", "gateProj", "upProj", "downProj"] as const;
/** One of {@linkcode PROJECTIONS}. */
export type ProjectionName = (typeof PROJECTIONS)[number];

const MODULE: { readonly [name in ProjectionName]: string } = {
  qProj: "self_attn.q_proj",
  kProj: "self_attn.k_proj",
  vProj: "self_attn.v_proj",
  oProj: "self_attn.o_proj",
  gateProj: "mlp.gate_proj",
  upProj: "mlp.up_proj",
  downProj: "mlp.down_proj",
};

/** A projection's path as checkpoints spell it: `projectionPath(3, "downProj")` is `model.layers.3.mlp.down_proj`. */
export function projectionPath(layer: number, name: ProjectionName): string {
  return `model.layers.${layer}.${MODULE[name]}`;
}

/** Shape and constants of a Llama-architecture model. */
export interface LlamaConfig {
  /** `llama`, `qwen2` or `mistral`; all run through one forward pass. */
  readonly architecture: string;
  /** Width of the residual stream. */
  readonly hiddenSize: number;
  /** Width of the MLP. */
  readonly intermediateSize: number;
  /** Blocks. */
  readonly numHiddenLayers: number;
  /** Query heads. */
  readonly numAttentionHeads: number;
  /** Key and value heads; a divisor of the query heads. */
  readonly numKeyValueHeads: number;
  /** Width of a head. */
  readonly headDim: number;
  /** Rows of the embedding. */
  readonly vocabSize: number;
  /** Positions the model was trained for; a limit, not an allocation. */
  readonly maxPositionEmbeddings: number;
  /** Added to the mean square in every norm. */
  readonly rmsNormEps: number;
  /** Base of the rotary angles. */
  readonly ropeTheta: number;
  /** Rotary pairs a head: `ropeDim / 2` frequencies, `ropeDim <= headDim`. */
  readonly ropeDim: number;
  /** What turns base frequencies into the model's own. */
  readonly ropeScaling: RopeScaling;
  /** Rotary pairs are (2i, 2i+1) in GGUF's llama rows and llama2.c, (i, i + ropeDim/2) in safetensors and GGUF's qwen2. */
  readonly ropeInterleaved: boolean;
  /** The head is the embedding. */
  readonly tieWordEmbeddings: boolean;
}

/** How rotary frequencies are scaled for contexts longer than those of training. */
export type RopeScaling =
  | { readonly type: "none" }
  | { readonly type: "linear"; readonly factor: number }
  | {
    readonly type: "llama3";
    readonly factor: number;
    readonly lowFreqFactor: number;
    readonly highFreqFactor: number;
    readonly originalMaxPositionEmbeddings: number;
  }
  /** Each base frequency is divided by its own factor (GGUF's `rope_freqs.weight`). */
  | { readonly type: "factors"; readonly factors: readonly number[] };

/** `nIn` and `nOut` of a projection; k and v are narrower than q under grouped-query attention. */
export function projectionShape(config: LlamaConfig, name: ProjectionName): { nIn: number; nOut: number } {
  const { hiddenSize, intermediateSize, headDim } = config;
  const q = config.numAttentionHeads * headDim, kv = config.numKeyValueHeads * headDim;
  switch (name) {
    case "qProj":
      return { nIn: hiddenSize, nOut: q };
    case "kProj":
    case "vProj":
      return { nIn: hiddenSize, nOut: kv };
    case "oProj":
      return { nIn: q, nOut: hiddenSize };
    case "gateProj":
    case "upProj":
      return { nIn: hiddenSize, nOut: intermediateSize };
    case "downProj":
      return { nIn: intermediateSize, nOut: hiddenSize };
  }
}
