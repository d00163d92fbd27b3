/** A Llama token by token in float64, dense or by a recipe, written for being read: what sparse passes are held against. */
import { TensorReader } from "../../src/calibrate/tensor_reader.ts";
import { loadKernelModule } from "../../src/kernels/probe.ts";
import { type ProjectionName, projectionPath, PROJECTIONS, projectionShape } from "../../src/model/config.ts";
import { gainName } from "../../src/recipe/names.ts";
import type { LoadedRecipe, Model } from "../../src/mod.ts";

type Vector = Float64Array<ArrayBuffer>;

interface Block {
  readonly attentionNorm: Float32Array;
  readonly mlpNorm: Float32Array;
  readonly weights: { readonly [name in ProjectionName]: Float32Array };
}

/** What sparse tokens took, as sessions count it. */
export interface ReferenceRun {
  /** After each token. */
  readonly logits: readonly Vector[];
  readonly kept: number;
  readonly dense: number;
}

/** The weights of a model without scaled rotary frequencies and without biases, in the order of its file. */
export class ReferenceLlama {
  readonly #model: Model;
  readonly #blocks: Block[] = [];
  #embedding: Float32Array = new Float32Array();
  #finalNorm: Float32Array = new Float32Array();

  private constructor(model: Model) {
    this.#model = model;
  }

