/** Figure: the paper's figure 5 from our own run: what every accelerator style scores in every scenario, and on average. */
import { csv } from "../../plot/csv.ts";
import { drawPlot, type Plot } from "../../plot/draw.ts";
import type { Figure } from "../../plot/figure.ts";
import type { Hardware } from "../hardware.ts";
import type { Scenario } from "../scenario.ts";
import { type Cell, suiteOf } from "../sweep.ts";

/** The parts of a score, as the paper's legend has them. */
const PARTS = { rt: "real time", energy: "energy", qoe: "user experience", overall: "overall" } as const;
const AVERAGE = "average of the scenarios";

/**
 * Draws it.
 *
 * @param cells every scenario on every setting
 * @param hardware whose settings have styles, such as `A 4K`
 * @param note how the cells were made
 */
export async function figure5(
  cells: readonly Cell[],
  scenarios: readonly Scenario[],
  hardware: Hardware,
  note: string,
): Promise<Figure> {
  const settings = [...new Set(cells.map(({ setting }) => setting))];
  const named = new Map(scenarios.map(({ id, name }) => [id, name]));
  const all = [
    ...cells.map((cell) => ({ ...cell, panel: named.get(cell.scenario) ?? cell.scenario })),
    ...settings.map((setting) => ({ ...suiteOf(cells, setting), setting, panel: AVERAGE })),
  ];
  const values = all.flatMap(({ panel, setting, ...scores }) => {
    const [letter = setting, size = ""] = hardware.settings.get(setting)?.style?.split(" ") ?? [];
    return (Object.keys(PARTS) as (keyof typeof PARTS)[]).map((part) => ({
      panel,
      setting,
      letter,
      size: `${size} processing elements`.trim(),
      part: PARTS[part],
      value: scores[part],
    }));
  });
  const panels = [...new Set(values.map(({ panel }) => panel))],
    sizes = [...new Set(values.map(({ size }) => size))];
  const title = "XRBench, figure 5: scores of every accelerator style";
  const order = Object.values(PARTS);
  const plot: Plot = {
    title: { text: title, subtitle: [note] },
    vconcat: panels.map((panel, i) => ({
      title: { text: panel, fontSize: 12 },
      hconcat: sizes.map((size) => ({
        title: { text: i === 0 ? size : "", fontSize: 10, fontWeight: "normal" },
        width: 480,
        height: 90,
        data: { values: values.filter((value) => value.panel === panel && value.size === size) },
        mark: { type: "bar" },
        encoding: {
          x: { field: "letter", type: "nominal", title: null, axis: { labelAngle: 0 } },
          xOffset: { field: "part", type: "nominal", sort: order },
          y: {
            field: "value",
            type: "quantitative",
            title: null,
            scale: { domain: [0, 1] },
            axis: { tickCount: 5 },
          },
          color: { field: "part", type: "nominal", title: null, sort: order, scale: { domain: order } },
        },
      })),
    })) as never,
  };
  return {
    name: "figure5",
    title,
    svg: await drawPlot(plot, title),
    csv: csv(
      ["scenario", "setting", "style", ...Object.keys(PARTS)],
      all.map(({ panel, setting, rt, energy, qoe, overall }) => [
        panel,
        setting,
        hardware.settings.get(setting)?.style ?? null,
        rt,
        energy,
        qoe,
        overall,
      ]),
    ),
    notes: [],
  };
}
