/** `rsparse bench` without a command line: the same measurements by the same code, for pages. */
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
import type { EngineInfo, LoadOptions, ModelSource } from "../../src/runtime/model.ts";
import type { Request } from "./schema.ts";

/** Where a page has what a request names. */
export interface Sources {
  /** The model; as whole bytes for `load`, whose time is to be that after a download. */
  model(what: Request["what"]): ModelSource | Promise<ModelSource>;
  /** For it, where the request runs one; null: it comes with the model. */
  readonly recipe: LoadOptions["recipe"] | null;
}

/** What `rsparse bench --json` prints. @throws The host's signal's reason, between variants; rows that were measured by then are lost. */
export async function runRequest(
  host: BenchHost,
  request: Request,
  sources: Sources,
): Promise<{ engine: EngineInfo; rows: readonly Row[] }> {
  if (request.what === "load") return await load(host, request, sources);
  const { what, reps, shape } = request, variants = await open(host, request, sources);
  try {
    const { model } = variants[0]!;
    const about = {
      reps,
      shape: shape ?? model.description.name,
      tokens: request.tokens ?? 128,
      layers: shape === undefined ? model.config.numHiddenLayers : SHAPES[shape].numHiddenLayers,
    };
    const rows = what === "kernels"
      ? await measureKernels(host, variants, about)
      : await measureTokens(host, variants, { ...about, what });
    return { engine: model.info, rows };
  } finally {
    await closeVariants(variants);
  }
}

async function open(host: BenchHost, request: Request, sources: Sources): Promise<Variant[]> {
  const { kernels, threads, dtype = "int4", shape, sparsity = [0] } = request, { signal } = host;
  const options = { kernels, threads, signal, dtype: shape === undefined ? "auto" as const : dtype };
  if (shape !== undefined) {
    const { files } = modelOfShape(shape, dtype, request.layers, request.vocab);
    return await loadVariants(
      host,
      sparsity,
      (recipe) => Model.load(files, { ...options, recipe }),
      kernelRecipe,
    );
  }
  const variants: Variant[] = [];
  try {
    for (const share of sparsity) {
      const recipe = share === 0 ? null : sources.recipe ?? undefined;
      const model = await Model.load(await sources.model(request.what), { ...options, recipe });
      variants.push({ sparsity: share, name: model.recipe?.recipe.method ?? "dense", model });
    }
  } catch (error) {
    await closeVariants(variants);
    throw error;
  }
  return variants;
}

async function load(
  host: BenchHost,
  { what, kernels, threads, reps }: Request,
  sources: Sources,
): Promise<{ engine: EngineInfo; rows: Row[] }> {
  const source = await sources.model(what), times: number[] = [];
  for (let rep = -1;; rep++) {
    host.signal.throwIfAborted();
    const began = performance.now();
    const loaded = await Model.load(source, { kernels, threads });
    if (rep >= 0) times.push(performance.now() - began);
    const { info, description } = loaded, dtype = dtypeOf(loaded);
    await loaded.close();
    if (rep + 1 < reps) continue;
    const about = { name: "load", shape: description.name, dtype, sparsity: 0, variant: "dense" };
    return { engine: info, rows: [{ ...about, ms: statOf(times) }] };
  }
}
