/** `rsparse demo`: what this program is for, in a few seconds: one question, answered dense and sparse. */
import type { Command } from "commander";
import type { Model } from "../../runtime/model.ts";
import { UsageError } from "../errors.ts";
import { checkDial, loadModel, type Run, runDocument, stream, timingLine, withModel } from "../generation.ts";
import { addRunOptions, decimal, describe, integer, type RunOptions } from "../model_option.ts";
import type { CliContext } from "../output.ts";

interface DemoOptions extends RunOptions {
  readonly prompt: string;
  readonly maxTokens: number;
  readonly sparsity?: number;
}

/** Thresholds are then half a percent (95 of 100: 2 %) off those of 8,192 tokens, after 4 s instead of 30. */
const CALIBRATION_TOKENS = 1024;
/** What a recipe that came with the model runs at; one that is made here is worse: SmolLM2 answers well at 0.4, at 0.5 it begins to repeat itself. */
const OWN_SPARSITY = 0.5, CALIBRATED_SPARSITY = 0.4;
/** Small models that take the best token each time soon go round in circles; this keeps both answers out of them. */
const REPEAT_PENALTY = 1.1;
/** Tokens before the runs that count: engines compile kernels better once they have run. */
const WARM_UP = 8;

/** Adds the command. */
export function register(program: Command, context: CliContext): void {
  const command = program.command("demo")
    .description("answer one question dense and sparse, and compare speed and text");
  addRunOptions(command)
    .option("-p, --prompt <text>", "the question", "Tell me a story about a rabbit and a turtle.")
    .option("-n, --max-tokens <n>", "most new tokens of each answer", integer(2), 100)
    .option(
      "--sparsity <s>",
      `share of the multiply-adds to skip (${OWN_SPARSITY}; ${CALIBRATED_SPARSITY} where a recipe has to be made)`,
      decimal(0.01, 0.99),
    )
    .action(async (options: DemoOptions) => {
      if (options.prompt === "") {
        throw new UsageError("Cannot run an empty prompt: give at least one character after -p");
      }
      const began = performance.now();
      const sparse = await loadSparse(context, options);
      try {
        // a model of its own: one with a recipe may hold its weights in a layout that was picked for skipping
        await withModel(
          context,
          { ...options, recipe: undefined },
          (dense) => compare(context, dense, sparse, options),
        );
      } finally {
        await sparse.close();
      }
      context.note(`${((performance.now() - began) / 1000).toFixed(1)} s in all`);
    });
}

/** The model with a recipe: the one that was given, the pack's own, or one made now. */
async function loadSparse(context: CliContext, options: DemoOptions): Promise<Model> {
  if (options.recipe !== undefined || (await describe(context, options.model)).recipe) {
    const model = await loadModel(context, options, "own");
    checkDial(options.recipe, options.sparsity, model);
    return model;
  }
  const { sparsity = CALIBRATED_SPARSITY } = options;
  const recipe = await withModel(context, options, async (model) => {
    const { calibrateModel } = await import("../../calibrate/calibrate.ts");
    const { defaultCalibrationText } = await import("../../calibrate/default_text.ts");
    const { text, source } = await defaultCalibrationText();
    context.note(
      `calibrating: ${model.description.name} reads ${CALIBRATION_TOKENS} tokens of ${
        source.replace("built-in ", "")
      }, ` +
        `to learn which ${percent(sparsity)} of its activations matter least`,
    );
    return await calibrateModel(model, {
      text,
      source,
      tokens: CALIBRATION_TOKENS,
      sparsity,
      dialStreams: [],
      signal: context.signal,
      onProgress: ({ phase, done, total }) => context.progress.update(phase, done, total, "tokens"),
    }).finally(() => context.progress.end());
  });
  return await loadModel(context, options, recipe);
}

async function compare(
  context: CliContext,
  dense: Model,
  sparse: Model,
  options: DemoOptions,
): Promise<void> {
  const { prompt, maxTokens } = options, { signal } = context, { json } = context.options;
  // a pack's recipe rests at 0
  const sparsity = options.sparsity ?? (sparse.sparsity || OWN_SPARSITY);
  const answer = (sparsity: number, maxTokens: number) => {
    const settings = { sparsity, maxTokens, repeatPenalty: REPEAT_PENALTY, signal },
      model = sparsity === 0 ? dense : sparse;
    return model.description.chatTemplate === null
      ? model.generate(prompt, settings)
      : model.chat([{ role: "user", content: prompt }], settings);
  };
  for (const each of [0, sparsity]) await stream(context, answer(each, WARM_UP), () => {});
  const runs: { [name: string]: Run } = {};
  if (!json) await context.print(`> ${prompt}`);
  for (const [name, each] of [["dense", 0], ["sparse", sparsity]] as const) {
    if (signal.aborted) break;
    if (!json) {
      await context.print(
        `\n${each === 0 ? "dense:" : `sparse, ${percent(each)} of the multiply-adds skipped:`}`,
      );
    }
    const run = await stream(
      context,
      answer(each, maxTokens),
      (text) => json ? undefined : context.write(text),
    );
    runs[name] = run;
    if (!json) await context.print(`\n${speedOf(run)}`);
    context.note(timingLine(each === 0 ? dense : sparse, { ...run, firstTokenMs: null }, { sparsity: each }));
  }
  const a = runs["dense"]?.result.decodeTokensPerSecond ?? null,
    b = runs["sparse"]?.result.decodeTokensPerSecond ?? null;
  const speedup = a === null || b === null ? null : b / a;
  if (json) {
    const documentOf = (model: Model, run: Run | undefined, sparsity: number) =>
      run === undefined ? null : runDocument(model, run, { sparsity });
    return await context.printJson({
      dense: documentOf(dense, runs["dense"], 0),
      sparse: documentOf(sparse, runs["sparse"], sparsity),
      speedup,
    });
  }
  if (speedup === null) return;
  await context.print(`\nsparse decodes ${speedup.toFixed(2)} times as fast as dense in this one run`);
  context.note(
    "`rsparse bench decode --recipe FILE` measures it over several; `rsparse calibrate -o FILE` makes the recipe",
  );
}

function percent(share: number): string {
  return `${Number((share * 100).toFixed(1))} %`;
}

function speedOf({ result: { tokens, decodeTokensPerSecond, measuredSparsity } }: Run): string {
  const speed = decodeTokensPerSecond === null ? "" : ` at ${decodeTokensPerSecond.toFixed(1)} tok/s`;
  const measured = measuredSparsity === null ? "" : `, measured sparsity ${measuredSparsity.toFixed(3)}`;
  return `[${tokens.length} tokens${speed}${measured}]`;
}
