/** What every tensor of a model becomes in memory: its layout, and which projections share a matrix. */
import { BLOCK, type StorageType, type Tensor } from "../format/checkpoint.ts";
import { MAX_LIST_CHANNELS, padTo } from "../kernels/kernels.ts";
import { type ProjectionName, projectionPath } from "../model/config.ts";
import type { LlamaDescription } from "../model/llama.ts";
import { SITES } from "./forward.ts";
import { type Dtype, type Layout, type MatrixPlan, planMatrix } from "./matrix.ts";

/** Bytes of a file read at once, and of the floats they become. */
const SLICE_BYTES = 2 ** 21;

/** What a recipe means for the weights' places. */
export interface RecipeHints {
  /** What it will skip of the projection with this path; 0 without a recipe. */
  sparsityOf(path: string): number;
  /** Whether two projections with one input always have the same active channels. */
  sharesMask(a: string, b: string): boolean;
  /** Whether nothing is ever skipped of it. */
  isDense(path: string): boolean;
}

/** Of a model without a recipe. */
export const NO_RECIPE: RecipeHints = { sparsityOf: () => 0, sharesMask: () => true, isDense: () => true };

/** What decides where weights go, besides the file. */
export interface PlanOptions {
  readonly dtype: Dtype | "auto";
  readonly recipe: RecipeHints;
  /** Whether the kernels have quad i4. */
  readonly quads: boolean;
}

/** One projection's place in the matrix it shares. */
export interface PartPlan {
  readonly name: ProjectionName;
  readonly tensor: Tensor;
  /** Its first output there, a multiple of 64. */
  readonly offset: number;
}

/** A matrix of one to three projections, before it has a place. */
export interface LinearPlan {
  readonly parts: readonly PartPlan[];
  /** Its first output in the site's row of activations. */
  readonly at: number;
  readonly plan: MatrixPlan;
}

/** How a projection's weights are kept, before it is known which others share its matrix. `i8` has two layouts. */
type Kind = Exclude<Layout, "channels-i8" | "pairs-i8"> | "i8";

/**
 * How a projection is kept under a dtype; `auto` keeps what the file has as closely as a kernel can read it. Four-bit weights with more
 * channels than a list takes go to int8.
 */
export function projectionKind(tensor: Pick<Tensor, "type" | "shape">, dtype: Dtype | "auto"): Kind {
  const { type } = tensor, nIn = tensor.shape[1]!;
  const fourBit = (type === "Q4_0" || type === "Q4_1") && padTo(nIn, 64) <= MAX_LIST_CHANNELS;
  if (dtype === "auto") {
    if (type === "F32") return "channels-f32";
    if (type === "BF16" || type === "F16") return "channels-bf16";
    return fourBit ? "group-i4" : "i8";
  }
  if (dtype === "f32") return "channels-f32";
  if (dtype === "bf16") return "channels-bf16";
  // int4 is the file's own groups; what the file does not hold in 4 bits stays at 8
  return dtype === "int4" && fourBit ? "group-i4" : "i8";
}

/**
 * Whether int8 columns of nOut bytes are skipped faster than the dense kernel reads them all, from DRAM, where a jump costs as much as streaming
 * 5 to 10 KB. Over dense at 50 and 70 %, Node 20, Deno and Bun (AMD Zen 5): 4,096 bytes 1.24 1.25 1.09 and 2.0 2.1 1.8; 2,048 0.90 0.83 0.74 and
 * 1.5 1.4 1.2; 960 0.57 0.59 0.49 and 0.90 0.94 0.78; 576 0.42 0.41 0.33 and 0.66 0.64 0.52. Where it does not pay, channels that are not active
 * are set to 0 and read.
 */
function skipPaysI8(nOut: number, sparsity: number): boolean {
  return sparsity >= (nOut >= 4096 ? 0.45 : nOut >= 2048 ? 0.6 : nOut >= 960 ? 0.75 : 0.85);
}

/** The layout of the embedding and the head. */
export function embeddingLayout(type: StorageType, dtype: Dtype | "auto"): Layout {
  if (dtype === "f32" || (dtype === "auto" && type === "F32")) return "rows-f32";
  if (dtype === "bf16" || (dtype === "auto" && (type === "BF16" || type === "F16"))) return "rows-bf16";
  return "pairs-i8";
}

/**
 * The matrices of a block, for each of its sites: neighbours that are kept alike and share their masks are one. In int8, whose projections
 * would have to share the scales of their channels, only gate and up are: q, k and v with one set of scales took SmolLM2's mean log-likelihood
 * on the golden prompts from 0.004 to 0.0128 off.
 */
