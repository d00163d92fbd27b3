/** Figure: what every accelerator did when, and what was dropped. */
import { drawPlot, type Plot } from "../../plot/draw.ts";
import { csv } from "../../plot/csv.ts";
import type { Figure } from "../../plot/figure.ts";
import type { RunResult } from "../run.ts";
import { titleOf } from "./names.ts";

/** The row of frames that no accelerator ran. */
const DROPPED = "dropped";
const LATE = "late", IN_TIME = "in time";

/**
 * Draws a timeline: a bar for each job on its accelerator, late ones with a dark end, and a cross for each frame that was dropped.
 *
 * @param label what the run is called in the picture, beside its scenario and setting
 */
export async function timelineFigure(result: RunResult, label: string = ""): Promise<Figure> {
  const rows = result.log.map((
    [model, frame, accelerator, , dispatchMs, deadlineMs, completionMs, , dropped, reason],
  ) => ({
    model,
    frame,
    row: dropped ? DROPPED : `accelerator ${accelerator}`,
    dispatchMs,
    deadlineMs,
    completionMs,
    end: dropped ? reason : completionMs > deadlineMs ? LATE : IN_TIME,
  }));
  const jobs = rows.filter(({ row }) => row !== DROPPED), drops = rows.filter(({ row }) => row === DROPPED);
  const accelerators = result.utilisation.map((_, i) => `accelerator ${i}`);
  const domain = [...accelerators, DROPPED];
  const endMs = jobs.reduce((end, { completionMs }) => Math.max(end, completionMs), result.durationMs);
  const models = [...new Set(rows.map(({ model }) => model))].sort();
  const title = `Timeline: ${titleOf(result)}`;
  const y = { field: "row", type: "nominal" as const, title: null, scale: { domain }, axis: { grid: true } };
  const x = { type: "quantitative" as const, title: "ms", scale: { domain: [0, endMs], nice: false } };
  const colour = { field: "model", type: "nominal" as const, title: null, scale: { domain: models } };
  const plot: Plot = {
    title: {
      text: title,
      subtitle: [
        `${label === "" ? "" : `${label}: `}score ${
          result.overall.toFixed(2)
        }; ${jobs.length} frames executed, ${
          jobs.filter(({ end }) => end === LATE).length
        } of them late (dark end), ${drops.length} dropped (crosses)`,
      ],
    },
    width: 1100,
    height: { step: 40 },
    layer: [
      {
        data: { values: jobs },
        mark: { type: "bar", height: 26, stroke: "#ffffff", strokeWidth: 0.5 },
        encoding: { x: { ...x, field: "dispatchMs" }, x2: { field: "completionMs" }, y, color: colour },
      },
      {
        data: { values: jobs.filter(({ end }) => end === LATE) },
        mark: { type: "tick", thickness: 2, size: 26, color: "#24292f" },
        encoding: { x: { ...x, field: "completionMs" }, y },
      },
      {
        data: { values: drops },
        mark: { type: "point", shape: "cross", angle: 45, size: 70, filled: true, opacity: 1 },
        encoding: { x: { ...x, field: "completionMs" }, y, color: colour },
      },
    ],
  };
  return {
    name: "timeline",
    title,
    svg: await drawPlot(plot, title),
    csv: csv(
      ["model", "frame", "accelerator", "dispatch_ms", "deadline_ms", "completion_ms", "end"],
      rows.map(({ model, frame, row, dispatchMs, deadlineMs, completionMs, end }) => [
        model,
        frame,
        row === DROPPED ? null : Number(row.replace(/\D+/, "")),
        dispatchMs,
        deadlineMs,
        completionMs,
        end,
      ]),
    ),
    notes: [],
  };
}
