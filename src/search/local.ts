/** The cheapest choice of rho: for each projection alone, the one that leaves the least error of its own output. No sparse pass of the model is run. */
import { PROJECTIONS, projectionShape } from "../model/config.ts";
import { projectionShapes } from "../recipe/recipe.ts";
import { SITES } from "../runtime/forward.ts";
import { MAX_TOKENS } from "../runtime/workspace.ts";
import type { Evaluator } from "./evaluator.ts";
import { streamBefore } from "./greedy.ts";
import type { Job } from "./jobs.ts";
import { KINDS } from "./shares.ts";

/** Values of rho that are compared (rsparse.md section 8); among equals the first. */
export const LOCAL_RHOS: readonly number[] = [1, 0.95, 0.9, 0.8, 0.7, 0.5];

/** The best rho of each projection of a block, by the L2 norm of y - ŷ over all tokens of the samples run dense. */
export async function localRhos(
  evaluator: Evaluator,
  { layer, sparsity, rhos }: Extract<Job, { kind: "local" }>,
  signal?: AbortSignal,
): Promise<number[]> {
  const { engine, config } = evaluator.model;
  const inputs = await engine.inTurns(siteInputs(evaluator, layer), signal), found: number[] = [];
  const { strides } = engine.workspace, { x, y } = evaluator.vectors();
  for (const [kind, name] of PROJECTIONS.entries()) {
    const { nIn, nOut } = projectionShape(config, name), projection = KINDS * layer + kind;
    const rows = inputs[SITES.findIndex((site) => (site as readonly string[]).includes(name))]!;
    const linear = evaluator.rules.linear(layer, name), path = projectionShapes(config)[projection]!.path;
    const products = function* (
      sparse: boolean,
      each: (t: number, y: Float32Array) => void,
    ): Generator<void, void> {
      for (let t = 0; t < rows.length / nIn; t++) {
        new Float32Array(engine.memory.buffer, x, strides.widest).fill(0).set(
          rows.subarray(nIn * t, nIn * (t + 1)),
        );
        engine.workspace.newInput();
        engine.forward.project(linear, y, x, sparse);
        each(t, new Float32Array(engine.memory.buffer, y, nOut));
        if (t % MAX_TOKENS === 0) yield;
      }
    };
    const dense = new Float32Array(rows.length / nIn * nOut);
    await engine.inTurns(products(false, (t, y) => dense.set(y, nOut * t)), signal);
    let least = Infinity, best = rhos[0]!;
    for (const rho of rhos) {
      evaluator.rules.set(path, await evaluator.rule(projection, rho, sparsity));
      let error = 0;
      await engine.inTurns(
        products(true, (t, y) => {
          for (let o = 0; o < nOut; o++) error += (y[o]! - dense[nOut * t + o]!) ** 2;
        }),
        signal,
      );
      if (error < least) [least, best] = [error, rho];
    }
    found.push(best);
  }
  evaluator.clear();
  return found;
}

/** The inputs of a block's sites for all tokens, f32[tokens, nIn] each. */
function* siteInputs(evaluator: Evaluator, layer: number): Generator<void, Float32Array[]> {
  const { engine, config } = evaluator.model, { forward, memory, team, workspace: { strides } } = engine;
  const streams = yield* streamBefore(evaluator, layer);
  const nTokens = evaluator.setup.samples.flat().length;
  const widths = SITES.map((site) => projectionShape(config, site[0]).nIn);
  const inputs = widths.map((nIn) => new Float32Array(nTokens * nIn));
  let row = 0;
  for (const rows of streams) {
    const length = rows.length / strides.hidden, cache = evaluator.cache(length);
    for (let first = 0; first < length; first += MAX_TOKENS) {
      const count = Math.min(MAX_TOKENS, length - first);
      evaluator.stream(count).set(rows.subarray(strides.hidden * first, strides.hidden * (first + count)));
      forward.angles(first, count);
      team.begin("prefill", count);
      for (let site = 0; site < SITES.length; site++) {
        forward.prepare(layer, site, count);
        const { x, stride } = forward.inputOf(site), nIn = widths[site]!;
        const all = new Float32Array(memory.buffer, x, count * stride);
        for (let t = 0; t < count; t++) {
          inputs[site]!.set(all.subarray(stride * t, stride * t + nIn), nIn * (row + t));
        }
        yield* forward.finish(layer, site, first, count, cache, {
          sparseFrom: Infinity,
          exactFirst: first === 0,
        });
      }
      team.end();
      row += count;
    }
  }
  return inputs;
}
