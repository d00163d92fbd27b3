/** Pictures of runs: well-formed, with what they should show, the same bytes in every runtime. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { builtinHardware, builtinScenario, builtinScenarios, runScenario, sweep } from "../../src/xr/mod.ts";
import { type Figure, figure5, scoresFigure, timelineFigure } from "../../src/xr/plots.ts";
import { assertWellFormed } from "../support/svg.ts";

const hardware = await builtinHardware(), social = await builtinScenario("social_interactionA");

async function digestOf({ svg, csv }: Figure): Promise<string> {
  const bytes = new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(svg + csv)));
  return Array.from(bytes.subarray(0, 6), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

test("timelineFigure: a row for each accelerator, a bar for each job, a cross for each drop", async () => {
  const { result } = runScenario(social, "Dual_4K__WS_OS", hardware, { mode: "corrected" });
  const figure = await timelineFigure(result, "a <run>");
  assertWellFormed(figure.svg);
  for (
    const text of [
      "accelerator 0",
      "accelerator 1",
      "dropped",
      "a &lt;run&gt;: score 25.70; 95 frames executed, 52 of them late",
    ]
  ) {
    assert.ok(figure.svg.includes(text), text);
  }
  const rows = figure.csv.trim().split("\n").slice(1).map((line) => line.split(","));
  assert.equal(rows.length, result.log.length);
  assert.equal(rows.filter(([, , accelerator]) => accelerator === "").length, 31);
  // in this order: bars, ends of late ones, crosses
  const marks = figure.svg.split(/<g [^>]*class="mark-(?:rect|symbol)[^"]*layer_\d_marks"/).slice(1)
    .map((part) => part.split("</g>")[0]!.match(/<path /g)?.length ?? 0);
  assert.deepEqual(marks, [95, 52, 31]);
  assert.equal(await digestOf(figure), "f74588b3f5d0");
});

test("timelineFigure: nothing dropped, nothing late, nothing at all", async () => {
  const easy =
    runScenario({ ...social, models: social.models.slice(2, 3) }, "Single_8K__WS", hardware).result;
  assertWellFormed((await timelineFigure(easy)).svg);
  assertWellFormed((await timelineFigure({ ...easy, log: [] })).svg);
});

test("scoresFigure: runs side by side, whole and by model", async () => {
  const runs = (["compat", "corrected"] as const).map((mode) => ({
    name: mode,
    result: runScenario(social, "Single_4K__WS", hardware, { mode }).result,
  }));
  const figure = await scoresFigure(runs);
  assertWellFormed(figure.svg);
  for (const text of ["compat", "corrected", "hit rate", "user experience", "GE_FBNet_C"]) {
    assert.ok(figure.svg.includes(text), text);
  }
  // three measures of each run, four of each model
  assert.equal(figure.csv.trim().split("\n").length, 1 + 2 * 3 + 2 * 4 * 4);
  assert.ok(figure.csv.includes("compat,,score,0.610295"));
  assert.equal(await digestOf(figure), "84bc419944bf");
});

test("figure5: a panel for each scenario and size, and the average", async () => {
  const scenarios = (await builtinScenarios()).slice(0, 2),
    settings = ["Single_4K__WS", "Dual_4K__WS_WS", "Single_8K__WS"];
  const figure = await figure5(
    [...sweep({ scenarios, settings, hardware, seeds: [1] })],
    scenarios,
    hardware,
    "seed 1",
  );
  assertWellFormed(figure.svg);
  for (
    const text of [
      "Social Interaction A",
      "average of the scenarios",
      "4K processing elements",
      "8K processing elements",
    ]
  ) {
    assert.ok(figure.svg.includes(text), text);
  }
  const rows = figure.csv.trim().split("\n");
  assert.equal(rows.length, 1 + 3 * 3);
  assert.ok(rows[1]!.startsWith("Social Interaction A,Single_4K__WS,A 4K,0.88147"));
  assert.equal(await digestOf(figure), "8acf2a4bf7d1");
});