  /** @param round what the model's dtype makes of a weight */
  static async of(model: Model, round: (v: number) => number = (v) => v): Promise<ReferenceLlama> {
    const made = new ReferenceLlama(model), { description } = model;
    const reader = await TensorReader.create(await loadKernelModule("baseline"));
    made.#embedding = (await reader.read(description.embedding)).map(round);
    made.#finalNorm = await reader.read(description.finalNorm);
    for (const { attentionNorm, mlpNorm, projections } of description.layers) {
      const weights: { [name: string]: Float32Array } = {};
      for (const name of PROJECTIONS) weights[name] = (await reader.read(projections[name])).map(round);
      made.#blocks.push({
        attentionNorm: await reader.read(attentionNorm),
        mlpNorm: await reader.read(mlpNorm),
        weights: weights as Block["weights"],
      });
    }
    return made;
  }

  /** @param sparseFrom positions from here on run by the recipe, at its own sparsity */
  run(ids: readonly number[], loaded: LoadedRecipe, sparseFrom: number): ReferenceRun {
    const { config } = this.#model, { hiddenSize, headDim, numAttentionHeads, numKeyValueHeads } = config;
    const rules = new Map(loaded.recipe.projections.map((p) => [p.path, p]));
    const takesAll = loaded.recipe.lowRankInput === "all", count = { kept: 0, dense: 0 };
    const keys: Vector[][] = this.#blocks.map(() => []), values: Vector[][] = this.#blocks.map(() => []);

    const project = (
      layer: number,
      names: readonly ProjectionName[],
      x: Vector,
      sparse: boolean,
    ): Vector[] => {
      const products = new Map<string, Vector>();
      return names.map((name) => {
        const path = projectionPath(layer, name), rule = rules.get(path)!;
        const { nIn, nOut } = projectionShape(config, name), w = this.#blocks[layer]!.weights[name];
        const scale = loaded.scale(path),
          passes = (c: number): boolean =>
            !sparse || rule.mode === "dense" ||
            (rule.mode !== "low_rank" && (scale?.[c] ?? 1) * Math.abs(x[c]!) > Math.fround(rule.threshold));
        const active = x.map((v, c) => passes(c) ? v : 0), y = new Float64Array(nOut);
        for (let o = 0; o < nOut; o++) for (let c = 0; c < nIn; c++) y[o]! += w[o * nIn + c]! * active[c]!;
        if (!sparse) return y;
        count.dense += nIn * nOut;
        for (let c = 0; c < nIn; c++) if (passes(c)) count.kept += nOut;
        const factors = loaded.factors(path), bias = loaded.bias(path);
        if (factors !== null) {
          const { rank } = rule, rest = takesAll ? x : x.map((v, c) => v - active[c]!);
          const key = `${rule.sharedV ?? path} ${takesAll ? "" : rule.threshold}`;
          if (!products.has(key)) {
            count.kept += rank * nIn;
            products.set(
              key,
              Float64Array.from(
                { length: rank },
                (_, r) => rest.reduce((sum, v, c) => sum + v * factors.v[r * nIn + c]!, 0),
              ),
            );
          }
          count.kept += rank * nOut;
          const z = products.get(key)!;
          for (let r = 0; r < rank; r++) {
            for (let o = 0; o < nOut; o++) y[o]! += factors.u[r * nOut + o]! * z[r]!;
          }
        }
        return bias === null ? y : y.map((v, o) => v + bias[o]!);
      });
    };

    const used = this.#blocks.map(() => new Float64Array(config.intermediateSize));
    const logits = ids.map((id, position) => {
      const sparse = position >= sparseFrom;
      const norm = (x: Vector, weight: Float32Array, name: string): Vector => {
        const gain = sparse ? loaded.gains.get(name) ?? weight : weight;
        const root = Math.sqrt(x.reduce((sum, v) => sum + v * v, 0) / hiddenSize + config.rmsNormEps);
        return x.map((v, i) => v / root * gain[i]!);
      };
      let hidden = Float64Array.from(this.#embedding.subarray(id * hiddenSize, (id + 1) * hiddenSize));
      for (const [l, block] of this.#blocks.entries()) {
        const x = norm(hidden, block.attentionNorm, gainName(l, "attention"));
        const [q, k, v] = project(l, ["qProj", "kProj", "vProj"], x, sparse) as [Vector, Vector, Vector];
        this.#rotate(q, position, numAttentionHeads);
        this.#rotate(k, position, numKeyValueHeads);
        keys[l]!.push(k);
        values[l]!.push(v);
        const attended = new Float64Array(numAttentionHeads * headDim);
        for (let h = 0; h < numAttentionHeads; h++) {
          const at = h * headDim, from = Math.floor(h * numKeyValueHeads / numAttentionHeads) * headDim;
          const scores = keys[l]!.map((key) => {
            let sum = 0;
            for (let i = 0; i < headDim; i++) sum += q[at + i]! * key[from + i]!;
            return sum / Math.sqrt(headDim);
          });
          const top = Math.max(...scores), shares = scores.map((s) => Math.exp(s - top));
          const total = shares.reduce((a, b) => a + b);
          for (const [t, share] of shares.entries()) {
            for (let i = 0; i < headDim; i++) attended[at + i]! += share / total * values[l]![t]![from + i]!;
          }
        }
        hidden = add(hidden, project(l, ["oProj"], attended, sparse)[0]!);
        const h = norm(hidden, block.mlpNorm, gainName(l, "mlp"));
        const [gate, up] = project(l, ["gateProj", "upProj"], h, sparse) as [Vector, Vector];
        const z = this.#gate(loaded, l, gate, up, sparse, used[l]!, count);
        hidden = add(hidden, project(l, ["downProj"], z, sparse)[0]!);
      }
      const last = norm(hidden, this.#finalNorm, "model.norm");
      return Float64Array.from({ length: config.vocabSize }, (_, id) => {
        let sum = 0;
        for (let c = 0; c < hiddenSize; c++) sum += this.#embedding[id * hiddenSize + c]! * last[c]!;
        return sum;
      });
    });
    return { logits, ...count };
  }

  /** The input of down; `used` are the shares of neurons in dense tokens, squared and summed. */
  #gate(
    { recipe, mlpThresholds }: LoadedRecipe,
    l: number,
    gate: Vector,
    up: Vector,
    sparse: boolean,
    used: Vector,
    count: { kept: number },
  ): Vector {
    const { hiddenSize, intermediateSize } = this.#model.config, kind = recipe.mlp?.kind;
    const z = gate.map((g, i) => silu(g) * up[i]!);
    if (!sparse) {
      const square = z.reduce((sum, v) => sum + v * v, 0);
      for (const [i, v] of z.entries()) used[i]! += v * v / square;
      return z;
    }
    if (kind === undefined) return z;
    const runs: boolean[] = Array.from(gate, () => true);
    if (kind === "cats") {
      const threshold = mlpThresholds![recipe.points.length * l + recipe.points.indexOf(recipe.sparsity)]!;
      gate.forEach((g, i) => runs[i] = Math.abs(silu(g)) > threshold);
    } else if (kind === "relufication") gate.forEach((g, i) => runs[i] = g > 0);
    else if (used.some((v) => v > 0)) {
      const weights = Object.values(this.#blocks[l]!.weights).reduce((sum, w) => sum + w.length, 0);
      const share = 1 - recipe.sparsity * weights / (3 * hiddenSize * intermediateSize);
      const order = [...used.keys()].sort((a, b) => used[b]! - used[a]!);
      for (const i of order.slice(Math.trunc(intermediateSize * share))) runs[i] = false;
    }
    for (const run of runs) if (!run) count.kept -= hiddenSize * (kind === "griffin" ? 2 : 1);
    return z.map((v, i) => !runs[i] ? 0 : kind === "relufication" ? gate[i]! * up[i]! : v);
  }

  #rotate(x: Vector, position: number, heads: number): void {
    const { headDim, ropeDim, ropeTheta, ropeInterleaved } = this.#model.config;
    for (let h = 0; h < heads; h++) {
      for (let i = 0; i < ropeDim / 2; i++) {
        const a = h * headDim + (ropeInterleaved ? 2 * i : i), b = a + (ropeInterleaved ? 1 : ropeDim / 2);
        const angle = position * ropeTheta ** (-2 * i / ropeDim), [p, q] = [x[a]!, x[b]!];
        x[a] = p * Math.cos(angle) - q * Math.sin(angle);
        x[b] = p * Math.sin(angle) + q * Math.cos(angle);
      }
    }
  }
}

function add(a: Vector, b: Vector): Vector {
  return a.map((v, i) => v + b[i]!);
}

function silu(v: number): number {
  return v / (1 + Math.exp(-v));
}
