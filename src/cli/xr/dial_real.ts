/** Cells of `rsparse xr dial` by the clock: the model decodes, the rest spins, all on one thread. */
import { createPolicy, LatencyTable } from "../../deadline/mod.ts";
import type { Model } from "../../runtime/model.ts";
import { nextTurn } from "../../runtime/turn.ts";
import { VERSION } from "../../version.ts";
import {
  compareDial,
  compareWithDense,
  type DialCell,
  type DialLoad,
  type DialOutcome,
  dialScenario,
  estimate,
  liveExecutor,
  type LiveToken,
  nameOfLoad,
  partsOf,
  profileOf,
  ReplyRunner,
  runDial,
  runOn,
} from "../../xr/mod.ts";
import { outcomeOf } from "../../xr/dial_sweep.ts";
import { spreadOf } from "../../xr/reply.ts";
import { modelDocument, recipeDocument, withModel } from "../generation.ts";
import type { RunOptions } from "../model_option.ts";
import type { CliContext } from "../output.ts";
import { writeFile } from "../output_file.ts";
import { formatTable } from "../table.ts";
import type { Levels } from "./dial.ts";

/** What the clock is asked for: the policies that a simulation tells apart. */
const POLICIES = ["fixed:0", "fixed:0.3", "fixed:0.4", "fixed:0.5", "slack", "plan"];
/** Tokens of a prompt. */
const PROMPT = 32;

/** Runs one load. */
export async function realDial(
  context: CliContext,
  options: RunOptions & { readonly text?: string; readonly duration?: number },
  { load, levels, seeds, out }: {
    readonly load: DialLoad;
    readonly levels: Levels;
    readonly seeds: readonly number[];
    readonly out: string;
  },
): Promise<void> {
  const { platform, signal, progress } = context;
  await withModel(context, options, async (model) => {
    const blob = await platform.openBlob(options.text!);
    const text = (await (await import("../../eval/rows.ts")).readText(blob, options.text!)).slice(0, 40_000);
    const ids = model.description.tokenizer.encode(text);
    const prompts = Array.from(
      { length: Math.floor(ids.length / PROMPT) },
      (_, i) => ids.slice(i * PROMPT, (i + 1) * PROMPT),
    );
    const policies = POLICIES.filter((policy) =>
      !policy.startsWith("fixed:") ||
      levels.file.levels.some(({ sparsity }) => sparsity === Number(policy.slice("fixed:".length)))
    );
    const runs = policies.map((): (DialOutcome & { readonly kl: number | null })[] => []);
    // engines put better code in place in the background
    await once(model, levels, prompts, { load, policy: "fixed:0.4", seed: seeds[0]!, durationMs: 2000 });
    let done = 0;
    for (const [turn, seed] of seeds.entries()) {
      for (let i = 0; i < policies.length; i++) {
        // none always runs behind the same other
        const at = (i + turn) % policies.length, policy = policies[at]!;
        runs[at]!.push(
          await once(model, levels, prompts, { load, policy, seed, durationMs: options.duration ?? 10_000 }),
        );
        progress.update("real", ++done, seeds.length * policies.length, "runs");
        await nextTurn();
        if (signal.aborted) return;
      }
    }
    progress.end();
    const cells: DialCell[] = policies.map((policy, i) => ({ load, policy, runs: runs[i]! }));
    const fixed = cells.filter(({ policy }) => policy.startsWith("fixed:"));
    const documents = cells.map((cell, i) => ({
      policy: cell.policy,
      hitRate: estimate(cell.runs.map(({ hitRate }) => hitRate)),
      fidelity: estimate(cell.runs.map(({ fidelity }) => fidelity)),
      score: estimate(cell.runs.map(({ score }) => score)),
      kl: meanOf(runs[i]!.map(({ kl }) => kl)),
      simulated: meanOf(
        seeds.map((seed) => runDial(levels.file, load, cell.policy, seed, options.duration).score),
      ),
      gain: fixed.includes(cell) ? null : compareDial(cell, fixed),
      runs: cell.runs,
    }));
    const document = {
      format: 1,
      rsparse: VERSION,
      load,
      seeds,
      durationMs: options.duration ?? 10_000,
      model: { ...modelDocument(model), sha256: await model.hash() },
      recipe: recipeDocument(model),
      machine: { cpu: platform.cpu(), processors: platform.processors() },
      runtime: { name: platform.runtime, kernels: model.info.kernels, threads: model.info.threads },
      measured: new Date().toISOString(),
      cells: documents,
    };
    const name = `real-${load.rate}-${load.beside}`;
    await writeFile(platform, `${out}/${name}.json`, [
      new TextEncoder().encode(`${JSON.stringify(document)}\n`),
    ]);
    if (context.options.json) return await context.printJson(document);
    await context.print(formatTable([
      [
        nameOfLoad(load),
        "hit rate",
        "fidelity",
        "score",
        "95 %",
        "KL to dense",
        "simulated score",
        "score to the best level's",
      ],
      ...documents.map(({ policy, hitRate, fidelity, score, kl, simulated, gain }) => [
        policy,
        hitRate.mean.toFixed(3),
        fidelity.mean.toFixed(3),
        score.mean.toFixed(3),
        `${score.low.toFixed(3)} to ${score.high.toFixed(3)}`,
        kl?.toFixed(3) ?? "",
        simulated?.toFixed(3) ?? "",
        gain === null
          ? ""
          : `${gain.bestScore.mean.toFixed(3)} (${gain.bestScore.low.toFixed(3)} to ${
            gain.bestScore.high.toFixed(3)
          })`,
      ]),
    ]));
  }, "own");
}

