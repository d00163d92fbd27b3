/**
 * The dial against fixed levels: a voice assistant on one accelerator that other models use, too, under growing loads; every level and every policy on the same requests and the
 * same recorded tokens.
 */
import { tableExecutor } from "./executor.ts";
import { type Course, dialOf, type LevelsFile } from "./levels.ts";
import { LibcRandom } from "./random.ts";
import { DEFAULT_REPLY, type Reply, tokenNumber } from "./reply.ts";
import { runOn, type RunResult } from "./run.ts";
import { parseScenario, type Scenario } from "./scenario.ts";

/** How much is asked of the accelerator. */
export interface DialLoad {
  /** Tokens a second that replies are due at, in dense tokens: 1 is what the median dense token allows. */
  readonly rate: number;
  /** The chance that a third of a second is spoken in: how often there is a reply. */
  readonly probability: number;
  /** Share of the accelerator that a model beside takes, 30 frames a second. */
  readonly beside: number;
}

/** What a run came to, of the language model's tokens. */
export interface DialOutcome {
  /** Tokens executed in time, of all that were asked for. */
  readonly hitRate: number;
  /** Mean fidelity of those that were executed. */
  readonly fidelity: number;
  /** Sum of Rt times fidelity, of all that were asked for. */
  readonly score: number;
  /** The same as the hit rate, over all models. */
  readonly allHitRate: number;
  /** 100 times the mean of all models' scores. */
  readonly overall: number;
}

/** Runs of one policy under one load, a run a seed. */
export interface DialCell {
  /** What was asked for. */
  readonly load: DialLoad;
  /** As `createPolicy` has it. */
  readonly policy: string;
  /** In the order of seeds. */
  readonly runs: readonly DialOutcome[];
}

/** What a load is called. */
export function nameOfLoad({ rate, probability, beside }: DialLoad): string {
  const other = beside === 0 ? "" : `, ${Math.round(100 * beside)} % beside`;
  return `${rate} of dense speed, replies ${probability}${other}`;
}

/** From too little to too much: tokens due ever faster, then a model beside that takes ever more. */
export const DIAL_LOADS: readonly DialLoad[] = [
  ...[0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.2].map((rate) => ({ rate, probability: 0.25, beside: 0 })),
  ...[0.1, 0.2, 0.3, 0.4].map((beside) => ({ rate: 0.6, probability: 0.25, beside })),
];

/** Settings of {@linkcode sweepDial}. */
export interface DialSweepOptions {
  /** What tokens took and are worth. */
  readonly levels: LevelsFile;
  /** Of which each is a panel. */
  readonly loads: readonly DialLoad[];
  /** Beside all fixed levels. */
  readonly policies: readonly string[];
  /** Of requests and of the recorded tokens. */
  readonly seeds: readonly number[];
  /** Default 10,000. */
  readonly durationMs?: number;
}

/** What is not the language model, ms: declared, as an accelerator of its own would be shared. */
const KEYWORD_MS = 0.5, SPEECH_MS = 40, BESIDE_FPS = 30;
/** Recorded tokens stay together in runs of so many, so that slow spells stay slow spells: a second of recording, and more. */
const BLOCK = 16;

/** The scenario of a load. */
export function dialScenario(levels: LevelsFile, load: DialLoad, durationMs: number = 10_000): Scenario {
  const { rate, probability, beside } = load, fps = 3;
  const reply: Reply = { ...DEFAULT_REPLY, tokenRate: rate * 1000 / levels.levels[0]!.latencyMs.p50 };
  return parseScenario({
    id: "voice_assistant_load",
    durationMs,
    models: [
      { name: "KD", fps, cost: { latencyMs: KEYWORD_MS, energyMJ: 0 } },
      { name: "SR", fps, probability, dependencies: ["KD"], cost: { latencyMs: SPEECH_MS, energyMJ: 0 } },
      { name: "LM", fps, dependencies: ["SR"], reply },
      ...beside === 0 ? [] : [{
        name: "beside",
        fps: BESIDE_FPS,
        cost: { latencyMs: beside * 1000 / BESIDE_FPS, energyMJ: 0 },
      }],
    ],
  });
}

/** Recorded rows for all tokens that a run can ask for: runs of rows from places that a seed draws. */
export function drawCourse(
  { tokenMs = [[]], promptMs = [] }: LevelsFile,
  replies: number,
  seed: number,
): Course {
  const random = new LibcRandom(seed), count = tokenNumber(DEFAULT_REPLY, replies, 0);
  const tokens: number[] = [];
  while (tokens.length < count) {
    const first = Math.floor(random.unit() * tokenMs.length);
    for (let i = 0; i < BLOCK; i++) tokens.push((first + i) % tokenMs.length);
  }
  return {
    tokens: tokens.slice(0, count),
    prompts: promptMs.length === 0
      ? []
      : Array.from({ length: replies }, () => Math.floor(random.unit() * promptMs.length)),
  };
}

/** One run. */
export function runDial(
  levels: LevelsFile,
  load: DialLoad,
  policy: string,
  seed: number,
  durationMs?: number,
): DialOutcome {
  const scenario = dialScenario(levels, load, durationMs);
  const replies = Math.floor(scenario.durationMs * 3 / 1000);
  // a seed for rows that the load's own draws don't share
  const course = drawCourse(levels, replies, seed + 1_000_000);
  const costs = scenario.models.map(({ cost }) => ({ cycles: 1e6 * (cost?.latencyMs ?? 0), energyNJ: 0 }));
  const { result } = runOn(scenario, tableExecutor([costs], "latency", false), {
    mode: "corrected",
    order: "edf",
    seed,
    setting: null,
    dials: [{ ...dialOf(levels, policy, course), model: "LM", name: policy }],
  });
  return outcomeOf(result);
}

/** What a run came to for its language model `LM`. */
export function outcomeOf({ models: { LM }, hitRate, overall }: RunResult): DialOutcome {
  return {
    hitRate: LM?.hitRate ?? 1,
    fidelity: LM === undefined || LM.nExecuted === 0 ? 1 : LM.accuracy,
    score: LM?.score ?? 1,
    allHitRate: hitRate,
    overall,
  };
}

/** Every load with every fixed level and policy. Yields after each cell. */
export function* sweepDial(options: DialSweepOptions): Generator<DialCell, void> {
  const { levels, loads, policies, seeds, durationMs } = options;
  const all = [...levels.levels.map(({ sparsity }) => `fixed:${sparsity}`), ...policies];
  for (const load of loads) {
    for (const policy of all) {
      yield { load, policy, runs: seeds.map((seed) => runDial(levels, load, policy, seed, durationMs)) };
    }
  }
}
