/** `rsparse eval --queue`: rows run by workers on other machines, with the results that they have here. */
import type { EvalPrefill, EvaluateOptions, RowResult, TaskInput } from "../eval/mod.ts";
import type { Model } from "../runtime/model.ts";
import type { EvaluationSetup, RowAnswer, RowsJob } from "../search/evaluation.ts";
import { inQueue } from "../search/queue.ts";
import type { RunOptions } from "./model_option.ts";

/** What of the command's options workers have to know. */
interface Asked extends Pick<RunOptions, "model" | "recipe" | "dtype" | "kv"> {
  readonly sparsity?: number;
  readonly prefill: EvalPrefill;
  readonly limit?: number;
  readonly pieceLength?: number;
  readonly context?: number;
}

/** Workers of a queue. */
export interface Workers {
  /** Runs rows of the task with this place among the inputs. */
  run(task: number): NonNullable<EvaluateOptions["runRows"]>;
  close(): Promise<void>;
}

/**
 * Puts in a queue what its workers have to know.
 *
 * @param model is loaded as theirs will be
 * @throws {Error} If nobody answers at the address.
 */
export async function openWorkers(
  address: string,
  model: Model,
  inputs: readonly TaskInput[],
  options: Asked,
  signal: AbortSignal,
): Promise<Workers> {
  const { platform } = model, { recipe, dtype, kv, sparsity, prefill, limit, pieceLength, context } = options;
  const bytesOf = async (blob: Blob): Promise<Uint8Array<ArrayBuffer>> =>
    new Uint8Array(await blob.arrayBuffer());
  const setup: EvaluationSetup = {
    ...{ model: options.model, modelHash: await model.hash(), kernels: model.info.kernels, dtype, kv },
    recipe: recipe === undefined ? null : await bytesOf(await platform.openBlob(recipe)),
    ...{ sparsity, prefill, limit, pieceLength, context },
    tasks: await Promise.all(
      inputs.map(async ({ task, file, blob }) => ({ name: task.name, file, bytes: await bytesOf(blob) })),
    ),
  };
  const executor = await inQueue<EvaluationSetup, RowsJob, RowAnswer>(address)(setup, signal);
  return {
    run: (task) => async (range) =>
      (await executor.run({ kind: "rows", task, ...range }, signal)).map((answer): RowResult => {
        if ("failed" in answer) throw new Error(answer.failed);
        return answer;
      }),
    close: () => executor.close(),
  };
}
