/** What every tensor of a model becomes in memory: its layout, and which projections share a matrix. */
import { blockOf, type StorageType, type Tensor } from "../format/checkpoint.ts";
import { storedSizes } from "../format/stored_matrix.ts";
import { type Kernels, MAX_LIST_CHANNELS, padTo } from "../kernels/kernels.ts";
import { type ProjectionName, projectionPath } from "../model/config.ts";
import type { LlamaDescription } from "../model/llama.ts";
import { SITES } from "./forward.ts";
import { type Dtype, type Layout, type MatrixPlan, planMatrix, type RunMethod } from "./matrix.ts";
import { candidates, type Choice, type Kind, type Shape, type Tuning } from "./tuner.ts";

/** Bytes of a file read at once, and of the floats they become. */
const SLICE_BYTES = 2 ** 21;

/** What a recipe means for the weights' places. */
export interface RecipeHints {
  /** What it will skip of the projection with this path; 0 without a recipe. */
  sparsityOf(path: string): number;
  /** Whether two projections with one input always have the same active channels. */
  sharesMask(a: string, b: string): boolean;
  /** Whether channels of it are skipped. */
  skips(path: string): boolean;
}

/** Of a model without a recipe. */
export const NO_RECIPE: RecipeHints = { sparsityOf: () => 0, sharesMask: () => true, skips: () => false };

/** Of a model whose projections are to be given rules one by one: nothing is joined, and as without a recipe nothing is laid out for skipping. */
export const SEPARATE: RecipeHints = { ...NO_RECIPE, sharesMask: () => false };

/** What decides where weights go, besides the file. */
export interface PlanOptions {
  readonly dtype: Dtype | "auto";
  readonly recipe: RecipeHints;
  readonly build: Kernels["build"];
  readonly tuning: Tuning;
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
  readonly method: RunMethod;
}

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

/** The layout of the embedding and the head. */
export function embeddingLayout(type: StorageType, dtype: Dtype | "auto"): Layout {
  if (dtype === "f32" || (dtype === "auto" && type === "F32")) return "rows-f32";
  if (dtype === "bf16" || (dtype === "auto" && (type === "BF16" || type === "F16"))) return "rows-bf16";
  return "pairs-i8";
}

/** Neighbours of a site that will share a matrix. */
interface Group {
  readonly at: number;
  readonly parts: PartPlan[];
  readonly shape: Shape;
  /** Whether channels of it are skipped. */
  readonly skips: boolean;
}

/**
 * Neighbours that are kept alike and share their masks are one matrix. In int8, whose projections would have to share the scales of their
 * channels, only gate and up are: q, k and v with one set of scales took SmolLM2's mean log-likelihood on the golden prompts from 0.004 to
 * 0.0128 off.
 */
function groupLayer(
  model: LlamaDescription,
  layer: number,
  dtype: Dtype | "auto",
  recipe: RecipeHints,
): Group[][] {
  const { projections } = model.layers[layer]!;
  return SITES.map((names) => {
    const groups: { kind: Kind; mins: boolean; at: number; parts: PartPlan[] }[] = [];
    let at = 0;
    for (const name of names) {
      const tensor = projections[name], kind = projectionKind(tensor, dtype), last = groups.at(-1);
      const mins = kind === "group-i4" && tensor.type === "Q4_1", path = projectionPath(layer, name);
      if (
        last !== undefined && last.kind === kind && last.mins === mins &&
        canJoin(last.parts[0]!.tensor, tensor, kind === "i8" && names.length === 3, at - last.at) &&
        recipe.sharesMask(projectionPath(layer, last.parts[0]!.name), path)
      ) last.parts.push({ name, tensor, offset: at - last.at });
      else groups.push({ kind, mins, at, parts: [{ name, tensor, offset: 0 }] });
      at += padTo(tensor.shape[0]!, 64);
    }
    return groups.map(({ kind, mins, at, parts }): Group => {
      const end = parts.at(-1)!, nOut = end.offset + end.tensor.shape[0]!, nIn = end.tensor.shape[1]!;
      const path = projectionPath(layer, parts[0]!.name), sparsity = recipe.sparsityOf(path);
      return { at, parts, skips: recipe.skips(path), shape: { kind, mins, nIn, nOut, sparsity } };
    });
  });
}

