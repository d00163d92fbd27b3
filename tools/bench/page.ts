/** `rsparse bench` in a page: the same measurements by the same code, without a command line. */
import { measureKernels } from "../../src/cli/bench/kernels.ts";
import { type Row, statOf } from "../../src/cli/bench/rows.ts";
import { SHAPES } from "../../src/cli/bench/shapes.ts";
import { measureTokens } from "../../src/cli/bench/tokens.ts";
import {
  type BenchHost,
  closeVariants,
  kernelRecipe,
  loadVariants,
  modelOfShape,
  type Variant,
} from "../../src/cli/bench/variants.ts";
import { dtypeOf } from "../../src/cli/dtype.ts";
import { Model } from "../../src/mod.ts";
import type { EngineInfo } from "../../src/runtime/model.ts";
import type { Request } from "./schema.ts";

/** A page knows nothing of the system's scheduler. */
const HOST: BenchHost = {
  signal: new AbortController().signal,
  note: () => {},
  progress: { update: () => {}, end: () => {} },
  interruptions: () => null,
};

/** What `rsparse bench --json` prints. */
export async function main(request: Request): Promise<{ engine: EngineInfo; rows: readonly Row[] }> {
  if (request.what === "load") return await load(request);
  const { what, reps, shape } = request, variants = await open(request);
  try {
    const { model } = variants[0]!;
    const about = {
      reps,
      shape: shape ?? model.description.name,
      tokens: request.tokens ?? 128,
      layers: shape === undefined ? model.config.numHiddenLayers : SHAPES[shape].numHiddenLayers,
    };
    const rows = what === "kernels"
      ? await measureKernels(HOST, variants, about)
      : await measureTokens(HOST, variants, { ...about, what });
    return { engine: model.info, rows };
  } finally {
    await closeVariants(variants);
  }
}

async function open(request: Request): Promise<Variant[]> {
  const { kernels, threads, dtype = "int4", shape, model, sparsity = [0] } = request;
  const options = { kernels, threads, dtype: shape === undefined ? "auto" as const : dtype };
  if (shape !== undefined) {
    const { files } = modelOfShape(shape, dtype, request.layers, request.vocab);
    return await loadVariants(
      HOST,
      sparsity,
      (recipe) => Model.load(files, { ...options, recipe }),
      kernelRecipe,
    );
  }
  const variants: Variant[] = [];
  for (const share of sparsity) {
    const loaded = await Model.load(model!, share === 0 ? options : { ...options, recipe: request.recipe });
    variants.push({ sparsity: share, name: loaded.recipe?.recipe.method ?? "dense", model: loaded });
  }
  return variants;
}

/** One file from bytes that the page has fetched, what a page does after a download; a model of several files is fetched each time. */
async function load(
  { model, kernels, threads, reps }: Request,
): Promise<{ engine: EngineInfo; rows: Row[] }> {
  const bytes = model!.endsWith(".gguf") ? await (await fetch(`/fs${model}`)).blob() : model!,
    times: number[] = [];
  for (let rep = -1;; rep++) {
    const began = performance.now();
    const loaded = await Model.load(bytes, { kernels, threads });
    if (rep >= 0) times.push(performance.now() - began);
    const { info, description } = loaded, dtype = dtypeOf(loaded);
    await loaded.close();
    if (rep + 1 < reps) continue;
    const about = { name: "load", shape: description.name, dtype, sparsity: 0, variant: "dense" };
    return { engine: info, rows: [{ ...about, ms: statOf(times) }] };
  }
}
