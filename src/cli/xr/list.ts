/** `rsparse xr list`. */
import {
  builtinModels,
  builtinScenarios,
  countLayers,
  extensionScenarios,
  type Scenario,
  SWITCH_NAMES,
  SWITCHES,
} from "../../xr/mod.ts";
import type { CliContext } from "../output.ts";
import { formatTable } from "../table.ts";
import { readHardware } from "./sources.ts";

/** Prints what there is. */
export async function list(context: CliContext, options: { readonly hardware?: string }): Promise<void> {
  const hardware = await readHardware(context, options.hardware);
  const document = {
    scenarios: await builtinScenarios(),
    extensions: await extensionScenarios(),
    settings: [...hardware.settings].map(([id, setting]) => ({
      id,
      style: setting.style ?? null,
      accelerators: setting.accelerators.map((kind) => {
        const { pes, nocBandwidth, dataflow } = hardware.accelerators.get(kind)!;
        return { kind, pes: pes ?? null, nocBandwidth: nocBandwidth ?? null, dataflow: dataflow ?? null };
      }),
    })),
    models: (await builtinModels()).map(({ layers, ...model }) => ({
      ...model,
      layers: layers.length,
      ...countLayers(layers),
    })),
    switches: SWITCH_NAMES.map((name) => ({ name, ...SWITCHES[name] })),
  };
  if (context.options.json) return await context.printJson(document);
  const giga = (n: number): string => (n / 1e9).toFixed(3);
  const tables = [
    [
      ["scenario", "name", "models: frames a second, and after what at which probability"],
      ...document.scenarios.map(scenarioRow),
    ],
    [
      ["ours, not XRBench's", "name", "models; tokens of a reply, and their deadlines"],
      ...document.extensions.map(scenarioRow),
    ],
    [
      ["setting", "style", "accelerators"],
      ...document.settings.map(({ id, style, accelerators }) => [
        id,
        style ?? "",
        accelerators.map(({ kind, pes, dataflow }) => pes === null ? kind : `${dataflow ?? kind} ${pes}`)
          .join(", "),
      ]),
    ],
    [
      ["model", "task", "layers", "GMAC as encoded", "realistic"],
      ...document.models.map(({ name, task, taskName, layers, macsValid, macsRealistic }) => [
        name,
        `${task} ${taskName}`,
        String(layers),
        giga(macsValid),
        giga(macsRealistic),
      ]),
    ],
    [
      ["switch", "on, as the harness", "off, corrected"],
      ...document.switches.map(({ name, harness, corrected }) => [name, harness, corrected]),
    ],
  ];
  await context.print(tables.map(formatTable).join("\n\n"));
}

function scenarioRow({ id, name, models }: Scenario): string[] {
  return [
    id,
    name,
    models.map(({ name, fps, dependencies, probability, reply }) =>
      `${name} ${fps}` +
      (dependencies.length > 0 ? ` (after ${dependencies.join(", ")}: ${probability})` : "") +
      (reply === undefined
        ? ""
        : `: ${reply.tokens} tokens after ${reply.prompt}, the first in ${reply.ttftMs} ms, then ${reply.tokenRate} a second`)
    ).join(", "),
  ];
}
