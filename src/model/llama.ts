/** One Llama model as found in a file: its shape, its tensors by role, its tokenizer, its template. No weight has been read. */
import type { Checkpoint, Tensor } from "../format/checkpoint.ts";
import type { LlamaConfig, ProjectionName } from "./config.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** The tensors of one block. */
export interface LayerTensors {
  readonly attentionNorm: Tensor;
  readonly mlpNorm: Tensor;
  /** `[nOut, nIn]` each. */
  readonly projections: { readonly [name in ProjectionName]: Tensor };
  /** `[nOut]`; only q, k and v of Qwen2 have one. */
  readonly biases: { readonly [name in ProjectionName]?: Tensor };
}

/** What a model file holds, checked: every tensor is there and has the shape that the config says. */
export interface LlamaDescription {
  readonly name: string;
  readonly config: LlamaConfig;
  readonly checkpoint: Checkpoint;
  /** `[vocabSize, hiddenSize]`. */
  readonly embedding: Tensor;
  /** `[vocabSize, hiddenSize]`; the embedding itself when tied. */
  readonly lmHead: Tensor;
  /** `[hiddenSize]`. */
  readonly finalNorm: Tensor;
  readonly layers: readonly LayerTensors[];
  readonly tokenizer: Tokenizer;
  /** Jinja source, or null where the file has none. */
  readonly chatTemplate: string | null;
  readonly license: string | null;
  /** Number of parameters, the tied embedding counted once. */
  readonly parameters: number;
  /** The storage type that most projection weights have, such as `Q4_1`. */
  readonly quantization: string;
  /** What else the file says of it, for people: a pack's model card. */
  readonly card?: string | null;
  /** SHA-256 of the weights that a pack was made from, which recipes are bound to; elsewhere that of the file's own weights is taken. */
  readonly modelHash?: string;
  /** The file of the recipe that a pack carries, and its SHA-256 if the pack has it; or null. */
  readonly recipe?: { readonly blob: Blob; readonly sha256: string | null } | null;
}
