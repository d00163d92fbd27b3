/**
 * `deno run -A bench/row_major/main.ts [--runtime NAME] [--shape NAME]`: the dense int4 and int8 kernels against products over a GGUF file's own
 * blocks, row by row, on every engine and build. Run it on a quiet machine.
 */
import { parseArgs } from "node:util";
import { compileBench, runOnEngines } from "../engines.ts";

const { values } = parseArgs({ options: { runtime: { type: "string" }, shape: { type: "string" } } });
await compileBench("row_major", "bench/row_major/assembly/kernels.ts");
await runOnEngines(
  "bench/row_major/measure.ts",
  values.shape === undefined ? [] : [values.shape],
  { only: values.runtime, relaxed: true },
);
