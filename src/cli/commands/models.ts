/** `rsparse models`: what `-m` knows by name. */
import type { Command } from "commander";
import { locate } from "../model_option.ts";
import { type CliContext, formatBytes } from "../output.ts";
import { formatTable } from "../table.ts";

/** A model in the document. */
interface Listed {
  readonly name: string;
  /** `embedded`, or where it is downloaded from. */
  readonly source: string;
  readonly bytes: number | null;
  readonly parameters: number;
  readonly quantization: string;
  readonly license: string | null;
  readonly cached: boolean;
}

/** Adds the command. */
export function register(program: Command, context: CliContext): void {
  program.command("models")
    .description("list the models that go by a name")
    .action(async () => {
      const { KNOWN_MODELS } = await import("../../hub/registry.ts");
      const { cachedModel } = await import("../../hub/pull.ts");
      const list: Listed[] = [await embedded(context)];
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
        model.license ?? "",
        model.cached ? model.source === "embedded" ? "" : "cached" : "",
        model.source,
      ]);
      await context.print(
        formatTable([["name", "size", "parameters", "weights", "license", "", "source"], ...rows]),
      );
    });
}

/** The one that comes with the package; what is said of it is in its pack. */
async function embedded(context: CliContext): Promise<Listed> {
  const { EMBEDDED_MODEL } = await import("../../hub/embedded.ts");
  const { files } = await locate(context, EMBEDDED_MODEL);
  const { openModel } = await import("../../model/open.ts");
  const { parameters, quantization, license } = await openModel(files);
  return {
    name: EMBEDDED_MODEL,
    source: "embedded",
    bytes: files[0]!.blob.size,
    parameters,
    quantization,
    license,
    cached: true,
  };
}