function meanOf(values: readonly (number | null)[]): number | null {
  const known = values.filter((value) => value !== null);
  return known.length === 0 ? null : known.reduce((a, b) => a + b, 0) / known.length;
}

/** One run by the clock, and afterwards what its tokens were worth. */
async function once(
  model: Model,
  { file }: Levels,
  prompts: readonly (readonly number[])[],
  { load, policy, seed, durationMs }: {
    readonly load: DialLoad;
    readonly policy: string;
    readonly seed: number;
    readonly durationMs: number;
  },
): Promise<DialOutcome & { readonly kl: number | null }> {
  const scenario = dialScenario(file, load, durationMs),
    number = scenario.models.findIndex(({ name }) => name === "LM");
  const table = new LatencyTable(
    file.levels.map(({ sparsity, fidelity, latencyMs }) => ({
      sparsity,
      fidelity,
      latencyMs: latencyMs.p95,
    })),
  );
  const { blocks = partsOf(model.config.numHiddenLayers) } = file, partOf = new Map<number, number>();
  let first = 0;
  blocks.forEach((count, part) => {
    partOf.set(first, part);
    first += count;
  });
  const tokens: LiveToken[] = [], runner = new ReplyRunner(model, prompts);
  const executor = liveExecutor(scenario.models.map(({ cost }) => cost?.latencyMs ?? 0), {
    model: number,
    runner,
    table,
    policy: createPolicy(policy, table),
    profile: profileOf(file),
    blocks: model.config.numHiddenLayers,
    partOf,
    promptMs: spreadOf(file.promptMs ?? [0])!.p50,
  }, (token) => tokens.push(token));
  const { result } = runOn(scenario, executor, { mode: "corrected", order: "edf", seed, setting: null });
  runner.end();
  const kls: number[] = [];
  for (const reply of new Set(tokens.map((token) => token.reply))) {
    const own = tokens.filter((token) => token.reply === reply);
    const ran = own.map(({ id, sparsities }) => ({ id, sparsity: sparsities.length === 0 ? 0 : sparsities }));
    for (const { kl } of compareWithDense(model, runner.promptOf(reply), ran)) kls.push(kl);
    await nextTurn();
  }
  return { ...outcomeOf(result), kl: meanOf(kls) };
}
