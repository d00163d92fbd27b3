/** `rsparse worker`: does the work of searches and evaluations that other machines have begun. */
import { hostname } from "node:os";
import process from "node:process";
import type { Command } from "commander";
import type { WorkJob, WorkSetup } from "../../search/jobs.ts";
import { integer } from "../model_option.ts";
import type { CliContext } from "../output.ts";

interface WorkerOptions {
  readonly queue: string;
  readonly threads?: number;
  readonly model?: string;
}

/** Adds the command. */
export function register(program: Command, context: CliContext): void {
  program.command("worker")
    .description(
      "take jobs of searches and evaluations from a queue until it is asked to end; what it holds then is given back",
    )
    .requiredOption(
      "--queue <url>",
      "where they put their jobs: redis://[[user:]password@]host[:port], or rediss://",
    )
    .option(
      "--threads <n>",
      "jobs at a time, each with a model of its own (default: one a processor)",
      integer(1, 1024),
    )
    .option(
      "-m, --model <model>",
      "take this for the model that is named, where it is not under that name here",
    )
    .action((options: WorkerOptions) => run(context, options));
}

async function run(context: CliContext, { queue, threads, model }: WorkerOptions): Promise<void> {
  const { inThreads } = await import("../../search/pool.ts"),
    { work } = await import("../../search/queue.ts");
  const { platform, signal } = context, count = threads ?? platform.processors();
  // SIGTERM is how services are ended: a success, unlike Ctrl-C
  const asked = new AbortController(), onTerm = (): void => asked.abort();
  process.on("SIGTERM", onTerm);
  signal.addEventListener("abort", onTerm, { once: true });
  context.note(`waiting for jobs, ${count} at a time; Ctrl-C ends`);
  try {
    const done = await work({
      queue,
      name: `${hostname()}-${process.pid}`,
      count,
      executor: (setup, signal) =>
        inThreads<WorkSetup, WorkJob, unknown>(count)({ ...setup, model: model ?? setup.model }, signal),
      signal: asked.signal,
      onJoin: (setup) => {
        const what = "tasks" in setup ? "an evaluation" : "a search";
        context.note(`joining ${what} with ${model ?? setup.model}, ${setup.kernels} kernels`);
      },
      onJob: (done) => context.progress.update("jobs", done, null, "done"),
    });
    context.note(`${done} jobs done`);
  } finally {
    context.progress.end();
    process.off("SIGTERM", onTerm);
  }
}