export function planLayer(
  model: LlamaDescription,
  layer: number,
  options: PlanOptions,
): LinearPlan[][] {
  const { projections } = model.layers[layer]!, { dtype, recipe, quads } = options;
  return SITES.map((names) => {
    const linears: { kind: Kind; mins: boolean; at: number; parts: PartPlan[] }[] = [];
    let at = 0;
    for (const name of names) {
      const tensor = projections[name], kind = projectionKind(tensor, dtype), last = linears.at(-1);
      const mins = kind === "group-i4" && tensor.type === "Q4_1", path = projectionPath(layer, name);
      if (
        last !== undefined && last.kind === kind && last.mins === mins &&
        !(kind === "i8" && names.length === 3) &&
        recipe.sharesMask(projectionPath(layer, last.parts[0]!.name), path)
      ) last.parts.push({ name, tensor, offset: at - last.at });
      else linears.push({ kind, mins, at, parts: [{ name, tensor, offset: 0 }] });
      at += padTo(tensor.shape[0]!, 64);
    }
    return linears.map(({ kind, mins, at, parts }): LinearPlan => {
      const end = parts.at(-1)!, nOut = end.offset + end.tensor.shape[0]!, nIn = end.tensor.shape[1]!;
      const sparsity = recipe.sparsityOf(projectionPath(layer, parts[0]!.name));
      const layout = kind === "i8"
        ? skipPaysI8(nOut, sparsity) ? "channels-i8" : "pairs-i8"
        : kind === "group-i4" && quads &&
            parts.every(({ name }) => recipe.isDense(projectionPath(layer, name)))
        ? "quad-i4"
        : kind;
      return { parts, at, plan: planMatrix(layout, nIn, nOut, { mins, balanced: kind === "i8" }) };
    });
  });
}

/** Scratch that loading needs: the largest slice raw, and as floats (a whole matrix where int8 balances its scales). */
export function stagingBytes(model: LlamaDescription, options: PlanOptions): number {
  let floats = 0;
  for (const tensor of everyTensor(model)) floats = Math.max(floats, 4 * width(tensor) * stagedRows(tensor));
  for (const { plan } of everyLinear(model, options)) {
    if (plan.balanced) floats = Math.max(floats, 4 * plan.nIn * padTo(plan.nOut, 64));
  }
  return rawBytes(model) + padTo(floats, 64) + 64;
}

/** The part of it where slices lie as they are in the file; floats come after it. */
export function rawBytes(model: LlamaDescription): number {
  let bytes = 0;
  for (const tensor of everyTensor(model)) bytes = Math.max(bytes, rowBytes(tensor) * stagedRows(tensor));
  return padTo(bytes, 64);
}

/** About what all weights will take, padding included. */
export function plannedBytes(model: LlamaDescription, options: PlanOptions): number {
  // up to five parts a matrix, each padded to 64 bytes
  const padding = 5 * 64;
  let bytes = 0;
  for (const tensor of everyTensor(model)) {
    if (tensor.shape.length === 1) bytes += 4 * padTo(width(tensor), 64);
  }
  for (const tensor of new Set([model.embedding, model.lmHead])) {
    bytes += planEmbedding(tensor, options.dtype).bytes + padding;
  }
  for (const { plan } of everyLinear(model, options)) bytes += plan.bytes + padding;
  return bytes;
}

/** The embedding or the head. */
export function planEmbedding(tensor: Tensor, dtype: Dtype | "auto"): MatrixPlan {
  return planMatrix(embeddingLayout(tensor.type, dtype), width(tensor), tensor.shape[0]!, {});
}

function* everyLinear(
  model: LlamaDescription,
  options: PlanOptions,
): Iterable<LinearPlan> {
  for (let l = 0; l < model.layers.length; l++) yield* planLayer(model, l, options).flat();
}

/** Every tensor of a model, once. */
export function* everyTensor(model: LlamaDescription): Iterable<Tensor> {
  yield model.embedding;
  if (model.lmHead !== model.embedding) yield model.lmHead;
  yield model.finalNorm;
  for (const layer of model.layers) {
    yield layer.attentionNorm;
    yield layer.mlpNorm;
    yield* Object.values(layer.projections);
    for (const bias of Object.values(layer.biases)) if (bias !== undefined) yield bias;
  }
}

function width(tensor: Tensor): number {
  return tensor.shape[tensor.shape.length - 1]!;
}

/** Rows of a tensor that lie in staging together, whole blocks of 64. */
function stagedRows(tensor: Tensor): number {
  return padTo(Math.min(tensor.shape.length === 2 ? tensor.shape[0]! : 1, sliceRows(tensor)), 64);
}

/** Bytes of a row in the file. */
export function rowBytes(tensor: Tensor): number {
  const { values, bytes } = BLOCK[tensor.type];
  return (width(tensor) / values) * bytes;
}

/** Rows a slice: a multiple of 64, the outputs of a block. */
export function sliceRows(tensor: Tensor): number {
  return Math.max(64, Math.floor(SLICE_BYTES / Math.max(4 * width(tensor), rowBytes(tensor)) / 64) * 64);
}
