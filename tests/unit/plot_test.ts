/** Plots: the same bytes in every runtime, readable text, no silent nonsense. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { drawPlot, type Plot } from "../../src/plot/draw.ts";
import { assertWellFormed } from "../support/svg.ts";

/** Logarithms, a curve, a colour scale and two clips: what engines could do differently. */
const PLOT: Plot = {
  title: { text: "A & <b>", subtitle: "s" },
  data: { values: Array.from({ length: 30 }, (_, i) => ({ i, y: 1.37 ** i, z: i / 7, p: i % 2 })) },
  facet: { field: "p", type: "nominal" },
  spec: {
    width: 100,
    height: 80,
    layer: [
      {
        mark: { type: "line", clip: true },
        encoding: {
          x: { field: "i", type: "quantitative", scale: { type: "pow", exponent: 0.7 } },
          y: { field: "y", type: "quantitative", scale: { type: "log" } },
        },
      },
      {
        mark: { type: "point", clip: true },
        encoding: {
          x: { field: "i", type: "quantitative", scale: { type: "pow", exponent: 0.7 } },
          y: { field: "y", type: "quantitative", scale: { type: "log" } },
          color: { field: "z", type: "quantitative", scale: { scheme: "viridis" } },
        },
      },
    ],
  },
};

test("drawPlot: well-formed, white behind it, named, no digit past a hundredth of a pixel", async () => {
  const svg = await drawPlot(PLOT, "A & <b>");
  assertWellFormed(svg);
  assert.match(svg, /^<svg role="img" aria-label="A &#38; &#60;b&#62;"/);
  assert.match(svg, /<rect width="\d+" height="\d+" fill="#ffffff"\/>/);
  assert.match(svg, />A &amp; &lt;b&gt;</);
  assert.doesNotMatch(svg.replace(/>[^<]*</g, "><"), /\d\.\d{3}/);
});

test("drawPlot: the bytes don't depend on what was drawn before, nor on the runtime", async () => {
  const first = await drawPlot(PLOT, "t");
  assert.equal(await drawPlot(PLOT, "t"), first);
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(first)));
  // of Deno, Node 20, Node 24, Bun and Chromium; a new version of Vega may change it
  assert.equal(
    Array.from(digest.subarray(0, 8), (byte) => byte.toString(16).padStart(2, "0")).join(""),
    "c27ec174a09db8d1",
  );
});

test("drawPlot: what Vega-Lite only warns of is an error", async () => {
  const wrong: Plot = {
    data: { values: [{ a: 1 }] },
    mark: "point",
    encoding: {
      x: {
        field: "a",
        type: "quantitative",
        axis: { grid: true },
        scale: { type: "log", padding: "x" as unknown as number, zero: true },
      },
    },
  };
  await assert.rejects(drawPlot(wrong, "t"), /^Error: Cannot draw: /);
});