function isStored({ kind }: Shape, parts: readonly PartPlan[]): boolean {
  return kind === "i8" && parts[0]!.tensor.stored !== undefined;
}

/** Whether a tensor can be outputs of a matrix from `offset` on: in a pack's int8 where they are already, whose scales they share. */
function canJoin(first: Tensor, tensor: Tensor, isApart: boolean, offset: number): boolean {
  const a = first.stored, b = tensor.stored;
  if (a === undefined || b === undefined) return a === b && !isApart;
  return a.matrix === b.matrix && b.output === a.output + offset;
}

/**
 * Every shape of which a recipe skips channels and that may be kept in more than one way, once. A pack's int8 is kept by channels as it comes: with 15 million
 * weights skipping won at every sparsity from 0.3 on, and tuning would be most of the time to the first token.
 */
export function sparseShapes(
  model: LlamaDescription,
  dtype: Dtype | "auto",
  recipe: RecipeHints,
): Shape[] {
  const shapes = new Map<string, Shape>();
  for (let l = 0; l < model.layers.length; l++) {
    for (const { skips, shape, parts } of groupLayer(model, l, dtype, recipe).flat()) {
      if (skips && !isStored(shape, parts)) shapes.set(JSON.stringify(shape), shape);
    }
  }
  return [...shapes.values()];
}

/** The matrices of a block, for each of its sites. */
export function planLayer(model: LlamaDescription, layer: number, options: PlanOptions): LinearPlan[][] {
  const { dtype, recipe, build, tuning } = options;
  return groupLayer(model, layer, dtype, recipe).map((site) =>
    site.map(({ at, parts, shape, skips }): LinearPlan => {
      const { kind, mins, nIn, nOut } = shape;
      const [dense, skipping] = candidates(kind, build) as [Choice, Choice];
      const { layout, method } = !skips ? dense : isStored(shape, parts) ? skipping : tuning.choose(shape);
      return {
        parts,
        at,
        plan: planMatrix(layout, nIn, nOut, { mins, balanced: kind === "i8", isDense: !skips }),
        method,
      };
    })
  );
}

/** Scratch that loading needs: the largest slice raw, and as floats (a whole matrix where int8 balances its scales), or a pack's matrix of bytes. */
export function stagingBytes(model: LlamaDescription, options: PlanOptions): number {
  let floats = 0;
  for (const tensor of everyTensor(model)) floats = Math.max(floats, 4 * width(tensor) * stagedRows(tensor));
  for (const { plan, parts } of everyLinear(model, options)) {
    const { stored } = parts[0]!.tensor;
    if (!plan.balanced) continue;
    floats = Math.max(
      floats,
      stored === undefined ? 4 * plan.nIn * padTo(plan.nOut, 64) : storedSizes(stored.matrix).bytes,
    );
  }
  return rawBytes(model) + padTo(floats, 64) + 64;
}

/** The part of it where slices lie as they are in the file; floats come after it. */
export function rawBytes(model: LlamaDescription): number {
  let bytes = 0;
  for (const tensor of everyTensor(model)) {
    if (tensor.stored === undefined) bytes = Math.max(bytes, rowBytes(tensor) * stagedRows(tensor));
  }
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
  const { values, bytes } = blockOf(tensor.type);
  return (width(tensor) / values) * bytes;
}

/** Rows a slice: a multiple of 64, the outputs of a block. */
export function sliceRows(tensor: Tensor): number {
  return Math.max(64, Math.floor(SLICE_BYTES / Math.max(4 * width(tensor), rowBytes(tensor)) / 64) * 64);
}
