/** Figure: how a recipe divides each projection's budget. */
import { drawPlot, type Plot } from "../plot/draw.ts";
import { PROJECTIONS } from "../model/config.ts";
import type { Recipe } from "../recipe/recipe.ts";
import { csv } from "../plot/csv.ts";
import type { Figure } from "../plot/figure.ts";
import { shortName } from "./layers.ts";

/** rho of each layer and projection. Null where it is the same everywhere: then there is nothing to see. */
export async function rhoFigure({ projections, method, sparsity }: Recipe): Promise<Figure | null> {
  if (projections.every(({ rho }) => rho === projections[0]!.rho)) return null;
  const title = "rho by layer and projection";
  const rows = projections.map((projection) => {
    const [, layer, name] = /^model\.layers\.(\d+)\..*\.(\w+)$/.exec(projection.path)!;
    return { ...projection, layer: Number(layer), projection: name! };
  });
  const plot: Plot = {
    title: {
      text: title,
      subtitle:
        `recipe ${method} for sparsity ${sparsity}: share of the kept multiply-adds spent on channels, the rest on rank`,
    },
    width: { step: 20 },
    height: { step: 24 },
    data: { values: rows.map(({ layer, projection, rho }) => ({ layer, projection, rho })) },
    mark: "rect",
    encoding: {
      x: { field: "layer", type: "ordinal", axis: { labelAngle: 0, labelOverlap: true } },
      y: { field: "projection", type: "nominal", title: null, sort: PROJECTIONS.map(shortName) },
      color: { field: "rho", type: "quantitative", scale: { scheme: "viridis", domain: [0, 1] } },
    },
  };
  return {
    name: "rho",
    title,
    svg: await drawPlot(plot, title),
    csv: csv(
      ["layer", "projection", "rho", "sparsity", "channels", "rank", "threshold"],
      rows.map(({ layer, projection, rho, sparsity, channels, rank, threshold }) => [
        layer,
        projection,
        rho,
        sparsity,
        channels,
        rank,
        threshold,
      ]),
    ),
    notes: [],
  };
}
