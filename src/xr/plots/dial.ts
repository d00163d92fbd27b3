/** Figure: hit rate against fidelity, of fixed levels and of policies, a panel a load. */
import { csv } from "../../plot/csv.ts";
import { COLOURS, drawPlot, type Plot } from "../../plot/draw.ts";
import type { Figure } from "../../plot/figure.ts";
import { estimate } from "../dial_compare.ts";
import { type DialCell, nameOfLoad } from "../dial_sweep.ts";

const FIXED = "fixed levels";

/**
 * Draws it.
 *
 * @param note what was measured, and how
 */
export async function dialFigure(cells: readonly DialCell[], note: string): Promise<Figure> {
  const values = cells.map(({ load, policy, runs }) => {
    const of = (measure: "hitRate" | "fidelity" | "score"): ReturnType<typeof estimate> =>
      estimate(runs.map((run) => run[measure]));
    const hit = of("hitRate"), isFixed = policy.startsWith("fixed:");
    return {
      load: nameOfLoad(load),
      policy,
      kind: isFixed ? FIXED : policy,
      sparsity: isFixed ? policy.slice("fixed:".length) : "",
      fidelity: of("fidelity").mean,
      hitRate: hit.mean,
      low: hit.low,
      high: hit.high,
      score: of("score").mean,
    };
  });
  const loads = [...new Set(values.map(({ load }) => load))];
  const kinds = [...new Set(values.map(({ kind }) => kind))];
  const title = "The dial under deadlines: tokens in time against fidelity";
  const scale = { domain: [0, 1] };
  const plot: Plot = {
    title: {
      text: title,
      subtitle: [note, "bars: 95 % confidence intervals; numbers: sparsity of fixed levels"],
    },
    columns: 3,
    concat: loads.map((load) => ({
      title: { text: load, fontSize: 11 },
      width: 230,
      height: 190,
      data: { values: values.filter((value) => value.load === load) },
      encoding: {
        x: { field: "fidelity", type: "quantitative", title: "mean fidelity", scale },
        color: {
          field: "kind",
          type: "nominal",
          title: null,
          sort: kinds,
          scale: { domain: kinds, range: COLOURS.slice(0, kinds.length) },
        },
      },
      layer: [
        {
          transform: [{ filter: `datum.kind === '${FIXED}'` }],
          mark: { type: "line" },
          encoding: { y: { field: "hitRate", type: "quantitative", title: "tokens in time", scale } },
        },
        {
          mark: { type: "rule" },
          encoding: { y: { field: "low", type: "quantitative" }, y2: { field: "high" } },
        },
        {
          mark: { type: "point", filled: true },
          encoding: { y: { field: "hitRate", type: "quantitative" } },
        },
        {
          mark: { type: "text", dx: 4, dy: -8, align: "left", fontSize: 9 },
          encoding: { y: { field: "hitRate", type: "quantitative" }, text: { field: "sparsity" } },
        },
      ],
    })) as never,
  };
  return {
    name: "dial",
    title,
    svg: await drawPlot(plot, title),
    csv: csv(
      ["load", "policy", "fidelity", "hit rate", "low", "high", "score"],
      values.map(({ load, policy, fidelity, hitRate, low, high, score }) => [
        load,
        policy,
        fidelity,
        hitRate,
        low,
        high,
        score,
      ]),
    ),
    notes: [],
  };
}
