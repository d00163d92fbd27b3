/** What stands between gate and up and down: silu(gate) · up, of all neurons or of those that a recipe's method lets run. */
import type { Team } from "../kernels/team.ts";
import type { LlamaConfig } from "../model/config.ts";
import { thresholdAt } from "../recipe/dial.ts";
import { neuronsKept } from "../recipe/mlp.ts";
import type { LoadedRecipe } from "../recipe/recipe.ts";
import { eachToken } from "./attend.ts";
import { NeuronScores } from "./neuron_scores.ts";
import type { Workspace } from "./workspace.ts";

/** Some tokens of one layer, whose gate and up lie in the workspace. */
export interface GatePass {
  readonly team: Team;
  readonly s: Workspace;
  readonly layer: number;
  readonly nTokens: number;
  /** Those before it run dense; at most nTokens. */
  readonly firstSparse: number;
  /** The session's, where the rule has any. */
  readonly scores: NeuronScores | null;
}

/** Which neurons run at sparse positions. Neurons that don't are 0 in down's input, whose own rule skips them. */
export interface MlpRule {
  /** Matrices with a row for each neuron that a skipped one spares: up, or gate and up. The kernels read them whole all the same. */
  readonly rowsSpared: number;
  /**
   * What down takes, f32[nTokens, strides.gateUp], in the place of gate.
   *
   * @returns neurons that were skipped, summed over tokens
   */
  gate(pass: GatePass): number;
  /** Sets the dial; not 0. */
  turn(sparsity: number): void;
  /** What a session keeps for it. */
  newScores(): NeuronScores | null;
}

/** gate = silu(gate) · up for tokens from … to - 1. */
export function gateDense(team: Team, s: Workspace, from: number, to: number): void {
  if (to <= from) return;
  const { gateUp, mlp } = s.strides;
  eachToken(team, to - from, (k, t) => {
    const gate = s.gateUp + 4 * gateUp * (from + t);
    k.siluMulF32(gate, gate, gate + 4 * mlp, mlp);
  });
}

/** silu(gate) of tokens from … to - 1, f32[nTokens, strides.widest] at `active` of the workspace. */
export function siluOfGate(team: Team, s: Workspace, from: number, to: number): void {
  if (to <= from) return;
  const { gateUp, mlp, widest } = s.strides;
  eachToken(team, to - from, (k, i) => {
    const t = from + i;
    k.siluMulF32(s.active + 4 * widest * t, s.gateUp + 4 * gateUp * t, s.ones, mlp);
  });
}

/** The rule of a recipe at its own sparsity; undefined where its MLPs are as the model's. */
export function mlpRuleOf({ recipe, mlpThresholds }: LoadedRecipe, config: LlamaConfig): MlpRule | undefined {
  switch (recipe.mlp?.kind) {
    case undefined:
      return undefined;
    case "cats":
      return new Cats(config, recipe.points, mlpThresholds!, recipe.sparsity);
    case "griffin":
      return new Griffin(config, recipe.sparsity);
    case "relufication":
      return new Relufication(config);
  }
}

/** Neurons with |silu(gate)| above the layer's threshold. */
class Cats implements MlpRule {
  readonly rowsSpared = 1;
  readonly #nNeurons: number;
  readonly #points: readonly number[];
  readonly #rows: readonly Float32Array[];
  #thresholds: readonly number[] = [];

  /** @param table f32[layers, points] */
  constructor(config: LlamaConfig, points: readonly number[], table: Float32Array, sparsity: number) {
    this.#nNeurons = config.intermediateSize;
    this.#points = points;
    this.#rows = Array.from(
      { length: config.numHiddenLayers },
      (_, l) => table.subarray(points.length * l, points.length * (l + 1)),
    );
    this.turn(sparsity);
  }

  turn(sparsity: number): void {
    this.#thresholds = this.#rows.map((row) => thresholdAt(this.#points, row, sparsity));
  }

  newScores(): null {
    return null;
  }

  gate({ team, s, layer, nTokens, firstSparse }: GatePass): number {
    const { gateUp, mlp, widest } = s.strides, threshold = this.#thresholds[layer]!;
    gateDense(team, s, 0, firstSparse);
    siluOfGate(team, s, firstSparse, nTokens);
    const f32 = new Float32Array(team.kernels.memory.buffer);
    let skipped = 0;
    for (let t = firstSparse; t < nTokens; t++) {
      const gate = s.gateUp / 4 + gateUp * t, silu = s.active / 4 + widest * t;
      for (let i = 0; i < this.#nNeurons; i++) {
        const value = f32[silu + i]!;
        if (Math.abs(value) > threshold) f32[gate + i] = value * f32[gate + mlp + i]!;
        else {
          f32[gate + i] = 0;
          skipped++;
        }
      }
    }
    return skipped;
  }
}

/** The neurons that the sequence's dense positions used most; all while there are none. */
class Griffin implements MlpRule {
  readonly rowsSpared = 2;
  readonly #config: LlamaConfig;
  #keep = 0;

  constructor(config: LlamaConfig, sparsity: number) {
    this.#config = config;
    this.turn(sparsity);
  }

  turn(sparsity: number): void {
    this.#keep = neuronsKept(this.#config, sparsity);
  }

  newScores(): NeuronScores {
    return new NeuronScores(this.#config.numHiddenLayers, this.#config.intermediateSize);
  }

  gate({ team, s, layer, nTokens, firstSparse, scores }: GatePass): number {
    const { gateUp } = s.strides, nNeurons = this.#config.intermediateSize;
    gateDense(team, s, 0, nTokens);
    const row = (t: number): Float32Array =>
      new Float32Array(team.kernels.memory.buffer, s.gateUp + 4 * gateUp * t, nNeurons);
    for (let t = 0; t < firstSparse; t++) scores?.add(layer, row(t));
    const mask = firstSparse < nTokens ? scores?.mask(layer, this.#keep) ?? null : null;
    if (mask === null) return 0;
    for (let t = firstSparse; t < nTokens; t++) {
      const z = row(t);
      for (let i = 0; i < nNeurons; i++) if (mask[i] === 0) z[i] = 0;
    }
    return (nNeurons - this.#keep) * (nTokens - firstSparse);
  }
}

/** relu(gate) · up. */
export class Relufication implements MlpRule {
  readonly rowsSpared = 1;
  readonly #nNeurons: number;

  constructor(config: LlamaConfig) {
    this.#nNeurons = config.intermediateSize;
  }

  turn(): void {}

  newScores(): null {
    return null;
  }

  gate({ team, s, nTokens, firstSparse }: GatePass): number {
    const { gateUp, mlp } = s.strides;
    gateDense(team, s, 0, firstSparse);
    const f32 = new Float32Array(team.kernels.memory.buffer);
    let skipped = 0;
    for (let t = firstSparse; t < nTokens; t++) {
      const gate = s.gateUp / 4 + gateUp * t;
      for (let i = 0; i < this.#nNeurons; i++) {
        const value = f32[gate + i]!;
        if (value > 0) f32[gate + i] = value * f32[gate + mlp + i]!;
        else {
          f32[gate + i] = 0;
          skipped++;
        }
      }
    }
    return skipped;
  }
}
