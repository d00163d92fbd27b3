/**
 * `deno run -A bench/low_rank/main.ts [--runtime NAME] [--shape NAME] [--dtype NAME] [--layers N]`: what the low-rank part adds to a sparse token's
 * projections, on every engine and build. Run it on a quiet machine.
 */
import { parseArgs } from "node:util";
import { runOnEngines } from "../engines.ts";

const { values: { runtime, ...rest } } = parseArgs({
  options: {
    runtime: { type: "string" },
    shape: { type: "string" },
    dtype: { type: "string" },
    layers: { type: "string" },
  },
});
const args = Object.entries(rest).flatMap(([name, value]) => [`--${name}`, value]);
await runOnEngines("bench/low_rank/measure.ts", args, { only: runtime, relaxed: false });
