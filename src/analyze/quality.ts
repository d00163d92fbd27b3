/** Figure: quality against sparsity, for every method that there are results of. */
import { COLOURS, drawPlot } from "../plot/draw.ts";
import { csv } from "../plot/csv.ts";
import type { Figure } from "../plot/figure.ts";
import { type QualityRun, taskOf, tasksMean } from "./quality_results.ts";

/** Past so many times the least of a panel nothing is drawn: methods that break the model would leave the others one line. */
const MOST_TIMES = 20;

const TASKS = "tasks, mean accuracy";

/** What is drawn, in order, and how a run is asked for it. */
const PANELS: readonly {
  readonly title: string;
  readonly log: boolean;
  readonly of: (run: QualityRun) => number | null | undefined;
}[] = [
  { title: "WikiText-2, perplexity", log: true, of: (run) => ofPieces(run, "wikitext2", "perplexity") },
  {
    title: "WikiText-2 after an unscored context, perplexity",
    log: true,
    of: (run) => run.context > 0 ? taskOf(run, "wikitext2")?.metrics["perplexity"] : null,
  },
  { title: "C4, perplexity", log: true, of: (run) => ofPieces(run, "c4", "perplexity") },
  { title: "C4, KL from dense, nats a token", log: true, of: (run) => ofPieces(run, "c4", "kl") },
  { title: "C4, same next token as dense", log: false, of: (run) => ofPieces(run, "c4", "agreement") },
  { title: TASKS, log: false, of: (run) => tasksMean(run)?.mean },
  { title: "LAMBADA, accuracy", log: false, of: (run) => taskOf(run, "lambada_openai")?.metrics["acc"] },
];

/** A measure of a text whose pieces are scored whole. */
function ofPieces(run: QualityRun, task: string, metric: string): number | null | undefined {
  return run.context === 0 ? taskOf(run, task)?.metrics[metric] : null;
}

/** The method, with its rho and its stream where these are not the usual ones. */
export function methodOf(
  { method, beside, rho, stream }: Pick<QualityRun, "method" | "beside" | "rho" | "stream">,
): string {
  return method + (beside ? ", beside recipes" : "") + (method === "r-sparse" ? `, rho ${rho}` : "") +
    (stream === "dense" ? ", dense stream" : "");
}

/** The method, with how it was measured where that is not the usual way; nothing of a dense run is sparse, whatever its option says. */
export function seriesOf(run: QualityRun): string {
  return methodOf(run) +
    (run.method === "dense" || run.prefill === "sparse" ? "" : `, prefill ${run.prefill}`) +
    (run.context === 0 ? "" : `, context ${run.context}`);
}

/** Skipped share that was measured, of the first task that has one; 0 for dense. */
export function skippedShare(run: QualityRun): number | null {
  if (run.method === "dense") return 0;
  for (const name of ["wikitext2", "c4"]) {
    const share = taskOf(run, name)?.measuredSparsity;
    if (share != null) return share;
  }
  return run.tasks.find(({ measuredSparsity }) => measuredSparsity !== null)?.measuredSparsity ?? null;
}

/**
 * Draws it.
 *
 * @param runs of one model and dtype, merged
 * @returns null where nothing can be drawn
 */
export async function qualityFigure(runs: readonly QualityRun[]): Promise<Figure | null> {
  // means over different tasks are not comparable: those over the most stand
  const sets = runs.map((run) => tasksMean(run)?.tasks ?? []);
  const most = sets.reduce((a, b) => b.length > a.length ? b : a, []).join();
  const points = PANELS.flatMap(({ title, log, of }) =>
    runs.flatMap((run) => {
      const value = of(run), skipped = skippedShare(run);
      if (title === TASKS && tasksMean(run)?.tasks.join() !== most) return [];
      if (value == null || skipped === null || (log && value <= 0)) return [];
      return [{
        panel: title,
        // a panel of what follows a context says so itself
        method: run.method === "dense" ? run.method : run.context > 0 ? methodOf(run) : seriesOf(run),
        asked: run.sparsity,
        skipped,
        value,
        recipe: run.recipe,
      }];
    })
  );
  if (points.every(({ method }) => method === "dense")) return null;
  // a point that is not drawn is to stretch no axis, and to have no name in the legend
  const drawn = PANELS.flatMap(({ title, log }) => {
    const own = points.filter(({ panel }) => panel === title);
    const least = own.reduce((a, { value }) => Math.min(a, value), Infinity);
    return own.filter(({ value }) => !log || value <= MOST_TIMES * least);
  });
  const lines = drawn.filter(({ method }) => method !== "dense");
  const methods = [...new Set(lines.map(({ method }) => method))];
  const shown = PANELS.filter(({ title }) => lines.some(({ panel }) => panel === title));
  const title = "Quality against sparsity";
  const domainOf = (panel: string): [number, number] => {
    const values = drawn.filter((point) => point.panel === panel).map(({ value }) => value);
    return [Math.min(...values) / 1.05, 1.05 * Math.max(...values)];
  };
  const dense = "isValid(datum.skipped) && datum.method == 'dense'";
  const plot = {
    title: {
      text: title,
      subtitle: [
        `${runs[0]!.model.name}, ${
          runs[0]!.model.dtype
        }; all tokens sparse where nothing else is said; dotted: dense`,
        `skipped: measured share of the blocks' multiply-adds, of tokens that ran sparse; above ${MOST_TIMES} times the least nothing is drawn`,
      ],
    },
    columns: 2,
    concat: shown.map(({ title, log }) => ({
      title: { text: title, fontSize: 12 },
      width: 300,
      height: 190,
      data: { values: drawn.filter(({ panel }) => panel === title) },
      layer: [
        {
          transform: [{ filter: dense }],
          mark: { type: "rule" as const, strokeDash: [2, 3] },
          encoding: { y: { field: "value", type: "quantitative" as const } },
        },
        {
          transform: [{ filter: "datum.method != 'dense'" }],
          mark: { type: "line" as const, point: true, strokeWidth: 1.5 },
          encoding: {
            x: {
              field: "skipped",
              type: "quantitative" as const,
              title: "skipped",
              axis: { format: ".0%", grid: false },
              scale: { zero: false },
            },
            y: {
              field: "value",
              type: "quantitative" as const,
              title: null,
              scale: log ? { type: "log" as const, domain: domainOf(title), nice: false } : { zero: false },
              axis: { format: "~g", tickCount: 5 },
            },
            color: {
              field: "method",
              type: "nominal" as const,
              title: null,
              legend: { labelLimit: 300 },
              scale: { domain: methods, range: methods.map((_, i) => COLOURS[i % COLOURS.length]!) },
            },
          },
        },
      ],
    })),
  };
  return {
    name: "quality",
    title,
    svg: await drawPlot(plot, title),
    csv: csv(
      ["measure", "method", "sparsity_asked", "skipped_measured", "value", "recipe_sha256"],
      points.map((
        { panel, method, asked, skipped, value, recipe },
      ) => [panel, method, asked, skipped, value, recipe]),
    ),
    notes: [],
  };
}
