/** Tensors by role: what turns names in a file into a Llama, each tensor checked against the configuration. */
import { FormatError } from "../errors.ts";
import type { Checkpoint, Tensor } from "../format/checkpoint.ts";
import { MAX_WIDTH, quote } from "../format/limits.ts";
import {
  type LlamaConfig,
  type ProjectionName,
  projectionPath,
  PROJECTIONS,
  projectionShape,
} from "./config.ts";
import { fieldError, type Fields } from "./fields.ts";
import type { LayerTensors, LlamaDescription } from "./llama.ts";

/** How a format names the tensors; `layer` and `projection` without `.weight` or `.bias`. */
export interface TensorNames {
  readonly embedding: string;
  readonly finalNorm: string;
  readonly lmHead: string;
  attentionNorm(layer: number): string;
  mlpNorm(layer: number): string;
  projection(layer: number, name: ProjectionName): string;
}

/** Names as `transformers` has them; llama2.c files, which have none, are given the same. */
export const HF_NAMES: TensorNames = {
  embedding: "model.embed_tokens.weight",
  finalNorm: "model.norm.weight",
  lmHead: "lm_head.weight",
  attentionNorm: (layer) => `model.layers.${layer}.input_layernorm.weight`,
  mlpNorm: (layer) => `model.layers.${layer}.post_attention_layernorm.weight`,
  projection: projectionPath,
};

const GGUF_PROJECTION: { readonly [name in ProjectionName]: string } = {
  qProj: "attn_q",
  kProj: "attn_k",
  vProj: "attn_v",
  oProj: "attn_output",
  gateProj: "ffn_gate",
  upProj: "ffn_up",
  downProj: "ffn_down",
};

/** Names as llama.cpp's converter has them. */
export const GGUF_NAMES: TensorNames = {
  embedding: "token_embd.weight",
  finalNorm: "output_norm.weight",
  lmHead: "output.weight",
  attentionNorm: (layer) => `blk.${layer}.attn_norm.weight`,
  mlpNorm: (layer) => `blk.${layer}.ffn_norm.weight`,
  projection: (layer, name) => `blk.${layer}.${GGUF_PROJECTION[name]}`,
};

/** Where errors about tensors point to. */
export interface TensorPlaces {
  /** The name of what lists the tensors. */
  readonly file: string;
  /** Where a tensor that is missing would have been listed. */
  readonly tableOffset: number;
  /** Where a tensor is listed. */
  offsetOf(tensor: Tensor): number;
  /** What to say of a tensor that is there but is no weight, such as one of integers; null if it is not there. */
  whyNot(name: string): string | null;
}

/** The part of a description that comes from tensors. */
export type Assembled = Pick<
  LlamaDescription,
  "embedding" | "lmHead" | "finalNorm" | "layers" | "parameters" | "quantization"
>;

const BIASED: readonly ProjectionName[] = ["qProj", "kProj", "vProj"];

/**
 * Finds every tensor of a model and checks its shape. Nothing is sized by `config` before the file has been seen to hold as
 * many tensors as its layers need.
 *
 * @param ignored Says of a tensor with no role that it changes nothing. Any other is an error: a model with tensors that are
 * not used, such as norms of q and k, would run and be wrong.
 * @throws {FormatError} If a tensor is missing, has another shape, or has no role.
 */
