/** Figure: the scores of some runs side by side, whole and model by model. */
import { csv } from "../../plot/csv.ts";
import { drawPlot, type Plot } from "../../plot/draw.ts";
import type { Figure } from "../../plot/figure.ts";
import type { RunResult } from "../run.ts";

/** A run and what it is called. */
export interface NamedResult {
  /** What it is called in the picture. */
  readonly name: string;
  /** The document. */
  readonly result: RunResult;
}

/** What is drawn of each, in order, from 0 to 1. */
const OF_RUN: readonly { readonly what: string; readonly of: (result: RunResult) => number }[] = [
  { what: "score", of: ({ overall }) => overall / 100 },
  { what: "hit rate", of: ({ hitRate }) => hitRate },
  { what: "drop rate", of: ({ dropRate }) => dropRate },
];
const OF_MODEL = ["rt", "energy", "qoe", "score"] as const;
const MEASURES = { rt: "real time", energy: "energy", qoe: "user experience", score: "score" } as const;

/** Draws score, hit rate and drop rate of each run, and below the parts of each model's score. */
export async function scoresFigure(runs: readonly NamedResult[]): Promise<Figure> {
  const names = runs.map(({ name }) => name),
    models = [...new Set(runs.flatMap(({ result }) => Object.keys(result.models)))];
  const whole = runs.flatMap(({ name, result }) =>
    OF_RUN.map(({ what, of }) => ({ run: name, what, value: of(result) }))
  );
  const parts = runs.flatMap(({ name, result }) =>
    Object.entries(result.models).flatMap(([model, scores]) =>
      OF_MODEL.map((part) => ({ run: name, model, what: MEASURES[part], value: scores[part] }))
    )
  );
  const value = {
    field: "value",
    type: "quantitative" as const,
    title: null,
    scale: { domain: [Math.min(0, ...parts.map((part) => part.value)), 1] },
  };
  const bars = (x: string, order: readonly string[], groups: readonly string[]): object => ({
    mark: { type: "bar" },
    encoding: {
      x: {
        field: x,
        type: "nominal",
        title: null,
        sort: [...order],
        axis: { labelAngle: x === "model" ? -25 : 0 },
      },
      xOffset: { field: "run", type: "nominal", sort: names },
      y: value,
      color: { field: "run", type: "nominal", title: null, sort: names, scale: { domain: names } },
    },
    width: { step: Math.max(8, 60 / Math.max(1, groups.length)) },
    height: 150,
  });
  const title = "Scores";
  const plot: Plot = {
    title,
    vconcat: [
      {
        title: { text: "whole runs", fontSize: 12 },
        data: { values: whole },
        ...bars("what", OF_RUN.map(({ what }) => what), names),
      },
      ...Object.values(MEASURES).map((what) => ({
        title: { text: what, fontSize: 12 },
        data: { values: parts.filter((part) => part.what === what) },
        ...bars("model", models, names),
      })),
    ] as never,
  };
  return {
    name: "scores",
    title,
    svg: await drawPlot(plot, title),
    csv: csv(
      ["run", "model", "measure", "value"],
      [
        ...whole.map((row) => [row.run, null, row.what, row.value]),
        ...parts.map((row) => [row.run, row.model, row.what, row.value]),
      ],
    ),
    notes: [],
  };
}
