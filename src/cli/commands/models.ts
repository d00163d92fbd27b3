/** `rsparse models`: what `-m` knows by name. */
import type { Command } from "commander";
import { type CliContext, formatBytes } from "../output.ts";
import { formatTable } from "../table.ts";

/** Adds the command. */
export function register(program: Command, context: CliContext): void {
  program.command("models")
    .description("list the models that go by a name")
    .action(async () => {
      const { KNOWN_MODELS } = await import("../../hub/registry.ts");
      const { cachedModel } = await import("../../hub/pull.ts");
      const list = [];
      for (const model of KNOWN_MODELS) {
        const cached = await cachedModel(model, context.platform);
        const pinned = model.files.every((file) => file.bytes !== null)
          ? model.files.reduce((sum, file) => sum + file.bytes!, 0)
          : null;
        list.push({
          name: model.name,
          source: `hf:${model.repo}`,
          bytes: cached?.bytes ?? pinned,
          parameters: model.parameters,
          quantization: model.quantization,
          license: model.license,
          cached: cached !== null,
        });
      }
      if (context.options.json) return await context.printJson(list);
      const rows = list.map((model) => [
        model.name,
        model.bytes === null ? "" : formatBytes(model.bytes),
        `${(model.parameters / 1e6).toFixed(0)}M`,
        model.quantization,
        model.license,
        model.cached ? "cached" : "",
        model.source,
      ]);
      await context.print(
        formatTable([["name", "size", "parameters", "weights", "license", "", "source"], ...rows]),
      );
    });
}