export function assembleLlama(
  checkpoint: Checkpoint,
  config: LlamaConfig,
  names: TensorNames,
  places: TensorPlaces,
  ignored: (name: string) => boolean,
): Assembled {
  const { hiddenSize, vocabSize, numHiddenLayers, tieWordEmbeddings } = config;
  const used = new Set<Tensor>();
  const optional = (name: string, shape: readonly number[]): Tensor | null => {
    const tensor = checkpoint.tensors.get(name);
    if (tensor === undefined) return null;
    if (tensor.shape.length !== shape.length || tensor.shape.some((size, i) => size !== shape[i])) {
      throw new FormatError(
        tensor.file,
        places.offsetOf(tensor),
        `tensor ${quote(name)}: shape [${tensor.shape.join(", ")}] found, [${shape.join(", ")}] wanted`,
      );
    }
    used.add(tensor);
    return tensor;
  };
  const required = (name: string, shape: readonly number[]): Tensor => {
    const tensor = optional(name, shape);
    if (tensor !== null) return tensor;
    const why = places.whyNot(name) ?? "not there";
    throw new FormatError(places.file, places.tableOffset, `tensor ${quote(name)}: ${why}`);
  };

  const embedding = required(names.embedding, [vocabSize, hiddenSize]);
  const finalNorm = required(names.finalNorm, [hiddenSize]);
  const lmHead = tieWordEmbeddings ? embedding : required(names.lmHead, [vocabSize, hiddenSize]);
  const layers: LayerTensors[] = [];
  for (let layer = 0; layer < numHiddenLayers; ++layer) {
    const projections = {} as { [name in ProjectionName]: Tensor };
    const biases: { [name in ProjectionName]?: Tensor } = {};
    for (const name of PROJECTIONS) {
      const { nIn, nOut } = projectionShape(config, name), path = names.projection(layer, name);
      projections[name] = required(`${path}.weight`, [nOut, nIn]);
      if (!BIASED.includes(name)) continue;
      const bias = config.architecture === "qwen2"
        ? required(`${path}.bias`, [nOut])
        : optional(`${path}.bias`, [nOut]);
      if (bias !== null) biases[name] = bias;
    }
    layers.push({
      attentionNorm: required(names.attentionNorm(layer), [hiddenSize]),
      mlpNorm: required(names.mlpNorm(layer), [hiddenSize]),
      projections,
      biases,
    });
  }
  for (const tensor of checkpoint.tensors.values()) {
    if (!used.has(tensor) && !ignored(tensor.name)) {
      throw new FormatError(
        tensor.file,
        places.offsetOf(tensor),
        `tensor ${
          quote(tensor.name)
        }: a ${config.architecture} of ${numHiddenLayers} layers has none of this name`,
      );
    }
  }
  return {
    embedding,
    lmHead,
    finalNorm,
    layers,
    parameters: [...used].reduce((sum, tensor) => sum + valuesOf(tensor), 0),
    quantization: mainType(layers),
  };
}

function valuesOf(tensor: Tensor): number {
  return tensor.shape.reduce((product, size) => product * size, 1);
}

/** The storage type that most weights of projections have. */
function mainType(layers: readonly LayerTensors[]): string {
  const weights = new Map<string, number>();
  for (const tensor of layers.flatMap(({ projections }) => Object.values(projections))) {
    weights.set(tensor.type, (weights.get(tensor.type) ?? 0) + valuesOf(tensor));
  }
  return [...weights].reduce((most, entry) => entry[1] > most[1] ? entry : most)[0];
}

/** Sizes of attention that must agree; `keys` are where the file has them. */
export function checkHeads(
  sizes: Pick<LlamaConfig, "numAttentionHeads" | "numKeyValueHeads" | "headDim" | "ropeDim">,
  fields: Fields,
  keys: { readonly kvHeads: string; readonly headDim: string; readonly ropeDim: string },
): void {
  const { numAttentionHeads, numKeyValueHeads, headDim, ropeDim } = sizes;
  if (numAttentionHeads % numKeyValueHeads !== 0) {
    throw fieldError(fields, keys.kvHeads, `a divisor of the ${numAttentionHeads} heads`);
  }
  if (headDim % 4 !== 0 || headDim * numAttentionHeads > MAX_WIDTH) {
    const most = Math.floor(MAX_WIDTH / numAttentionHeads);
    throw fieldError(
      fields,
      keys.headDim,
      `heads of a multiple of 4, up to ${most} (${headDim} found or worked out)`,
    );
  }
  if (ropeDim % 2 !== 0 || ropeDim > headDim) {
    throw fieldError(fields, keys.ropeDim, `an even number up to the heads' ${headDim}`);
  }
}
