/** A recipe of random factors in every form that learned recipes have, for the tiny f32 model. */
import { type LoadedRecipe, Model } from "../../src/mod.ts";
import { gainName } from "../../src/recipe/names.ts";
import {
  joinRecipe,
  type LowRankInput,
  type ProjectionRecipe,
  projectionShapes,
  type ProjectionTensors,
} from "../../src/recipe/recipe.ts";
import { bf16, Random } from "./kernels.ts";
import { requireShared } from "./shared.ts";

/** The model that it is for. */
export const LEARNED_FILE = "golden/tiny/llama-f32.gguf";
/** Rank of every projection that has factors. */
export const RANK = 6;
/** Its own sparsity, and the points of its dial. */
const OWN = 0.5, POINTS = [0, OWN, 0.9];

/** Forms of a learned recipe. */
export interface Choices {
  readonly input?: LowRankInput;
  /** Whether q, k and v, and gate and up, have one V. */
  readonly shared?: boolean;
  /** Whether thresholds within a site differ. */
  readonly apart?: boolean;
  /** Biases and weights of norms. */
  readonly extras?: boolean;
  /** Whether each site has weights of its channels in the test. */
  readonly weighed?: boolean;
}

/** Every projection with factors but block 1's o, which is dense, and its down, which has none. */
export async function learned(choices: Choices = {}): Promise<LoadedRecipe> {
  const { input = "all", shared = true, apart = false, extras = true, weighed = false } = choices;
  await using model = await Model.load(requireShared(LEARNED_FILE), { kernels: "baseline", threads: 1 });
  const random = new Random(11), tensors = new Map<string, ProjectionTensors>(), table: number[] = [];
  const owners = new Map<string, Float32Array>(), scales = new Map<string, Float32Array>();
  const projections = projectionShapes(model.config).map(({ path, nIn, nOut }, i): ProjectionRecipe => {
    const mode = path.endsWith("1.self_attn.o_proj")
      ? "dense"
      : path.endsWith("1.mlp.down_proj")
      ? "sparse"
      : "r_sparse";
    const owner = path.replace(/[kv]_proj/, "q_proj").replace("up_proj", "gate_proj");
    const shares = shared && owner !== path, rank = mode === "r_sparse" ? RANK : 0;
    const threshold = mode === "dense" ? -1 : Math.fround((nIn > 100 ? 0.1 : 0.3) + (apart ? i / 50 : 0));
    // rounded to what a bf16 model keeps, so that one reference serves all
    const values = (n: number, size: number): Float32Array => random.weights(n, size).map(bf16);
    const v = shares ? owners.get(owner)! : values(rank * nIn, 0.2);
    owners.set(path, v);
    if (weighed && !scales.has(owner)) scales.set(owner, random.weights(nIn, 0.4).map(Math.exp));
    const scale = mode === "dense" ? null : scales.get(owner) ?? null;
    tensors.set(path, {
      factors: rank > 0 ? { u: values(rank * nOut, 0.2), v } : null,
      scale,
      bias: extras ? values(nOut, 0.1) : null,
    });
    table.push(mode === "dense" ? -1 : 0, threshold, mode === "dense" ? -1 : 3 * threshold);
    return {
      path,
      score: scale === null ? "abs" : "columnNorm",
      threshold,
      rho: mode === "r_sparse" ? 0.9 : 1,
      sparsity: 0.5,
      channels: nIn >> 1,
      rank,
      mode,
      ...(shares && rank > 0 && { sharedV: owner }),
    };
  });
  const gains = new Map<string, Float32Array>();
  if (extras) {
    const gain = (): Float32Array => random.weights(model.config.hiddenSize, 0.2).map((g) => 1 + g);
    for (const name of [gainName(0, "attention"), gainName(0, "mlp"), gainName(1, "mlp"), "model.norm"]) {
      gains.set(name, gain());
    }
  }
  const recipe = {
    version: 3 as const,
    method: "learned" as const,
    compat: "corrected" as const,
    modelHash: await model.hash(),
    model: "under test",
    sparsity: OWN,
    points: POINTS,
    rho: 0.9,
    seed: 0,
    calibration: { source: "none", tokens: 0, sha256: "" },
    keepDense: 0,
    lowRankInput: input,
    projections,
  };
  return joinRecipe(recipe, tensors, Float32Array.from(table), { gains });
}
